"""The engines: all in which SQLite, MariaDB or MySQL 8, and PostgreSQL differ for us.

    sqlite:///FILE                                 one host, any number of processes; the default
    mysql+pymysql://USER:PASSWORD@HOST/NAME        several hosts; needs the package PyMySQL
    postgresql+psycopg://USER:PASSWORD@HOST/NAME   several hosts; needs psycopg[binary]

Whoever writes takes its locks in the transaction's first statement, and one who waited for a
lock must see what the one before it committed. SQLite locks the file at BEGIN IMMEDIATE;
servers lock rows, at READ COMMITTED (at REPEATABLE READ, MariaDB would go on showing what was
there before the wait, and PostgreSQL would refuse).

A server is asked for an empty database, and for nothing else. It is as durable as it is set up
to be (`innodb_flush_log_at_trx_commit=1` and `synchronous_commit=on` are what they come with), and
MariaDB takes jobs as large as its `max_allowed_packet`.

Texts and bytes have the room that the schema's words promise, and keys tell upper from lower
case, é from e, and a space at the end from none, on every engine alike.

Kept out: transactions and who runs them (`database.py`), what the tables mean.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    LargeBinary,
    Table,
    Text,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.compiler import DDLCompiler, TypeCompiler

from queue_backend.errors import Unavailable, Unsupported

# How long one waits for another's transaction before the whole is run again.
LOCK_SECONDS = 5
CONNECT_SECONDS = 5
# A server that says nothing for so long is gone. Longer than any wait for a lock, else the wait
# would be taken for silence. PostgreSQL's library notices only when the network is silent; a
# server that is frozen and still connected is waited for.
SILENCE_SECONDS = 20
SCHEMA_LOCK_SECONDS = 15

_PACKAGES = {"mysql+pymysql": "PyMySQL", "postgresql+psycopg": "psycopg[binary]"}

_PASSING_MYSQL = frozenset({1205, 1213})  # lock wait time-out, deadlock
_PASSING_POSTGRESQL = frozenset({"40001", "40P01", "55P03"})  # not serializable, deadlock, lock
_PASSING_SQLITE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def open_engine(url: str, synchronous: str) -> Engine:
    """The engine that `url` names; it connects when it is first used.

    `synchronous` (FULL or NORMAL) is for SQLite; a server is durable as it was set up to be.
    Raises Unsupported in words, which never repeat the address: it may hold a password.
    """
    if synchronous not in ("FULL", "NORMAL"):
        raise Unsupported(f"synchronous is FULL or NORMAL, not {synchronous!r}")
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise Unsupported(f"the database is not named as an address: {_HOW_TO_NAME}") from error
    if address.drivername == "sqlite":
        return _open_sqlite(address, synchronous)
    if address.drivername not in _PACKAGES or not address.database:
        raise Unsupported(f"{address.drivername}: {_HOW_TO_NAME}")
    return _open_server(address)


_HOW_TO_NAME = (
    "a database is named like sqlite:///FILE, mysql+pymysql://USER:PASSWORD@HOST/NAME or "
    "postgresql+psycopg://USER:PASSWORD@HOST/NAME"
)


def begin_writing(engine: Engine) -> Engine:
    """The same engine, for those who will write."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(begin="BEGIN IMMEDIATE")
    return engine


def server_wall(connection: Connection) -> float | None:
    """Seconds since 1970 on the server's clock, at this moment and not at the transaction's
    beginning; None with SQLite, whose clock is the host's."""
    asked = _SERVER_WALL.get(connection.dialect.name)
    return None if asked is None else float(connection.execute(asked).scalar_one())


_SERVER_WALL = {
    # Not UNIX_TIMESTAMP(NOW(6)): in the hour that comes twice in autumn it is an hour wrong.
    "mysql": text("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6"),
    "postgresql": text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS double precision)"),
}


def passes_by_itself(error: DBAPIError) -> bool:
    """Another transaction was in the way and nothing was done: this one may be run again.

    A connection that broke is not among these. It may have broken in the COMMIT, and then
    nobody knows whether what it wrote is there.
    """
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)  # absent where Python itself complains
        return code is not None and code & 0xFF in _PASSING_SQLITE
    if cause is not None and cause.args and isinstance(cause.args[0], int):
        # Not by its SQLSTATE, which PyMySQL tells too: for the time-out it is "general error".
        return cause.args[0] in _PASSING_MYSQL
    return getattr(cause, "sqlstate", None) in _PASSING_POSTGRESQL


