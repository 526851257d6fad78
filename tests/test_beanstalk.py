"""The line in a beanstalkd: what it promises, against a real one, and what it refuses to.

Each test has a line (a tube) of its own. Leases are of whole seconds, because beanstalkd's are.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import greenstalk
import pytest
from click.testing import CliRunner

import app
from queue_backend.clock import SystemClock
from queue_backend.errors import (
    BadInput,
    LeaseLost,
    LineFull,
    NotFound,
    Unavailable,
    Unsupported,
    WrongState,
)
from queue_backend.work import beanstalk
from queue_backend.work.beanstalk import CANNOT, open_line
from queue_backend.work.job import NO_CAP, JobState, JobStats, Put
from queue_backend.work.worker import Line, Worker
from tests.conftest import must_be_installed
from tests.processes import ROOT, Beanstalkd, Process, ended_together, free_port, wait_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One beanstalkd for the tests that do it no harm."""
    must_be_installed(Beanstalkd.installed(), "beanstalkd")
    with Beanstalkd(tmp_path_factory.mktemp("beanstalkd")) as server:
        yield server


@pytest.fixture
def own(tmp_path):
    """A beanstalkd for one test, which may stop and kill it."""
    must_be_installed(Beanstalkd.installed(), "beanstalkd")
    with Beanstalkd(tmp_path / "beanstalkd") as server:
        yield server


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def opened(request):
    """Opens a line; several of the same test have the same name, as if in several processes."""
    with contextlib.ExitStack() as to_close:

        def open_one(server, **rules):
            name = f"line-{abs(hash(request.node.nodeid))}"
            rules = {"lease_seconds": 30, "grace_seconds": 0, "tries": 3, **rules}
            line = open_line(server.url, name, **rules)
            to_close.callback(line.close)
            return line

        yield open_one


@pytest.fixture
def line(shared, opened):
    return opened(shared)


@pytest.fixture
def raw(shared, line):
    """Another program, in another language perhaps, at the same tube."""
    address = ("127.0.0.1", shared.port)
    with greenstalk.Client(address, encoding=None, use=line.name, watch=line.name) as client:
        yield client


def put(line, number=1, **how):
    return line.put("ad", {"number": number}, **how).result()


def reserved(line, holder="w/1", wait_seconds=0):
    lease = line.reserve_blocking(holder, wait_seconds)
    assert lease is not None, "nothing to reserve"
    return lease


def numbers(line):
    """What is ready, in its order; all of it is done afterwards."""
    found = []
    while (lease := line.claim("w").result()) is not None:
        found.append(lease.job.args["number"])
        line.ack(lease).result()
    return found


# What it refuses, when it is opened


@pytest.mark.parametrize("need", CANNOT)
def test_what_it_cannot_promise_is_refused_in_a_sentence(shared, need):
    with pytest.raises(Unsupported, match="^beanstalkd .* A database can: sqlite:///FILE"):
        open_line(shared.url, "ads", needs=[need])


def test_all_that_it_cannot_promise_is_said_at_once(shared):
    with pytest.raises(Unsupported) as refused:
        open_line(shared.url, "ads", needs=["cap", "key", "once"])
    assert "counts no running jobs" in str(refused.value)
    assert str(refused.value).count("keeps no keys") == 1


@pytest.mark.parametrize(
    "rule", [{"cap": 2}, {"depth": 10_000}, {"keep_seconds": 60}, {"order": "lifo"}]
)
def test_a_rule_that_it_cannot_keep_is_refused(shared, rule):
    with pytest.raises(Unsupported):
        open_line(shared.url, "ads", **rule)


def test_a_server_that_keeps_nothing_is_refused(tmp_path):
    must_be_installed(Beanstalkd.installed(), "beanstalkd")
    with Beanstalkd(tmp_path, durable=False) as forgetful:
        with pytest.raises(Unsupported, match="started with -b DIRECTORY"):
            open_line(forgetful.url, "ads")
        line = open_line(f"{forgetful.url}?durable=no", "ads")
        assert put(line).created
        line.close()


