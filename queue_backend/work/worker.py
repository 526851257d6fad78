"""The worker: moves jobs from their line through the slow service, a few at a time.

Each slot is one task that takes a job, calls the adapter, and says what became of it:

    done, rejected   ack, with the result people read
    retry            release: nothing was sent, so it waits and is tried again
    unknown          reconcile; ack as unknown if nobody can tell
    broken           pause the whole lane, for an operator; the job keeps its place

While a call runs, a heartbeat renews the lease at a third of its length. A call past its deadline
is shown as "checking", but its slot stays taken, and its lease is renewed, until the call is
really back: the service has still its hands full, and the next call would be one too many.

A job whose earlier holder fell silent may have been sent already. If its action must not be sent
twice it is reconciled instead of executed.

Kept out: who may take a job (`line.py` decides), what a call does (the adapter).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from downstream.adapter import ActionSpec, Adapter, Context, Outcome
from downstream.sealed import Keyring, purpose
from queue_backend.clock import Clock
from queue_backend.errors import BadInput, LeaseLost, Unavailable
from queue_backend.work.job import Job, JobState, Lease
from queue_backend.work.line import JobLine

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.2
KEEP_HOUSE_SECONDS = 60
BROKEN = "broken: "

RUNNING = "running"
CHECKING = "checking"


@dataclass(frozen=True, slots=True)
class SlotView:
    """What one slot is doing, since when (wall time); `slow` is a call past its deadline."""

    slot: int
    state: Literal["idle", "busy", "slow"]
    job: int | None
    since: float


@dataclass(slots=True)
class _Call:
    """One job in one slot's hand."""

    lease: Lease
    spec: ActionSpec
    secrets: Mapping[str, str]
    cancelled: bool = False


