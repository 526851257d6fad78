"""The queue server: job lines for programs in any language, in memcached's text protocol.

    set LINE flags exptime nbytes   put       STORED, once it is on disk
    get LINE                        reserve   the job; END when there is none
    get LINE/t=500                            the same, waiting up to 500 ms for one
    get LINE/peek                             look who is next, and take nothing
    gets LINE OTHER                           the first that has one; cas is the attempt
    delete LINE                     ack       DELETED; NOT_FOUND: it is no longer yours
    touch LINE seconds              touch     TOUCHED; NOT_FOUND; 0: the line's own lease

A connection holds one job of each line, for `delete` and `touch` name the line and not the job.
While it holds one, `get` of that line says END (RedQueue's custom); when the lease has ended
the job is lost to it, and `get` takes another. A connection that ends gives its jobs back to
their old places at once, counted as a fail; one that hangs loses them when their leases end.

There is no journal here: the job line is the journal, and nothing is answered before it is
written. Bodies are bytes, and nobody looks into them.

Tornado's TCPServer accepts, and each connection then is an asyncio protocol with one task that
does its commands in order. Tornado's own streams were measured: 35,000 commands a second that
do nothing, against 97,000 so.

Kept out: what a job line promises (`line.py`), and who asks for a server (the front door).
"""

import asyncio
import logging
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, cast

from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpserver import TCPServer

from queue_backend.answer import Answer
from queue_backend.clock import Clock
from queue_backend.errors import BadInput, LeaseLost, LineFull, NowServingError
from queue_backend.work.job import Job, Lease
from queue_backend.work.line import JobLine

log = logging.getLogger(__name__)

VERSION = "1.0.0"  # clients want three numbers

MOST_KEY_BYTES = 250
MOST_LINE_BYTES = 8_192  # a `gets` of many lines; everything else is far shorter
MOST_LINES = 4_096
MOST_PUTS_UNDER_WAY = 64
MOST_CLAIMS_AT_ONCE = 64
# What a client may have said ahead of what is answered, beyond one body.
MOST_AHEAD_BYTES = 256 * 1024
MOST_UNSAID_BYTES = 64 * 1024
# Commands of one connection before the others have a turn.
MOST_IN_ONE_GO = 64
# Half a command, or answers that nobody reads, for this long: the connection is closed.
PATIENCE_SECONDS = 60.0
LOOK_EACH_SECONDS = 0.2
LONGEST_TTL_SECONDS = 30 * 86_400  # memcached's rule: more is a date
LATEST_DATE = 10**10 - 1
MOST_FLAGS = 2**32 - 1

ERROR = b"ERROR\r\n"
STORED = b"STORED\r\n"
NOT_STORED = b"NOT_STORED\r\n"
END = b"END\r\n"
DELETED = b"DELETED\r\n"
TOUCHED = b"TOUCHED\r\n"
NOT_FOUND = b"NOT_FOUND\r\n"
BAD_FORMAT = b"CLIENT_ERROR bad command line format\r\n"
BAD_CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
BAD_LEASE = b"CLIENT_ERROR a lease is 0 to %d seconds\r\n" % LONGEST_TTL_SECONDS
BAD_NAME = (
    b"CLIENT_ERROR a line's name is 1 to 64 letters, digits and . : @ _ -,"
    b" for get followed by /peek or /t=milliseconds\r\n"
)
TOO_LONG = b"CLIENT_ERROR line too long\r\n"
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
TOO_MANY_LINES = b"SERVER_ERROR too many lines\r\n"
NOT_KNOWN = b"SERVER_ERROR the database did not answer: whether it was done is not known\r\n"
TOO_MANY_CONNECTIONS = b"ERROR Too many open connections\r\n"  # memcached's own words

_LINE = rb"[A-Za-z0-9.:@_-]{1,64}"
_NAME = re.compile(_LINE)
_KEY = re.compile(rb"(" + _LINE + rb")(?:/(?:(peek)|t=([0-9]{1,8})))?")

# Where a command that brings a block of data says how long it is. What is in the block must
# never be read as commands, though the command itself is not known here.
_LENGTH_STANDS_AT = {
    b"set": 4,
    b"add": 4,
    b"replace": 4,
    b"append": 4,
    b"prepend": 4,
    b"cas": 4,
    b"ms": 2,
}


# What a client says


@dataclass(slots=True)
class Set:
    line: str
    flags: int
    exptime: int
    body: bytes
    noreply: bool


