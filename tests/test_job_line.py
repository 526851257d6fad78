"""The job line: its verbs, its promises, and several processes on one file."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.errors import BadInput, LeaseLost, LineFull, NotFound, WrongState
from queue_backend.work.job import Job, JobState, Put, SlotView
from queue_backend.work.line import JobLine
from tests.work_cases import TurnedClock, open_line, put, reserved

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


async def state(line, job):
    return (await line.peek(job.id)).state


# Putting


async def test_a_job_that_is_put_is_ready_and_can_be_peeked(line):
    job = await put(line)
    assert (job.state, job.created, job.attempt, job.task) == (
        JobState.READY,
        True,
        0,
        "look-up-phone",
    )
    found = await line.peek(job.id)
    assert found.args == {"fields": {"account": "knolan"}} and not found.created


async def test_the_same_live_key_is_the_same_job(line):
    first = await put(line, "7-1")
    again = await put(line, "7-1")
    assert again.id == first.id and first.created and not again.created
    lease = await reserved(line)
    assert (await put(line, "7-1")).id == first.id
    await line.ack(lease, {})
    assert (await put(line, "7-1")).id != first.id


async def test_a_key_put_twice_at_once_is_one_job(line):
    puts = await asyncio.gather(*(put(line, "7-1") for _ in range(20)))
    assert len({job.id for job in puts}) == 1
    assert sum(job.created for job in puts) == 1


async def test_what_is_put_once_stays_one_job_after_its_end(line):
    """A form sent twice ran twice when the first job had ended between the two."""
    first = await line.put("unlock", {}, key="7-1", once=True)
    await line.ack(await reserved(line), {"outcome": "done"})
    again = await line.put("unlock", {}, key="7-1", once=True)
    assert (again.id, again.created, again.state) == (first.id, False, JobState.DONE)
    assert await line.reserve("anybody") is None


async def test_a_buried_jobs_key_is_still_taken(line):
    job = await put(line, "7-1")
    await line.bury(await reserved(line), "broken")
    assert (await put(line, "7-1")).id == job.id


async def test_find_answers_with_the_newest_job_of_a_key(line):
    assert await line.find("7-1") is None
    first = await put(line, "7-1")
    await line.ack(await reserved(line), {"outcome": "rejected"})
    found = await line.find("7-1")
    assert found is not None and (found.id, found.result) == (first.id, {"outcome": "rejected"})
    second = await put(line, "7-1")
    found = await line.find("7-1")
    assert found is not None and found.id == second.id


async def test_a_full_line_refuses_but_knows_its_own(database, clock):
    line = open_line(database, clock, depth=2)
    await put(line, "1")
    await put(line, "2")
    with pytest.raises(LineFull):
        await put(line, "3")
    assert not (await put(line, "2")).created
    await line.ack(await reserved(line), {})
    assert (await put(line, "3")).created


async def test_lines_in_one_file_are_apart(database, clock, line):
    counter = JobLine(database, "counter", clock=clock, cap=1)
    job = await put(line, "7-1")
    assert await counter.reserve("worker") is None
    with pytest.raises(NotFound):
        await counter.peek(job.id)
    assert (await put(counter, "7-1")).created


async def test_an_unknown_job_is_not_found(line):
    for verb in (line.peek, line.position, line.kick, line.cancel):
        with pytest.raises(NotFound):
            await verb(99)


# Order


async def test_the_older_job_goes_first_and_a_smaller_pri_before_it(line):
    first, second, urgent = await put(line), await put(line), await put(line, pri=1)
    assert [await line.position(job.id) for job in (first, second, urgent)] == [2, 3, 1]
    assert (await reserved(line)).job.id == urgent.id
    assert (await reserved(line)).job.id == first.id
    assert [await line.position(job.id) for job in (first, second, urgent)] == [0, 1, 0]


async def test_a_released_job_keeps_its_place(line):
    first, second = await put(line), await put(line)
    await line.release(await reserved(line))
    assert await line.position(first.id) == 1
    assert (await reserved(line)).job.id == first.id
    assert (await reserved(line)).job.id == second.id


async def test_a_delayed_job_is_ready_when_its_time_comes(line, clock):
    job = await put(line, delay_seconds=10)
    assert await state(line, job) is JobState.DELAYED
    assert await line.reserve("worker") is None
    clock.tick(10)
    assert await state(line, job) is JobState.READY
    assert (await reserved(line)).job.id == job.id


async def test_a_delayed_job_does_not_hold_up_the_line(line):
    await put(line, delay_seconds=10)
    behind = await put(line)
    assert await line.position(behind.id) == 1
    assert (await reserved(line)).job.id == behind.id


# Leases


async def test_a_reserved_job_is_in_one_hand_only(line):
    await put(line)
    lease = await reserved(line, "anna")
    assert (lease.job.state, lease.job.holder, lease.job.attempt) == (
        JobState.RESERVED,
        "anna",
        1,
    )
    assert await line.reserve("ben") is None


async def test_an_acked_job_is_done_with_its_result(line, clock):
    job = await put(line)
    lease = await reserved(line)
    clock.tick(4)
    done = await line.ack(lease, {"outcome": "done", "fields": {"phone": "2041"}})
    assert done.state is JobState.DONE and done.holder is None
    assert done.result == {"outcome": "done", "fields": {"phone": "2041"}}
    assert (await line.stats()).recent_seconds == (4.0,)
    assert await state(line, job) is JobState.DONE


async def test_a_second_ack_is_refused(line):
    await put(line)
    lease = await reserved(line)
    await line.ack(lease, {})
    with pytest.raises(LeaseLost):
        await line.ack(lease, {})


async def test_a_dead_workers_job_is_ready_again_after_lease_and_grace(line, clock):
    job = await put(line)
    dead = await reserved(line, "dead")
    clock.tick(LEASE + GRACE - 0.1)
    assert await state(line, job) is JobState.RESERVED
    assert await line.reserve("living") is None
    clock.tick(0.1)
    assert await state(line, job) is JobState.READY
    living = await reserved(line, "living")
    assert (living.job.id, living.job.attempt, living.job.fails) == (job.id, 2, 1)
    for stale in (
        line.ack(dead, {}),
        line.release(dead),
        line.bury(dead, "late"),
        line.touch(dead),
    ):
        with pytest.raises(LeaseLost):
            await stale
    await line.ack(living, {})


async def test_an_earlier_attempt_of_the_same_holder_counts_no_more(line, clock):
    """A slot that was frozen past its lease finds that it has the job once more."""
    await put(line)
    first = await reserved(line, "anna")
    clock.tick(LEASE + GRACE)
    second = await reserved(line, "anna")
    for stale in (line.ack(first, {}), line.release(first), line.touch(first)):
        with pytest.raises(LeaseLost):
            await stale
    await line.ack(second, {})


async def test_a_touched_lease_goes_on(line, clock):
    job = await put(line)
    lease = await reserved(line)
    for _ in range(5):
        clock.tick(LEASE / 3)
        renewed = await line.touch(lease)
        assert renewed.deadline == clock.monotonic() + LEASE
    assert await state(line, job) is JobState.RESERVED


async def test_a_lapsed_lease_cannot_be_touched_back_to_life(line, clock):
    """Its slot may have been given to another job; taking it back would be a third call."""
    await put(line)
    lease = await reserved(line)
    clock.tick(LEASE + GRACE)
    with pytest.raises(LeaseLost):
        await line.touch(lease)


async def test_a_lapsed_lease_may_still_end_its_job_while_nobody_else_took_it(line, clock):
    job = await put(line)
    lease = await reserved(line)
    clock.tick(LEASE + GRACE)
    await line.ack(lease, {"outcome": "done"})
    assert await state(line, job) is JobState.DONE


async def test_a_step_is_there_for_other_processes_to_read(line, path, clock):
    job = await put(line)
    lease = await reserved(line)
    await line.touch(lease, "running")
    other = Database(f"sqlite:///{path}")
    seen = await open_line(other, clock).peek(job.id)
    other.close()
    assert (seen.step, seen.state) == ("running", JobState.RESERVED)
    assert (await line.ack(lease, {})).step == ""


async def test_the_step_of_a_silent_holder_tells_the_next_that_a_call_may_be_under_way(line, clock):
    await put(line)
    await line.touch(await reserved(line), "running")
    clock.tick(LEASE + GRACE)
    second = await reserved(line)
    assert second.job.step == "running"
    await line.release(second)
    third = await reserved(line)
    assert third.job.step == "running"
    await line.release(third, nothing_sent=True)
    assert (await reserved(line)).job.step == ""


# Failing


async def test_a_job_that_fails_backs_off_and_is_buried_past_its_tries(line, clock):
    job = await put(line)
    for fails in (1, 2):
        released = await line.release(await reserved(line), error="busy")
        assert (released.state, released.fails) == (JobState.DELAYED, fails)
        clock.tick(BACKOFF)
    buried = await line.release(await reserved(line), error="busy")
    assert (buried.state, buried.fails, buried.error) == (JobState.BURIED, 3, "busy")
    clock.tick(10 * BACKOFF)
    assert await line.reserve("worker") is None
    assert (await line.peek(job.id)).state is JobState.BURIED


async def test_a_polite_release_is_not_counted(line):
    await put(line)
    for _ in range(10):
        released = await line.release(await reserved(line))
        assert (released.state, released.fails) == (JobState.READY, 0)


async def test_a_job_that_kills_its_workers_is_buried_and_the_line_goes_on(line, clock):
    poison, harmless = await put(line), await put(line)
    for _ in range(3):
        assert (await reserved(line)).job.id == poison.id
        clock.tick(LEASE + GRACE)
    assert (await reserved(line)).job.id == harmless.id
    buried = await line.peek(poison.id)
    assert (buried.state, buried.error) == (JobState.BURIED, "lease-lapsed")


async def test_a_kicked_job_is_ready_with_its_fails_forgotten(line):
    job = await put(line)
    await line.bury(await reserved(line), "broken")
    kicked = await line.kick(job.id)
    assert (kicked.state, kicked.fails, kicked.error) == (JobState.READY, 0, None)
    with pytest.raises(WrongState) as wrong:
        await line.kick(job.id)
    assert wrong.value.state == "ready"


async def test_a_delayed_job_can_be_kicked(line):
    job = await put(line, delay_seconds=1_000)
    assert (await line.kick(job.id)).state is JobState.READY


async def test_the_oldest_buried_jobs_are_kicked_first(line):
    kept = [await put(line) for _ in range(3)]
    for _ in kept:
        await line.bury(await reserved(line), "broken")
    assert [job.id for job in await line.kick_buried(2)] == [job.id for job in kept[:2]]
    assert await state(line, kept[2]) is JobState.BURIED


async def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked_to_stop(line):
    running, waiting = await put(line), await put(line)
    lease = await reserved(line)
    assert (await line.cancel(waiting.id)).state is JobState.CANCELLED
    assert (await line.cancel(running.id)).state is JobState.RESERVED
    assert (await line.touch(lease)).job.stop_asked
    await line.ack(lease, {})
    with pytest.raises(WrongState):
        await line.cancel(running.id)


async def test_a_job_not_begun_in_time_is_cancelled(line, clock):
    expired, waits = await put(line, ttl_seconds=60), await put(line)
    clock.tick(60)
    assert (await reserved(line)).job.id == waits.id
    cancelled = await line.peek(expired.id)
    assert (cancelled.state, cancelled.error) == (JobState.CANCELLED, "expired")


async def test_purge_cancels_what_expired_and_forgets_what_ended_long_ago(database, clock):
    line = open_line(database, clock, keep_seconds=1_000)
    ended, expiring, buried = await put(line), await put(line, ttl_seconds=60), await put(line)
    await line.ack(await reserved(line), {})
    await line.pause()
    clock.tick(60)
    assert await line.purge() == 0
    assert await state(line, expiring) is JobState.CANCELLED
    await line.resume()
    await line.bury(await reserved(line), "broken")
    clock.tick(990)
    assert await line.purge() == 1
    with pytest.raises(NotFound):
        await line.peek(ended.id)
    clock.tick(1_000_000)
    assert await line.purge() == 1
    assert await state(line, buried) is JobState.BURIED
    assert (await put(line)).id > buried.id


# The cap


async def test_no_more_than_cap_are_reserved(line, clock):
    for _ in range(5):
        await put(line)
    first = await reserved(line)
    await reserved(line)
    assert await line.reserve("worker") is None
    await line.ack(first, {})
    await reserved(line)
    assert await line.reserve("worker") is None
    clock.tick(LEASE + GRACE)
    await reserved(line)
    await reserved(line)
    assert await line.reserve("worker") is None


async def test_the_cap_holds_among_reserves_at_once(line):
    for _ in range(20):
        await put(line)
    leases = await asyncio.gather(*(line.reserve(f"worker-{n}") for n in range(20)))
    assert sum(lease is not None for lease in leases) == 2


async def test_all_processes_obey_the_cap_of_whoever_opened_last(database, clock):
    old = open_line(database, clock, cap=3)
    for _ in range(5):
        await put(old)
    new = open_line(database, clock, cap=1)
    await reserved(new)
    assert await old.reserve("worker") is None
    assert (await old.stats()).cap == 1


async def test_a_paused_line_gives_no_jobs_and_every_process_sees_why(line, database, clock):
    await put(line)
    await line.pause(reason="broken: service-account")
    other = open_line(database, clock)
    assert await other.reserve("worker") is None
    assert await other.paused() == "broken: service-account"
    assert (await other.stats()).paused_reason == "broken: service-account"
    await other.resume()
    assert await line.paused() is None
    await reserved(line)


async def test_a_pause_for_a_time_ends_by_itself(line, clock):
    await put(line)
    await line.pause(20, "maintenance")
    assert await line.reserve("worker") is None
    clock.tick(20)
    assert await line.paused() is None
    await reserved(line)


# Looking


async def test_stats_count_the_shown_states(line, clock):
    for _ in range(4):
        await put(line)
    await put(line, delay_seconds=1_000)
    await line.bury(await reserved(line), "broken")
    await reserved(line)
    stats = await line.stats()
    assert (stats.ready, stats.reserved, stats.delayed, stats.buried) == (2, 1, 1, 1)
    assert (stats.cap, stats.paused_reason, stats.recent_seconds) == (2, None, ())
    clock.tick(LEASE + GRACE)
    assert (await line.stats()).reserved == 0


async def test_stats_of_a_line_nobody_used_are_zero(line):
    stats = await line.stats()
    assert (stats.ready, stats.reserved, stats.buried, stats.cap) == (0, 0, 0, 2)


async def test_recent_run_times_are_the_last_fifty_newest_last(line, clock):
    for seconds in range(1, 56):
        await put(line)
        lease = await reserved(line)
        clock.tick(seconds / 10)
        await line.ack(lease, {})
    recent = (await line.stats()).recent_seconds
    assert len(recent) == 50
    assert recent[-1] == pytest.approx(5.5) and recent[0] == pytest.approx(0.6)


async def test_a_snapshot_shows_the_live_jobs_in_order(line):
    ended, buried, running, waiting = [await put(line) for _ in range(4)]
    await line.ack(await reserved(line), {})
    await line.bury(await reserved(line), "broken")
    await reserved(line)
    rows = await line.snapshot()
    assert [job.id for job in rows] == [buried.id, running.id, waiting.id]
    assert ended.id not in [job.id for job in rows]
    assert await line.ids_in_order() == [waiting.id]


async def test_an_act_on_a_job_that_changed_meanwhile_is_refused(line):
    job = await put(line)
    await reserved(line)
    for verb in (line.kick, line.cancel):
        with pytest.raises(WrongState) as refused:
            await verb(job.id, seen="ready")
        assert refused.value.code == "state-changed" and refused.value.state == "reserved"


async def test_a_cancelled_job_that_may_have_been_sent_says_so(line):
    job = await put(line)
    lease = await line.touch(await reserved(line), "running")
    await line.bury(lease, "broken")
    assert (await line.cancel(job.id)).error == "not-confirmed"
    other = await put(line)
    assert (await line.cancel(other.id)).error == "cancelled"


# Waking


@pytest.fixture
def no_looking_again(monkeypatch):
    monkeypatch.setattr("queue_backend.work.line.LOOK_EACH_SECONDS", 60)


@pytest.mark.usefixtures("no_looking_again")
async def test_a_waiting_reserve_wakes_at_a_put(line):
    waiting = asyncio.ensure_future(line.reserve("worker", wait_seconds=60))
    await asyncio.sleep(0.05)
    await put(line)
    assert await asyncio.wait_for(waiting, 5) is not None


@pytest.mark.usefixtures("no_looking_again")
async def test_a_waiting_reserve_wakes_at_an_ack_that_frees_a_slot(database, clock):
    line = open_line(database, clock, cap=1)
    await put(line)
    await put(line)
    lease = await reserved(line)
    waiting = asyncio.ensure_future(line.reserve("worker", wait_seconds=60))
    await asyncio.sleep(0.05)
    await line.ack(lease, {})
    assert await asyncio.wait_for(waiting, 5) is not None


async def test_a_put_of_another_process_is_seen_soon(line, path, clock):
    other = Database(f"sqlite:///{path}")
    waiting = asyncio.ensure_future(line.reserve("worker", wait_seconds=5))
    await asyncio.sleep(0.05)
    await put(open_line(other, clock))
    assert await waiting is not None
    other.close()


async def test_a_reserve_that_waits_in_vain_ends_with_nothing(line):
    assert await line.reserve("worker", wait_seconds=0.05) is None


# Secrets


SEALED = "4f2a.c2VhbGVkLWJ5LXRoZS1kZXNr"


async def put_sealed(line):
    return await line.put("change-password", {"fields": {"account": "knolan"}, "sealed": SEALED})


async def test_a_sealed_part_travels_to_the_holder(line):
    await put_sealed(line)
    lease = await reserved(line)
    assert lease.job.args == {"fields": {"account": "knolan"}, "sealed": SEALED}
    assert SEALED not in repr(lease)


@pytest.mark.parametrize("end", ["ack", "bury", "cancel", "expire", "lapse"])
async def test_a_sealed_part_is_erased_when_the_job_ends(database, path, clock, end):
    line = open_line(database, clock, tries=1)
    job = await line.put(
        "change-password",
        {"fields": {"account": "knolan"}, "sealed": SEALED},
        ttl_seconds=60 if end == "expire" else None,
    )
    if end == "ack":
        await line.ack(await reserved(line), {"outcome": "done"})
    elif end == "bury":
        await line.bury(await reserved(line), "broken")
    elif end == "cancel":
        await line.cancel(job.id)
    elif end == "expire":
        clock.tick(60)
        assert await line.reserve("worker") is None
    else:
        await reserved(line)
        clock.tick(LEASE + GRACE)
        assert await line.reserve("worker") is None
    assert (await line.peek(job.id)).args == {"fields": {"account": "knolan"}}
    database.close()  # the last to close folds the write-ahead log into the file
    assert SEALED.encode() not in path.read_bytes()


# Several processes

RUN_FORTY = """
import asyncio, sqlite3, sys, time
from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.work.line import JobLine

