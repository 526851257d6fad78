"""The engines: SQLite, MariaDB and PostgreSQL keep the same promises, by the same statements.

The job line's and the ledger's own tests run once more here on real servers (they are taken
from their files, so that there is one suite). After them, what only shows between processes:
starts at the same moment, a cap over six, a drain by two, and connections and servers that go
away in the middle.
"""

import asyncio
import builtins
import contextlib
import inspect
import json
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, event, insert, select, text, update
from sqlalchemy.exc import OperationalError

from queue_backend.database import SCHEMA_VERSION, Database, metadata, schema_version
from queue_backend.engine import only_one_makes_tables, open_engine, passes_by_itself
from queue_backend.errors import LineFull, Unavailable, Unsupported
from queue_backend.ledger import Ledger, Recalled, Tombstone
from queue_backend.work.job import JobState, Put
from queue_backend.work.line import JobLine
from queue_backend.work.schema import lines
from tests import test_job_line, test_ledger
from tests.processes import ROOT, wait_until
from tests.test_journeys import Program as Visitor
from tests.test_journeys import room

SERVERS = ("mariadb", "postgresql")


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def tables(server):
    """Made once: that takes longer than most of the tests."""
    address = server.new_database()
    Database(address).close()
    yield address
    server.drop(address)


@pytest.fixture
def database(tables):
    with opened(tables) as database:
        database.write(wipe).result()
        yield database


def wipe(connection):
    for table in reversed(metadata.sorted_tables):
        if table is not schema_version:
            connection.execute(delete(table))


