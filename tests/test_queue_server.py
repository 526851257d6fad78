"""The queue server: each command's promise, clients that vanish or hang, hostile input, and the
two clients of memcached that most programs use."""

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import memcache
import pymemcache
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

from queue_backend.database import Database
from queue_backend.errors import Unavailable
from queue_backend.work import memcache_server
from queue_backend.work.job import JobState
from queue_backend.work.line import JobLine
from queue_backend.work.memcache_server import Commands, Get, QueueServer, Refused, Set
from tests.processes import ROOT, Process, free_port, wait_until
from tests.work_cases import TurnedClock

LEASE, GRACE, TRIES = 30, 5, 3
MAX_BODY = 2_000


@pytest.fixture
def database(tmp_path):
    opened = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield opened
    opened.close()


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def serving(database, clock):
    """A queue server in this process, whose time passes by `clock.tick`."""

    @contextlib.asynccontextmanager
    async def open_one(cap=None, depth=10_000, max_body_bytes=MAX_BODY, **how):
        def open_line(name):
            return JobLine(
                database,
                name,
                clock=clock,
                cap=cap,
                lease_seconds=LEASE,
                grace_seconds=GRACE,
                tries=TRIES,
                depth=depth,
            )

        server = QueueServer(
            open_line, clock=clock, holder="tests", max_body_bytes=max_body_bytes, **how
        )
        port = free_port()
        server.listen(port, "127.0.0.1")
        async with contextlib.AsyncExitStack() as to_close:
            to_close.push_async_callback(server.close)

            async def client():
                mine = Client(*await asyncio.open_connection("127.0.0.1", port))
                to_close.push_async_callback(mine.vanish)
                return mine

            yield server, client

    return open_one


@pytest.fixture
async def server(serving):
    async with serving() as (opened, client):
        opened.client = client
        yield opened


@pytest.fixture
async def client(server):
    return await server.client()


@pytest.fixture
async def another(server):
    return await server.client()


class Client:
    """One connection, and what is said over it."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def say(self, said):
        self.writer.write(said)

    async def hear(self):
        """One whole answer."""
        heard = line = await asyncio.wait_for(self.reader.readline(), 10)
        while line.startswith((b"VALUE", b"STAT")):
            if line.startswith(b"VALUE"):
                heard += await self.reader.readexactly(int(line.split()[3]) + 2)
            line = await self.reader.readline()
            heard += line
        return heard

    async def ask(self, said):
        self.say(said)
        return await self.hear()

    async def put(self, line, body, flags=0, exptime=0):
        head = f"set {line} {flags} {exptime} {len(body)}\r\n".encode()
        assert await self.ask(head + body + b"\r\n") == b"STORED\r\n"

    async def get(self, keys):
        """The body, or None."""
        heard = await self.ask(f"get {keys}\r\n".encode())
        return None if heard == b"END\r\n" else heard.partition(b"\r\n")[2][: -len(b"\r\nEND\r\n")]

    async def is_hung_up_on(self):
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(self.reader.read(), 10) == b""
        return True

    async def vanish(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def until(check):
    for _ in range(1_000):
        if found := await check():
            return found
        await asyncio.sleep(0.005)
    raise AssertionError("waited in vain")


async def counted(server, line, **wanted):
    """Waits until the line's stats say so."""

    async def so():
        stats = await server.line(line).jobs.stats()
        return all(getattr(stats, name) == number for name, number in wanted.items())

    await until(so)


async def only_job(server, line):
    [job] = await server.line(line).jobs.snapshot()
    return job


# Putting and taking


async def test_what_is_set_can_be_got_and_is_gone_once_deleted(server, client):
    assert await client.ask(b"set ad 7 0 5\r\nhello\r\n") == b"STORED\r\n"
    assert await client.ask(b"get ad\r\n") == b"VALUE ad 7 5\r\nhello\r\nEND\r\n"
    assert await client.ask(b"delete ad\r\n") == b"DELETED\r\n"
    assert await client.ask(b"get ad\r\n") == b"END\r\n"
    await counted(server, "ad", ready=0, reserved=0)


async def test_jobs_come_in_the_order_in_which_they_were_put(client):
    for body in (b"a", b"b", b"c"):
        await client.put("ad", body)
    for body in (b"a", b"b", b"c"):
        assert await client.get("ad") == body
        assert await client.ask(b"delete ad\r\n") == b"DELETED\r\n"


async def test_a_body_is_bytes_that_nobody_looks_into(client):
    class Trap:
        def __reduce__(self):
            return (os._exit, (1,))

    for body in (b"", b"\r\nget ad\r\n", bytes(range(256)), pickle.dumps(Trap())):
        await client.put("ad", body)
        assert await client.get("ad") == body
        await client.ask(b"delete ad\r\n")


async def test_a_held_job_is_in_nobody_elses_hand(client, another):
    await client.put("ad", b"a")
    assert await client.get("ad") == b"a"
    assert await another.get("ad") is None


async def test_a_connection_holds_one_job_of_each_line(client):
    for line, body in (("ad", b"a"), ("ad", b"b"), ("mail", b"m")):
        await client.put(line, body)
    assert await client.get("ad") == b"a"
    assert await client.get("ad") is None
    assert await client.get("mail") == b"m"
    assert await client.ask(b"delete ad\r\n") == b"DELETED\r\n"
    assert await client.get("ad") == b"b"


