"""The history of a crowd, and whether the promises held in it.

A crowd writes down each call before it is made and again when it is over: when, how it ended
(`ok`, `failed`, or `unknown` when no answer came), and what was told. `check` reads that and
nothing else, so a history that was kept is as good as the run itself, and each rule can be
tried on a history that breaks it (`test_history.py`).

Only what visitors were told is judged. Two things make that exact: a visitor's own clock orders
calls that do not overlap, and each answer carries the version of the roster it was read from
(`rev`). A store's loss begins a new *generation*, whose versions begin 1,000 higher; what an
older generation told is not compared with it.

Kept out: making the calls (`crowd.py`).
"""

import json
import math
import sqlite3
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"

IN_FRONT = frozenset({"called", "ready", "serving"})
ENDED = frozenset({"done", "left", "removed", "expired", "closed"})
# A visitor who does one of these stands elsewhere than the number says from then on.
EXCEPTIONS = frozenset({"leave", "undo", "return", "yield"})

GENERATION_GAP = 900  # versions are made 1,000 higher after a loss
STALE_SECONDS = 2.0  # a process answers from a roster that is at most a round old


@dataclass(frozen=True, slots=True)
class Told:
    """What one answer said. Of a look at the wall only the line's part is there."""

    status: int = 200
    code: str = ""
    rev: int = 0
    number: int | None = None
    state: str = ""
    ahead: int | None = None
    behind: int | None = None
    waiting: int = 0
    serving: tuple[int, ...] = ()
    called: tuple[int, ...] = ()
    frozen: bool = False
    job: str = ""
    result: str = ""
    poll_in: float = 0


@dataclass(slots=True)
class Call:
    id: int
    who: str
    verb: str
    began: float
    ended: float = math.inf
    outcome: str = UNKNOWN
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the job line. Times are wall time of one host."""

    id: str
    key: str
    state: str
    attempt: int
    taken_at: float | None
    done_at: float | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings of the line that was watched, as far as promises depend on them."""

    places: int = 2
    slots: int = 2
    answer_seconds: float = 120
    silent_aside_seconds: float = 300
    call_patience_seconds: float = 10
    tick_seconds: float = 1
    # Rounds, whole seconds of TTLs, and a machine that is busy with the crowd itself.
    slack_seconds: float = 5
    # From when to when the house was down on purpose, freezes included: L2 begins afterwards.
    outages: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.sentence}"


# Writing and reading


