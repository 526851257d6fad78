"""A turn: being the one, or one of `cap`, who does something now, over all processes and hosts.

A line of cap 1 is a cross-process lock, a line of cap n a semaphore:

    with Turn(line, timeout_seconds=10) as lease:      # `async with` on an event loop
        ...

Fair (whoever asked first is next), leased (a process that dies gives its turn up by the passing
of time), fenced (`lease.job.attempt` and `lease.job.id` tell a later turn from an earlier one).
Unlike GET_LOCK it does not hang on a connection: a lost connection loses nothing, and taking it
twice is two turns.

Whoever waits keeps an entry in the line, which lapses with its process, so nobody waits behind
the dead. Kept out: jobs with work in them; give turns a line of their own.
"""

import asyncio
import contextlib
import logging
import math
import secrets
import threading
from types import TracebackType

from queue_backend.answer import Answer
from queue_backend.errors import LeaseLost, Unavailable
from queue_backend.work.job import Job, Lease
from queue_backend.work.line import LOOK_EACH_SECONDS, JobLine, real_time

log = logging.getLogger(__name__)

TASK = "turn"


class Turn:
    """One turn in `line`; use it once. Raises TimeoutError when it did not come in time (None:
    waits for ever), and LeaseLost at its end when another had the turn meanwhile."""

    def __init__(self, line: JobLine, timeout_seconds: float | None = None) -> None:
        self._line = line
        self._timeout_seconds = timeout_seconds
        self._holder = f"turn-{secrets.token_hex(8)}"

    # In a thread

    def __enter__(self) -> Lease:
        entry = _Entry(self._line, self._timeout_seconds)
        entry.job = entry.put().result()
        try:
            with self._line.bell.heard_in_thread() as news:
                while (lease := self._claim(entry).result()) is None:
                    news.wait(entry.patience_seconds())
                    news.clear()
                    if entry.is_old:
                        entry.job = entry.put().result()
        except BaseException:
            self._line.cancel(entry.job.id)
            raise
        self._lease = lease
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep_in_thread, daemon=True)
        self._keeper.start()
        return lease

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._keeper.join()
        self._line.ack(self._lease).result()

    def _keep_in_thread(self) -> None:
        while not self._over.wait(self._line.lease_seconds / 3):
            try:
                self._line.touch(self._lease).result()
            except Unavailable as error:
                log.warning("%s: a turn was not renewed: %s", self._line.name, error)
            except LeaseLost as lost:
                log.error("%s: a turn is lost: %s", self._line.name, lost)
                return

    # On an event loop

    async def __aenter__(self) -> Lease:
        entry = _Entry(self._line, self._timeout_seconds)
        entry.job = await entry.put()
        try:
            with self._line.bell.heard_on_loop() as news:
                while (lease := await self._claim(entry)) is None:
                    patience_seconds = entry.patience_seconds()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), patience_seconds)
                    news.clear()
                    if entry.is_old:
                        entry.job = await entry.put()
        except BaseException:
            self._line.cancel(entry.job.id)
            raise
        self._lease = lease
        self._renewing = asyncio.create_task(self._keep_on_loop())
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        await self._line.ack(self._lease)

    async def _keep_on_loop(self) -> None:
        while True:
            await asyncio.sleep(self._line.lease_seconds / 3)
            try:
                await self._line.touch(self._lease)
            except Unavailable as error:
                log.warning("%s: a turn was not renewed: %s", self._line.name, error)
            except LeaseLost as lost:
                log.error("%s: a turn is lost: %s", self._line.name, lost)
                return

    def _claim(self, entry: "_Entry") -> Answer[Lease | None]:
        return self._line.claim(self._holder, only=entry.job.id)


class _Entry:
    """Somebody's place among those who wait for their turn."""

    job: Job

    def __init__(self, line: JobLine, timeout_seconds: float | None) -> None:
        self._line = line
        self._key = f"turn-{secrets.token_hex(8)}"
        self._give_up_at = math.inf
        if timeout_seconds is not None:
            self._give_up_at = real_time.monotonic() + timeout_seconds

    def put(self) -> Answer[Job]:
        """Enter the line; again while in line: stay for as long again, at the same place. Whoever
        slept until the entry lapsed is entered anew, behind the others."""
        self._renew_at = real_time.monotonic() + self._line.lease_seconds / 3
        return self._line.put(
            TASK, key=self._key, ttl_seconds=self._line.lease_seconds, prolong=True
        )

    @property
    def is_old(self) -> bool:
        return real_time.monotonic() >= self._renew_at

    def patience_seconds(self) -> float:
        left = self._give_up_at - real_time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{self._line.name}: no turn in time")
        return min(left, LOOK_EACH_SECONDS)