async def test_the_first_of_several_lines_that_has_one_gives_it(client):
    await client.put("second", b"2")
    await client.put("third", b"3")
    assert await client.ask(b"gets first second third\r\n") == b"VALUE second 0 1 1\r\n2\r\nEND\r\n"
    assert await client.ask(b"get first second third\r\n") == b"VALUE third 0 1\r\n3\r\nEND\r\n"
    assert await client.get("first second third") is None


async def test_the_cas_of_a_job_is_its_attempt(client, another):
    await client.put("ad", b"a")
    assert await client.ask(b"gets ad\r\n") == b"VALUE ad 0 1 1\r\na\r\nEND\r\n"
    await client.vanish()
    assert await another.ask(b"gets ad/t=9999\r\n") == b"VALUE ad/t=9999 0 1 2\r\na\r\nEND\r\n"


async def test_peek_looks_and_takes_nothing(client, another):
    await client.put("ad", b"a", flags=3)
    for _ in range(2):
        assert await client.ask(b"get ad/peek\r\n") == b"VALUE ad/peek 3 1\r\na\r\nEND\r\n"
    assert await another.get("ad") == b"a"
    assert await client.ask(b"gets ad/peek\r\n") == b"END\r\n"


async def test_a_cap_holds_over_all_connections(serving):
    async with serving(cap=2) as (_, connect):
        clients = [await connect() for _ in range(3)]
        for body in (b"a", b"b", b"c"):
            await clients[0].put("ad", body)
        assert [await client.get("ad") for client in clients] == [b"a", b"b", None]
        await clients[0].ask(b"delete ad\r\n")
        assert await clients[2].get("ad") == b"c"


async def test_a_full_line_stores_nothing(serving):
    async with serving(depth=2) as (_, connect):
        client = await connect()
        await client.put("ad", b"a")
        await client.put("ad", b"b")
        assert await client.ask(b"set ad 0 0 1\r\nc\r\n") == b"NOT_STORED\r\n"
        await client.put("mail", b"m")


async def test_a_job_that_a_program_put_by_name_has_no_body(server, client):
    await server.line("ad").jobs.put("look-up", {"account": "knolan", "flags": "none"})
    assert await client.ask(b"get ad\r\n") == b"VALUE ad 0 0\r\n\r\nEND\r\n"


@pytest.mark.parametrize(
    ("exptime", "lasts_seconds"),
    [(0, None), (60, 60), (30 * 86_400, 30 * 86_400), (1_700_000_000 + 90, 90)],
)
async def test_what_nobody_took_in_time_is_gone(client, clock, exptime, lasts_seconds):
    """More than 30 days is a date: memcached's rule."""
    await client.put("ad", b"a", exptime=exptime)
    await client.put("ad", b"b", exptime=exptime)
    clock.tick((lasts_seconds or 365 * 86_400) - 1)
    assert await client.get("ad") == b"a"
    await client.ask(b"delete ad\r\n")
    clock.tick(1)
    assert await client.get("ad") == (b"b" if lasts_seconds is None else None)


@pytest.mark.parametrize("exptime", [-1, 1_600_000_000])
async def test_what_is_over_when_it_is_put_is_never_got(client, exptime):
    await client.put("ad", b"a", exptime=exptime)
    assert await client.get("ad") is None


# Waiting


@pytest.fixture
def no_looking_again(monkeypatch):
    monkeypatch.setattr(memcache_server, "LOOK_EACH_SECONDS", 60)


async def waiting(server, line, number):
    async def so():
        return len(server.line(line)._waiting) == number

    await until(so)


@pytest.mark.usefixtures("no_looking_again")
async def test_who_waits_is_woken_by_a_put(server, client, another):
    client.say(b"get ad/t=60000\r\n")
    await waiting(server, "ad", 1)
    await another.put("ad", b"a")
    assert await client.hear() == b"VALUE ad/t=60000 0 1\r\na\r\nEND\r\n"
    assert await client.ask(b"delete ad\r\n") == b"DELETED\r\n"


@pytest.mark.usefixtures("no_looking_again")
async def test_who_waits_is_woken_by_a_slot_that_comes_free(serving):
    async with serving(cap=1) as (server, connect):
        holder, waiter = await connect(), await connect()
        await holder.put("ad", b"a")
        await holder.put("ad", b"b")
        await holder.get("ad")
        waiter.say(b"get ad/t=60000\r\n")
        await waiting(server, "ad", 1)
        await holder.ask(b"delete ad\r\n")
        assert (await waiter.hear()).startswith(b"VALUE")


@pytest.mark.usefixtures("no_looking_again")
async def test_who_waited_longest_is_served_first(serving):
    async with serving() as (server, connect):
        clients = [await connect() for _ in range(4)]
        for number, client in enumerate(clients[:3], 1):
            client.say(b"get ad/t=60000\r\n")
            await waiting(server, "ad", number)
        for number in range(3):
            await clients[3].put("ad", b"%d" % number)
            assert b"\r\n%d\r\n" % number in await clients[number].hear()


