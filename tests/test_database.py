"""The database: group commit, savepoints, several processes, and what a failure may not do."""

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from queue_backend import ledger
from queue_backend.database import SCHEMA_VERSION, Database
from queue_backend.errors import LineFull, Unavailable, Unsupported


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "line.db"


@pytest.fixture
def database(path):
    opened = Database(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE note (word TEXT UNIQUE)")
    connection.close()
    yield opened
    opened.close()


def note(word):
    def act(connection):
        connection.execute(text("INSERT INTO note VALUES (:word)"), {"word": word})
        return word

    return act


def note_and_refuse(word):
    def act(connection):
        note(word)(connection)
        raise LineFull()

    return act


def all_words(connection):
    return [row[0] for row in connection.execute(text("SELECT word FROM note ORDER BY rowid"))]


async def test_a_write_is_answered_and_read_back(database):
    assert await database.write(note("a")) == "a"
    assert await database.read(all_words) == ["a"]


async def test_what_was_answered_is_in_the_file_for_another_reader(database, path):
    await database.write(note("a"))
    other = sqlite3.connect(path)
    assert other.execute("SELECT word FROM note").fetchall() == [("a",)]
    other.close()


async def test_acts_that_wait_share_a_commit(database):
    await asyncio.gather(*(database.write(note(str(number))) for number in range(200)))
    assert database.acts == 200
    assert database.commits <= 20
    assert len(await database.read(all_words)) == 200


async def test_acts_of_one_caller_keep_their_order(database):
    await asyncio.gather(*(database.write(note(str(number))) for number in range(50)))
    assert await database.read(all_words) == [str(number) for number in range(50)]


async def test_a_refused_act_undoes_its_own_rows_and_not_its_neighbours(database):
    answers = await asyncio.gather(
        database.write(note("before")),
        database.write(note_and_refuse("refused")),
        database.write(note("after")),
        return_exceptions=True,
    )
    assert answers[0] == "before" and answers[2] == "after"
    assert isinstance(answers[1], LineFull)
    assert await database.read(all_words) == ["before", "after"]


async def test_an_act_the_database_refuses_is_unavailable_to_its_caller_alone(database):
    await database.write(note("a"))
    answers = await asyncio.gather(
        database.write(note("b")), database.write(note("a")), return_exceptions=True
    )
    assert answers[0] == "b"
    assert isinstance(answers[1], Unavailable) and answers[1].code == "database-unavailable"
    assert await database.read(all_words) == ["a", "b"]


async def test_a_failed_commit_fails_every_act_in_it(database):
    def fail(_connection):
        raise OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))

    event.listen(database._engine, "commit", fail)
    answers = await asyncio.gather(
        database.write(note("a")), database.write(note("b")), return_exceptions=True
    )
    event.remove(database._engine, "commit", fail)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert await database.read(all_words) == []
    assert await database.write(note("c")) == "c"


async def test_no_act_is_acknowledged_when_the_engine_threw_the_transaction_away(database):
    """SQLite does so by itself on a full disk; those before must not be told it is done."""

    def lose_everything(connection):
        connection.exec_driver_sql("ROLLBACK")
        raise RuntimeError

    answers = await asyncio.gather(
        database.write(note("before")),
        database.write(lose_everything),
        database.write(note("after")),
        return_exceptions=True,
    )
    written = await database.read(all_words)
    acknowledged = [answer for answer in answers if isinstance(answer, str)]
    assert acknowledged == [] and written == []
    assert await database.write(note("again")) == "again"


async def test_a_full_disk_is_unavailable_and_passes(database):
    def fill(connection):
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        note("x" * 100_000)(connection)

    def make_room(connection):
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")

    answers = await asyncio.gather(
        database.write(note("before")), database.write(fill), return_exceptions=True
    )
    assert isinstance(answers[1], Unavailable)
    await database.write(make_room)
    written = await database.read(all_words)
    assert ("before" in written) == (answers[0] == "before")
    assert await database.write(note("after")) == "after"


