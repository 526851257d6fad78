"""The checker finds what it is there for: each rule has a history that breaks it, beside one
that is nearly the same and breaks nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.history import (
    FAILED,
    OK,
    UNKNOWN,
    Bounds,
    Call,
    History,
    Job,
    Told,
    check,
    figures,
    read_history,
)

BOUNDS = Bounds(places=2, slots=2, answer_seconds=10, silent_aside_seconds=20)


class Tale:
    """A history told by a test: who did what, from when to when, and what was said."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def add(
        self,
        who: str,
        verb: str,
        began: float,
        ended: float,
        state: str = "",
        outcome: str = OK,
        **said,
    ) -> "Tale":
        told = None if outcome == UNKNOWN else Told(state=state, **said)
        self.calls.append(Call(len(self.calls), who, verb, began, ended, outcome, told))
        return self

    def took(self, who: str, number: int, at: float, rev: int = 1, ahead: int = 0) -> "Tale":
        return self.add(
            who, "take", at, at + 0.1, "waiting", number=number, rev=rev, ahead=ahead, behind=0,
            waiting=ahead + 1,
        )  # fmt: skip

    def heard(self, who: str, number: int, at: float, state: str, rev: int, **said) -> "Tale":
        return self.add(who, "poll", at, at + 0.1, state, number=number, rev=rev, **said)

    def waits(self, who: str, number: int, at: float, rev: int, ahead: int, **said) -> "Tale":
        said = {"behind": 0, "waiting": ahead + 1, **said}
        return self.heard(who, number, at, "waiting", rev, ahead=ahead, **said)

    def looked(self, at: float, serving: tuple[int, ...] = (), **said) -> "Tale":
        return self.add("the hall", "look", at, at + 0.01, serving=serving, rev=1, **said)

    def broken(self, jobs: list[Job] | None = None, bounds: Bounds = BOUNDS) -> list[str]:
        return sorted({violation.rule for violation in check(self.calls, jobs, bounds)})


def job(id: int, key: str, taken_at: float | None = None, done_at: float | None = None) -> Job:
    return Job(str(id), key, "done", 1, taken_at, done_at)


def test_one_visit_from_take_to_done_breaks_nothing():
    tale = (
        Tale()
        .took("ann", 1, 0)
        .waits("ann", 1, 1, rev=2, ahead=0)
        .heard("ann", 1, 2, "called", rev=3, called=(1,))
        .add("ann", "confirm", 2.2, 2.3, "serving", number=1, rev=4, serving=(1,))
        .add("ann", "submit", 3, 3.1, "done", number=1, rev=5, job="1")
        .heard("ann", 1, 4, "done", rev=5, job="1", result="done")
    )
    assert tale.broken([job(1, "k:1", 3.1, 3.5)]) == []


def test_s1_finds_a_number_in_two_hands():
    tale = Tale().took("ann", 1, 0).took("bob", 2, 1, rev=2, ahead=1)
    assert tale.broken() == []
    assert "S1" in tale.took("eve", 2, 2, rev=3, ahead=2).broken()


def test_s1_finds_a_number_given_again_after_a_loss():
    tale = Tale().took("ann", 1, 0).took("bob", 1, 60, rev=2000)
    assert "S1" in tale.broken()


def test_s2_finds_a_later_join_with_a_smaller_number():
    tale = Tale().took("ann", 2, 0).took("bob", 1, 5)
    assert "S2" in tale.broken()


def test_s2_says_nothing_of_joins_that_overlap():
    tale = Tale().took("ann", 2, 0).took("bob", 1, 0.05)
    assert "S2" not in tale.broken()


def test_s2_counts_a_repeated_join_from_its_first_try():
    tale = Tale().add("bob", "take", 0, 1, outcome=UNKNOWN).took("ann", 2, 2)
    assert "S2" not in tale.took("bob", 1, 5).broken()


def two_in_line() -> Tale:
    return Tale().took("ann", 1, 0).took("bob", 2, 1, rev=2, ahead=1)


def test_s3_finds_somebody_called_over_a_smaller_number():
    tale = two_in_line().heard("bob", 2, 2, "called", rev=3, called=(2,))
    assert tale.broken() == []  # ann may have been called as well
    tale.waits("ann", 1, 3, rev=4, ahead=1, called=(2,), waiting=1)
    assert tale.broken() == ["S10", "S3"]  # and ann's place got worse


