"""The worker: what becomes of a job when its call is done, refused, lost, late or broken."""

import asyncio
import functools
import logging
import signal
import sys
import time
from random import Random

import pytest

from downstream.adapter import Health, Outcome
from downstream.calls import Calls
from downstream.demo import FIRST_PASSWORD, DemoAdapter
from downstream.sealed import Keyring, purpose
from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.errors import Unavailable
from queue_backend.work.job import JobState
from queue_backend.work.line import JobLine
from queue_backend.work.worker import Worker
from tests.work_cases import DONE, ScriptedAdapter, TurnedClock, open_line, reserved

LEASE, GRACE, BACKOFF = 30, 5, 60


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


@pytest.fixture
def database(path):
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.close()


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def line(database, clock):
    return open_line(database, clock)


@pytest.fixture
def keyring(tmp_path):
    return Keyring.at(tmp_path / "keyring.json")


@pytest.fixture
def worker_for(line, keyring, clock):
    def make(adapter, slots=2, line=line, clock=clock):
        calls = Calls(line, adapter, keyring, clock)
        return Worker(line, calls, holder="test", clock=clock, slots=slots)

    return make


async def put(line, task="ask-again", key=None, args=None):
    return await line.put(task, args or {"fields": {"account": "knolan"}}, key=key)


async def put_sealed(line, keyring, key="7-1", task="ask-once", **secrets):
    sealed = keyring.seal(secrets or {"password": "s3cret"}, purpose(key, task))
    args = {"fields": {"account": "knolan"}, "sealed": sealed}
    return await line.put(task, args, key=key)


async def until(line, job, state, step=None, seconds=5.0):
    """The job, once it is in `state` (and at `step`, if one is named)."""
    give_up_at = time.monotonic() + seconds
    while True:
        found = await line.peek(job.id)
        if found.state is state and step in (None, found.step):
            return found
        assert time.monotonic() < give_up_at, found
        await asyncio.sleep(0.01)


# Outcomes


async def test_a_round_without_a_job_does_nothing(worker_for):
    assert not await worker_for(ScriptedAdapter()).turn_once(1)


@pytest.mark.parametrize("kind", ["done", "rejected"])
async def test_what_was_done_or_rejected_ends_the_job_with_its_result(line, worker_for, kind):
    job = await put(line)
    assert await worker_for(ScriptedAdapter(Outcome(kind, "found", {"phone": "2041"}))).turn_once(1)
    ended = await line.peek(job.id)
    assert ended.state is JobState.DONE
    assert ended.result == {"outcome": kind, "code": "found", "fields": {"phone": "2041"}}


async def test_a_retry_waits_for_the_back_off_and_is_buried_past_its_tries(line, worker_for, clock):
    job = await put(line)
    adapter = ScriptedAdapter(*[Outcome("retry", "busy")] * 3)
    worker = worker_for(adapter)
    for _ in range(2):
        assert await worker.turn_once(1)
        assert (await line.peek(job.id)).state is JobState.DELAYED
        assert not await worker.turn_once(1)
        clock.tick(BACKOFF)
    assert await worker.turn_once(1)
    buried = await line.peek(job.id)
    assert (buried.state, buried.error) == (JobState.BURIED, "busy")


async def test_an_unknown_outcome_is_reconciled(line, worker_for, keyring):
    job = await put_sealed(line, keyring)
    adapter = ScriptedAdapter(Outcome("unknown", "timed-out"), reconciled=DONE)
    await worker_for(adapter).turn_once(1)
    assert [asked[0] for asked in adapter.asked] == ["execute", "reconcile"]
    assert (await line.peek(job.id)).result == {
        "outcome": "done",
        "code": "found",
        "fields": {"phone": "2041"},
    }


async def test_an_outcome_nobody_can_tell_is_never_tried_again(line, worker_for, keyring):
    job = await put_sealed(line, keyring)
    adapter = ScriptedAdapter(Outcome("unknown", "timed-out"))
    worker = worker_for(adapter)
    await worker.turn_once(1)
    ended = await line.peek(job.id)
    assert ended.state is JobState.DONE and ended.result is not None
    assert (ended.result["outcome"], ended.result["code"]) == ("unknown", "not-confirmed")
    assert not await worker.turn_once(1)


