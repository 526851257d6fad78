"""Tasks: what is put is there, what is there is run, and what dies over it is counted."""

import asyncio
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.errors import BadInput, LeaseLost, NotFound, Unsupported
from queue_backend.work.handler import Handlers
from queue_backend.work.job import JobState, Lease, Put
from queue_backend.work.line import JobLine
from queue_backend.work.task import Jobs, current_job, then
from queue_backend.work.worker import Worker
from tests.conftest import must_be_installed
from tests.processes import ROOT, Beanstalkd, Process, ended_together, wait_until
from tests.work_cases import TurnedClock, open_line

BACKOFF = 60


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


@pytest.fixture
def jobs(url):
    made = Jobs(url)
    yield made
    made.close()


@pytest.fixture
def look_up(jobs: Jobs):
    @jobs.task("ad", key=lambda account: account, name="look_up")
    def look_up(account: str, fresh: bool = False) -> dict[str, object]:
        return {"phone": f"2041 {account}"}

    return look_up


# Putting


def test_a_task_that_is_called_runs(look_up, path):
    assert look_up("knolan") == look_up(account="knolan") == {"phone": "2041 knolan"}
    assert look_up.__name__ == "look_up"
    assert not path.exists(), "neither a definition nor a call opens the database"


def test_a_call_that_is_put_waits_in_its_line_under_its_tasks_name(look_up, url):
    put = look_up.put("knolan", fresh=True)
    elsewhere = Jobs(url)
    job = elsewhere.line("ad").peek(put.id).result()
    elsewhere.close()
    assert (job.line, job.task, job.state) == ("ad", "look_up", JobState.READY)
    assert job.args == {"account": "knolan", "fresh": True}


def resize(path: str) -> None: ...


def test_a_task_is_named_after_its_module_and_itself(jobs):
    assert jobs.task("ad")(resize).name == "tests.test_task.resize"


def test_calls_with_one_key_are_one_job_while_it_lives(look_up, jobs: Jobs):
    first, again = look_up.put("knolan"), look_up.put("knolan", fresh=True)
    assert first.created and not again.created and again.id == first.id
    assert look_up.put("miller").id != first.id

    @jobs.task("ad", key=lambda account: account, name="unlock")
    def unlock(account: str) -> None: ...

    assert unlock.put("knolan").created, "another task's knolan is another job"
    jobs.line("ad").cancel(first.id).result()
    assert look_up.put("knolan").created


def test_a_key_may_be_long_or_none(jobs: Jobs):
    @jobs.task("ad", key=lambda url: url, name="fetch")
    def fetch(url: str | None = None) -> None: ...

    long = "https://example.org/" + "x" * 500
    assert fetch.put(long).id == fetch.put(long).id != fetch.put(long + "y").id
    assert fetch.put().id != fetch.put().id


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, (1, 2), {1: 2}, float("nan"), b"x", Path("x"), [JobState]]
)
def test_what_would_not_arrive_as_it_was_sent_is_refused(look_up, value):
    with pytest.raises(BadInput) as refused:
        look_up.put(value)
    assert (refused.value.code, refused.value.field) == ("not-json", "account")


@pytest.mark.parametrize("arguments", [{}, {"accuont": "knolan"}, {"account": "x", "job": 1}])
def test_arguments_that_the_function_does_not_take_are_refused_before_they_wait(look_up, arguments):
    with pytest.raises(BadInput) as refused:
        look_up.put(**arguments)
    assert refused.value.code == "bad-arguments"


def test_a_function_that_cannot_be_a_task_is_refused(jobs, look_up):
    async def endless() -> None: ...
    def nameless(*accounts: str) -> None: ...
    def positional(account: str, /) -> None: ...

    for function in (endless, nameless, positional):
        with pytest.raises(TypeError):
            jobs.task("ad")(function)
    with pytest.raises(ValueError):
        jobs.task("ad", name="look_up")(lambda: None)
    with pytest.raises(ValueError):
        jobs.task("ad", name="x" * 65)(lambda: None)


def test_what_comes_later_can_be_put_otherwise(look_up, jobs):
    put = jobs.put(replace(look_up.later("knolan"), delay_seconds=60, pri=5)).result()
    assert (put.state, put.pri) == (JobState.DELAYED, 5)
    with pytest.raises(BadInput):
        jobs.put(Put("look_up"))
    assert not look_up.put("knolan").created


