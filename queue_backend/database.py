"""The database: one writer thread a process, and nobody waits for the disk in line.

Whoever wants to write hands in an *act*, a function of a connection. The acts that pile up
while a commit is on its way to the disk share the next transaction (group commit), so one
flush serves many. An act is answered only after the COMMIT, so what was answered survives
kill -9 and, at `synchronous=FULL`, a power cut.

A refusal undoes its own act and not its neighbours'. Refusals are rare and savepoints are dear,
so a batch runs without them first; if one act refuses, all is undone and the batch runs again
with each act in a savepoint of its own. An act may therefore run twice, and must do nothing
but speak to its connection. A deadlock on a server is met in the same way.

The event loop never touches the disk: acts run on the writer's thread, looks on a few
readers' threads. An act must be short, and must not await.

SQLite is one file on a local disk, which several processes may open: after a fork, never
before. Servers are opened by URL; `engine.py` knows in what they differ.

Kept out: what the tables mean. `ledger.py` and `work/schema.py` hang theirs on `metadata`.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Condition, Thread
from time import sleep
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, select, update
from sqlalchemy.exc import DBAPIError

from queue_backend.answer import Answer
from queue_backend.clock import SystemClock
from queue_backend.engine import (
    begin_writing,
    only_one_makes_tables,
    open_engine,
    passes_by_itself,
    server_wall,
)
from queue_backend.errors import Unavailable, Unsupported
from queue_backend.migrations import MIGRATIONS

log = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMA_VERSION = 2

# A longer batch would only make the first of it wait for the last; other processes wait too.
LARGEST_BATCH = 256
READERS = 2
TRIES = 4

metadata = MetaData()

_this_host = SystemClock()

schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))


class Database:
    """`sqlite:///FILE`, `mysql+pymysql://...` or `postgresql+psycopg://...`. Tables are made and
    brought up to date on opening; a newer schema is refused in words.

    `commits` and `acts` count what was done since opening; their ratio is the group commit.
    """

    def __init__(self, url: str, synchronous: str = "FULL") -> None:
        self.commits = 0
        self.acts = 0
        self._engine = open_engine(url, synchronous)
        self._writing = begin_writing(self._engine)
        try:
            self._make_tables()
        except BaseException:
            self._engine.dispose()
            raise
        self._held: Connection | None = None  # the writer's; only its thread touches it
        self._waiting: deque[_Act[Any]] = deque()
        self._changed = Condition()
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="database-reader")
        self._writer = Thread(target=self._write_on, name="database-writer", daemon=True)
        self._writer.start()

    def write(self, act: Callable[[Connection], T], room: str = "") -> Answer[T]:
        """Run `act` within the next transaction; the answer comes after its COMMIT. Acts of one
        `room` run in their order, and rooms in the same order everywhere: two processes that
        both lock rows in both of them do not then wait for each other.

        Raises what the act raises (its own rows are then undone), and Unavailable when the
        transaction as a whole failed: then nobody in it may take anything for done.
        An act whose caller gave up before it began is not run.
        """
        asked = _Act(act, room)
        with self._changed:
            if self._closed:
                raise _unavailable("the database is closed")
            self._waiting.append(asked)
            self._changed.notify()
        return asked.answer

    def read(self, look: Callable[[Connection], T]) -> Answer[T]:
        """Run `look` on a reader's thread, against what is committed."""
        if self._closed:
            raise _unavailable("the database is closed")
        asked = _Act(look)
        self._readers.submit(self._look, asked)
        return asked.answer

    def now(self, connection: Connection) -> float:
        """Seconds since 1970: on servers theirs, for all hosts alike; with SQLite this host's.
        The same for all of one transaction."""
        kept = remembered(connection)
        if "now" not in kept:
            kept["now"] = server_wall(connection) or _this_host.wall()
        return float(kept["now"])

    def close(self) -> None:
        """Write what still waits, end the threads, close the file. Closing twice is harmless."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._writer.join()
        self._readers.shutdown()
        self._engine.dispose()

    def _look(self, asked: "_Act[Any]") -> None:
        if not asked.begins():
            return
        try:
            with self._engine.connect() as connection:
                remembered(connection).clear()
                asked.result = asked.body(connection)
        except DBAPIError as error:
            asked.error = _unavailable("reading failed")
            asked.error.__cause__ = error
        except Exception as error:
            asked.error = error
        asked.settle()

    def _write_on(self) -> None:
        while batch := self._next_batch():
            begun = sorted((act for act in batch if act.begins()), key=lambda act: act.room)
            if begun:
                self._commit(begun)
            for act in begun:
                act.settle()
            # Lets those who were just answered ask again: so a rush of threads stays one batch,
            # instead of two that take turns at twice the flushes.
            sleep(0)
        self._let_go()

    def _next_batch(self) -> "list[_Act[Any]]":
        """Everything that waits now; empty only once the database is closed and all is written."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            size = min(len(self._waiting), LARGEST_BATCH)
            return [self._waiting.popleft() for _ in range(size)]

    def _commit(self, batch: "list[_Act[Any]]") -> None:
        apart = False
        failure: Exception | None = None
        for _ in range(TRIES):
            try:
                with self._connected() as connection, connection.begin():
                    remembered(connection).clear()
                    for act in batch:
                        act.run(connection, apart)
            except _Refusal:
                if len(batch) == 1:
                    return
                apart = True
            except Exception as error:
                # Dying here, before or in the COMMIT, is the same to a caller: outcome unknown.
                failure = error
                if not (isinstance(error, DBAPIError) and passes_by_itself(error)):
                    break
            else:
                self.commits += 1
                self.acts += len(batch)
                return
        log.error("a transaction of %d acts failed: %s", len(batch), failure)
        for act in batch:
            act.error = _unavailable("the transaction failed")
            act.error.__cause__ = failure

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        """The writer's connection. One to a file is held, for taking it out and giving it back
        costs a quarter of a commit; one to a server is looked after by its pool, which finds out
        that it broke while nobody used it."""
        if self._held is None:
            self._held = self._writing.connect()
        try:
            yield self._held
        except BaseException:
            self._let_go()
            raise
        if self._writing.dialect.name != "sqlite":
            self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _make_tables(self) -> None:
        # Of several processes that start together one makes the tables or brings them up to date.
        try:
            with self._writing.begin() as connection, only_one_makes_tables(connection):
                schema_version.create(connection, checkfirst=True)
                found = connection.execute(select(schema_version.c.version)).scalar()
                if found is not None and found > SCHEMA_VERSION:
                    raise Unsupported(
                        f"the database was written by a newer Now Serving (its schema is {found}, "
                        f"this program knows {SCHEMA_VERSION}): run that version, or name another "
                        "database"
                    )
                for version in range(found or SCHEMA_VERSION, SCHEMA_VERSION):
                    MIGRATIONS[version](connection)
                    log.info("the schema was brought from %d to %d", version, version + 1)
                metadata.create_all(connection)
                if found is None:
                    connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
                elif found < SCHEMA_VERSION:
                    connection.execute(update(schema_version).values(version=SCHEMA_VERSION))
        except DBAPIError as error:
            raise _unavailable(f"the database cannot be opened: {error.orig}") from error