def test_s3_lets_pass_who_left_and_came_back():
    tale = (
        two_in_line()
        .add("ann", "leave", 1.5, 1.6, "left", number=1, rev=3)
        .heard("bob", 2, 2, "called", rev=4, called=(2,))
        .add("ann", "undo", 3, 3.1, "waiting", number=1, rev=5, ahead=1, called=(2,), behind=0)
    )
    assert tale.broken() == []


def test_s3_lets_pass_who_returns_from_aside_and_is_next():
    tale = (
        Tale()
        .took("ann", 1, 0)
        .took("bob", 2, 1, rev=2, ahead=1)
        .heard("ann", 1, 30, "aside", rev=3)
        .add("ann", "return", 31, 31.1, "waiting", number=1, rev=4, ahead=0, behind=1, waiting=2)
    )
    called = replace(tale.calls[-1], id=9, verb="poll", began=33, ended=33.1)
    called.told = Told(state="called", number=1, rev=5, called=(1,))
    tale.calls.append(called)
    # bob had been called once, too, and waits after a return as well; who is called is in order
    assert tale.waits("bob", 2, 34, rev=6, ahead=1, called=(1,), waiting=1).broken() == []


def test_s3_does_not_compare_across_a_loss():
    tale = (
        two_in_line()
        .heard("bob", 2, 2, "serving", rev=5, serving=(2,))
        # Everything was lost: bob is back at the desk, ann at her number, not called again yet.
        .waits("ann", 1, 10, rev=2000, ahead=0, frozen=True)
        .heard("bob", 2, 11, "serving", rev=2001, serving=(2,))
        .waits("ann", 1, 12, rev=2002, ahead=1, serving=(2,), waiting=1)
    )
    assert tale.broken() == []


def test_s3_finds_somebody_called_out_of_turn_after_a_loss():
    tale = (
        two_in_line()
        .waits("ann", 1, 10, rev=2000, ahead=0, frozen=True)
        .waits("bob", 2, 10, rev=2001, ahead=1, frozen=True)
        .heard("bob", 2, 12, "called", rev=2002, called=(2,))
        .waits("ann", 1, 13, rev=2003, ahead=1, called=(2,), waiting=1)
    )
    assert "S3" in tale.broken()


def three_at_the_desk(last_submit: float) -> Tale:
    tale = Tale()
    for number, (who, began) in enumerate((("ann", 1), ("bob", 2), ("eve", 3)), 1):
        tale.took(who, number, number / 10, rev=number, ahead=number - 1)
        tale.heard(who, number, began, "serving", rev=10 + number)
    tale.add("ann", "submit", last_submit, last_submit + 0.1, "done", number=1, rev=20, job="1")
    tale.add("bob", "submit", 5, 5.1, "done", number=2, rev=21, job="2")
    return tale.add("eve", "submit", 6, 6.1, "done", number=3, rev=22, job="3")


def test_s4_finds_three_at_two_places_by_their_own_clocks():
    assert three_at_the_desk(last_submit=2.5).broken() == []
    assert three_at_the_desk(last_submit=4).broken() == ["S4"]


def test_s4_takes_a_submit_of_unknown_outcome_for_the_end():
    tale = three_at_the_desk(last_submit=4)
    tale.calls.insert(0, Call(99, "ann", "submit", 2.5, 3.5, UNKNOWN))
    assert tale.broken() == []


def test_s4_finds_a_version_with_three_at_the_desk():
    tale = Tale().looked(1, serving=(1, 2))
    assert tale.broken() == []
    assert tale.looked(2, serving=(1, 2, 3)).broken() == ["S4"]


def test_s5_finds_a_ticket_that_is_not_known_any_more():
    tale = Tale().took("ann", 7, 0)
    tale.add("ann", "poll", 2, 2.1, outcome=FAILED, status=404, code="ticket-unknown")
    assert tale.broken() == ["S5"]


def test_s5_finds_an_answer_without_the_ticket():
    assert Tale().took("ann", 7, 0).add("ann", "poll", 2, 2.1).broken() == ["S5"]


def test_s5_finds_another_number():
    assert "S5" in Tale().took("ann", 7, 0).waits("ann", 8, 2, rev=2, ahead=0).broken()


def test_s5_finds_somebody_set_aside_who_kept_asking():
    tale = Tale().took("ann", 1, 0)
    for second in range(2, 12, 2):
        tale.waits("ann", 1, second, rev=second, ahead=0)
    assert tale.broken() == []
    assert tale.heard("ann", 1, 12, "aside", rev=12).broken() == ["S5"]


