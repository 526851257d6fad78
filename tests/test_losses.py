"""What is lost, and what is not: drills on real processes, under visitors who go on polling.

memcached, the web processes, their checkpoint are killed, stopped and deleted; afterwards the
history of every visitor is held against the promises. `serve` stands here as its operator
starts it, but for times that a test can wait for.
"""

import asyncio
import os
import random
import secrets
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from tornado.httpclient import AsyncHTTPClient

from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.ledger import Ledger
from queue_backend.people.line import WaitingLine
from queue_backend.people.memory import MemoryStore
from queue_backend.people.rules import Rules
from tests.crowd import Crowd, Pace, Visitor, Wire
from tests.history import Bounds, History, check, read_history, read_jobs
from tests.processes import Memcached, Serving

PEOPLE = 300
PASSWORD = "a password for the drill"
FREEZE_SECONDS = 6
LEAD_SECONDS = 5  # what `marshal.py` gives its lock

SETTINGS = f"""
[operators]
ines = "{PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)}"

[lines.desk]
places = 2
freeze_seconds = {FREEZE_SECONDS}
demo = {{ shortest_seconds = 0.1, longest_seconds = 0.2 }}
"""
# They ask each 2 s; at the desk they take their time, so that there are always some waiting.
PACE = Pace(far=2, near=1, near_ahead=6, ready=0.3, at_the_desk=(0.5, 1.0))


class Drill:
    """A crowd in line at a house that is about to lose something."""

    def __init__(self, crowd: Crowd, server: Serving, store: Memcached) -> None:
        self.crowd = crowd
        self.server = server
        self.store = store
        self.outages: list[tuple[float, float]] = []
        self.absent = crowd.stranger("the absent")

    @property
    def history(self) -> History:
        return self.crowd.history

    async def next_call(self, back: float, within: float = 10) -> float:
        """Seconds from `back` to the next call."""
        seconds = await self.crowd.called_since(back, within) - back
        print(f"the next call came {seconds:.1f} s after")
        return seconds

    async def fill(self, people: int) -> None:
        for _ in range(people):
            self.crowd.send(delay=random.uniform(0, 2))
        await self.crowd.until(
            "everybody to have a number",
            20,
            lambda: all(has_number(visitor) for visitor in self.crowd.visitors),
        )
        # The last number is held by somebody whose browser is closed over all that follows.
        self.absent = self.crowd.stranger("the absent")
        await self.absent.take()
        self.absent.go_away()
        await self.crowd.called_since(self.history.now(), 10)

    def numbers(self) -> dict[str, int]:
        return {
            visitor.who: visitor.last.number
            for visitor in self.crowd.visitors
            if visitor.last.number is not None
        }

    async def break_off(self, what: str, act: Callable[[], None], seconds_after: float) -> float:
        """Does something terrible; the time when it was over. `seconds_after` it the house
        must be as quick as ever."""
        began = self.history.mark(what)
        await asyncio.to_thread(act)
        back = self.history.mark("back")
        self.outages.append((began, back + seconds_after))
        return back

    def violations(self) -> list[str]:
        bounds = Bounds(outages=tuple(self.outages))
        return [str(each) for each in check(read_history(self.history.path), None, bounds)]


@asynccontextmanager
async def drill(
    directory: Path, store: Memcached, server: Serving, people: int = PEOPLE
) -> AsyncIterator[Drill]:
    history = History(directory / "history.jsonl")
    try:
        async with Crowd(server.url, history, PACE, random.Random()) as crowd:
            about = Drill(crowd, server, store)
            await about.fill(people)
            yield about
    finally:
        history.close()


@pytest.fixture
def own_memcached(tmp_path: Path):
    """One that may be killed."""
    with Memcached(tmp_path / "memcached") as store:
        yield store


def kill_with_children(server: Serving) -> None:
    """kill -9 of the one who minds and of every web process, all at once."""
    children = children_of(server)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    server.kill()


def children_of(server: Serving) -> list[int]:
    tasks = Path(f"/proc/{server.pid}/task")
    return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


def has_number(visitor: Visitor) -> bool:
    return visitor.last.number is not None


async def everybody_is_back(about: Drill, before: dict[str, int], since: float) -> None:
    """All are told where they stand, at the number they had; whoever comes now has one that
    nobody had, also not the one who was absent."""
    await about.crowd.heard_since(since, 15)
    after = about.numbers()
    assert {who: after[who] for who in before} == before
    last = about.absent.last.number or 0
    assert last > max(before.values())
    newcomer = about.crowd.send()
    await about.crowd.until("a new number", 5, partial(has_number, newcomer))
    assert (newcomer.last.number or 0) > last
    assert await about.absent.poll()
    about.absent.go_away()
    assert (about.absent.last.number, about.absent.last.state) == (last, "waiting")