async def test_what_certainly_did_not_happen_is_tried_again_after_reconciling(
    line, worker_for, keyring, clock
):
    await put_sealed(line, keyring)
    adapter = ScriptedAdapter(
        Outcome("unknown", "timed-out"), DONE, reconciled=Outcome("retry", "not-applied")
    )
    worker = worker_for(adapter)
    await worker.turn_once(1)
    clock.tick(BACKOFF)
    await worker.turn_once(1)
    assert [asked[0] for asked in adapter.asked] == ["execute", "reconcile", "execute"]


async def test_an_exception_of_the_adapter_is_an_unknown_outcome(line, worker_for, keyring, caplog):
    job = await put_sealed(line, keyring)
    adapter = ScriptedAdapter(RuntimeError("password s3cret was refused"), reconciled=DONE)
    await worker_for(adapter).turn_once(1)
    assert (await line.peek(job.id)).state is JobState.DONE
    assert "RuntimeError" in caplog.text and "s3cret" not in caplog.text


async def test_a_broken_service_pauses_the_lane_and_the_job_keeps_its_place(line, worker_for):
    job = await put(line)
    adapter = ScriptedAdapter(Outcome("broken", "service-account"), DONE)
    adapter.well = Health(False, "service-account")
    worker = worker_for(adapter)
    await worker.turn_once(1)
    assert await line.paused() == "broken: service-account"
    assert not await worker.turn_once(1)
    kept = await line.peek(job.id)
    assert (kept.state, kept.fails) == (JobState.READY, 0)
    await worker.keep_house()
    assert await line.paused() is not None
    adapter.well = Health(True)
    await worker.keep_house()
    assert await worker.turn_once(1)
    assert (await line.peek(job.id)).state is JobState.DONE


async def test_a_lane_paused_by_an_operator_is_not_resumed_by_the_worker(line, worker_for):
    await line.pause(reason="maintenance")
    await worker_for(ScriptedAdapter()).keep_house()
    assert await line.paused() == "maintenance"


async def test_an_unknown_action_is_buried_and_not_lost(line, worker_for):
    job = await put(line, task="make-coffee")
    await worker_for(ScriptedAdapter()).turn_once(1)
    buried = await line.peek(job.id)
    assert (buried.state, buried.error) == (JobState.BURIED, "action-unknown")


# Jobs whose holder fell silent


async def test_a_call_that_may_have_been_sent_is_not_sent_again_after_a_crash(
    line, worker_for, keyring, clock
):
    await put_sealed(line, keyring)
    await line.touch(await reserved(line, "dead"), "running")
    clock.tick(LEASE + GRACE)
    adapter = ScriptedAdapter(reconciled=DONE)
    await worker_for(adapter).turn_once(1)
    assert [asked[0] for asked in adapter.asked] == ["reconcile"]


async def test_a_job_taken_but_not_begun_is_carried_out_after_a_crash(
    line, worker_for, keyring, clock
):
    await put_sealed(line, keyring)
    await reserved(line, "dead")
    clock.tick(LEASE + GRACE)
    adapter = ScriptedAdapter(DONE)
    await worker_for(adapter).turn_once(1)
    assert [asked[0] for asked in adapter.asked] == ["execute"]


async def test_an_idempotent_call_is_sent_again_after_a_crash(line, worker_for, clock):
    await put(line)
    await line.touch(await reserved(line, "dead"), "running")
    clock.tick(LEASE + GRACE)
    adapter = ScriptedAdapter(DONE)
    await worker_for(adapter).turn_once(1)
    assert [asked[0] for asked in adapter.asked] == ["execute"]


async def test_a_worker_whose_lease_was_lost_says_nothing_about_the_job(line, worker_for, clock):
    job = await put(line)

    async def freeze(_job, _context):
        clock.tick(LEASE + GRACE)
        assert (await reserved(line, "other")).job.id == job.id
        return DONE

    assert await worker_for(ScriptedAdapter(freeze)).turn_once(1)
    held = await line.peek(job.id)
    assert (held.state, held.holder, held.attempt) == (JobState.RESERVED, "other", 2)


# While a call runs


