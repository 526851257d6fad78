"""The roster: the one record of a line, and every change that it knows.

It holds who waits in which order (a bitmap and a few exceptions), who is called, at the desk
or aside and until when, what the operator set, and what estimates need. It is a value: each
change is a pure function `roster, now → roster`, so it can be written under `cas`, tried again
on a newer roster, and tested with Tuesday and then with Wednesday.

`now` is *line time*: seconds that the marshal counts with its own monotonic clock and keeps in
the roster itself. While nobody counts (everything was stopped) no deadline comes nearer, and
no host's wall clock can set a whole line aside by jumping.

Kept out: stores and their keys (`line.py`), names and services (each ticket's own entry).
"""

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from queue_backend.errors import LineClosed, LineFull, WrongState
from queue_backend.people.numbers import NumberSet
from queue_backend.people.order import Order
from queue_backend.people.rules import Rules
from queue_backend.people.ticket import State

FORMAT = b"NS1"
LARGEST_BYTES = 8 * 1024 * 1024  # unpacked; memcached holds at most 1 MiB packed
RECENT_VISITS = 50
FEWEST_FOR_ESTIMATE = 5


class Gate(StrEnum):
    OPEN = "open"
    PAUSED = "paused"
    DRAINING = "draining"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Words:
    """What an operator says to people, in both languages; either may be missing."""

    en: str = ""
    zh: str = ""

    def in_language(self, language: str) -> str:
        return (self.zh or self.en) if language.startswith("zh") else (self.en or self.zh)

    def __bool__(self) -> bool:
        return bool(self.en or self.zh)


NOTHING_SAID = Words()


@dataclass(frozen=True, slots=True)
class Seat:
    """Somebody called, ready or serving, or whose visit ended a moment ago."""

    state: State
    since: float  # line time
    until: float  # line time: answer, lease or memory of the ending runs out
    extends: int = 0  # how often more time was granted
    waited: float = 0  # seconds from joining to the call, known from the confirmation on
    anchor: int | None = None  # where the person stood, if not in number order: for the undo
    said: Words = NOTHING_SAID  # why removed
    by: str = ""  # who ended it, when it was an operator


