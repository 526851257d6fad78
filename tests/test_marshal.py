"""The marshal: who sweeps, who has fallen silent, and whom that delays."""

import asyncio
from dataclasses import replace

import pytest

from queue_backend.errors import Unavailable
from queue_backend.people.marshal import FRONT, LEAD_SECONDS, Marshal
from queue_backend.people.roster import Gate, Work
from queue_backend.people.ticket import State
from tests.people_cases import INES, Room

WITHIN_A_ROUND = 2  # seconds: a silence is read in whole seconds, and judged each second


@pytest.fixture
def room(tmp_path, clock):
    opened = Room(tmp_path, clock)
    yield opened
    opened.close()


@pytest.fixture
async def paused(room):
    """A line that calls nobody, so that everybody waits, under a marshal that has watched."""
    await room.pass_time(1)
    await room.line.pause(INES, room.roster.said)
    await room.pass_time(room.rules.freeze_seconds)
    return room


async def seconds_until(room, what, alive=(), at_most=2_000):
    for seconds in range(at_most):
        if what():
            return seconds
        await room.pass_time(1, alive)
    raise AssertionError(f"not within {at_most} s")


# Who sweeps


async def test_one_process_at_a_time_is_marshal(room):
    room.start()
    room.start()
    for _ in range(12):
        await room.pass_time(1)
        assert [process.marshal.leads for process in room.processes].count(True) == 1
    assert {process.line.marshal_seen for process in room.processes} == {"process-1"}


async def test_a_marshal_that_dies_is_replaced_when_its_lock_has_run_out(room):
    other = room.start()
    await room.pass_time(3)
    epoch = room.roster.epoch
    room.kill(room.process)
    assert await seconds_until(room, lambda: other.marshal.leads) <= LEAD_SECONDS + 1
    assert other.line._known().epoch == epoch + 1


async def test_a_marshal_that_resigns_is_replaced_at_once(room):
    other = room.start()
    await room.pass_time(3)
    await room.marshal.resign()
    room.kill(room.process)
    await room.pass_time(1)
    assert other.marshal.leads


async def test_a_marshal_that_wakes_after_its_successor_began_does_nothing(room):
    """It was stopped between reading and writing: its lock is gone, and its epoch too."""
    visitors = await room.fill(3)
    await room.pass_time(2, visitors)
    asleep = room.marshal
    epoch = asleep._epoch
    room.clock.tick(LEAD_SECONDS + 1)
    other = room.start()
    await other.go_round()
    assert other.marshal.leads
    before = await other.line.refresh()
    assert not await room.line.sweep(
        epoch, away=[], silent=[3], suspect=frozenset(), heard=[], work=None, thaw=False
    )
    after = await other.line.refresh()
    assert replace(after, time=before.time) == before
    await asleep.tick()
    assert not asleep.leads


async def test_two_who_both_believe_to_be_marshal_do_no_harm(room):
    """The lock was lost by an eviction: both sweep for a moment, and one order comes of it."""
    other = room.start()
    visitors = await room.fill(12)
    both = 0
    for _ in range(20):
        room.clock.tick(1)
        for process in (room.process, other):
            for visitor in visitors:
                await visitor.poll(process)
            await process.go_round()
            room.store.lose(":lead")
        both += room.marshal.leads and other.marshal.leads
    assert both, "else this test shows nothing"
    await room.line.refresh()
    await other.line.refresh()
    called = room.roster.numbers(State.CALLED)
    assert called == list(range(1, len(called) + 1))
    assert other.line._known().order == room.roster.order


async def test_an_outage_ends_no_marshals_work(room):
    visitors = await room.fill(2)
    await room.pass_time(2, visitors)
    room.store.out_of_order = True
    for _ in range(3):
        room.clock.tick(1)
        with pytest.raises(Unavailable):
            await room.marshal.tick()
    room.store.out_of_order = False
    await room.pass_time(2, visitors)
    assert room.marshal.leads
    assert [visitor.state for visitor in visitors] == [State.CALLED] * 2


# Who has fallen silent