def test_a_server_that_is_away_is_told_in_words():
    with pytest.raises(Unavailable, match="beanstalkd at 127.0.0.1: .*refused"):
        open_line(f"beanstalk://127.0.0.1:{free_port()}", "ads")


@pytest.mark.parametrize(
    "url",
    [
        "beanstalk://",
        "beanstalk:127.0.0.1",
        "beanstalk://127.0.0.1:none",
        "beanstalk://127.0.0.1:99999",
        "beanstalk://me@127.0.0.1:11300",
        "beanstalk://127.0.0.1/ads",
        "beanstalk://127.0.0.1?durable=perhaps",
        "beanstalk://127.0.0.1?cap=2",
        "beanstalk://127.0.0.1?cap",
    ],
)
def test_an_address_that_does_not_read_is_refused(url):
    with pytest.raises(Unsupported, match="beanstalkd is named as beanstalk://HOST:PORT"):
        open_line(url, "ads")


@pytest.mark.parametrize("name", ["", "-ads", "two words", "行", "a" * 201])
def test_a_name_that_it_does_not_take_is_refused(name):
    with pytest.raises(Unsupported, match="no line with the name"):
        open_line("beanstalk://127.0.0.1", name)


def test_without_its_package_it_says_which(monkeypatch):
    monkeypatch.setattr(beanstalk, "greenstalk", None)
    with pytest.raises(Unsupported, match="by the package greenstalk: install it"):
        open_line("beanstalk://127.0.0.1", "ads")


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_waiting_room_does_not_open_on_it(command, tmp_path, monkeypatch):
    monkeypatch.setenv("NOWSERVING_DATA_DIRECTORY", str(tmp_path / "data"))
    asked = [command, "--jobs", "beanstalk://127.0.0.1:11300"]
    asked += ["--port", "0"] if command == "serve" else []
    ended = CliRunner().invoke(app.main, asked)
    assert ended.exit_code == app.CANNOT_START
    assert "cannot start: jobs: a beanstalkd can keep the jobs of tasks" in ended.stderr


# What it refuses, of a program that did not say what it needs


@pytest.mark.parametrize("how", [{"key": "7"}, {"ttl_seconds": 60}, {"once": True}])
def test_nothing_is_put_without_what_was_asked_for(line, how):
    with pytest.raises(Unsupported):
        put(line, **how)
    assert line.stats().result().ready == 0


def test_a_next_stage_is_refused_before_anything_is_acknowledged(line):
    put(line)
    lease = reserved(line)
    with pytest.raises(Unsupported, match="next stage in one step"):
        line.ack(lease, then=[Put("next")])
    assert line.touch(lease).result().job.state is JobState.RESERVED


# The verbs


def test_it_has_the_verbs_that_a_worker_asks_for(line):
    jobs: Line = line  # the type checker reads this, too
    assert jobs.name == line.name


def test_what_was_put_is_reserved_once_and_done(line):
    job = put(line, 7)
    assert (job.state, job.created, job.args) == (JobState.READY, True, {"number": 7})
    lease = reserved(line)
    assert (lease.job.id, lease.job.task, lease.job.args) == (job.id, "ad", {"number": 7})
    assert (lease.job.holder, lease.job.attempt, lease.job.fails) == ("w/1", 1, 0)
    assert line.claim("w/2").result() is None
    done = line.ack(lease, {"sent": 1}).result()
    assert (done.state, done.result) == (JobState.DONE, {"sent": 1})
    with pytest.raises(NotFound):
        line.peek(job.id).result()
    with pytest.raises(LeaseLost):
        line.ack(lease).result()


@pytest.mark.parametrize("body", [b"", b"\n", b'{"task": "x"}\r\n\x00\xff'])
def test_bodies_are_bytes(line, body):
    line.put("raw", body=body).result()
    assert reserved(line).job.body == body


def test_the_smaller_pri_goes_first_then_the_older(line):
    for number, pri in enumerate([1000, 5, 1000, 4_294_967_295, 0]):
        put(line, number, pri=pri)
    assert numbers(line) == [4, 1, 0, 2, 3]