# memcached is lost


async def test_memcached_killed_under_300_polling_visitors(
    serve, own_memcached: Memcached, tmp_path: Path
):
    """The processes live: all are back at once, and the next call follows within 3 s."""
    server = serve("--processes", "2", "--store", own_memcached.url, settings=SETTINGS)
    async with drill(tmp_path, own_memcached, server) as about:
        before = about.numbers()

        def kill_and_start() -> None:
            own_memcached.kill()
            time.sleep(1)
            own_memcached.start()

        back = await about.break_off("memcached killed", kill_and_start, 3)
        called = await about.next_call(back)
        await everybody_is_back(about, before, back)
        await asyncio.sleep(2)
    assert called <= 3
    assert about.violations() == []
    assert not any(call.told and call.told.frozen for call in about.history.calls)


async def test_memcached_flushed_again_and_again_while_people_join(
    serve, own_memcached: Memcached, tmp_path: Path
):
    """The connections stay and everything is gone: read as absent and made anew, and no number
    that was told is told again."""
    server = serve("--processes", "2", "--store", own_memcached.url, settings=SETTINGS)
    async with drill(tmp_path, own_memcached, server, people=50) as about:
        before = about.numbers()
        newcomers = [about.crowd.send(delay=random.uniform(0, 4)) for _ in range(300)]

        def flush_often() -> None:
            for _ in range(25):
                time.sleep(random.uniform(0.05, 0.25))
                own_memcached.flush()

        back = await about.break_off("memcached flushed", flush_often, 3)
        assert await about.next_call(back) <= 3
        await about.crowd.until("all to join", 10, lambda: all(map(has_number, newcomers)))
        await everybody_is_back(about, before, back)
    assert about.violations() == []


async def test_a_number_taken_while_the_roster_is_lost_is_given_to_one(tmp_path: Path):
    """Once, the loss fell between the `cas` and the ledger: another process made the roster
    anew, from a high-water mark without the number, and two browsers held it."""
    database = Database(f"sqlite:///{tmp_path / 'line.db'}")
    clock = SystemClock()
    store = MemoryStore(clock)
    slow = SlowLedger(database)
    lines = [
        WaitingLine(
            "desk",
            rules=Rules(),
            services=["look-up-phone"],
            store=store,
            ledger=ledger,
            clock=clock,
            new_id=lambda: secrets.token_hex(16),
            process=f"process-{at}",
        )
        for at, ledger in enumerate([slow, Ledger(database)])
    ]
    for line in lines:
        await line.refresh()
    slow.goes_on.clear()
    taking = asyncio.create_task(lines[0].take("Ann", "look-up-phone", "request-of-ann"))
    await asyncio.wait_for(slow.asked.wait(), 5)
    store.close()  # forgets everything, as a restart does
    bob = await lines[1].take("Bob", "look-up-phone", "request-of-bob")
    slow.goes_on.set()
    ann = await taking
    assert ann.number > bob.number
    database.close()


