"""The roster: every arrow of the drawing with its time, who is called, and how it is kept."""

import json
import random
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queue_backend.errors import LineClosed, LineFull, WrongState
from queue_backend.people.numbers import NumberSet
from queue_backend.people.order import Order
from queue_backend.people.roster import (
    FORMAT,
    LARGEST_BYTES,
    NOTHING_SAID,
    Gate,
    Moved,
    Roster,
    Seat,
    Visit,
    Words,
    Work,
)
from queue_backend.people.rules import Rules
from queue_backend.people.ticket import State

RULES = Rules()  # two places, one called ahead, and the times of the drawing
NOW = 1_000.0
SORRY = Words("The desk moves", "窗口要搬")


def line_of(people, **changes):
    """A line with numbers 1 to `people` waiting, at NOW."""
    roster = Roster("a generation", time=NOW, **changes)
    return roster.take_many(people, RULES)[0] if people else roster


def called(people, **changes):
    """The same, after the marshal's first round: 1, 2 and 3 are called."""
    return line_of(people, **changes).sweep(NOW, RULES)


def at_desk(*numbers, people=6):
    roster = called(people)
    for number in numbers:
        roster = roster.confirm(number, 60, NOW, RULES)
    return roster


def refused(code):
    return pytest.raises(WrongState, match=code)


# Taking a number


def test_numbers_are_given_in_order_and_told_who_is_ahead():
    roster, taken = called(4).take_many(2, RULES)
    assert (taken.first, taken.count, taken.ahead) == (5, 2, 4)
    assert roster.next_number == 7
    assert list(roster.order) == [4, 5, 6]


def test_nobody_joins_a_closed_or_draining_line():
    for gate, code in ((Gate.CLOSED, "line-closed"), (Gate.DRAINING, "line-draining")):
        with pytest.raises(LineClosed, match=code):
            line_of(1).with_gate(gate, NOTHING_SAID, "", NOW, RULES).take_many(1, RULES)


def test_a_paused_line_gives_numbers():
    roster = line_of(1).with_gate(Gate.PAUSED, NOTHING_SAID, "", NOW, RULES)
    assert roster.take_many(1, RULES)[1].first == 2


def test_a_line_that_fills_up_gives_what_it_has():
    rules = replace(RULES, max_waiting=5)
    roster, taken = line_of(3).take_many(4, rules)
    assert (taken.first, taken.count) == (4, 2)
    with pytest.raises(LineFull):
        roster.take_many(1, rules)


# WAITING, CALLED, READY, SERVING, DONE


def test_as_many_are_called_as_places_are_free_and_one_ahead():
    roster = called(6)
    assert roster.numbers(State.CALLED) == [1, 2, 3]
    assert list(roster.order) == [4, 5, 6]
    assert roster.seats[1].until == NOW + 120


def test_being_called_holds_no_place_and_being_here_takes_one():
    roster = called(6)
    assert roster.count(State.SERVING) == 0
    roster = roster.confirm(2, 60, NOW + 5, RULES)
    assert roster.state(2) is State.SERVING
    assert roster.seats[2].until == NOW + 5 + 300


def test_whoever_confirms_while_every_place_is_taken_is_ready():
    roster = at_desk(1, 2, 3)
    assert roster.numbers(State.SERVING) == [1, 2]
    assert roster.numbers(State.READY) == [3]


def test_the_first_free_place_is_for_who_confirmed_first():
    roster = at_desk(1, 2).call(5, NOW, RULES)
    roster = roster.confirm(5, 60, NOW + 1, RULES).confirm(3, 60, NOW + 2, RULES)
    roster = roster.finish(1, NOW + 9, RULES)
    assert roster.state(5) is State.SERVING
    assert roster.state(3) is State.READY
    assert roster.seats[5].until == NOW + 9 + 300, "the lease begins at the desk"