class Wanted(NamedTuple):
    """One key of a `get`. It is said back as it was asked: pymemcache knows no other."""

    key: bytes
    line: str
    peek: bool
    wait_seconds: float


@dataclass(slots=True)
class Get:
    wanted: Sequence[Wanted]
    with_cas: bool


@dataclass(slots=True)
class Delete:
    line: str
    noreply: bool


@dataclass(slots=True)
class Touch:
    line: str
    lease_seconds: int
    noreply: bool


@dataclass(slots=True)
class Ask:
    """`stats`, `version` or `quit`."""

    what: bytes


@dataclass(slots=True)
class Refused:
    """Nothing is done. `hang_up` when it cannot be known where the next command begins."""

    reply: bytes
    hang_up: bool = False


Command = Set | Get | Delete | Touch | Ask | Refused


class Commands:
    """Bytes in, commands out, however they were cut on their way.

    Holds what was said and is not done yet; whoever feeds it minds how much that is.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._said = bytearray()
        self._begun: Set | None = None  # its block is still to come
        self._length = 0
        self._refused: Refused | None = None  # said once its block is swallowed
        self._to_swallow = 0

    def feed(self, data: bytes) -> None:
        self._said += data

    def __len__(self) -> int:
        return len(self._said)

    @property
    def half_said(self) -> bool:
        """Whether a command has begun and not ended, once `next` has answered None."""
        return bool(self._said) or self._begun is not None or self._refused is not None

    def next(self) -> Command | None:
        """The next command; None until more is fed."""
        if self._begun is not None:
            return self._with_its_block(self._begun)
        if self._refused is not None:
            return self._swallowed(self._refused)
        end = self._said.find(b"\n", 0, MOST_LINE_BYTES)
        if end < 0:
            return Refused(TOO_LONG, hang_up=True) if len(self._said) >= MOST_LINE_BYTES else None
        line = bytes(self._said[:end])
        del self._said[: end + 1]
        words = line.split()
        verb = words[0] if words else b""
        if verb in _LENGTH_STANDS_AT:
            return self._begin(verb, words)
        return _read(verb, words)

    def _begin(self, verb: bytes, words: list[bytes]) -> Command | None:
        try:
            length = _number(words[_LENGTH_STANDS_AT[verb]])
        except (IndexError, ValueError):
            return Refused(BAD_FORMAT, hang_up=True)
        try:
            if verb != b"set":
                raise _Bad(ERROR)
            if len(words) > 6:
                raise _Bad(BAD_FORMAT)
            if length > self._max_body_bytes:
                raise _Bad(TOO_LARGE)
            exptime = words[3]
            sign = -1 if exptime.startswith(b"-") else 1
            self._begun = Set(
                line=_line_name(words[1]),
                flags=_number(words[2], MOST_FLAGS),
                exptime=sign * _number(exptime[sign < 0 :], LATEST_DATE),
                body=b"",
                noreply=words[-1] == b"noreply",
            )
        except (_Bad, ValueError) as error:
            self._refused = _refused(words, error.reply if isinstance(error, _Bad) else BAD_FORMAT)
            self._to_swallow = length + 2
        self._length = length
        return self.next()

    def _with_its_block(self, begun: Set) -> Command | None:
        if len(self._said) < self._length + 2:
            return None
        if self._said[self._length : self._length + 2] != b"\r\n":
            # The length was wrong: what follows may be the rest of the body.
            return Refused(BAD_CHUNK, hang_up=True)
        begun.body = bytes(self._said[: self._length])
        del self._said[: self._length + 2]
        self._begun = None
        return begun

    def _swallowed(self, refused: Refused) -> Command | None:
        now = min(len(self._said), self._to_swallow)
        del self._said[:now]
        self._to_swallow -= now
        if self._to_swallow:
            return None
        self._refused = None
        return refused


class _Bad(Exception):
    def __init__(self, reply: bytes) -> None:
        self.reply = reply


def _read(verb: bytes, words: list[bytes]) -> Command:
    """A command that is one line."""
    try:
        match verb, len(words):
            case ((b"get" | b"gets"), count) if count > 1:
                return Get([_wanted(key) for key in words[1:]], with_cas=verb == b"gets")
            case b"delete", 2 | 3 | 4:
                # Old clients send a time, which has to be 0.
                if any(word not in (b"0", b"noreply") for word in words[2:]):
                    raise _Bad(BAD_FORMAT)
                return Delete(_line_name(words[1]), noreply=words[-1] == b"noreply")
            case b"touch", 3 | 4:
                seconds = words[2]
                if not seconds.isdigit() or len(seconds) > 7 or int(seconds) > LONGEST_TTL_SECONDS:
                    raise _Bad(BAD_LEASE)
                name = _line_name(words[1])
                return Touch(name, int(seconds), noreply=words[-1] == b"noreply")
            case ((b"stats" | b"version" | b"quit"), 1):
                return Ask(verb)
    except _Bad as bad:
        return _refused(words, bad.reply)
    return Refused(ERROR)


def _refused(words: Sequence[bytes], reply: bytes) -> Refused:
    # A reply nobody waits for would be taken for that of the next command.
    return Refused(b"" if words[-1] == b"noreply" else reply)


def _wanted(key: bytes) -> Wanted:
    found = _KEY.fullmatch(key)
    if found is None:
        raise _Bad(BAD_FORMAT if len(key) > MOST_KEY_BYTES else BAD_NAME)
    line, peek, wait = found.groups()
    return Wanted(key, line.decode("ascii"), peek is not None, int(wait or 0) / 1000)


def _line_name(key: bytes) -> str:
    if _NAME.fullmatch(key) is None:
        raise _Bad(BAD_FORMAT if len(key) > MOST_KEY_BYTES else BAD_NAME)
    return key.decode("ascii")


def _number(word: bytes, most: int = 2**31 - 1) -> int:
    # `int` would also take signs and underscores.
    if not word.isdigit() or len(word) > 10 or (number := int(word)) > most:
        raise ValueError
    return number


# Who waits for a job


class _Waiter(NamedTuple):
    holder: str
    taken: "asyncio.Future[tuple[OpenLine, Lease] | None]"


class OpenLine:
    """A line as this server has it open: its jobs, and the connections that wait for one.

    One attendant looks for all who wait, and serves who waited longest. So a put wakes one and
    not each of a hundred idle clients, and no claim is ever in the hand of somebody who has
    gone: what nobody takes is given back, uncounted.
    """

    def __init__(self, jobs: JobLine) -> None:
        self.jobs = jobs
        self._waiting: dict[_Waiter, None] = {}
        self._attendant: asyncio.Task[None] | None = None

    def wait(self, waiter: _Waiter) -> None:
        self._waiting[waiter] = None
        if self._attendant is None:
            self._attendant = asyncio.get_running_loop().create_task(self._attend())

    def leave(self, waiter: _Waiter) -> None:
        self._waiting.pop(waiter, None)

    async def close(self) -> None:
        """When nobody waits any more."""
        if self._attendant is not None:
            await self._attendant

    @property
    def is_waited_at(self) -> bool:
        return bool(self._waiting)

    async def _attend(self) -> None:
        trouble = ""
        rang = True
        try:
            with self.jobs.bell.heard_on_loop() as rung:
                while self._waiting:
                    rung.clear()
                    try:
                        # Nobody rang: then a look, which locks nothing, mostly finds nothing.
                        if rang or await self.jobs.head() is not None:
                            await self._serve()
                        trouble = ""
                    except NowServingError as error:
                        if trouble != (trouble := str(error)):
                            log.warning("%s: who waits is not served: %s", self.jobs.name, error)
                    if self._waiting:
                        # Other processes do not ring here.
                        with suppress(TimeoutError):
                            await asyncio.wait_for(rung.wait(), LOOK_EACH_SECONDS)
                    rang = rung.is_set()
        finally:
            self._attendant = None

    async def _serve(self) -> None:
        # As long as there are jobs, ask for more of them at once: claims share a commit.
        at_once = 1
        while True:
            # Who has just gone away will leave in a moment.
            staying = (waiter for waiter in self._waiting if not waiter.taken.done())
            first = list(islice(staying, at_once))
            if not first:
                return
            served = await asyncio.gather(*map(self._serve_one, first), return_exceptions=True)
            for one in served:
                if isinstance(one, BaseException):
                    raise one
            if not all(served):
                return
            at_once = min(2 * at_once, MOST_CLAIMS_AT_ONCE)

    async def _serve_one(self, waiter: _Waiter) -> bool:
        lease = await self.jobs.claim(waiter.holder)
        if lease is None:
            return False
        self.leave(waiter)
        if waiter.taken.done():
            await self.jobs.release(lease)
        else:
            waiter.taken.set_result((self, lease))
        return True


# One connection


class _Connection(asyncio.Protocol):
    """One client: what it said, what it holds, and one task that does its commands in order."""

    def __init__(self, server: "QueueServer", holder: str) -> None:
        self.stuck_since: float | None = None
        self._server = server
        self._holder = holder
        self._commands = Commands(server.max_body_bytes)
        self._most_ahead = server.max_body_bytes + MOST_AHEAD_BYTES
        self._held: dict[str, tuple[OpenLine, Lease]] = {}
        self._puts: deque[tuple[Answer[Job], bool]] = deque()
        self._replies: list[bytes] = []
        self._unsaid_bytes = 0
        self._in_one_go = 0
        self.conversation: asyncio.Task[None] | None = None
        self._conversed = False
        self._lost = False
        self._gone = False  # the client; what it had said before is still done
        self._leaving = False  # this server, or the client by `quit`
        self._heard = False
        self._crowded = False  # reading is paused
        self._unread = False  # writing is paused
        self._nap: asyncio.Future[None] | None = None
        self._waiter: _Waiter | None = None

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        self._loop = asyncio.get_running_loop()
        self.conversation = self._loop.create_task(self._converse())

    def data_received(self, data: bytes) -> None:
        self._commands.feed(data)
        self._heard = True
        if len(self._commands) > self._most_ahead and not self._crowded:
            self._crowded = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._client_is_gone()
        return True  # who only ends what it says may still read the answers

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._unread = False
        self._client_is_gone()
        self._is_over()

    def pause_writing(self) -> None:
        self._unread = True

    def resume_writing(self) -> None:
        self._unread = False
        self._wake()

    # What the server tells

    def leave(self) -> None:
        """The server closes: the command under way is ended, the others are not begun."""
        self._leaving = True
        self._stop_waiting()
        self._wake()

    def hang_up(self) -> None:
        self._transport.abort()

    # The conversation

    async def _converse(self) -> None:
        try:
            while (command := await self._next()) is not None:
                await self._do(command)
            await self._say()
        except Exception:
            log.exception("%s: the connection is closed", self._holder)
        finally:
            await self._give_back()
            self._transport.close()
            self._conversed = True
            # Whoever does not read the last answers is hung up on like anybody who is stuck.
            self.stuck_since = self._server.clock.monotonic()
            self._is_over()

    async def _next(self) -> Command | None:
        while not self._leaving:
            self._heard = False
            command = self._commands.next()
            if command is not None:
                self.stuck_since = None
                self._in_one_go += 1
                if self._in_one_go >= MOST_IN_ONE_GO:
                    self._in_one_go = 0
                    await asyncio.sleep(0)
                return command
            if self._crowded and not self._transport.is_closing():
                self._crowded = False
                self._transport.resume_reading()
            await self._say()
            if self._heard:
                continue
            if self._gone:
                break
            if not self._leaving:
                await self._sleep(stuck=self._commands.half_said)
        return None

    async def _do(self, command: Command) -> None:
        if isinstance(command, Set):
            # Not waited for: what is put in one breath shares one commit.
            self._put(command)
            if len(self._puts) >= MOST_PUTS_UNDER_WAY:
                await self._say()
            return
        await self._await_puts()
        noreply = False
        try:
            match command:
                case Get():
                    reply = await self._get(command)
                case Delete(line, noreply):
                    reply = await self._delete(line)
                case Touch(line, seconds, noreply):
                    reply = await self._touch(line, seconds)
                case Refused(reply, hang_up):
                    self._leaving = hang_up
                case Ask(b"quit"):
                    reply, self._leaving = b"", True
                case Ask(b"version"):
                    reply = f"VERSION {VERSION}\r\n".encode()
                case Ask():
                    reply = await self._server.stats()
        except (NowServingError, _Bad) as error:
            reply = _trouble(error)
        if not noreply:
            self._replies.append(reply)
            self._unsaid_bytes += len(reply)
            if self._unsaid_bytes > MOST_UNSAID_BYTES:
                await self._say()

    def _put(self, command: Set) -> None:
        self._server.sets += 1
        ttl_seconds: float | None = None
        if command.exptime > LONGEST_TTL_SECONDS:
            ttl_seconds = max(0.0, command.exptime - self._server.clock.wall())
        elif command.exptime:
            ttl_seconds = max(0, command.exptime)
        try:
            answer = self._server.line(command.line).jobs.put(
                "", {"flags": command.flags}, body=command.body, ttl_seconds=ttl_seconds
            )
        except (NowServingError, _Bad) as error:
            answer = Answer()
            answer.set_exception(error)
        self._puts.append((answer, command.noreply))

    async def _await_puts(self) -> None:
        while self._puts:
            answer, noreply = self._puts.popleft()
            try:
                await answer
                reply = STORED
            except (NowServingError, _Bad) as error:
                reply = _trouble(error)
            if not noreply:
                self._replies.append(reply)

    async def _get(self, command: Get) -> bytes:
        self._server.gets += 1
        if self._gone:
            return END
        longest_wait_seconds = 0.0
        lines: list[tuple[OpenLine, bytes]] = []
        for key, name, peek, wait_seconds in command.wanted:
            line = self._server.line(name)
            if peek:
                job = await line.jobs.head()
                if job is not None:
                    return _value(key, job, command.with_cas)
            elif not self._holds(name):
                # Who will wait goes behind those who wait already.
                if not (wait_seconds and line.is_waited_at):
                    lease = await line.jobs.claim(self._holder)
                    if lease is not None:
                        return await self._take(line, lease, key, command.with_cas)
                lines.append((line, key))
                longest_wait_seconds = max(longest_wait_seconds, wait_seconds)
        if longest_wait_seconds and lines:
            taken = await self._wait([line for line, _ in lines], longest_wait_seconds)
            if taken is not None:
                key = next(key for line, key in lines if line is taken[0])
                return await self._take(*taken, key, command.with_cas)
        return END

    def _holds(self, name: str) -> bool:
        """Whether it still may: what a lease that ended held is lost to this connection."""
        held = self._held.get(name)
        if held is None:
            return False
        if held[1].deadline > self._server.clock.monotonic():
            return True
        del self._held[name]
        return False

    async def _take(self, line: OpenLine, lease: Lease, key: bytes, with_cas: bool) -> bytes:
        if self._gone or self._leaving:
            # It went while the job was claimed, and never saw it.
            await line.jobs.release(lease)
            return END
        self._server.hits += 1
        self._held[line.jobs.name] = (line, lease)
        return _value(key, lease.job, with_cas)

    async def _wait(
        self, lines: Sequence[OpenLine], wait_seconds: float
    ) -> tuple[OpenLine, Lease] | None:
        await self._say()
        if self._gone or self._leaving:
            return None
        waiter = self._waiter = _Waiter(self._holder, self._loop.create_future())
        timer = self._loop.call_later(wait_seconds, self._stop_waiting)
        try:
            for line in lines:
                line.wait(waiter)
            return await waiter.taken
        finally:
            self._waiter = None
            timer.cancel()
            for line in lines:
                line.leave(waiter)

    async def _delete(self, name: str) -> bytes:
        held = self._held.get(name)
        if held is None:
            return NOT_FOUND
        line, lease = held
        # When the outcome is unknown it is kept in hand: the client may delete it again.
        try:
            await line.jobs.ack(lease)
            reply = DELETED
        except LeaseLost:
            reply = NOT_FOUND
        del self._held[name]
        return reply

    async def _touch(self, name: str, lease_seconds: int) -> bytes:
        held = self._held.get(name)
        if held is None:
            return NOT_FOUND
        line, lease = held
        try:
            self._held[name] = (
                line,
                await line.jobs.touch(lease, lease_seconds=lease_seconds or None),
            )
        except LeaseLost:
            del self._held[name]
            return NOT_FOUND
        return TOUCHED

    async def _give_back(self) -> None:
        for name, (line, lease) in self._held.items():
            try:
                if self._server.closing:
                    await line.jobs.release(lease)
                else:
                    await line.jobs.release(lease, error="disconnected", delay_seconds=0)
                    log.info("%s: job %d: its client is gone; given back", name, lease.job.id)
            except LeaseLost:
                pass
            except NowServingError as error:
                log.warning(
                    "%s: job %d cannot be given back (%s); its lease will end",
                    name,
                    lease.job.id,
                    error,
                )
        self._held.clear()

    # Speaking and sleeping

    async def _say(self) -> None:
        await self._await_puts()
        if self._replies:
            if not self._transport.is_closing():
                self._transport.write(b"".join(self._replies))
            self._replies.clear()
            self._unsaid_bytes = 0
        while self._unread and not (self._gone or self._leaving):
            await self._sleep(stuck=True)
            self.stuck_since = self.stuck_since if self._unread else None

    async def _sleep(self, stuck: bool) -> None:
        if not stuck:
            self.stuck_since = None
        elif self.stuck_since is None:
            self.stuck_since = self._server.clock.monotonic()
        self._nap = self._loop.create_future()
        await self._nap

    def _wake(self) -> None:
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    def _stop_waiting(self) -> None:
        if self._waiter is not None and not self._waiter.taken.done():
            self._waiter.taken.set_result(None)

    def _client_is_gone(self) -> None:
        self._gone = True
        self._stop_waiting()
        self._wake()

    def _is_over(self) -> None:
        if self._lost and self._conversed:
            self._server.connections.discard(self)


def _value(key: bytes, job: Job, with_cas: bool) -> bytes:
    body = job.body or b""  # a task's job has arguments instead, which are nobody's here
    flags = job.args.get("flags")
    cas = b" %d" % job.attempt if with_cas else b""
    return b"VALUE %b %d %d%b\r\n%b\r\nEND\r\n" % (
        key,
        flags if isinstance(flags, int) else 0,
        len(body),
        cas,
        body,
    )


def _trouble(error: Exception) -> bytes:
    if isinstance(error, _Bad):
        return error.reply
    if isinstance(error, LineFull):
        return NOT_STORED
    if isinstance(error, BadInput):
        return BAD_FORMAT
    log.warning("%s", error)
    return NOT_KNOWN


# The server


class QueueServer(TCPServer):
    """All connections, and the lines they have named so far.

    `open_line` makes the job line of a name; it is asked once for each. Lines in `closed` belong
    to somebody else. `holder` is unique over all hosts: leases are held in its name.
    """

    def __init__(
        self,
        open_line: Callable[[str], JobLine],
        *,
        clock: Clock,
        holder: str,
        max_body_bytes: int = 2**20,
        most_connections: int = 1_000,
        closed: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.clock = clock
        self.max_body_bytes = max_body_bytes
        self.connections: set[_Connection] = set()
        self.closing = False
        self.gets = self.hits = self.sets = 0
        self._open_line = open_line
        self._holder = holder
        self._most_connections = most_connections
        self._closed = closed
        self._lines: dict[str, OpenLine] = {}
        self._accepted = 0
        self._opened_at = clock.monotonic()

    async def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self.connections) >= self._most_connections or self.closing:
            with suppress(StreamClosedError):
                await stream.write(TOO_MANY_CONNECTIONS)
            stream.close()
            return
        self._accepted += 1
        # A host that died without a word is found out some day.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = _Connection(self, f"{self._holder}/{self._accepted}")
        self.connections.add(connection)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, stream.socket)
        except BaseException:
            self.connections.discard(connection)
            raise

    def line(self, name: str) -> OpenLine:
        found = self._lines.get(name)
        if found is None:
            if name in self._closed:
                raise _Bad(b"CLIENT_ERROR this line is not for queue clients\r\n")
            if len(self._lines) >= MOST_LINES:
                raise _Bad(TOO_MANY_LINES)
            found = self._lines[name] = OpenLine(self._open_line(name))
        return found

    async def round(self) -> None:
        """Once in a while: hang up on who has been half-way through a command for too long, or
        does not read what it is answered."""
        long_ago = self.clock.monotonic() - PATIENCE_SECONDS
        for connection in list(self.connections):
            if connection.stuck_since is not None and connection.stuck_since < long_ago:
                connection.hang_up()

    async def purge(self) -> None:
        """Once in a while: forget the jobs that ended long enough ago."""
        for line in list(self._lines.values()):
            await line.jobs.purge()

    async def close(self) -> None:
        """Accept nobody, give back politely what is held, hang up."""
        self.closing = True
        self.stop()
        for connection in list(self.connections):
            connection.leave()
        conversations = {each.conversation for each in self.connections if each.conversation}
        if conversations:
            await asyncio.wait(conversations)
        for line in self._lines.values():
            await line.close()

    async def stats(self) -> bytes:
        lines = dict(self._lines)
        each = [await line.jobs.stats() for line in lines.values()]
        told: dict[str, object] = {
            "pid": os.getpid(),
            "uptime": int(self.clock.monotonic() - self._opened_at),
            "time": int(self.clock.wall()),
            "version": VERSION,
            "curr_connections": len(self.connections),
            "total_connections": self._accepted,
            "max_connections": self._most_connections,
            "cmd_get": self.gets,
            "cmd_set": self.sets,
            "get_hits": self.hits,
            "get_misses": self.gets - self.hits,
            "curr_items": sum(line.ready + line.reserved + line.delayed for line in each),
        }
        for name, stats in zip(lines, each, strict=True):
            for state in ("ready", "reserved", "delayed", "buried"):
                told[f"line_{name}_{state}"] = getattr(stats, state)
        rows = (f"STAT {name} {value}\r\n" for name, value in told.items())
        return "".join(rows).encode() + END