path, count_path, name = sys.argv[1:]
count = sqlite3.connect(count_path, isolation_level=None, timeout=20)
count.execute("PRAGMA synchronous=OFF")

def enter():
    count.execute("BEGIN IMMEDIATE")
    count.execute("UPDATE running SET now = now + 1, peak = max(peak, now + 1), runs = runs + 1")
    count.execute("COMMIT")

def leave():
    count.execute("UPDATE running SET now = now - 1")

async def main():
    database = Database(f"sqlite:///{path}")
    line = JobLine(database, "desk", clock=SystemClock(), cap=2)
    await asyncio.gather(*(line.put("short", {}, key=f"{name}-{n}") for n in range(40)))
    while True:
        lease = await line.reserve(name, wait_seconds=0.5)
        if lease is None:
            stats = await line.stats()
            if stats.ready + stats.reserved == 0:
                break
            continue
        enter()
        await asyncio.sleep(0.01)
        leave()
        await line.ack(lease, {})
    database.close()

asyncio.run(main())
"""


def test_six_processes_on_one_file_never_run_three_at_once(path, tmp_path):
    count_path = tmp_path / "count.db"
    count = sqlite3.connect(count_path, isolation_level=None)
    count.execute("PRAGMA journal_mode=WAL")
    count.execute("CREATE TABLE running (now INTEGER, peak INTEGER, runs INTEGER)")
    count.execute("INSERT INTO running VALUES (0, 0, 0)")
    processes = [
        subprocess.Popen([sys.executable, "-c", RUN_FORTY, str(path), str(count_path), f"p{n}"])
        for n in range(6)
    ]
    assert [process.wait(60) for process in processes] == [0] * 6
    now, peak, runs = count.execute("SELECT now, peak, runs FROM running").fetchone()
    count.close()
    assert (now, peak, runs) == (0, 2, 6 * 40)


HOLD = """
import asyncio, sys
from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.work.line import JobLine

