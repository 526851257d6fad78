"""The database: one file, one writer thread a process, and nobody waits for it in line.

Whoever wants to write hands in an *act*, a function of a connection. The acts that pile up
while a commit is on its way to the disk share the next transaction (group commit), so one
flush serves many. Each act runs inside a savepoint: its refusal undoes its own rows and not
its neighbours'. An act is answered only after the COMMIT, so what was answered survives
kill -9 and, at `synchronous=FULL`, a power cut.

The event loop never touches the disk: acts run on the writer's thread, looks on a few
readers' threads. An act must therefore be short, and must not await.

Several processes may open one SQLite file on a local disk. Open it after a fork, never before.

Kept out: what the tables mean. `ledger.py` and `work/schema.py` hang theirs on `metadata`.
"""

import asyncio
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    insert,
    make_url,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from queue_backend.errors import Unavailable, Unsupported

log = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA_VERSION = 1

# A longer batch would only make the first of it wait for the last; other processes wait too.
LARGEST_BATCH = 256
READERS = 2
BUSY_MILLISECONDS = 5_000

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))


class Database:
    """`sqlite:///FILE`. Tables are made on opening; a newer schema is refused in words.

    `commits` and `acts` count what was done since opening; their ratio is the group commit.
    """

    def __init__(self, url: str, synchronous: str = "FULL") -> None:
        address = _sqlite_address(url)
        if synchronous not in ("FULL", "NORMAL"):
            raise Unsupported(f"synchronous is FULL or NORMAL, not {synchronous!r}")
        self.commits = 0
        self.acts = 0
        self._make_private_file(Path(address.database or ""))
        # Values never go into an error's text: among them are names, phones and sealed secrets.
        self._engine = create_engine(address, hide_parameters=True)
        self._writing = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        _prepare_sqlite(self._engine, synchronous)
        try:
            self._make_tables()
        except BaseException:
            self._engine.dispose()
            raise
        self._waiting: deque[_Act[Any]] = deque()
        self._changed = Condition()
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="database-reader")
        self._writer = Thread(target=self._write_on, name="database-writer", daemon=True)
        self._writer.start()

    async def write(self, act: Callable[[Connection], T]) -> T:
        """Run `act` in the next transaction; answer after its COMMIT.

        Raises what the act raises (its own rows are then undone), and Unavailable when the
        transaction as a whole failed: then nobody in it may take anything for done.
        An act whose caller gave up before it began is not run.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._changed:
            if self._closed:
                raise _unavailable("the database is closed")
            self._waiting.append(_Act(act, future, loop))
            self._changed.notify()
        return await future

    async def read(self, act: Callable[[Connection], T]) -> T:
        """Run `act` on a reader's thread, against one snapshot of all that is committed."""
        if self._closed:
            raise _unavailable("the database is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._look, act)

    def close(self) -> None:
        """Write what still waits, end the threads, close the file. Closing twice is harmless."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join()
        self._readers.shutdown()
        self._engine.dispose()

    def _look(self, act: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return act(connection)
        except DBAPIError as error:
            raise _unavailable("reading failed") from error

    def _write_on(self) -> None:
        while batch := self._next_batch():
            self._commit(batch)
            self._answer(batch)

    def _next_batch(self) -> "list[_Act[Any]]":
        """Everything that waits now; empty only once the database is closed and all is written."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            size = min(len(self._waiting), LARGEST_BATCH)
            return [self._waiting.popleft() for _ in range(size)]

    def _commit(self, batch: "list[_Act[Any]]") -> None:
        try:
            with self._writing.begin() as connection:
                for act in batch:
                    act.run(connection, alone=len(batch) == 1)
        except Exception as error:
            # Dying here, before or in the COMMIT, is the same to a caller: outcome unknown.
            log.error("a transaction of %d acts failed: %s", len(batch), error)
            for act in batch:
                act.error = _unavailable("the transaction failed")
                act.error.__cause__ = error
        else:
            self.commits += 1
            self.acts += len(batch)

    def _answer(self, batch: "list[_Act[Any]]") -> None:
        for loop in {act.loop for act in batch}:
            mine = [act for act in batch if act.loop is loop]
            try:
                loop.call_soon_threadsafe(_settle, mine)
            except RuntimeError:
                log.warning("%d written acts had nobody left to answer", len(mine))

    def _make_private_file(self, path: Path) -> None:
        """0600 before anything is in it; SQLite gives its -wal and -shm the same."""
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))

    def _make_tables(self) -> None:
        # One transaction, so of several processes that start together one makes the tables.
        try:
            with self._writing.begin() as connection:
                schema_version.create(connection, checkfirst=True)
                found = connection.execute(select(schema_version.c.version)).scalar()
                if found is not None and found > SCHEMA_VERSION:
                    raise Unsupported(
                        f"the database was written by a newer Now Serving (its schema is {found}, "
                        f"this program knows {SCHEMA_VERSION}): run that version, or name another "
                        "database"
                    )
                metadata.create_all(connection)
                if found is None:
                    connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
        except DBAPIError as error:
            raise _unavailable(f"the database cannot be opened: {error.orig}") from error


class _Act(Generic[T]):
    """One caller's function on its way through a transaction, and what became of it."""

    def __init__(
        self,
        body: Callable[[Connection], T],
        future: "asyncio.Future[T]",
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.body = body
        self.future = future
        self.loop = loop
        self.error: Exception | None = None

    def run(self, connection: Connection, alone: bool) -> None:
        if self.future.cancelled():
            return
        # Without neighbours the transaction itself is what a refusal undoes.
        savepoint = connection.get_transaction() if alone else connection.begin_nested()
        assert savepoint is not None
        try:
            self.result = self.body(connection)
        except Exception as error:
            # After a full disk or an I/O error SQLite has already thrown away the whole
            # transaction. This rollback then raises, and so all of the batch fails, instead of
            # the rest being committed without those before it.
            savepoint.rollback()
            if isinstance(error, DBAPIError):
                log.error("an act failed: %s", error)
                self.error = _unavailable("writing failed")
                self.error.__cause__ = error
            else:
                self.error = error
        else:
            if not alone:
                savepoint.commit()

    def settle(self) -> None:
        if self.future.done():
            return  # the caller gave up
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


def _settle(acts: list[_Act[Any]]) -> None:
    for act in acts:
        act.settle()


def _unavailable(sentence: str) -> Unavailable:
    return Unavailable("database-unavailable", sentence)


def _sqlite_address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise Unsupported("a database is named like sqlite:///FILE") from error
    if address.get_backend_name() != "sqlite" or address.database in (None, "", ":memory:"):
        # Never the address itself: it may hold a password.
        raise Unsupported(
            f"{address.get_backend_name()}: only a SQLite file is known, sqlite:///FILE"
        )
    return address


def _prepare_sqlite(engine: Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver would begin transactions by itself, and late; we say BEGIN ourselves below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
        _turn_to_wal(cursor)
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        # What is erased (a sealed secret) is overwritten, where that costs no further page.
        cursor.execute("PRAGMA secure_delete=FAST")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the write lock at BEGIN. Taking it at the first change instead would
        # fail at once, without waiting, where another process wrote since the first look.
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _turn_to_wal(cursor: DBAPICursor) -> None:
    # The first of several processes needs the file to itself for this, and SQLite does not
    # apply the busy time-out to it. Later connections find it done.
    for _ in range(50):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            time.sleep(0.1)
    cursor.execute("PRAGMA journal_mode=WAL")