async def test_a_step_is_written_down_before_the_call_begins(line, worker_for):
    steps = []

    async def look(job, context):
        steps.append((await line.peek(job.id)).step)
        await context.progress("checking")
        steps.append((await line.peek(job.id)).step)
        return DONE

    await put(line)
    await worker_for(ScriptedAdapter(look)).turn_once(1)
    assert steps == ["running", "checking"]


async def test_a_long_call_keeps_its_lease_by_heartbeats(database, worker_for):
    clock = SystemClock()
    line = open_line(database, clock, lease_seconds=0.6, grace_seconds=0.6, cap=1)
    await put(line)
    await put(line)

    async def long(_job, _context):
        await asyncio.sleep(1.6)
        assert await line.reserve("other") is None
        return DONE

    adapter = ScriptedAdapter(long)
    await worker_for(adapter, line=line, clock=clock).turn_once(1)
    assert adapter.asked[0][2] == 1
    assert (await line.stats()).ready == 1


async def test_a_lease_shorter_than_the_lines_is_renewed_in_its_own_time(
    database, worker_for, monkeypatch
):
    """As of a job in beanstalkd that another program put."""
    clock = SystemClock()
    line = open_line(database, clock, lease_seconds=60, grace_seconds=0.1)
    reserve = line.reserve
    monkeypatch.setattr(line, "reserve", functools.partial(reserve, lease_seconds=0.9))
    monkeypatch.setattr(line, "touch", functools.partial(line.touch, lease_seconds=0.9))

    async def long(_job, _context):
        await asyncio.sleep(1.5)
        assert await reserve("other") is None
        return DONE

    job = await put(line)
    await worker_for(ScriptedAdapter(long), line=line, clock=clock).turn_once(1)
    ended = await line.peek(job.id)
    assert (ended.state, ended.attempt) == (JobState.DONE, 1)


async def test_a_slow_call_is_checking_and_its_slot_stays_taken_until_it_is_back(
    database, worker_for
):
    clock = SystemClock()
    line = open_line(database, clock, lease_seconds=0.6, grace_seconds=0.6, cap=1)
    back = asyncio.Event()
    asked_to_stop = []

    async def slow(_job, context):
        await back.wait()
        asked_to_stop.append(context.cancelled())
        return DONE

    adapter = ScriptedAdapter(slow, deadline_seconds=0.1)
    worker = worker_for(adapter, slots=1, line=line, clock=clock)
    job, behind = await put(line), await put(line)
    turn = asyncio.create_task(worker.turn_once(1))
    await asyncio.sleep(1.6)
    seen = await line.peek(job.id)
    assert (seen.state, seen.step) == (JobState.RESERVED, "checking")
    assert [(view.slot, view.state, view.job) for view in worker.slots] == [(1, "slow", job.id)]
    assert await line.reserve("other") is None
    back.set()
    await turn
    assert asked_to_stop == [True]
    assert (await line.peek(job.id)).state is JobState.DONE
    assert (await line.peek(behind.id)).state is JobState.READY


async def test_a_cancelled_job_is_asked_to_stop_at_its_next_heartbeat(database, worker_for):
    clock = SystemClock()
    line = open_line(database, clock, lease_seconds=0.3)

    async def stoppable(_job, context):
        for _ in range(200):
            if context.cancelled():
                break
            await asyncio.sleep(0.01)
        return Outcome("rejected", "cancelled")

    job = await put(line)
    turn = asyncio.create_task(
        worker_for(ScriptedAdapter(stoppable), line=line, clock=clock).turn_once(1)
    )
    await until(line, job, JobState.RESERVED)
    await line.cancel(job.id)
    await asyncio.wait_for(turn, 2)
    ended = await line.peek(job.id)
    assert ended.result is not None and ended.result["code"] == "cancelled"


async def test_a_job_cancelled_under_a_worker_that_died_is_stopped_by_the_next(
    line, worker_for, clock
):
    async def stoppable(_job, context):
        return Outcome("rejected", "cancelled") if context.cancelled() else DONE

    job = await put(line)
    await reserved(line, "dead")
    await line.cancel(job.id)
    clock.tick(LEASE + GRACE)
    await worker_for(ScriptedAdapter(stoppable)).turn_once(1)
    ended = await line.peek(job.id)
    assert ended.result is not None and ended.result["code"] == "cancelled"


