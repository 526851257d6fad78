"""Local queues: a durable queue in a folder, in the words that users of persist-queue know.

    queue = FIFOQueue("folder")        put, get; what is got is gone
    queue = LIFOQueue("folder")        the newest first
    queue = PriorityQueue("folder")    put(item, priority=3): the smallest first, then the oldest
    queue = UniqueQueue("folder")      put of an item that waits already gives None
    queue = AckQueue("folder")         what is got stays, until ack, nack or ack_failed
    queue = UniqueAckQueue("folder")   both

All are one class over a private SQLite line without a cap: the same file may be used by any
number of threads and processes, and no item is given to two. Two queues of one name in one
folder are one queue, whatever they were opened as. Open it after a fork, never before.

An item that was got from an ack queue is a lease. It is renewed while its process lives, by a
thread of the queue's own, because nobody who knows persist-queue would renew it: work may take
as long as it takes. When the process dies, its items come back to their old places a lease and
a grace later, and to no one earlier; there is nothing to resume, and opening the queue gives
nothing away. A long lease without renewal would either keep a dead process's items for long,
or give away those of slow but living ones. The price: what a thread forgets to end stays in
its hand until the queue is closed.

Kept out: what is behind it all (`line.py`); a queue's `line` has the verbs that are missing here
(pause, kick, cancel, stats, position).
"""

import contextlib
import hashlib
import logging
import os
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from queue_backend import serializers
from queue_backend.answer import Answer
from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.errors import LeaseLost, LineFull, Unavailable, Unsupported
from queue_backend.work.job import Job, JobState, Lease
from queue_backend.work.line import LOOK_EACH_SECONDS, JobLine

log = logging.getLogger(__name__)

T = TypeVar("T")

TASK = "item"
FILE = "queue.db"
PURGE_EACH_SECONDS = 60.0
ALL = 2**31 - 1


@dataclass(slots=True)
class _Held:
    lease: Lease
    item: Any
    thread: int


