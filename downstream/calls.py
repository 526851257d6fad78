"""Calls: what a worker does with the jobs of people, through an adapter.

    done, rejected   ack, with the result people read
    retry            release: nothing was sent, so it waits and is tried again
    unknown          reconcile; ack as unknown if nobody can tell
    broken           pause the whole lane, for an operator; the job keeps its place

A call past its deadline is shown as "checking", but its slot stays taken, and its lease is
renewed, until the call is really back: the service has still its hands full, and the next call
would be one too many.

A job whose earlier holder fell silent may have been sent already. If its action must not be sent
twice it is reconciled instead of executed.

Kept out: slots, heartbeats and stopping (`queue_backend/work/worker.py`), what a call does (the
adapter).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from downstream.adapter import ActionSpec, Adapter, Context, Outcome
from downstream.sealed import Keyring, purpose
from queue_backend.clock import Clock
from queue_backend.errors import BadInput, LeaseLost, Unavailable
from queue_backend.work.job import Job
from queue_backend.work.line import JobLine
from queue_backend.work.worker import Held

log = logging.getLogger(__name__)

BROKEN = "broken: "

RUNNING = "running"
CHECKING = "checking"


class Calls:
    """The craft of those who work for one adapter."""

    def __init__(self, jobs: JobLine, adapter: Adapter, keyring: Keyring, clock: Clock) -> None:
        self._jobs = jobs
        self._adapter = adapter
        self._keyring = keyring
        self._clock = clock

    async def open(self) -> None:
        await self._adapter.open()

    async def close(self) -> None:
        await self._adapter.close()

    async def keep_house(self) -> None:
        """Open a lane that paused because the service was broken, if it is well again."""
        reason = await self._jobs.paused()
        if reason is None or not reason.startswith(BROKEN):
            return
        health = await self._adapter.health()
        if health.ok:
            log.info("%s: the service is well again, the lane is resumed", self._jobs.name)
            await self._jobs.resume()
        else:
            log.error("%s: still paused, %s %s", self._jobs.name, health.code, health.detail)

    async def carry_out(self, held: Held) -> None:
        job = held.job
        spec = self._adapter.actions.get(job.task)
        if spec is None:
            await held.bury("action-unknown")
            return
        try:
            secrets = self._unsealed(job)
        except BadInput:
            log.error("job %d: its secrets cannot be opened; rejected", job.id)
            await _ack(held, Outcome("rejected", "secrets-lost"))
            return
        if any(asked.is_secret and asked.required for asked in spec.fields) and not secrets:
            await _ack(held, Outcome("rejected", "secrets-lost"))
            return

        call = _Call(held, spec, secrets, self._clock)
        maybe_sent = job.step != ""
        if maybe_sent and not spec.idempotent:
            outcome = Outcome("unknown", "not-confirmed")
        else:
            # On disk before the first byte goes out: whoever finds the job after a crash
            # here must know that it may have been sent.
            await held.touch(RUNNING)
            outcome = await call.ask(self._adapter.execute)
        if outcome.kind == "unknown":
            await held.touch(CHECKING)
            outcome = await call.ask(self._adapter.reconcile)
        await self._settle(held, outcome)

    async def _settle(self, held: Held, outcome: Outcome) -> None:
        if outcome.private:
            log.info("job %d: %s %s: %s", held.job.id, outcome.kind, outcome.code, outcome.private)
        match outcome.kind:
            case "done" | "rejected" | "unknown":
                await _ack(held, outcome)
            case "retry":
                await held.release(error=outcome.code, nothing_sent=True)
            case "broken":
                # Pause first. Dying in between, the lane is shut and the job comes back with its
                # lease; the other way round another slot would burn it on the broken service.
                log.error("job %d: %s; the lane is paused", held.job.id, outcome.code)
                await self._jobs.pause(reason=BROKEN + outcome.code)
                await held.release(nothing_sent=True)

    def _unsealed(self, job: Job) -> dict[str, str]:
        sealed = job.args.get("sealed")
        if not isinstance(sealed, str):
            return {}
        return self._keyring.open(sealed, purpose(job.key or "", job.task))


class _Call:
    """One job on its way through the adapter."""

    def __init__(
        self, held: Held, spec: ActionSpec, secrets: Mapping[str, str], clock: Clock
    ) -> None:
        self._held = held
        self._spec = spec
        self._secrets = secrets
        self._clock = clock
        self._late = False

    async def ask(self, ask: Callable[[Job, Context], Awaitable[Outcome]]) -> Outcome:
        """Call the adapter, and come back only when the call is back, however late."""
        held = self._held
        # An earlier call may have been late; finding out what became of it begins anew.
        self._late = False
        secrets = dict(self._secrets)
        context = Context(
            slot=held.slot,
            deadline=self._clock.monotonic() + self._spec.deadline_seconds,
            cancelled=lambda: self._late or held.stop.is_set(),
            progress=self._progress,
            secret=secrets.pop,
        )
        late = asyncio.create_task(self._at_deadline())
        try:
            return await ask(held.job, context)
        except LeaseLost:
            raise
        except Exception as error:
            # Only the kind of it: its text may hold what somebody typed.
            log.error("job %d: the call ended in %s", held.job.id, type(error).__name__)
            return Outcome("unknown", "not-confirmed")
        finally:
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)

    async def _progress(self, step: str) -> None:
        # A step that cannot be shown is no reason to break off a call under way.
        with contextlib.suppress(Unavailable):
            await self._held.touch(step)

    async def _at_deadline(self) -> None:
        await asyncio.sleep(self._spec.deadline_seconds)
        held = self._held
        log.warning(
            "job %d: past its deadline; slot %d stays taken until it is back",
            held.job.id,
            held.slot,
        )
        held.show_slow()
        self._late = True
        with contextlib.suppress(LeaseLost, Unavailable):
            await held.touch(CHECKING)


async def _ack(held: Held, outcome: Outcome) -> None:
    result = {"outcome": outcome.kind, "code": outcome.code, "fields": dict(outcome.fields)}
    await held.ack(result)
    log.info("job %d: %s, %s", held.job.id, outcome.kind, outcome.code)