@pytest.mark.parametrize(
    "frees",
    [
        lambda roster: roster.finish(1, NOW, RULES),
        lambda roster: roster.leave(1, NOW, RULES),
        lambda roster: roster.remove(1, SORRY, "ines", NOW, RULES),
        lambda roster: roster.set_aside(1, NOW, RULES),
        lambda roster: roster.with_places(3, NOW, RULES),
        lambda roster: roster.extend(2, NOW, RULES).sweep(NOW + 300, RULES),
    ],
    ids=["finished", "left", "removed", "set aside", "one place more", "lease over"],
)
def test_a_place_that_becomes_free_is_taken_at_once(frees):
    assert frees(at_desk(1, 2, 3)).state(3) is State.SERVING


def test_a_finished_visit_is_done_and_measured():
    roster = at_desk(1).finish(1, NOW + 40, RULES)
    assert roster.state(1) is State.DONE
    assert roster.visits[-1] == Visit(NOW + 40, True, 60, 40)


def test_an_ending_is_told_for_ninety_seconds():
    roster = at_desk(1).finish(1, NOW, RULES)
    assert roster.sweep(NOW + 89.9, RULES).state(1) is State.DONE
    assert roster.sweep(NOW + 90, RULES).state(1) is None


@pytest.mark.parametrize("number", [4, 99])
def test_only_who_was_called_can_confirm(number):
    with refused("not-called"):
        called(6).confirm(number, 0, NOW, RULES)


# More time


def test_more_time_to_answer_is_given_ten_times():
    roster = called(1)
    for _ in range(10):
        roster = roster.extend(1, NOW, RULES)
    assert roster.seats[1].until == NOW + 120 + 10 * 60
    with refused("no-more-time"):
        roster.extend(1, NOW, RULES)


def test_more_time_at_the_desk_is_counted_apart():
    roster = called(1).extend(1, NOW, RULES).confirm(1, 0, NOW, RULES)
    assert roster.seats[1].extends == 0
    assert roster.extend(1, NOW, RULES).seats[1].until == NOW + 300 + 300


def test_more_time_counts_from_now_when_time_is_over_already():
    assert called(1).extend(1, NOW + 125, RULES).seats[1].until == NOW + 185


@pytest.mark.parametrize("number", [3, 4])
def test_who_is_ready_or_waits_needs_no_more_time(number):
    with refused("not-called"):
        at_desk(1, 2, 3).extend(number, NOW, RULES)


# ASIDE, back, EXPIRED


def test_a_call_unanswered_for_two_minutes_goes_aside():
    roster = called(6)
    assert roster.sweep(NOW + 119.9, RULES).state(1) is State.CALLED
    roster = roster.sweep(NOW + 120, RULES)
    assert roster.state(1) is State.ASIDE
    assert not roster.visits[-1].served, "and is remembered as missed"


def test_a_lease_that_is_over_goes_aside():
    roster = at_desk(1)
    assert roster.sweep(NOW + 299.9, RULES).state(1) is State.SERVING
    assert roster.sweep(NOW + 300, RULES).state(1) is State.ASIDE


def test_the_silent_go_aside_while_they_wait_or_are_ready():
    roster = at_desk(1, 2, 3).sweep(NOW, RULES, silent=[3, 5])
    assert roster.state(3) is State.ASIDE
    assert roster.state(5) is State.ASIDE
    assert list(roster.order) == [6], "4 was called in place of 3"


def test_at_the_call_and_at_the_desk_the_deadline_decides_and_not_the_silence():
    roster = at_desk(1).sweep(NOW, RULES, silent=[1, 2, 3])
    assert roster.state(1) is State.SERVING
    assert roster.numbers(State.CALLED)[:2] == [2, 3]


def test_a_number_aside_is_kept_at_least_fifteen_minutes_and_at_most_half_a_minute_longer():
    roster = line_of(8).sweep(NOW + 7, RULES, silent=[8])
    assert roster.sweep(NOW + 7 + 899.9, RULES).state(8) is State.ASIDE
    over = roster.sweep(NOW + 7 + 930, RULES)
    assert over.state(8) is State.EXPIRED
    assert over.sweep(NOW + 7 + 930 + 91, RULES).state(8) is None, "the ledger has it by now"