@pytest.fixture(params=("sqlite", *SERVERS))
def address(request, tmp_path):
    """An empty database, on each of the three."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.db'}"
    else:
        server = request.getfixturevalue(request.param)
        named = server.new_database()
        yield named
        server.drop(named)


@contextlib.contextmanager
def opened(address):
    database = Database(address)
    try:
        yield database
    finally:
        database.close()


def suite(module, *left_out):
    """The tests of a module but for those about SQLite's file, and the fixtures they stand on,
    unless there are our own."""
    return {
        name: thing
        for name, thing in vars(module).items()
        if name not in left_out
        and name not in globals()
        and (isinstance(thing, type(database)) or name.startswith("test_"))
        and not {"path", "tmp_path"} & set(inspect.signature(thing).parameters)
    }


globals().update(suite(test_ledger, "test_a_record_replaces_and_does_not_heap_up"))
globals().update(suite(test_job_line))


class Program:
    """A small Python program in a process of its own: told words, and answering in JSON."""

    def __init__(self, text, *arguments):
        self._child = subprocess.Popen(
            [sys.executable, "-c", text, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdin is not None and self._child.stdout is not None
        self._input, self._output = self._child.stdin, self._child.stdout
        # One that hangs is heard to have ended, rather than waited for without end.
        self._patience = threading.Timer(180, self._child.kill)
        self._patience.start()

    def tell(self, word):
        self._input.write(f"{word}\n")
        self._input.flush()

    def hear(self):
        said = self._output.readline()
        assert said, f"the program ended with {self._child.wait()}"
        return json.loads(said)

    def end(self):
        """Its exit code, after its input has ended."""
        self._input.close()
        try:
            return self._child.wait(30)
        finally:
            self._patience.cancel()
            self._child.kill()
            self._child.wait()
            self._output.close()


@contextlib.contextmanager
def programs(count, text, *arguments):
    """So many of them, all through their imports and none begun."""
    started = [Program(text, *arguments, f"program-{number}") for number in range(count)]
    try:
        assert [program.hear() for program in started] == ["here"] * count
        yield started
    finally:
        codes = [program.end() for program in started]
    assert codes == [0] * count


def taken(line):
    lease = line.reserve_blocking("worker")
    assert lease is not None, "nothing to reserve"
    return lease


# What every engine must be able to hold


def test_what_looks_alike_is_another_key(address):
    keys = ["a", "A", "ä", "á", "a ", "ａ", "\N{GRINNING FACE}"]
    with opened(address) as database:
        line = JobLine(database, "desk", cap=1)
        ids = {line.put("t", key=key).result().id for key in keys}
        assert len(ids) == len(keys)
        assert {line.put("t", key=key).result().id for key in keys} == ids


def test_jobs_without_a_key_are_never_the_same(address):
    with opened(address) as database:
        line = JobLine(database, "desk", cap=1)
        assert len({line.put("t").result().id for _ in range(3)}) == 3


def test_args_and_bodies_of_16_megabytes_come_back_as_they_were(address):
    body = bytes(range(256)) * 62_500
    args = {"letter": "Dear Sir or Madam, \N{GRINNING FACE}\\ \0 '\"" * 400_000}
    with opened(address) as database:
        line = JobLine(database, "desk", cap=1)
        line.put("t", args, body=body).result()
        lease = taken(line)
        assert lease.job.body == body and lease.job.args == args
        long_error = "é" * 100_000
        assert line.bury(lease, long_error).result().error == long_error


def test_what_is_too_long_is_refused_and_not_cut_off(mariadb):
    ((usual,),) = mariadb.ask("SELECT @@GLOBAL.sql_mode")
    mariadb.ask("SET GLOBAL sql_mode = ''")
    address = mariadb.new_database()
    with opened(address) as database:
        with pytest.raises(Unavailable):
            database.write(
                lambda connection: connection.execute(
                    insert(lines).values(name="x" * 65, cap=1)
                ).close()
            ).result()
        assert database.read(names_of_lines).result() == []
    mariadb.drop(address)
    mariadb.ask(f"SET GLOBAL sql_mode = '{usual}'")


def test_times_are_kept_to_the_microsecond(address, clock):
    wall = 1_700_000_000.123456
    clock.tick(wall - clock.wall())
    with opened(address) as database:
        job = JobLine(database, "desk", cap=1, clock=clock).put("t").result()
        assert JobLine(database, "desk", cap=1).peek(job.id).result().put_at == clock.wall()


def test_the_clock_is_the_servers_and_right(address):
    with opened(address) as database:
        before = time.time()
        now = database.read(database.now).result()
        assert before - 0.01 <= now <= time.time() + 0.01


def test_counts_are_whole_numbers(address):
    with opened(address) as database:
        line = JobLine(database, "desk", cap=1)
        line.put("t").result()
        stats = line.stats().result()
        assert builtins.type(stats.ready) is int and json.dumps([stats.ready, stats.buried])


def test_one_that_is_refused_undoes_its_own_rows_and_not_its_neighbours(address):
    def name(word, refused=False):
        def act(connection):
            connection.execute(insert(lines).values(name=word, cap=1))
            if refused:
                raise LineFull

        return act

    with opened(address) as database:
        hold = threading.Event()
        held = database.write(lambda connection: hold.wait(5))
        before, full, after = (
            database.write(name("before")),
            database.write(name("refused", refused=True)),
            database.write(name("after")),
        )
        twice = database.write(name("before"))
        hold.set()
        held.result(), before.result(), after.result()
        with pytest.raises(LineFull):
            full.result()
        with pytest.raises(Unavailable):
            twice.result()
        assert database.read(names_of_lines).result() == ["after", "before"]


def names_of_lines(connection):
    return list(connection.execute(select(lines.c.name).order_by(lines.c.name)).scalars())


# Opening


def test_opening_again_finds_the_same(address):
    with opened(address) as database:
        job = JobLine(database, "desk", cap=1).put("t", {"n": 1}).result()
    with opened(address) as database:
        assert JobLine(database, "desk", cap=1).peek(job.id).result().args == {"n": 1}
        assert database.read(versions).result() == [SCHEMA_VERSION]


def versions(connection):
    return list(connection.execute(select(schema_version.c.version)).scalars())


def test_a_newer_schema_is_refused_in_words(address):
    with opened(address) as database:
        database.write(
            lambda connection: connection.execute(update(schema_version).values(version=99)).close()
        ).result()
    with pytest.raises(Unsupported, match="newer Now Serving .its schema is 99"):
        Database(address)


OPEN_AND_PUT = """
import json, sys
from queue_backend import ledger
from queue_backend.database import Database
from queue_backend.work.line import JobLine