async def test_whoever_is_silent_is_shown_away_then_set_aside_then_expires(paused):
    ada, bob = visitors = await paused.fill(2)
    await paused.pass_time(5, visitors)

    away = await seconds_until(paused, lambda: ada.number in paused.roster.away, [bob])
    assert 90 - WITHIN_A_ROUND <= away <= 90 + WITHIN_A_ROUND
    aside = away + await seconds_until(
        paused, lambda: paused.roster.state(ada.number) is State.ASIDE, [bob]
    )
    assert 300 - WITHIN_A_ROUND <= aside <= 300 + WITHIN_A_ROUND
    kept = await seconds_until(
        paused, lambda: paused.roster.state(ada.number) is State.EXPIRED, [bob]
    )
    assert 900 <= kept <= 900 + 31
    assert (await ada.poll()).state is State.EXPIRED
    assert bob.state is State.WAITING
    assert bob.number not in paused.roster.away


async def test_whoever_is_heard_again_is_no_longer_away(paused):
    ada, bob = visitors = await paused.fill(2)
    await paused.pass_time(95, [bob])
    assert (await ada.poll()).away
    await paused.pass_time(2, visitors)
    assert not ada.last.away
    assert not paused.roster.away


async def test_whoever_asks_once_a_minute_is_never_away(paused):
    """As one is told to who stands far back in a long line."""
    (ada,) = await paused.fill(1)
    for _ in range(10):
        await paused.pass_time(59)
        await paused.pass_time(1, [ada])
        assert (ada.state, ada.last.away) == (State.WAITING, False)


async def test_whoever_is_ready_and_silent_goes_aside_when_away(room):
    visitors = await room.fill(3)
    await room.pass_time(2, visitors)
    for visitor in visitors:
        await visitor.act("confirm")
    for visitor in visitors[:2]:
        await visitor.act("extend")
    seconds = await seconds_until(room, lambda: room.roster.state(3) is State.ASIDE, visitors[:2])
    assert 90 - WITHIN_A_ROUND <= seconds <= 90 + WITHIN_A_ROUND


async def test_at_the_desk_one_may_be_silent_as_long_as_the_lease(room):
    (ada,) = await room.fill(1)
    await room.pass_time(2, [ada])
    await ada.act("confirm")
    seconds = await seconds_until(room, lambda: room.roster.state(1) is not State.SERVING)
    assert 300 - WITHIN_A_ROUND <= seconds <= 300 + WITHIN_A_ROUND


async def test_whoever_does_not_answer_a_call_goes_aside_after_two_minutes(room):
    (ada,) = await room.fill(1)
    await room.pass_time(2, [ada])
    seconds = await seconds_until(room, lambda: ada.state is State.ASIDE, [ada])
    assert 120 - WITHIN_A_ROUND <= seconds <= 120 + WITHIN_A_ROUND
    assert (await ada.act("come_back")).ahead == 0


# Whom a silence delays


async def test_a_leader_who_vanished_does_not_delay_the_next_living_person(room):
    visitors = await room.fill(8)
    await room.pass_time(2, visitors)
    for visitor in visitors[:3]:
        await visitor.act("confirm")
    await room.pass_time(60, [*visitors[:3], *visitors[5:]])
    assert [room.roster.state(n) for n in (4, 5, 6)] == [State.WAITING] * 3
    await visitors[0].act("finish")  # 3 is ready and takes the place
    await visitors[1].act("finish")
    await room.pass_time(1, [visitors[2], *visitors[5:]])
    assert room.roster.numbers(State.CALLED) == [4, 5, 6, 7], "4 and 5 are called, but not counted"


async def test_a_living_leader_who_does_not_answer_delays_the_next_ten_seconds(room):
    visitors = await room.fill(6)
    await room.pass_time(2, visitors)
    assert room.roster.numbers(State.CALLED) == [1, 2, 3]
    seconds = await seconds_until(room, lambda: len(room.roster.order) < 3, visitors)
    assert seconds <= 11


