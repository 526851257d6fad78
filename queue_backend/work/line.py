"""The job line: where requests wait until the slow service has a slot for them.

One row, one gate, one lease. A job is one row. Putting and reserving pass the gate (the line's
own row is locked first), so counting and claiming are one step: no two processes can both see
the last free slot. Being reserved is a lease that lapses by the passing of time.

The cap is the number of live leases, counted inside the claim over all processes and hosts. It
is never a counter, so there is nothing to leak, to reset at start-up, or to give back twice.
One thing it cannot do: a worker that is frozen past its lease and its grace, and wakes up in
the middle of a call, makes that call one too many.

Kept out: what a job does (an adapter), who does it (`worker.py`), who may put one (the desk).
Only here and in `schema.py` is SQL spoken about jobs.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from queue_backend.clock import Clock
from queue_backend.database import Database
from queue_backend.errors import LeaseLost, LineFull, NotFound, WrongState
from queue_backend.work.job import QUEUED, Job, JobState, JobStats, Lease, shown_state
from queue_backend.work.schema import jobs, lines

T = TypeVar("T")

ORDINARY_PRI = 1_000
LOOK_EACH_SECONDS = 0.2
RUN_TIMES_KEPT = 50

# What every way out of the line has in common: nobody holds it, and its secrets are erased.
# A buried job that is kicked therefore runs without them; its worker says so to the person.
_PUT_DOWN: dict[str, object] = {"holder": None, "sealed": None, "stop_asked": False}


class JobLine:
    """One line of jobs. Every process that uses the line makes one of these with the same name.

    The cap stands in the line's row, set by whoever opened the line last, so that processes with
    different settings still obey one number.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        clock: Clock,
        cap: int,
        lease_seconds: float = 30,
        grace_seconds: float = 5,
        tries: int = 4,
        backoff_seconds: float = 600,
        depth: int = 10_000,
        keep_seconds: float = 86_400,
    ) -> None:
        self.name = name
        self.lease_seconds = lease_seconds
        self._database = database
        self._clock = clock
        self._cap = cap
        self._cap_is_said = False
        self._grace_seconds = grace_seconds
        self._tries = tries
        self._backoff_seconds = backoff_seconds
        self._depth = depth
        self._keep_seconds = keep_seconds
        self._news = asyncio.Event()

    # Putting and looking: what the desk and the pages do

    async def put(
        self,
        task: str,
        args: Mapping[str, object],
        *,
        key: str | None = None,
        pri: int = ORDINARY_PRI,
        delay_seconds: float = 0,
        ttl_seconds: float | None = None,
        once: bool = False,
    ) -> Job:
        """Put a job in line; it is on disk on return.

        A key that is already live gives back the job that has it, with `created=False`: so a
        double click, a reload or a retry is one job. With `once` a key that was ever put does so,
        for as long as ended jobs are kept: one submission stays one job though it is sent again
        after it was carried out. Smaller `pri` goes first, then the older.
        A job not begun within `ttl_seconds` is cancelled; one that may have been sent is not.
        `args` is JSON; its part named `sealed` is erased when the job ends. Raises LineFull at
        `depth` waiting jobs.
        """
        plain = {name: value for name, value in args.items() if name != "sealed"}

        def act(connection: Connection, gate: Row[Any]) -> Job:
            now = self._clock.wall()
            if key is not None:
                same = select(jobs).where(self._mine, jobs.c.key == key)
                if not once:
                    same = same.where(jobs.c.live == 1)
                newest = same.order_by(jobs.c.id.desc()).limit(1)
                known = connection.execute(newest).one_or_none()
                if known is not None:
                    return _job(known, now)
            if self._count(connection, jobs.c.state == QUEUED) >= self._depth:
                raise LineFull()
            new = insert(jobs).values(
                line=self.name,
                state=QUEUED,
                pri=pri,
                due=now + delay_seconds,
                key=key,
                live=1,
                expires=None if ttl_seconds is None else now + ttl_seconds,
                task=task,
                args=plain,
                sealed=args.get("sealed"),
                put_at=now,
            )
            inserted = connection.execute(new).inserted_primary_key
            assert inserted is not None
            return _job(self._row(connection, inserted[0]), now, created=True)

        job = await self._through_the_gate(act)
        self.wake()
        return job

    async def peek(self, id: int) -> Job:
        """The job as it is now. Raises NotFound."""
        return await self._look(lambda connection, now: _job(self._row(connection, id), now))

    async def find(self, key: str) -> Job | None:
        """The newest job that was put with `key`, live or ended."""

        def look(connection: Connection, now: float) -> Job | None:
            newest = select(jobs).where(self._mine, jobs.c.key == key)
            row = connection.execute(newest.order_by(jobs.c.id.desc()).limit(1)).one_or_none()
            return _job(row, now) if row else None

        return await self._look(look)

    async def position(self, id: int) -> int:
        """1 for the job that is taken next, 2 for the one behind it; 0 when it does not wait."""

        def look(connection: Connection, now: float) -> int:
            mine = self._row(connection, id)
            shown = shown_state(mine.state, mine.holder, mine.due, now)
            if shown not in (JobState.READY, JobState.DELAYED):
                return 0
            before_it = or_(
                jobs.c.pri < mine.pri, and_(jobs.c.pri == mine.pri, jobs.c.id < mine.id)
            )
            return self._count(connection, _is_ready(now), before_it) + 1

        return await self._look(look)

    async def stats(self) -> JobStats:
        """How busy the line is; one look for the marshal, the estimates and the admin view."""

        def look(connection: Connection, now: float) -> JobStats:
            numbers = connection.execute(
                select(
                    _how_many(_is_ready(now)),
                    _how_many(_is_leased(now)),
                    _how_many(_is_delayed(now)),
                    _how_many(jobs.c.state == JobState.BURIED),
                ).where(self._mine, jobs.c.state.in_((QUEUED, JobState.BURIED)))
            ).one()
            run_times = connection.execute(
                select(jobs.c.done_at - jobs.c.taken_at)
                .where(self._mine, jobs.c.state == JobState.DONE)
                .order_by(jobs.c.done_at.desc())
                .limit(RUN_TIMES_KEPT)
            ).scalars()
            gate = connection.execute(self._gate_row()).one_or_none()
            return JobStats(
                *numbers,
                cap=gate.cap if gate else self._cap,
                paused_reason=_paused_reason(gate, now),
                recent_seconds=tuple(reversed(run_times.all())),
            )

        return await self._look(look)

    async def snapshot(self, limit: int = 200) -> list[Job]:
        """The live jobs in their order, the buried ones last: for the admin view."""

        def look(connection: Connection, now: float) -> list[Job]:
            buried_last = case((jobs.c.state == QUEUED, 0), else_=1)
            rows = connection.execute(
                select(jobs)
                .where(self._mine, jobs.c.state.in_((QUEUED, JobState.BURIED)))
                .order_by(buried_last, jobs.c.pri, jobs.c.id)
                .limit(limit)
            )
            return [_job(row, now) for row in rows]

        return await self._look(look)

    # Taking and giving back: what a worker does

    async def reserve(self, holder: str, wait_seconds: float = 0) -> Lease | None:
        """Take the next ready job if a slot is free; wait up to `wait_seconds` for one.

        Puts and ends of this process wake a waiting reserve at once; those of other processes,
        and delays that run out, are seen within 0.2 s. A lease that lapsed adds a fail; past
        `tries` the job is buried and the next one looked at.

        Do not cancel it while it claims: the claim would stand, held by nobody, until it lapses.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait_seconds
        while True:
            news = self._news
            # A look costs no lock and no transaction, and mostly finds nothing.
            if await self._look(lambda connection, now: self._head(connection, now) is not None):
                lease = await self._through_the_gate(
                    lambda connection, gate: self._claim(connection, gate, holder)
                )
                if lease is not None:
                    return lease
            left = give_up_at - loop.time()
            if left <= 0:
                return None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), min(left, LOOK_EACH_SECONDS))

    def _claim(self, connection: Connection, gate: Row[Any], holder: str) -> Lease | None:
        now = self._clock.wall()
        if _paused_reason(gate, now) is not None:
            return None
        if self._count(connection, _is_leased(now)) >= gate.cap:
            return None
        while (head := self._head(connection, now)) is not None:
            fails = head.fails + (head.holder is not None)
            if head.expires is not None and head.expires <= now and head.step == "":
                self._end(connection, head.id, JobState.CANCELLED, error="expired")
            elif fails >= self._tries:
                self._bury(connection, head.id, fails=fails, error="lease-lapsed")
            else:
                # due = deadline + grace: the job and its slot are given away only a grace after
                # the holder must have stopped.
                self._set(
                    connection,
                    jobs.c.id == head.id,
                    holder=holder,
                    attempt=head.attempt + 1,
                    fails=fails,
                    taken_at=now,
                    due=now + self.lease_seconds + self._grace_seconds,
                )
                job = _job(self._row(connection, head.id), now)
                return Lease(job, self._clock.monotonic() + self.lease_seconds)
        return None

    async def touch(self, lease: Lease, step: str | None = None) -> Lease:
        """Renew the lease, and say how far the call has got. The answer's job tells, by
        `stop_asked`, that somebody wants it stopped.

        Raises LeaseLost when the lease lapsed, even if nobody took the job since: its slot
        may have been given away, and taking it back would be one too many.
        """

        def act(connection: Connection) -> Lease:
            now = self._clock.wall()
            renewed: dict[str, object] = {"due": now + self.lease_seconds + self._grace_seconds}
            if step is not None:
                renewed["step"] = step
            self._set_held(connection, lease, jobs.c.due > now, **renewed)
            job = _job(self._row(connection, lease.job.id), now)
            return Lease(job, self._clock.monotonic() + self.lease_seconds)

        return await self._database.write(act)

    async def ack(self, lease: Lease, result: Mapping[str, object]) -> Job:
        """The job is done, with `result`. Raises LeaseLost when another attempt holds it."""

        def act(connection: Connection) -> Job:
            self._check_held(connection, lease)
            return self._end(connection, lease.job.id, JobState.DONE, result=dict(result))

        return await self._then_wake(act)

    async def release(
        self,
        lease: Lease,
        *,
        delay_seconds: float | None = None,
        error: str | None = None,
        nothing_sent: bool = False,
    ) -> Job:
        """Give the job back, to its old place in the line.

        With an `error` it counts as a fail, waits for the back-off unless `delay_seconds` says
        otherwise, and is buried past `tries`. Without, it is a polite release and not counted.
        Say `nothing_sent` only when it is certain: else the next holder is told, by `step`, that
        a call may have been under way.
        """

        def act(connection: Connection) -> Job:
            now = self._clock.wall()
            row = self._check_held(connection, lease)
            fails = row.fails + (error is not None)
            step = "" if nothing_sent else row.step
            if fails >= self._tries:
                return self._bury(connection, row.id, fails=fails, error=error, step=step)
            delay = delay_seconds
            if delay is None:
                delay = 0 if error is None else self._backoff_seconds
            self._set(
                connection,
                jobs.c.id == row.id,
                holder=None,
                due=now + delay,
                fails=fails,
                error=error or row.error,
                step=step,
            )
            return _job(self._row(connection, row.id), now)

        return await self._then_wake(act)

    async def bury(self, lease: Lease, error: str) -> Job:
        """Put the job aside for an operator: it never runs again unless it is kicked."""

        def act(connection: Connection) -> Job:
            self._check_held(connection, lease)
            return self._bury(connection, lease.job.id, error=error)

        return await self._then_wake(act)

    # What operators do

    async def kick(self, id: int) -> Job:
        """Make a buried or delayed job ready, its fails forgotten. Raises NotFound, WrongState."""

        def act(connection: Connection, gate: Row[Any]) -> Job:
            now = self._clock.wall()
            job = _job(self._row(connection, id), now)
            if job.state not in (JobState.BURIED, JobState.DELAYED):
                raise WrongState("job-wrong-state", job.state)
            return self._kick(connection, id, now)

        job = await self._through_the_gate(act)
        self.wake()
        return job

    async def kick_buried(self, count: int) -> list[Job]:
        """Kick the oldest `count` buried jobs."""

        def act(connection: Connection, gate: Row[Any]) -> list[Job]:
            now = self._clock.wall()
            oldest = select(jobs.c.id).where(self._mine, jobs.c.state == JobState.BURIED)
            ids = connection.execute(oldest.order_by(jobs.c.id).limit(count)).scalars().all()
            return [self._kick(connection, id, now) for id in ids]

        kicked = await self._through_the_gate(act)
        self.wake()
        return kicked

    async def cancel(self, id: int) -> Job:
        """Take a waiting or buried job out of the line; ask a running one to stop.

        A running job may still end as done: look at the state of the answer. Raises NotFound,
        and WrongState when it has ended already.
        """

        def act(connection: Connection, gate: Row[Any]) -> Job:
            now = self._clock.wall()
            job = _job(self._row(connection, id), now)
            if job.state.ended:
                raise WrongState("job-wrong-state", job.state)
            if job.state is not JobState.RESERVED:
                return self._end(connection, id, JobState.CANCELLED, error="cancelled")
            self._set(connection, jobs.c.id == id, stop_asked=True)
            return _job(self._row(connection, id), now)

        return await self._through_the_gate(act)

    async def pause(self, seconds: float | None = None, reason: str = "paused") -> None:
        """Let nobody reserve, in any process, for `seconds` or until `resume`.

        Running jobs run on. The reason is kept in the line's row, for every process to show.
        """

        def act(connection: Connection, gate: Row[Any]) -> None:
            until = None if seconds is None else self._clock.wall() + seconds
            connection.execute(
                update(lines)
                .where(lines.c.name == self.name)
                .values(paused_reason=reason, paused_until=until)
            )

        await self._through_the_gate(act)

    async def resume(self) -> None:
        """Let jobs be reserved again. Resuming a line that is not paused changes nothing."""

        def act(connection: Connection, gate: Row[Any]) -> None:
            connection.execute(
                update(lines)
                .where(lines.c.name == self.name)
                .values(paused_reason=None, paused_until=None)
            )

        await self._through_the_gate(act)
        self.wake()

    async def paused(self) -> str | None:
        """Why nobody may reserve now; None while the line runs."""
        return await self._look(
            lambda connection, now: _paused_reason(
                connection.execute(self._gate_row()).one_or_none(), now
            )
        )

    async def purge(self) -> int:
        """Cancel what expired while it waited, forget what ended longer ago than `keep_seconds`.

        Answers how many were forgotten. Buried jobs stay until somebody decides about them.
        """

        def act(connection: Connection, gate: Row[Any]) -> int:
            now = self._clock.wall()
            expired = select(jobs.c.id).where(
                self._mine,
                jobs.c.state == QUEUED,
                jobs.c.step == "",
                jobs.c.expires <= now,
                ~_is_leased(now),
            )
            for id in connection.execute(expired).scalars().all():
                self._end(connection, id, JobState.CANCELLED, error="expired")
            old = delete(jobs).where(self._mine, jobs.c.done_at < now - self._keep_seconds)
            return connection.execute(old).rowcount

        return await self._through_the_gate(act)

    # Waking

    @property
    def news(self) -> asyncio.Event:
        """Set at the next put, end or kick in this process. Take it before you look, so that
        what happens between looking and waiting is not missed."""
        return self._news

    def wake(self) -> None:
        """Let everyone in this process who waits for a job look again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    # How it is done

    @property
    def _mine(self) -> ColumnElement[bool]:
        return jobs.c.line == self.name

    async def _through_the_gate(self, act: Callable[[Connection, Row[Any]], T]) -> T:
        answer = await self._database.write(
            lambda connection: act(connection, self._gate(connection))
        )
        self._cap_is_said = True
        return answer

    def _gate_row(self) -> Select[tuple[Any, ...]]:
        return select(lines).where(lines.c.name == self.name)

    def _gate(self, connection: Connection) -> Row[Any]:
        """Lock the line's row, and hand it over. Everything else in the act comes after this.

        On SQLite BEGIN IMMEDIATE has locked the file already and FOR UPDATE is not spelt out.
        """
        row = connection.execute(self._gate_row().with_for_update()).one_or_none()
        if row is None:
            connection.execute(insert(lines).values(name=self.name, cap=self._cap))
        elif row.cap == self._cap or self._cap_is_said:
            return row
        else:
            connection.execute(update(lines).where(lines.c.name == self.name).values(cap=self._cap))
        return connection.execute(self._gate_row()).one()

    async def _look(self, look: Callable[[Connection, float], T]) -> T:
        return await self._database.read(lambda connection: look(connection, self._clock.wall()))

    async def _then_wake(self, act: Callable[[Connection], Job]) -> Job:
        # Who ends a job frees a slot: a full line never waits for a poll.
        job = await self._database.write(act)
        self.wake()
        return job

    def _row(self, connection: Connection, id: int) -> Row[Any]:
        row = connection.execute(select(jobs).where(self._mine, jobs.c.id == id)).one_or_none()
        if row is None:
            raise NotFound("job-unknown", f"{self.name}: no job {id}")
        return row

    def _head(self, connection: Connection, now: float) -> Row[Any] | None:
        return connection.execute(
            select(jobs).where(self._mine, _is_ready(now)).order_by(jobs.c.pri, jobs.c.id).limit(1)
        ).one_or_none()

    def _count(self, connection: Connection, *conditions: ColumnElement[bool]) -> int:
        which = select(func.count()).select_from(jobs).where(self._mine, *conditions)
        return connection.execute(which).scalar_one()

    def _set(self, connection: Connection, which: ColumnElement[bool], **values: object) -> int:
        return connection.execute(update(jobs).where(which).values(**values)).rowcount

    def _set_held(
        self, connection: Connection, lease: Lease, also: ColumnElement[bool], **values: object
    ) -> None:
        if self._set(connection, and_(_is_held(lease), also), **values) == 0:
            raise _lease_lost(lease)

    def _check_held(self, connection: Connection, lease: Lease) -> Row[Any]:
        """Only the newest attempt may say what becomes of a job. A lapsed lease may still do
        so while nobody else took the job: the work was done, and its slot is not asked back."""
        held = select(jobs).where(_is_held(lease)).with_for_update()
        row = connection.execute(held).one_or_none()
        if row is None:
            raise _lease_lost(lease)
        return row

    def _end(self, connection: Connection, id: int, state: JobState, **values: object) -> Job:
        now = self._clock.wall()
        ended = {"state": state, "live": None, "done_at": now, "step": "", **_PUT_DOWN, **values}
        self._set(connection, jobs.c.id == id, **ended)
        return _job(self._row(connection, id), now)

    def _bury(self, connection: Connection, id: int, **values: object) -> Job:
        self._set(connection, jobs.c.id == id, state=JobState.BURIED, **_PUT_DOWN, **values)
        return _job(self._row(connection, id), self._clock.wall())

    def _kick(self, connection: Connection, id: int, now: float) -> Job:
        self._set(connection, jobs.c.id == id, state=QUEUED, due=now, fails=0, error=None)
        return _job(self._row(connection, id), now)


def _is_ready(now: float) -> ColumnElement[bool]:
    return and_(jobs.c.state == QUEUED, jobs.c.due <= now)


def _is_leased(now: float) -> ColumnElement[bool]:
    return and_(jobs.c.state == QUEUED, jobs.c.holder.is_not(None), jobs.c.due > now)


def _is_delayed(now: float) -> ColumnElement[bool]:
    return and_(jobs.c.state == QUEUED, jobs.c.holder.is_(None), jobs.c.due > now)


def _is_held(lease: Lease) -> ColumnElement[bool]:
    return and_(
        jobs.c.id == lease.job.id,
        jobs.c.state == QUEUED,
        jobs.c.holder == lease.job.holder,
        jobs.c.attempt == lease.job.attempt,
    )


def _how_many(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _lease_lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"job {lease.job.id}, attempt {lease.job.attempt}: the lease is lost")


def _paused_reason(gate: Row[Any] | None, now: float) -> str | None:
    if gate is None or gate.paused_reason is None:
        return None
    if gate.paused_until is not None and gate.paused_until <= now:
        return None
    return str(gate.paused_reason)


def _job(row: Row[Any], now: float, created: bool = False) -> Job:
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
        created=created,
    )