def test_a_lines_rules_are_said_before_it_is_used(jobs, look_up):
    jobs.rules("ad", cap=2)
    assert jobs.line("ad").stats().result().cap == 2
    with pytest.raises(ValueError):
        jobs.rules("ad", cap=3)


def test_join_waits_until_nothing_is_queued(look_up, jobs):
    assert jobs.join("ad", timeout_seconds=0)
    job = look_up.put("knolan")
    assert not jobs.join("ad", timeout_seconds=0.05)
    threading.Timer(0.1, lambda: jobs.line("ad").cancel(job.id)).start()
    assert jobs.join("ad", timeout_seconds=10)


# Handlers, under a turned clock


@pytest.fixture
def clock():
    return TurnedClock()


class Desk:
    """One worker for the tasks of `jobs`, whose rounds and time the test turns."""

    def __init__(self, jobs, database, clock):
        self.jobs, self.clock = jobs, clock
        self.line = open_line(database, clock)
        self.worker = Worker(
            self.line, Handlers(jobs.tasks, clock), holder="test", clock=clock, slots=2
        )

    async def put(self, put):
        return await self.line.put(put.task, put.args, key=put.key, tries=put.tries)

    async def run(self, put, slot=1):
        """The job, after one round."""
        job = await self.put(put)
        assert await self.worker.turn_once(slot)
        return await self.line.peek(job.id)


@pytest.fixture
def desk(jobs, url, clock):
    database = Database(url)
    yield Desk(jobs, database, clock)
    database.close()


@pytest.mark.parametrize(
    ("returned", "result"),
    [({"phone": "2041"}, {"phone": "2041"}), (None, None), ([1, "x"], {"value": [1, "x"]})],
)
async def test_what_a_handler_returns_is_the_jobs_result(jobs, desk, returned, result):
    look = jobs.task("desk", name="look")(lambda: returned)
    ended = await desk.run(look.later())
    assert (ended.state, ended.result) == (JobState.DONE, result)


async def test_a_handler_knows_the_job_in_its_hand(jobs, desk, clock):
    seen = []

    @jobs.task("desk", limit_seconds=30, name="look")
    def look(account, job=None):
        assert job is current_job()
        assert job is not None
        seen.append((job.id, job.attempt, job.line, job.deadline - clock.monotonic()))
        raise RuntimeError

    job = await desk.run(look.later("knolan"))
    clock.tick(BACKOFF)
    await desk.worker.turn_once(1)
    assert seen == [(job.id, 1, "desk", 30), (job.id, 2, "desk", 30)]
    assert current_job() is None


async def test_a_handler_without_a_limit_has_no_deadline(jobs, desk):
    @jobs.task("desk", name="look")
    def look(job=None):
        return {"left": job.seconds_left()}

    assert (await desk.run(look.later())).result == {"left": None}


async def test_what_fails_is_tried_again_later_then_buried_and_runs_again_when_kicked(
    jobs, desk, clock
):
    runs: list[int] = []

    @jobs.task("desk", name="look")
    def look():
        runs.append(len(runs))
        if len(runs) < 4:
            raise ValueError(f"no answer\0 {len(runs)}")

    job = await desk.run(look.later())
    assert (job.state, job.error) == (JobState.DELAYED, "ValueError: no answer  1")
    assert not await desk.worker.turn_once(1)
    for _ in range(2):
        clock.tick(BACKOFF)
        assert await desk.worker.turn_once(1)
    buried = await desk.line.peek(job.id)
    assert (buried.state, buried.error) == (JobState.BURIED, "ValueError: no answer  3")
    await desk.line.kick(job.id)
    assert await desk.worker.turn_once(1)
    assert (await desk.line.peek(job.id)).state is JobState.DONE


async def test_a_task_may_have_tries_of_its_own(jobs, desk):
    look = jobs.task("desk", tries=1, name="look")(lambda: 1 / 0)
    ended = await desk.run(look.later())
    assert (ended.state, ended.error) == (JobState.BURIED, "ZeroDivisionError: division by zero")


async def test_a_handler_that_exits_has_failed_and_its_worker_goes_on(jobs, desk):
    leave = jobs.task("desk", name="leave")(lambda: sys.exit(3))
    stay = jobs.task("desk", name="stay")(lambda: {"here": True})
    assert (await desk.run(leave.later())).error == "SystemExit: 3"
    assert (await desk.run(stay.later())).result == {"here": True}