async def test_an_end_is_written_again_when_the_database_was_away(line, worker_for, monkeypatch):
    job = await put(line)
    ack, away = line.ack, [Unavailable("database-unavailable")]

    async def flaky(lease, result, *, then):
        if away:
            raise away.pop()
        return await ack(lease, result, then=then)

    monkeypatch.setattr(line, "ack", flaky)
    await worker_for(ScriptedAdapter(DONE)).turn_once(1)
    assert (await line.peek(job.id)).state is JobState.DONE


# Secrets


async def test_secrets_reach_the_call_once(line, worker_for, keyring):
    got = []

    async def read(_job, context):
        got.append(context.secret("password"))
        with pytest.raises(KeyError):
            context.secret("password")
        return DONE

    await put_sealed(line, keyring)
    await worker_for(ScriptedAdapter(read)).turn_once(1)
    assert got == ["s3cret"]


async def test_a_job_without_its_secrets_is_rejected_and_says_why(line, worker_for, keyring):
    erased = await put_sealed(line, keyring, "7-1")
    await line.bury(await reserved(line), "broken")
    await line.kick(erased.id)
    moved = await line.put(
        "ask-once",
        {"fields": {}, "sealed": keyring.seal({"password": "x"}, purpose("7-1", "ask-once"))},
        key="8-1",
    )
    adapter = ScriptedAdapter()
    worker = worker_for(adapter)
    for job in (erased, moved):
        await worker.turn_once(1)
        result = (await line.peek(job.id)).result
        assert result is not None and result["code"] == "secrets-lost"
    assert adapter.asked == []


async def test_a_password_is_never_in_the_database_in_clear_nor_in_the_log(
    line, path, keyring, worker_for, database, caplog
):
    caplog.set_level(logging.DEBUG)
    marker = "Marker-9f31-password"

    def on_disk():
        return b"".join(file.read_bytes() for file in path.parent.iterdir())

    job = await put_sealed(
        line, keyring, task="change-password", password=FIRST_PASSWORD, new_password=marker
    )
    sealed = job.args["sealed"]
    assert isinstance(sealed, str) and sealed.encode() in on_disk()
    seen = []

    async def no_latency(_seconds):
        seen.append(on_disk())

    adapter = DemoAdapter(Random(1), sleep=no_latency)
    assert await worker_for(adapter).turn_once(1)
    ended = await line.peek(job.id)
    assert ended.result == {"outcome": "done", "code": "password-changed", "fields": {}}
    assert "sealed" not in ended.args
    assert adapter.directory.password_is("knolan", marker)
    database.close()
    for content in (*seen, on_disk()):
        assert marker.encode() not in content and FIRST_PASSWORD.encode() not in content
    assert sealed.encode() not in on_disk()
    assert marker not in caplog.text and FIRST_PASSWORD not in caplog.text


# A worker's life


async def test_started_slots_carry_out_what_is_put(line, worker_for):
    adapter = ScriptedAdapter(DONE, DONE, DONE)
    worker = worker_for(adapter)
    await worker.start()
    assert adapter.is_open
    for _ in range(3):
        await until(line, await put(line), JobState.DONE)
    assert [view.state for view in worker.slots] == ["idle", "idle"]
    began = time.monotonic()
    await worker.stop()
    assert time.monotonic() - began < 5 and not adapter.is_open


async def test_stopping_a_worker_that_never_started_is_harmless(worker_for):
    await worker_for(ScriptedAdapter()).stop()


async def test_a_stop_lets_a_running_job_finish_and_takes_no_other(line, worker_for):
    async def short(_job, _context):
        await asyncio.sleep(0.2)
        return DONE

    worker = worker_for(ScriptedAdapter(short), slots=1)
    running, waiting = await put(line), await put(line)
    await worker.start()
    await until(line, running, JobState.RESERVED)
    await worker.stop(grace_seconds=5)
    assert (await line.peek(running.id)).state is JobState.DONE
    assert (await line.peek(waiting.id)).state is JobState.READY


