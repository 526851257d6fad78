"""The memcached store: pymemcache, one connection, one I/O thread, and a deadline a call.

What is done differently from the client's defaults, and why (each was tried):
- `default_noreply=False`: else `add` and `touch` say True without waiting for the server.
- time-outs of 0.25 s, and a deadline over the whole call: a time-out is per `recv`, and an
  answer that trickles made a call of 0.25 s last 4 s.
- no `ignore_exc`, no retrying: an outage must not look like a missing key, and a write whose
  answer was lost may have been applied.
- no HashClient: with one node stopped, two processes gave out 105 and 97 at the same moment.
- many keys in one write and one read, by meta commands; the public API has none, and its
  `raw_command` loses what does not fit one read of 4 KiB. Start memcached with `-R 200`.
- never on the event loop: a stopped memcached would stop every page.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from queue_backend.clock import Clock
from queue_backend.errors import Unavailable
from queue_backend.people.store import LARGEST_VALUE_BYTES, Found, Token

T = TypeVar("T")

TIMEOUT_SECONDS = 0.25
DEADLINE_SECONDS = 1.0
KEYS_A_WRITE = 400  # about 20 KB: fits the sockets' buffers, so neither side waits for the other


class MemcachedStore:
    def __init__(self, host: str, port: int, clock: Clock) -> None:
        self._address = f"{host}:{port}"
        self._clock = clock
        self._client = _Pipelining(
            (host, port),
            connect_timeout=TIMEOUT_SECONDS,
            timeout=TIMEOUT_SECONDS,
            default_noreply=False,
            no_delay=True,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memcached")

    async def gets(self, key: str) -> Found | None:
        def read() -> Found | None:
            value, cas = self._client.gets(key)
            if cas is None:
                return None
            return Found(value, Token(self._client.connection, int(cas)))

        return await self._call(read)

    async def cas(self, key: str, value: bytes, token: Token, ttl_seconds: int = 0) -> bool:
        _must_fit(value)

        def write() -> bool:
            if token.connection != self._client.connection or self._client.sock is None:
                return False  # ids restart with the server: this one may mean another value
            # Must not reconnect between the check above and the write; `sock` is set, so it
            # does not, and a connection that died meanwhile raises.
            return bool(self._client.cas(key, value, str(token.cas).encode(), ttl_seconds, False))

        return await self._call(write)

    async def add(self, key: str, value: bytes, ttl_seconds: int = 0) -> bool:
        _must_fit(value)
        return await self._call(lambda: bool(self._client.add(key, value, ttl_seconds, False)))

    async def add_many(self, values: Mapping[str, bytes], ttl_seconds: int) -> set[str]:
        return await self._store_many(values, ttl_seconds, "E")

    async def set_many(self, values: Mapping[str, bytes], ttl_seconds: int) -> None:
        await self._store_many(values, ttl_seconds, "S")

    async def get_many(self, keys: Collection[str]) -> dict[str, bytes]:
        wanted = list(keys)
        found: dict[str, bytes] = {}
        for part in _parts(wanted):
            found.update(await self._call(partial(self._client.get_many, part)))
        return found

    async def touch_many(self, keys: Collection[str], ttl_seconds: int) -> set[str]:
        replies = await self._meta(list(keys), f" T{ttl_seconds}\r\n")
        return {key for key, reply in replies if reply.startswith(b"HD")}

    async def remaining(self, keys: Collection[str]) -> dict[str, int]:
        replies = await self._meta(list(keys), " t\r\n")
        return {key: int(reply[4:]) for key, reply in replies if reply.startswith(b"HD t")}

    async def delete(self, key: str) -> None:
        await self._call(lambda: self._client.delete(key, False))

    async def ready(self) -> None:
        # A TCP connect says nothing: the kernel accepts for a stopped server.
        await self._call(self._client.version)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    async def _meta(self, keys: list[str], flags: str) -> list[tuple[str, bytes]]:
        replies: list[tuple[str, bytes]] = []
        for part in _parts(keys):
            commands = "".join(f"mg {key}{flags}" for key in part).encode("ascii")
            lines = await self._call(partial(self._client.exchange, commands, len(part)))
            replies += zip(part, lines, strict=True)
        return replies

    async def _store_many(
        self, values: Mapping[str, bytes], ttl_seconds: int, mode: str
    ) -> set[str]:
        for value in values.values():
            _must_fit(value)
        stored: set[str] = set()
        for part in _parts(list(values)):
            commands = b"".join(
                b"ms %b %d T%d M%b\r\n%b\r\n"
                % (key.encode("ascii"), len(values[key]), ttl_seconds, mode.encode(), values[key])
                for key in part
            )
            lines = await self._call(partial(self._client.exchange, commands, len(part)))
            stored.update(key for key, line in zip(part, lines, strict=True) if line[:2] == b"HD")
        return stored

    async def _call(self, act: Callable[[], T]) -> T:
        """Run `act` on the I/O thread. Raises Unavailable at the deadline; then it may still
        be under way, and its outcome is unknown."""
        give_up = self._clock.monotonic() + DEADLINE_SECONDS

        def bounded() -> T:
            # What waited behind a hung call for the whole deadline is not even sent.
            left = give_up - self._clock.monotonic()
            if left <= 0:
                raise TimeoutError("waited for its turn past the deadline")
            self._client.give_up = give_up
            self._client.now = self._clock.monotonic
            return act()

        try:
            # Not `wait_for`: on 3.11 it loses a cancellation that comes just as the call ends.
            async with asyncio.timeout(DEADLINE_SECONDS + TIMEOUT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._thread, bounded)
        except (MemcacheError, OSError, TimeoutError) as error:
            raise Unavailable(
                "store-unavailable", f"memcached at {self._address}: {error!r}"
            ) from error


class _Bounded:
    """A socket whose every wait ends at the client's deadline."""

    def __init__(self, sock: socket.socket, client: "_Pipelining") -> None:
        self._sock = sock
        self._client = client

    def recv(self, size: int) -> bytes:
        self._sock.settimeout(self._client.patience())
        return self._sock.recv(size)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._client.patience())
        self._sock.sendall(data)

    def close(self) -> None:
        self._sock.close()


