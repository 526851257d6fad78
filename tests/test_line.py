"""The waiting line: dialogues of visitors, operators and processes with it."""

import asyncio
from dataclasses import replace

import pytest

from queue_backend.errors import (
    BadInput,
    LineClosed,
    LineFull,
    NotFound,
    Unavailable,
    WrongState,
)
from queue_backend.people.roster import Gate, Roster, Words
from queue_backend.people.rules import Rules
from queue_backend.people.ticket import State
from tests.people_cases import INES, Room, TroubledLedger

SORRY = Words("Closed for today", "今天关门")
REQUEST = "request-0001"


@pytest.fixture
def room(tmp_path, clock):
    opened = Room(tmp_path, clock)
    yield opened
    opened.close()


@pytest.fixture
async def line(room):
    await room.line.refresh()
    return room.line


# Taking a number


async def test_a_ticket_says_where_its_owner_stood_at_first(room):
    await room.fill(3)
    ticket = (await room.take("  张伟 ")).ticket
    assert (ticket.line, ticket.number, ticket.name) == ("desk", 4, "张伟")
    assert (ticket.joined_ahead, ticket.state) == (3, State.WAITING)
    assert ticket.joined_at == ticket.stamped_at == int(room.clock.wall())


async def test_people_who_join_together_travel_in_one_change(room, line):
    """A hundred joins: the first goes alone, all who came meanwhile go with the second."""
    before = room.store.calls["cas"]
    visitors = await room.fill(100)
    assert sorted(visitor.number for visitor in visitors) == list(range(1, 101))
    assert line.changes.batches <= 3
    assert room.store.calls["cas"] - before <= 3
    assert room.ledger.order.count("record") <= 3


async def test_verbs_that_arrive_together_travel_in_one_change(room, line):
    visitors = await room.fill(60)
    batches = line.changes.batches
    await asyncio.gather(*(visitor.act("leave") for visitor in visitors))
    assert line.changes.batches - batches <= 2
    assert all(visitor.state is State.LEFT for visitor in visitors)