async def test_a_result_that_is_no_json_is_a_fail(jobs, desk):
    look = jobs.task("desk", name="look")(lambda: {"at": object()})
    failed = await desk.run(look.later())
    assert failed.state is JobState.DELAYED
    assert failed.error == "TypeError: Object of type object is not JSON serializable"


async def test_arguments_of_an_older_program_are_a_fail(jobs, desk):
    jobs.task("desk", name="look")(lambda account: None)
    job = await desk.line.put("look", {"user": "knolan"})
    assert await desk.worker.turn_once(1)
    assert "unexpected keyword argument 'user'" in (await desk.line.peek(job.id)).error


async def test_an_unknown_task_is_buried_and_not_lost(desk):
    job = await desk.line.put("shop.make_coffee", {"cups": 2})
    assert await desk.worker.turn_once(1)
    buried = await desk.line.peek(job.id)
    assert (buried.state, buried.error) == (JobState.BURIED, "task-unknown: shop.make_coffee")
    assert buried.args == {"cups": 2}


async def test_a_next_stage_is_put_with_the_end_of_the_one_before(jobs, desk, url):
    @jobs.task("desk", name="fetch")
    def fetch(path):
        return then(resize.later(path), notify.later(path=path), result={"bytes": 7})

    resize = jobs.task("desk", name="resize")(lambda path: None)
    notify = jobs.task("mail", tries=2, name="notify")(lambda path: None)
    fetched = await desk.run(fetch.later("a.png"))
    assert (fetched.state, fetched.result) == (JobState.DONE, {"bytes": 7})
    [waiting] = await desk.line.snapshot()
    assert (waiting.task, waiting.args) == ("resize", {"path": "a.png"})
    [mail] = await jobs.line("mail").snapshot()
    assert (mail.task, mail.args, mail.tries) == ("notify", {"path": "a.png"}, 2)


async def test_each_slot_has_a_thread_of_its_own(jobs, desk):
    mine = jobs.task("desk", name="mine")(lambda: threading.get_ident())
    first, again, other = [(await desk.run(mine.later(), slot)).result for slot in (1, 1, 2)]
    assert first == again != other
    assert first != {"value": threading.get_ident()}


# Handlers, in real time


def with_worker(jobs, line, **rules):
    quick = {"lease_seconds": 0.5, "grace_seconds": 0.2, "backoff_seconds": 0.05, "tries": 3}
    jobs.rules(line, **{**quick, **rules})
    clock = SystemClock()
    return Worker(jobs.line(line), Handlers(jobs.tasks, clock), holder="test", clock=clock, slots=2)


async def until(jobs, job, state, seconds=20.0):
    """The job, once it is in `state`."""
    give_up_at = time.monotonic() + seconds
    while (found := await jobs.line(job.line).peek(job.id)).state is not state:
        assert time.monotonic() < give_up_at, found
        await asyncio.sleep(0.01)
    return found


async def test_a_long_handler_keeps_its_lease(jobs):
    long = jobs.task("ad", name="long")(lambda: time.sleep(2))
    worker = with_worker(jobs, "ad", lease_seconds=1)
    job = long.put()
    await worker.turn_once(1)
    ended = await jobs.line("ad").peek(job.id)
    assert (ended.state, ended.attempt) == (JobState.DONE, 1)


async def test_past_its_limit_a_thread_loses_its_job_and_its_word_counts_no_more(jobs):
    told, back = threading.Event(), threading.Event()

    @jobs.task("ad", limit_seconds=0.1, name="hang")
    def hang(job=None):
        while not job.stop_asked():
            time.sleep(0.01)
        told.set()
        back.wait(20)
        return {"too": "late"}

    worker = with_worker(jobs, "ad")
    job = hang.put()
    turn = asyncio.create_task(worker.turn_once(1))
    await until(jobs, job, JobState.RESERVED)
    lease = None
    while lease is None:
        lease = await jobs.line("ad").reserve("other", 0.5, lease_seconds=60)
    assert (lease.job.id, lease.job.attempt, lease.job.fails) == (job.id, 2, 1)
    assert told.is_set() and worker.slots[0].state == "slow"
    back.set()
    await turn
    held = await jobs.line("ad").peek(job.id)
    assert (held.state, held.holder, held.result) == (JobState.RESERVED, "other", None)


