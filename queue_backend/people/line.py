"""The waiting line: what may be done with tickets, over one roster in one store.

Every change is a function of the roster, applied to the newest one and written back by `cas`
on the connection that read it; changes that arrive together travel in one `cas`, and what
they did is in the ledger before anybody is answered. A poll touches no store: each process
holds the newest roster and answers from it, and collects the heartbeats that go out together
once a second.

When the store has lost the roster, whoever notices first makes it anew: from the newest of
what this process still holds and the checkpoint in the ledger; or else empty and frozen, above
the durable high-water mark, and the browsers' own tickets fill it. The switches are as the
operators left them either way: a line that was closed does not open because it was lost.

Kept out: when rounds are made (`marshal.py`, the front door), pages, and what a change does
to the order (`roster.py`). Nobody else knows a key of the store.
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from queue_backend.clock import Clock
from queue_backend.errors import (
    BadInput,
    LineFull,
    NotFound,
    NowServingError,
    NumbersGiven,
    Unavailable,
    WrongState,
)
from queue_backend.ledger import AuditEntry, Ledger, Tombstone
from queue_backend.people.names import Names
from queue_backend.people.numbers import NumberSet
from queue_backend.people.roster import (
    NOTHING_SAID,
    Gate,
    Roster,
    Seat,
    Taken,
    Words,
    Work,
    percentile,
)
from queue_backend.people.rules import Rules
from queue_backend.people.standing import (
    Operator,
    Overview,
    Public,
    Row,
    Standing,
)
from queue_backend.people.store import Found, Store
from queue_backend.people.ticket import State, Ticket, clean_name
from queue_backend.people.together import Together

log = logging.getLogger(__name__)

T = TypeVar("T")

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
CLAIM_SECONDS = 5  # a process that died over a join blocks its request no longer
TRIES = 30
# Line time runs at most this far ahead of the marshal's last stamp: with no marshal, or after
# a pause of the whole process, nobody's time runs out unseen.
UNSTAMPED_SECONDS = 3.0
RECENT_SECONDS = 3600.0
FRESH_SECONDS = 1.0
JOINING = b"?"

Apply = Callable[[Roster, float], tuple[Roster, object]]


@dataclass(frozen=True, slots=True)
class Change:
    """`apply` may raise Refused for its own asker; `stamps`: write even if only time passed."""

    apply: Apply
    stamps: bool = False


@dataclass(frozen=True, slots=True)
class _Join:
    """Somebody who asks for a number; `claim` is the key under which a repeat finds it."""

    claim: str
    name: str
    service: str


class WaitingLine:
    """One line. `process` names this process to other ones; `new_id` gives 128 random bits in
    hex; `services` are those a ticket may be taken for."""

    def __init__(
        self,
        name: str,
        *,
        rules: Rules,
        services: Collection[str],
        store: Store,
        ledger: Ledger,
        clock: Clock,
        new_id: Callable[[], str],
        process: str,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.rules = rules
        self.services = frozenset(services)
        self.process = process
        self.marshal_seen = ""
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._new_id = new_id
        self._pause = pause
        # Keys are made of hex and integers; what anybody typed is never part of one.
        key = hashlib.sha256(name.encode()).hexdigest()[:12]
        self._roster_key = f"ns:{key}:roster"
        self._lead_key = f"ns:{key}:lead"
        self._entry_key = f"ns:{key}:t:"
        self._request_key = f"ns:{key}:r:"
        self._roster: Roster | None = None
        self._data = b""  # the bytes that `_roster` was read from or written as
        self._base_time = 0.0  # line time at `_base_at` of this process's clock
        self._base_at = 0.0
        self._public: Public | None = None
        self._public_at = 0.0
        self._names = Names(rules.names)
        self._heard: dict[int, Ticket] = {}
        self._back: set[int] = set()
        self.changes: Together[Change, object] = Together(self._commit)
        self.beats: Together[Ticket, bool] = Together(self._renew, largest=4096)
        self.joins: Together[_Join, Ticket | None] = Together(self._join)
        self._reloads: Together[None, Roster] = Together(self._reload)

    # Taking a number

    async def take(self, name: object, service: object, request_id: object) -> Ticket:
        """A new ticket; the same one again for a repeated `request_id`.

        Raises BadInput, NotFound (service), LineClosed, LineFull; Unavailable when the store or
        the ledger did not answer: then ask again with the same `request_id`.
        """
        person = clean_name(name)
        if not isinstance(service, str) or service not in self.services:
            raise NotFound("service-unknown")
        if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
            raise BadInput("request-id", "request_id")
        key = self._request_key + hashlib.sha256(request_id.encode()).hexdigest()[:32]
        ticket = await self.joins.ask(_Join(key, person, service))
        return ticket or await self._taken_before(key)

    async def _join(self, joins: list[_Join]) -> list[Ticket | None | Exception]:
        """Numbers for all who ask at once; None for a request that was made before.

        The `add` decides between processes who is first with a request. If this process dies
        after it, the claim ends by itself; after the change, the number falls silent.
        """
        added = await self._store.add_many(
            dict.fromkeys((join.claim for join in joins), JOINING), CLAIM_SECONDS
        )
        first = []
        for join in joins:
            if join.claim in added:
                added.discard(join.claim)  # a later one in the same batch is a repeat
                first.append(join)
        if not first:
            return [None] * len(joins)
        try:
            taken = await self._numbers(len(first))
        except NowServingError:
            await self._forget_claims([join.claim for join in first])
            raise
        wall = int(self._clock.wall())
        tickets = {
            join.claim: Ticket(
                line=self.name,
                number=taken.first + at,
                id=self._new_id(),
                name=join.name,
                service=join.service,
                joined_at=wall,
                joined_ahead=taken.ahead + at,
                stamped_at=wall,
                promised_at=wall + int((taken.ahead + at) * taken.pace) if taken.pace else 0,
            )
            for at, join in enumerate(first[: taken.count])
        }
        await self._enter_names(tickets)
        left_over = [join.claim for join in first[taken.count :]]
        if left_over:
            await self._forget_claims(left_over)
        log.info("line %s: %d to %d waiting", self.name, taken.first, taken.first + taken.count - 1)
        answers: list[Ticket | None | Exception] = []
        for join in joins:
            if join.claim in left_over:
                answers.append(LineFull())
            else:
                answers.append(tickets.pop(join.claim, None))
        return answers

    async def _numbers(self, count: int) -> Taken:
        for _ in range(3):
            try:
                return await self._change(lambda roster, now: roster.take_many(count, self.rules))
            except NumbersGiven as error:
                log.warning("line %s: asks again: %s", self.name, error)
        raise Unavailable("store-busy", "the roster was lost again and again")

    async def _forget_claims(self, claims: list[str]) -> None:
        # Nothing was taken, so the same request may try again at once. If this fails as well,
        # the claims end by themselves.
        try:
            for claim in claims:
                await self._store.delete(claim)
        except Unavailable as error:
            log.warning("line %s: claims are left to end by themselves: %s", self.name, error)

    async def _taken_before(self, key: str) -> Ticket:
        """The ticket of the first request with this id, which may still be under way."""
        for _ in range(40):
            found = (await self._store.get_many([key])).get(key)
            if found is not None and found != JOINING:
                return _from_entry(self.name, found)
            await self._pause(0.05)
        raise Unavailable("join-pending", "an earlier request with this id has not ended")

    async def _enter_names(self, tickets: Mapping[str, Ticket]) -> None:
        """The tickets' own entries, and under its claim what a repeated request finds. Lost
        ones are made good: an entry by the next heartbeat, a claim by taking another number."""
        entries = {claim: _entry(ticket) for claim, ticket in tickets.items()}
        for claim, ticket in tickets.items():
            self._names.keep(ticket)
            entries[f"{self._entry_key}{ticket.number}"] = entries[claim]
        try:
            await self._store.set_many(entries, self.rules.entry_seconds)
        except Unavailable as error:
            # The numbers are given and durable: that is what decides.
            log.warning("line %s: %d entries follow later: %s", self.name, len(tickets), error)

    # Standing in line

    def standing_known(self, ticket: Ticket) -> Standing | None:
        """Where `ticket` stands, by the roster held here; asking is the heartbeat.

        None when a store must be asked: this process does not know the number, or the line is
        being put back in order and the ticket says more than the roster.
        """
        roster = self._roster
        state = roster.state(ticket.number) if roster is not None else None
        if roster is None or state is None:
            return None
        if roster.frozen and ticket.state in _SEATED and state is State.WAITING:
            return None
        return self._standing(ticket, roster, state)

    async def stand(self, ticket: Ticket) -> Standing:
        """As `standing_known`, and a store is asked only when that knows nothing. Raises
        Unavailable then, if it does not answer."""
        known = self.standing_known(ticket)
        if known is not None:
            return known
        found = await self._find(ticket)
        if isinstance(found, Standing):
            return found
        roster = self._known()
        if roster.frozen and ticket.state in _SEATED and found is State.WAITING:
            # A delayed older request had entered somebody as waiting who was at the desk.
            roster = await self._enter(ticket)
        return self._standing(ticket, roster, roster.state(ticket.number) or found)

    async def confirm(self, ticket: Ticket) -> Standing:
        """I'm here. Again is no error: whoever is already ready or serving stays so."""
        await self._must_know(ticket)
        waited = max(0.0, self._clock.wall() - ticket.joined_at)

        def act(roster: Roster, now: float) -> tuple[Roster, None]:
            seat = roster.seats.get(ticket.number)
            if seat is not None and seat.state in _SEATED:
                return roster, None
            called_for = 0.0 if seat is None else now - seat.since
            return (
                roster.confirm(ticket.number, max(0.0, waited - called_for), now, self.rules),
                None,
            )

        return await self._acted(ticket, act)

    async def extend(self, ticket: Ticket) -> Standing:
        await self._must_know(ticket)
        return await self._acted(
            ticket, lambda roster, now: (roster.extend(ticket.number, now, self.rules), None)
        )

    async def leave(self, ticket: Ticket) -> Standing:
        await self._must_know(ticket)
        return await self._acted(
            ticket, lambda roster, now: (roster.leave(ticket.number, now, self.rules), None)
        )

    async def undo(self, ticket: Ticket) -> Standing:
        """The same place again, within `undo_seconds` of leaving."""

        def act(roster: Roster, now: float) -> tuple[Roster, None]:
            if roster.undo_left(ticket.number, now, self.rules) <= 0:
                raise WrongState("undo-over", roster.state(ticket.number) or State.LEFT)
            return roster.undo(ticket.number, now), None

        return await self._acted(ticket, act)

    async def come_back(self, ticket: Ticket) -> Standing:
        await self._must_know(ticket)
        return await self._acted(
            ticket, lambda roster, now: (roster.come_back(ticket.number), None)
        )

    async def give_way(self, ticket: Ticket) -> Standing:
        await self._must_know(ticket)
        return await self._acted(ticket, lambda roster, now: (roster.give_way(ticket.number), None))

    async def acknowledge(self, ticket: Ticket) -> Standing:
        await self._must_know(ticket)
        return await self._acted(
            ticket, lambda roster, now: (roster.acknowledge(ticket.number), None)
        )

    async def turn(self, ticket: Ticket) -> Standing:
        """The standing of somebody whose turn it is, by the newest roster there is.

        Raises WrongState `no-turn` for everybody else.
        """
        await self.refresh()
        standing = await self.stand(ticket)
        if standing.state is not State.SERVING:
            raise WrongState("no-turn", standing.state)
        return standing

    async def finish(self, ticket: Ticket) -> Standing:
        """The job was put: the visit is over and the place is free.

        Whatever happened to the place while the job was put, and though a store lost the ticket
        meanwhile, the job is in line: so it ends as DONE here, and a second time changes nothing.
        """

        def act(roster: Roster, now: float) -> tuple[Roster, None]:
            if roster.state(ticket.number) is State.DONE:
                return roster, None
            if roster.state(ticket.number) is State.SERVING:
                return roster.finish(ticket.number, now, self.rules), None
            roster = roster.enter(ticket.number, State.WAITING, now, self.rules)
            return roster.end(ticket.number, State.DONE, now, self.rules), None

        return await self._acted(ticket, act)

    async def retry(self, ticket: Ticket) -> Standing:
        """Back to the desk without a new number, after what was left there was rejected."""
        if (await self.stand(ticket)).state is not State.DONE:
            return await self._acted(ticket, lambda roster, now: (roster, None))
        return await self._acted(
            ticket, lambda roster, now: (roster.retry(ticket.number, now, self.rules), None)
        )

    # What anybody may see

    def public(self) -> Public:
        """Raises Unavailable until the roster was read once."""
        now = self._clock.monotonic()
        if self._public is None or now - self._public_at >= 0.5:
            roster = self._known()
            self._public = Public.of(roster, self._now(roster), self.rules)
            self._public_at = now
        return self._public

    # What operators do: each is in the audit before it takes effect

    async def open(self, by: Operator) -> None:
        await self._set_gate(by, "open", Gate.OPEN, NOTHING_SAID)

    async def pause(self, by: Operator, reason: Words) -> None:
        await self._set_gate(by, "pause", Gate.PAUSED, reason)

    async def resume(self, by: Operator) -> None:
        await self._set_gate(by, "resume", Gate.OPEN, NOTHING_SAID)

    async def drain(self, by: Operator, reason: Words = NOTHING_SAID) -> None:
        await self._set_gate(by, "drain", Gate.DRAINING, reason)

    async def close(self, by: Operator, reason: Words = NOTHING_SAID, opens_at: str = "") -> None:
        await self._set_gate(by, "close", Gate.CLOSED, reason, opens_at)

    async def set_places(self, by: Operator, places: int) -> None:
        if not isinstance(places, int) or isinstance(places, bool) or not 0 <= places <= 999:
            raise BadInput("places-range", "places")
        await self._operate(
            by,
            "places",
            lambda roster, now: (roster.with_places(places, now, self.rules), None),
            before=str(self._known().places),
            after=str(places),
            switches=True,
        )

    async def announce(self, by: Operator, said: Words | None) -> None:
        words = said or NOTHING_SAID
        await self._operate(
            by,
            "announce",
            lambda roster, now: (roster.announce(words), None),
            reason=words,
            switches=True,
        )

    async def call_next(self, by: Operator) -> int:
        def act(roster: Roster, now: float) -> tuple[Roster, object]:
            return roster.call_next(now, self.rules)

        number = await self._operate(by, "call-next", act)
        assert isinstance(number, int)
        return number

    async def call(self, by: Operator, number: int, seen: str | None = None) -> None:
        await self._operate_on(
            by, "call", number, seen, lambda r, now: r.call(number, now, self.rules)
        )

    async def recall(self, by: Operator, number: int, seen: str | None = None) -> None:
        def act(roster: Roster, now: float) -> Roster:
            if roster.state(number) is not State.CALLED:
                raise WrongState("not-called", roster.state(number) or "")
            return roster.call(number, now, self.rules)

        await self._operate_on(by, "recall", number, seen, act)

    async def grant(self, by: Operator, number: int, seen: str | None = None) -> None:
        """More time, given by the operator."""
        await self._operate_on(
            by, "extend", number, seen, lambda r, now: r.extend(number, now, self.rules)
        )

    async def set_aside(self, by: Operator, number: int, seen: str | None = None) -> None:
        await self._operate_on(
            by, "aside", number, seen, lambda r, now: r.set_aside(number, now, self.rules)
        )

    async def put_back(self, by: Operator, number: int, seen: str | None = None) -> None:
        await self._operate_on(by, "return", number, seen, lambda r, now: r.come_back(number))

    async def move(
        self,
        by: Operator,
        number: int,
        position: int,
        reason: Words = NOTHING_SAID,
        seen: str | None = None,
    ) -> None:
        if not isinstance(position, int) or isinstance(position, bool) or position < 1:
            raise BadInput("position-range", "position")
        await self._operate_on(
            by,
            "move",
            number,
            seen,
            lambda r, now: r.move(number, position, reason),
            reason=reason,
            after=str(position),
        )

    async def remove(
        self, by: Operator, number: int, reason: Words = NOTHING_SAID, seen: str | None = None
    ) -> None:
        await self._operate_on(
            by,
            "remove",
            number,
            seen,
            lambda r, now: r.remove(number, reason, by.name, now, self.rules),
            reason=reason,
            after=State.REMOVED,
        )

    async def complete(self, by: Operator, number: int, seen: str | None = None) -> None:
        """End the visit of somebody at the desk as done."""
        await self._operate_on(
            by,
            "finish",
            number,
            seen,
            lambda r, now: r.finish(number, now, self.rules),
            after=State.DONE,
        )

    async def overview(self, offset: int = 0, limit: int = 100, search: str = "") -> Overview:
        """At the desk, confirmed, called, waiting in order, then aside; a page of them."""
        roster = self._known()
        now = self._now(roster)
        numbers = [number for number, *_ in self.public().seated]
        numbers += list(roster.order)
        for _, kept in roster.aside:
            numbers += list(kept)
        if search:
            await self._learn(numbers[:5000])
            wanted = search.casefold()
            numbers = [n for n in numbers if str(n) == wanted or self._matches(n, wanted)]
        shown = numbers[max(0, offset) : max(0, offset) + limit]
        await self._learn(shown)
        silences = await self.silences(shown)
        visits = [visit for visit in roster.visits if now - visit.at <= RECENT_SECONDS]
        waits = sorted(visit.waited for visit in visits if visit.served)
        return Overview(
            rows=tuple(
                Row.of(n, roster, self._names.ticket(n), silences[n], now, self._clock.wall())
                for n in shown
            ),
            total=len(numbers),
            public=self.public(),
            aside=roster.count_aside(),
            wait_median_seconds=percentile(waits, 0.5) if waits else None,
            wait_p90_seconds=percentile(waits, 0.9) if waits else None,
            served_recent=len(waits),
            missed_recent=sum(not visit.served for visit in visits),
            marshal=self.marshal_seen,
            jobs_held=roster.work.held,
        )

    # Rounds: the front door makes them each second

    async def refresh(self) -> Roster:
        """The newest roster. Raises Unavailable; the one held stays."""
        return await self._reloads.ask(None)

    async def round(self) -> None:
        """Read the roster anew, send the heartbeats gathered since, learn missing names."""
        await self.refresh()
        heard, self._heard = self._heard, {}
        # The entry of somebody who has just joined is as fresh as a heartbeat would make it.
        joined_by = self._clock.wall() - FRESH_SECONDS
        beats = [self.beats.ask(each) for each in heard.values() if each.joined_at <= joined_by]
        if beats:
            await asyncio.gather(*beats)
        back, self._back = self._back, set()
        if back:
            await self._change(lambda roster, now: (roster.hear(back), None))
        await self._learn(self._names.asked_for())

    async def ready(self) -> None:
        """Returns when the store answers; raises Unavailable."""
        await self._store.ready()

    # What the marshal asks

    async def hold_lead(self, seconds: int) -> bool:
        """Whether this process is the one that sweeps for the next `seconds`.

        Only picks who works: two may believe it at once, and `cas` and the epoch keep that safe.
        """
        holder = self.process.encode()
        found = await self._store.gets(self._lead_key)
        if found is None:
            held = await self._store.add(self._lead_key, holder, seconds)
        elif found.value != holder:
            self.marshal_seen = found.value.decode("ascii", "replace")
            return False
        else:
            held = await self._store.cas(self._lead_key, holder, found.token, seconds)
        self.marshal_seen = self.process if held else ""
        return held

    async def give_up_lead(self) -> None:
        found = await self._store.gets(self._lead_key)
        if found is not None and found.value == self.process.encode():
            await self._store.delete(self._lead_key)

    async def begin_epoch(self) -> int:
        """Stamp a new epoch into the roster: from now on an older marshal's sweeps are refused."""
        return await self._change(
            lambda roster, now: (replace(roster, epoch=roster.epoch + 1), roster.epoch + 1)
        )

    async def silences(self, numbers: Iterable[int]) -> dict[int, float | None]:
        """Seconds since each was heard; None where the store holds nothing to tell it by."""
        keys = {number: f"{self._entry_key}{number}" for number in numbers}
        left = await self._store.remaining(keys.values())
        whole = self.rules.entry_seconds
        return {
            number: max(0.0, float(whole - left[key])) if key in left else None
            for number, key in keys.items()
        }

    async def sweep(
        self,
        epoch: int,
        *,
        away: Collection[int],
        silent: Collection[int],
        suspect: frozenset[int],
        heard: Collection[int],
        work: Work | None,
        thaw: bool,
    ) -> bool:
        """One marshal's round. False: a newer marshal has begun, and nothing was done."""

        def act(roster: Roster, now: float) -> tuple[Roster, bool]:
            if roster.epoch != epoch:
                return roster, False
            thawed = roster.thaw() if thaw and roster.frozen else roster
            swept = thawed.sweep(
                now,
                self.rules,
                away=away,
                heard=heard,
                silent=silent,
                suspect=suspect,
                work=work,
            )
            return swept, True

        return bool(await self.changes.ask(Change(act, stamps=True)))

    # The roster: read, changed, written

    def _known(self) -> Roster:
        if self._roster is None:
            raise Unavailable("store-unavailable", "the roster was not read yet")
        return self._roster

    async def _reload(self, askers: list[None]) -> list[Roster]:
        roster, _ = await self._load()
        return [roster] * len(askers)

    async def _load(self) -> tuple[Roster, Found]:
        """The roster as it is in the store, made anew if it is read as absent."""
        for _ in range(3):
            found = await self._store.gets(self._roster_key)
            if found is not None:
                return self._adopt(found.value), found
            await self._restore()
        raise Unavailable("store-unavailable", "the roster is lost as soon as it is made")

    def _adopt(self, data: bytes) -> Roster:
        held = self._roster
        if held is not None and data == self._data:
            return held
        try:
            roster = Roster.from_bytes(data)
        except ValueError as error:
            # Not ours to overwrite: somebody else's value, or a newer version's.
            raise Unavailable("roster-unreadable", str(error), 30) from error
        self._hold(roster, data)
        return roster

    def _hold(self, roster: Roster, data: bytes) -> None:
        held = self._roster
        now = self._clock.monotonic()
        if held is not None and held.generation == roster.generation:
            if (roster.version, roster.time) < (held.version, held.time):
                return
            time = max(roster.time, self._now(held))
        else:
            time = roster.time
        if held is None or held.version != roster.version or held.generation != roster.generation:
            self._public = None
        self._base_time, self._base_at = time, now
        self._roster, self._data = roster, data

    def _now(self, roster: Roster) -> float:
        """Line time, which runs on this process's clock but never far past the last stamp."""
        estimated = self._base_time + (self._clock.monotonic() - self._base_at)
        return max(roster.time, min(estimated, roster.time + UNSTAMPED_SECONDS))

    async def _restore(self) -> None:
        """Make the roster anew, above every number that was ever shown.

        Two processes may do so at once; the `add` lets one of them win, whole.
        """
        recalled = await self._ledger.recall(self.name)
        candidates = [] if self._roster is None else [self._roster]
        if recalled.checkpoint is not None:
            try:
                candidates.append(Roster.from_bytes(recalled.checkpoint))
            except ValueError as error:
                log.error("line %s: the checkpoint is unreadable: %s", self.name, error)
        above = recalled.high_water + 1
        generation = self._new_id()
        known_version = max((each.version for each in candidates), default=0)
        if candidates:
            # Versions only rise, over losses too; epochs begin again with an empty roster.
            newest = max(candidates, key=lambda each: each.version)
            roster = replace(
                newest,
                generation=generation,
                # Past every version that somebody may have seen and the ledger has not.
                version=max(newest.version, recalled.version) + 1000,
                next_number=max(newest.next_number, above),
            )
            log.warning("line %s: made anew as of version %d", self.name, newest.version)
        else:
            roster = Roster(
                generation=generation,
                version=recalled.version + 1000,
                places=self.rules.places,
                next_number=above,
                void_below=recalled.void_below,
                frozen=recalled.high_water > 0,
            )
            if roster.frozen:
                log.warning("line %s: lost; frozen until the browsers' tickets are back", self.name)
        if recalled.switches_version > known_version:
            try:
                roster = roster.with_switches(recalled.switches)
            except ValueError as error:
                log.error("line %s: goes on as if nobody had set them: %s", self.name, error)
        await self._store.add(self._roster_key, roster.to_bytes())

    async def _change(self, apply: Callable[[Roster, float], tuple[Roster, T]]) -> T:
        result = await self.changes.ask(Change(apply))
        return result  # type: ignore[return-value]  # the answer is what this very apply gave

    async def _commit(self, batch: list[Change]) -> list[object]:
        """Apply a batch to the newest roster and write it, in one `cas`; then the ledger.

        If the process dies after the `cas`: the numbers are in the roster and nobody was told
        them, so they fall silent and go aside. If it dies before: nothing happened.
        """
        for attempt in range(TRIES):
            roster, found = await self._load()
            now = self._now(roster)
            changed, answers = _applied(batch, roster, now)
            stamps = any(change.stamps for change in batch)
            if changed is roster and not stamps:
                return answers
            version = roster.version + (changed is not roster)
            changed_at = replace(changed, version=version, time=now)
            data = changed_at.to_bytes()
            if await self._store.cas(self._roster_key, data, found.token):
                self._hold(changed_at, data)
                if changed is not roster:
                    try:
                        await self._record(roster, changed_at, data)
                    except NumbersGiven as error:
                        await self._give_up_numbers(
                            roster.next_number, changed.next_number - 1, error.high_water
                        )
                        raise
                return answers
            if attempt:
                await self._pause(0.002 * attempt)
        raise Unavailable("store-busy", f"the roster changed {TRIES} times meanwhile")

    async def _give_up_numbers(self, first: int, last: int, given: int) -> None:
        """This roster was made anew by somebody who had read the mark too early. What it gave
        belongs to others, who come back to it with their tickets; it goes on above."""

        log.warning("line %s: %d to %d were given before a loss", self.name, first, last)
        for _ in range(TRIES):
            roster, found = await self._load()
            above = replace(
                roster,
                version=roster.version + 1,
                order=roster.order.discard_many(range(first, last + 1)),
                next_number=max(roster.next_number, given + 1),
            )
            data = above.to_bytes()
            if await self._store.cas(self._roster_key, data, found.token):
                self._hold(above, data)
                return

    async def _record(self, before: Roster, after: Roster, data: bytes) -> None:
        """What must outlive the store, before anybody is told."""
        wall = self._clock.wall()
        ended = [
            Tombstone(number, seat.state, wall, _reason(seat))
            for number, seat in after.seats.items()
            if seat.state.ended and not _had_ended(before, number)
        ]
        # Once more when the roster forgets an ending: the first time the ledger may have failed.
        ended += [
            Tombstone(number, seat.state, wall - (after.time - seat.since), _reason(seat))
            for number, seat in before.seats.items()
            if seat.state.ended and after.state(number) is None
        ]
        # A crowd may be aside and one return: only those are looked at who are there no more.
        ended += [
            Tombstone(number, State.EXPIRED, wall, "")
            for number in _gone(before.aside, after.aside)
            if after.state(number) is State.EXPIRED
        ]
        ended += [
            Tombstone(number, State.EXPIRED, wall, "")
            for number in _gone(before.expired, after.expired)
            if after.state(number) is None
        ]
        revived = [
            number
            for number, seat in after.seats.items()
            if not seat.state.ended and before.state(number) in (None, *_ENDED)
        ]
        revived += [
            number
            for number, seat in before.seats.items()
            if seat.state.ended and number in after.order
        ]
        await self._ledger.record(
            self.name,
            generation=after.generation,
            first=before.next_number if after.next_number > before.next_number else None,
            high_water=after.next_number - 1,
            version=after.version,
            checkpoint=data,
            void_below=after.void_below,
            ended=ended,
            revived=revived,
        )
        for stone in ended:
            log.info("line %s: %s %s", self.name, stone.number, stone.state)

    # Steps that the verbs share

    async def _find(self, ticket: Ticket) -> State | Standing:
        """Of a ticket that this process does not know: its state, if it lives; its ending
        otherwise. One that ended nowhere was lost by a store, and is entered at its number."""
        roster = await self._reloads.ask(None)
        state = roster.state(ticket.number)
        if state is not None:
            return state
        stone = await self._ledger.tombstone(self.name, ticket.number)
        if stone is not None:
            return self._over(ticket, State(stone.state), stone.at, stone.reason)
        if ticket.number < roster.void_below:
            return self._over(ticket, State.VOID)
        if ticket.state.ended:
            return self._over(ticket, ticket.state, float(ticket.stamped_at))
        return (await self._enter(ticket)).state(ticket.number) or State.WAITING

    async def _enter(self, ticket: Ticket) -> Roster:
        await self._change(
            lambda roster, now: (
                roster.enter(ticket.number, ticket.state, now, self.rules),
                None,
            )
        )
        self._names.keep(ticket)
        log.info("line %s: %s entered again as %s", self.name, ticket.number, ticket.state)
        return self._known()

    async def _must_know(self, ticket: Ticket) -> None:
        """A verb of a ticket that ended long ago is refused; of one that was lost, begun again."""
        if self._roster is None or self._roster.state(ticket.number) is None:
            found = await self._find(ticket)
            if isinstance(found, Standing):
                raise WrongState("not-in-line", found.state)

    async def _acted(
        self, ticket: Ticket, apply: Callable[[Roster, float], tuple[Roster, None]]
    ) -> Standing:
        await self._change(apply)
        return await self.stand(ticket)

    async def _set_gate(
        self, by: Operator, action: str, gate: Gate, said: Words, opens_at: str = ""
    ) -> None:
        await self._operate(
            by,
            action,
            lambda roster, now: (roster.with_gate(gate, said, opens_at, now, self.rules), None),
            before=self._known().gate,
            after=gate,
            reason=said,
            switches=True,
        )

    async def _operate_on(
        self,
        by: Operator,
        action: str,
        number: int,
        seen: str | None,
        apply: Callable[[Roster, float], Roster],
        *,
        reason: Words = NOTHING_SAID,
        after: str = "",
    ) -> None:
        """An act on one ticket, as the operator saw it: if its state is another by now, the
        act is refused, because a live table moves under the mouse."""

        def act(roster: Roster, now: float) -> tuple[Roster, None]:
            state = roster.state(number)
            if state is None:
                raise NotFound("ticket-unknown")
            if seen and seen != state:
                raise WrongState("state-changed", state)
            return apply(roster, now), None

        await self._operate(
            by,
            action,
            act,
            number=number,
            before=self._known().state(number) or "",
            after=after,
            reason=reason,
        )

    async def _operate(
        self,
        by: Operator,
        action: str,
        apply: Callable[[Roster, float], tuple[Roster, object]],
        *,
        number: int | None = None,
        before: str = "",
        after: str = "",
        reason: Words = NOTHING_SAID,
        switches: bool = False,
    ) -> object:
        """`switches`: the act sets one, which is kept before the act is called done. Dying in
        between leaves it in the roster and its checkpoint; the operator was told nothing."""
        entry = AuditEntry(
            line=self.name,
            at=self._clock.wall(),
            who=by.name,
            action=action,
            number=number,
            before=str(before),
            after=str(after),
            reason=" / ".join(said for said in (reason.en, reason.zh) if said),
            address=by.address,
        )
        async with self._ledger.witness(entry):
            answer = await self._change(apply)
            if switches:
                # Maybe newer than this act by now; never older.
                newest = self._known()
                await self._ledger.keep_switches(self.name, newest.switches(), newest.version)
            return answer

    async def _renew(self, tickets: list[Ticket]) -> list[bool]:
        """Heartbeats: a new TTL for each; an entry that was lost is made again."""
        keys = {f"{self._entry_key}{ticket.number}": ticket for ticket in tickets}
        there = await self._store.touch_many(list(keys), self.rules.entry_seconds)
        lost = {key: _entry(ticket) for key, ticket in keys.items() if key not in there}
        if lost:
            await self._store.add_many(lost, self.rules.entry_seconds)
        return [True] * len(tickets)

    async def _learn(self, numbers: Collection[int]) -> None:
        """Names and services of `numbers`, from their entries."""
        keys = {f"{self._entry_key}{n}": n for n in numbers if not self._names.ticket(n)}
        if not keys:
            return
        for key, data in (await self._store.get_many(list(keys))).items():
            try:
                self._names.keep(_from_entry(self.name, data))
            except (ValueError, TypeError) as error:
                log.warning("line %s: entry %s is unreadable: %s", self.name, keys[key], error)

    def _matches(self, number: int, wanted: str) -> bool:
        ticket = self._names.ticket(number)
        return ticket is not None and wanted in ticket.name.casefold()

    # What is told

    def _standing(self, ticket: Ticket, roster: Roster, state: State) -> Standing:
        if not state.ended:
            self._heard[ticket.number] = ticket
            if ticket.number in roster.away:
                self._back.add(ticket.number)
        return Standing.of(
            ticket,
            state,
            roster,
            self.public(),
            self._names,
            self._now(roster),
            self._clock.wall(),
            self.rules,
        )

    def _over(
        self, ticket: Ticket, state: State, at: float | None = None, reason: str = ""
    ) -> Standing:
        words = Words(*json.loads(reason)) if reason else NOTHING_SAID
        return Standing.ended(ticket, state, at, words, self._known().version, self._clock.wall())