@pytest.mark.parametrize("pri", [-1, 2**32])
def test_a_pri_that_it_does_not_know_is_refused(line, pri):
    with pytest.raises(BadInput):
        put(line, pri=pri)


def test_a_delayed_job_waits_for_its_time(line):
    job = put(line, delay_seconds=0.5)
    assert job.state is JobState.DELAYED
    assert line.peek(job.id).result().state is JobState.DELAYED
    assert line.claim("w").result() is None
    assert reserved(line, wait_seconds=3).job.id == job.id


def test_several_that_drain_it_get_each_job_once(shared, opened):
    lines = [opened(shared) for _ in range(2)]
    for number in range(500):
        put(lines[0], number)
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(numbers, lines * 4)]
    assert sorted(number for each in found for number in each) == list(range(500))
    assert lines[0].stats().result() == JobStats(0, 0, 0, 0, NO_CAP, None, ())


async def test_a_put_wakes_who_waits_at_once_and_no_loop_is_held_up(shared, opened):
    here, there = opened(shared), opened(shared)
    waiting = asyncio.create_task(here.reserve("w/1", 20))
    turns = 0
    for _ in range(20):
        await asyncio.sleep(0.01)
        turns += 1
    assert turns == 20 and not waiting.done()
    put_at = time.monotonic()
    job = await there.put("ad")
    lease = await waiting
    assert lease is not None and lease.job.id == job.id
    assert time.monotonic() - put_at < 1


def test_one_may_wait_longer_than_is_asked_of_the_server_at_once(shared, opened, monkeypatch):
    monkeypatch.setattr(beanstalk, "LONGEST_WAIT_SECONDS", 1)
    line = opened(shared)
    put(line, delay_seconds=2)
    assert line.reserve_blocking("w", float("inf")) is not None


def test_several_jobs_may_be_in_the_hands_of_one_holder(line):
    for number in range(3):
        put(line, number)
    leases = [reserved(line) for _ in range(3)]
    for lease in reversed(leases):
        line.touch(lease).result()
        line.ack(lease).result()
    assert line.stats().result() == JobStats(0, 0, 0, 0, NO_CAP, None, ())


async def test_whoever_gives_up_waiting_holds_nothing(shared, opened):
    line, other = opened(shared), opened(shared)
    waiting = asyncio.create_task(line.reserve("w/1", 20))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await other.put("ad")
    lease = await other.reserve("w/2", 2)
    assert lease is not None and lease.job.attempt <= 2


def test_a_heartbeat_holds_a_job_beyond_its_time(shared, opened):
    line, other = opened(shared, lease_seconds=1), opened(shared)
    put(line)
    lease = reserved(line)
    until = time.monotonic() + 2.2
    while time.monotonic() < until:
        time.sleep(0.2)
        lease = line.touch(lease, "running").result()
        assert lease.deadline > time.monotonic()
        assert other.claim("w/2").result() is None
    assert lease.job.step == "running"
    line.ack(lease).result()


def test_the_job_of_a_silent_holder_is_back_when_its_lease_and_grace_are_over(shared, opened):
    line, other = opened(shared, lease_seconds=1, grace_seconds=1), opened(shared)
    put(line)
    lease = reserved(line)
    assert 0 < lease.deadline - time.monotonic() <= 1
    # It is 20 s that are waited for, and it must not take them: every time, stuck timer or not.
    again = reserved(other, "w/2", 20)
    assert 1.5 < time.monotonic() - lease.deadline + 1 < 3.5
    assert (again.job.id, again.job.attempt, again.job.fails) == (lease.job.id, 2, 1)
    for say in (line.touch, line.ack, line.release, lambda lease: line.bury(lease, "late")):
        with pytest.raises(LeaseLost):
            say(lease).result()
    assert other.ack(again).result().state is JobState.DONE