address, name = sys.argv[1:]
print(json.dumps("here"), flush=True)
sys.stdin.readline()
database = Database(address)
line = JobLine(database, "desk", cap=2)
same = [line.put("same", key=str(number)) for number in range(10)]
others = [line.put("other", key=f"{name}-{number}") for number in range(10)]
print(json.dumps([answer.result().id for answer in same + others]), flush=True)
database.close()
"""


def test_six_processes_may_open_a_fresh_database_at_once(address):
    with programs(6, OPEN_AND_PUT, address) as started:
        for program in started:
            program.tell("go")
        ids = [program.hear() for program in started]
    same = {tuple(put[:10]) for put in ids}
    assert len(same) == 1, "the same key gave two jobs"
    assert len({id for put in ids for id in put}) == 10 + 6 * 10
    with opened(address) as database:
        assert database.read(versions).result() == [SCHEMA_VERSION]


@pytest.mark.parametrize("merged", [False, True], ids=["two rows a line", "one row a line"])
def test_a_database_of_schema_1_keeps_what_was_in_it(tmp_path, merged):
    path = tmp_path / "jobs.db"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript((ROOT / "tests" / "schema_1.sql").read_text())
        if merged:
            old.executescript(
                """ALTER TABLE people_line ADD COLUMN version BIGINT NOT NULL DEFAULT 7;
                   ALTER TABLE people_line ADD COLUMN body BLOB;
                   UPDATE people_line SET body = (SELECT body FROM people_checkpoint);
                   DROP TABLE people_checkpoint;"""
            )
    for _ in range(2):  # opening it again changes nothing more
        with opened(f"sqlite:///{path}") as database:
            book, line = Ledger(database), JobLine(database, "desk", cap=2)
            assert asyncio.run(book.recall("desk")) == Recalled(42, 3, 7, b"roster")
            assert asyncio.run(book.tombstone("desk", 5)) == Tombstone(5, "left", 100.0, "{}")
            (job,) = line.snapshot().result()
            assert (job.id, job.key, job.args) == (1, "7-1", {"fields": {"account": "knolan"}})
            assert (job.state, job.body, job.tries) == (JobState.READY, None, None)
            assert not line.put("look-up-phone", key="7-1").result().created
            assert database.read(versions).result() == [SCHEMA_VERSION]
    with opened(f"sqlite:///{tmp_path / 'fresh.db'}"):
        pass
    assert columns_of(path) == columns_of(tmp_path / "fresh.db")


def columns_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            table: {
                (name, kind.split("(")[0], bool(must))
                for _, name, kind, must, _, _ in connection.execute(f"PRAGMA table_info({table})")
            }
            for (table,) in tables.fetchall()
        }


@pytest.mark.parametrize(
    "address",
    ["mysql+pymysql://u:secret@127.0.0.1:1/db", "postgresql+psycopg://u:secret@127.0.0.1:1/db"],
)
def test_a_server_that_is_not_there_is_unavailable_without_repeating_the_password(address):
    with pytest.raises(Unavailable) as unavailable:
        Database(address)
    assert "secret" not in str(unavailable.value)


@pytest.mark.parametrize(
    "address, module, package",
    [
        ("mysql+pymysql://u:secret@host/db", "pymysql", "PyMySQL"),
        ("postgresql+psycopg://u:secret@host/db", "psycopg", "psycopg"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, address, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unsupported, match=f"pip install '{package}") as unsupported:
        open_engine(address, "FULL")
    assert "secret" not in str(unsupported.value)


def test_whoever_waits_for_the_tables_waits_until_they_are_committed(server):
    address = server.new_database()
    first, second = open_engine(address, "FULL"), open_engine(address, "FULL")
    with first.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE note (word VARCHAR(9))")
    seen = []

    def look():
        with second.begin() as connection, only_one_makes_tables(connection):
            seen.append(connection.execute(text("SELECT word FROM note")).scalars().all())

    looking = threading.Thread(target=look)
    with first.begin() as connection, only_one_makes_tables(connection):
        looking.start()
        looking.join(0.2)
        connection.execute(text("INSERT INTO note VALUES ('mine')"))
    looking.join()
    assert seen == [["mine"]]
    first.dispose()
    second.dispose()
    server.drop(address)


# Several processes

TEN_MILLISECONDS = """
import json, sys, time
from queue_backend.database import Database
from queue_backend.work.line import JobLine