_SEATED = frozenset({State.READY, State.SERVING})
_ENDED = tuple(state for state in State if state.ended)


def _applied(batch: list[Change], roster: Roster, now: float) -> tuple[Roster, list[object]]:
    """All changes in turn; one that is refused leaves the roster to the next as it was."""
    answers: list[object] = []
    for change in batch:
        try:
            roster, answer = change.apply(roster, now)
        except NowServingError as error:
            answers.append(error)
        else:
            answers.append(answer)
    return roster, answers


def _entry(ticket: Ticket) -> bytes:
    """The ticket's own entry: what the roster does not hold."""
    return _encode(
        [
            ticket.number,
            ticket.id,
            ticket.name,
            ticket.service,
            ticket.joined_at,
            ticket.joined_ahead,
            ticket.stamped_at,
            ticket.promised_at,
        ]
    ).encode()


def _from_entry(line: str, data: bytes) -> Ticket:
    """Raises ValueError or TypeError for what `_entry` did not write."""
    number, id_, name, service, joined_at, ahead, stamped_at, promised_at = json.loads(data)
    return Ticket(
        line=line,
        number=number,
        id=id_,
        name=name,
        service=service,
        joined_at=joined_at,
        joined_ahead=ahead,
        stamped_at=stamped_at,
        promised_at=promised_at,
    )


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _gone(
    before: tuple[tuple[float, NumberSet], ...], after: tuple[tuple[float, NumberSet], ...]
) -> Iterable[int]:
    """Members of `before` that are no more where they were."""
    if before == after:
        return
    there = {until: numbers for until, numbers in after}
    for until, numbers in before:
        yield from numbers.minus(there.get(until, NumberSet()))


def _had_ended(roster: Roster, number: int) -> bool:
    seat = roster.seats.get(number)
    return seat is not None and seat.state.ended


def _reason(seat: Seat) -> str:
    return json.dumps([seat.said.en, seat.said.zh], ensure_ascii=False) if seat.said else ""