class SlowLedger(Ledger):
    """Writes when it is told to; a disk may take its time."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked, self.goes_on = asyncio.Event(), asyncio.Event()
        self.goes_on.set()

    async def record(self, line: str, **what: Any) -> None:
        self.asked.set()
        await self.goes_on.wait()
        await super().record(line, **what)


# Everything is lost


async def test_memcached_and_every_process_killed_and_started_again(
    serve, own_memcached: Memcached, tmp_path: Path
):
    """The checkpoint in the ledger is left: all are at their numbers, nobody waits for a freeze."""
    server = serve("--processes", "2", "--store", own_memcached.url, settings=SETTINGS)
    async with drill(tmp_path, own_memcached, server) as about:
        before = about.numbers()

        def kill_all_and_start() -> None:
            own_memcached.kill()
            kill_with_children(server)
            own_memcached.start()
            server.start()

        back = await about.break_off("all killed", kill_all_and_start, 3)
        called = await about.next_call(back)
        await everybody_is_back(about, before, back)
        await asyncio.sleep(2)
    assert called <= 3
    assert about.violations() == []


async def test_everything_lost_but_the_browsers_tickets(
    serve, own_memcached: Memcached, tmp_path: Path
):
    """Not even a checkpoint: the line freezes, all come back in their order from their tickets,
    nobody is called meanwhile, and the next call follows."""
    server = serve("--processes", "2", "--store", own_memcached.url, settings=SETTINGS)
    async with drill(tmp_path, own_memcached, server) as about:
        before = about.numbers()

        def kill_all_and_forget() -> None:
            own_memcached.kill()
            kill_with_children(server)
            forget_checkpoint(server)
            own_memcached.start()
            server.start()

        back = await about.break_off("all lost", kill_all_and_forget, FREEZE_SECONDS + 3)
        waiting = [visitor for visitor in about.crowd.living if visitor.last.state == "waiting"]
        heard = await about.crowd.heard_since(back, FREEZE_SECONDS) - back
        print(f"all were back in line {heard:.1f} s after")
        frozen_then = about.crowd.wall.last.frozen
        called = await about.next_call(back, FREEZE_SECONDS + 10)
        await everybody_is_back(about, before, back)
        await asyncio.sleep(2)

    assert frozen_then and heard < FREEZE_SECONDS
    assert len(waiting) > PEOPLE * 2 / 3
    # The freeze is over when a marshal watched for so long; whoever was at the desk went on.
    calls = read_history(about.history.path)
    frozen = [call for call in calls if call.told is not None and call.told.frozen]
    assert frozen and not any(call.told and call.told.called for call in frozen)
    assert called <= FREEZE_SECONDS + 3
    assert about.violations() == []


def forget_checkpoint(server: Serving) -> None:
    """The body is gone; the high-water mark stays."""
    with closing(sqlite3.connect(database_of(server))) as connection:
        connection.execute("UPDATE people_line SET body = NULL")
        connection.commit()


def database_of(server: Serving) -> Path:
    return server.directory / "data" / "now-serving.db"


# The embedded default


@pytest.mark.parametrize("ending", ["kill -9", "SIGTERM"])
async def test_restart_of_the_embedded_default_keeps_the_line(serve, tmp_path: Path, ending: str):
    server = serve(settings=SETTINGS)
    async with drill(tmp_path, Memcached(tmp_path), server, people=60) as about:
        before = about.numbers()

        def restart() -> None:
            if ending == "SIGTERM":
                assert server.stop() == 0
            else:
                server.kill()
            server.start()

        back = await about.break_off(ending, restart, 3)
        called = await about.next_call(back)
        await everybody_is_back(about, before, back)
        await asyncio.sleep(2)
    assert called <= 3
    assert about.violations() == []
    jobs = read_jobs(database_of(server))
    assert len({job.key for job in jobs}) == len(jobs)


# memcached does not answer


async def test_memcached_stopped_for_two_seconds(serve, own_memcached: Memcached, tmp_path: Path):
    """Polls are answered from what the process holds, other pages do not wait, and a join works
    within a second of the end."""
    server = serve("--store", own_memcached.url, settings=SETTINGS)
    async with drill(tmp_path, own_memcached, server) as about:
        stalls: list[float] = []
        for _ in range(3):  # another tenant of the machine may take 100 ms as well
            with Prober(server.port) as prober:
                await asyncio.sleep(0.5)
                held = about.history.mark("memcached stopped")
                own_memcached.hold()
                await asyncio.sleep(2)
                own_memcached.go_on()
                went_on = about.history.mark("memcached goes on")
            about.outages.append((held, went_on + 3))
            stalls.append(prober.longest_seconds)
            joined = await until_joined(about)
            await asyncio.sleep(1.5)
            if stalls[-1] <= 0.1 and joined - went_on <= 1:
                break
        await about.crowd.heard_since(went_on, 10)
    print(f"longest answer of /healthz: {', '.join(f'{each * 1000:.0f} ms' for each in stalls)}")
    assert stalls[-1] <= 0.1
    assert joined - went_on <= 1
    polls = [
        call
        for call in about.history.calls
        if call.verb == "poll"
        and any(call.began < until - 3 and call.ended > at for at, until in about.outages)
    ]
    assert len(polls) > 100 and {call.outcome for call in polls} == {"ok"}
    assert about.violations() == []


async def until_joined(about: Drill) -> float:
    late = about.crowd.send()
    await about.crowd.until("a new number", 5, partial(has_number, late))
    return late.heard_at


class Prober:
    """Asks for /healthz each 10 ms from a thread of its own: the longest answer is the longest
    that the event loop did nothing else."""

    def __init__(self, port: int) -> None:
        self.longest_seconds = 0.0
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._probe)

    def __enter__(self) -> "Prober":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _probe(self) -> None:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=5)) as connection:
            while not self._over.wait(0.01):
                began = time.monotonic()
                connection.request("GET", "/healthz")
                connection.getresponse().read()
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)


# Marshals


class Desk:
    """The operator's view, signed in."""

    def __init__(self, url: str) -> None:
        self._wire = Wire(url)
        self._url = url
        self._cookie = ""

    async def sign_in(self) -> None:
        answer = await AsyncHTTPClient().fetch(
            f"{self._url}/admin/sign-in",
            method="POST",
            body=f"name=ines&password={PASSWORD.replace(' ', '+')}",
            follow_redirects=False,
            raise_error=False,
        )
        assert answer.code == 303, answer.body
        self._cookie = answer.headers["Set-Cookie"].partition(";")[0]

    async def overview(self):
        answer = await self._wire.ask(
            "GET", "/api/admin/lines/desk", headers={"Cookie": self._cookie}
        )
        assert answer.status == 200, answer.body
        return answer.body

    async def marshal(self) -> str:
        return str((await self.overview())["marshal"])

    async def a_marshal(self, other_than: str = "", seconds: float = 15) -> str:
        deadline = time.monotonic() + seconds
        name = ""
        while name in ("", other_than):
            assert time.monotonic() < deadline, f"no marshal but {name!r} within {seconds:g} s"
            await asyncio.sleep(0.05)
            name = await self.marshal()
        return name

    def close(self) -> None:
        self._wire.close()