async def test_a_free_place_is_offered_within_a_tick(room):
    visitors = await room.fill(6)
    await room.pass_time(2, visitors)
    for visitor in visitors[:3]:
        await visitor.act("confirm")
    await room.pass_time(3, visitors)
    assert room.roster.numbers(State.CALLED) == []
    await visitors[0].act("finish")
    await room.pass_time(1, visitors)
    assert room.roster.numbers(State.CALLED) == [4]


async def test_nobody_overtakes_whoever_is_silent(room):
    visitors = await room.fill(9)
    await room.line.pause(INES, room.roster.said)
    await room.pass_time(100, visitors[3:])
    await room.line.resume(INES)
    await room.pass_time(1, visitors[3:])
    assert room.roster.numbers(State.CALLED) == [1, 2, 3, 4, 5, 6]


# A watch judges only what it has itself seen


async def test_a_new_marshal_does_not_judge_before_it_watched(paused):
    """The living had asked the process that died, and its heartbeats died with it."""
    ada, bob = await paused.fill(2)
    await paused.pass_time(290, [bob])
    paused.kill(paused.process)
    paused.process = paused.start()
    await paused.pass_time(LEAD_SECONDS + 1)
    assert paused.marshal.leads
    await paused.pass_time(paused.rules.freeze_seconds - 4)
    assert paused.roster.state(ada.number) is State.WAITING, "silent for more than 300 s by now"
    await paused.pass_time(6, [bob])
    assert paused.roster.state(ada.number) is State.ASIDE
    assert bob.state is State.WAITING


async def test_an_outage_of_the_store_begins_the_watch_anew(paused):
    ada, bob = await paused.fill(2)
    await paused.pass_time(280, [bob])
    paused.store.out_of_order = True
    with pytest.raises(Unavailable):
        await paused.marshal.tick()
    paused.store.out_of_order = False
    await paused.pass_time(paused.rules.freeze_seconds - 2, [bob])
    assert paused.roster.state(ada.number) is State.WAITING
    await paused.pass_time(4, [bob])
    assert paused.roster.state(ada.number) is State.ASIDE


async def test_a_marshal_that_was_stopped_for_an_hour_sets_nobody_aside_at_once(paused):
    visitors = await paused.fill(3)
    await paused.pass_time(5, visitors)
    paused.clock.tick(3600)  # kill -STOP of everything, kill -CONT
    await paused.pass_time(1)
    assert len(paused.roster.order) == 3
    await paused.pass_time(5, visitors)
    assert [visitor.state for visitor in visitors] == [State.WAITING] * 3
    assert not paused.roster.away


async def test_the_loss_of_one_entry_sets_nobody_aside(paused):
    visitors = await paused.fill(3)
    await paused.pass_time(200, visitors)
    paused.store.lose(":t:2")
    await paused.pass_time(30)  # until the next heartbeat of one who stands far back
    assert [paused.roster.state(n) for n in (1, 2, 3)] == [State.WAITING] * 3
    assert not paused.roster.away
    await paused.pass_time(300, visitors)
    assert [visitor.state for visitor in visitors] == [State.WAITING] * 3


async def test_whoever_is_silent_and_lost_an_entry_is_silent_from_then_on(paused):
    ada, bob = await paused.fill(2)
    await paused.pass_time(80, [bob])
    paused.store.lose(f":t:{ada.number}")
    await paused.pass_time(250, [bob])
    assert paused.roster.state(ada.number) is State.WAITING
    assert ada.number in paused.roster.away
    await paused.pass_time(145, [bob])
    assert paused.roster.state(ada.number) is State.ASIDE


async def test_the_loss_of_all_entries_begins_everybodys_clock_again(paused):
    visitors = await paused.fill(5)
    await paused.pass_time(200, visitors[:2])
    paused.store.lose_entries()
    await paused.pass_time(80, visitors[:2])
    assert all(paused.roster.state(visitor.number) is State.WAITING for visitor in visitors)
    await paused.pass_time(150, visitors[:2])
    assert all(paused.roster.state(visitor.number) is State.WAITING for visitor in visitors)
    assert list(paused.roster.away) == [3, 4, 5]