address, name = sys.argv[1:]
database = Database(address)
line = JobLine(database, "desk", cap=2)
print(json.dumps("here"), flush=True)
sys.stdin.readline()
ran = []
while True:
    lease = line.reserve_blocking(name, wait_seconds=0.5)
    if lease is None:
        if line.join_blocking(0):
            break
        continue
    began = time.monotonic()
    time.sleep(0.01)
    ran.append((lease.job.id, began, time.monotonic()))
    line.ack(lease).result()
print(json.dumps(ran), flush=True)
database.close()
"""


def test_six_processes_never_run_three_at_once(address):
    with opened(address) as database:
        line = JobLine(database, "desk", cap=2)
        ids = [answer.result().id for answer in [line.put("short") for _ in range(200)]]
        with programs(6, TEN_MILLISECONDS, address) as started:
            for program in started:
                program.tell("go")
            ran = [run for program in started for run in program.hear()]
    assert sorted(id for id, _, _ in ran) == ids
    changes = sorted([(began, +1) for _, began, _ in ran] + [(end, -1) for _, _, end in ran])
    running = peak = 0
    for _, change in changes:
        running += change
        peak = max(peak, running)
    assert peak == 2
    # Only told: how long it may take is the bench's matter.
    ideal_seconds = sum(end - began for _, began, end in ran) / 2
    seconds = changes[-1][0] - changes[0][0]
    print(
        f"{address.split(':')[0]}: {seconds:.2f} s, {seconds / 1.0:.2f} of 1 s, "
        f"{seconds / ideal_seconds:.2f} of what the jobs took"
    )


DRAIN = """
import json, sys
from queue_backend.database import Database
from queue_backend.work.line import JobLine

address, name = sys.argv[1:]
database = Database(address)
print(json.dumps("here"), flush=True)
for word in sys.stdin:
    line = JobLine(database, word.strip(), cap=None)
    taken = []
    if word.startswith("ack"):
        while lease := line.claim(name).result():
            taken.append(lease.job.id)
            line.ack(lease).result()
    else:
        while job := line.take().result():
            taken.append(job.id)
    print(json.dumps(taken), flush=True)
