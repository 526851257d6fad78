"""Durable queues with the same four words, so that the same loads run on ours and on others'.

`put`, `get`, `done`, `close`. What a queue's own `done` means is said at each: some confirm one
item, some everything up to now, some have nothing to confirm.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import greenstalk
from persistqueue import Queue, SQLiteAckQueue, SQLiteQueue

from queue_backend.database import Database
from queue_backend.work.job import Lease
from queue_backend.work.line import JobLine
from queue_backend.work.local import LocalQueue


class Contender(Protocol):
    def put(self, item: str) -> None: ...
    def get(self) -> Any: ...
    def done(self, got: Any) -> None: ...
    def close(self) -> None: ...


Open = Callable[[Path], Contender]


class Ours:
    """A job line asked directly: reserved under the gate with its cap counted, fenced, acked."""

    def __init__(self, directory: Path, synchronous: str = "FULL", cap: int | None = 8) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.url = f"sqlite:///{directory / 'jobs.db'}"
        self.database = Database(self.url, synchronous)
        self.line = JobLine(self.database, "bench", cap=cap, depth=10_000_000)

    def put(self, item: str) -> None:
        self.line.put("bench", body=item.encode()).result()

    def get(self) -> Lease:
        lease = self.line.claim("bench").result()
        assert lease is not None, "there is nothing to take"
        return lease

    def done(self, got: Lease) -> None:
        self.line.ack(got).result()

    def close(self) -> None:
        self.database.close()


class OursLocal:
    """One of the local queues. With `ack`, `done` confirms all that was got; without there is
    nothing to confirm."""

    def __init__(self, directory: Path, synchronous: str = "FULL", ack: bool = False) -> None:
        self._queue = LocalQueue(directory, ack=ack, synchronous=synchronous)

    def put(self, item: str) -> None:
        self._queue.put(item)

    def get(self) -> Any:
        return self._queue.get(block=False)

    def done(self, got: Any) -> None:
        self._queue.task_done()

    def close(self) -> None:
        self._queue.close()


class PersistAck:
    """`done` confirms one item."""

    def __init__(self, directory: Path) -> None:
        self._queue = SQLiteAckQueue(str(directory), multithreading=True)

    def put(self, item: str) -> None:
        self._queue.put(item)

    def get(self) -> Any:
        return self._queue.get(block=False)

    def done(self, got: Any) -> None:
        self._queue.ack(got)

    def close(self) -> None:
        self._queue.close()


class PersistSqlite:
    """`done` confirms all that was got: the way its own benchmark calls the bulk one."""

    def __init__(self, directory: Path) -> None:
        self._queue = SQLiteQueue(str(directory), multithreading=True, auto_commit=False)

    def put(self, item: str) -> None:
        self._queue.put(item)

    def get(self) -> Any:
        return self._queue.get(block=False)

    def done(self, got: Any) -> None:
        self._queue.task_done()

    def close(self) -> None:
        self._queue.close()


class PersistFile:
    """`done` confirms all that was got. Puts are synced once per hundred items."""

    def __init__(self, directory: Path) -> None:
        self._queue = Queue(str(directory))

    def put(self, item: str) -> None:
        self._queue.put(item)

    def get(self) -> Any:
        return self._queue.get(block=False)

    def done(self, got: Any) -> None:
        self._queue.task_done()

    def close(self) -> None:
        pass  # it has nothing to close


class Beanstalk:
    """One connection to a beanstalkd; `done` deletes the job."""

    def __init__(self, port: int) -> None:
        self._client = greenstalk.Client(("127.0.0.1", port))

    def put(self, item: str) -> None:
        self._client.put(item)

    def get(self) -> Any:
        return self._client.reserve(timeout=0)

    def done(self, got: Any) -> None:
        self._client.delete(got)

    def close(self) -> None:
        self._client.close()