async def test_a_flush_sets_nobody_aside_and_calls_go_on(room):
    visitors = await room.fill(8)
    await room.pass_time(2, visitors)
    room.store.lose_everything()
    await room.pass_time(3, visitors)
    for visitor in visitors[:3]:
        await visitor.act("confirm")
    await visitors[0].act("finish")
    await room.pass_time(1, visitors)
    assert room.roster.numbers(State.CALLED)[0] == 4
    await room.pass_time(100, visitors)
    assert not room.roster.count_aside()


# What a round costs


async def test_a_round_asks_about_the_front_and_about_few_others(paused):
    """A thousand wait and are alive: each second the front, and of the rest about as many as
    there are seconds until one may have fallen silent."""
    visitors = await paused.fill(1_000)
    await paused.pass_time(2, visitors)
    asked = []
    for _ in range(12):
        for visitor in visitors:
            await visitor.poll()
        paused.clock.tick(1)
        await paused.line.round()
        paused.store.keys_asked = 0
        await paused.marshal.tick()
        asked.append(paused.store.keys_asked)
    assert max(asked) <= FRONT


async def test_a_rush_is_not_asked_about_before_anybody_in_it_could_be_away(paused):
    await paused.fill(FRONT)
    await paused.pass_time(2)
    await paused.fill(1_000)
    await paused.line.round()
    paused.store.keys_asked = 0
    await paused.marshal.tick()
    assert paused.store.keys_asked <= FRONT


async def test_everybody_is_asked_about_before_they_could_be_silent_for_long(paused):
    await paused.fill(500)
    away = await seconds_until(paused, lambda: len(paused.roster.away) == 500)
    assert 90 - WITHIN_A_ROUND <= away <= 90 + WITHIN_A_ROUND
    aside = away + await seconds_until(paused, lambda: paused.roster.count_aside() == 500)
    assert 300 - WITHIN_A_ROUND <= aside <= 300 + WITHIN_A_ROUND


async def test_a_round_in_which_nothing_happens_makes_no_new_version(room):
    visitors = await room.fill(9)
    await room.pass_time(3, visitors)
    version, records = room.roster.version, len(room.ledger.order)
    for _ in range(5):
        await room.pass_time(1, visitors)
    assert (room.roster.version, len(room.ledger.order)) == (version, records)


# How busy the slow service is


async def test_a_marshal_reads_how_busy_the_work_is_each_round(room):
    busy: Work | None = Work(slots=2, held=2)

    async def read():
        if busy is None:
            raise Unavailable("database-unavailable")
        return busy

    room.process.marshal = Marshal(room.line, room.clock, read)
    visitors = await room.fill(9)
    await room.pass_time(1, visitors)
    assert room.roster.numbers(State.CALLED) == [1]
    busy = None
    await room.pass_time(1, visitors)
    assert room.roster.work.held == 2, "as it was last read"
    busy = Work(slots=2, stopped=True)
    await room.pass_time(1, visitors)
    assert room.roster.work.stopped
    busy = Work(slots=2)
    await room.pass_time(1, visitors)
    assert room.roster.numbers(State.CALLED) == [1, 2, 3]


async def test_people_and_marshals_at_once_lose_no_change(room):
    """Joins, leaves and rounds of three processes at the same moment."""
    others = [room.process, room.start(), room.start()]
    visitors = await room.fill(30)
    joining = [room.take(f"Late {n}", None, others[n % 3]) for n in range(30)]
    leaving = [visitor.act("leave", others[n % 3]) for n, visitor in enumerate(visitors[10:])]
    rounds = [process.go_round() for process in others]
    room.clock.tick(1)
    await asyncio.gather(*joining, *leaving, *rounds)
    roster = await room.line.refresh()
    left = [number for number in range(1, 61) if roster.state(number) is State.LEFT]
    assert left == list(range(11, 31))
    assert len(roster.order) + roster.count(State.CALLED) == 40
    assert roster.gate is Gate.OPEN