def test_whoever_asks_as_the_number_expires_does_not_get_it_back():
    """A poll between the roster's write and the ledger's found neither, and was let in again."""
    over = line_of(8).sweep(NOW, RULES, silent=[8]).sweep(NOW + 930, RULES)
    assert over.enter(8, State.ASIDE, NOW + 930, RULES) is over
    assert Roster.from_bytes(over.to_bytes()).state(8) is State.EXPIRED


def test_whoever_comes_back_is_next_behind_those_who_came_back_before():
    roster = called(9).sweep(NOW, RULES, silent=[7, 8])
    roster = roster.come_back(8).come_back(7)
    assert list(roster.order) == [8, 7, 4, 5, 6, 9]


def test_only_who_is_aside_can_come_back():
    for number in (1, 4, 99):
        with refused("not-aside"):
            called(6).come_back(number)


# LEFT, undo, REMOVED


@pytest.mark.parametrize("number", [1, 3, 4, 5, 6])
def test_one_can_leave_from_everywhere(number):
    roster = at_desk(1, 2, 3).sweep(NOW, RULES, silent=[6]).leave(number, NOW, RULES)
    assert roster.state(number) is State.LEFT
    with refused("not-in-line"):
        roster.leave(number, NOW, RULES)


def test_undo_gives_the_same_place_again():
    roster = called(8)
    assert list(roster.leave(6, NOW, RULES).undo(6, NOW + 29).order) == [4, 5, 6, 7, 8]


def test_undo_gives_an_exceptional_place_again():
    roster = called(8).move(8, 2, NOTHING_SAID)
    assert list(roster.order) == [4, 8, 5, 6, 7]
    assert list(roster.leave(8, NOW, RULES).undo(8, NOW).order) == [4, 8, 5, 6, 7]


def test_whoever_leaves_from_the_call_or_the_desk_is_next_after_the_undo():
    for number in (1, 2):
        roster = at_desk(1).leave(number, NOW, RULES).undo(number, NOW)
        assert list(roster.order)[0] == number


def test_undo_is_offered_for_thirty_seconds():
    roster = called(6).leave(5, NOW, RULES)
    assert roster.undo_left(5, NOW + 10, RULES) == 20
    assert roster.undo_left(5, NOW + 30, RULES) == 0
    assert roster.undo_left(4, NOW, RULES) == 0


def test_only_who_left_can_undo_and_not_when_the_line_closed_meanwhile():
    with refused("not-left"):
        called(6).undo(5, NOW)
    with refused("not-left"):
        called(6).remove(5, SORRY, "ines", NOW, RULES).undo(5, NOW)
    closed = called(6).leave(5, NOW, RULES).with_gate(Gate.CLOSED, SORRY, "", NOW, RULES)
    with pytest.raises(LineClosed):
        closed.undo(5, NOW)


def test_whoever_is_removed_is_told_why():
    roster = called(6).remove(5, SORRY, "ines", NOW, RULES)
    assert roster.state(5) is State.REMOVED
    assert (roster.seats[5].said, roster.seats[5].by) == (SORRY, "ines")
    with refused("not-in-line"):
        roster.remove(5, SORRY, "ines", NOW, RULES)


# Back to the desk


def test_a_rejected_visit_goes_on_at_the_desk_if_a_place_is_free():
    assert at_desk(1).finish(1, NOW, RULES).retry(1, NOW, RULES).state(1) is State.SERVING


def test_a_rejected_visit_waits_in_front_of_everybody_for_a_place():
    roster = at_desk(1, 2, 3).finish(1, NOW, RULES).retry(1, NOW + 5, RULES)
    assert roster.state(1) is State.READY
    assert roster.finish(2, NOW + 9, RULES).state(1) is State.SERVING


def test_only_a_visit_that_is_done_can_be_tried_again():
    with refused("not-done"):
        at_desk(1).retry(1, NOW, RULES)
    with refused("not-done"):
        at_desk(1).leave(1, NOW, RULES).retry(1, NOW, RULES)
    closed = at_desk(1).finish(1, NOW, RULES).with_gate(Gate.CLOSED, SORRY, "", NOW, RULES)
    with pytest.raises(LineClosed):
        closed.retry(1, NOW, RULES)