def test_a_lease_may_be_shorter_and_not_longer_than_the_time_in_the_job(shared, opened):
    line, longer = opened(shared, lease_seconds=2), opened(shared, lease_seconds=60)
    put(line)
    lease = longer.claim("w").result()
    assert lease is not None and lease.deadline - time.monotonic() <= 2
    lease = longer.touch(lease, lease_seconds=1).result()
    assert lease.deadline - time.monotonic() <= 1


def test_who_gives_back_politely_is_not_counted_and_keeps_the_place(line):
    for number in range(2):
        put(line, number)
    for _ in range(5):
        lease = reserved(line)
        assert (lease.job.args["number"], lease.job.fails) == (0, 0)
        assert line.release(lease).result().state is JobState.READY
    assert numbers(line) == [0, 1]


def test_a_fail_waits_for_the_back_off_and_the_last_one_buries(shared, opened, caplog):
    line = opened(shared, tries=2, backoff_seconds=1)
    job = put(line)
    after = line.release(reserved(line), error="HTTP 503").result()
    assert (after.state, after.fails) == (JobState.DELAYED, 1)
    assert line.claim("w").result() is None
    lease = reserved(line, wait_seconds=3)
    assert lease.job.fails == 1
    after = line.release(lease, error="HTTP 504").result()
    assert (after.state, after.fails) == (JobState.BURIED, 2)
    assert line.peek(job.id).result().state is JobState.BURIED
    assert f"job {job.id}: buried, HTTP 504; a kick makes it ready again" in caplog.messages


def test_a_job_may_have_tries_of_its_own(line):
    put(line, tries=1)
    assert line.release(reserved(line), error="no").result().state is JobState.BURIED


def test_a_kick_gives_a_buried_job_its_tries_again(shared, opened):
    line = opened(shared, tries=2)
    job = put(line)
    for _ in range(3):
        line.release(reserved(line), error="no", delay_seconds=0).result()
        line.release(reserved(line)).result()
        assert line.release(reserved(line), error="no").result().state is JobState.BURIED
        kicked = line.kick(job.id).result()
        assert (kicked.state, kicked.fails) == (JobState.READY, 0)


def test_a_job_whose_holders_die_is_buried_and_the_next_one_is_tried(shared, opened, caplog):
    line = opened(shared, tries=2)
    poison, harmless = put(line, 0), put(line, 1)
    for _ in range(2):
        dying = opened(shared)
        assert reserved(dying).job.id == poison.id
        dying.close()
    assert reserved(line, wait_seconds=2).job.id == harmless.id
    assert line.peek(poison.id).result().state is JobState.BURIED
    assert any(f"job {poison.id}: buried, lease-lapsed" in text for text in caplog.messages)


def test_operators_kick_what_is_buried_and_leave_alone_what_is_delayed(line):
    delayed = put(line, 9, delay_seconds=60)
    jobs = [put(line, number) for number in range(3)]
    for _ in jobs:
        line.bury(reserved(line), "no such account").result()
    kicked = line.kick_buried(2).result()
    assert [job.id for job in kicked] == [job.id for job in jobs[:2]]
    assert line.stats().result() == JobStats(2, 0, 1, 1, NO_CAP, None, ())
    assert len(line.kick_buried(5).result()) == 1
    assert line.peek(delayed.id).result().state is JobState.DELAYED
    assert line.kick(delayed.id).result().state is JobState.READY
    with pytest.raises(WrongState):
        line.kick(delayed.id).result()
    with pytest.raises(NotFound):
        line.kick(10**9).result()


def test_a_paused_line_gives_nothing_until_it_goes_on(line):
    line.resume().result()
    put(line)
    line.pause(reason="broken: no service").result()
    assert line.stats().result().paused_reason == "broken: no service"
    assert line.claim("w").result() is None
    line.resume().result()
    assert reserved(line, wait_seconds=2)
    assert line.stats().result().paused_reason is None


def test_a_pause_ends_by_itself(line):
    put(line)
    line.pause(1).result()
    assert line.claim("w").result() is None
    assert reserved(line, wait_seconds=5)