def remembered(connection: Connection) -> dict[Hashable, Any]:
    """What acts may keep for those after them in the same transaction; forgotten with it, and
    whenever a neighbour's act was undone."""
    kept: dict[Hashable, Any] = connection.info.setdefault("remembered", {})
    return kept


class _Refusal(Exception):
    """An act of a batch without savepoints refused; the transaction is rolled back."""


class _Act(Generic[T]):
    """One caller's function on its way through a transaction, and what became of it."""

    def __init__(self, body: Callable[[Connection], T], room: str = "") -> None:
        self.body = body
        self.room = room
        self.answer: Answer[T] = Answer()
        self.result: T
        self.error: Exception | None = None

    def begins(self) -> bool:
        """False when its caller gave up meanwhile. From here on nobody can."""
        return self.answer.set_running_or_notify_cancel()

    def run(self, connection: Connection, apart: bool) -> None:
        self.error = None
        savepoint = connection.begin_nested() if apart else None
        try:
            self.result = self.body(connection)
        except Exception as error:
            if isinstance(error, DBAPIError):
                if passes_by_itself(error):
                    raise
                log.error("an act failed: %s", error)
                self.error = _unavailable("writing failed")
                self.error.__cause__ = error
            else:
                self.error = error
            if savepoint is None:
                raise _Refusal from error
            # After a full disk or an I/O error SQLite has already thrown away the whole
            # transaction. This rollback then raises, and so all of the batch fails, instead of
            # the rest being committed without those before it.
            savepoint.rollback()
            remembered(connection).clear()
        else:
            if savepoint is not None:
                savepoint.commit()

    def settle(self) -> None:
        if self.error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(self.error)


def _unavailable(sentence: str) -> Unavailable:
    return Unavailable("database-unavailable", sentence)