def test_s5_lets_aside_who_was_silent_or_did_not_answer():
    silent = Tale().took("ann", 1, 0).heard("ann", 1, 25, "aside", rev=12)
    assert silent.broken() == []
    stalled = Tale().took("ann", 1, 0)
    for second in range(1, 11):
        stalled.heard("ann", 1, second, "called", rev=5)
    assert stalled.heard("ann", 1, 12, "aside", rev=12).broken() == []


@pytest.mark.parametrize("state", ["left", "done", "removed", "closed"])
def test_s5_finds_an_ending_that_nobody_asked_for(state: str):
    assert Tale().took("ann", 1, 0).heard("ann", 1, 2, state, rev=2).broken() == ["S5"]


def test_s5_finds_somebody_sent_back_to_wait():
    tale = Tale().took("ann", 1, 0).heard("ann", 1, 2, "called", rev=3)
    assert tale.waits("ann", 1, 4, rev=5, ahead=0).broken() == ["S5"]


def served(who: str, number: int, at: float, job_id: str) -> Tale:
    return (
        Tale()
        .took(who, number, at, rev=number * 10)
        .heard(who, number, at + 1, "serving", rev=number * 10 + 1)
        .add(who, "submit", at + 2, at + 2.1, "done", number=number, rev=number * 10 + 2,
             job=job_id)
    )  # fmt: skip


def test_s9_finds_two_jobs_of_one_submission():
    tale = served("ann", 1, 0, "1")
    assert tale.broken([job(1, "ann:1")]) == []
    assert tale.broken([job(1, "ann:1"), job(2, "ann:1")]) == ["S9"]


def test_s9_finds_a_double_submit_that_was_told_of_two_jobs():
    tale = served("ann", 1, 0, "1")
    tale.add("ann", "submit", 2, 2.2, "done", number=1, rev=12, job="2")
    assert "S9" in tale.broken([job(1, "ann:1"), job(2, "ann:2")])


def test_s9_finds_one_job_told_to_two():
    tale = served("ann", 1, 0, "1")
    tale.calls += served("bob", 2, 10, "1").calls
    assert "S9" in tale.broken([job(1, "ann:1"), job(2, "bob:1")])


def test_s9_finds_an_accepted_submission_without_a_job():
    assert served("ann", 1, 0, "1").broken([]) == ["S9"]


def test_s9_allows_a_job_of_a_submission_that_nobody_answered():
    tale = Tale().took("ann", 1, 0).heard("ann", 1, 1, "serving", rev=2)
    tale.add("ann", "submit", 2, 7, outcome=UNKNOWN)
    assert tale.broken([]) == []
    assert tale.broken([job(1, "ann:1")]) == []
    assert tale.broken([job(1, "ann:1"), job(2, "who:1")]) == ["S9"]


def test_s6_finds_three_jobs_running():
    two = [job(1, "a", 0, 5), job(2, "b", 1, 6)]
    assert Tale().broken(two + [job(3, "c", 5, 9)]) == ["S9"]  # nobody submitted them
    assert "S6" in Tale().broken(two + [job(3, "c", 4, 9)])
    assert "S6" in Tale().broken(two + [job(3, "c", 4, None)])


def test_s10_finds_two_in_one_place():
    tale = two_in_line().waits("ann", 1, 3, rev=5, ahead=0, behind=1, waiting=2)
    tale.waits("bob", 2, 3, rev=5, ahead=1, waiting=2)
    assert tale.broken() == []
    assert "S10" in tale.waits("bob", 2, 4, rev=5, ahead=0, behind=1, waiting=2).broken()


def test_s10_finds_answers_of_one_version_that_count_differently():
    tale = two_in_line().waits("ann", 1, 3, rev=5, ahead=0, behind=1, waiting=2)
    assert tale.waits("bob", 2, 3, rev=5, ahead=1, behind=1, waiting=2).broken() == ["S10"]


def test_s10_finds_a_place_that_no_number_between_explains():
    tale = two_in_line().waits("ann", 1, 3, rev=5, ahead=0, behind=5, waiting=6)
    assert tale.waits("bob", 2, 3, rev=5, ahead=4, behind=1, waiting=6).broken() == ["S10"]


def test_s10_finds_a_place_that_got_worse():
    tale = Tale().took("bob", 5, 0, rev=1, ahead=3)
    tale.waits("bob", 5, 5, rev=2, ahead=2)
    assert tale.broken() == []
    assert tale.waits("bob", 5, 7, rev=3, ahead=3).broken() == ["S10"]