def test_the_job_of_another_line_is_not_found(shared, opened, line, raw):
    raw.use("another")
    id = raw.put(b"{}")
    with pytest.raises(NotFound):
        line.peek(id).result()
    with pytest.raises(NotFound):
        line.kick(id).result()
    raw.delete(id)


def test_a_closed_line_says_nothing_more(line):
    put(line)
    lease = reserved(line)
    line.close()
    line.close()
    with pytest.raises(Unavailable, match="closed"):
        put(line)
    with pytest.raises(Unavailable, match="closed"):
        line.claim("w").result()
    with pytest.raises(LeaseLost):
        line.ack(lease).result()


# Among others


def test_other_programs_put_tasks_in_plain_json(line, raw):
    raw.put(json.dumps({"task": "ad", "args": {"number": 3}}).encode(), ttr=30)
    lease = reserved(line)
    assert (lease.job.task, lease.job.args, lease.job.body) == ("ad", {"number": 3}, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b'{"number": 3}',
        b'{"task": 3}',
        b'{"task": "ad", "args": [1]}',
        b'{"task": "ad", "tries": "4"}',
        b'{"task": "ad", "key": "7"}',
        b"[" * 50_000,
    ],
)
def test_what_is_not_in_our_words_is_a_job_of_no_task(line, raw, data):
    raw.put(data, ttr=30)
    job = reserved(line).job
    assert (job.task, job.args, job.body) == ("", {}, data)


def test_a_job_that_is_too_large_is_refused(line):
    with pytest.raises(BadInput):
        line.put("ad", body=b"x" * 70_000).result()
    assert put(line).created, "and the connection goes on"


def test_a_server_that_takes_no_more_is_a_full_line(own, opened):
    line = opened(own)
    put(line)
    own.send(signal.SIGUSR1)
    with pytest.raises(LineFull):
        put(line)
    assert numbers(line) == [1]


@pytest.fixture
def silent(shared, line, raw):
    """Connections that took a job each and say nothing more, and their jobs. The time of all is
    over at once, and most of them the server's timer has missed."""
    with contextlib.ExitStack() as to_close:
        held = {}
        for number in range(60):
            raw.put(json.dumps({"task": "ad", "args": {"number": number}}).encode(), ttr=1)
        for _ in range(60):
            client = greenstalk.Client(("127.0.0.1", shared.port), encoding=None, watch=line.name)
            job = to_close.enter_context(client).reserve(0)
            held[job.id] = client, job
        # Two seconds and not one: what is left is told in whole seconds, and 0 is not over.
        time.sleep(2.1)
        yield held
    wait_until("all of them to be back", 5, lambda: line.stats().result().ready == 60)
    assert line.stuck().result() == []


def test_jobs_that_the_servers_timer_forgot_are_found(line, silent, caplog):
    """Those that it remembered are ready; the others are reserved, with their time over."""
    stuck = line.stuck().result()
    assert len(stuck) == line.stats().result().reserved > 0
    assert all(job.state is JobState.RESERVED and job.task == "ad" for job in stuck)
    assert f"job {stuck[0].id}: reserved, and" in caplog.text


def test_a_word_sets_a_timer_going_that_got_stuck(line, silent):
    """What the heartbeat relies on, and the reason it is sent where the job is held."""
    for job in line.stuck().result():
        client, held = silent[job.id]
        client.touch(held)
    assert line.stuck().result() == []


# Who dies, and who is frozen

HOLDS_ONE = """
import sys
from queue_backend.errors import LeaseLost
from queue_backend.work.beanstalk import open_line
url, name = sys.argv[1:]
line = open_line(url, name, lease_seconds=1, grace_seconds=0)
lease = line.reserve_blocking("child", 5)
print("holds", lease.job.id, flush=True)
sys.stdin.readline()
try:
    line.ack(lease).result()
    print("done")
except LeaseLost:
    print("lease lost")
"""


@contextlib.contextmanager
def child_holding(server, line):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ONE, server.url, line.name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().startswith("holds")
            yield child
        finally:
            child.kill()