@pytest.mark.usefixtures("no_looking_again")
async def test_many_who_wait_share_commits(database, serving):
    async with serving() as (server, connect):
        clients = [await connect() for _ in range(40)]
        for client in clients:
            client.say(b"get ad/t=60000\r\n")
        await waiting(server, "ad", 40)
        putting = await connect()
        before = database.commits
        putting.say(b"".join(b"set ad 0 0 2 noreply\r\n%02d\r\n" % n for n in range(40)))
        heard = [await client.hear() for client in clients]
        assert sorted(each.split(b"\r\n")[1] for each in heard) == [b"%02d" % n for n in range(40)]
        assert database.commits - before <= 20


@pytest.mark.usefixtures("no_looking_again")
async def test_who_waits_at_several_lines_gets_one_job(server, client, another):
    client.say(b"gets mail ad/t=60000\r\n")
    await waiting(server, "ad", 1)
    await waiting(server, "mail", 1)
    await another.put("mail", b"m")
    assert await client.hear() == b"VALUE mail 0 1 1\r\nm\r\nEND\r\n"
    await another.put("ad", b"a")
    await waiting(server, "ad", 0)
    assert await another.get("ad") == b"a"


async def test_what_another_process_puts_is_seen_soon(tmp_path, client, clock, server):
    other = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    client.say(b"get ad/t=10000\r\n")
    await waiting(server, "ad", 1)
    await JobLine(other, "ad", clock=clock, cap=None).put("", body=b"a")
    assert b"\r\na\r\n" in await client.hear()
    other.close()


async def test_who_waits_in_vain_is_told_so(server, client):
    assert await client.get("ad/t=50") is None
    assert not server.line("ad")._waiting


@pytest.mark.usefixtures("no_looking_again")
async def test_who_vanishes_while_waiting_takes_nothing(server, client, another):
    client.say(b"get ad/t=60000\r\n")
    await waiting(server, "ad", 1)
    await client.vanish()
    await waiting(server, "ad", 0)
    await another.put("ad", b"a")
    assert await another.ask(b"gets ad\r\n") == b"VALUE ad 0 1 1\r\na\r\nEND\r\n"


@pytest.mark.parametrize("key", ["ad", "ad/t=60000"])
async def test_who_vanishes_while_a_job_is_claimed_costs_it_no_try(server, client, another, key):
    """The client never saw it, so it did not fail."""
    jobs = server.line("ad").jobs
    claim = jobs.claim
    if key == "ad":
        await another.put("ad", b"a")

    async def claim_slowly(holder):
        lease = await claim(holder)
        if lease is not None:
            await client.vanish()
            await until(gone)
        return lease

    async def gone():
        return len(server.connections) == 1 or any(each._gone for each in server.connections)

    jobs.claim = claim_slowly
    client.say(f"get {key}\r\n".encode())
    if key != "ad":
        await waiting(server, "ad", 1)
        await another.put("ad", b"a")
    await until(gone)
    jobs.claim = claim
    await counted(server, "ad", ready=1, reserved=0)
    job = await only_job(server, "ad")
    assert (job.attempt, job.fails) == (1, 0)


# Acknowledging and renewing


@pytest.mark.parametrize("said", [b"delete ad\r\n", b"delete ad 0\r\n", b"touch ad 5\r\n"])
async def test_what_is_not_held_is_not_found(client, another, said):
    await another.put("ad", b"a")
    await another.get("ad")
    assert await client.ask(said) == b"NOT_FOUND\r\n"


async def test_old_clients_may_send_a_time_of_zero_with_a_delete(client):
    await client.put("ad", b"a")
    await client.get("ad")
    assert (await client.ask(b"delete ad 5\r\n")).startswith(b"CLIENT_ERROR")
    assert await client.ask(b"delete ad 0\r\n") == b"DELETED\r\n"


async def test_a_touched_lease_begins_anew(client, another, clock):
    await client.put("ad", b"a")
    await client.get("ad")
    clock.tick(LEASE - 1)
    assert await client.ask(b"touch ad 0\r\n") == b"TOUCHED\r\n"
    clock.tick(LEASE + GRACE - 1)
    assert await another.get("ad") is None
    clock.tick(1)
    assert await another.get("ad") == b"a"


async def test_a_lease_may_be_asked_to_last_longer(client, another, clock):
    await client.put("ad", b"a")
    await client.get("ad")
    assert await client.ask(b"touch ad 600\r\n") == b"TOUCHED\r\n"
    clock.tick(599)
    assert await another.get("ad") is None
    assert await client.get("ad") is None
    assert await client.ask(b"delete ad\r\n") == b"DELETED\r\n"


async def test_a_client_that_hangs_loses_its_job(client, another, clock):
    await client.put("ad", b"a")
    await client.put("ad", b"b")
    await client.get("ad")
    clock.tick(LEASE + GRACE)
    assert await another.ask(b"gets ad\r\n") == b"VALUE ad 0 1 2\r\na\r\nEND\r\n"
    assert await client.ask(b"touch ad 0\r\n") == b"NOT_FOUND\r\n"
    assert await client.ask(b"delete ad\r\n") == b"NOT_FOUND\r\n"
    assert await client.get("ad") == b"b"
    assert await another.ask(b"delete ad\r\n") == b"DELETED\r\n"