async def test_an_act_whose_caller_gave_up_before_it_began_is_not_run(database):
    slow = asyncio.ensure_future(database.write(lambda connection: connection.info.get("x")))
    given_up = asyncio.ensure_future(database.write(note("given up")))
    await asyncio.sleep(0)
    given_up.cancel()
    await slow
    await database.write(note("kept"))
    assert await database.read(all_words) in (["kept"], ["given up", "kept"])


async def test_the_event_loop_goes_on_while_the_disk_is_slow(database):
    """Another process holds the write lock; the loop must not notice."""
    other = sqlite3.connect(database._engine.url.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    write = asyncio.ensure_future(database.write(note("waited")))
    turns = 0
    for _ in range(20):
        await asyncio.sleep(0.005)
        turns += 1
    assert not write.done() and turns == 20
    other.execute("COMMIT")
    other.close()
    assert await write == "waited"


async def test_closing_writes_what_waits_and_then_refuses(database):
    waiting = [asyncio.ensure_future(database.write(note(str(number)))) for number in range(20)]
    await asyncio.sleep(0)
    database.close()
    assert await asyncio.gather(*waiting) == [str(number) for number in range(20)]
    with pytest.raises(Unavailable):
        await database.write(note("late"))
    with pytest.raises(Unavailable):
        await database.read(all_words)


async def test_the_file_is_private_and_flushed_on_every_commit(database, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pragmas = await database.write(
        lambda connection: [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    )
    assert pragmas == ["wal", 2, 5_000]


async def test_opening_again_finds_the_same_rows(path):
    for _ in range(2):
        database = Database(f"sqlite:///{path}", synchronous="NORMAL")
        assert (
            await database.read(
                lambda connection: connection.execute(
                    text("SELECT version FROM schema_version")
                ).all()
            )
        ) == [(SCHEMA_VERSION,)]
        database.close()


def test_a_newer_schema_is_refused_in_words(path):
    Database(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(Unsupported, match="newer Now Serving .its schema is 99"):
        Database(f"sqlite:///{path}")


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "postgresql://u:secret@host/db", "nonsense"]
)
def test_other_engines_are_refused_without_repeating_the_address(url):
    with pytest.raises(Unsupported) as refused:
        Database(url)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database_is_unavailable(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 1000)
    with pytest.raises(Unavailable):
        Database(f"sqlite:///{path}")


OPEN_AND_WRITE = """
import asyncio, sys
from sqlalchemy import text
from queue_backend.database import Database
from queue_backend import ledger

async def main():
    database = Database(f"sqlite:///{sys.argv[1]}")
    book = ledger.Ledger(database)
    for number in range(20):
        await book.record(sys.argv[2], generation="", first=number + 1, high_water=number + 1,
                          version=0, checkpoint=None, void_below=0, ended=(), revived=())
    database.close()

asyncio.run(main())
"""


def test_six_processes_may_open_and_write_a_fresh_file_at_once(path):
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN_AND_WRITE, str(path), f"line-{number}"])
        for number in range(6)
    ]
    assert [process.wait(30) for process in processes] == [0] * 6
    database = Database(f"sqlite:///{path}")
    book = ledger.Ledger(database)
    high_waters = [asyncio.run(book.recall(f"line-{number}")).high_water for number in range(6)]
    assert high_waters == [20] * 6
    database.close()


RAISE_FOREVER = """
import asyncio, sys
from queue_backend.database import Database
from queue_backend.ledger import Ledger

async def main():
    ledger = Ledger(Database(f"sqlite:///{sys.argv[1]}"))
    number = 0
    while True:
        number += 1
        await ledger.record("desk", generation="", first=number, high_water=number,
                            version=number, checkpoint=b"x" * 17_000, void_below=0, ended=(),
                            revived=())
        print(number, flush=True)

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_answered(path):
    process = subprocess.Popen(
        [sys.executable, "-c", RAISE_FOREVER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(30):
        said = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    said = max([said, *(int(line) for line in process.stdout.read().split())])
    process.stdout.close()
    process.wait()
    database = Database(f"sqlite:///{path}")
    recalled = asyncio.run(ledger.Ledger(database).recall("desk"))
    assert said <= recalled.high_water <= said + 1
    assert recalled.version == recalled.high_water
    database.close()