class Worker:
    """`slots` slots of one process. The cap over all processes is the line's, not this number."""

    def __init__(
        self,
        jobs: JobLine,
        adapter: Adapter,
        keyring: Keyring,
        *,
        holder: str,
        clock: Clock,
        slots: int,
    ) -> None:
        self._jobs = jobs
        self._adapter = adapter
        self._keyring = keyring
        self._holder = holder
        self._clock = clock
        self._stopping = False
        self._slot_loops: list[asyncio.Task[None]] = []
        self._house_loop: asyncio.Task[None] | None = None
        self._views = [SlotView(slot, "idle", None, clock.wall()) for slot in range(1, slots + 1)]

    @property
    def slots(self) -> tuple[SlotView, ...]:
        """For the admin view of this process. Another process sees the holders of reserved jobs."""
        return tuple(self._views)

    async def start(self) -> None:
        """Open the adapter and let every slot take jobs."""
        await self._adapter.open()
        self._stopping = False
        self._slot_loops = [asyncio.create_task(self._take_on(view.slot)) for view in self._views]
        self._house_loop = asyncio.create_task(self._keep_house_on())

    async def stop(self, grace_seconds: float = 10) -> None:
        """Take no more jobs; let running ones finish for `grace_seconds`; give the rest back,
        uncounted, for another worker to reconcile or run again."""
        if self._house_loop is None:
            return
        self._stopping = True
        self._jobs.bell.ring()
        self._house_loop.cancel()
        _, unfinished = await asyncio.wait(self._slot_loops, timeout=grace_seconds)
        for loop in unfinished:
            loop.cancel()
        await asyncio.gather(self._house_loop, *self._slot_loops, return_exceptions=True)
        self._house_loop = None
        await self._adapter.close()

    async def turn_once(self, slot: int) -> bool:
        """One round of one slot: take a job if there is one, and see it through."""
        lease = await self._jobs.reserve(f"{self._holder}/{slot}")
        if lease is None:
            return False
        self._show(slot, "busy", lease.job.id)
        try:
            await self._see_through(slot, lease)
        except LeaseLost as lost:
            log.warning("slot %d: %s; whoever holds the job now goes on with it", slot, lost)
        finally:
            self._show(slot, "idle", None)
        return True

    async def keep_house(self) -> None:
        """One round of what is due now and then: purge the line, and open a lane that paused
        because the service was broken, if it is well again."""
        await self._jobs.purge()
        reason = await self._jobs.paused()
        if reason is not None and reason.startswith(BROKEN):
            health = await self._adapter.health()
            if health.ok:
                log.info("%s: the service is well again, the lane is resumed", self._jobs.name)
                await self._jobs.resume()
            else:
                log.error("%s: still paused, %s %s", self._jobs.name, health.code, health.detail)

    # Loops

    async def _take_on(self, slot: int) -> None:
        with self._jobs.bell.heard_on_loop() as news:
            while not self._stopping:
                news.clear()
                try:
                    took_one = await self.turn_once(slot)
                except Unavailable as error:
                    log.warning("slot %d: %s; looks again in %s s", slot, error, IDLE_SECONDS)
                    took_one = False
                except Exception:
                    log.exception("slot %d: a round failed; its job comes back later", slot)
                    took_one = False
                if not took_one and not self._stopping:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), IDLE_SECONDS)

    async def _keep_house_on(self) -> None:
        while True:
            try:
                await self.keep_house()
            except Exception as error:
                log.warning("housekeeping: %s; again in %d s", error, KEEP_HOUSE_SECONDS)
            await asyncio.sleep(KEEP_HOUSE_SECONDS)

    # One job

    async def _see_through(self, slot: int, lease: Lease) -> None:
        job = lease.job
        spec = self._adapter.actions.get(job.task)
        if spec is None:
            log.error("job %d: no action %r here; buried", job.id, job.task)
            await self._jobs.bury(lease, "action-unknown")
            return
        try:
            secrets = self._unsealed(job)
        except BadInput:
            log.error("job %d: its secrets cannot be opened; rejected", job.id)
            await self._ack(lease, Outcome("rejected", "secrets-lost"))
            return
        if any(asked.is_secret and asked.required for asked in spec.fields) and not secrets:
            await self._ack(lease, Outcome("rejected", "secrets-lost"))
            return

        maybe_sent = job.step != ""
        call = _Call(lease, spec, secrets, cancelled=job.stop_asked)
        heartbeat = asyncio.create_task(self._heartbeat(call))
        try:
            if maybe_sent and not spec.idempotent:
                outcome = Outcome("unknown", "not-confirmed")
            else:
                # On disk before the first byte goes out: whoever finds the job after a crash
                # here must know that it may have been sent.
                call.lease = await self._jobs.touch(call.lease, RUNNING)
                outcome = await self._ask(slot, call, self._adapter.execute)
            if outcome.kind == "unknown":
                outcome = await self._reconciled(slot, call)
            await self._settle(call, outcome)
        except asyncio.CancelledError:
            # The grace of a stop is over. Being back here, the call is, too.
            log.warning("job %d: unfinished; given back uncounted", job.id)
            await self._jobs.release(call.lease)
            raise
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)

    async def _reconciled(self, slot: int, call: _Call) -> Outcome:
        call.lease = await self._jobs.touch(call.lease, CHECKING)
        # The lost call may have been asked to stop, at its deadline; finding out begins anew.
        call.cancelled = False
        return await self._ask(slot, call, self._adapter.reconcile)

    async def _ask(
        self, slot: int, call: _Call, ask: Callable[[Job, Context], Awaitable[Outcome]]
    ) -> Outcome:
        """Call the adapter, and come back only when the call is back, however late."""
        job = call.lease.job

        async def progress(step: str) -> None:
            # A step that cannot be shown is no reason to break off a call under way.
            with contextlib.suppress(Unavailable):
                call.lease = await self._jobs.touch(call.lease, step)

        secrets = dict(call.secrets)
        context = Context(
            slot=slot,
            deadline=self._clock.monotonic() + call.spec.deadline_seconds,
            cancelled=lambda: call.cancelled,
            progress=progress,
            secret=secrets.pop,
        )
        late = asyncio.create_task(self._at_deadline(slot, call))
        try:
            return await ask(job, context)
        except LeaseLost:
            raise
        except Exception as error:
            # Only the kind of it: its text may hold what somebody typed.
            log.error("job %d: the call ended in %s", job.id, type(error).__name__)
            return Outcome("unknown", "not-confirmed")
        finally:
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)

    async def _settle(self, call: _Call, outcome: Outcome) -> None:
        job, lease = call.lease.job, call.lease
        if outcome.private:
            log.info("job %d: %s %s: %s", job.id, outcome.kind, outcome.code, outcome.private)
        match outcome.kind:
            case "done" | "rejected" | "unknown":
                await self._ack(lease, outcome)
            case "retry":
                after = await self._jobs.release(lease, error=outcome.code, nothing_sent=True)
                what_next = (
                    f"buried after {after.fails} tries"
                    if after.state is JobState.BURIED
                    else f"is tried again in {after.due - self._clock.wall():.0f} s"
                )
                log.warning("job %d: %s; %s", job.id, outcome.code, what_next)
            case "broken":
                # Pause first. Dying in between, the lane is shut and the job comes back with its
                # lease; the other way round another slot would burn it on the broken service.
                log.error("job %d: %s; the lane is paused", job.id, outcome.code)
                await self._jobs.pause(reason=BROKEN + outcome.code)
                await self._jobs.release(lease, nothing_sent=True)

    async def _ack(self, lease: Lease, outcome: Outcome) -> None:
        result = {"outcome": outcome.kind, "code": outcome.code, "fields": dict(outcome.fields)}
        # It happened; a database that is away for a moment must not make it unsaid. Should the
        # first try have landed after all, the second finds the lease gone.
        while True:
            try:
                done = await self._jobs.ack(lease, result)
            except Unavailable as error:
                if self._clock.monotonic() >= lease.deadline:
                    raise
                log.warning("job %d: %s; its end is written again in 1 s", lease.job.id, error)
                await asyncio.sleep(1)
            else:
                log.info("job %d: %s, %s", done.id, outcome.kind, outcome.code)
                return

    # Beside a call

    async def _heartbeat(self, call: _Call) -> None:
        while True:
            await asyncio.sleep(self._jobs.lease_seconds / 3)
            try:
                call.lease = await self._jobs.touch(call.lease)
            except LeaseLost as lost:
                log.warning("%s; its call is asked to stop", lost)
                call.cancelled = True
                return
            except Unavailable as error:
                log.warning("job %d: not renewed, %s", call.lease.job.id, error)
                call.cancelled = self._clock.monotonic() >= call.lease.deadline
            else:
                call.cancelled = call.cancelled or call.lease.job.stop_asked

    async def _at_deadline(self, slot: int, call: _Call) -> None:
        await asyncio.sleep(call.spec.deadline_seconds)
        log.warning(
            "job %d: past its deadline; slot %d stays taken until it is back",
            call.lease.job.id,
            slot,
        )
        self._show(slot, "slow", call.lease.job.id)
        call.cancelled = True
        with contextlib.suppress(LeaseLost, Unavailable):
            call.lease = await self._jobs.touch(call.lease, CHECKING)

    def _unsealed(self, job: Job) -> dict[str, str]:
        sealed = job.args.get("sealed")
        if not isinstance(sealed, str):
            return {}
        return self._keyring.open(sealed, purpose(job.key or "", job.task))

    def _show(self, slot: int, state: Literal["idle", "busy", "slow"], job: int | None) -> None:
        since = self._views[slot - 1].since if state == "slow" else self._clock.wall()
        self._views[slot - 1] = SlotView(slot, state, job, since)