@pytest.mark.parametrize("number", [4, 6])
def test_whoever_waits_or_is_aside_does_not_get_to_the_desk_by_trying_again(number):
    """They would have stood in the order and sat at the desk at once."""
    with refused("not-done"):
        called(6).sweep(NOW, RULES, silent=[6]).retry(number, NOW, RULES)


# Giving way, being moved


def test_giving_way_lets_one_person_go_first():
    assert list(called(6).give_way(4).order) == [5, 4, 6]


def test_the_last_gives_way_to_nobody():
    with refused("nobody-behind"):
        called(6).give_way(6)


def test_whoever_gave_way_stays_before_newcomers():
    roster, _ = called(5).give_way(4).take_many(1, RULES)
    assert list(roster.order) == [5, 4, 6]


def test_whoever_is_moved_is_told_until_it_is_acknowledged():
    roster = called(8).move(8, 2, SORRY)
    assert list(roster.order) == [4, 8, 5, 6, 7]
    assert roster.moved == {8: Moved(5, 2, SORRY)}
    assert roster.acknowledge(8).moved == {}


def test_a_move_to_where_one_stands_is_no_move():
    roster = called(6)
    assert roster.move(5, 2, SORRY) is roster


def test_whoever_is_called_has_nothing_more_to_be_told_of_a_move():
    roster = called(8).move(8, 1, SORRY).call(8, NOW, RULES)
    assert roster.moved == {}


@pytest.mark.parametrize("number", [1, 99])
def test_only_who_waits_gives_way_or_is_moved(number):
    with refused("not-waiting"):
        called(6).give_way(number)
    with refused("not-waiting"):
        called(6).move(number, 1, SORRY)


# Operators


def test_an_operator_calls_whom_they_like():
    roster = called(6).sweep(NOW, RULES, silent=[6])
    for number in (5, 6):
        roster = roster.call(number, NOW, RULES)
        assert roster.state(number) is State.CALLED


def test_a_recall_begins_the_time_anew():
    assert called(3).call(1, NOW + 100, RULES).seats[1].until == NOW + 220


def test_nobody_is_called_from_the_desk_or_after_the_end():
    roster = at_desk(1, 2, 3).leave(4, NOW, RULES)
    for number in (1, 3, 4, 99):
        with refused("not-waiting"):
            roster.call(number, NOW, RULES)


def test_call_next_calls_the_first_in_order():
    roster, number = called(6).move(6, 1, SORRY).call_next(NOW, RULES)
    assert number == 6
    assert roster.state(6) is State.CALLED
    with refused("nobody-waiting"):
        called(2).call_next(NOW, RULES)


def test_nobody_is_set_aside_twice_or_after_the_end():
    roster = called(6).set_aside(5, NOW, RULES)
    for number in (5, 99):
        with refused("not-in-line"):
            roster.set_aside(number, NOW, RULES)


def test_fewer_places_send_nobody_away():
    roster = at_desk(1, 2).with_places(1, NOW, RULES)
    assert roster.count(State.SERVING) == 2
    roster = roster.confirm(3, 0, NOW, RULES).finish(1, NOW, RULES)
    assert roster.state(3) is State.READY, "one place, and it is taken"
    assert roster.finish(2, NOW, RULES).state(3) is State.SERVING


def test_a_new_announcement_has_a_new_number():
    roster = line_of(1).announce(SORRY).announce(Words("Later", ""))
    assert (roster.announcement, roster.announcement_id) == (Words("Later", ""), 2)


# Gates


def test_a_paused_line_calls_nobody_but_serves_on():
    paused = at_desk(1).with_gate(Gate.PAUSED, SORRY, "", NOW, RULES)
    roster = paused.sweep(NOW + 1, RULES)
    assert list(roster.order) == [4, 5, 6]
    roster = roster.confirm(2, 0, NOW + 1, RULES).finish(1, NOW + 2, RULES)
    roster = roster.sweep(NOW + 3, RULES)
    assert list(roster.order) == [4, 5, 6]
    resumed = roster.with_gate(Gate.OPEN, NOTHING_SAID, "", NOW + 4, RULES)
    assert resumed.sweep(NOW + 4, RULES).state(4) is State.CALLED