async def test_a_cancelled_job_is_told_to_its_handler_and_not_tried_again(jobs):
    @jobs.task("ad", name="hang")
    def hang(job=None):
        while not job.stop_asked():
            time.sleep(0.01)
        raise InterruptedError("stopped half-way")

    worker = with_worker(jobs, "ad")
    job = hang.put()
    turn = asyncio.create_task(worker.turn_once(1))
    await until(jobs, job, JobState.RESERVED)
    await jobs.line("ad").cancel(job.id)
    await turn
    buried = await jobs.line("ad").peek(job.id)
    assert buried.state is JobState.BURIED
    assert buried.error == "cancelled; InterruptedError: stopped half-way"


async def test_the_line_is_told_what_each_slot_does(jobs):
    go_on = threading.Event()
    wait = jobs.task("ad", name="wait")(lambda: go_on.wait(20))
    worker = with_worker(jobs, "ad")
    await worker.start()
    job = wait.put()
    give_up_at = time.monotonic() + 10
    while [(view.state, view.job) for view in await jobs.line("ad").workers()] not in (
        [("busy", job.id), ("idle", None)],
        [("idle", None), ("busy", job.id)],
    ):
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.02)
    go_on.set()
    await worker.stop()
    assert await jobs.line("ad").workers() == []


async def test_slots_that_found_nothing_cost_no_more_than_one(jobs, monkeypatch):
    worker = with_worker(jobs, "ad")
    line, looking, most = jobs.line("ad"), [0], [0]
    reserve = line.reserve

    async def counted(holder, wait_seconds=0):
        looking[0] += wait_seconds > 0
        most[0] = max(most[0], looking[0])
        lease = await reserve(holder, wait_seconds)
        looking[0] -= wait_seconds > 0
        return lease

    monkeypatch.setattr(line, "reserve", counted)
    await worker.start()
    await asyncio.sleep(0.3)
    await worker.stop()
    assert most == [1]


async def test_ten_jobs_of_a_second_in_ten_slots(jobs, record_property):
    nap = jobs.task("ad", name="nap")(lambda: time.sleep(1))
    worker = Worker(
        jobs.line("ad"),
        Handlers(jobs.tasks, SystemClock()),
        holder="test",
        clock=SystemClock(),
        slots=10,
    )
    await worker.start()
    began = time.monotonic()
    for _ in range(10):
        await jobs.put(nap.later())
    assert await jobs.line("ad").join(30)
    wall = time.monotonic() - began
    await worker.stop()
    print(f"10 jobs of 1 s in 10 slots: {wall:.2f} s")
    # The bar of 1.3 s is for a quiet machine, and stands in the bench.
    assert wall < 5


async def test_two_stages_of_five_slots(jobs):
    @jobs.task("first", name="cut")
    def cut(n):
        time.sleep(1)
        return then(sew.later(n))

    sew = jobs.task("second", name="sew")(lambda n: time.sleep(1))
    workers = [
        Worker(
            jobs.line(line),
            Handlers(jobs.tasks, SystemClock()),
            holder="test",
            clock=SystemClock(),
            slots=5,
        )
        for line in ("first", "second")
    ]
    for worker in workers:
        await worker.start()
    began = time.monotonic()
    for n in range(5):
        await jobs.put(cut.later(n))
    assert await jobs.line("first").join(30) and await jobs.line("second").join(30)
    wall = time.monotonic() - began
    await asyncio.gather(*(worker.stop() for worker in workers))
    print(f"5 jobs of two stages of 1 s in 5 and 5 slots: {wall:.2f} s")
    assert wall < 7


# Workers as processes of their own


SHOP = """
import os, signal, subprocess, sys, time
from queue_backend.work.task import Jobs, current_job, then

jobs = Jobs(os.environ["SHOP_JOBS"])
jobs.rules("ad", lease_seconds=1, grace_seconds=0.5, backoff_seconds=0.1, tries=3)

@jobs.task("ad", key=lambda account: account)
def look_up(account):
    return {"phone": account}

@jobs.task("ad")
def nap(seconds, job=None):
    time.sleep(seconds)
    return {"attempt": job.attempt}

@jobs.task("ad")
def kill_the_worker():
    os.kill(os.getpid(), signal.SIGKILL)

@jobs.task("ad", process=True, limit_seconds=60)
def apart(how, job=None):
    print("child", os.getpid(), job.attempt, sys.stdin.read(), flush=True)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    elif how == "raise":
        raise ValueError("no answer")
    elif how == "put":
        return {"put": look_up.put("smith").id}
    elif how == "then":
        return then(look_up.later("knolan"), result=job.seconds_left() > 1)
    elif how == "hang":
        time.sleep(60)

@jobs.task("ad", process=True, limit_seconds=5)
def family():
    child = subprocess.Popen(["sleep", "60"])
    print("grandchild", child.pid, flush=True)
    child.wait()

if __name__ == "__main__":
    put = look_up.put("miller")
    parent = os.fork()
    if not parent:
        look_up.put("knolan")
        os._exit(0)
    os.waitpid(parent, 0)
    look_up.put("smith")
    print(put.task, flush=True)
"""


