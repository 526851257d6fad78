"""The marshal: the one that sweeps a line and calls.

Whichever process holds the lead for the moment; it marks the silent, sets aside, expires and
calls, and writes the roster once a round. The lead only picks who works. Safety comes from
`cas` and from the epoch that a new marshal stamps first: a marshal that was paused and wakes
finds its epoch gone and does nothing.

It learns of silence from the seconds left on the tickets' own entries, and does not ask again
before a ticket could have fallen silent (the wheel): 100,000 people cost some milliseconds a
second. The front is asked about every round.

Kept out: what a sweep does (`roster.py`), keys and writing (`line.py`), and any loop: `tick`
does one round.
"""

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable
from math import inf

from queue_backend.clock import Clock
from queue_backend.errors import Unavailable
from queue_backend.people.line import WaitingLine
from queue_backend.people.numbers import NumberSet
from queue_backend.people.roster import Roster, Work
from queue_backend.people.rules import Rules
from queue_backend.people.ticket import State

log = logging.getLogger(__name__)

LEAD_SECONDS = 5
FRONT = 64
# A whole crowd may be new to the watch, or due at once: it is spread over rounds, so that no
# round holds up the pages of the process that makes it (10,000 take about 15 ms).
ASKED_A_ROUND = 10_000


class Seen:
    """What one look at the entries says, by number."""

    def __init__(self) -> None:
        self.away: list[int] = []
        self.heard: list[int] = []  # marked away, and heard again
        self.silent: list[int] = []
        self.suspect: list[int] = []


class Watch:
    """One marshal's watch over one generation of a roster.

    A silence is judged only by what this watch has itself seen: after a loss, a change of
    marshal or an outage everybody has time to be heard first. An entry that is missing is a
    loss, not a silence; its owner's clock begins again when the watch notices.
    """

    def __init__(self, rules: Rules, generation: str, since: float) -> None:
        self.generation = generation
        self.since = since
        self._rules = rules
        self._known = NumberSet()  # those in number order that the wheel has
        self._next_number = inf  # as it was at the last look; before the first, all are asked about
        self._wheel: defaultdict[int, list[int]] = defaultdict(list)
        self._turned = int(since)
        self._missing_since: dict[int, float] = {}

    def due(self, roster: Roster, now: float) -> set[int]:
        """Whom to ask about now: the front, the few out of number order, those new to the
        watch, and those whose time on the wheel has come."""
        asked = set(roster.order.first(FRONT))
        asked.update(number for number, _ in roster.order.exceptions[:ASKED_A_ROUND])
        asked.update(roster.numbers(State.CALLED), roster.numbers(State.READY))
        unseen = roster.order.regular.minus(self._known)
        begun = unseen.first(ASKED_A_ROUND)
        self._known = roster.order.regular.minus(unseen.discard_many(begun))
        # Whoever has joined since the last look was heard then, and need not be asked about.
        joined = bisect_left(begun, self._next_number)
        asked.update(begun[:joined])
        self._wheel[int(now + self._rules.away_after_seconds) + 1] += begun[joined:]
        self._next_number = roster.next_number
        while self._turned <= int(now) and len(asked) < 2 * ASKED_A_ROUND:
            due = self._wheel.pop(self._turned, [])
            asked.update(number for number in due[:ASKED_A_ROUND] if number in roster.order)
            if len(due) > ASKED_A_ROUND:
                self._wheel[self._turned] = due[ASKED_A_ROUND:]
            else:
                self._turned += 1
        return asked

    def judge(self, silences: dict[int, float | None], roster: Roster, now: float) -> Seen:
        seen = Seen()
        rules = self._rules
        watched = now - self.since
        for number, silence in silences.items():
            if silence is None:
                silent_for = now - self._missing_since.setdefault(number, now)
            else:
                self._missing_since.pop(number, None)
                silent_for = silence
            waits = number in roster.order
            # Marked READY people poll every 2 s: away is gone for them.
            gone_after = rules.silent_aside_seconds if waits else rules.away_after_seconds
            if silent_for >= gone_after and watched >= rules.freeze_seconds:
                seen.silent.append(number)
            elif waits and silent_for >= rules.away_after_seconds:
                if number not in roster.away:
                    seen.away.append(number)
            elif number in roster.away:
                seen.heard.append(number)
            if silent_for >= rules.suspect_seconds and watched >= rules.suspect_seconds:
                seen.suspect.append(number)
            if waits:
                self._ask_again(number, silent_for, watched, now)
        return seen

    def _ask_again(self, number: int, silent_for: float, watched: float, now: float) -> None:
        rules = self._rules
        if silent_for < rules.away_after_seconds:
            wait = rules.away_after_seconds - silent_for
        else:
            wait = rules.silent_aside_seconds - silent_for
        # Not before the watch may judge; TTLs are whole seconds, so one later.
        wait = max(wait, rules.freeze_seconds - watched if wait <= 0 else 0.0)
        self._wheel[int(now + max(0.0, wait)) + 1].append(number)


class Marshal:
    """`busy` reads how busy the job line is; None where no work is behind the line."""

    def __init__(
        self,
        line: WaitingLine,
        clock: Clock,
        busy: Callable[[], Awaitable[Work]] | None = None,
    ) -> None:
        self._line = line
        self._rules = line.rules
        self._clock = clock
        self._busy = busy
        self._epoch: int | None = None
        self._work: Work | None = None
        self._watch = self._unbegun()

    @property
    def leads(self) -> bool:
        return self._epoch is not None

    async def tick(self) -> None:
        """One round. Raises Unavailable when a store did not answer: then nobody is judged by
        what was seen before, and the next round begins watching anew."""
        try:
            await self._round()
        except Unavailable:
            self._watch = self._unbegun()
            raise

    async def resign(self) -> None:
        """Let another take over at once."""
        if self._epoch is not None:
            self._epoch = None
            await self._line.give_up_lead()

    async def _round(self) -> None:
        # Before anything is read: a pause between reading and judging makes people look
        # younger, never more silent than they are.
        now = self._clock.monotonic()
        if not await self._line.hold_lead(LEAD_SECONDS):
            self._epoch = None
            return
        if self._epoch is None:
            self._epoch = await self._line.begin_epoch()
            self._watch = self._unbegun()
            log.info("line %s: %s is marshal", self._line.name, self._line.process)
        roster = await self._line.refresh()
        if self._watch.generation != roster.generation:
            self._watch = Watch(self._rules, roster.generation, now)
        watch = self._watch
        silences = await self._line.silences(watch.due(roster, now))
        seen = watch.judge(silences, roster, now)
        done = await self._line.sweep(
            self._epoch,
            away=seen.away,
            heard=seen.heard,
            silent=seen.silent,
            suspect=frozenset(seen.suspect),
            work=await self._read_work(),
            thaw=roster.frozen and now - watch.since >= self._rules.freeze_seconds,
        )
        if not done:
            log.info("line %s: a newer marshal has begun", self._line.name)
            self._epoch = None

    async def _read_work(self) -> Work | None:
        if self._busy is None:
            return None
        try:
            self._work = await self._busy()
        except Unavailable as error:
            # People are still called by the last figures; the desk says what is wrong.
            log.warning("line %s: the job line did not answer: %s", self._line.name, error)
        return self._work

    def _unbegun(self) -> "Watch":
        return Watch(self._rules, "", 0.0)