class LocalQueue:
    """`maxsize` counts what waits and what is in somebody's hand; 0: no limit.

    `unique` goes by the bytes that `serializer` makes of an item. An item is refused while an
    equal one waits, is in somebody's hand or was set aside by `ack_failed`, and allowed again
    afterwards. Use json for it: the others keep the order in which a dictionary was filled.

    What was taken or acknowledged is kept `keep_seconds` for who looks into the file. An item
    whose holders died `tries` times is set aside as if by `ack_failed`.
    """

    def __init__(
        self,
        path: str | Path,
        name: str = "default",
        *,
        order: Literal["fifo", "lifo"] = "fifo",
        unique: bool = False,
        ack: bool = False,
        maxsize: int = 0,
        serializer: str = "json",
        lease_seconds: float = 30,
        grace_seconds: float = 5,
        tries: int = 4,
        keep_seconds: float = 0,
        synchronous: str = "FULL",
    ) -> None:
        self._dumps, self._loads = serializers.named(serializer)
        self._unique = unique
        self._ack = ack
        self._maxsize = maxsize
        self._clock = SystemClock()
        self._holder = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._held: dict[int, _Held] = {}
        self._holding = threading.Lock()
        self._file = Path(path) / FILE
        self.database = Database(f"sqlite:///{self._file}", synchronous)
        self.line = JobLine(
            self.database,
            name,
            cap=None,
            lease_seconds=lease_seconds,
            grace_seconds=grace_seconds,
            tries=tries,
            depth=maxsize or None,
            keep_seconds=keep_seconds,
            order=order,
        )
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"queue-{name}", daemon=True)
        self._keeper.start()

    # Putting and getting

    def put(
        self, item: Any, block: bool = True, timeout: float | None = None, *, priority: int = 0
    ) -> int | None:
        """The item's id, once it is on disk; None when a unique queue has it already. Raises
        queue.Full when there is no room, or none within `timeout` seconds."""
        body = self._dumps(item)
        key = hashlib.sha256(body).hexdigest() if self._unique else None

        def put_once() -> Job | None:
            try:
                return self.line.put(TASK, body=body, key=key, pri=priority).result()
            except LineFull:
                return None

        job = self._until(put_once, block, timeout)
        if job is None:
            raise queue.Full
        return job.id if job.created else None

    def put_nowait(self, item: Any, *, priority: int = 0) -> int | None:
        return self.put(item, block=False, priority=priority)

    def get(self, block: bool = True, timeout: float | None = None, *, raw: bool = False) -> Any:
        """The next item; with `raw` a dictionary of its `pqid`, `data` and `timestamp`. Raises
        queue.Empty when there is none, or none within `timeout` seconds."""
        got = self._until(self._claim if self._ack else self._take, block, timeout, self._looks)
        if got is None:
            raise queue.Empty
        job, item = got
        return {"pqid": job.id, "data": item, "timestamp": job.put_at} if raw else item

    def get_nowait(self, *, raw: bool = False) -> Any:
        return self.get(block=False, raw=raw)

    # What becomes of an item in hand: it is named by itself, as `get` gave it, or by its id.
    # Each gives its id, and raises LeaseLost when it is not in this queue's hand (any more).

    def ack(self, item: Any = None, id: int | None = None) -> int:
        """It is done."""
        return self._end(item, id, self.line.ack)

    def nack(self, item: Any = None, id: int | None = None, *, delay_seconds: float = 0) -> int:
        """Give it back to its old place, which may be the very next. With a delay others go
        first meanwhile."""
        release = partial(self.line.release, delay_seconds=delay_seconds)
        return self._end(item, id, release)

    def ack_failed(self, item: Any = None, id: int | None = None) -> int:
        """Set it aside: nobody gets it again, unless `line.kick(id)` says so."""
        return self._end(item, id, partial(self.line.bury, error="ack-failed"))

    def task_done(self) -> None:
        """All that this thread got is done, and nothing that another did. A queue without ack
        has nothing to say here."""
        mine = threading.get_ident()
        with self._holding:
            done = [held.lease for held in self._held.values() if held.thread == mine]
        # All are asked before the first is waited for: so they share a transaction.
        lost: LeaseLost | None = None
        for lease, answer in [(lease, self.line.ack(lease)) for lease in done]:
            try:
                answer.result()
            except LeaseLost as error:
                lost = error
            self._let_go(lease)
        if lost is not None:
            raise lost

    # Looking, waiting, keeping house

    def update(self, item: Any, id: int | None = None) -> int:
        """Change an item that waits: `update(new, id)`, or the dictionary that a raw `get` gave,
        with other `data`. Raises NotFound, and WrongState once somebody has it."""
        if id is None:
            id, item = item["pqid"], item["data"]
        if self._unique:
            raise Unsupported("an item of a unique queue is what it is: put another")
        return self.line.update(id, body=self._dumps(item)).result().id

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits and nothing is in anybody's hand, in any process. False: not
        within `timeout` seconds."""
        return self.line.join_blocking(timeout)

    def qsize(self) -> int:
        """How many wait; those in somebody's hand do not count."""
        stats = self.line.stats().result()
        return stats.ready + stats.delayed

    @property
    def size(self) -> int:
        return self.qsize()

    def __len__(self) -> int:
        return self.qsize()

    def empty(self) -> bool:
        """Nothing could be got now."""
        return self.line.head().result() is None

    def full(self) -> bool:
        if not self._maxsize:
            return False
        stats = self.line.stats().result()
        return stats.ready + stats.delayed + stats.reserved >= self._maxsize

    def unack_count(self) -> int:
        """How many are in somebody's hand, in any process."""
        return self.line.stats().result().reserved

    def ack_failed_count(self) -> int:
        return self.line.stats().result().buried

    def clear_acked_data(self, keep_seconds: float = 0, *, clear_ack_failed: bool = False) -> int:
        """Forget what ended longer ago than `keep_seconds`; how many that were."""
        if clear_ack_failed:
            for job in self.line.snapshot(ALL).result():
                if job.state is JobState.BURIED:
                    self.line.cancel(job.id).result()
        return self.line.purge(keep_seconds).result()

    def shrink(self) -> None:
        """Give the room of what was forgotten back to the file system. Others wait meanwhile."""
        try:
            with contextlib.closing(sqlite3.connect(self._file, isolation_level=None)) as file:
                file.execute("VACUUM")
                file.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        except sqlite3.Error as error:
            raise Unavailable("database-unavailable", f"cannot be shrunk now: {error}") from error

    def close(self) -> None:
        """Give back what is in hand, to its old place. Closing twice is harmless."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._keeper.join()
        with self._holding:
            held, self._held = self._held, {}
        back = [self.line.release(each.lease) for each in held.values()]
        for answer in back:
            with contextlib.suppress(LeaseLost, Unavailable):
                answer.result()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # How it is done

    def _until(
        self,
        attempt: Callable[[], T | None],
        block: bool,
        timeout: float | None,
        is_worth_it: Callable[[], bool] = lambda: True,
    ) -> T | None:
        """The first thing that `attempt` gives. It is asked again at each ring of the bell, and
        now and then, for other processes ring no bell here, if `is_worth_it`."""
        if timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        found = attempt()
        if found is not None or not block:
            return found
        give_up_at = float("inf") if timeout is None else self._clock.monotonic() + timeout
        rang = True  # somebody may have, before we listened
        with self.line.bell.heard_in_thread() as news:
            while True:
                if rang or is_worth_it():
                    found = attempt()
                left = give_up_at - self._clock.monotonic()
                if found is not None or left <= 0:
                    return found
                rang = news.wait(min(left, LOOK_EACH_SECONDS))
                news.clear()

    def _looks(self) -> bool:
        return self.line.head().result() is not None

    def _take(self) -> tuple[Job, Any] | None:
        job = self.line.take().result()
        return None if job is None else (job, self._loads(job.body or b""))

    def _claim(self) -> tuple[Job, Any] | None:
        lease = self.line.claim(self._holder).result()
        if lease is None:
            return None
        try:
            item = self._loads(lease.job.body or b"")
        except Exception:
            # Not written by this serializer. It must not block the line, nor be lost.
            self.line.bury(lease, "unreadable").result()
            raise
        with self._holding:
            self._held[lease.job.id] = _Held(lease, item, threading.get_ident())
        return lease.job, item

    def _end(self, item: Any, id: int | None, verb: Callable[[Lease], Answer[Job]]) -> int:
        lease = self._lease_of(item, id)
        try:
            job = verb(lease).result()
        except LeaseLost:
            self._let_go(lease)
            raise
        # After an Unavailable it is still in hand: whoever asked may ask again.
        self._let_go(lease)
        return job.id

    def _let_go(self, lease: Lease) -> bool:
        with self._holding:
            return self._held.pop(lease.job.id, None) is not None

    def _lease_of(self, item: Any, id: int | None) -> Lease:
        if (item is None) == (id is None):
            raise ValueError("name an item or an id, not both")
        if isinstance(item, dict) and "pqid" in item:
            id = item["pqid"]
        with self._holding:
            if id is None:
                # The very object that `get` gave; else one that is equal to it.
                held = next((h for h in self._held.values() if h.item is item), None)
                held = held or next((h for h in self._held.values() if h.item == item), None)
                id = held.lease.job.id if held else None
            if id not in self._held:
                raise LeaseLost(f"{self.line.name}: this queue does not hold that item")
            return self._held[id].lease

    def _keep(self) -> None:
        """The keeper's thread: renews leases, forgets what ended."""
        purge_at = 0.0
        while True:
            try:
                self._renew()
                if self._clock.monotonic() >= purge_at:
                    purge_at = self._clock.monotonic() + PURGE_EACH_SECONDS
                    self.line.purge().result()
            except Unavailable as error:
                log.warning("queue %s: tries again to renew leases: %s", self.line.name, error)
            if self._closing.wait(min(self.line.lease_seconds / 3, PURGE_EACH_SECONDS)):
                return

    def _renew(self) -> None:
        with self._holding:
            leases = [held.lease for held in self._held.values()]
        for lease, answer in [(lease, self.line.touch(lease)) for lease in leases]:
            try:
                answer.result()
            except LeaseLost:
                # Ended meanwhile; or this process was stopped for longer than the lease.
                if self._let_go(lease):
                    log.warning("queue %s: item %d was lost", self.line.name, lease.job.id)


FIFOQueue = LocalQueue
LIFOQueue = FILOQueue = partial(LocalQueue, order="lifo")
PriorityQueue = LocalQueue
UniqueQueue = partial(LocalQueue, unique=True)
AckQueue = partial(LocalQueue, ack=True)
UniqueAckQueue = partial(LocalQueue, unique=True, ack=True)