@contextlib.contextmanager
def only_one_makes_tables(connection: Connection) -> Iterator[None]:
    """Of several processes that start together, the others wait here. Use it first in a
    transaction; what the schema's maker wrote is committed before the next one looks."""
    if connection.dialect.name == "postgresql":
        # Ends with the transaction. The number is ours and means nothing.
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{SCHEMA_LOCK_SECONDS}s'")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(5603172911)")
        yield
    elif connection.dialect.name == "mysql":
        # A lock of the whole server, so the schema's name is part of it. It belongs to the
        # connection: here tables are committed one by one, whatever the transaction says.
        mine = "CONCAT('now-serving:', MD5(DATABASE()))"
        got = connection.exec_driver_sql(f"SELECT GET_LOCK({mine}, {SCHEMA_LOCK_SECONDS})")
        if got.scalar() != 1:
            raise Unavailable("database-unavailable", "another process has long made the tables")
        try:
            yield
            connection.exec_driver_sql("COMMIT")
        finally:
            with contextlib.suppress(DBAPIError):  # broken: then the lock is gone with it
                connection.exec_driver_sql(f"DO RELEASE_LOCK({mine})")
    else:
        yield  # BEGIN IMMEDIATE has locked the file


def insert_unless_there(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert a row, or do nothing where one with its primary key is, or is just being written
    by another: that one is waited for. A plain INSERT would fail for the second of two."""
    if connection.dialect.name == "mysql":
        # Not INSERT IGNORE, which would also ignore a name that is too long.
        key = next(iter(table.primary_key))
        ours = mysql.insert(table).values(values)
        connection.execute(ours.on_duplicate_key_update({key.name: key}))
    elif connection.dialect.name == "postgresql":
        connection.execute(postgresql.insert(table).values(values).on_conflict_do_nothing())
    else:
        connection.execute(sqlite.insert(table).values(values).on_conflict_do_nothing())


# Servers


def _open_server(address: URL) -> Engine:
    if address.drivername == "mysql+pymysql":
        ours: dict[str, object] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENCE_SECONDS,
            "write_timeout": SILENCE_SECONDS,
            "charset": "utf8mb4",
            # Some houses set theirs up to cut off, silently, what is too long for a column.
            "init_command": "SET SESSION sql_mode = 'STRICT_ALL_TABLES', "
            f"SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}",
        }
    else:
        ours = {
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": SILENCE_SECONDS * 1_000,
            "keepalives_idle": SILENCE_SECONDS,
            "options": f"-c lock_timeout={LOCK_SECONDS}s",
            "application_name": "now-serving",
        }
    try:
        return create_engine(
            address,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            # A connection that broke while nobody used it must cost nobody an answer.
            pool_pre_ping=True,
            # Whoever runs the server may say otherwise in the address: ?connect_timeout=30
            connect_args={name: value for name, value in ours.items() if name not in address.query},
        )
    except ImportError as error:
        package = _PACKAGES[address.drivername]
        raise Unsupported(
            f"{address.drivername} needs a package that is not installed: pip install '{package}'"
        ) from error


# MySQL's TEXT and BLOB end at 64 KB. Its tables compare without regard to case and accents, and
# even its plainest collation without regard to spaces at the end.


@compiles(Text, "mysql")
def _long_text(_type: Text, _compiler: TypeCompiler, **_kw: Any) -> str:
    return "LONGTEXT"


@compiles(LargeBinary, "mysql")
def _long_blob(_type: LargeBinary, _compiler: TypeCompiler, **_kw: Any) -> str:
    return "LONGBLOB"


@compiles(CreateTable, "mysql")
def _create_table(create: CreateTable, compiler: DDLCompiler, **kw: Any) -> str:
    written: str = compiler.visit_create_table(create, **kw)  # type: ignore[no-untyped-call]
    is_mariadb = getattr(compiler.dialect, "is_mariadb", False)
    collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
    return f"{written.rstrip()} ENGINE=InnoDB CHARSET=utf8mb4 COLLATE={collation}"


# SQLite


def _open_sqlite(address: URL, synchronous: str) -> Engine:
    if address.database in (None, "", ":memory:"):
        raise Unsupported("a SQLite database is a file that several may open: sqlite:///FILE")
    _make_private_file(Path(str(address.database)))
    # Values never go into an error's text: among them are names, phones and sealed secrets.
    engine = create_engine(address, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver would begin transactions by itself, and late; we say BEGIN ourselves below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={LOCK_SECONDS * 1_000}")
        _turn_to_wal(cursor)
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        # What is erased (a sealed secret) is overwritten, where that costs no further page.
        cursor.execute("PRAGMA secure_delete=FAST")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the write lock at BEGIN. Taking it at the first change instead would
        # fail at once, without waiting, where another process wrote since the first look.
        # Said to the driver itself: by SQLAlchemy it would cost a tenth of a lone commit.
        words = connection.get_execution_options().get("begin", "BEGIN")
        driver: Any = connection.connection.driver_connection
        try:
            driver.execute(words)
        except sqlite3.Error as error:
            raise DBAPIError.instance(words, None, error, sqlite3.Error) from error

    return engine


def _make_private_file(path: Path) -> None:
    """0600 before anything is in it; SQLite gives its -wal and -shm the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


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