class History:
    """Each record is on its way to the file before the call goes on."""

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.calls: list[Call] = []
        self.marks: list[tuple[float, str]] = []
        self.now = now
        self._file = open(path, "a", buffering=1, encoding="utf-8")

    def begin(self, who: str, verb: str) -> Call:
        call = Call(len(self.calls), who, verb, self.now())
        self.calls.append(call)
        self._write({"call": call.id, "who": who, "verb": verb, "at": call.began})
        return call

    def end(self, call: Call, outcome: str, told: Told | None = None) -> None:
        call.ended, call.outcome, call.told = self.now(), outcome, told
        record: dict[str, object] = {"call": call.id, "at": call.ended, "outcome": outcome}
        if told is not None:
            record["told"] = asdict(told)
        self._write(record)

    def mark(self, what: str) -> float:
        """What was done to the house meanwhile; the time of it."""
        at = self.now()
        self.marks.append((at, what))
        self._write({"mark": what, "at": at})
        return at

    def close(self) -> None:
        self._file.close()

    def _write(self, record: dict[str, object]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_history(path: Path) -> list[Call]:
    """A call without a second record never ended: its outcome is unknown."""
    calls: dict[int, Call] = {}
    for line in path.read_text("utf-8").splitlines():
        record = json.loads(line)
        if "who" in record:
            calls[record["call"]] = Call(
                record["call"], record["who"], record["verb"], record["at"]
            )
        elif "call" in record:
            call = calls[record["call"]]
            call.ended, call.outcome = record["at"], record["outcome"]
            if told := record.get("told"):
                told["serving"], told["called"] = tuple(told["serving"]), tuple(told["called"])
                call.told = Told(**told)
    return list(calls.values())


def read_jobs(database: Path) -> list[Job]:
    """The rows of the job line, from its SQLite file."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT id, key, state, attempt, taken_at, done_at FROM job ORDER BY id"
        ).fetchall()
    return [Job(str(row[0]), *row[1:]) for row in rows]


# The promises


def check(
    calls: Sequence[Call], jobs: Sequence[Job] | None = None, bounds: Bounds | None = None
) -> list[Violation]:
    """Everything in `calls` and `jobs` that breaks a promise; without `jobs` nothing is said
    of those."""
    bounds = bounds or Bounds()
    seen = Seen(calls)
    found = [
        *numbers_are_given_once(seen),
        *a_later_join_has_the_larger_number(seen),
        *nobody_is_overtaken(seen),
        *no_more_are_served_than_there_are_places(seen, bounds),
        *no_living_ticket_is_lost(seen, bounds),
        *positions_are_exact(seen),
        *positions_do_not_grow(seen),
        *the_silent_are_aside_in_time(seen, bounds),
        *free_places_are_offered(seen, bounds),
    ]
    if jobs is not None:
        found += one_submission_is_one_job(seen, jobs)
        found += no_more_run_than_there_are_slots(jobs, bounds)
    return found


@dataclass(slots=True)
class Visit:
    """All calls of one visitor, in the order in which they began."""

    who: str
    calls: list[Call] = field(default_factory=list)

    @property
    def told(self) -> Iterator[tuple[Call, Told]]:
        """Answers that said how the ticket stands."""
        return (
            (call, call.told)
            for call in self.calls
            if call.outcome == OK and call.told is not None and call.told.state
        )

    @property
    def number(self) -> int | None:
        return next((told.number for _, told in self.told), None)

    def began(self, *verbs: str) -> float:
        """When the visitor first tried one of `verbs`; it may have worked whatever was told."""
        return min((call.began for call in self.calls if call.verb in verbs), default=math.inf)

    def accepted(self, verb: str) -> list[Call]:
        return [call for call in self.calls if call.verb == verb and call.outcome == OK]

    def plain_waiting(self) -> list[tuple[Call, Told]]:
        """The answers that said `waiting` while the visitor stood where the number says:
        from the start to the first call, or to the first thing that made an exception."""
        until = self.began(*EXCEPTIONS)
        plain: list[tuple[Call, Told]] = []
        for call, told in self.told:
            if told.state != "waiting" or call.ended >= until:
                break
            plain.append((call, told))
        return plain


class Seen:
    """The calls, by visitor and by generation."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.visits: dict[str, Visit] = {}
        self.looks: list[tuple[Call, Told]] = []  # at the wall, by whoever looks
        for call in sorted(calls, key=lambda each: each.began):
            if call.verb == "look":
                if call.outcome == OK and call.told is not None:
                    self.looks.append((call, call.told))
            else:
                self.visits.setdefault(call.who, Visit(call.who)).calls.append(call)
        revs = sorted({call.told.rev for call in calls if call.told and call.told.rev})
        self._begins = [
            after
            for before, after in zip(revs, revs[1:], strict=False)
            if after - before >= GENERATION_GAP
        ]
        self.by_number = sorted(
            (visit for visit in self.visits.values() if visit.number is not None),
            key=lambda visit: visit.number or 0,
        )

    def generation(self, told: Told) -> int:
        """How many losses the roster had gone through that this was read from."""
        return bisect_right(self._begins, told.rev)

    @property
    def generations(self) -> range:
        return range(len(self._begins) + 1)

    def exceptions(self) -> list[tuple[float, float]]:
        """When somebody may have come to stand before others again: by their own wish, or
        because they looked in for the first time after a loss, perhaps long after it."""
        wished = [
            (call.began, call.ended)
            for visit in self.visits.values()
            for call in visit.calls
            if call.verb in ("undo", "return") and call.outcome != FAILED
        ]
        entered = [
            (call.began, call.ended)
            for visit in self.visits.values()
            for (_, before), (call, told) in pairwise(visit.told)
            if self.generation(told) > self.generation(before)
        ]
        return sorted(wished + entered)


def numbers_are_given_once(seen: Seen) -> Iterator[Violation]:
    """S1"""
    holders: defaultdict[int, set[str]] = defaultdict(set)
    for visit in seen.visits.values():
        for _, told in visit.told:
            if told.number is not None:
                holders[told.number].add(visit.who)
    for number, who in holders.items():
        if len(who) > 1:
            yield Violation("S1", f"number {number} is held by {', '.join(sorted(who))}")


def a_later_join_has_the_larger_number(seen: Seen) -> Iterator[Violation]:
    """S2: a join that ended before another began has the smaller number."""
    joins: list[tuple[float, float, int, str]] = []
    for visit in seen.visits.values():
        accepted = visit.accepted("take")
        if accepted and accepted[0].told and accepted[0].told.number is not None:
            # A repeated request may have got its number at the first try.
            joins.append(
                (visit.began("take"), accepted[0].ended, accepted[0].told.number, visit.who)
            )
    ended = sorted((end, number, who) for _, end, number, who in joins)
    at, largest, holder = 0, -1, ""
    for began, _, number, who in sorted(joins):
        while at < len(ended) and ended[at][0] < began:
            if ended[at][1] > largest:
                largest, holder = ended[at][1], ended[at][2]
            at += 1
        if largest > number:
            yield Violation("S2", f"{who} joined after {holder} had {largest}, and got {number}")


def nobody_is_overtaken(seen: Seen) -> Iterator[Violation]:
    """S3: whoever is called while a smaller number still waits in its own place, and both were
    told so off one generation, was called out of turn."""
    for generation in seen.generations:
        latest, waiter = -1, 0
        for visit in seen.by_number:
            number = visit.number or 0
            called = _called_at(seen, visit, generation)
            if called is not None and latest >= called:
                yield Violation(
                    "S3",
                    f"{number} was called by version {called}, and {waiter} still waited at"
                    f" version {latest}",
                )
            waited = max(
                (
                    told.rev
                    for _, told in visit.plain_waiting()
                    if seen.generation(told) == generation
                ),
                default=-1,
            )
            if waited > latest:
                latest, waiter = waited, number


def _called_at(seen: Seen, visit: Visit, generation: int) -> int | None:
    """The version by which the visitor was called in turn, in this generation; None when not,
    or as an exception."""
    until = visit.began(*EXCEPTIONS)
    waited_here = generation == 0
    for call, told in visit.told:
        if call.ended >= until:
            return None
        if seen.generation(told) != generation:
            continue
        if told.state == "waiting":
            waited_here = True
        elif told.state in IN_FRONT or told.state == "done":
            # Whoever was at the desk before the loss comes back to it, called by nobody.
            return told.rev if waited_here else None
    return None


def no_more_are_served_than_there_are_places(seen: Seen, bounds: Bounds) -> Iterator[Violation]:
    """S4, twice: by what each version says of itself, and by the visitors' own clocks, from the
    answer that said `serving` to the start of the submit."""
    told_of = [told for visit in seen.visits.values() for _, told in visit.told]
    crowded = {
        told.rev: told.serving
        for told in [*told_of, *(told for _, told in seen.looks)]
        if len(told.serving) > bounds.places
    }
    for rev, serving in sorted(crowded.items()):
        yield Violation("S4", f"version {rev} says that {serving} are at the desk")

    spans = [span for visit in seen.visits.values() for span in _at_the_desk(visit)]
    edges = sorted(
        [(began, 1, who) for began, ended, who in spans if began < ended]
        + [(ended, -1, who) for began, ended, who in spans if began < ended],
        key=lambda edge: (edge[0], edge[1]),
    )
    there: set[str] = set()
    for at, step, who in edges:
        if step < 0:
            there.discard(who)
            continue
        there.add(who)
        if len(there) > bounds.places:
            yield Violation("S4", f"{', '.join(sorted(there))} were at the desk at {at:.3f}")


def _at_the_desk(visit: Visit) -> Iterator[tuple[float, float, str]]:
    """From when to when the visitor certainly was at the desk, by the own clock."""
    began: float | None = None
    last = 0.0
    for call in visit.calls:
        told = call.told if call.outcome == OK else None
        if call.verb == "submit":
            # One of unknown outcome may have freed the place.
            if began is not None and call.outcome != FAILED:
                yield began, call.began, visit.who
                began = None
        elif told is not None and told.state == "serving":
            if began is None:
                began = call.ended
            last = call.began
        elif told is not None and told.state:
            # Never submitted: the place was lost somewhere between two answers, and the last one
            # that still said `serving` may have been a round old.
            if began is not None:
                yield began, last - STALE_SECONDS, visit.who
            began = None
    if began is not None:
        yield began, last - STALE_SECONDS, visit.who


def no_living_ticket_is_lost(seen: Seen, bounds: Bounds) -> Iterator[Violation]:
    """S5: whoever keeps asking keeps number and place; each ending and each step back has a
    cause that the visitor knows."""
    for visit in seen.visits.values():
        number = visit.number
        taken = visit.accepted("take")
        if taken:
            for call in visit.calls:
                lost = call.verb != "take" and (
                    (call.outcome == FAILED and call.told and call.told.status in (401, 404))
                    or (call.outcome == OK and call.told and not call.told.state)
                )
                if lost and call.began > taken[0].ended:
                    code = call.told.code if call.told else ""
                    yield Violation("S5", f"{visit.who}: {number} is not known ({code})")
        yield from _odd_steps(seen, visit, bounds)


def _odd_steps(seen: Seen, visit: Visit, bounds: Bounds) -> Iterator[Violation]:
    number = visit.number
    before: tuple[Call, Told] | None = None
    was_in_front = False
    heard = -math.inf
    longest_silence = 0.0
    for call, told in visit.told:
        if told.number != number:
            yield Violation("S5", f"{visit.who}: {number} became {told.number}")
        if heard > -math.inf:
            longest_silence = max(longest_silence, call.began - heard)
        heard = call.ended
        odd = ""
        if told.state == "left" and visit.began("leave") > call.ended:
            odd = "left without leaving"
        elif told.state == "done" and visit.began("submit") > call.ended:
            odd = "done without a submit"
        elif told.state in ("removed", "closed"):
            odd = f"ended as {told.state}, and nobody did that"
        elif told.state in ("aside", "expired") and not was_in_front:
            # A call is answered within `answer_seconds`, so less silence than that cannot have
            # missed one, nor is it silence.
            bearable = min(bounds.answer_seconds, bounds.silent_aside_seconds)
            if longest_silence < bearable - bounds.tick_seconds - STALE_SECONDS:
                odd = f"{told.state} after at most {longest_silence:.1f} s of silence"
        elif (
            told.state == "waiting"
            and before is not None
            and before[1].state not in ("waiting", "")
            and seen.generation(told) == seen.generation(before[1])
            and told.rev >= before[1].rev
            and not _tried(visit, ("undo", "return"), before[0].began, call.ended)
        ):
            odd = f"sent back from {before[1].state} to waiting"
        if odd:
            yield Violation("S5", f"{visit.who}: {number} {odd}")
        was_in_front = was_in_front or told.state in IN_FRONT
        before = (call, told)


def _tried(visit: Visit, verbs: tuple[str, ...], after: float, until: float) -> bool:
    return any(
        call.verb in verbs and call.ended >= after and call.began <= until for call in visit.calls
    )


def one_submission_is_one_job(seen: Seen, jobs: Sequence[Job]) -> Iterator[Violation]:
    """S9: as many jobs as accepted visits, each told to one visitor; a double submit is one."""
    for key, count in Counter(job.key for job in jobs).items():
        if count > 1:
            yield Violation("S9", f"{count} jobs have the key {key}")
    known = {job.id for job in jobs}
    owners: defaultdict[str, set[str]] = defaultdict(set)
    surely = perhaps = 0
    for visit in seen.visits.values():
        told = {told.job for _, told in visit.told if told.job}
        for id in told:
            owners[id].add(visit.who)
        if len(told) > 1:
            yield Violation("S9", f"{visit.who} was told of the jobs {', '.join(sorted(told))}")
        if visit.accepted("submit"):
            surely += 1
            if not told:
                yield Violation("S9", f"{visit.who} submitted and was never told of a job")
        elif any(call.verb == "submit" and call.outcome == UNKNOWN for call in visit.calls):
            perhaps += 1
    for id, who in owners.items():
        if len(who) > 1:
            yield Violation("S9", f"job {id} was told to {', '.join(sorted(who))}")
        if id not in known:
            yield Violation("S9", f"job {id} was told and is not in the job line")
    if not surely <= len(jobs) <= surely + perhaps:
        yield Violation(
            "S9", f"{len(jobs)} jobs of {surely} submissions, {perhaps} more of unknown outcome"
        )


def no_more_run_than_there_are_slots(jobs: Sequence[Job], bounds: Bounds) -> Iterator[Violation]:
    """S6, by the job line's own times."""
    edges = sorted(
        edge
        for job in jobs
        if job.taken_at is not None
        for edge in ((job.taken_at, 1, job.id), (job.done_at or math.inf, -1, job.id))
    )
    running: set[str] = set()
    for at, step, id in edges:
        if step < 0:
            running.discard(id)
            continue
        running.add(id)
        if len(running) > bounds.slots:
            yield Violation("S6", f"jobs {', '.join(sorted(running))} ran at once at {at:.3f}")


def positions_are_exact(seen: Seen) -> Iterator[Violation]:
    """S10: answers off one version agree: on how many there are, and on everybody's place.

    Between two who wait in number order there are at least those and at most the numbers
    between them.
    """
    together: defaultdict[int, list[tuple[int, Told]]] = defaultdict(list)
    totals: defaultdict[int, set[int]] = defaultdict(set)
    for visit in seen.visits.values():
        for _, told in visit.told:
            if told.state == "waiting" and told.ahead is not None and told.behind is not None:
                totals[told.rev].add(told.ahead + told.behind + 1)
                at_desk = len(told.serving) + len(told.called)
                if told.ahead < at_desk or told.ahead + told.behind + 1 < told.waiting + at_desk:
                    yield Violation(
                        "S10",
                        f"version {told.rev} says {told.ahead} ahead and {told.behind} behind"
                        f" {told.number}, {told.waiting} waiting and {at_desk} called or served",
                    )
        for _, told in visit.plain_waiting():
            if told.number is not None and told.ahead is not None:
                together[told.rev].append((told.number, told))
    for rev, counts in totals.items():
        if len(counts) > 1:
            yield Violation("S10", f"version {rev} counts {sorted(counts)} in line")
    for rev, waiting in together.items():
        places = sorted({(number, told.ahead or 0) for number, told in waiting})
        for (one, ahead), (other, farther) in zip(places, places[1:], strict=False):
            if not min(1, other - one) <= farther - ahead <= other - one:
                yield Violation(
                    "S10",
                    f"version {rev} puts {one} behind {ahead} and {other} behind {farther}",
                )


def positions_do_not_grow(seen: Seen) -> Iterator[Violation]:
    """S10: a place only gets better, but for those who came back, one each, and while a lost
    line is put back in order."""
    exceptions = seen.exceptions()
    starts = [began for began, _ in exceptions]
    for visit in seen.visits.values():
        waiting = [
            (call, told)
            for call, told in visit.told
            if told.state == "waiting" and told.ahead is not None and not told.frozen
        ]
        waiting.sort(key=lambda each: (each[1].rev, each[0].ended))
        for (call, told), (later, after) in zip(waiting, waiting[1:], strict=False):
            grew = (after.ahead or 0) - (told.ahead or 0)
            if grew <= 0 or seen.generation(told) != seen.generation(after):
                continue
            since, until = call.began - STALE_SECONDS, later.ended
            if _tried(visit, tuple(EXCEPTIONS), since, until):
                continue
            came = sum(ended >= since for _, ended in exceptions[: bisect_left(starts, until)])
            if grew > came:
                yield Violation(
                    "S10",
                    f"{told.number} had {told.ahead} ahead at version {told.rev} and"
                    f" {after.ahead} at {after.rev}; {came} came back meanwhile",
                )


def the_silent_are_aside_in_time(seen: Seen, bounds: Bounds) -> Iterator[Violation]:
    """L1: whoever comes back after a long silence finds the number aside, or over; and a call
    that nobody answers ends in time."""
    aside_within = bounds.silent_aside_seconds + bounds.answer_seconds + bounds.slack_seconds
    answer_within = bounds.answer_seconds + bounds.slack_seconds
    for visit in seen.visits.values():
        before: tuple[Call, Told] | None = None
        called_since: float | None = None
        for call, told in visit.told:
            if before is not None:
                silent = call.began - before[0].ended
                lost = seen.generation(told) != seen.generation(before[1])
                lively = told.state in IN_FRONT or told.state == "waiting"
                back = call.verb in ("return", "undo")
                if silent > aside_within and lively and not lost and not back:
                    yield Violation(
                        "L1", f"{told.number} is {told.state} after {silent:.1f} s of silence"
                    )
            if told.state != "called" or call.verb == "extend":
                called_since = None
            elif called_since is None:
                called_since = call.ended
            elif call.began - called_since > answer_within:
                waited = call.began - called_since
                yield Violation("L1", f"{told.number} is still called after {waited:.1f} s")
                called_since = call.began
            before = (call, told)


def free_places_are_offered(seen: Seen, bounds: Bounds) -> Iterator[Violation]:
    """L2: while a place is free and somebody waits, somebody new is called within two ticks;
    where calls are open, they are waited for no longer than the patience."""
    round_old = STALE_SECONDS + 2 * bounds.tick_seconds
    known: set[int] = set()
    since: float | None = None
    for call, told in seen.looks:
        news = {*told.serving, *told.called} - known
        known |= news
        free = len(told.serving) < bounds.places and told.waiting > 0 and not told.frozen
        down = any(call.began < until and call.ended > at for at, until in bounds.outages)
        if not free or news or down:
            since = call.ended if free else None
            continue
        if since is None:
            since = call.ended
        patience = bounds.call_patience_seconds if told.called else 0
        if call.began - since > round_old + patience:
            yield Violation(
                "L2",
                f"for {call.began - since:.1f} s before {call.began:.3f} a place was free,"
                f" {told.waiting} waited, and nobody new was called",
            )
            since = call.ended


# What happened, for people to read


def figures(calls: Sequence[Call], violations: Sequence[Violation]) -> list[tuple[str, str]]:
    """A short table of the run."""
    seen = Seen(calls)
    visits = list(seen.visits.values())
    waits = [
        next(call.ended for call, told in visit.told if told.state in IN_FRONT) - took[0].ended
        for visit in visits
        if (took := visit.accepted("take"))
        and any(told.state in IN_FRONT for _, told in visit.told)
    ]
    states = [{told.state for _, told in visit.told} for visit in visits]
    outcomes = Counter(call.outcome for call in calls)
    span = max((call.ended for call in calls if call.ended < math.inf), default=0.0) - min(
        (call.began for call in calls), default=0.0
    )
    slow = sorted(call.ended - call.began for call in calls if call.outcome == OK)
    return [
        ("visits", str(len(visits))),
        ("served", str(sum("done" in each for each in states))),
        ("set aside", str(sum("aside" in each or "expired" in each for each in states))),
        ("left", str(sum("left" in each for each in states))),
        ("came back", str(sum(bool(visit.accepted("return")) for visit in visits))),
        ("undone", str(sum(bool(visit.accepted("undo")) for visit in visits))),
        ("calls over HTTP", f"{len(calls)} in {span:.0f} s"),
        ("of them failed, unknown", f"{outcomes[FAILED]}, {outcomes[UNKNOWN]}"),
        (
            "answer, median and p99",
            f"{_share(slow, 0.5) * 1000:.0f} ms, {_share(slow, 0.99) * 1000:.0f} ms",
        ),
        ("versions of the roster", str(len({c.told.rev for c in calls if c.told}))),
        ("longest wait", f"{max(waits, default=0):.1f} s"),
        ("violations", str(len(violations))),
    ]


def table(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
