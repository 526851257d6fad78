"""The worker: takes jobs from their line, a few at a time, and sees each of them through.

Each slot is one loop: take a job, hand it to the *craft*, which knows what to do with it and says
what became of it, take the next. What is the same for every craft is here:

    heartbeat     a lease is renewed at a third of its length, from the moment the job is taken
    lease lost    nothing more is said about the job; whoever holds it now goes on with it
    stop          no more jobs are taken; running ones may finish; the rest is given back, uncounted
    views         what each slot is doing, told to the line for the operators of other processes

Who finishes asks again at once, so a full line never waits for a poll. Of the slots that found
nothing only one looks on, so that ten idle slots cost no more than one.

Kept out: who may take a job (`line.py` decides), what a job does (`task.py` for functions,
`downstream/calls.py` for a slow service).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from queue_backend.clock import Clock
from queue_backend.errors import LeaseLost, NowServingError, Unavailable
from queue_backend.work.job import Job, JobState, Lease, Put, SlotView

log = logging.getLogger(__name__)

# How long the one slot that looks for all waits before it looks whether to stop.
LOOK_SECONDS = 0.5
TRY_AGAIN_SECONDS = 0.5
KEEP_HOUSE_SECONDS = 60
REPORT_SECONDS = 5
# Jobs of a few milliseconds would otherwise each cost two more writes.
REPORT_APART_SECONDS = 0.5
# Of one that has all but lapsed when it comes into a hand.
SHORTEST_LEASE_SECONDS = 0.1


class Line(Protocol):
    """What a worker needs of a line: the verbs that every engine has."""

    @property
    def name(self) -> str: ...

    @property
    def lease_seconds(self) -> float: ...

    async def reserve(self, holder: str, wait_seconds: float = 0) -> Lease | None: ...

    def touch(self, lease: Lease, step: str | None = None) -> Awaitable[Lease]: ...

    def ack(
        self, lease: Lease, result: Mapping[str, object] | None = None, *, then: Sequence[Put] = ()
    ) -> Awaitable[Job]: ...

    def release(
        self,
        lease: Lease,
        *,
        delay_seconds: float | None = None,
        error: str | None = None,
        nothing_sent: bool = False,
    ) -> Awaitable[Job]: ...

    def bury(self, lease: Lease, error: str) -> Awaitable[Job]: ...


@runtime_checkable
class KeptLine(Protocol):
    """A line that keeps books: ours does, beanstalkd's does not."""

    def purge(self) -> Awaitable[int]: ...

    def report(self, holder: str, views: Sequence[SlotView]) -> Awaitable[None]: ...


@runtime_checkable
class LineThatSticks(Protocol):
    """A line whose leases may fail to lapse, and which tells in the log whose did: beanstalkd."""

    def stuck(self) -> Awaitable[Sequence[Job]]: ...