async def test_a_stop_gives_an_unfinished_job_back_uncounted_and_known_as_begun(
    line, worker_for, keyring
):
    async def endless(_job, _context):
        await asyncio.sleep(60)

    job = await put_sealed(line, keyring)
    first = worker_for(ScriptedAdapter(endless), slots=1)
    await first.start()
    await until(line, job, JobState.RESERVED, step="running")
    await first.stop(grace_seconds=0.1)
    given_back = await line.peek(job.id)
    assert (given_back.state, given_back.fails) == (JobState.READY, 0)
    second = ScriptedAdapter(reconciled=DONE)
    await worker_for(second).turn_once(1)
    assert [asked[0] for asked in second.asked] == ["reconcile"]


async def test_a_job_that_was_being_claimed_at_a_stop_is_given_back(line, worker_for, monkeypatch):
    """Cancelling the claim would leave it held by nobody until its lease lapses."""
    reserve, claims, go_on = line.reserve, asyncio.Event(), asyncio.Event()

    async def slow(holder, wait_seconds=0):
        claims.set()
        await go_on.wait()
        return await reserve(holder, wait_seconds)

    monkeypatch.setattr(line, "reserve", slow)
    job = await put(line)
    worker = worker_for(ScriptedAdapter(), slots=1)
    await worker.start()
    await claims.wait()
    stopping = asyncio.create_task(worker.stop(grace_seconds=0.01))
    await asyncio.sleep(0.05)
    go_on.set()
    await stopping
    back = await line.peek(job.id)
    assert (back.state, back.attempt, back.fails) == (JobState.READY, 1, 0)


async def test_a_round_that_fails_does_not_end_the_slot(line, worker_for, monkeypatch):
    reserve, failures = line.reserve, [Unavailable(), RuntimeError("a fault of ours")]

    async def flaky(holder, wait_seconds=0):
        if failures:
            raise failures.pop()
        return await reserve(holder, wait_seconds)

    monkeypatch.setattr(line, "reserve", flaky)
    worker = worker_for(ScriptedAdapter(DONE), slots=1)
    await worker.start()
    await until(line, await put(line), JobState.DONE)
    await worker.stop()


async def test_the_demo_never_sees_more_calls_than_the_cap(line, worker_for):
    async def short(_seconds):
        await asyncio.sleep(0.005)

    adapter = DemoAdapter(Random(1), sleep=short)
    worker = worker_for(adapter, slots=6)
    jobs = [await put(line, "look-up-phone") for _ in range(20)]
    await worker.start()
    for job in jobs:
        result = (await until(line, job, JobState.DONE)).result
        assert result is not None and result["code"] == "found"
    await worker.stop()
    assert adapter.peak == 2


RUN_A_WORKER = """
import asyncio, sys
from pathlib import Path
from random import Random
from downstream.calls import Calls
from downstream.demo import DemoAdapter
from downstream.sealed import Keyring
from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.work.line import JobLine
from queue_backend.work.worker import Worker

async def main():
    clock = SystemClock()
    line = JobLine(Database(f"sqlite:///{sys.argv[1]}"), "desk", clock=clock, cap=2,
                   lease_seconds=1, grace_seconds=0.5)
    adapter = DemoAdapter(Random(1), latency_seconds=(60, 60))
    calls = Calls(line, adapter, Keyring.at(Path(sys.argv[2])), clock)
    worker = Worker(line, calls, holder="apart", clock=clock, slots=2)
    await worker.start()
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_password_change_whose_worker_was_killed_is_reconciled_by_the_next(
    database, path, tmp_path, keyring, worker_for
):
    """The desk puts it here, a worker in another process dies over it, a third finds out."""
    clock = SystemClock()
    line = JobLine(database, "desk", clock=clock, cap=2, lease_seconds=1, grace_seconds=0.5)
    apart = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN_A_WORKER, str(path), str(tmp_path / "keyring.json")
    )
    job = await put_sealed(
        line,
        keyring,
        task="change-password",
        password=FIRST_PASSWORD,
        new_password="a-new-one-2345",
    )
    await until(line, job, JobState.RESERVED, step="running")
    apart.send_signal(signal.SIGKILL)
    await apart.wait()
    adapter = DemoAdapter(Random(1), latency_seconds=(0, 0))
    worker = worker_for(adapter, line=line, clock=clock)
    await worker.start()
    ended = await until(line, job, JobState.DONE)
    await worker.stop()
    assert ended.attempt == 2
    assert ended.result == {"outcome": "rejected", "code": "password-unchanged", "fields": {}}