async def test_one_who_is_refused_spoils_nothing_for_those_who_travel_along(room):
    visitors = await room.fill(4)
    await visitors[1].act("leave")
    outcomes = await asyncio.gather(
        *(visitor.act("leave") for visitor in visitors), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(WrongState) == 1
    assert isinstance(outcomes[1], WrongState)


async def test_a_repeated_request_gets_the_same_ticket(room):
    first = await room.take("Ada", REQUEST)
    await room.fill(2)
    again = await room.take("Ada", REQUEST)
    assert again.ticket == first.ticket
    assert (await room.take("Ada", "request-0002")).number == 4


async def test_requests_repeated_at_once_get_one_ticket(room):
    """An impatient finger on the button."""
    visitors = await asyncio.gather(*(room.take("Ada", REQUEST) for _ in range(5)))
    assert {visitor.number for visitor in visitors} == {1}
    assert len({visitor.ticket.id for visitor in visitors}) == 1


async def test_requests_repeated_at_two_processes_at_once_get_one_ticket(room):
    other = room.start()
    visitors = await asyncio.gather(
        *(room.take("Ada", REQUEST, process) for process in (room.process, other) * 3)
    )
    assert {visitor.number for visitor in visitors} == {1}
    assert len({visitor.ticket.id for visitor in visitors}) == 1


async def test_two_processes_give_no_number_twice(room):
    other = room.start()
    visitors = await asyncio.gather(
        *(room.take("Ada", None, process) for process in (room.process, other) * 30)
    )
    assert sorted(visitor.number for visitor in visitors) == list(range(1, 61))


@pytest.mark.parametrize(
    ("asked", "error", "code"),
    [
        (("", "look-up-phone", REQUEST), BadInput, "name-empty"),
        (("Ada", "sell-fish", REQUEST), NotFound, "service-unknown"),
        (("Ada", None, REQUEST), NotFound, "service-unknown"),
        (("Ada", "look-up-phone", ""), BadInput, "request-id"),
        (("Ada", "look-up-phone", "short"), BadInput, "request-id"),
        (("Ada", "look-up-phone", "a b c d e f g h"), BadInput, "request-id"),
        (("Ada", "look-up-phone", REQUEST + "\n"), BadInput, "request-id"),
        (("Ada", "look-up-phone", "x" * 65), BadInput, "request-id"),
        (("Ada", "look-up-phone", 12345678), BadInput, "request-id"),
    ],
)
async def test_what_does_not_read_takes_no_number(room, line, asked, error, code):
    with pytest.raises(error) as refused:
        await line.take(*asked)
    assert refused.value.code == code
    assert (await line.refresh()).next_number == 1


async def test_a_refused_request_may_be_sent_again_at_once(room, line):
    await line.close(INES, SORRY)
    for _ in range(2):
        with pytest.raises(LineClosed):
            await room.take("Ada", REQUEST)
    await line.open(INES)
    assert (await room.take("Ada", REQUEST)).number == 1


async def test_of_more_people_than_there_is_room_for_the_rest_is_told(tmp_path, clock):
    room = Room(tmp_path, clock, Rules(max_waiting=5))
    outcomes = await asyncio.gather(
        *(room.take("Ada", f"request-{n:04}") for n in range(8)), return_exceptions=True
    )
    told = [outcome for outcome in outcomes if isinstance(outcome, LineFull)]
    assert len(told) == 3
    assert (await room.line.refresh()).next_number == 6
    await room.line.set_places(INES, 2)
    await room.line.call_next(INES)
    for n, outcome in enumerate(outcomes):
        if outcome is told[0]:
            assert (await room.take("Ada", f"request-{n:04}")).number == 6
    room.close()


# A number is durable before anybody is told


async def test_the_mark_is_in_the_ledger_before_a_number_is_told(room, line):
    room.ledger.go_on.clear()
    taking = asyncio.create_task(room.take())
    await room.ledger.asked_to_record.wait()
    await asyncio.sleep(0.02)
    assert not taking.done()
    assert (await room.book.recall("desk")).high_water == 0
    room.ledger.go_on.set()
    assert (await taking).number == 1
    assert (await room.book.recall("desk")).high_water == 1


async def test_without_the_ledger_no_number_is_told(room, line):
    room.ledger.out_of_order = True
    with pytest.raises(Unavailable, match="out of order"):
        await room.take("Ada", REQUEST)
    room.ledger.out_of_order = False
    assert (await room.take("Ada", REQUEST)).number == 2, "1 may have been given: never again"


async def test_without_the_store_no_number_is_told(room, line):
    room.store.out_of_order = True
    with pytest.raises(Unavailable):
        await room.take("Ada", REQUEST)
    room.store.out_of_order = False
    assert (await room.take("Ada", REQUEST)).number == 1


async def test_a_change_whose_answer_was_lost_is_unknown_and_gives_no_number_twice(room, line):
    room.store.fail_after["cas"] = 1
    with pytest.raises(Unavailable):
        await room.take("Ada", REQUEST)
    again = await room.take("Ada", REQUEST)
    assert again.number == 2
    assert (await room.line.refresh()).state(1) is State.WAITING, "until it falls silent"


async def test_a_process_held_before_its_ledger_answers_tells_no_number_that_was_given_again(
    room, line
):
    """kill -STOP between the change and the mark, a flush, a join elsewhere, kill -CONT."""
    room.ledger.go_on.clear()
    held = asyncio.create_task(room.take("Ada"))
    await room.ledger.asked_to_record.wait()
    room.store.lose_everything()
    other = room.start(ledger=room.book)
    given = {(await room.take("Bob", None, other)).number}
    room.ledger.go_on.set()
    try:
        given.add((await held).number)
    except Unavailable:
        return
    assert len(given) == 2, "both hold the same number"


async def test_a_process_held_while_it_makes_the_roster_anew_gives_no_number_again(room):
    """It read the marks before the numbers were given, and its roster lands after a loss."""
    late = room.start(ledger=TroubledLedger(room.book))
    late.ledger.tell.clear()
    held = asyncio.create_task(late.line.refresh())
    await late.ledger.recalled.wait()
    given = [visitor.number for visitor in await room.fill(3)]
    room.store.lose_everything()
    late.ledger.tell.set()
    await held
    given.append((await room.take("Bob", None, late)).number)
    assert len(set(given)) == 4, "a number was given twice"


# Standing in line


async def test_a_position_is_one_more_than_those_ahead(room):
    visitors = await room.fill(6)
    await room.pass_time(1, visitors)
    for at, visitor in enumerate(visitors):
        standing = await visitor.poll()
        expected = (0, 0) if at < 3 else (at, 5 - at)
        assert (standing.ahead, standing.behind) == expected
    assert [each.number for each in visitors[5].last.neighbours] == [1, 2, 3, 4, 5]
    assert [each.state for each in visitors[5].last.neighbours][2:] == [
        State.CALLED,
        State.WAITING,
        State.WAITING,
    ]


async def test_a_poll_asks_no_store_and_no_ledger(room):
    visitors = await room.fill(20)
    await room.pass_time(1, visitors)
    room.store.out_of_order = room.ledger.out_of_order = True
    room.store.calls.clear()
    for visitor in visitors:
        await visitor.poll()
    room.line.public()
    assert not room.store.calls


async def test_the_heartbeats_of_a_second_travel_together(room, line):
    visitors = await room.fill(200)
    await room.pass_time(1)
    room.store.calls.clear()
    batches = line.beats.batches
    for visitor in visitors * 3:
        await visitor.poll()
    await line.round()
    assert line.beats.batches - batches == 1
    assert room.store.calls["touch_many"] == 1
    assert room.store.calls["cas"] == 0


async def test_who_has_just_joined_needs_no_heartbeat(room, line):
    visitors = await room.fill(20)
    for visitor in visitors:
        await visitor.poll()
    room.store.calls.clear()
    await line.round()
    assert room.store.calls["touch_many"] == 0


async def test_a_process_that_does_not_know_a_ticket_asks_once(room):
    visitor = await room.take()
    other = room.start()
    assert (await visitor.poll(other)).state is State.WAITING
    room.store.out_of_order = True
    assert (await visitor.poll(other)).state is State.WAITING


async def test_before_the_roster_was_read_once_the_store_decides(room):
    room.store.out_of_order = True
    with pytest.raises(Unavailable):
        room.line.public()
    with pytest.raises(Unavailable):
        await room.line.refresh()


async def test_a_paper_is_stamped_anew_each_minute_and_when_its_state_changes(room):
    first, second, *_ = visitors = await room.fill(4)
    assert not (await first.poll()).stamped
    room.clock.tick(44)
    assert not (await second.poll()).stamped
    await room.pass_time(1, visitors[3:])
    standing = await second.poll()
    assert standing.stamped
    assert standing.ticket.stamped_at == int(room.clock.wall())
    assert standing.ticket.state is State.CALLED
    assert not (await second.poll()).stamped


async def test_nobody_sees_a_whole_name(room):
    _, second = await room.take("Karen Nolan"), await room.take("张伟")
    assert [each.name for each in (await second.poll()).neighbours] == ["K***n"]
    third = await room.take("Bob", None, room.start())
    assert [each.name for each in (await third.poll()).neighbours] == ["", ""], "not learned yet"
    await third.process.line.round()
    assert [each.name for each in (await third.poll()).neighbours] == ["K***n", "张*"]


# At the desk


async def test_a_whole_visit(room):
    (ada,) = await room.fill(1)
    await room.pass_time(1, [ada])
    assert ada.last.state is State.WAITING
    assert (await ada.poll()).state is State.CALLED
    assert ada.last.answer.left_seconds == pytest.approx(120, abs=1)
    assert (await ada.act("extend")).answer.extends_left == 9
    assert (await ada.act("confirm")).state is State.SERVING
    assert (await ada.act("turn")).desk.total_seconds == 300
    assert (await ada.act("finish")).state is State.DONE
    assert ada.last.poll.in_seconds == 0, "no need to ask again"


async def test_saying_it_twice_changes_nothing(room):
    (ada,) = await room.fill(1)
    await room.pass_time(1, [ada])
    for verb, state in (("confirm", State.SERVING), ("finish", State.DONE)):
        for _ in range(2):
            assert (await ada.act(verb)).state is state
    assert len(room.roster.visits) == 1


async def test_a_turn_is_only_for_who_is_at_the_desk_by_the_newest_roster(room):
    ada, bob, *_ = visitors = await room.fill(4)
    await room.pass_time(1, visitors)
    await ada.act("confirm")
    with pytest.raises(WrongState, match="no-turn"):
        await visitors[3].act("turn")
    other = room.start()
    await other.line.refresh()
    await room.line.remove(INES, ada.number)
    with pytest.raises(WrongState, match="no-turn"):
        await ada.act("turn", other)


async def test_a_job_put_while_the_place_was_lost_still_ends_the_visit(room):
    (ada,) = await room.fill(1)
    await room.pass_time(1, [ada])
    await ada.act("confirm")
    await room.line.set_aside(INES, ada.number)
    assert (await ada.act("finish")).state is State.DONE


async def test_a_rejected_visit_goes_on_at_the_desk_even_when_the_roster_forgot_it(room):
    (ada,) = await room.fill(1)
    await room.pass_time(1, [ada])
    await ada.act("confirm")
    await ada.act("finish")
    await room.pass_time(100)
    assert room.roster.state(ada.number) is None
    assert (await ada.poll()).state is State.DONE
    assert (await ada.act("retry")).state is State.SERVING
    assert ada.number not in await room.tombs()


# Endings


async def test_undo_gives_the_place_back_within_thirty_seconds(room):
    ada, bob, cem, dan, eve = visitors = await room.fill(5)
    await room.pass_time(1, visitors)
    await room.line.pause(INES, SORRY)
    await dan.act("leave")
    assert dan.last.undo_left_seconds == pytest.approx(30, abs=1)
    await room.pass_time(28, visitors[:3])
    assert (await dan.act("undo")).ahead == 3
    await dan.act("leave")
    await room.pass_time(31, [ada])
    with pytest.raises(WrongState, match="undo-over"):
        await dan.act("undo")


async def test_who_left_has_a_tombstone_and_an_undo_takes_it_away(room):
    visitors = await room.fill(5)
    await visitors[4].act("leave")
    assert await room.tombs() == {5: State.LEFT}
    await visitors[4].act("undo")
    assert await room.tombs() == {}


async def test_an_ending_is_told_long_after_the_roster_forgot_it(room):
    visitors = await room.fill(6)
    await room.pass_time(1, visitors)
    await visitors[0].act("confirm")
    await visitors[0].act("finish")
    await visitors[4].act("leave")
    await room.line.remove(INES, 6, SORRY)
    endings = {1: State.DONE, 5: State.LEFT, 6: State.REMOVED}
    await room.pass_time(120)
    assert [room.roster.state(number) for number in endings] == [None] * 3
    for visitor in visitors:
        if visitor.number in endings:
            # By an old paper: the browser heard nothing of its ending.
            standing = await visitor.poll()
            assert standing.state is endings[visitor.number]
            with pytest.raises(WrongState, match="not-in-line"):
                await visitor.act("give_way")
    assert visitors[5].last.reason == SORRY


async def test_whoever_expired_has_a_tombstone(room):
    ada, bob = await room.fill(2)
    await room.line.set_aside(INES, ada.number)
    await room.pass_time(1000, [bob])
    assert (await room.tombs())[ada.number] is State.EXPIRED
    assert (await ada.poll()).state is State.EXPIRED


async def test_one_return_out_of_a_crowd_aside_looks_at_one_and_not_at_the_crowd(room, monkeypatch):
    """Each return once looked at everybody aside, to find who had expired: with a hundred
    thousand aside it held up every page for a fifth of a second."""
    visitors = await room.fill(1_000)
    await room.pass_time(1)
    await room.line.sweep(
        room.roster.epoch,
        away=[],
        silent=range(11, 1_001),
        suspect=frozenset(),
        heard=[],
        work=None,
        thaw=False,
    )
    assert room.roster.count_aside() == 990
    looked_at: list[int] = []
    told = Roster.state

    def state(roster, number):
        looked_at.append(number)
        return told(roster, number)

    monkeypatch.setattr(Roster, "state", state)
    await visitors[500].act("come_back")
    assert len(looked_at) < 50


async def test_after_closing_every_ticket_that_waited_is_void(room, line):
    visitors = await room.fill(5)
    await room.pass_time(1, visitors)
    await visitors[0].act("confirm")
    await line.close(INES, SORRY, opens_at="08:30")
    assert (await visitors[0].poll()).state is State.SERVING
    for visitor in visitors[1:]:
        assert (await visitor.poll()).state is State.VOID
    with pytest.raises(LineClosed):
        await room.take()
    await line.open(INES)
    assert (await visitors[4].poll()).state is State.VOID
    assert (await room.take()).number == 6


# What operators do


async def test_an_act_is_in_the_audit_before_it_takes_effect(room, line):
    await room.fill(2)
    room.ledger.order.clear()
    await line.remove(INES, 2, SORRY, seen="waiting")
    assert room.ledger.order == ["intend", "record", "conclude"]
    (row,) = await room.book.recent_actions("desk")
    assert (row.who, row.address, row.action, row.number) == ("ines", "10.0.0.7", "remove", 2)
    assert (row.before, row.after, row.outcome) == ("waiting", "removed", "done")
    assert row.reason == "Closed for today / 今天关门"
    assert row.at == room.clock.wall()


OPERATIONS = {
    "open": lambda line: line.open(INES),
    "pause": lambda line: line.pause(INES, SORRY),
    "resume": lambda line: line.resume(INES),
    "drain": lambda line: line.drain(INES),
    "close": lambda line: line.close(INES),
    "places": lambda line: line.set_places(INES, 7),
    "announce": lambda line: line.announce(INES, SORRY),
    "call-next": lambda line: line.call_next(INES),
    "call": lambda line: line.call(INES, 5),
    "recall": lambda line: line.recall(INES, 2),
    "extend": lambda line: line.grant(INES, 2),
    "aside": lambda line: line.set_aside(INES, 5),
    "return": lambda line: line.put_back(INES, 6),
    "move": lambda line: line.move(INES, 5, 1),
    "remove": lambda line: line.remove(INES, 5),
    "finish": lambda line: line.complete(INES, 1),
}


@pytest.fixture
async def busy(room):
    """1 at the desk, 2 and 3 called, 4, 5 and 7 waiting, 6 aside."""
    visitors = await room.fill(7)
    await room.line.set_aside(INES, 6)
    await room.pass_time(1, visitors)
    await visitors[0].act("confirm")
    return room


@pytest.mark.parametrize("action", OPERATIONS)
async def test_what_the_audit_refuses_does_not_happen(busy, action):
    before = busy.roster
    busy.ledger.out_of_order = True
    with pytest.raises(Unavailable):
        await OPERATIONS[action](busy.line)
    assert await busy.line.refresh() == before


@pytest.mark.parametrize("action", OPERATIONS)
async def test_every_act_is_audited_under_its_name(busy, action):
    await OPERATIONS[action](busy.line)
    newest = (await busy.book.recent_actions("desk", limit=1))[0]
    assert (newest.action, newest.outcome) == (action, "done")


async def test_an_act_that_is_refused_is_in_the_audit_with_its_code(busy):
    with pytest.raises(WrongState):
        await busy.line.complete(INES, 4)
    with pytest.raises(NotFound, match="ticket-unknown"):
        await busy.line.remove(INES, 99)
    newest, before = await busy.book.recent_actions("desk", limit=2)
    assert (newest.outcome, before.outcome) == ("ticket-unknown", "not-serving")


async def test_an_act_on_what_the_operator_no_longer_sees_is_refused(busy):
    for act in (
        lambda: busy.line.call(INES, 5, seen="aside"),
        lambda: busy.line.recall(INES, 2, seen="waiting"),
        lambda: busy.line.grant(INES, 2, seen="serving"),
        lambda: busy.line.set_aside(INES, 5, seen="called"),
        lambda: busy.line.put_back(INES, 6, seen="waiting"),
        lambda: busy.line.move(INES, 5, 1, seen="called"),
        lambda: busy.line.remove(INES, 5, seen="called"),
        lambda: busy.line.complete(INES, 1, seen="called"),
    ):
        before = busy.roster
        with pytest.raises(WrongState, match="state-changed"):
            await act()
        assert await busy.line.refresh() == before


@pytest.mark.parametrize("places", [-1, 1000, 2.0, True, "2", None])
async def test_places_are_a_number_from_0_to_999(line, places):
    with pytest.raises(BadInput, match="places"):
        await line.set_places(INES, places)


@pytest.mark.parametrize("position", [0, -3, 1.0, True, "1", None])
async def test_a_position_is_a_number_from_1(busy, position):
    with pytest.raises(BadInput, match="position"):
        await busy.line.move(INES, 5, position)


async def test_more_people_on_purpose_by_calling_next(busy):
    assert await busy.line.call_next(INES) == 4
    assert busy.roster.numbers(State.CALLED) == [2, 3, 4]


async def test_the_overview_shows_the_desk_then_the_called_then_the_line_then_aside(busy):
    overview = await busy.line.overview()
    assert [row.number for row in overview.rows] == [1, 2, 3, 4, 5, 7, 6]
    assert [row.position for row in overview.rows] == [None, None, None, 1, 2, 3, None]
    assert (overview.total, overview.aside, overview.marshal) == (7, 1, "process-1")
    assert [row.name for row in overview.rows][:2] == ["Visitor 0", "Visitor 1"]
    assert [row.number for row in (await busy.line.overview(2, 2)).rows] == [3, 4]
    assert [row.number for row in (await busy.line.overview(search="visitor 6")).rows] == [7]
    assert [row.number for row in (await busy.line.overview(search="7")).rows] == [7]


# Losses


async def test_a_flush_is_made_good_by_what_a_process_still_holds(room, line):
    visitors = await room.fill(8)
    await room.pass_time(1, visitors)
    await visitors[0].act("confirm")
    await line.move(INES, 8, 1)
    before = room.roster
    room.store.lose_everything()
    after = await line.refresh()
    assert after.generation != before.generation
    assert after.version > before.version
    assert not after.frozen
    assert (list(after.order), after.seats) == (list(before.order), before.seats)
    await room.pass_time(1, visitors)
    assert [v.state for v in visitors[:3]] == [State.SERVING, State.CALLED, State.CALLED]
    assert (await room.take()).number == 9


async def test_a_restart_of_everything_is_made_good_from_the_checkpoint(room):
    visitors = await room.fill(8)
    await room.pass_time(1, visitors)
    await visitors[0].act("confirm")
    await visitors[7].act("leave")
    before = room.roster
    room.kill(room.process)
    room.store.lose_everything()
    room.process = room.start()
    after = await room.line.refresh()
    assert not after.frozen
    assert (list(after.order), after.seats.keys()) == (list(before.order), before.seats.keys())
    await room.pass_time(1, visitors)
    assert visitors[7].state is State.LEFT
    assert (await room.take()).number == 9


async def test_of_all_that_is_held_the_newest_is_taken(room):
    """A process that was asleep holds an older roster than the checkpoint."""
    visitors = await room.fill(3)
    asleep = room.start()
    await asleep.line.refresh()
    visitors += await room.fill(3)
    await visitors[1].act("leave")
    room.store.lose_everything()
    roster = await asleep.line.refresh()
    assert list(roster.order) == [1, 3, 4, 5, 6]


async def test_only_the_browsers_tickets_are_left(room, clock):
    """The line freezes, fills up again in order, calls nobody meanwhile, and then goes on."""
    visitors = await room.fill(9)
    await room.pass_time(2, visitors)
    await visitors[0].act("confirm")
    await room.pass_time(1, visitors)
    await room.lose_all_but_the_marks()
    back = [visitors[n] for n in (7, 3, 0, 8, 5)]
    await room.pass_time(20, back)
    assert room.line.public().frozen
    assert room.roster.numbers(State.SERVING) == [1]
    assert list(room.roster.order) == [4, 6, 8, 9]
    newcomer = await room.take()
    assert newcomer.number == 10, "above every number that was ever shown"
    everybody = [*visitors, newcomer]
    await room.pass_time(room.rules.freeze_seconds - 22, everybody)
    assert room.roster.numbers(State.CALLED) == []
    assert list(room.roster.order) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    await room.pass_time(4, everybody)
    assert not room.line.public().frozen
    assert room.roster.numbers(State.CALLED) == [2, 3]


async def test_somebody_entered_as_waiting_by_an_old_paper_is_back_at_the_desk_with_the_newest(
    room,
):
    (ada,) = await room.fill(1)
    old = ada.ticket
    await room.pass_time(1, [ada])
    await ada.act("confirm")
    await room.lose_all_but_the_marks()
    assert (await room.line.stand(old)).state is State.WAITING
    assert (await ada.poll(room.process)).state is State.SERVING


async def test_whoever_had_ended_does_not_come_back_after_a_loss(room):
    """Not with a paper from before the ending either."""
    visitors = await room.fill(5)
    await room.pass_time(1, visitors)
    papers = {}
    for visitor, verb in ((visitors[0], "finish"), (visitors[1], "leave")):
        await visitor.act("confirm")
        papers[visitor.ticket] = State.DONE if verb == "finish" else State.LEFT
        await visitor.act(verb)
    papers[visitors[4].ticket] = State.REMOVED
    await room.line.remove(INES, 5)
    process = await room.lose_all_but_the_marks()
    for ticket, ending in papers.items():
        assert (await process.line.stand(ticket)).state is ending
    assert list((await process.line.refresh()).order) == []


async def test_a_paper_that_says_ended_itself_does_not_bring_anybody_back(room):
    (ada,) = await room.fill(1)
    ended = replace(ada.ticket, state=State.DONE)
    process = await room.lose_all_but_the_marks()
    assert (await process.line.stand(ended)).state is State.DONE


async def test_whoever_undid_comes_back_after_a_loss(room):
    ada, bob = await room.fill(2)
    await bob.act("leave")
    await bob.act("undo")
    process = await room.lose_all_but_the_marks()
    assert (await bob.poll(process)).state is State.WAITING


async def test_a_void_ticket_stays_void_after_a_loss(room, line):
    visitors = await room.fill(3)
    await line.close(INES, SORRY)
    await line.open(INES)
    new = await room.take()
    process = await room.lose_all_but_the_marks()
    for visitor in visitors:
        assert (await visitor.poll(process)).state is State.VOID
    assert (await new.poll(process)).state is State.WAITING


# What an operator does to the line itself, and what then must be so of a roster: each outlives
# the loss of everything but the database.
SWITCHES = {
    "open": (lambda line: line.open(INES), {"gate": Gate.OPEN}),
    "pause": (lambda line: line.pause(INES, SORRY), {"gate": Gate.PAUSED, "said": SORRY}),
    "drain": (lambda line: line.drain(INES, SORRY), {"gate": Gate.DRAINING, "said": SORRY}),
    "close": (
        lambda line: line.close(INES, SORRY, "08:30"),
        {"gate": Gate.CLOSED, "said": SORRY, "opens_at": "08:30"},
    ),
    "places": (lambda line: line.set_places(INES, 0), {"places": 0}),
    "announce": (
        lambda line: line.announce(INES, SORRY),
        {"announcement": SORRY, "announcement_id": 1},
    ),
}


def is_as(roster, wanted):
    return {name: getattr(roster, name) for name in wanted} == wanted


@pytest.mark.parametrize("switch", SWITCHES)
async def test_a_switch_stays_as_it_was_set_when_only_the_browsers_tickets_are_left(room, switch):
    """A line that was paused or closed used to open by itself, at its default places."""
    act, wanted = SWITCHES[switch]
    await room.fill(2)
    await act(room.line)
    for _ in range(2):  # what was made anew is lost again before anybody did anything
        process = await room.lose_all_but_the_marks()
        roster = await process.line.refresh()
        assert is_as(roster, wanted)
        assert roster.frozen


async def test_all_switches_together_are_as_they_were_set_last(room):
    await room.line.refresh()
    await room.line.close(INES, SORRY, "08:30")
    await room.line.announce(INES, SORRY)
    await room.line.set_places(INES, 5)
    await room.line.announce(INES, None)
    await room.line.pause(INES, SORRY)
    before = room.roster.switches()
    process = await room.lose_all_but_the_marks()
    assert (await process.line.refresh()).switches() == before


async def test_a_closed_line_gives_no_numbers_after_a_loss(room):
    await room.fill(2)
    await room.line.close(INES, SORRY)
    process = await room.lose_all_but_the_marks()
    with pytest.raises(LineClosed):
        await room.take("Bob", None, process)


async def test_a_line_nobody_switched_is_made_anew_as_the_settings_say(room):
    await room.fill(2)
    process = await room.lose_all_but_the_marks()
    assert (await process.line.refresh()).switches() == Roster("", places=2).switches()


async def test_a_switch_set_later_than_all_that_is_held_is_not_undone_by_it(room):
    """A process that slept holds a roster from before the line was closed."""
    await room.fill(2)
    asleep = room.start()
    await asleep.line.refresh()
    await room.line.pause(INES, SORRY)
    room.store.lose_everything()
    await room.lose_checkpoint()
    assert is_as(await asleep.line.refresh(), SWITCHES["pause"][1])


async def test_a_switch_kept_late_does_not_replace_a_newer_one(room, line):
    await line.pause(INES, SORRY)
    old, version = room.roster.switches(), room.roster.version
    await line.resume(INES)
    await room.book.keep_switches("desk", old, version)
    process = await room.lose_all_but_the_marks()
    assert (await process.line.refresh()).gate is Gate.OPEN


async def test_a_switch_is_kept_after_the_audit_and_before_it_is_called_done(room, line):
    room.ledger.order.clear()
    await line.pause(INES, SORRY)
    assert room.ledger.order == ["intend", "record", "keep_switches", "conclude"]


async def test_only_a_switch_is_kept_and_no_poll_asks_for_it(room, line):
    visitors = await room.fill(2)
    await line.remove(INES, 2)
    await line.call_next(INES)
    await room.pass_time(3, visitors[:1])
    assert "keep_switches" not in room.ledger.order


@pytest.mark.parametrize("kept", [{}, {"gate": "ajar"}, {"gate": "open", "said": 3}])
async def test_switches_that_cannot_be_read_stop_nothing(room, line, kept):
    await room.fill(1)
    await room.book.keep_switches("desk", kept, 99)
    process = await room.lose_all_but_the_marks()
    assert (await process.line.refresh()).gate is Gate.OPEN
    assert (await room.take("Bob", None, process)).number == 2


async def test_two_processes_that_find_the_loss_at_once_make_one_line(room):
    visitors = await room.fill(5)
    await room.lose_all_but_the_marks()
    others = [room.start() for _ in range(3)]
    await asyncio.gather(
        *(visitor.poll(others[at % 3]) for at, visitor in enumerate(visitors)),
        *(other.line.refresh() for other in others),
    )
    rosters = [await other.line.refresh() for other in others]
    assert len({roster.generation for roster in rosters}) == 1
    assert {tuple(roster.order) for roster in rosters} == {(1, 2, 3, 4, 5)}


async def test_an_outage_is_never_taken_for_an_empty_line(room, line):
    await room.fill(3)
    before = room.roster
    room.store.out_of_order = True
    for act in (line.refresh, line.round, room.take, room.marshal.tick):
        with pytest.raises(Unavailable):
            await act()
    with pytest.raises(Unavailable):
        await room.start().line.refresh()
    room.store.out_of_order = False
    assert await line.refresh() == before


async def test_without_the_ledger_a_lost_line_is_not_made_anew(room, line):
    await room.fill(3)
    room.store.lose_everything()
    room.ledger.out_of_order = True
    with pytest.raises(Unavailable):
        await line.refresh()
    room.ledger.out_of_order = False
    assert (await room.take()).number == 4


async def test_an_unreadable_roster_is_left_alone(room, line):
    """Somebody else's value, or a newer version's: not ours to overwrite."""
    (key,) = [key for key in room.store.inner._entries if key.endswith(":roster")]
    await room.store.set_many({key: b"NS9 of tomorrow"}, 0)
    with pytest.raises(Unavailable, match="NS9"):
        await line.refresh()
    with pytest.raises(Unavailable):
        await room.take()
    assert (await room.store.gets(key)).value == b"NS9 of tomorrow"


async def test_an_unreadable_checkpoint_is_as_none(room):
    visitors = await room.fill(3)
    await room.book.record(
        "desk",
        generation="",
        first=None,
        high_water=3,
        version=10**6,
        checkpoint=b"torn",
        void_below=0,
        ended=(),
        revived=(),
    )
    room.store.lose_everything()
    process = room.start()
    assert (await process.line.refresh()).frozen
    assert (await visitors[2].poll(process)).state is State.WAITING
    assert (await room.take("Bob", None, process)).number == 4


async def test_a_lost_entry_is_made_again_by_the_next_heartbeat(room, line):
    (ada,) = await room.fill(1)
    await room.pass_time(1)
    room.store.lose(":t:1")
    await ada.poll()
    await line.round()
    assert (await line.silences([1]))[1] == 0


# Two processes


async def test_what_one_process_does_the_other_tells_a_second_later(room):
    visitors = await room.fill(4)
    other = room.start()
    await visitors[3].poll(other)
    await visitors[0].act("leave")
    await room.pass_time(1)
    assert (await visitors[1].poll(other)).ahead == 0
    assert other.line.public().waiting == room.line.public().waiting


async def test_a_version_says_one_and_the_same_everywhere(room):
    visitors = await room.fill(6)
    other = room.start()
    for _ in range(3):
        await room.pass_time(1, visitors)
        for visitor in visitors:
            here, there = await visitor.poll(), await visitor.poll(other)
            assert here.rev == there.rev
            assert (here.state, here.ahead) == (there.state, there.ahead)


async def test_line_time_waits_for_a_marshal(room):
    """While nobody sweeps nobody's time runs out: at most three seconds, unseen."""
    (ada,) = await room.fill(1)
    await room.pass_time(1, [ada])
    left = (await ada.poll()).answer.left_seconds
    room.clock.tick(1000)
    assert (await ada.poll()).answer.left_seconds == pytest.approx(left - 3, abs=1)
    await room.process.go_round()
    assert (await ada.poll()).state is State.CALLED


async def test_a_wall_clock_that_jumps_sets_nobody_aside(room, clock):
    visitors = await room.fill(6)
    await room.pass_time(1, visitors)
    clock.set_wall(clock.wall() + 86_400)
    await room.pass_time(2, visitors)
    assert [visitor.state for visitor in visitors] == [State.CALLED] * 3 + [State.WAITING] * 3


def test_an_empty_roster_asks_for_no_freeze():
    """A new line has lost nothing."""
    assert not Roster("new").frozen


async def test_a_visit_that_is_over_when_everything_is_lost_stays_over(room):
    """The job was put, then the roster was lost: the person used to be at the desk again."""
    (ada,) = await room.fill(1)
    await room.pass_time(1, [ada])
    await ada.act("confirm")
    await room.lose_all_but_the_marks()
    process = room.start()
    assert (await ada.act("finish", process)).state is State.DONE
    assert (await ada.poll(process)).state is State.DONE
    assert await room.tombs() == {ada.number: State.DONE}
    assert (await room.take("Bob", None, process)).number == 2


async def test_an_ending_that_the_ledger_missed_is_written_when_the_roster_forgets_it(room, line):
    (ada,) = await room.fill(1)
    room.ledger.out_of_order = True
    with pytest.raises(Unavailable):
        await ada.act("leave")
    room.ledger.out_of_order = False
    assert ada.number not in await room.tombs()
    await room.pass_time(line.rules.ended_keep_seconds + 2)
    assert (await room.tombs())[ada.number] == State.LEFT