def test_a_draining_line_calls_on():
    roster = line_of(3).with_gate(Gate.DRAINING, SORRY, "", NOW, RULES)
    assert roster.sweep(NOW, RULES).numbers(State.CALLED) == [1, 2, 3]


def test_closing_ends_everybody_who_is_not_at_the_desk():
    roster = at_desk(1, 2, 3, people=8).sweep(NOW, RULES, silent=[8]).leave(7, NOW, RULES)
    roster = roster.with_gate(Gate.CLOSED, SORRY, "08:30", NOW, RULES)
    assert [roster.state(number) for number in (1, 2, 3)] == [
        State.SERVING,
        State.SERVING,
        State.READY,
    ]
    assert roster.state(7) is State.LEFT
    assert [roster.state(number) for number in (4, 5, 6, 8)] == [None] * 4
    assert roster.void_below == 9
    assert (roster.said, roster.opens_at) == (SORRY, "08:30")


def test_after_opening_again_numbers_go_on():
    roster = line_of(5).with_gate(Gate.CLOSED, SORRY, "", NOW, RULES)
    roster = roster.with_gate(Gate.OPEN, NOTHING_SAID, "", NOW, RULES)
    assert roster.take_many(1, RULES)[1].first == 6


# Whom the marshal calls


def test_nobody_is_skipped():
    roster = line_of(9).sweep(NOW, RULES, suspect=frozenset({1, 2}))
    assert roster.numbers(State.CALLED) == [1, 2, 3, 4, 5]


def test_a_suspect_is_called_in_turn_but_uses_up_no_call():
    roster = line_of(9).sweep(NOW, RULES, suspect=frozenset({2, 7}))
    assert roster.numbers(State.CALLED) == [1, 2, 3, 4]
    assert roster.sweep(NOW, RULES, suspect=frozenset({2})) == roster, "nor again"


def test_a_whole_line_of_suspects_is_called_to_its_end():
    suspect = frozenset(range(1, 8))
    assert list(line_of(7).sweep(NOW, RULES, suspect=suspect).order) == []


def test_a_call_unanswered_for_ten_seconds_keeps_nobody_behind():
    roster = called(9)
    assert len(roster.sweep(NOW + 9.9, RULES).numbers(State.CALLED)) == 3
    assert len(roster.sweep(NOW + 10, RULES).numbers(State.CALLED)) == 6


def test_there_is_no_hurry_while_every_place_is_taken():
    roster = at_desk(1, 2, people=9)
    assert roster.numbers(State.CALLED) == [3]
    assert roster.sweep(NOW + 60, RULES).numbers(State.CALLED) == [3]


def test_who_is_ready_has_a_place_as_good_as_taken():
    roster = at_desk(1, 2, 3, people=9)
    assert roster.sweep(NOW, RULES).numbers(State.CALLED) == []


def test_nobody_is_called_to_a_desk_without_places():
    roster = line_of(3, places=0)
    assert roster.sweep(NOW, RULES).numbers(State.CALLED) == []


def test_nobody_is_called_while_the_slow_service_is_stopped():
    roster = line_of(3).sweep(NOW, RULES, work=Work(stopped=True))
    assert roster.numbers(State.CALLED) == []
    assert roster.sweep(NOW, RULES, work=Work()).numbers(State.CALLED) == [1, 2, 3]


def test_a_place_whose_job_still_waits_for_a_slot_is_as_good_as_taken():
    assert line_of(9).sweep(NOW, RULES, work=Work(held=2)).numbers(State.CALLED) == [1]


def test_a_frozen_line_calls_nobody_sets_nobody_aside_and_expires_nobody():
    roster = at_desk(1, people=9).sweep(NOW, RULES, silent=[9])
    roster = replace(roster, frozen=True).sweep(NOW + 5_000, RULES, silent=[5, 6])
    assert list(roster.order) == [4, 5, 6, 7, 8]
    assert roster.numbers(State.CALLED) == [2, 3]
    assert roster.state(1) is State.SERVING
    assert roster.state(9) is State.ASIDE
    assert roster.thaw().sweep(NOW + 5_000, RULES).numbers(State.CALLED) == [4, 5, 6]