def test_s10_allows_one_place_for_each_who_came_back():
    tale = Tale().took("ann", 4, 0, rev=1, ahead=1).took("bob", 5, 0.2, rev=2, ahead=2)
    tale.heard("ann", 4, 25, "aside", rev=2)
    tale.add("ann", "return", 26, 26.1, "waiting", number=4, rev=3, ahead=0, behind=2, waiting=3)
    for second in range(2, 26, 4):
        tale.waits("bob", 5, second, rev=2, ahead=2)
    assert tale.waits("bob", 5, 27, rev=4, ahead=3).broken() == []
    assert tale.waits("bob", 5, 28, rev=5, ahead=5).broken() == ["S10"]


def test_s10_allows_any_place_while_a_lost_line_is_put_back_in_order():
    tale = Tale().took("bob", 5, 0, rev=1, ahead=4)
    tale.waits("bob", 5, 10, rev=2000, ahead=0, frozen=True)
    tale.waits("bob", 5, 11, rev=2003, ahead=3, frozen=True)
    tale.waits("bob", 5, 14, rev=2004, ahead=4)
    assert tale.broken() == []


def test_s10_allows_one_place_for_each_who_looks_in_long_after_a_loss():
    tale = Tale().took("ann", 4, 0, rev=1, ahead=1).took("bob", 5, 0.2, rev=2, ahead=2)
    tale.waits("bob", 5, 10, rev=2000, ahead=1, behind=0, waiting=2)
    tale.waits("ann", 4, 14, rev=2001, ahead=1, behind=1, waiting=3)
    assert "S10" not in tale.waits("bob", 5, 15, rev=2001, ahead=2, waiting=3).broken()
    assert "S10" in tale.waits("bob", 5, 16, rev=2002, ahead=4, waiting=5).broken()


def test_l1_finds_somebody_waiting_after_a_long_silence():
    tale = Tale().took("ann", 1, 0)
    assert tale.waits("ann", 1, 60, rev=9, ahead=0).broken() == ["L1"]


def test_l1_finds_a_call_that_never_ends():
    tale = Tale().took("ann", 1, 0)
    for second in range(1, 14):
        tale.heard("ann", 1, second, "called", rev=2)
    assert tale.broken() == []
    assert tale.heard("ann", 1, 20, "called", rev=2).broken() == ["L1"]


def test_l2_finds_a_free_place_that_nobody_is_called_to():
    tale = Tale()
    for tenth in range(40):
        tale.looked(tenth / 10, serving=(1,), waiting=3)
    assert tale.broken() == []
    for tenth in range(40, 60):
        tale.looked(tenth / 10, serving=(1,), waiting=3)
    assert tale.broken() == ["L2"]


def test_l2_waits_for_an_open_call_as_long_as_the_patience():
    tale = Tale()
    for tenth in range(120):
        tale.looked(tenth / 10, serving=(1,), called=(2,), waiting=3)
    assert tale.broken() == []
    for tenth in range(120, 160):
        tale.looked(tenth / 10, serving=(1,), called=(2,), waiting=3)
    assert tale.broken() == ["L2"]


def test_l2_asks_nothing_while_nobody_waits_or_the_house_is_down():
    tale = Tale()
    for tenth in range(100):
        tale.looked(tenth / 10, serving=(1,), waiting=0)
    for tenth in range(100, 200):
        tale.looked(tenth / 10, serving=(1,), waiting=3)
    assert tale.broken(bounds=replace(BOUNDS, outages=((10, 20),))) == []


def test_a_history_is_read_as_it_was_written(tmp_path: Path):
    now = 100.0
    history = History(tmp_path / "history.jsonl", now=lambda: now)
    first = history.begin("ann", "take")
    now = 101.5
    history.end(first, OK, Told(number=3, state="waiting", serving=(1, 2), rev=7))
    history.mark("memcached killed")
    lost = history.begin("ann", "confirm")
    again = read_history(history.path)
    assert again == [first, lost]
    assert again[0].told is not None and again[0].told.serving == (1, 2)
    assert (again[1].outcome, again[1].told) == (UNKNOWN, None)
    history.close()


def test_the_figures_tell_what_happened():
    tale = served("ann", 1, 0, "1")
    tale.took("bob", 2, 3, rev=30).heard("bob", 2, 40, "aside", rev=31)
    told = dict(figures(tale.calls, []))
    assert (told["visits"], told["served"], told["set aside"]) == ("2", "1", "1")
    assert told["longest wait"] == "1.0 s"
