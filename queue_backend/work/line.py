"""The job line: where requests wait until the slow service has a slot for them.

One row, one gate, one lease. A job is one row. Putting and reserving pass the gate (the line's
own row is locked first), so counting and claiming are one step: no two processes can both see
the last free slot. Being reserved is a lease that lapses by the passing of time.

The cap is the number of live leases, counted inside the claim over all processes and hosts. It
is never a counter, so there is nothing to leak, to reset at start-up, or to give back twice.
One thing it cannot do: a worker that is frozen past its lease and its grace, and wakes up in
the middle of a call, makes that call one too many.

Every verb gives an Answer, to be awaited on an event loop or asked in a thread.

Kept out: what a job does (an adapter, a task), who does it (`worker.py`), who may put one (the
desk). Only here, in `statements.py` and in `schema.py` is SQL spoken about jobs.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Literal, TypeVar

from sqlalchemy import Connection

from queue_backend.answer import Answer
from queue_backend.clock import Clock, SystemClock
from queue_backend.database import Database, remembered
from queue_backend.engine import insert_unless_there
from queue_backend.errors import BadInput, LeaseLost, LineFull, NotFound, WrongState
from queue_backend.prepared import Row
from queue_backend.work import statements
from queue_backend.work.bell import Bell
from queue_backend.work.job import (
    NO_CAP,
    ORDINARY_PRI,
    QUEUED,
    Job,
    JobState,
    JobStats,
    Lease,
    Put,
    SlotView,
    shown_state,
)
from queue_backend.work.schema import LONGEST_KEY, LONGEST_NAME, lines

T = TypeVar("T")

LOOK_EACH_SECONDS = 0.2
RUN_TIMES_KEPT = 50
SLOTS_KEPT_SECONDS = 3_600

# Who waits here waits for real, whatever clock a test has turned for leases.
real_time = SystemClock()

# What every way out of the line has in common: nobody holds it, and its secrets are erased.
# A buried job that is kicked therefore runs without them; its worker says so to the person.
_PUT_DOWN: dict[str, object] = {"to_holder": None, "to_sealed": None, "to_stop_asked": False}


class JobLine:
    """One line of jobs. Every process that uses the line makes one of these with the same name.

    The cap stands in the line's row, set by whoever opened the line last, so that processes with
    different settings still obey one number; None lets any number run. `order` is "fifo", or
    "lifo" where the newest goes first. `clock` is for tests: else the time is the database's,
    one for all hosts.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        cap: int | None,
        clock: Clock | None = None,
        lease_seconds: float = 30,
        grace_seconds: float = 5,
        tries: int = 4,
        backoff_seconds: float = 600,
        depth: int | None = 10_000,
        keep_seconds: float = 86_400,
        order: Literal["fifo", "lifo"] = "fifo",
    ) -> None:
        self.name = name
        self.lease_seconds = lease_seconds
        self.bell = Bell()
        self._database = database
        self._wall = clock
        self._clock = clock or SystemClock()
        self._cap = NO_CAP if cap is None else cap
        self._cap_is_said = False
        self._grace_seconds = grace_seconds
        self._tries = tries
        self._backoff_seconds = backoff_seconds
        self._depth = depth
        self._room_until_id = 0
        self._keep_seconds = keep_seconds
        self._next_one = statements.oldest_ready if order == "fifo" else statements.newest_ready

    # Putting and looking: what the desk and the pages do

    def put(
        self,
        task: str,
        args: Mapping[str, object] | None = None,
        *,
        body: bytes | None = None,
        key: str | None = None,
        pri: int = ORDINARY_PRI,
        delay_seconds: float = 0,
        ttl_seconds: float | None = None,
        tries: int | None = None,
        once: bool = False,
        prolong: bool = False,
    ) -> Answer[Job]:
        """Put a job in line; it is on disk when this is answered.

        A key that is already live gives back the job that has it, with `created=False`: so a
        double click, a reload or a retry is one job. With `once` a key that was ever put does so,
        for as long as ended jobs are kept: one submission stays one job though it is sent again
        after it was carried out. With `prolong` the job that has the key waits for
        `ttl_seconds` from now. Smaller `pri` goes first, then the older.
        A job not begun within `ttl_seconds` is cancelled; one that may have been sent is not.
        `args` is JSON; its part named `sealed` is erased when the job ends. Raises LineFull at
        `depth` waiting jobs.
        """
        new = Put(task, args or {}, body, key, pri, delay_seconds, ttl_seconds, tries)
        _check_length(new)

        def act(connection: Connection, gate: Row) -> Job:
            if key is not None:
                same = statements.by_key if once else statements.live_by_key
                of = {"of_line": self.name, "of_key": key}
                known = same.one(connection, of)
                if known is not None:
                    if prolong and ttl_seconds is not None:
                        until = {"expires": self._now(connection) + ttl_seconds}
                        connection.execute(statements.prolong, self._to(known.id, until))
                    return _job(known, self._now(connection))
            job = self._enter(connection, self.name, new)
            self._check_room(connection, job)
            return job

        return self._ringing(self._through_the_gate(act))

    def peek(self, id: int) -> Answer[Job]:
        """The job as it is now. Raises NotFound."""
        return self._database.read(
            lambda connection: _job(self._row(connection, id), self._now(connection))
        )

    def find(self, key: str) -> Answer[Job | None]:
        """The newest job that was put with `key`, live or ended."""

        def look(connection: Connection) -> Job | None:
            of = {"of_line": self.name, "of_key": key}
            row = statements.by_key.one(connection, of)
            return _job(row, self._now(connection)) if row else None

        return self._database.read(look)

    def head(self) -> Answer[Job | None]:
        """The job that would be taken next, left where it is."""

        def look(connection: Connection) -> Job | None:
            now = self._now(connection)
            row = self._head(connection, now)
            return _job(row, now) if row else None

        return self._database.read(look)

    def position(self, id: int) -> Answer[int]:
        """1 for the job that is taken next, 2 for the one behind it; 0 when it does not wait."""

        def look(connection: Connection) -> int:
            now = self._now(connection)
            mine = self._row(connection, id)
            shown = shown_state(mine.state, mine.holder, mine.due, now)
            if shown not in (JobState.READY, JobState.DELAYED):
                return 0
            of = {"of_line": self.name, "now": now, "than_pri": mine.pri, "than_id": mine.id}
            return int(connection.execute(statements.count_ahead, of).scalar_one()) + 1

        return self._database.read(look)

    def stats(self) -> Answer[JobStats]:
        """How busy the line is; one look for the marshal, the estimates and the admin view."""

        def look(connection: Connection) -> JobStats:
            now = self._now(connection)
            of = {"of_line": self.name, "now": now, "at_most": RUN_TIMES_KEPT}
            numbers = connection.execute(statements.count_by_state, of).one()
            run_times = connection.execute(statements.run_times, of).scalars()
            gate = statements.gate.one(connection, of)
            ready, reserved, delayed, buried = (int(number) for number in numbers)
            return JobStats(
                ready=ready,
                reserved=reserved,
                delayed=delayed,
                buried=buried,
                cap=gate.cap if gate else self._cap,
                paused_reason=_paused_reason(gate, now),
                recent_seconds=tuple(reversed(run_times.all())),
            )

        return self._database.read(look)

    def snapshot(self, limit: int = 200) -> Answer[list[Job]]:
        """The live jobs in their order, the buried ones first: for the admin view."""

        def look(connection: Connection) -> list[Job]:
            now = self._now(connection)
            of = {"of_line": self.name, "at_most": limit}
            return [_job(row, now) for row in connection.execute(statements.live_in_order, of)]

        return self._database.read(look)

    def ids_in_order(self) -> Answer[list[int]]:
        """All that wait, the next one first; ten thousand take some milliseconds."""

        def look(connection: Connection) -> list[int]:
            of = {"of_line": self.name, "now": self._now(connection)}
            return list(connection.execute(statements.ids_in_order, of).scalars())

        return self._database.read(look)

    # Taking and giving back: what a worker does

    async def reserve(
        self, holder: str, wait_seconds: float = 0, *, lease_seconds: float | None = None
    ) -> Lease | None:
        """Take the next ready job if a slot is free; wait up to `wait_seconds` for one.

        Puts and ends of this process wake a waiting reserve at once; those of other processes,
        and delays that run out, are seen within 0.2 s.

        Do not cancel it while it claims: the claim would stand, held by nobody, until it lapses.
        """
        give_up_at = real_time.monotonic() + wait_seconds
        rang = True
        with self.bell.heard_on_loop() as news:
            while True:
                news.clear()
                # Nobody rang: then a look, which locks nothing, mostly finds nothing.
                if rang or await self.head() is not None:
                    lease = await self.claim(holder, lease_seconds=lease_seconds)
                    if lease is not None:
                        return lease
                left = give_up_at - real_time.monotonic()
                if left <= 0:
                    return None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), min(left, LOOK_EACH_SECONDS))
                rang = news.is_set()

    def reserve_blocking(
        self, holder: str, wait_seconds: float = 0, *, lease_seconds: float | None = None
    ) -> Lease | None:
        """The same in a thread."""
        give_up_at = real_time.monotonic() + wait_seconds
        rang = True
        with self.bell.heard_in_thread() as news:
            while True:
                news.clear()
                if rang or self.head().result() is not None:
                    lease = self.claim(holder, lease_seconds=lease_seconds).result()
                    if lease is not None:
                        return lease
                left = give_up_at - real_time.monotonic()
                if left <= 0:
                    return None
                rang = news.wait(min(left, LOOK_EACH_SECONDS))

    def claim(
        self, holder: str, *, lease_seconds: float | None = None, only: int | None = None
    ) -> Answer[Lease | None]:
        """One try to take the next ready job. A lease that lapsed adds a fail; past its tries a
        job is buried, past its time it is cancelled, and the next one is looked at. With `only`
        the job of this id is taken if it is the next one, and no other."""
        lasts_seconds = lease_seconds or self.lease_seconds

        def act(connection: Connection, gate: Row) -> Lease | None:
            head = self._claimable(connection, gate)
            if head is None or only not in (None, head.id):
                return None
            now = self._now(connection)
            # due = deadline + grace: the job and its slot are given away only a grace after
            # the holder must have stopped.
            taken = {
                "holder": holder,
                "attempt": head.attempt + 1,
                "fails": head.fails + (head.holder is not None),
                "taken_at": now,
                "due": now + lasts_seconds + self._grace_seconds,
            }
            statements.claim.change(connection, self._to(head.id, taken))
            self._forget_counts(connection, leased=+1)
            job = _job(head, now)._replace(state=JobState.RESERVED, **taken)
            return Lease(job, self._clock.monotonic() + lasts_seconds)

        return self._through_the_gate(act)

    def take(self) -> Answer[Job | None]:
        """Take the next ready job and end it, in one step: for those who need no ack. If they
        die after it, it is lost."""

        def act(connection: Connection, gate: Row) -> Job | None:
            head = self._claimable(connection, gate)
            if head is None:
                return None
            return self._end(connection, head, JobState.DONE, error=None)

        return self._ringing(self._through_the_gate(act))

    def touch(
        self, lease: Lease, step: str | None = None, *, lease_seconds: float | None = None
    ) -> Answer[Lease]:
        """Renew the lease, and say how far the call has got. The answer's job tells, by
        `stop_asked`, that somebody wants it stopped.

        Raises LeaseLost when the lease lapsed, even if nobody took the job since: its slot
        may have been given away, and taking it back would be one too many.
        """
        lasts_seconds = lease_seconds or self.lease_seconds

        def act(connection: Connection) -> Lease:
            now = self._now(connection)
            due = now + lasts_seconds + self._grace_seconds
            of = {**_by(lease), "now": now, "to_due": due, "to_step": step}
            renew = statements.renew_silently if step is None else statements.renew
            if not renew.change(connection, of):
                raise _lease_lost(lease)
            job = _job(self._row(connection, lease.job.id), now)
            return Lease(job, self._clock.monotonic() + lasts_seconds)

        return self._database.write(act, self.name)

    def ack(
        self,
        lease: Lease,
        result: Mapping[str, object] | None = None,
        *,
        then: Sequence[Put] = (),
    ) -> Answer[Job]:
        """The job is done, with `result`; what comes next is put in the same transaction, into
        this line or others. Raises LeaseLost when another attempt holds it.

        A lapsed lease may still end its job while nobody else took it: the work was done, and
        its slot is not asked back.
        """
        kept = None if result is None else dict(result)
        for put in then:
            _check_length(put)

        def act(connection: Connection) -> Job:
            now = self._now(connection)
            ended = {"state": JobState.DONE, "live": None, "done_at": now, "step": ""}
            to = {**_PUT_DOWN, **_to(ended), "to_result": kept, "to_error": None}
            if not statements.ack.change(connection, {**_by(lease), **to}):
                raise _lease_lost(lease)
            self._forget_counts(connection)
            for put in then:
                self._put_next(connection, put)
            plain = {name: value for name, value in lease.job.args.items() if name != "sealed"}
            return lease.job._replace(
                state=JobState.DONE,
                args=plain,
                holder=None,
                step="",
                result=kept,
                error=None,
                done_at=now,
            )

        # Who ends a job frees a slot: a full line never waits for a poll.
        return self._ringing(self._database.write(act, self.name))

    def release(
        self,
        lease: Lease,
        *,
        delay_seconds: float | None = None,
        error: str | None = None,
        nothing_sent: bool = False,
    ) -> Answer[Job]:
        """Give the job back, to its old place in the line.

        With an `error` it counts as a fail, waits for the back-off unless `delay_seconds` says
        otherwise, and is buried past its tries. Without, it is a polite release and not counted.
        Say `nothing_sent` only when it is certain: else the next holder is told, by `step`, that
        a call may have been under way.
        """

        def act(connection: Connection) -> Job:
            row = self._held(connection, lease)
            fails = row.fails + (error is not None)
            step = "" if nothing_sent else row.step
            if fails >= self._tries_of(row):
                return self._bury(connection, row, fails=fails, error=error, step=step)
            delay = delay_seconds
            if delay is None:
                delay = 0 if error is None else self._backoff_seconds
            back = {
                "holder": None,
                "due": self._now(connection) + delay,
                "fails": fails,
                "error": error or row.error,
                "step": step,
            }
            connection.execute(statements.put_back, self._to(row.id, back))
            self._forget_counts(connection)
            return self._job(connection, row.id)

        return self._ringing(self._database.write(act, self.name))

    def bury(self, lease: Lease, error: str) -> Answer[Job]:
        """Put the job aside for an operator: it never runs again unless it is kicked."""

        def act(connection: Connection) -> Job:
            return self._bury(connection, self._held(connection, lease), error=error)

        return self._ringing(self._database.write(act, self.name))

    # What those who put jobs may change

    def update(
        self, id: int, args: Mapping[str, object] | None = None, body: bytes | None = None
    ) -> Answer[Job]:
        """Change what a waiting job says; what is None stays. Raises NotFound, and WrongState
        once somebody has it in hand or it is over."""

        def act(connection: Connection, gate: Row) -> Job:
            row = self._row(connection, id)
            state = _job(row, self._now(connection)).state
            if state not in (JobState.READY, JobState.DELAYED):
                raise WrongState("job-wrong-state", state)
            changed = {
                "args": row.args if args is None else _without_sealed(args),
                "body": row.body if body is None else body,
            }
            connection.execute(statements.change, self._to(id, changed))
            return self._job(connection, id)

        return self._through_the_gate(act)

    # What operators do

    def kick(self, id: int, seen: str | None = None) -> Answer[Job]:
        """Make a buried or delayed job ready, its fails forgotten. Raises NotFound, WrongState;
        the latter also when the job is no longer in the state in which it was `seen`."""

        def act(connection: Connection, gate: Row) -> Job:
            job = self._job(connection, id)
            _check_seen(seen, job.state)
            if job.state not in (JobState.BURIED, JobState.DELAYED):
                raise WrongState("job-wrong-state", job.state)
            return self._kick(connection, id)

        return self._ringing(self._through_the_gate(act))

    def kick_buried(self, count: int) -> Answer[list[Job]]:
        """Kick the oldest `count` buried jobs."""

        def act(connection: Connection, gate: Row) -> list[Job]:
            of = {"of_line": self.name, "at_most": count}
            ids = connection.execute(statements.oldest_buried, of).scalars().all()
            return [self._kick(connection, id) for id in ids]

        return self._ringing(self._through_the_gate(act))

    def cancel(self, id: int, seen: str | None = None) -> Answer[Job]:
        """Take a waiting or buried job out of the line; ask a running one to stop.

        A running job may still end as done: look at the state of the answer. One that may have
        been sent ends with the error "not-confirmed" instead of "cancelled". Raises NotFound, and
        WrongState when it has ended already or is no longer in the state in which it was `seen`.
        """

        def act(connection: Connection, gate: Row) -> Job:
            row = self._row(connection, id)
            state = _job(row, self._now(connection)).state
            _check_seen(seen, state)
            if state.ended:
                raise WrongState("job-wrong-state", state)
            if state is not JobState.RESERVED:
                error = "not-confirmed" if row.step else "cancelled"
                return self._end(connection, row, JobState.CANCELLED, error=error)
            connection.execute(statements.ask_to_stop, self._of(id))
            return self._job(connection, id)

        return self._ringing(self._through_the_gate(act))

    def pause(self, seconds: float | None = None, reason: str = "paused") -> Answer[None]:
        """Let nobody reserve, in any process, for `seconds` or until `resume`.

        Running jobs run on. The reason is kept in the line's row, for every process to show.
        """

        def act(connection: Connection, gate: Row) -> None:
            until = None if seconds is None else self._now(connection) + seconds
            self._say_pause(connection, reason, until)

        return self._through_the_gate(act)

    def resume(self) -> Answer[None]:
        """Let jobs be reserved again. Resuming a line that is not paused changes nothing."""

        def act(connection: Connection, gate: Row) -> None:
            self._say_pause(connection, None, None)

        return self._ringing(self._through_the_gate(act))

    def paused(self) -> Answer[str | None]:
        """Why nobody may reserve now; None while the line runs."""

        def look(connection: Connection) -> str | None:
            gate = statements.gate.one(connection, {"of_line": self.name})
            return _paused_reason(gate, self._now(connection))

        return self._database.read(look)

    def purge(self, keep_seconds: float | None = None) -> Answer[int]:
        """Cancel what expired while it waited, forget what ended longer ago than `keep_seconds`.

        Answers how many were forgotten. Buried jobs stay until somebody decides about them.
        """
        kept_seconds = self._keep_seconds if keep_seconds is None else keep_seconds

        def act(connection: Connection, gate: Row) -> int:
            now = self._now(connection)
            of = {"of_line": self.name, "now": now}
            for id in connection.execute(statements.expired, of).scalars().all():
                row = self._row(connection, id)
                self._end(connection, row, JobState.CANCELLED, error="expired")
            silent = {"of_line": self.name, "before": now - SLOTS_KEPT_SECONDS}
            connection.execute(statements.forget_silent_slots, silent)
            old = {"of_line": self.name, "before": now - kept_seconds}
            return connection.execute(statements.forget, old).rowcount

        return self._ringing(self._through_the_gate(act))

    # Waiting for the end of all

    async def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait until no job waits or runs; buried ones do not count. False: not in time."""
        give_up_at = _in(timeout_seconds)
        with self.bell.heard_on_loop() as news:
            while True:
                news.clear()
                if await self._database.read(self._queued) == 0:
                    return True
                left = give_up_at - real_time.monotonic()
                if left <= 0:
                    return False
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), min(left, LOOK_EACH_SECONDS))

    def join_blocking(self, timeout_seconds: float | None = None) -> bool:
        """The same in a thread."""
        give_up_at = _in(timeout_seconds)
        with self.bell.heard_in_thread() as news:
            while True:
                news.clear()
                if self._database.read(self._queued).result() == 0:
                    return True
                left = give_up_at - real_time.monotonic()
                if left <= 0:
                    return False
                news.wait(min(left, LOOK_EACH_SECONDS))

    # What workers say of themselves

    def report(self, holder: str, views: Sequence[SlotView]) -> Answer[None]:
        """What the slots of `holder` are doing, instead of what was said before; of a holder
        that ends politely: nothing."""

        def act(connection: Connection) -> None:
            now = self._now(connection)
            of = {"of_line": self.name, "of_holder": holder}
            connection.execute(statements.forget_slots, of)
            for view in views:
                said = {**asdict(view), "line": self.name, "holder": holder, "heard_at": now}
                connection.execute(statements.say_slots, said)

        return self._database.write(act, self.name)

    def workers(self) -> Answer[list[SlotView]]:
        """The slots of all workers of this line, over all processes, as they last said."""

        def look(connection: Connection) -> list[SlotView]:
            rows = connection.execute(statements.slots_of_line, {"of_line": self.name})
            return [
                SlotView(row.holder, row.slot, row.state, row.job, row.since, row.heard_at)
                for row in rows
            ]

        return self._database.read(look)

    # How it is done

    def _through_the_gate(self, act: Callable[[Connection, Row], T]) -> Answer[T]:
        answer = self._database.write(
            lambda connection: act(connection, self._gate(connection)), self.name
        )
        if not self._cap_is_said:
            answer.add_done_callback(self._has_said_cap)
        return answer

    def _has_said_cap(self, answer: Future[T]) -> None:
        # A refusal undid what was said with it.
        if not answer.cancelled() and answer.exception() is None:
            self._cap_is_said = True

    def _gate(self, connection: Connection) -> Row:
        """Lock the line's row, and hand it over. Everything else in the act comes after this."""
        kept = remembered(connection)
        row: Row | None = kept.get(("gate", self.name))
        if row is not None:
            return row
        of = {"of_line": self.name}
        row = statements.gate_locked.one(connection, of)
        if row is None:
            row = self._make_gate(connection, self.name, self._cap)
        if row.cap != self._cap and not self._cap_is_said:
            connection.execute(statements.set_cap, {**of, "to_cap": self._cap})
            row = statements.gate.one(connection, of)
        kept["gate", self.name] = row
        kept.pop("now", None)  # it may have been a wait
        return row

    def _make_gate(self, connection: Connection, line: str, cap: int) -> Row:
        insert_unless_there(connection, lines, {"name": line, "cap": cap})
        return statements.gate_locked.one(connection, {"of_line": line})

    def _ringing(self, answer: Answer[T]) -> Answer[T]:
        answer.add_done_callback(lambda _: self.bell.ring())
        return answer

    def _now(self, connection: Connection) -> float:
        return self._database.now(connection) if self._wall is None else self._wall.wall()

    def _of(self, id: int) -> dict[str, object]:
        return {"of_line": self.name, "of_id": id}

    def _to(self, id: int, columns: Mapping[str, object]) -> dict[str, object]:
        return {"of_id": id, **_to(columns)}

    def _row(self, connection: Connection, id: int) -> Row:
        row = statements.one.one(connection, self._of(id))
        if row is None:
            raise NotFound("job-unknown", f"{self.name}: no job {id}")
        return row

    def _job(self, connection: Connection, id: int) -> Job:
        return _job(self._row(connection, id), self._now(connection))

    def _head(self, connection: Connection, now: float) -> Row | None:
        of = {"of_line": self.name, "now": now}
        return self._next_one.one(connection, of)

    def _held(self, connection: Connection, lease: Lease) -> Row:
        """Only the newest attempt may say what becomes of a job."""
        row = connection.execute(statements.held, _by(lease)).one_or_none()
        if row is None:
            raise _lease_lost(lease)
        return row

    def _claimable(self, connection: Connection, gate: Row) -> Row | None:
        """The next ready job if a slot is free; what is in its way goes where it belongs."""
        now = self._now(connection)
        if _paused_reason(gate, now) is not None:
            return None
        if gate.cap != NO_CAP and self._leased(connection, now) >= gate.cap:
            return None
        while (head := self._head(connection, now)) is not None:
            fails = head.fails + (head.holder is not None)
            if head.expires is not None and head.expires <= now and head.step == "":
                self._end(connection, head, JobState.CANCELLED, error="expired")
            elif fails >= self._tries_of(head):
                self._bury(connection, head, fails=fails, error="lease-lapsed")
            else:
                return head
        return None

    def _tries_of(self, row: Row) -> int:
        return self._tries if row.tries is None else int(row.tries)

    # Counting costs as much as what it guards, so acts of one transaction count once.

    def _leased(self, connection: Connection, now: float) -> int:
        kept = remembered(connection)
        if ("leased", self.name) not in kept:
            of = {"of_line": self.name, "now": now}
            kept["leased", self.name] = statements.count_leased.one(connection, of)[0]
        return int(kept["leased", self.name])

    def _queued(self, connection: Connection) -> int:
        of = {"of_line": self.name}
        return int(connection.execute(statements.count_queued, of).scalar_one())

    def _check_room(self, connection: Connection, newest: Job) -> None:
        """Counting all that wait would cost a long line milliseconds a put. Ids only grow, so
        after one count there is room for certain until they have grown by what was left."""
        if self._depth is None or newest.id < self._room_until_id:
            return
        queued = self._queued(connection)
        if queued > self._depth:
            raise LineFull()
        self._room_until_id = newest.id + self._depth - queued

    def _forget_counts(self, connection: Connection, leased: int = 0) -> None:
        kept = remembered(connection)
        if not leased:
            kept.pop(("leased", self.name), None)
        elif ("leased", self.name) in kept:
            kept["leased", self.name] += leased

    def _enter(self, connection: Connection, line: str, put: Put) -> Job:
        now = self._now(connection)
        values = {
            "to_line": line,
            "to_state": QUEUED,
            "to_pri": put.pri,
            "to_due": now + put.delay_seconds,
            "to_key": put.key,
            "to_live": 1,
            "to_expires": None if put.ttl_seconds is None else now + put.ttl_seconds,
            "to_tries": put.tries,
            "to_task": put.task,
            "to_args": _without_sealed(put.args),
            "to_body": put.body,
            "to_sealed": put.args.get("sealed"),
            "to_put_at": now,
            "to_attempt": 0,
            "to_fails": 0,
            "to_step": "",
            "to_stop_asked": False,
        }
        return Job(
            id=statements.put.insert(connection, values),
            line=line,
            state=JobState.DELAYED if put.delay_seconds > 0 else JobState.READY,
            task=put.task,
            args=put.args,
            pri=put.pri,
            due=now + put.delay_seconds,
            holder=None,
            attempt=0,
            fails=0,
            key=put.key,
            step="",
            stop_asked=False,
            result=None,
            error=None,
            put_at=now,
            taken_at=None,
            done_at=None,
            body=put.body,
            tries=put.tries,
            created=True,
        )

    def _put_next(self, connection: Connection, put: Put) -> None:
        """The next stage. Its line need not be open here, nor anywhere yet: whoever opens it
        says its cap. It is never too full for what another line has finished."""
        line = put.line or self.name
        of = {"of_line": line}
        # Only a key has to be looked for behind the gate; locking two for nothing costs others.
        look = statements.gate if put.key is None else statements.gate_locked
        if look.one(connection, of) is None:
            self._make_gate(connection, line, NO_CAP)
        if put.key is not None:
            same = {**of, "of_key": put.key}
            if statements.live_by_key.one(connection, same) is not None:
                return
        self._enter(connection, line, put)

    def _say_pause(self, connection: Connection, reason: str | None, until: float | None) -> None:
        to = {"of_line": self.name, "to_paused_reason": reason, "to_paused_until": until}
        connection.execute(statements.set_pause, to)
        remembered(connection).pop(("gate", self.name), None)

    def _end(self, connection: Connection, row: Row, state: JobState, *, error: str | None) -> Job:
        now = self._now(connection)
        ended = {"state": state, "live": None, "done_at": now, "step": "", "error": error}
        to = {**self._to(row.id, ended), **_PUT_DOWN, "to_result": None}
        statements.end.change(connection, to)
        self._forget_counts(connection)
        return _job(row, now)._replace(
            state=state,
            args=row.args,
            holder=None,
            step="",
            stop_asked=False,
            error=error,
            done_at=now,
        )

    def _bury(self, connection: Connection, row: Row, **changed: object) -> Job:
        kept = {"state": JobState.BURIED, "fails": row.fails, "error": row.error, "step": row.step}
        connection.execute(statements.bury, {**self._to(row.id, {**kept, **changed}), **_PUT_DOWN})
        self._forget_counts(connection)
        return self._job(connection, row.id)

    def _kick(self, connection: Connection, id: int) -> Job:
        self._room_until_id = 0  # one more that waits, with an old id
        ready = {"state": QUEUED, "due": self._now(connection), "fails": 0, "error": None}
        connection.execute(statements.kick, self._to(id, ready))
        self._forget_counts(connection)
        return self._job(connection, id)