async def main():
    database = Database(f"sqlite:///{sys.argv[1]}")
    line = JobLine(database, "desk", clock=SystemClock(), cap=2, lease_seconds=1,
                   grace_seconds=0.5)
    lease = await line.reserve("killed", wait_seconds=5)
    print(lease.job.id, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_job_of_a_killed_worker_comes_back_and_its_word_counts_no_more(path, database):
    line = JobLine(database, "desk", clock=SystemClock(), cap=2, lease_seconds=1, grace_seconds=0.5)
    job = await put(line)
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    assert int(await holder.stdout.readline()) == job.id
    taken = time.monotonic()
    held = await line.peek(job.id)
    assert (held.state, held.holder, held.attempt) == (JobState.RESERVED, "killed", 1)
    holder.send_signal(signal.SIGKILL)
    await holder.communicate()
    assert await line.reserve("living") is None
    lease = await line.reserve("living", wait_seconds=5)
    assert lease is not None and lease.job.attempt == 2
    assert 1.2 < time.monotonic() - taken < 4
    with pytest.raises(LeaseLost):
        await line.ack(type(lease)(held, lease.deadline), {})
    await line.ack(lease, {})


PUT_FOREVER = """
import asyncio, sys
from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.work.line import JobLine

async def main():
    line = JobLine(Database(f"sqlite:///{sys.argv[1]}"), "desk", clock=SystemClock(), cap=2)
    number = 0
    while True:
        number += 1
        await line.put("short", {}, key=str(number))
        print(number, flush=True)

asyncio.run(main())
"""


def test_a_killed_producer_loses_nothing_it_was_told_is_in_line(path):
    for _ in range(3):
        path.unlink(missing_ok=True)
        producer = subprocess.Popen(
            [sys.executable, "-c", PUT_FOREVER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert producer.stdout is not None
        for _ in range(20):
            producer.stdout.readline()
        producer.send_signal(signal.SIGKILL)
        told = 20 + len(producer.stdout.readlines())
        producer.stdout.close()
        producer.wait()
        database = Database(f"sqlite:///{path}")
        stats = JobLine(database, "desk", cap=2).stats().result()
        database.close()
        assert told <= stats.ready <= told + 1


async def test_puts_that_arrive_together_share_commits(line, database):
    before = database.commits
    await asyncio.gather(*(put(line, str(number)) for number in range(100)))
    assert database.commits - before <= 20
    assert (await line.stats()).ready == 100


# What else may be done with jobs


async def test_take_ends_a_job_in_one_step_and_keeps_the_order(line):
    first, second = await put(line), await put(line)
    assert (await line.take()).id == first.id
    assert (await line.peek(first.id)).state is JobState.DONE
    assert (await line.take()).id == second.id
    assert await line.take() is None


async def test_the_newest_goes_first_where_the_order_is_lifo(database, clock):
    line = open_line(database, clock, order="lifo")
    old, new = await put(line), await put(line)
    urgent = await put(line, pri=1)
    assert [(await line.take()).id for _ in range(3)] == [urgent.id, new.id, old.id]


async def test_names_and_keys_that_are_too_long_are_refused_on_every_engine(line):
    for field, text in (("task", "t" * 65), ("key", "k" * 129)):
        with pytest.raises(BadInput) as refused:
            await line.put(**{"task": "t", field: text})
        assert (refused.value.code, refused.value.field) == ("too-long", field)
    await line.put("t" * 64, key="k" * 128)


async def test_a_line_without_a_cap_lets_any_number_run(database, clock):
    line = open_line(database, clock, cap=None)
    for _ in range(20):
        await put(line)
        await reserved(line)
    assert (await line.stats()).reserved == 20


async def test_a_body_comes_back_byte_for_byte(line):
    body = bytes(range(256)) * 4
    job = await line.put("", body=body)
    assert job.body == body
    assert (await reserved(line)).job.body == body
    assert (await line.peek(job.id)).body == body


async def test_a_waiting_job_can_be_changed_and_another_cannot(line):
    job = await put(line)
    changed = await line.update(job.id, {"fields": {"account": "other"}}, b"more")
    assert changed.args == {"fields": {"account": "other"}} and changed.body == b"more"
    kept = await line.update(job.id, body=b"less")
    assert kept.args == changed.args and kept.body == b"less"
    lease = await reserved(line)
    assert lease.job.body == b"less"
    with pytest.raises(WrongState):
        await line.update(job.id, {})
    await line.ack(lease)
    with pytest.raises(WrongState):
        await line.update(job.id, {})


async def test_a_job_may_have_its_own_number_of_tries(line):
    await put(line, tries=1)
    assert (await line.release(await reserved(line), error="no")).state is JobState.BURIED


async def test_what_comes_next_is_there_when_a_job_is_acked_and_not_before(database, clock, line):
    other = JobLine(database, "paint", clock=clock, cap=1)
    await put(line)
    lease = await reserved(line)
    then = [Put("paint", {"colour": "red"}, line="paint"), Put("again", body=b"x")]
    await line.ack(lease, {"sawn": True}, then=then)
    painted = await reserved(other)
    assert painted.job.task == "paint" and painted.job.args == {"colour": "red"}
    assert (await reserved(line)).job.body == b"x"
    assert (await other.stats()).cap == 1


async def test_a_refused_ack_puts_nothing(database, clock, line):
    await put(line)
    lease = await reserved(line)
    await line.ack(lease)
    with pytest.raises(LeaseLost):
        await line.ack(lease, then=[Put("paint", line="paint")])
    assert await JobLine(database, "paint", clock=clock, cap=1).head() is None


async def test_a_next_stage_with_a_live_key_is_put_once(database, clock, line):
    for _ in range(2):
        await put(line)
        await line.ack(await reserved(line), then=[Put("paint", key="door", line="paint")])
    paint = JobLine(database, "paint", clock=clock, cap=None)
    assert (await paint.stats()).ready == 1


async def test_head_shows_the_next_one_and_takes_nothing(line):
    assert await line.head() is None
    first = await put(line)
    await put(line)
    assert (await line.head()).id == first.id
    assert (await line.head()).state is JobState.READY


async def test_only_the_next_one_can_be_claimed_by_its_id(line):
    first, second = await put(line), await put(line)
    assert await line.claim("me", only=second.id) is None
    assert (await line.claim("me", only=first.id)).job.id == first.id


async def test_a_lease_may_have_its_own_length(line, clock):
    await put(line)
    lease = await line.claim("me", lease_seconds=100)
    clock.tick(90)
    lease = await line.touch(lease, lease_seconds=100)
    clock.tick(90)
    await line.touch(lease)


async def test_join_waits_for_what_waits_and_runs(line):
    assert await line.join(0)
    await put(line)
    assert not await line.join(0)
    lease = await reserved(line)
    assert not await line.join(0)
    joined = asyncio.create_task(line.join(5))
    await line.ack(lease)
    assert await joined


async def test_who_waits_to_join_does_not_wait_for_the_buried(line):
    await put(line)
    await line.bury(await reserved(line), "broken")
    assert await line.join(0)


async def test_workers_say_what_their_slots_do_and_take_it_back(line, clock):
    one = SlotView("here", 1, "busy", 7, clock.wall())
    await line.report("here", [one, replace(one, slot=2, state="idle", job=None)])
    await line.report("there", [replace(one, holder="there", state="slow")])
    clock.tick(5)
    await line.report("here", [one])
    seen = await line.workers()
    assert [(view.holder, view.slot, view.state) for view in seen] == [
        ("here", 1, "busy"),
        ("there", 1, "slow"),
    ]
    assert seen[0].heard_at == clock.wall() and seen[1].heard_at == clock.wall() - 5
    await line.report("here", [])
    assert [view.holder for view in await line.workers()] == ["there"]
    clock.tick(4_000)
    await line.purge()
    assert await line.workers() == []


# In threads


def test_every_verb_can_be_asked_without_an_event_loop(database, clock):
    line = open_line(database, clock)
    job = line.put("look-up-phone", {"account": "knolan"}).result()
    lease = line.reserve_blocking("me")
    assert lease.job.id == job.id and line.reserve_blocking("me") is None
    assert (
        line.ack(line.touch(lease).result(), {"phone": "2041"}).result().result["phone"] == "2041"
    )
    assert line.join_blocking(0)


def test_a_put_wakes_a_waiting_thread(database):
    line = JobLine(database, "desk", cap=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(line.reserve_blocking, "me", 30)
        job = line.put("look-up-phone").result()
        lease = waiting.result(5)
        assert lease is not None and lease.job.id == job.id


def test_many_threads_lose_nothing_and_take_nothing_twice(database):
    line = JobLine(database, "desk", cap=None)
    with ThreadPoolExecutor(16) as pool:
        ids = [
            job.id for job in pool.map(lambda at: line.put("t", {"at": at}).result(), range(300))
        ]
        taken = list(pool.map(lambda _: line.take().result(), range(320)))
    assert sorted(job.id for job in taken if job) == sorted(ids)


async def test_a_refusal_undoes_nothing_of_its_neighbours(database, clock):
    """They share a transaction, which runs again when one of them refuses."""
    line = open_line(database, clock, depth=10)
    other = open_line(database, clock, depth=1_000)
    answers = await asyncio.gather(
        *(line.put("t", key=f"k{at}") for at in range(20)),
        *(other.put("t", key=f"o{at}") for at in range(20)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, LineFull)]
    there = [answer for answer in answers if isinstance(answer, Job)]
    assert len(refused) + len(there) == 40 and refused
    assert len(await line.snapshot()) == len(there)