database.close()
"""


def test_two_processes_drain_500_to_exactly_500(address):
    """By ack and without, ten times each; fewer on servers, where one is as good as ten."""
    rounds = 20 if address.startswith("sqlite") else 4
    with opened(address) as database, programs(2, DRAIN, address) as started:
        for number in range(rounds):
            word = f"{'ack' if number % 2 else 'take'}-{number}"
            line = JobLine(database, word, cap=None)
            ids = [answer.result().id for answer in [line.put("one") for _ in range(500)]]
            for program in started:
                program.tell(word)
            taken = [id for program in started for id in program.hear()]
            assert sorted(taken) == ids
            assert line.join_blocking(0)


@pytest.mark.usefixtures("database")
def test_a_whole_visit_with_jobs_and_ledger_on_a_server(serve, tables):
    room_of_lines = serve("--jobs", tables, settings=room())
    visitor = Visitor(room_of_lines, "Karen").go_to_the_desk()
    visitor.finish()
    wait_until("a result", 20, lambda: visitor.poll()["job"].get("result") == "done")
    room_of_lines.stop()
    room_of_lines.start()
    assert visitor.poll()["job"].get("result") == "done"


# What breaks


def breaking(server, address):
    """An act whose connection is broken by the administrator in the middle of it."""

    def act(connection):
        connection.execute(insert(lines).values(name="half", cap=1))
        number = connection.exec_driver_sql(server.which_connection).scalar_one()
        server.ask(server.end_connection.format(number))
        connection.execute(insert(lines).values(name="other half", cap=1))

    return act


def test_a_connection_broken_in_the_middle_is_unavailable_and_nothing_is_half_done(
    server, database, tables
):
    line = JobLine(database, "desk", cap=1)
    line.put("t", key="before").result()
    with pytest.raises(Unavailable):
        database.write(breaking(server, tables)).result()
    assert line.put("t", key="after").result().created
    assert database.read(names_of_lines).result() == ["desk"]


def test_a_connection_broken_at_the_commit_is_unavailable(server, database):
    line = JobLine(database, "desk", cap=1)
    line.put("t", key="before").result()

    def break_it(connection):
        event.remove(database._engine, "commit", break_it)
        number = connection.exec_driver_sql(server.which_connection).scalar_one()
        server.ask(server.end_connection.format(number))

    event.listen(database._engine, "commit", break_it)
    with pytest.raises(Unavailable):
        line.put("t", key="7-1").result()
    # Whether it is there was unknown: the key tells.
    assert line.put("t", key="7-1").result().created
    assert line.stats().result().ready == 2


def test_connections_broken_while_idle_cost_nobody_an_answer(server, database):
    line = JobLine(database, "desk", cap=1)
    job = line.put("t").result()
    number = database.read(
        lambda connection: connection.exec_driver_sql(server.which_connection).scalar_one()
    )
    number_of_writer = database.write(
        lambda connection: connection.exec_driver_sql(server.which_connection).scalar_one()
    )
    for each in {number.result(), number_of_writer.result()}:
        server.ask(server.end_connection.format(each))
    assert line.peek(job.id).result().id == job.id
    assert taken(line).job.id == job.id


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_went_away_and_came_back_has_what_was_answered(server, database, end):
    line = JobLine(database, "desk", cap=1)
    jobs = [line.put("t", key=str(number)).result() for number in range(5)]
    lease = taken(line)
    getattr(server, end)()
    try:
        for verb in (line.put("t"), line.peek(jobs[0].id), line.ack(lease), line.claim("other")):
            with pytest.raises(Unavailable):
                verb.result(30)
    finally:
        server.start()
    assert line.ack(lease).result().state is JobState.DONE
    assert [job.id for job in line.snapshot().result()] == [job.id for job in jobs[1:]]


def test_whoever_comes_second_with_the_first_job_of_a_line_waits_and_is_served(address):
    """Both found no row for the line; one of them has made it, and has not committed yet."""
    made, go_on = threading.Event(), threading.Event()

    def make_the_row(connection):
        connection.execute(insert(lines).values(name="desk", cap=1))
        made.set()
        go_on.wait(5)

    with opened(address) as first, opened(address) as second:
        making = first.write(make_the_row)
        made.wait(5)
        waiting = JobLine(second, "desk", cap=1).put("t")
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        go_on.set()
        making.result()
        assert waiting.result().created


def test_a_frozen_server_is_given_up_and_works_again(mariadb, monkeypatch):
    monkeypatch.setattr("queue_backend.engine.SILENCE_SECONDS", 1)
    address = mariadb.new_database()
    with opened(address) as database:
        line = JobLine(database, "desk", cap=1)
        line.put("t", key="before").result()
        mariadb.hold()
        try:
            with pytest.raises(Unavailable):
                line.put("t", key="meanwhile").result(15)
        finally:
            mariadb.go_on()
        assert line.put("t", key="after").result(15).created
    mariadb.drop(address)


def test_a_deadlock_between_two_lines_gates_is_run_again_and_not_shown(server, database, tables):
    """Two finish a job and put the next stage into the other's line: each holds what the other
    wants."""
    both_hold_one = threading.Barrier(2)
    runs = []

    def gates(first, second):
        def act(connection):
            runs.append(first)
            connection.execute(
                update(lines).where(lines.c.name == first).values(cap=lines.c.cap + 1)
            )
            if len(runs) <= 2:
                both_hold_one.wait(5)
            connection.execute(
                update(lines).where(lines.c.name == second).values(cap=lines.c.cap + 1)
            )
            return first

        return act

    for name in ("a", "b"):
        JobLine(database, name, cap=1).put("t").result()
    with opened(tables) as other:
        answers = database.write(gates("a", "b")), other.write(gates("b", "a"))
        assert [answer.result(30) for answer in answers] == ["a", "b"]
    assert len(runs) >= 3, "there was no deadlock"
    caps = database.read(lambda connection: connection.execute(select(lines.c.cap)).scalars().all())
    assert caps.result() == [3, 3]


def test_lines_that_put_into_each_other_from_two_sides_lose_and_double_nothing(address):
    """Claims and acks with the next stage, of four slots in two processes' databases: their
    transactions take the two gates in every order."""
    came: dict[str, list[int]] = {"a": [], "b": []}

    def work(database, mine, other, holder):
        line, next_line = JobLine(database, mine, cap=4), JobLine(database, other, cap=4)
        while not (line.join_blocking(0) and next_line.join_blocking(0)):
            lease = line.claim(holder).result()
            if lease is None:
                continue
            number, left = json.loads(lease.job.body or b"")
            came[mine].append(number)
            then = Put("t", body=json.dumps([number, left - 1]).encode(), line=other)
            line.ack(lease, then=[then] if left else []).result()

    with opened(address) as first, opened(address) as second:
        for name, start in (("a", 0), ("b", 100)):
            line = JobLine(first, name, cap=4)
            for number in range(start, start + 20):
                line.put("t", body=json.dumps([number, 3]).encode()).result()
        with ThreadPoolExecutor(8) as slots:
            working = [
                slots.submit(work, database, mine, other, f"{mine}-{number}")
                for number, database in enumerate((first, second))
                for mine, other in (("a", "b"), ("b", "a"))
                for _ in range(2)
            ]
            for slot in working:
                slot.result(60)
    everyone = [*range(20), *range(100, 120)]
    assert sorted(came["a"]) == sorted(came["b"]) == sorted(everyone * 2)


def test_whoever_waits_too_long_for_a_lock_is_run_again(address, monkeypatch):
    monkeypatch.setattr("queue_backend.engine.LOCK_SECONDS", 1)
    held, go_on = threading.Event(), threading.Event()

    def hold_the_gate(connection):
        connection.execute(update(lines).where(lines.c.name == "desk").values(cap=1))
        held.set()
        go_on.wait(10)

    with opened(address) as first, opened(address) as second:
        JobLine(first, "desk", cap=1).put("t").result()
        holding = first.write(hold_the_gate)
        held.wait(5)
        waiting = JobLine(second, "desk", cap=1).put("t")
        with pytest.raises(TimeoutError):
            waiting.result(1.3)
        go_on.set()
        holding.result()
        assert waiting.result(5).created


def test_only_what_passes_by_itself_is_run_again(server, database):
    ran = []

    def act(connection):
        ran.append(1)
        connection.execute(text("SELECT nonsense"))

    with pytest.raises(Unavailable):
        database.write(act).result()
    assert len(ran) == 1


def test_a_busy_file_passes_by_itself_and_a_broken_one_does_not():
    busy, broken = sqlite3.OperationalError("locked"), sqlite3.OperationalError("I/O")
    busy.sqlite_errorcode, broken.sqlite_errorcode = sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR
    assert passes_by_itself(OperationalError("", None, busy))
    assert not passes_by_itself(OperationalError("", None, broken))
