"""Turns: a lock and a semaphore over threads, processes and event loops."""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from queue_backend.database import Database
from queue_backend.errors import LeaseLost
from queue_backend.work.line import JobLine
from queue_backend.work.turn import Turn


@pytest.fixture
def path(tmp_path):
    return tmp_path / "turns.db"


@pytest.fixture
def database(path):
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.close()


def most_at_once(line, threads):
    """How many of `threads` were inside at the same time, each once."""
    inside, most, counting = 0, 0, threading.Lock()

    def go_in(_):
        nonlocal inside, most
        with Turn(line, timeout_seconds=20):
            with counting:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with counting:
                inside -= 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(go_in, range(threads)))
    return most


@pytest.mark.parametrize("cap", [1, 3])
def test_as_many_as_the_cap_are_inside_at_once(database, cap):
    assert most_at_once(JobLine(database, "door", cap=cap), 12) == cap


def test_who_asked_first_is_next(database):
    line = JobLine(database, "door", cap=1)
    order = []

    def go_in(name):
        with Turn(line):
            order.append(name)

    with Turn(line):
        waiting = []
        for name in "abc":
            waiting.append(threading.Thread(target=go_in, args=name))
            waiting[-1].start()
            while line.stats().result().ready < len(waiting):
                time.sleep(0.01)
    for each in waiting:
        each.join()
    assert order == ["a", "b", "c"]


def test_a_turn_that_does_not_come_in_time_is_given_up(database):
    line = JobLine(database, "door", cap=1)
    with Turn(line):
        with pytest.raises(TimeoutError), Turn(line, timeout_seconds=0.05):
            raise AssertionError("two were inside")
    assert line.join_blocking(5), "who gave up still stands in line"


async def test_a_turn_on_an_event_loop(database):
    line = JobLine(database, "door", cap=1)
    inside, most = 0, 0

    async def go_in():
        nonlocal inside, most
        async with Turn(line, timeout_seconds=20):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(go_in() for _ in range(8)))
    assert most == 1
    async with Turn(line):
        with pytest.raises(TimeoutError):
            async with Turn(line, timeout_seconds=0.05):
                raise AssertionError("two were inside")


def test_a_later_turn_has_a_later_number(database):
    line = JobLine(database, "door", cap=1)
    with Turn(line) as first:
        pass
    with Turn(line) as second:
        pass
    assert second.job.id > first.job.id


def test_a_long_turn_is_renewed(database):
    line = JobLine(database, "door", cap=1, lease_seconds=0.3, grace_seconds=0.1)
    with Turn(line):
        time.sleep(1)
        assert line.claim("somebody").result() is None


def test_who_waits_long_keeps_the_place(database):
    line = JobLine(database, "door", cap=1, lease_seconds=0.3, grace_seconds=0.1)
    order = []

    def go_in(name):
        with Turn(line):
            order.append(name)

    with Turn(line):
        first = threading.Thread(target=go_in, args="a")
        first.start()
        while line.stats().result().ready < 1:
            time.sleep(0.01)
        time.sleep(0.9)
        second = threading.Thread(target=go_in, args="b")
        second.start()
        while line.stats().result().ready < 2:
            time.sleep(0.01)
    first.join()
    second.join()
    assert order == ["a", "b"]


def test_a_turn_that_was_lost_says_so_at_its_end(database):
    line = JobLine(database, "door", cap=1, lease_seconds=0.2, grace_seconds=0)
    with pytest.raises(LeaseLost):
        with Turn(line) as lease:
            line.bury(lease, "taken away by an operator").result()


HOLD = """
import sys
from queue_backend.database import Database
from queue_backend.work.line import JobLine
from queue_backend.work.turn import Turn
database = Database("sqlite:///" + sys.argv[1])
line = JobLine(database, "door", cap=1, lease_seconds=0.5, grace_seconds=0.2)
with Turn(line):
    print("inside", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("waits", [False, True])
def test_nobody_waits_behind_the_dead(database, path, waits):
    """kill -9 of the one who has the turn, and of one who waits for it."""
    line = JobLine(database, "door", cap=1, lease_seconds=0.5, grace_seconds=0.2)

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    with start() as holder:
        assert holder.stdout.readline() == b"inside\n"
        if waits:
            with start() as waiter:
                while line.stats().result().ready < 1:
                    time.sleep(0.01)
                waiter.kill()
        holder.kill()
    with Turn(line, timeout_seconds=10):
        pass