async def test_what_was_done_too_late_counts_if_nobody_else_began(client, another, clock):
    await client.put("ad", b"a")
    await client.get("ad")
    clock.tick(LEASE + GRACE)
    assert await client.ask(b"delete ad\r\n") == b"DELETED\r\n"
    assert await another.get("ad") is None


async def test_who_lost_a_job_may_take_another(client, clock):
    await client.put("ad", b"a")
    await client.get("ad")
    clock.tick(LEASE)
    assert await client.get("ad") is None  # within the grace nobody gets it
    clock.tick(GRACE)
    assert await client.get("ad") == b"a"


# Vanishing


async def test_who_vanishes_gives_the_job_back_to_its_old_place_at_once(server, client, another):
    await another.put("ad", b"a")
    await another.put("ad", b"b")
    await client.get("ad")
    await client.vanish()
    await counted(server, "ad", ready=2)
    assert await another.ask(b"gets ad\r\n") == b"VALUE ad 0 1 2\r\na\r\nEND\r\n"
    job = next(job for job in await server.line("ad").jobs.snapshot() if job.body == b"a")
    assert (job.fails, job.error) == (1, "disconnected")


async def test_quitting_gives_back_as_well(server, client):
    await client.put("ad", b"a")
    await client.get("ad")
    client.say(b"quit\r\nget ad\r\n")
    assert await client.is_hung_up_on()
    await counted(server, "ad", ready=1)


async def test_a_job_that_ends_all_its_clients_is_put_aside(serving):
    async with serving() as (server, connect):
        client = await connect()
        await client.put("ad", b"poison")
        await client.put("ad", b"b")
        for number in range(1, TRIES + 1):
            assert await client.get("ad") == b"poison"
            await client.vanish()
            await counted(server, "ad", reserved=0)
            await counted(server, "ad", buried=number == TRIES)
            client = await connect()
        assert await client.get("ad") == b"b"


async def test_what_was_said_before_vanishing_is_done(server, client, another):
    """pymemcache deletes without waiting for an answer, and may close at once."""
    await another.put("ad", b"a")
    await client.get("ad")
    client.say(b"delete ad noreply\r\nset ad 0 0 1 noreply\r\nb\r\n")
    await client.vanish()
    await counted(server, "ad", ready=1, reserved=0)
    assert await another.get("ad") == b"b"


async def test_who_only_ends_what_it_says_still_hears_the_answers(server, client):
    client.say(b"set ad 0 0 1\r\na\r\nversion\r\nget ad\r\n")
    client.writer.write_eof()
    heard = await client.reader.read()
    assert heard.startswith(b"STORED\r\nVERSION ")
    assert heard.endswith(b"END\r\n") and b"VALUE" not in heard
    await counted(server, "ad", ready=1)


async def test_closing_gives_back_politely_and_answers_who_waits(serving):
    async with serving() as (server, connect):
        holder, waiter = await connect(), await connect()
        await holder.put("ad", b"a")
        await holder.get("ad")
        waiter.say(b"get ad/t=60000\r\n")
        await waiting(server, "ad", 1)
        await server.close()
        assert await waiter.hear() == b"END\r\n"
        assert await holder.is_hung_up_on()
        job = await only_job(server, "ad")
        assert (job.state, job.fails, job.attempt) == (JobState.READY, 0, 1)


# Many commands at once, and bytes cut anywhere


async def test_commands_said_in_one_breath_are_answered_in_order(client):
    client.say(
        b"set ad 0 0 1\r\na\r\nset ad 0 0 1 noreply\r\nb\r\nget ad\r\nbogus\r\ndelete ad\r\n"
        b"set ad 0 0 1\r\nc\r\nget ad\r\ntouch ad 9\r\ndelete ad\r\nversion\r\n"
    )
    heard = [await client.hear() for _ in range(9)]
    assert heard == [
        b"STORED\r\n",
        b"VALUE ad 0 1\r\na\r\nEND\r\n",
        b"ERROR\r\n",
        b"DELETED\r\n",
        b"STORED\r\n",
        b"VALUE ad 0 1\r\nb\r\nEND\r\n",
        b"TOUCHED\r\n",
        b"DELETED\r\n",
        b"VERSION 1.0.0\r\n",
    ]


async def test_puts_said_in_one_breath_share_commits(database, client):
    before = database.commits
    client.say(b"".join(b"set ad 0 0 3\r\n%03d\r\n" % number for number in range(200)))
    for _ in range(200):
        assert await client.hear() == b"STORED\r\n"
    assert database.commits - before <= 20
    for number in range(200):
        assert await client.get("ad") == b"%03d" % number
        await client.ask(b"delete ad\r\n")


async def test_who_says_more_than_is_kept_ahead_is_heard_out(server, client):
    said = b"set ad 0 0 %d\r\n%b\r\n" % (MAX_BODY, bytes(MAX_BODY))
    each = 300
    assert each * len(said) > 2 * memcache_server.MOST_AHEAD_BYTES
    client.say(said * each)
    for _ in range(each):
        assert await client.hear() == b"STORED\r\n"
    await counted(server, "ad", ready=each)


async def test_who_says_much_holds_up_nobody_else(client, another):
    client.say(b"version\r\n" * 20_000)
    await client.hear()
    assert (await another.ask(b"version\r\n")).startswith(b"VERSION")
    assert len(client.reader._buffer) < 10_000 * len(b"VERSION 1.0.0\r\n")