def test_the_silent_are_marked_and_the_mark_goes_when_they_are_heard_called_or_aside():
    roster = called(9).sweep(NOW, RULES, away=[1, 5, 6, 7])
    assert list(roster.away) == [5, 6, 7], "of those who wait"
    roster = roster.sweep(NOW, RULES, heard=[5]).call(6, NOW, RULES).set_aside(7, NOW, RULES)
    assert list(roster.away) == []


# Lost and entered again


def test_a_lost_ticket_enters_at_its_number():
    roster = Roster("new", next_number=9)
    for number in (7, 2, 5):
        roster = roster.enter(number, State.WAITING, NOW, RULES)
    assert list(roster.order) == [2, 5, 7]
    assert roster.enter(5, State.WAITING, NOW, RULES) is roster


def test_no_number_of_a_ticket_that_enters_is_given_again():
    assert Roster("new").enter(41, State.WAITING, NOW, RULES).next_number == 42


def test_whoever_was_called_when_all_was_lost_waits_again_at_the_number():
    roster = Roster("new", frozen=True, next_number=9).enter(2, State.CALLED, NOW, RULES)
    assert roster.state(2) is State.WAITING


def test_whoever_was_aside_enters_aside():
    roster = Roster("new", frozen=True, next_number=9).enter(2, State.ASIDE, NOW, RULES)
    assert roster.state(2) is State.ASIDE


def test_a_place_is_kept_through_the_freeze_for_whoever_sat_there():
    """Somebody confirmed who asked first used to take it, and the other came back to a line."""
    roster = Roster("new", frozen=True, next_number=9, places=1)
    roster = roster.enter(3, State.READY, NOW, RULES)
    assert roster.state(3) is State.READY
    roster = roster.enter(2, State.SERVING, NOW, RULES).sweep(NOW, RULES)
    assert (roster.state(2), roster.state(3)) == (State.SERVING, State.READY)
    roster = roster.finish(2, NOW, RULES).thaw().sweep(NOW, RULES)
    assert roster.state(3) is State.SERVING


def test_whoever_was_at_the_desk_enters_there_only_while_frozen_and_while_a_place_is_free():
    roster = Roster("new", frozen=True, next_number=9)
    for number in (3, 1, 2):
        roster = roster.enter(number, State.SERVING, NOW, RULES)
    assert roster.numbers(State.SERVING) == [1, 3]
    assert list(roster.order) == [2], "in front of all who come after"
    thawed = Roster("new", next_number=9).enter(1, State.SERVING, NOW, RULES)
    assert thawed.state(1) is State.WAITING


def test_the_newest_ticket_wins():
    """A delayed older request had entered somebody as waiting who was at the desk."""
    roster = Roster("new", frozen=True, next_number=9).enter(2, State.WAITING, NOW, RULES)
    roster = roster.enter(2, State.SERVING, NOW, RULES)
    assert roster.state(2) is State.SERVING
    assert list(roster.order) == []


# Estimates


def visited(*seconds_at_desk, **changes):
    visits = tuple(Visit(NOW, True, 60, each) for each in seconds_at_desk)
    return Roster("measured", visits=visits, **changes)


def test_nothing_is_estimated_from_fewer_than_five_visits():
    assert visited(60, 60, 60, 60).estimate(3) is None
    missed = tuple(Visit(NOW, False, 0, 0) for _ in range(20))
    assert Roster("measured", visits=missed).estimate(3) is None


def test_an_estimate_goes_from_the_middle_to_the_eightieth_percentile():
    assert visited(10, 20, 30, 40, 50, places=2).estimate(6) == (6 * 15, 6 * 20)
    assert visited(10, 20, 30, 40, 50).estimate(0) == (0, 0)