class TaskWorker(Process):
    """A real `app.py worker shop`, started where its module is."""

    def __init__(self, directory, url, name="worker"):
        super().__init__(directory, name)
        self.url = url
        self.starts = 0

    def start(self, *options, ready=True):
        self.run("worker", "shop", "--line", "ad", *options)
        if ready:
            self.starts += 1
            wait_until(f"{self.name} at work", 30, lambda: self.at_work() == self.starts)
        return self

    def run(self, *words):
        # What the tests' own process is started in must not be where the module is found.
        command = ["env", "-C", str(self.directory), sys.executable, str(ROOT / "app.py"), *words]
        self.spawn(command, {**os.environ, "SHOP_JOBS": self.url})

    def at_work(self):
        assert self.running, f"{self.name} ended with {self.wait()}\n{self.log}"
        return self.output.count("Ctrl-C")

    def printed(self, word):
        """The number after each `word` that a handler printed."""
        lines = [line.split() for line in self.output.splitlines()]
        return [int(line[1]) for line in lines if line[:1] == [word]]


@pytest.fixture
def worker(tmp_path, url):
    (tmp_path / "shop.py").write_text(SHOP)
    with ended_together([process := TaskWorker(tmp_path, url)]):
        yield process


@pytest.fixture
def line(worker, url):
    database = Database(url)
    yield JobLine(
        database, "ad", cap=None, lease_seconds=1, grace_seconds=0.5, backoff_seconds=0.1, tries=3
    )
    database.close()


def put(line, task, **arguments):
    return line.put(f"shop.{task}", arguments).result()


def wait_for(line, job, state, seconds=30.0):
    """The job, once it is in `state`."""
    wait_until(
        f"job {job.id} to be {state}", seconds, lambda: line.peek(job.id).result().state is state
    )
    return line.peek(job.id).result()