def test_the_job_of_a_killed_process_is_back_at_once(shared, opened):
    line = opened(shared, lease_seconds=60)
    put(line)
    with child_holding(shared, line) as child:
        child.kill()
        lease = reserved(line, wait_seconds=1)
        assert (lease.job.attempt, lease.job.fails) == (2, 1)


def test_a_process_that_was_frozen_past_its_lease_may_not_acknowledge(shared, opened):
    line = opened(shared, lease_seconds=1)
    put(line)
    with child_holding(shared, line) as child:
        child.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        child.send_signal(signal.SIGCONT)
        said, _ = child.communicate("\n", timeout=10)
        assert said.strip() == "lease lost"
    assert reserved(line, wait_seconds=2).job.attempt == 2


def test_a_server_killed_with_its_log_has_lost_nothing(own, opened):
    line = opened(own)
    jobs = [put(line, number) for number in range(50)]
    delayed = put(line, 98, delay_seconds=100)
    for _ in range(5):
        line.ack(reserved(line)).result()
    buried = line.bury(reserved(line), "no").result()
    in_hand = [reserved(line) for _ in range(3)]
    own.kill()
    own.start()
    for lease in in_hand:
        with pytest.raises(LeaseLost):
            line.touch(lease).result()
    assert line.stats().result() == JobStats(44, 0, 1, 1, NO_CAP, None, ())
    assert line.peek(buried.id).result().state is JobState.BURIED
    assert line.peek(delayed.id).result().state is JobState.DELAYED
    assert numbers(line) == list(range(6, 50))
    assert jobs


def test_a_server_that_is_away_is_asked_again_when_it_is_back(own, opened):
    line = opened(own)
    put(line)
    lease = reserved(line)
    own.kill()
    with pytest.raises(Unavailable):
        put(line)
    with pytest.raises(Unavailable):
        line.claim("w").result()
    with pytest.raises(LeaseLost):
        line.ack(lease).result()
    own.start()
    assert put(line, 2).created
    assert numbers(line) == [1, 2]


def test_a_server_that_dies_leaves_nobody_waiting(own, opened):
    line = opened(own)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(line.reserve_blocking, "w", 60)
        with greenstalk.Client(("127.0.0.1", own.port)) as watching:
            wait_until("it to wait", 5, lambda: watching.stats()["current-waiting"] == 1)
        own.kill()
        with pytest.raises(Unavailable):
            waiting.result(5)


def test_a_server_that_says_nothing_is_given_up(own, opened, monkeypatch):
    monkeypatch.setattr(beanstalk, "SILENCE_SECONDS", 0.3)
    line = opened(own)
    own.hold()
    with pytest.raises(Unavailable, match="timed out"):
        put(line)
    own.go_on()
    # It may have been put, which is what Unavailable says.
    assert put(line, 2).created
    assert numbers(line)[-1] == 2


