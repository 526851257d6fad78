"""Both stores under one contract, and what a real memcached does when it is in trouble."""

import asyncio
import contextlib
import time

import pytest

from queue_backend.clock import SystemClock
from queue_backend.errors import Unavailable
from queue_backend.people.memcached import DEADLINE_SECONDS, TIMEOUT_SECONDS, MemcachedStore
from queue_backend.people.memory import MemoryStore
from tests.processes import Memcached, free_port
from tests.store_contract import StoreContract, read

AT_MOST = DEADLINE_SECONDS + TIMEOUT_SECONDS + 0.5  # half a second for a busy machine


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, clock):
        return MemoryStore(clock)

    @pytest.fixture
    def pass_time(self, clock):
        async def pass_time(seconds):
            clock.tick(seconds)

        return pass_time

    async def test_it_forgets_everything_when_it_is_closed(self, store):
        await store.add("a", b"one")
        store.close()
        assert await store.gets("a") is None


class TestMemcachedStore(StoreContract):
    @pytest.fixture
    def store(self, memcached):
        memcached.flush()
        with contextlib.closing(store_at(memcached.port)) as store:
            yield store

    @pytest.fixture
    def pass_time(self):
        return asyncio.sleep


def store_at(port):
    return MemcachedStore("127.0.0.1", port, SystemClock())


@pytest.fixture
def own_memcached(tmp_path):
    """One that may be stopped and killed."""
    with Memcached(tmp_path / "memcached") as server:
        yield server


@pytest.fixture
def store(own_memcached):
    with contextlib.closing(store_at(own_memcached.port)) as store:
        yield store


async def longest_wait_of_a_page(until):
    """How long the event loop kept a page waiting, at worst, while `until` was under way."""
    longest, last = 0.0, time.monotonic()
    while not until.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


# Stopped: connections stay open and nothing answers


async def test_a_stopped_memcached_is_unavailable_within_the_deadline(own_memcached, store):
    await store.add("a", b"one")
    token = (await read(store, "a")).token
    own_memcached.hold()
    for act in (
        lambda: store.cas("a", b"two", token),
        lambda: store.gets("a"),
        lambda: store.get_many(["a"]),
        lambda: store.add("b", b"two"),
        lambda: store.touch_many(["a"], 60),
        lambda: store.remaining(["a"]),
        lambda: store.ready(),
    ):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await act()
        assert time.monotonic() - began < AT_MOST


async def test_calls_that_queue_behind_a_hung_one_do_not_wait_longer(own_memcached, store):
    await store.add("a", b"one")
    own_memcached.hold()
    began = time.monotonic()
    outcomes = await asyncio.gather(*(store.gets("a") for _ in range(40)), return_exceptions=True)
    assert time.monotonic() - began < AT_MOST
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)


async def test_a_stopped_memcached_never_stops_the_pages(own_memcached, store):
    await store.add("a", b"one")
    own_memcached.hold()
    asking = asyncio.gather(*(store.gets("a") for _ in range(12)), return_exceptions=True)
    # On the event loop the twelve would hold it up for three seconds.
    assert await longest_wait_of_a_page(asking) < 0.7
    await asking


async def test_when_memcached_goes_on_the_store_does_too(own_memcached, store):
    await store.add("a", b"one")
    own_memcached.hold()
    with pytest.raises(Unavailable):
        await store.gets("a")
    own_memcached.go_on()
    assert (await read(store, "a")).value == b"one"


async def test_what_timed_out_may_have_been_applied_later(own_memcached, store):
    """An unknown outcome: neither done nor not done, and never counted on."""
    own_memcached.hold()
    with pytest.raises(Unavailable):
        await store.add("a", b"one")
    own_memcached.go_on()
    assert await store.gets("a") is None or (await read(store, "a")).value == b"one"


# Killed and started again


async def test_a_killed_memcached_is_unavailable_and_not_empty(own_memcached, store):
    await store.add("a", b"one")
    own_memcached.kill()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.gets("a")
        with pytest.raises(Unavailable):
            await store.get_many(["a"])
        with pytest.raises(Unavailable):
            await store.remaining(["a"])