class _Pipelining(Client):  # type: ignore[misc]  # pymemcache is published without types
    """pymemcache's client, which also sends many commands in one write.

    It leans on `_connect` and `sock` of 4.0.0: the version is pinned, the contract suite runs
    against a real server.
    """

    sock: Any  # a socket, bounded below
    connection = 0  # counts connections: a cas token is good only on its own
    give_up = 0.0
    now: Callable[[], float]

    def _connect(self) -> None:
        super()._connect()
        self.connection += 1
        self.sock = _Bounded(self.sock, self)

    def patience(self) -> float:
        left = self.give_up - self.now()
        if left <= 0:
            raise TimeoutError("the call's deadline is over")
        return min(TIMEOUT_SECONDS, left)

    def exchange(self, commands: bytes, replies: int) -> Sequence[bytes]:
        """Send `commands`; read exactly `replies` lines. Closes on anything unexpected."""
        try:
            if self.sock is None:
                self._connect()
            self.sock.sendall(commands)
            data = b""
            while data.count(b"\n") < replies:
                received = self.sock.recv(65536)
                if not received:
                    raise ConnectionResetError("memcached closed the connection")
                data += received
            lines = data.split(b"\r\n")
            if len(lines) != replies + 1 or lines[-1]:
                raise MemcacheError(f"an answer out of step: {lines[-1][:40]!r}")
            for line in lines[:-1]:
                if line[:2] not in _META_REPLIES:
                    raise MemcacheError(line[:60].decode("ascii", "replace"))
            return lines[:-1]
        except BaseException:
            self.close()
            raise


_META_REPLIES = frozenset({b"HD", b"EN", b"NS", b"EX", b"NF"})


def _parts(keys: list[str]) -> list[list[str]]:
    return [keys[start : start + KEYS_A_WRITE] for start in range(0, len(keys), KEYS_A_WRITE)]


def _must_fit(value: bytes) -> None:
    if len(value) > LARGEST_VALUE_BYTES:
        raise Unavailable("store-too-large", f"a value of {len(value)} bytes")