def _to(columns: Mapping[str, object]) -> dict[str, object]:
    return {f"to_{column}": value for column, value in columns.items()}


def _by(lease: Lease) -> dict[str, object]:
    return {
        "of_id": lease.job.id,
        "of_holder": lease.job.holder,
        "of_attempt": lease.job.attempt,
    }


def _in(seconds: float | None) -> float:
    return float("inf") if seconds is None else real_time.monotonic() + seconds


def _without_sealed(args: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in args.items() if name != "sealed"}


def _check_length(put: Put) -> None:
    # SQLite would take them, a server would not: every engine refuses them alike.
    for field, text, most in (
        ("task", put.task, LONGEST_NAME),
        ("line", put.line, LONGEST_NAME),
        ("key", put.key or "", LONGEST_KEY),
    ):
        if len(text) > most:
            raise BadInput("too-long", field)


def _check_seen(seen: str | None, state: JobState) -> None:
    if seen is not None and seen != state:
        raise WrongState("state-changed", state)


def _lease_lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"job {lease.job.id}, attempt {lease.job.attempt}: the lease is lost")


def _paused_reason(gate: Row | None, now: float) -> str | None:
    if gate is None or gate.paused_reason is None:
        return None
    if gate.paused_until is not None and gate.paused_until <= now:
        return None
    return str(gate.paused_reason)


def _job(row: Row, now: float) -> Job:
    return Job(
        id=row.id,
        line=row.line,
        state=shown_state(row.state, row.holder, row.due, now),
        task=row.task,
        args=row.args if row.sealed is None else {**row.args, "sealed": row.sealed},
        pri=row.pri,
        due=row.due,
        holder=row.holder,
        attempt=row.attempt,
        fails=row.fails,
        key=row.key,
        step=row.step,
        stop_asked=row.stop_asked,
        result=row.result,
        error=row.error,
        put_at=row.put_at,
        taken_at=row.taken_at,
        done_at=row.done_at,
        body=row.body,
        tries=row.tries,
    )