async def test_a_refusal_in_the_middle_of_a_breath_keeps_its_place(serving):
    async with serving(depth=2) as (_, connect):
        client = await connect()
        client.say(b"set ad 0 0 1\r\na\r\n" * 3 + b"set mail 0 0 1\r\na\r\n")
        heard = [await client.hear() for _ in range(4)]
        assert heard == [b"STORED\r\n", b"STORED\r\n", b"NOT_STORED\r\n", b"STORED\r\n"]


async def test_a_command_may_come_byte_by_byte(client):
    for byte in b"set ad 0 0 4\r\na\r\nb\r\ngets ad\r\n":
        client.say(bytes([byte]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert await client.hear() == b"STORED\r\n"
    assert await client.hear() == b"VALUE ad 0 4 1\r\na\r\nb\r\nEND\r\n"


async def test_who_does_not_read_holds_up_nobody_else(serving, clock):
    async with serving(max_body_bytes=2**20) as (server, connect):
        slow, client = await connect(), await connect()
        await client.put("ad", bytes(2**20))
        slow.say(b"get ad/peek\r\n" * 50)

        async def stuck():
            return [each for each in server.connections if each._unread]

        [answering] = await until(stuck)
        # Of the 50 MiB that it asked for only what is being read is kept ready.
        assert answering._transport.get_write_buffer_size() < 3 * 2**20
        await client.put("mail", b"m")
        assert await client.get("mail") == b"m"
        await server.round()
        assert len(server.connections) == 2
        clock.tick(memcache_server.PATIENCE_SECONDS + 1)
        await server.round()

        async def alone():
            return len(server.connections) == 1

        await until(alone)
        assert await client.ask(b"delete mail\r\n") == b"DELETED\r\n"


# What does not read


@pytest.mark.parametrize(
    "said",
    [b"", b"bogus", b"flush_all", b"verbosity 1", b"incr ad 1", b"gat 1 ad", b"mg ad v", b"get"]
    + [b"delete", b"touch ad", b"stats items", b"GET ad", b"quit now", b"shutdown", b"\x80\x00"],
)
async def test_what_is_not_known_is_an_error(client, said):
    assert await client.ask(said + b"\r\n") == b"ERROR\r\n"
    assert (await client.ask(b"version\r\n")).startswith(b"VERSION")


@pytest.mark.parametrize("verb", ["add", "replace", "append", "prepend", "cas", "ms"])
async def test_the_block_of_a_command_that_is_not_known_is_not_read_as_commands(client, verb):
    await client.put("ad", b"a")
    await client.get("ad")
    head = "ms ad 9" if verb == "ms" else f"{verb} ad 0 0 9"
    assert await client.ask(head.encode() + b"\r\ndelete ad\r\n") == b"ERROR\r\n"
    assert await client.ask(b"delete ad\r\n") == b"DELETED\r\n"


@pytest.mark.parametrize("extra", [1, 100_000])
async def test_what_is_too_large_is_swallowed_and_refused(server, client, extra):
    size = MAX_BODY + extra
    client.say(b"set ad 0 0 %d\r\n%b\r\nversion\r\n" % (size, b"version\r\n" * (size // 9 + 1)))
    client.say(b"")
    heard = await client.hear()
    assert heard == b"SERVER_ERROR object too large for cache\r\n"
    await client.vanish()
    await counted(server, "ad", ready=0)


async def test_after_what_was_too_large_the_connection_goes_on(client):
    await client.put("ad", bytes(MAX_BODY))
    said = b"set ad 0 0 %d\r\n%b\r\n" % (MAX_BODY + 1, bytes(MAX_BODY + 1))
    assert await client.ask(said) == b"SERVER_ERROR object too large for cache\r\n"
    client.say(b"set ad 0 0 %d noreply\r\n%b\r\n" % (MAX_BODY + 1, bytes(MAX_BODY + 1)))
    assert await client.ask(b"version\r\n") == b"VERSION 1.0.0\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"get a/b\r\n",
        b"get ad/t=\r\n",
        b"get ad/t=-1\r\n",
        b"get ad/t=999999999\r\n",
        b"get ad/open\r\n",
        b"get " + b"x" * 65 + b"\r\n",
        b"get " + b"x" * 251 + b"\r\n",
        b"get ad \xe5\xbc\xa0\r\n",
        b"get ad\x00\r\n",
        b"delete ad/peek\r\n",
        b"delete ad 5\r\n",
        b"touch ad -1\r\n",
        b"touch ad 2592001\r\n",
        b"touch a/b 1\r\n",
        b"set a/b 0 0 1\r\na\r\n",
        b"set " + b"x" * 251 + b" 0 0 1\r\na\r\n",
        b"set ad -1 0 1\r\na\r\n",
        b"set ad 4294967296 0 1\r\na\r\n",
        b"set ad 0 x 1\r\na\r\n",
        b"set ad 0 --1 1\r\na\r\n",
        b"set ad 0 0 1 noreply more\r\na\r\n",
    ],
)
async def test_what_is_malformed_is_refused_and_the_connection_goes_on(client, said):
    assert (await client.ask(said)).startswith(b"CLIENT_ERROR ")
    assert await client.ask(b"version\r\n") == b"VERSION 1.0.0\r\n"


@pytest.mark.parametrize(
    "said",
    [
        b"set ad 0 0\r\n",
        b"set ad 0 0 x\r\n",
        b"set ad 0 0 -1\r\n",
        b"set ad 0 0 1_0\r\n",
        b"set ad 0 0 99999999999999999999\r\n",
        b"add ad 0 0\r\n",
        b"set ad 0 0 1\r\nabc\r\n",
        b"x" * 9_000,
        b"get " + b"ad " * 4_000 + b"\r\n",
    ],
)
async def test_where_it_cannot_be_known_what_is_a_body_the_connection_ends(server, client, said):
    """Else the rest of a body would be read as commands."""
    client.say(said + b"set ad 0 0 1\r\na\r\n")
    assert (await client.hear()).startswith(b"CLIENT_ERROR ")
    assert await client.is_hung_up_on()
    await counted(server, "ad", ready=0)


async def test_a_refusal_that_nobody_waits_for_is_not_said(client):
    client.say(b"set a/b 0 0 1 noreply\r\na\r\ndelete a/b noreply\r\ndelete ad noreply\r\n")
    assert await client.ask(b"version\r\n") == b"VERSION 1.0.0\r\n"


async def test_a_database_that_fails_is_said_and_the_job_stays_in_hand(server, client, monkeypatch):
    await client.put("ad", b"a")
    await client.get("ad")
    with monkeypatch.context() as broken:
        broken.setattr(Database, "write", fail)
        for said in (
            b"set ad 0 0 1\r\na\r\n",
            b"get mail\r\n",
            b"delete ad\r\n",
            b"touch ad 1\r\n",
        ):
            assert (await client.ask(said)).startswith(b"SERVER_ERROR ")
    assert await client.ask(b"delete ad\r\n") == b"DELETED\r\n"


def fail(*_):
    raise Unavailable("database-unavailable")


# Bounds


async def test_connections_are_bounded(serving):
    async with serving(most_connections=2) as (_, connect):
        first, _, third = [await connect() for _ in range(3)]
        assert await third.hear() == b"ERROR Too many open connections\r\n"
        assert await third.is_hung_up_on()
        await first.put("ad", b"a")
        await first.vanish()

        async def has_room():
            again = await connect()
            return (await again.ask(b"version\r\n")).startswith(b"VERSION")

        await until(has_room)


async def test_lines_are_bounded(client, monkeypatch):
    monkeypatch.setattr(memcache_server, "MOST_LINES", 2)
    await client.put("one", b"a")
    await client.put("two", b"a")
    assert await client.ask(b"get three\r\n") == b"SERVER_ERROR too many lines\r\n"
    assert await client.ask(b"set three 0 0 1\r\na\r\n") == b"SERVER_ERROR too many lines\r\n"
    assert await client.get("two") == b"a"


@pytest.mark.parametrize("said", [b"set ad 0 0 9\r\nabc", b"set ad 0 0 99999\r\nabc", b"ge"])
async def test_half_a_command_is_not_waited_for_for_ever(server, client, another, clock, said):
    await another.put("ad", b"a")
    await another.get("ad")
    client.say(said)

    async def stuck():
        return any(each.stuck_since for each in server.connections)

    await until(stuck)
    clock.tick(memcache_server.PATIENCE_SECONDS)
    await server.round()
    assert len(server.connections) == 2
    clock.tick(1)
    await server.round()
    assert await client.is_hung_up_on()
    # Who works on a job says nothing for long, and is left alone.
    assert (await another.ask(b"version\r\n")).startswith(b"VERSION")


async def test_lines_of_somebody_else_are_closed(serving):
    async with serving(closed=("desk",)) as (_, connect):
        client = await connect()
        for said in (b"get desk\r\n", b"get desk/peek\r\n", b"set desk 0 0 1\r\na\r\n"):
            assert (await client.ask(said)).startswith(b"CLIENT_ERROR ")


# What it tells


async def test_stats_tell_the_server_and_each_line(server, client, another):
    for body in (b"a", b"b", b"c"):
        await client.put("ad", body)
    await client.get("ad mail")
    heard = (await another.ask(b"stats\r\n")).decode().splitlines()
    assert heard.pop() == "END"
    told = dict(row.removeprefix("STAT ").split(" ", 1) for row in heard)
    assert told["pid"] == str(os.getpid())
    assert told["time"] == "1700000000"
    assert (told["curr_connections"], told["curr_items"]) == ("2", "3")
    assert (told["cmd_set"], told["cmd_get"], told["get_hits"], told["get_misses"]) == (
        *("3", "1", "1", "0"),
    )
    assert (told["line_ad_ready"], told["line_ad_reserved"]) == ("2", "1")


async def test_what_ended_long_ago_is_forgotten(server, client, clock):
    await client.put("ad", b"a")
    await client.get("ad")
    await client.ask(b"delete ad\r\n")
    clock.tick(86_401)
    await server.purge()
    assert (await server.line("ad").jobs.stats()).recent_seconds == ()


# Hostile bytes


NAMES = some.from_regex(rb"[A-Za-z0-9.:@_-]{1,64}", fullmatch=True)
BODIES = some.binary(max_size=60)
SETS = some.builds(
    lambda name, flags, exptime, body, noreply: (
        b"set %b %d %d %d%b\r\n%b\r\n" % (name, flags, exptime, len(body), noreply, body),
        Set(name.decode(), flags, exptime, body, bool(noreply)),
    ),
    NAMES,
    some.integers(0, 2**32 - 1),
    some.integers(-(2**31) + 1, 2**31 - 1),
    BODIES,
    some.sampled_from([b"", b" noreply"]),
)
PIECES = some.one_of(
    SETS.map(lambda both: both[0]),
    some.binary(max_size=80),
    some.sampled_from(
        [b"get ad/t=5 b/peek\r\n", b"delete ad 0 noreply\r\n", b"touch ad 7\n", b"stats\r\n"]
        + [b"set ad 0 0 50\r\n", b"add a 0 0 3\r\n", b"ms a 2 \r\n", b"\r\n", b"\n", b" ", b"set"]
    ),
)


def read_all(pieces, max_body_bytes=50):
    """The commands, up to where the connection would be closed."""
    commands = Commands(max_body_bytes)
    found = []
    for piece in pieces:
        commands.feed(piece)
        while (command := commands.next()) is not None:
            found.append(command)
            if isinstance(command, Refused) and command.hang_up:
                return found
    return found


@given(some.lists(SETS))
def test_every_set_is_read_as_it_was_said(sets):
    said = b"".join(both[0] for both in sets)
    assert read_all([said], max_body_bytes=60) == [both[1] for both in sets]


@given(some.lists(PIECES), some.data())
def test_it_does_not_matter_how_bytes_are_cut(pieces, data):
    said = b"".join(pieces)
    cuts = data.draw(some.lists(some.integers(0, len(said)), max_size=20).map(sorted))
    cut = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    assert read_all(cut) == read_all([said])


@given(some.lists(PIECES))
def test_whatever_is_said_only_names_that_are_names_come_through(pieces):
    for command in read_all([b"".join(pieces)]):
        match command:
            case Set(line, _, _, body):
                assert len(body) <= 50 and 1 <= len(line) <= 64
            case Get(wanted):
                assert all(len(each.line) <= 64 and "/" not in each.line for each in wanted)
            case Refused(reply):
                assert reply == b"" or reply.endswith(b"\r\n") and reply.count(b"\n") == 1


# The real server and its real clients


class Served(Process):
    """A real `app.py queue-server` with a data directory and a port of its own. Started again
    on the same object it finds what it left behind, at the same address."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory, "queue-server")
        self.options = options
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self._clients: list[pymemcache.Client] = []

    def start(self):
        self.launch()
        wait_until("the queue server", 20, self.answers)
        return self

    def launch(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NOWSERVING_")}
        environment["NOWSERVING_DATA_DIRECTORY"] = str(self.directory / "data")
        command = [sys.executable, str(ROOT / "app.py"), "queue-server", "--port", str(self.port)]
        self.spawn([*command, *self.options], environment)

    def answers(self):
        assert self.running, f"it ended with {self.wait()}\n{self.log}"
        with contextlib.suppress(OSError), socket.create_connection(self.address, 1):
            return True
        return False

    def client(self, waits=True):
        client = pymemcache.Client(self.address, default_noreply=not waits, timeout=10)
        self._clients.append(client)
        return client

    def __enter__(self):
        return self.start()

    def __exit__(self, *trouble):
        for client in self._clients:
            client.close()
        super().__exit__(*trouble)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("served")) as server:
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_it_passes_with_pymemcache(served):
    client, another = served.client(), served.client()
    assert client.set("py", b"a", flags=9) and client.set("py", b"b", expire=60)
    assert client.get("py/peek") == b"a"
    assert client.get("py") == b"a"
    assert client.get("py") is None
    assert another.gets("py") == (b"b", b"1")
    assert client.touch("py", 10)
    assert client.delete("py")
    assert not client.delete("py")
    assert another.delete("py")
    assert client.get("py/t=20", default=b"none") == b"none"
    assert client.set_many({"py": b"c", "py2": b"d"}) == []
    assert client.get_many(["nothing", "py", "py2"]) == {"py": b"c"}
    assert client.get_many(["nothing", "py", "py2"]) == {"py2": b"d"}
    assert client.delete_many(["py", "py2"])
    assert client.stats()[b"cmd_set"] == 4
    assert client.version() == b"1.0.0"
    with pytest.raises(MemcacheServerError, match="too large"):
        client.set("py", bytes(2**20 + 1))
    with pytest.raises(MemcacheClientError):
        client.get("a/b")
    client.quit()


def test_it_passes_with_pymemcache_that_waits_for_no_answer(served):
    client = served.client(waits=False)
    for number in range(50):
        client.set("pynoreply", b"%d" % number)
    for number in range(50):
        assert client.get("pynoreply") == b"%d" % number
        client.delete("pynoreply")


def test_it_passes_with_python_memcached(served):
    client = memcache.Client([f"127.0.0.1:{served.port}"], socket_timeout=10)
    another = memcache.Client([f"127.0.0.1:{served.port}"], socket_timeout=10)
    assert client.set("pm", "text") and client.set("pm", 42)
    assert client.get("pm/peek") == "text"
    assert client.get("pm") == "text"
    assert client.get("pm") is None
    assert another.gets("pm") == 42
    assert client.touch("pm", 10)
    assert client.delete("pm") == 1
    assert another.delete("pm") == 1
    assert client.get("pm/t=20") is None
    assert client.set("pm", b"c", time=60)
    assert client.get_multi(["nothing", "pm"]) == {"pm": b"c"}
    assert client.delete("pm") == 1
    [(_, stats)] = client.get_stats()
    assert stats["line_pm_ready"] == "0"
    client.disconnect_all()
    another.disconnect_all()


def test_it_listens_where_only_this_machine_reaches_it(served):
    assert f"served at 127.0.0.1:{served.port}." in served.output
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.port), 1).close()


def test_thirty_two_clients_at_once_lose_and_double_nothing(served):
    each, clients = 20, 32
    taken: list[bytes] = []

    def put_and_take(number):
        client = served.client()
        for count in range(each):
            assert client.set("crowd", b"%d-%d" % (number, count))
            body = client.get("crowd/t=10000")
            assert client.delete("crowd")
            taken.append(body)

    threads = [threading.Thread(target=put_and_take, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    put = {b"%d-%d" % (number, count) for number in range(clients) for count in range(each)}
    assert len(taken) == len(put) and set(taken) == put


HOLD = """
import socket, sys, time
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(b"get killed\\r\\n")
print(client.recv(100), flush=True)
time.sleep(60)
"""


def test_the_job_of_a_killed_client_is_back_at_once(served):
    client = served.client()
    client.set("killed", b"a")
    command = [sys.executable, "-c", HOLD, str(served.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert b"VALUE" in holder.stdout.readline()
        assert client.get("killed") is None
        holder.kill()
        assert client.gets("killed/t=5000") == (b"a", b"2")
    assert client.delete("killed")


def test_garbage_harms_nobody_else(served):
    client = served.client()
    for seed in range(40):
        garbage = bytes((seed * 7 + n * n) % 256 for n in range(seed * 50))
        with socket.create_connection(served.address, 5) as hostile:
            hostile.sendall(garbage + b"\r\nset x 0 0 99999999\r\n" + garbage)
        assert client.version() == b"1.0.0"


def test_what_broke_redqueue(tmp_path):
    """job-line.md 2.1: after the second loss it had a, which was done, and not d."""
    with Served(tmp_path, "--lease-seconds", "1", "--grace-seconds", "0") as server:
        client = server.client()
        for body in (b"a", b"b", b"c"):
            assert client.set("ad", body)
        assert client.get("ad") == b"a"
        server.kill()
        server.start()
        holder, client = server.client(), server.client()
        wait_until("the lease of a to end", 5, lambda: client.get("ad/peek") == b"a")
        assert holder.gets("ad") == (b"a", b"2")
        assert holder.touch("ad", 60)
        for body in (b"b", b"c"):
            assert client.get("ad") == body
            assert client.delete("ad")
        assert client.set("ad", b"d")
        assert holder.delete("ad")
        server.kill()
        server.start()
        client = server.client()
        assert client.gets("ad") == (b"d", b"1")
        assert client.delete("ad")
        assert client.get("ad/t=1500") is None


def test_stopping_gives_back_politely(tmp_path):
    with Served(tmp_path, "--tries", "1") as server:
        client = server.client()
        client.set("ad", b"a")
        assert client.gets("ad") == (b"a", b"1")
        assert server.stop() == 0
        assert "Traceback" not in server.log
        server.start()
        again = server.client()
        assert again.gets("ad") == (b"a", b"2")
        assert again.delete("ad")


def test_it_ends_at_ctrl_c_though_somebody_waits(tmp_path):
    with Served(tmp_path) as server, socket.create_connection(server.address, 5) as waiter:
        waiter.sendall(b"get ad/t=60000\r\n")
        client = server.client()
        wait_until("the get", 5, lambda: client.stats()[b"cmd_get"] == 1)
        server.send(signal.SIGINT)
        assert waiter.recv(100) == b"END\r\n"
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--jobs", "mongodb://x"], "a database is named like"),
        (["--host", "203.0.113.7"], "cannot listen on 203.0.113.7"),
    ],
)
def test_what_keeps_it_from_opening_is_one_sentence(tmp_path, options, sentence):
    with contextlib.ExitStack() as to_close:
        server = Served(tmp_path, *options)
        to_close.callback(server.kill)
        server.launch()
        assert server.wait() == 2
        assert server.log.startswith("Now Serving cannot start: ")
        assert sentence in server.log and "Traceback" not in server.log


def test_a_taken_port_is_said_in_a_sentence(served, tmp_path):
    server = Served(tmp_path)
    server.port = served.port
    server.launch()
    assert server.wait() == 2
    assert "is taken by another program; choose another with --port" in server.log


def test_the_lines_of_people_are_not_for_queue_clients(tmp_path):
    """Opened here they would lose their cap, and show strangers what people asked for."""
    path = tmp_path / "data" / "now-serving.db"
    with Served(tmp_path, "--jobs", f"sqlite:///{path}") as server:
        client = server.client()
        with pytest.raises(MemcacheClientError):
            client.get("desk")
        assert client.set("other", b"a")