def test_nothing_is_kept_of_a_connection_whose_answer_was_not_waited_for(tmp_path, opened):
    """A server that breaks off in the middle of an answer is Unavailable, and not a crash."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        line = beanstalk.BeanstalkLine(f"beanstalk://127.0.0.1:{port}", "ads")
        asked = line.put("ad")
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as words:
            assert words.readline() == b"use ads\r\n"
            connection.sendall(b"USIN")
        with pytest.raises(Unavailable):
            asked.result(5)
        line.close()


# With a worker


class Adding:
    """A craft that writes numbers down, and fails at those it is told to fail at."""

    def __init__(self, failing=(), seconds=0.02):
        self.added = []
        self.failing = list(failing)
        self.seconds = seconds
        self.inside = 0
        self.most_inside = 0

    async def open(self):
        pass

    async def carry_out(self, held):
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await asyncio.sleep(self.seconds)
        self.inside -= 1
        number = held.job.args["number"]
        if number in self.failing:
            await held.release(error="cannot add")
            return
        self.added.append(number)
        await held.ack()

    async def keep_house(self):
        pass

    async def close(self):
        pass


async def until(what, check, seconds=10):
    give_up_at = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < give_up_at, what
        await asyncio.sleep(0.02)


async def test_a_worker_runs_on_it_as_on_any_line(shared, opened, caplog):
    line = opened(shared, tries=2, backoff_seconds=0)
    craft = Adding(failing=[13])
    worker = Worker(line, craft, holder="here", clock=SystemClock(), slots=4)
    for number in range(10):
        await line.put("add", {"number": number})
    await worker.start()
    for number in range(10, 20):
        await line.put("add", {"number": number})

    async def all_done():
        stats = await line.stats()
        return (stats.ready, stats.reserved, stats.buried) == (0, 0, 1)

    await until("all to be done", all_done)
    await worker.stop()
    assert sorted(craft.added) == [number for number in range(20) if number != 13]
    assert craft.most_inside == 4, "as many at once as there are slots, and no more"
    assert not [each for each in caplog.records if each.exc_info], "no round failed"


async def test_a_worker_that_stops_gives_back_what_it_has_not_ended(shared, opened):
    line = opened(shared)
    worker = Worker(line, Adding(seconds=3600), holder="here", clock=SystemClock(), slots=1)
    await worker.start()
    await line.put("add", {"number": 1})

    async def runs():
        return (await line.stats()).reserved == 1

    await until("it to run", runs)
    await worker.stop(grace_seconds=0.1)
    lease = await line.reserve("another", 2)
    assert lease is not None and lease.job.fails == 0


# With tasks; tests/test_task.py has more

SHOP = """
import os, signal, time
from pathlib import Path
from queue_backend.work.task import Jobs, current_job

jobs = Jobs(os.environ["SHOP_JOBS"])
jobs.rules("ad", tries=2, backoff_seconds=1, lease_seconds=2, grace_seconds=0)
done = Path(os.environ["SHOP_DONE"])

@jobs.task("ad")
def show(number: int) -> None:
    with done.open("a") as file:
        file.write(f"{number} {current_job().attempt}\\n")

@jobs.task("ad")
def slowly(number: int) -> None:
    time.sleep(4)
    show(number)

@jobs.task("ad")
def kill_the_worker() -> None:
    if current_job().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    show(100)
"""


@pytest.fixture
def shop(own, tmp_path, monkeypatch):
    """A module of tasks whose jobs are in a beanstalkd, as its producer sees it."""
    monkeypatch.setenv("SHOP_JOBS", own.url)
    monkeypatch.setenv("SHOP_DONE", str(tmp_path / "done"))
    (tmp_path / "shop_on_beanstalkd.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("shop_on_beanstalkd")
    yield module
    module.jobs.close()
    del sys.modules["shop_on_beanstalkd"]


@pytest.fixture
def work(tmp_path):
    """Starts a real `app.py worker shop_on_beanstalkd`."""
    workers: list[Process] = []

    def start(*options):
        worker = Process(tmp_path, f"worker-{len(workers) + 1}")
        command = [sys.executable, str(ROOT / "app.py"), "worker", "shop_on_beanstalkd", *options]
        worker.spawn(command, {**os.environ, "PYTHONPATH": str(tmp_path)})
        workers.append(worker)
        return worker

    with ended_together(workers):
        yield start


def done_of(shop):
    return sorted(shop.done.read_text().split("\n")[:-1]) if shop.done.exists() else []


def test_the_job_of_a_killed_worker_is_run_by_another(shop, work):
    shop.kill_the_worker.put()
    assert work("--line", "ad").wait() == -signal.SIGKILL
    work("--line", "ad")
    wait_until("the other to do it", 10, lambda: done_of(shop) == ["100 2"])


def test_the_heartbeats_of_a_worker_hold_a_job_that_takes_longer_than_its_lease(shop, work):
    shop.slowly.put(7)
    work("--line", "ad", "--slots", "2")
    wait_until("it to be done", 15, lambda: done_of(shop) == ["7 1"])
    left = shop.jobs.opened("ad").stats
    wait_until("nobody else to be at it", 1, lambda: left().result().reserved == 0)
    assert left().result().ready == 0