def test_where_the_slow_service_is_slower_than_the_desk_it_sets_the_pace():
    roster = visited(10, 10, 10, 10, 10, work=Work(middle_seconds=60, high_seconds=80, slots=2))
    assert roster.estimate(2) == (60, 80)


def test_nothing_is_estimated_without_places():
    assert visited(60, 60, 60, 60, 60, places=0).estimate(3) is None


def test_the_last_fifty_visits_are_remembered():
    roster = line_of(0)
    for number in range(60):
        roster = roster._remember(Visit(NOW + number, True, 0, 0))
    assert [visit.at for visit in roster.visits] == [NOW + number for number in range(10, 60)]


# How it is kept

NUMBERS = st.integers(0, 3_000)
SETS = st.sets(NUMBERS, max_size=12).map(lambda members: NumberSet().add_many(list(members)))
TIMES = st.integers(0, 10**8).map(lambda thousandth: thousandth / 1000)
TENTHS = st.integers(0, 10**6).map(lambda tenth: tenth / 10)
WORDS = st.builds(Words, st.text(max_size=20), st.text(max_size=20))
SEATS = st.builds(
    Seat,
    state=st.sampled_from([State.CALLED, State.READY, State.SERVING, State.DONE, State.LEFT]),
    since=TIMES,
    until=TIMES,
    extends=st.integers(0, 10),
    waited=TENTHS,
    anchor=st.none() | NUMBERS,
    said=WORDS,
    by=st.text(max_size=10),
)
ROSTERS = st.builds(
    Roster,
    generation=st.text("0123456789abcdef", max_size=32),
    version=st.integers(1, 10**9),
    epoch=st.integers(0, 10**6),
    time=TIMES,
    gate=st.sampled_from(Gate),
    said=WORDS,
    opens_at=st.text(max_size=5),
    places=st.integers(0, 999),
    next_number=st.integers(1, 10**9),
    void_below=NUMBERS,
    frozen=st.booleans(),
    order=st.builds(
        Order,
        SETS,
        st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4).map(
            lambda pairs: tuple(sorted(pairs, key=lambda pair: pair[1]))
        ),
    ),
    away=SETS,
    seats=st.dictionaries(NUMBERS, SEATS, max_size=4),
    aside=st.lists(st.tuples(TIMES, SETS), max_size=4).map(tuple),
    moved=st.dictionaries(NUMBERS, st.builds(Moved, NUMBERS, NUMBERS, WORDS), max_size=3),
    announcement=WORDS,
    announcement_id=NUMBERS,
    visits=st.lists(st.builds(Visit, TENTHS, st.booleans(), TENTHS, TENTHS), max_size=5).map(tuple),
    work=st.builds(
        Work,
        st.integers(0, 10**5).map(lambda hundredth: hundredth / 100),
        st.integers(0, 10**5).map(lambda hundredth: hundredth / 100),
        st.integers(0, 99),
        st.integers(0, 99),
        st.booleans(),
    ),
)


@settings(max_examples=150, deadline=None, print_blob=True)
@given(ROSTERS)
def test_a_roster_comes_back_from_its_bytes_as_it_was(roster):
    assert Roster.from_bytes(roster.to_bytes()) == roster