@dataclass(frozen=True, slots=True)
class Moved:
    """A change of place that somebody else made; shown until acknowledged."""

    before: int  # position, from 1
    after: int
    said: Words = NOTHING_SAID


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit that ended at the desk, or a call that nobody answered."""

    at: float  # line time
    served: bool
    waited: float
    at_desk: float


@dataclass(frozen=True, slots=True)
class Work:
    """How busy the job line is, as the marshal last read it. Nobody is called to `held`
    places, because what was submitted from them still waits for a slot."""

    middle_seconds: float = 0
    high_seconds: float = 0
    slots: int = 0
    held: int = 0
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """Numbers `first` and following; the first of them has `ahead` in front, and each person
    ahead adds up to `pace` seconds to the wait (0: still measuring)."""

    first: int
    count: int
    ahead: int
    pace: float


@dataclass(frozen=True, slots=True)
class Roster:
    generation: str
    version: int = 1
    epoch: int = 0
    time: float = 0
    gate: Gate = Gate.OPEN
    said: Words = NOTHING_SAID
    opens_at: str = ""
    places: int = 2
    next_number: int = 1
    void_below: int = 0  # numbers below it that are not in the roster ended when the line closed
    frozen: bool = False
    order: Order = field(default_factory=Order)
    away: NumberSet = field(default_factory=NumberSet)
    seats: Mapping[int, Seat] = field(default_factory=dict)
    # Whole crowds fall silent at once (a lift, a lunch, an outage): those aside are bitmaps by
    # the line time until which they are kept, some thirty of them, not a record each.
    aside: tuple[tuple[float, NumberSet], ...] = ()
    # As all endings these are told from here until the ledger surely has them.
    expired: tuple[tuple[float, NumberSet], ...] = ()
    moved: Mapping[int, Moved] = field(default_factory=dict)
    announcement: Words = NOTHING_SAID
    announcement_id: int = 0
    visits: tuple[Visit, ...] = ()
    work: Work = Work()

    # What is so

    def state(self, number: int) -> State | None:
        """None: this roster does not know the number (any more, or yet)."""
        seat = self.seats.get(number)
        if seat is not None:
            return seat.state
        if number in self.order:
            return State.WAITING
        if self.aside_until(number) is not None:
            return State.ASIDE
        over = any(number in numbers for _, numbers in self.expired)
        return State.EXPIRED if over else None

    def aside_until(self, number: int) -> float | None:
        """Line time until which the number is kept; None for somebody not aside."""
        return next((until for until, numbers in self.aside if number in numbers), None)

    def count_aside(self) -> int:
        return sum(len(numbers) for _, numbers in self.aside)

    def numbers(self, state: State) -> list[int]:
        """Those in a seat of `state`, longest first."""
        chosen = [
            (seat.since, number) for number, seat in self.seats.items() if seat.state is state
        ]
        return [number for _, number in sorted(chosen)]

    def count(self, state: State) -> int:
        return sum(seat.state is state for seat in self.seats.values())

    def seated_ahead(self) -> int:
        """Those in front of everybody who waits: called, confirmed or at the desk."""
        return sum(seat.state in _IN_FRONT for seat in self.seats.values())

    def estimate(self, ahead: int) -> tuple[float, float] | None:
        """Seconds until one's turn with `ahead` in front: from the measured middle to the
        measured 80th percentile. None: no place, or fewer than five visits measured."""
        served = sorted(visit.at_desk for visit in self.visits if visit.served)
        if len(served) < FEWEST_FOR_ESTIMATE or self.places == 0:
            return None
        slots = max(1, self.work.slots)
        middle = max(percentile(served, 0.5) / self.places, self.work.middle_seconds / slots)
        high = max(percentile(served, 0.8) / self.places, self.work.high_seconds / slots)
        return ahead * middle, ahead * max(middle, high)

    # What people do

    def take_many(self, count: int, rules: Rules) -> tuple["Roster", "Taken"]:
        """The next numbers, waiting last; fewer than `count` when the line fills up.

        Raises LineClosed, and LineFull when there is room for nobody.
        """
        if self.gate is Gate.CLOSED:
            raise LineClosed("line-closed")
        if self.gate is Gate.DRAINING:
            raise LineClosed("line-draining")
        given = min(count, rules.max_waiting - len(self.order))
        if given <= 0:
            raise LineFull()
        first = self.next_number
        numbers = range(first, first + given)
        pace = self.estimate(1)
        taken = Taken(
            first=first,
            count=given,
            ahead=self.seated_ahead() + len(self.order),
            pace=pace[1] if pace else 0,
        )
        return (
            replace(self, next_number=first + given, order=self.order.add_many(numbers)),
            taken,
        )

    def enter(self, number: int, state: State, now: float, rules: Rules) -> "Roster":
        """A living ticket that a store lost comes back, at its own number.

        Whose number was passed meanwhile is next by number order. Whoever was at the desk comes
        back to it only while the line is frozen and a place is free, else to the front.
        """
        known = self.state(number)
        seated = state in (State.SERVING, State.READY) and self.frozen
        if known is not None and not (known is State.WAITING and seated):
            return self
        roster = replace(self, next_number=max(self.next_number, number + 1))
        if state is State.READY and seated:
            return roster._seat(number, State.READY, now, 0)
        if seated and roster.count(State.SERVING) < roster.places:
            return roster._seat(number, State.SERVING, now, rules.desk_lease_seconds)
        if state is State.ASIDE:
            return roster._aside([number], now, rules)
        return replace(roster, order=roster.order.add(number))

    def confirm(self, number: int, waited: float, now: float, rules: Rules) -> "Roster":
        """I'm here: a place, or READY while every place is taken."""
        seat = self._seat_in(number, State.CALLED)
        ready = replace(seat, state=State.READY, since=now, until=now, extends=0, waited=waited)
        return self._with(number, ready)._promote(now, rules)

    def extend(self, number: int, now: float, rules: Rules) -> "Roster":
        """More time: to answer when called, at the desk when serving; `extends` times each."""
        seat = self._seat_in(number, State.CALLED, State.SERVING)
        if seat.extends >= rules.extends:
            raise WrongState("no-more-time", seat.state)
        called = seat.state is State.CALLED
        more = rules.answer_extend_seconds if called else rules.desk_extend_seconds
        until = max(seat.until, now) + more
        return self._with(number, replace(seat, until=until, extends=seat.extends + 1))

    def leave(self, number: int, now: float, rules: Rules) -> "Roster":
        state = self.state(number)
        if state is None or state.ended:
            raise WrongState("not-in-line", state or "")
        return self.end(number, State.LEFT, now, rules)._promote(now, rules)

    def undo(self, number: int, now: float) -> "Roster":
        """The same place again; whoever left from the call or the desk is next."""
        seat = self._seat_in(number, State.LEFT)
        if self.gate is Gate.CLOSED:
            raise LineClosed("line-closed")
        roster = self._without_seat(number)
        return replace(roster, order=roster.order.add(number, seat.anchor))

    def undo_left(self, number: int, now: float, rules: Rules) -> float:
        seat = self.seats.get(number)
        if seat is None or seat.state is not State.LEFT:
            return 0
        return max(0, seat.since + rules.undo_seconds - now)

    def come_back(self, number: int) -> "Roster":
        """Back from aside: next, behind those who came back before."""
        if self.aside_until(number) is None:
            raise WrongState("not-aside", self.state(number) or "")
        roster = self._not_aside(number)
        return replace(roster, order=roster.order.add(number, 0))

    def give_way(self, number: int) -> "Roster":
        """Let one person go first. Raises WrongState `nobody-behind` for the last."""
        self._must_wait(number)
        position = self.order.rank(number)
        if position + 1 >= len(self.order):
            raise WrongState("nobody-behind", State.WAITING)
        return replace(self, order=self.order.move(number, position + 1, self.next_number))

    def acknowledge(self, number: int) -> "Roster":
        if number not in self.moved:
            return self
        return replace(self, moved={key: each for key, each in self.moved.items() if key != number})

    def finish(self, number: int, now: float, rules: Rules) -> "Roster":
        """The business is left at the desk; the place is free at once."""
        seat = self._seat_in(number, State.SERVING)
        visit = Visit(now, True, seat.waited, max(0.0, now - seat.since))
        roster = self._remember(visit).end(number, State.DONE, now, rules)
        return roster._promote(now, rules)

    def retry(self, number: int, now: float, rules: Rules) -> "Roster":
        """Back to the desk without a new number, because what was left there was rejected."""
        state = self.state(number)
        if state not in (State.DONE, None):
            raise WrongState("not-done", state or "")
        if self.gate is Gate.CLOSED:
            raise LineClosed("line-closed")
        return self._with(number, Seat(State.READY, now, now))._promote(now, rules)

    # What operators do

    def with_gate(
        self, gate: Gate, said: Words, opens_at: str, now: float, rules: Rules
    ) -> "Roster":
        """Open, pause, drain or close. Closing ends everybody who is not at the desk."""
        roster = replace(self, gate=gate, said=said, opens_at=opens_at)
        if gate is not Gate.CLOSED:
            return roster
        kept = {
            number: seat
            for number, seat in self.seats.items()
            if seat.state in (State.SERVING, State.READY) or seat.state.ended
        }
        return replace(
            roster,
            seats=kept,
            order=Order(),
            aside=(),
            away=NumberSet(),
            moved={},
            void_below=self.next_number,
        )

    def with_places(self, places: int, now: float, rules: Rules) -> "Roster":
        return replace(self, places=places)._promote(now, rules)

    def announce(self, said: Words) -> "Roster":
        return replace(self, announcement=said, announcement_id=self.announcement_id + 1)

    def switches(self) -> dict[str, Any]:
        """How operators left the line, for JSON."""
        return {
            "gate": self.gate.value,
            "said": _said(self.said),
            "opens_at": self.opens_at,
            "places": self.places,
            "announcement": _said(self.announcement),
            "announcement_id": self.announcement_id,
        }

    def with_switches(self, kept: Mapping[str, Any]) -> "Roster":
        """As `switches` told them of a roster that was lost; nobody is ended or called by it.
        Raises ValueError for anything that `switches` did not say."""
        try:
            return replace(
                self,
                gate=Gate(kept["gate"]),
                said=Words(*kept["said"]),
                opens_at=kept["opens_at"],
                places=kept["places"],
                announcement=Words(*kept["announcement"]),
                announcement_id=kept["announcement_id"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"unreadable switches: {error!r}") from error

    def call(self, number: int, now: float, rules: Rules) -> "Roster":
        """Call this one now, whatever the order; also again (a recall starts the time anew)."""
        state = self.state(number)
        if state is State.ASIDE:
            return self.come_back(number).call(number, now, rules)
        if state not in (State.WAITING, State.CALLED):
            raise WrongState("not-waiting", state or "")
        return self._seat(number, State.CALLED, now, rules.answer_seconds)

    def call_next(self, now: float, rules: Rules) -> tuple["Roster", int]:
        if not self.order:
            raise WrongState("nobody-waiting")
        number = self.order.at(0)
        return self.call(number, now, rules), number

    def set_aside(self, number: int, now: float, rules: Rules) -> "Roster":
        state = self.state(number)
        if state is None or state.ended or state is State.ASIDE:
            raise WrongState("not-in-line", state or "")
        return self._aside([number], now, rules)._promote(now, rules)

    def move(self, number: int, position: int, said: Words) -> "Roster":
        """To `position`, counted from 1 among those who wait."""
        self._must_wait(number)
        before = self.order.rank(number) + 1
        order = self.order.move(number, max(1, position) - 1, self.next_number)
        after = order.rank(number) + 1
        if after == before:
            return self
        return replace(self, order=order, moved={**self.moved, number: Moved(before, after, said)})

    def remove(self, number: int, said: Words, by: str, now: float, rules: Rules) -> "Roster":
        state = self.state(number)
        if state is None or state.ended:
            raise WrongState("not-in-line", state or "")
        roster = self.end(number, State.REMOVED, now, rules)
        told = replace(roster.seats[number], said=said, by=by)
        return roster._with(number, told)._promote(now, rules)

    # What time does: the marshal's round

    def sweep(
        self,
        now: float,
        rules: Rules,
        *,
        away: Iterable[int] = (),
        heard: Iterable[int] = (),
        silent: Iterable[int] = (),
        suspect: frozenset[int] = frozenset(),
        work: Work | None = None,
    ) -> "Roster":
        """One round: mark the silent, set aside, expire, forget old endings, then call.

        `silent` are set aside if they wait or are READY; at the call and at the desk the
        deadline decides. `suspect` are called in their order but do not use up a call.
        """
        roster = self if work is None or work == self.work else replace(self, work=work)
        roster = roster._mark(away, heard)
        if not roster.frozen:
            stayed_away = [
                number for number in silent if roster.state(number) in (State.WAITING, State.READY)
            ]
            roster = roster._aside(stayed_away, now, rules)._run_out(now, rules)
        return roster._promote(now, rules)._call_ahead(now, rules, suspect)

    def _run_out(self, now: float, rules: Rules) -> "Roster":
        """What happens by itself when its time is over."""
        roster = self
        over = [number for number, seat in self.seats.items() if seat.until <= now]
        unanswered = [n for n in over if self.seats[n].state is State.CALLED]
        for _ in unanswered:
            roster = roster._remember(Visit(now, False, 0, 0))
        left_the_desk = [n for n in over if self.seats[n].state is State.SERVING]
        roster = roster._aside(unanswered + left_the_desk, now, rules)
        forgotten = {n for n in over if self.seats[n].state.ended}
        if forgotten:
            kept = {n: seat for n, seat in roster.seats.items() if n not in forgotten}
            roster = replace(roster, seats=kept)
        run_out = [numbers for until, numbers in roster.aside if until <= now]
        if run_out:
            forgotten_at = now + rules.ended_keep_seconds
            roster = replace(
                roster,
                aside=tuple(each for each in roster.aside if each[0] > now),
                expired=(*roster.expired, *((forgotten_at, numbers) for numbers in run_out)),
            )
        if any(until <= now for until, _ in roster.expired):
            kept_on = tuple(each for each in roster.expired if each[0] > now)
            roster = replace(roster, expired=kept_on)
        return roster

    def hear(self, numbers: Iterable[int]) -> "Roster":
        """Somebody marked away was heard again."""
        return self._mark((), numbers)

    def thaw(self) -> "Roster":
        return replace(self, frozen=False)

    # How it is kept

    def to_bytes(self) -> bytes:
        """`NS1`, then compressed: length of the header, header (JSON), the bitmaps."""
        waiting, away = self.order.regular.to_bytes(), self.away.to_bytes()
        kept = [*self.aside, *self.expired]
        sets = [numbers.to_bytes() for _, numbers in kept]
        header = {
            "g": self.generation,
            "v": self.version,
            "e": self.epoch,
            "t": round(self.time, 3),
            "s": self.gate.value,
            "r": _said(self.said),
            "o": self.opens_at,
            "p": self.places,
            "n": self.next_number,
            "c": self.void_below,
            "f": self.frozen,
            "w": [self.order.regular.base, len(waiting)],
            "x": self.order.exceptions,
            "a": [self.away.base, len(away)],
            "k": [
                [round(until, 3), numbers.base, len(packed)]
                for (until, numbers), packed in zip(kept, sets, strict=True)
            ],
            "z": len(self.expired),
            "seats": [
                [
                    number,
                    seat.state.value,
                    round(seat.since, 3),
                    round(seat.until, 3),
                    seat.extends,
                    round(seat.waited, 1),
                    seat.anchor,
                    _said(seat.said),
                    seat.by,
                ]
                for number, seat in self.seats.items()
            ],
            "moved": [[n, m.before, m.after, _said(m.said)] for n, m in self.moved.items()],
            "said": [self.announcement_id, _said(self.announcement)],
            "visits": [
                [round(v.at, 1), int(v.served), round(v.waited, 1), round(v.at_desk, 1)]
                for v in self.visits
            ],
            "work": [
                round(self.work.middle_seconds, 2),
                round(self.work.high_seconds, 2),
                self.work.slots,
                self.work.held,
                int(self.work.stopped),
            ],
        }
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        parts = [len(text).to_bytes(4, "big"), text, waiting, away, *sets]
        return FORMAT + zlib.compress(b"".join(parts), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Roster":
        """Raises ValueError for anything that `to_bytes` did not write."""
        if data[:3] != FORMAT:
            raise ValueError(f"a roster of unknown format {data[:3]!r}")
        try:
            unpacking = zlib.decompressobj()
            raw = unpacking.decompress(data[3:], LARGEST_BYTES)
            if not unpacking.eof:
                raise ValueError("the roster is larger than any we write, or cut short")
            size = int.from_bytes(raw[:4], "big")
            header: dict[str, Any] = json.loads(raw[4 : 4 + size])
            return cls._from_header(header, raw[4 + size :])
        except (zlib.error, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
            raise ValueError(f"an unreadable roster: {error!r}") from error

    @classmethod
    def _from_header(cls, header: dict[str, Any], maps: bytes) -> "Roster":
        sizes = [header["w"], header["a"], *(each[1:] for each in header["k"])]
        if len(maps) != sum(size for _, size in sizes):
            raise ValueError("the bitmaps are not as long as the header says")
        if not 0 <= header["z"] <= len(header["k"]):
            raise ValueError("more sets have expired than there are")
        sets: list[NumberSet] = []
        start = 0
        for base, size in sizes:
            sets.append(NumberSet.from_bytes(base, maps[start : start + size]))
            start += size
        kept = tuple((each[0], sets[2 + at]) for at, each in enumerate(header["k"]))
        return cls(
            generation=header["g"],
            version=header["v"],
            epoch=header["e"],
            time=header["t"],
            gate=Gate(header["s"]),
            said=Words(*header["r"]),
            opens_at=header["o"],
            places=header["p"],
            next_number=header["n"],
            void_below=header["c"],
            frozen=header["f"],
            order=Order(
                sets[0],
                tuple((number, anchor) for number, anchor in header["x"]),
            ),
            away=sets[1],
            aside=kept[: len(kept) - header["z"]],
            expired=kept[len(kept) - header["z"] :],
            seats={
                number: Seat(State(state), since, until, extends, waited, anchor, Words(*said), by)
                for number, state, since, until, extends, waited, anchor, said, by in header[
                    "seats"
                ]
            },
            moved={
                number: Moved(before, after, Words(*said))
                for number, before, after, said in header["moved"]
            },
            announcement_id=header["said"][0],
            announcement=Words(*header["said"][1]),
            visits=tuple(
                Visit(at, bool(ok), wait, desk) for at, ok, wait, desk in header["visits"]
            ),
            work=Work(
                middle_seconds=header["work"][0],
                high_seconds=header["work"][1],
                slots=header["work"][2],
                held=header["work"][3],
                stopped=bool(header["work"][4]),
            ),
        )

    # Steps that the changes share

    def _with(self, number: int, seat: Seat) -> "Roster":
        return replace(self, seats={**self.seats, number: seat})

    def _without_seat(self, number: int) -> "Roster":
        return replace(self, seats={key: seat for key, seat in self.seats.items() if key != number})

    def _seat(self, number: int, state: State, now: float, seconds: float) -> "Roster":
        """Out of the waiting order, if in it, into a seat."""
        seat = Seat(state, now, now + seconds, anchor=self.order.anchor(number))
        roster = (
            self if number not in self.order else replace(self, order=self.order.discard(number))
        )
        if number in roster.moved:
            roster = roster.acknowledge(number)
        if number in roster.away:
            roster = replace(roster, away=roster.away.discard(number))
        if roster.aside_until(number) is not None:
            roster = roster._not_aside(number)
        return roster._with(number, seat)

    def _aside(self, numbers: list[int], now: float, rules: Rules) -> "Roster":
        """Out of the order or a seat, kept for `aside_seconds`, all at once."""
        if not numbers:
            return self
        gone = frozenset(numbers)
        step = max(1.0, rules.aside_seconds / 30)
        until = math.ceil((now + rules.aside_seconds) / step) * step
        kept = dict(self.aside)
        kept[until] = kept.get(until, NumberSet()).add_many(numbers)
        return replace(
            self,
            order=self.order.discard_many(numbers),
            away=self.away.discard_many(numbers),
            seats={n: seat for n, seat in self.seats.items() if n not in gone},
            moved={n: each for n, each in self.moved.items() if n not in gone},
            aside=tuple(sorted(kept.items(), key=lambda each: each[0])),
        )

    def _not_aside(self, number: int) -> "Roster":
        rest = ((until, numbers.discard(number)) for until, numbers in self.aside)
        return replace(self, aside=tuple(each for each in rest if each[1]))

    def end(self, number: int, state: State, now: float, rules: Rules) -> "Roster":
        waiting = number in self.order
        kept = max(rules.ended_keep_seconds, rules.undo_seconds)
        roster = self._seat(number, state, now, kept)
        if waiting:
            return roster
        # Whoever leaves from a call or the desk comes back to the front by an undo.
        return roster._with(number, replace(roster.seats[number], anchor=0))

    def _seat_in(self, number: int, *states: State) -> Seat:
        seat = self.seats.get(number)
        if seat is None or seat.state not in states:
            raise WrongState("not-" + states[0].value, self.state(number) or "")
        return seat

    def _must_wait(self, number: int) -> None:
        if number not in self.order:
            raise WrongState("not-waiting", self.state(number) or "")

    def _remember(self, visit: Visit) -> "Roster":
        return replace(self, visits=(*self.visits[1 - RECENT_VISITS :], visit))

    def _mark(self, away: Iterable[int], heard: Iterable[int]) -> "Roster":
        gone = [number for number in away if number in self.order]
        marked = self.away.discard_many(list(heard)).add_many(gone)
        return self if marked == self.away else replace(self, away=marked)

    def _promote(self, now: float, rules: Rules) -> "Roster":
        """Who confirmed first gets the first place that is free; not before a line that was
        lost is in order again, because whoever sat at the desk may still come back to it."""
        if self.frozen:
            return self
        roster = self
        for number in self.numbers(State.READY):
            if roster.count(State.SERVING) >= roster.places:
                break
            seat = roster.seats[number]
            serving = replace(
                seat, state=State.SERVING, since=now, until=now + rules.desk_lease_seconds
            )
            roster = roster._with(number, serving)
        return roster

    def _call_ahead(self, now: float, rules: Rules, suspect: frozenset[int]) -> "Roster":
        """As many as there are free places, plus `call_ahead`, in order; nobody is skipped.

        A call that nobody takes up holds nothing: whoever is silent, or has not answered
        within the patience, is called but not counted, so the next is called as well.
        """
        if self.frozen or self.gate in (Gate.PAUSED, Gate.CLOSED) or self.places == 0:
            return self
        if self.work.stopped:
            return self
        taken = self.count(State.SERVING) + self.count(State.READY) + self.work.held
        free = self.places - taken
        # While every place is taken there is no hurry: then each call counts until it ends.
        patience = rules.call_patience_seconds if free > 0 else math.inf
        open_calls = sum(
            seat.state is State.CALLED and number not in suspect and now - seat.since < patience
            for number, seat in self.seats.items()
        )
        wanted = free + rules.call_ahead - open_calls
        roster = self
        for number in self.order.first(max(0, wanted) + len(suspect)):
            if wanted <= 0:
                break
            roster = roster._seat(number, State.CALLED, now, rules.answer_seconds)
            wanted -= number not in suspect
        return roster


_IN_FRONT = frozenset({State.CALLED, State.READY, State.SERVING})


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least `share` of `ordered` does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _said(words: Words) -> list[str]:
    return [words.en, words.zh]