def running(pid):
    """Whether the process is there, and not only its number for its parent to read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_puts_also_after_a_fork_and_a_worker_finds_its_tasks(worker, line):
    worker.spawn(
        ["env", "-C", str(worker.directory), sys.executable, "shop.py"],
        {**os.environ, "SHOP_JOBS": worker.url, "PYTHONPATH": str(ROOT)},
    )
    assert worker.wait() == 0, worker.log
    assert worker.output == "shop.look_up\n"
    assert len(line.snapshot().result()) == 3
    worker.start("--slots", "2")
    assert line.join_blocking(20)
    assert line.peek(3).result().result == {"phone": "smith"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_worker_that_is_asked_to_end_finishes_what_it_has_in_hand(worker, line, number):
    worker.start("--grace-seconds", "20")
    napping, waiting = put(line, "nap", seconds=2), put(line, "nap", seconds=0)
    wait_for(line, napping, JobState.RESERVED)
    worker.send(number)
    assert worker.wait() == 0, worker.log
    ended = line.peek(napping.id).result()
    # Longer than lease and grace: the heartbeats went on.
    assert (ended.state, ended.result) == (JobState.DONE, {"attempt": 1})
    assert line.peek(waiting.id).result().state is JobState.READY
    assert line.workers().result() == []


def test_what_is_not_finished_in_time_is_given_back_uncounted(worker, line):
    worker.start("--grace-seconds", "0.3", "--slots", "2", "--lease-seconds", "20")
    napping, apart = put(line, "nap", seconds=60), put(line, "apart", how="hang")
    wait_until("the child", 30, lambda: bool(worker.printed("child")))
    held = wait_for(line, napping, JobState.RESERVED)
    assert held.due - held.taken_at == pytest.approx(20.5)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0, worker.log
    for job in (napping, apart):
        back = line.peek(job.id).result()
        assert (back.state, back.fails, back.error) == (JobState.READY, 0, None)
    assert not running(worker.printed("child")[0])


def test_a_second_signal_ends_a_worker_at_once_and_its_lease_lapses(worker, line):
    worker.start("--grace-seconds", "60")
    job = put(line, "nap", seconds=60)
    wait_for(line, job, JobState.RESERVED)
    worker.send(signal.SIGTERM)
    wait_until("the first signal to be heard", 10, lambda: "closing" in worker.log)
    worker.send(signal.SIGINT)
    assert worker.wait(5) == 128 + signal.SIGINT
    assert line.peek(job.id).result().state is JobState.RESERVED
    lease = line.reserve_blocking("other", 10)
    assert lease is not None and (lease.job.id, lease.job.attempt) == (job.id, 2)


def test_the_job_of_a_killed_worker_is_run_by_the_next(worker, line):
    worker.start()
    job = put(line, "nap", seconds=2)
    held = wait_for(line, job, JobState.RESERVED)
    worker.kill()
    killed = time.monotonic()
    lease = line.reserve_blocking("next", 10)
    back_after = time.monotonic() - killed
    assert lease is not None and (lease.job.attempt, lease.job.fails) == (2, 1)
    # Lease and grace are 1.5 s; the rest is for a busy machine.
    assert back_after < 6
    with pytest.raises(LeaseLost):
        line.ack(Lease(held, 0), {"attempt": 1}).result()
    line.release(lease, nothing_sent=True).result()
    worker.start()
    assert wait_for(line, job, JobState.DONE).result == {"attempt": 3}


def test_a_worker_that_was_frozen_past_its_lease_is_not_believed(worker, line):
    """SIGSTOP and SIGCONT: the job runs once more, and only the later word counts."""
    worker.start()
    job = put(line, "nap", seconds=1)
    wait_for(line, job, JobState.RESERVED)
    worker.hold()
    lease = line.reserve_blocking("other", 10, lease_seconds=60)
    assert lease is not None and (lease.job.id, lease.job.attempt) == (job.id, 2)
    worker.go_on()
    wait_until("its word to be refused", 20, lambda: "the lease is lost" in worker.log)
    assert line.ack(lease, {"attempt": 2}).result().result == {"attempt": 2}
    after = put(line, "nap", seconds=0)
    assert wait_for(line, after, JobState.DONE).result == {"attempt": 1}


def test_a_job_that_kills_its_workers_is_buried_and_the_line_goes_on(worker, line):
    poison = line.put("shop.kill_the_worker", tries=2).result()
    harmless = put(line, "nap", seconds=0)
    for attempt in (1, 2):
        worker.start(ready=False)
        assert worker.wait(30) == -signal.SIGKILL
        assert line.peek(poison.id).result().attempt == attempt
        # The next one would else be busy with what waits behind it.
        wait_until(
            "its lease to lapse",
            10,
            lambda: line.peek(poison.id).result().state is JobState.READY,
        )
    worker.starts = worker.output.count("Ctrl-C")
    worker.start()
    buried = wait_for(line, poison, JobState.BURIED)
    assert (buried.error, buried.fails) == ("lease-lapsed", 2)
    wait_for(line, harmless, JobState.DONE)


def test_a_child_process_runs_a_handler_and_only_it_dies(worker, line):
    worker.start("--slots", "4")
    ends = {how: put(line, "apart", how=how) for how in ("die", "exit", "raise", "then", "well")}
    told = {
        "die": "died with signal 9",
        "exit": "exited with 3, saying nothing",
        "raise": "ValueError: no answer",
    }
    for how, error in told.items():
        buried = wait_for(line, ends[how], JobState.BURIED, 60)
        assert (buried.error, buried.attempt) == (error, 3), how
    assert wait_for(line, ends["then"], JobState.DONE).result == {"value": True}
    assert wait_for(line, ends["well"], JobState.DONE).result is None
    assert line.join_blocking(20), "the next stage was put, and run"
    assert worker.running


def test_a_child_is_ended_at_its_limit_with_its_own_children(worker, line):
    line.put("shop.family", tries=1).result()
    worker.start()
    wait_until("the grandchild", 30, lambda: bool(worker.printed("grandchild")))
    [job] = line.snapshot().result()
    assert wait_for(line, job, JobState.BURIED).error == "ended at its limit of 5 s"
    wait_until("its end", 5, lambda: not running(worker.printed("grandchild")[0]))


def test_a_child_is_killed_when_its_job_is_cancelled(worker, line):
    worker.start()
    job = put(line, "apart", how="hang")
    wait_until("the child", 30, lambda: bool(worker.printed("child")))
    line.cancel(job.id).result()
    assert wait_for(line, job, JobState.BURIED).error == "cancelled; it was told to stop"
    assert not running(worker.printed("child")[0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_ends_when_its_worker_is_killed_and_with_its_lease_when_it_is_frozen(
    worker, line, number
):
    worker.start()
    job = put(line, "apart", how="hang")
    wait_until("the child", 30, lambda: bool(worker.printed("child")))
    worker.send(number)
    wait_until("its end", 5, lambda: not running(worker.printed("child")[0]))
    if number == signal.SIGSTOP:
        # By the end of the lease, which is before anybody else can have the job.
        assert line.peek(job.id).result().attempt == 1


def test_a_hangup_starts_a_worker_anew_with_the_modules_as_they_are_then(worker, line):
    worker.start()
    module = worker.directory / "shop.py"
    module.write_text(SHOP.replace('{"phone": account}', '{"phone": "changed"}'))
    worker.send(signal.SIGHUP)
    worker.starts += 1
    wait_until("it to be at work again", 30, lambda: worker.at_work() == worker.starts)
    job = line.put("shop.look_up", {"account": "knolan"}).result()
    assert wait_for(line, job, JobState.DONE).result == {"phone": "changed"}


def test_what_does_not_fit_is_refused_in_words(worker, tmp_path, url):
    (tmp_path / "other.py").write_text(
        "from queue_backend.work.task import Jobs\n"
        f"jobs = Jobs('sqlite:///{tmp_path / 'other.db'}')\n"
        "@jobs.task('ad')\ndef look(): ...\n"
        "@jobs.task('mail')\ndef send(): ...\n"
    )
    (tmp_path / "faulty.py").write_text("1 / 0\n")
    (tmp_path / "empty.py").write_text("")
    cases = {
        ("shop", "--line", "dsek"): "shop: no task is of the line 'dsek', but of 'ad'",
        ("shop", "other", "--line", "ad"): "the tasks of 'ad' are in different databases",
        ("other",): "other: tasks of the lines ad, mail; choose one by --line",
        ("empty",): "there are no tasks in empty",
        ("nowhere",): "nowhere cannot be imported: No module named 'nowhere'",
        ("faulty",): "faulty cannot be imported: ZeroDivisionError: division by zero",
        ("--slots", "2"): "--line, --slots and --lease-seconds go with modules",
    }
    started = [TaskWorker(tmp_path, url, f"refused-{n}") for n in range(len(cases))]
    with ended_together(started):
        for process, words in zip(started, cases, strict=True):
            process.run("worker", *words)
        for process, said in zip(started, cases.values(), strict=True):
            assert process.wait(60) == 2
            assert said in process.log
    assert not (tmp_path / "other.db").exists()


def test_a_worker_can_be_pointed_to_another_database(worker, tmp_path, url):
    other = Jobs(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    job = other.line("ad").put("shop.look_up", {"account": "knolan"}).result()
    apart = other.line("ad").put("shop.apart", {"how": "put"}).result()
    worker.start("--jobs", other.url)
    wait_for(other.line("ad"), job, JobState.DONE)
    put = wait_for(other.line("ad"), apart, JobState.DONE).result["put"]
    assert other.line("ad").peek(put).result().task == "shop.look_up"
    other.close()
    assert not Path(url.removeprefix("sqlite:///")).exists()


# In a beanstalkd


@pytest.fixture
def beanstalkd(tmp_path):
    must_be_installed(Beanstalkd.installed(), "beanstalkd")
    with Beanstalkd(tmp_path / "beanstalkd") as server:
        yield server


def test_tasks_may_wait_in_a_beanstalkd(worker, beanstalkd):
    (worker.directory / "shop.py").write_text(SHOP.replace("key=lambda account: account", ""))
    worker.url = beanstalkd.url
    worker.start("--slots", "2")
    jobs = Jobs(beanstalkd.url)
    copy = jobs.task("ad", name="shop.nap")(lambda seconds: None)
    unknown = jobs.task("ad", name="shop.make_coffee")(lambda: None)
    staged = jobs.task("ad", name="shop.apart")(lambda how: None)
    puts = [copy.put(0), unknown.put(), staged.put("then")]

    def stats():
        return jobs.opened("ad").stats().result()

    wait_until("two to be buried", 30, lambda: stats().buried == 2 and not stats().reserved)
    with pytest.raises(NotFound):  # done, and not kept
        jobs.opened("ad").peek(puts[0].id).result()
    assert "cannot end a job and put the next stage in one step" in worker.log
    with pytest.raises(Unsupported):
        jobs.join("ad")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0, worker.log
    jobs.close()


def test_what_beanstalkd_cannot_promise_is_refused_at_the_start(worker, beanstalkd):
    worker.url = beanstalkd.url
    worker.start(ready=False)
    assert worker.wait() == 2
    assert "beanstalkd keeps no keys" in worker.log


# Killed at any moment: many short processes, forked from one that has imported all they need


@pytest.fixture(scope="module")
def short_lived():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_task"])
    return context


def put_until_killed(url, round, told):
    """One byte in the file `told` for each job that is said to be on disk."""
    copy = copy_task(Jobs(url))
    with open(told, "ab", buffering=0) as file:
        for number in range(1_000_000):
            copy.put(f"{round}-{number}")
            file.write(b".")


def copy_task(jobs):
    return jobs.task("ad", key=lambda name: name, name="copy")(lambda name: None)


def test_a_killed_producer_loses_nothing_that_was_said_and_a_retry_adds_none(
    jobs, url, tmp_path, short_lived
):
    copy, dice, before = copy_task(jobs), random.Random(3), 0

    def put_and_die(round, told):
        told.touch()
        producer = short_lived.Process(target=put_until_killed, args=(url, round, told))
        producer.start()
        enough = dice.randint(1, 20)
        wait_until("some to be put", 30, lambda: told.stat().st_size >= enough)
        time.sleep(dice.random() * 0.01)
        producer.kill()
        producer.join()
        return told.stat().st_size

    for round in range(20):
        said = put_and_die(round, tmp_path / f"told-{round}")
        now = jobs.line("ad").stats().result().ready
        assert now - before in (said, said + 1)
        assert not any(copy.put(f"{round}-{number}").created for number in range(now - before))
        before = now


def stages(url):
    jobs = Jobs(url)
    jobs.rules("cut", lease_seconds=0.5, grace_seconds=0.1, tries=1_000)
    sew = jobs.task("sew", name="sew")(lambda n: None)
    cut = jobs.task("cut", name="cut")(lambda n: then(sew.later(n)))
    return jobs, cut


def work_and_die(url, moment, seed):
    """A worker of the first stage, killed between a handler's end and the next stage."""
    jobs, _ = stages(url)
    line = jobs.line("cut")
    ack, put_next = line.ack, line._put_next

    def die(*_words, **_more):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "before the ack":
        line.ack = die
    elif moment == "in its transaction":
        line._put_next = lambda *words: (put_next(*words), die())
    elif moment == "after its commit":
        line.ack = lambda *words, **more: (ack(*words, **more).result(), die())
    else:
        threading.Timer(random.Random(seed).random() * 0.1, die).start()
    asyncio.run(work_on(jobs, and_stay=True))


async def work_on(jobs, and_stay=False):
    clock = SystemClock()
    handlers = Handlers(jobs.tasks, clock)
    worker = Worker(jobs.line("cut"), handlers, holder=f"h{os.getpid()}", clock=clock, slots=2)
    await worker.start()
    await (asyncio.sleep(60) if and_stay else jobs.line("cut").join())
    await worker.stop()


def test_killed_between_stages_a_hundred_times_each_input_becomes_one_output(url, short_lived):
    jobs, cut = stages(url)
    moments = ["at any time", "before the ack", "after its commit", "in its transaction"]
    for death in range(100):
        cut.put(death)
        worker = short_lived.Process(target=work_and_die, args=(url, moments[death % 4], death))
        worker.start()
        worker.join(60)
        assert worker.exitcode == -signal.SIGKILL, death
    assert not jobs.join("cut", timeout_seconds=0), "the last of them died over a job"
    asyncio.run(work_on(jobs))
    outputs = [job.args["n"] for job in jobs.line("sew").snapshot(1_000).result()]
    assert sorted(outputs) == list(range(100))
    jobs.close()