def packed(header, maps=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return FORMAT + zlib.compress(len(text).to_bytes(4, "big") + text + maps)


def header_of(roster):
    raw = zlib.decompress(roster.to_bytes()[3:])
    size = int.from_bytes(raw[:4], "big")
    return json.loads(raw[4 : 4 + size]), raw[4 + size :]


def test_bytes_that_are_no_roster_are_told_as_such():
    whole = at_desk(1, 2).to_bytes()
    junk: tuple[object, ...] = ({}, [], None, "roster", 7, b"{", b"\xff\xfe", b"[" * 50)
    unreadable = [
        b"",
        b"NS1",
        b"NS2" + whole[3:],
        b"null",
        whole[3:],
        *(whole[:size] for size in range(len(whole))),
        *map(packed, junk),
    ]
    for data in unreadable:
        with pytest.raises(ValueError):
            Roster.from_bytes(data)


def test_no_flipped_bit_makes_another_roster():
    """Bits that only fill up the last byte of the packing may flip unseen."""
    roster = at_desk(1, 2)
    whole = roster.to_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            try:
                read = Roster.from_bytes(
                    whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
                )
            except ValueError:
                continue
            assert read == roster


def test_a_header_with_a_part_missing_or_of_another_kind_is_told_as_such():
    others: tuple[object, ...] = (None, "x", 7, [], {}, [None], [[]])
    header, maps = header_of(at_desk(1, 2).move(6, 1, SORRY).sweep(NOW, RULES, silent=[5]))
    for key in header:
        without = {name: value for name, value in header.items() if name != key}
        with pytest.raises(ValueError):
            Roster.from_bytes(packed(without, maps))
        for other in others:
            try:
                Roster.from_bytes(packed({**header, key: other}, maps))
            except ValueError:
                pass


def test_bitmaps_of_another_length_than_the_header_says_are_refused():
    header, maps = header_of(line_of(20))
    for other in (maps + b"\0", maps[:-1]):
        with pytest.raises(ValueError, match="bitmaps"):
            Roster.from_bytes(packed(header, other))


def test_a_small_value_that_unpacks_to_a_large_one_is_not_unpacked():
    bomb = FORMAT + zlib.compress(bytes(LARGEST_BYTES + 1))
    assert len(bomb) < 20_000
    with pytest.raises(ValueError, match="larger"):
        Roster.from_bytes(bomb)


def test_a_hundred_thousand_waiting_fit_into_twenty_kibibytes():
    """As they do after a busy day: every third has left somewhere in between."""
    roster, _ = Roster("day").take_many(150_000, replace(RULES, max_waiting=150_000))
    gone = random.Random(7).sample(range(1, 150_001), 50_000)
    roster = replace(roster, order=roster.order.discard_many(gone)).sweep(NOW, RULES)
    assert len(roster.order) > 99_000
    assert len(roster.to_bytes()) <= 20 * 1024


class Counted:
    """Counts the sets that are made while it is open: each costs as much as all who wait."""

    def __init__(self, monkeypatch):
        self.sets = 0
        made = NumberSet.__init__

        def count(number_set, *args):
            self.sets += 1
            made(number_set, *args)

        monkeypatch.setattr(NumberSet, "__init__", count)


@pytest.mark.parametrize("together", [10_000, 100_000])
def test_a_crowd_that_falls_silent_at_once_costs_no_more_sets_than_one_person(
    together, monkeypatch
):
    crowd = line_of(100_000).sweep(NOW, RULES)
    counted = Counted(monkeypatch)
    crowd.sweep(NOW, RULES, silent=[50_000])
    for_one, counted.sets = counted.sets, 0
    crowd.sweep(NOW, RULES, silent=range(1, together + 1))
    assert counted.sets <= for_one + 1
    counted.sets = 0
    crowd.sweep(NOW, RULES, away=range(1, together + 1))
    assert counted.sets <= for_one + 1


def test_a_crowd_aside_fits_into_the_store():
    """A hundred thousand fall silent over a quarter of an hour, in no order at all."""
    numbers = list(range(1, 100_001))
    random.Random(7).shuffle(numbers)
    roster = line_of(100_000)
    for at in range(30):
        roster = roster.sweep(NOW + 29 * at, RULES, silent=numbers[at::30])
    assert roster.count_aside() > 99_900
    assert len(roster.aside) <= 32
    assert len(roster.to_bytes()) < 1_000_000
    assert Roster.from_bytes(roster.to_bytes()) == roster


def test_time_sets_nobody_free_who_was_not_asked():
    """A sweep in which nothing is due changes nothing: the same roster, so the same version."""
    roster = at_desk(1, 2, 3).sweep(NOW, RULES)
    assert roster.sweep(NOW + 1, RULES) == roster


def test_words_are_told_in_the_language_that_there_is():
    assert SORRY.in_language("zh-Hans") == "窗口要搬"
    assert SORRY.in_language("en") == "The desk moves"
    assert Words(en="Only so").in_language("zh-Hans") == "Only so"
    assert not NOTHING_SAID