def pid_of(process: str) -> int:
    """A process names itself host-pid-random."""
    return int(process.split("-")[-2])


async def test_a_killed_marshals_work_is_taken_over(
    serve, own_memcached: Memcached, tmp_path: Path
):
    """L3: within the lock's TTL and a second, by a process that lived on."""
    server = serve("--store", own_memcached.url, settings=SETTINGS, start=False)
    shared = {"NOWSERVING_DATA_DIRECTORY": str(tmp_path / "data")}
    server.environment = shared
    other = serve("--store", own_memcached.url, settings=SETTINGS, environment=shared, start=False)
    server.start()
    other.start()
    desks = {server.pid: Desk(other.url), other.pid: Desk(server.url)}  # each asks the other one
    for desk in desks.values():
        await desk.sign_in()
    marshal = await desks[server.pid].a_marshal()
    assert pid_of(marshal) in desks
    survivor = desks[pid_of(marshal)]

    os.kill(pid_of(marshal), signal.SIGKILL)
    killed = time.monotonic()
    successor = await survivor.a_marshal(other_than=marshal)
    took_over = time.monotonic() - killed

    print(f"another was marshal after {took_over:.1f} s")
    assert pid_of(successor) in desks
    assert took_over <= LEAD_SECONDS + 1.2  # the question itself is asked each 50 ms
    history = History(tmp_path / "history.jsonl")
    living = server if server.running else other
    async with Crowd(living.url, history, PACE, random.Random()) as crowd:
        visitor = crowd.send()
        await crowd.until("a call", 5, lambda: visitor.last.state in ("called", "serving"))
    history.close()
    for desk in desks.values():
        desk.close()


async def test_two_serve_processes_on_one_memcached_are_one_line(
    serve, own_memcached: Memcached, tmp_path: Path
):
    """Numbers, order, places and the marshal are one, whichever door one comes through."""
    shared = {"NOWSERVING_DATA_DIRECTORY": str(tmp_path / "data")}
    servers = [
        serve("--store", own_memcached.url, settings=SETTINGS, environment=shared) for _ in range(2)
    ]
    history = History(tmp_path / "history.jsonl")
    async with (
        Crowd(servers[0].url, history, PACE, random.Random()) as one,
        Crowd(servers[1].url, history, PACE, random.Random()) as other,
    ):
        for number in range(30):
            visitor = (one, other)[number % 2].send()
            visitor.who = f"{number} at door {number % 2}"
            await one.until("a number", 5, partial(has_number, visitor))
            assert visitor.last.number == number + 1
        desks = [Desk(server.url) for server in servers]
        for desk in desks:
            await desk.sign_in()
        marshals = {await desk.a_marshal() for desk in desks}
        await asyncio.sleep(5)
        views = [await desk.overview() for desk in desks]
        served = sum(visitor.last.state == "done" for visitor in [*one.visitors, *other.visitors])
    for desk in desks:
        desk.close()
    history.close()
    assert len(marshals) == 1
    assert served >= 2
    assert abs(views[0]["line"]["waiting"] - views[1]["line"]["waiting"]) <= 2
    violations = check(read_history(history.path), read_jobs(tmp_path / "data" / "now-serving.db"))
    assert [str(each) for each in violations] == []