class Held:
    """One job in one slot's hand. Its lease is renewed until the hand is empty again, or until
    `let_lapse` is called."""

    def __init__(
        self, jobs: Line, lease: Lease, slot: int, clock: Clock, show_slow: Callable[[], None]
    ) -> None:
        self.slot = slot
        self.lease = lease
        # Not the line's: beanstalkd's jobs bring their own, which may be shorter.
        left_seconds = lease.deadline - clock.monotonic()
        self.lease_seconds = max(SHORTEST_LEASE_SECONDS, min(jobs.lease_seconds, left_seconds))
        # Nobody wants the answer any more: cancelled, past its limit, or the lease was lost.
        self.stop = asyncio.Event()
        self.show_slow = show_slow
        self._jobs = jobs
        self._clock = clock
        self._lapses = False
        self._heed()

    @property
    def job(self) -> Job:
        return self.lease.job

    def let_lapse(self) -> None:
        """Renew no more: the job goes to another when the lease has ended, and its grace."""
        self._lapses = True
        self.stop.set()
        self.show_slow()

    async def touch(self, step: str | None = None) -> None:
        """Renew, and say how far it has got. Raises LeaseLost, Unavailable."""
        self.lease = await self._jobs.touch(self.lease, step)
        self._heed()

    async def ack(
        self, result: Mapping[str, object] | None = None, *, then: Sequence[Put] = ()
    ) -> Job:
        """It happened; a database that is away for a moment must not make it unsaid. Should the
        first try have landed after all, the second finds the lease gone."""
        while True:
            try:
                # Shielded: whoever is cancelled while it is being written must not take it back.
                return await asyncio.shield(self._jobs.ack(self.lease, result, then=then))
            except Unavailable as error:
                if self._clock.monotonic() >= self.lease.deadline:
                    raise
                log.warning("job %d: %s; its end is written again in 1 s", self.job.id, error)
                await asyncio.sleep(1)

    async def release(self, *, error: str | None = None, nothing_sent: bool = False) -> Job:
        """Give it back. With an error it is counted; the log is told what happens next."""
        after = await self._jobs.release(self.lease, error=error, nothing_sent=nothing_sent)
        if error is not None:
            what_next = (
                f"buried after {after.fails} tries"
                if after.state is JobState.BURIED
                else f"is tried again in {max(0, after.due - self._clock.wall()):.0f} s"
            )
            log.warning("job %d: %s; %s", self.job.id, error, what_next)
        return after

    async def bury(self, error: str) -> Job:
        """Put it aside for an operator."""
        log.error("job %d: %s; buried", self.job.id, error)
        return await self._jobs.bury(self.lease, error)

    async def beat(self) -> None:
        """The heartbeat. It ends when the lease is lost or is to lapse."""
        while True:
            await asyncio.sleep(self.lease_seconds / 3)
            if self._lapses:
                return
            try:
                await self.touch()
            except LeaseLost as lost:
                log.warning("%s; what is done for it is asked to stop", lost)
                self.stop.set()
                return
            except Unavailable as error:
                log.warning("job %d: not renewed, %s", self.job.id, error)
                if self._clock.monotonic() >= self.lease.deadline:
                    self.stop.set()

    def _heed(self) -> None:
        if self.lease.job.stop_asked:
            self.stop.set()


class Craft(Protocol):
    """What a worker can do with the jobs of its line."""

    async def open(self) -> None:
        """Get ready; raises Unavailable or Unsupported in words."""

    async def carry_out(self, held: Held) -> None:
        """See the job through, and say what became of it: ack, release or bury. Come back only
        when the work is really over: a slot is free when this returns, and not before.

        When it is cancelled, the grace of a stop is over: end the work as far as it can be
        ended, and let the cancellation through. The job is then given back, uncounted.
        """

    async def keep_house(self) -> None:
        """One round of what is due now and then."""

    async def close(self) -> None:
        """Give everything back."""