async def test_after_a_restart_the_store_works_again(own_memcached, store):
    await store.add("a", b"one")
    own_memcached.kill()
    own_memcached.start()
    with contextlib.suppress(Unavailable):  # the one connection finds out that it is dead
        await store.gets("a")
    assert await store.gets("a") is None
    assert await store.add("a", b"two")


@pytest.mark.parametrize("reconnected", [False, True])
async def test_a_token_from_before_a_restart_is_refused(own_memcached, store, reconnected):
    """memcached's ids begin at 1 again: an old token would match another value."""
    await store.add("a", b"before")
    token = (await read(store, "a")).token
    own_memcached.kill()
    own_memcached.start()
    with contextlib.closing(store_at(own_memcached.port)) as other:
        await other.add("a", b"after")
        assert (await read(other, "a")).token.cas == token.cas, "else this test shows nothing"
        with contextlib.suppress(Unavailable):
            await store.gets("b")
        if reconnected:
            await store.gets("b")
        assert not await store.cas("a", b"from before", token)
        assert (await read(other, "a")).value == b"after"


async def test_where_nothing_listens_the_store_is_unavailable():
    with contextlib.closing(store_at(free_port())) as store:
        with pytest.raises(Unavailable):
            await store.ready()


# Answers in parts


@contextlib.asynccontextmanager
async def answering(serve):
    """A server that answers each request as `serve(request, writer)` does."""

    talks: list[asyncio.Task[None]] = []

    async def talk(reader, writer):
        task = asyncio.current_task()
        assert task is not None
        talks.append(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n"):
                await serve(request, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", free_port())
    store = store_at(server.sockets[0].getsockname()[1])
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)
        server.close()
        await asyncio.gather(*talks)


async def in_pieces(writer, answer, pause):
    for at in range(len(answer)):
        writer.write(answer[at : at + 1])
        await writer.drain()
        await asyncio.sleep(pause)


async def test_an_answer_in_many_parts_is_put_together():
    async def serve(request, writer):
        await in_pieces(writer, b"HD t42\r\n" if b"mg a" in request else b"EN\r\n", 0.001)

    async with answering(serve) as store:
        assert await store.remaining(["a", "b"]) == {"a": 42}


async def test_an_answer_that_trickles_ends_at_the_deadline():
    """A time-out is per read: without a deadline of its own this call lasted 4 s."""

    async def serve(request, writer):
        await in_pieces(writer, b"VALUE a 0 20 7\r\n" + b"x" * 20 + b"\r\nEND\r\n", 0.2)

    async with answering(serve) as store:
        for act in (store.gets, lambda key: store.remaining([key])):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await act("a")
            assert time.monotonic() - began < AT_MOST


@pytest.mark.parametrize(
    "answer",
    [
        b"SERVER_ERROR out of memory storing object\r\n",
        b"ERROR\r\n",
        b"CLIENT_ERROR bad data chunk\r\n",
        b"HD t5\r\nHD t6\r\n",
        b"\r\n",
        b"<html>\r\n",
    ],
)
async def test_an_answer_that_is_none_is_unavailable_and_never_absent(answer):
    async def serve(request, writer):
        writer.write(answer)

    async with answering(serve) as store:
        with pytest.raises(Unavailable):
            await store.remaining(["a"])
        with pytest.raises(Unavailable):
            await store.add_many({"a": b"1"}, 60)


async def test_an_error_leaves_no_answer_behind_for_the_next_call(store, monkeypatch):
    """Refused by the server itself, past our own look at the size; the next answer fits."""
    monkeypatch.setattr("queue_backend.people.memcached.LARGEST_VALUE_BYTES", 10_000_000)
    await store.add("a", b"one")
    with pytest.raises(Unavailable):
        await store.set_many({"b": bytes(2_000_000), "a": b"two"}, 60)
    for _ in range(3):
        assert await store.get_many(["b"]) == {}
        assert (await read(store, "a")).value in (b"one", b"two")