class Worker:
    """`slots` slots of one process. The cap over all processes is the line's, not this number."""

    def __init__(self, jobs: Line, craft: Craft, *, holder: str, clock: Clock, slots: int) -> None:
        self._jobs = jobs
        self._craft = craft
        self._holder = holder
        self._clock = clock
        self._stopping = False
        self._looking = asyncio.Lock()
        self._in_hand: set[int] = set()
        self._loops: dict[int, asyncio.Task[None]] = {}
        self._beside: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._views = {
            slot: SlotView(holder, slot, "idle", None, clock.wall()) for slot in range(1, slots + 1)
        }

    @property
    def slots(self) -> tuple[SlotView, ...]:
        """What each slot is doing; the line is told of it, for other processes to see."""
        return tuple(self._views.values())

    async def start(self) -> None:
        """Open the craft and let every slot take jobs."""
        await self._craft.open()
        self._stopping = False
        self._loops = {slot: asyncio.create_task(self._take_on(slot)) for slot in self._views}
        self._beside = [
            asyncio.create_task(self._keep_house_on()),
            asyncio.create_task(self._report_on()),
        ]

    async def stop(self, grace_seconds: float = 10) -> None:
        """Take no more jobs; let running ones finish for `grace_seconds`; give the rest back,
        uncounted, for another worker to go on with."""
        if not self._loops:
            return
        self._stopping = True
        await asyncio.wait(self._loops.values(), timeout=grace_seconds)
        # Only who has a job in hand is cancelled. Another may be claiming one at this moment,
        # which nobody would then hold; it sees by itself that there is no more to be taken.
        for slot in self._in_hand:
            self._loops[slot].cancel()
        for loop in self._beside:
            loop.cancel()
        await asyncio.gather(*self._loops.values(), *self._beside, return_exceptions=True)
        self._loops, self._beside = {}, []
        await self._report(())
        await self._craft.close()

    async def turn_once(self, slot: int) -> bool:
        """One round of one slot: take a job if there is one, and see it through."""
        lease = await self._jobs.reserve(self._hand(slot))
        if lease is not None:
            await self._see_through(slot, lease)
        return lease is not None

    async def keep_house(self) -> None:
        """One round of what is due now and then."""
        if isinstance(self._jobs, KeptLine):
            await self._jobs.purge()
        if isinstance(self._jobs, LineThatSticks):
            await self._jobs.stuck()
        await self._craft.keep_house()

    # Loops

    async def _take_on(self, slot: int) -> None:
        while not self._stopping:
            try:
                lease = await self._jobs.reserve(self._hand(slot)) or await self._look_on(slot)
                if lease is not None and self._stopping:
                    await self._jobs.release(lease)
                elif lease is not None:
                    await self._see_through(slot, lease)
            except NowServingError as error:
                log.warning("slot %d: %s; goes on in %s s", slot, error, TRY_AGAIN_SECONDS)
                await asyncio.sleep(TRY_AGAIN_SECONDS)
            except Exception:
                log.exception("slot %d: a round failed; its job comes back with its lease", slot)
                await asyncio.sleep(TRY_AGAIN_SECONDS)

    async def _look_on(self, slot: int) -> Lease | None:
        async with self._looking:
            if self._stopping:
                return None
            return await self._jobs.reserve(self._hand(slot), LOOK_SECONDS)

    async def _keep_house_on(self) -> None:
        while True:
            try:
                await self.keep_house()
            except Exception as error:
                log.warning("housekeeping: %s; again in %d s", error, KEEP_HOUSE_SECONDS)
            await asyncio.sleep(KEEP_HOUSE_SECONDS)

    async def _report_on(self) -> None:
        while True:
            self._changed.clear()
            await self._report(self.slots)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), REPORT_SECONDS - REPORT_APART_SECONDS)
            await asyncio.sleep(REPORT_APART_SECONDS)

    # One job

    def _hand(self, slot: int) -> str:
        return f"{self._holder}/{slot}"

    async def _see_through(self, slot: int, lease: Lease) -> None:
        job = lease.job.id
        held = Held(self._jobs, lease, slot, self._clock, lambda: self._show(slot, "slow", job))
        self._in_hand.add(slot)
        self._show(slot, "busy", job)
        heartbeat = asyncio.create_task(held.beat())
        try:
            await self._craft.carry_out(held)
        except LeaseLost as lost:
            log.warning("slot %d: %s; whoever holds the job now goes on with it", slot, lost)
        except asyncio.CancelledError:
            # The grace of a stop is over. If its end was being written just then, that stands.
            with contextlib.suppress(LeaseLost):
                await held.release()
                log.warning("job %d: unfinished; given back uncounted", job)
            raise
        finally:
            self._in_hand.discard(slot)
            self._show(slot, "idle", None)
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)

    def _show(self, slot: int, state: Literal["idle", "busy", "slow"], job: int | None) -> None:
        since = self._views[slot].since if state == "slow" else self._clock.wall()
        self._views[slot] = SlotView(self._holder, slot, state, job, since)
        self._changed.set()

    async def _report(self, views: Sequence[SlotView]) -> None:
        if not isinstance(self._jobs, KeptLine):
            return
        try:
            await self._jobs.report(self._holder, views)
        except NowServingError as error:
            log.warning("other processes cannot see what the slots do: %s", error)
