"""A crowd of visitors over real HTTP, each in the own manner, all written to a history.

A visitor does what a browser with the page open does: takes a number, asks again when told to
(or sooner: a crowd has less time), says "I'm here", leaves a request at the desk, watches it.
Some do not: they vanish, never answer, leave, come back. Each holds one keep-alive connection
and the newest ticket, and no visitor knows of another.

HTTP is spoken over bare streams: a thousand visitors share two cores with the servers, and a
client library would cost as much as what is measured.

Kept out: whether it was right (`history.py`); processes and their deaths (`processes.py`).
"""

import asyncio
import json
import random
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from tests.history import ENDED, FAILED, OK, UNKNOWN, Call, History, Told

PATIENCE_SECONDS = 5.0
PEOPLE = ("knolan", "zhangwei", "张伟", "Alice Bennett", "nobody of this name")
NAMES = ("Karen Nolan", "李小明", "Jide Okafor", "Zoë", "欧阳娜", "Tor Sørensen", "王芳", "Sam")


class NotReached(Exception):
    """Nobody listened, so nothing was sent."""


class NoAnswer(Exception):
    """Sent, and no whole answer came: the outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Mapping[str, Any]


class Wire:
    """One keep-alive connection to the house, opened again when it was lost."""

    def __init__(self, url: str) -> None:
        self.url = url
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Raises NotReached, or NoAnswer; the connection is closed then."""
        sent = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(sent)}"]
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + sent
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = self._streams or await self._open()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                text = await reader.readexactly(int(length[1])) if length else b""
            return Answer(int(head[9:12]), json.loads(text) if text else {})
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise NoAnswer(repr(error)) from error
        except BaseException:
            self.close()
            raise

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            self._streams = await asyncio.open_connection(self._host, self._port)
        except OSError as error:
            raise NotReached(str(error)) from error
        return self._streams

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Manner(StrEnum):
    """What a visitor does that others do not."""

    ORDERLY = "orderly"
    TWICE = "submits twice at once"
    VANISHES = "vanishes while waiting, looks in much later"
    RETURNS = "vanishes, finds the number aside, comes back"
    VANISHES_WHEN_CALLED = "vanishes when called"
    STALLS = "goes on asking, never answers the call"
    DAWDLES = "takes a place and never submits"
    LEAVES = "leaves while waiting"
    UNDOES = "leaves while waiting, and undoes it"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two questions, at most: what the house says is kept when it is less."""

    far: float = 2.0
    near: float = 2.0
    near_ahead: int = 10
    ready: float = 0.5
    at_the_desk: tuple[float, float] = (0.3, 0.8)
    # Those who vanish look in again this much later: when they must have been set aside.
    absent: float = 30
    absent_when_called: float = 15
    undo_after: float = 1.0


class Visitor:
    def __init__(
        self,
        who: str,
        manner: Manner,
        wire: Wire,
        history: History,
        pace: Pace,
        chance: random.Random,
        line: str = "desk",
    ) -> None:
        self.who = who
        self.manner = manner
        self.last = Told()  # the newest answer that told how the ticket stands
        self.heard_at = 0.0  # when that was
        self.over = False
        self._wire = wire
        self._history = history
        self._pace = pace
        self._chance = chance
        self._path = f"/api/lines/{line}"
        self._token = ""
        self._polls = 0
        self._patience = chance.randint(1, 4)  # polls until one's manner shows

    async def visit(self) -> None:
        """From the number to the end of the visit, whichever that is."""
        try:
            await self.take()
            while not self.over:
                await asyncio.sleep(self._pause())
                await self.poll()
                await self._act()
        finally:
            self._wire.close()

    # What a visitor may do; each is in the history

    async def take(self) -> None:
        """Asked again with the same request until there is a number."""
        request = {
            "name": self._chance.choice(NAMES),
            "service": "look-up-phone",
            "request_id": secrets.token_urlsafe(12),
        }
        while True:
            if await self._say("take", "POST", "/tickets", request):
                return
            await asyncio.sleep(0.3)

    async def poll(self) -> bool:
        self._polls += 1
        return await self._say("poll", "GET", "/ticket")

    async def confirm(self) -> bool:
        return await self._say("confirm", "POST", "/ticket/confirm")

    async def leave(self) -> bool:
        return await self._say("leave", "POST", "/ticket/leave")

    async def undo(self) -> bool:
        return await self._say("undo", "POST", "/ticket/undo")

    async def come_back(self) -> bool:
        return await self._say("return", "POST", "/ticket/return")

    async def submit(self, wire: Wire | None = None) -> bool:
        form = {"action": "look-up-phone", "fields": {"account": self._chance.choice(PEOPLE)}}
        return await self._say("submit", "POST", "/ticket/job", form, wire)

    async def submit_twice(self) -> None:
        """A double click: two requests on two connections, with the same ticket."""
        other = Wire(self._wire.url)
        try:
            await asyncio.gather(self.submit(), self.submit(other))
        finally:
            other.close()

    # How it is done

    def _pause(self) -> float:
        pace, told = self._pace, self.last
        match told.state:
            case "called" | "serving":
                seconds = min(pace.ready, 0.3)
            case "ready" | "done" | "left":
                seconds = pace.ready
            case "waiting" if told.ahead is not None and told.ahead <= pace.near_ahead:
                seconds = pace.near
            case _:
                seconds = pace.far
        if told.poll_in:
            seconds = min(seconds, told.poll_in)
        return seconds * self._chance.uniform(0.8, 1.1)

    async def _act(self) -> None:
        manner, state = self.manner, self.last.state
        if state in ENDED and not (state == "done" and not self.last.result and self.last.job):
            self.over = True
        elif state == "waiting":
            await self._while_waiting()
        elif state == "called":
            if manner is Manner.VANISHES_WHEN_CALLED:
                await self._be_absent(self._pace.absent_when_called)
            elif manner is not Manner.STALLS:
                await asyncio.sleep(self._chance.uniform(0.02, 0.2))
                await self.confirm()
        elif state == "aside":
            if manner is Manner.RETURNS:
                self.manner = Manner.ORDERLY
                await self.come_back()
            else:
                self.over = True
        # Also right after a confirmation that brought a place at once.
        if self.last.state == "serving" and self.manner is not Manner.DAWDLES:
            await asyncio.sleep(self._chance.uniform(*self._pace.at_the_desk))
            await (self.submit_twice() if manner is Manner.TWICE else self.submit())

    async def _while_waiting(self) -> None:
        if self._polls < self._patience:
            return
        match self.manner:
            case Manner.VANISHES | Manner.RETURNS:
                await self._be_absent(self._pace.absent)
            case Manner.LEAVES:
                await self.leave()
            case Manner.UNDOES:
                if await self.leave():
                    await asyncio.sleep(self._pace.undo_after)
                    if await self.undo():
                        self.manner = Manner.ORDERLY

    def go_away(self) -> None:
        """The browser is closed; the ticket stays in it."""
        self._wire.close()

    async def _be_absent(self, seconds: float) -> None:
        self.go_away()
        await asyncio.sleep(seconds)

    async def _say(
        self,
        verb: str,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        wire: Wire | None = None,
    ) -> bool:
        """One call, written down; whether it was granted."""
        headers = {"Authorization": f"Ticket {self._token}"} if self._token else None
        call = self._history.begin(self.who, verb)
        wire = wire or self._wire
        told = await _asked(self._history, call, wire, method, self._path + path, body, headers)
        if call.outcome != OK:
            return False
        self._token = told.get("token", self._token)
        if call.told is not None and call.told.state:
            self.last, self.heard_at = call.told, call.ended
        return True


class Wall:
    """Somebody in the hall who looks at the wall, several times a second, and notes who is new
    on it."""

    def __init__(self, url: str, history: History, line: str = "desk") -> None:
        self.last = Told()
        self.first_seen: dict[int, float] = {}  # when each number was first called or at the desk
        self._wire = Wire(url)
        self._history = history
        self._path = f"/api/lines/{line}"

    async def look(self) -> bool:
        call = self._history.begin("the hall", "look")
        await _asked(self._history, call, self._wire, "GET", self._path)
        if call.outcome != OK or call.told is None:
            return False
        self.last = call.told
        for number in (*call.told.called, *call.told.serving):
            self.first_seen.setdefault(number, call.ended)
        return True

    async def watch(self, every_seconds: float = 0.2) -> None:
        try:
            while True:
                await self.look()
                await asyncio.sleep(every_seconds)
        finally:
            self._wire.close()


class Crowd:
    """Visitors who come and go by themselves; `async with` sends the rest home at the end."""

    def __init__(self, url: str, history: History, pace: Pace, chance: random.Random) -> None:
        self.url = url
        self.history = history
        self.pace = pace
        self.visitors: list[Visitor] = []
        self.wall = Wall(url, history)
        self._chance = chance
        self._tasks: list[asyncio.Task[None]] = []
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Crowd":
        self._watch = asyncio.create_task(self.wall.watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._tasks, *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        # What a visitor stumbled over is a mistake of the crowd, not of the house.
        for end in ends:
            if isinstance(end, Exception):
                raise end
        # Closed streams say so to their loop in its next round.
        await asyncio.sleep(0)

    def stranger(self, who: str, manner: Manner = Manner.ORDERLY) -> Visitor:
        """Somebody who does nothing of their own accord."""
        chance = random.Random(self._chance.random())
        return Visitor(who, manner, Wire(self.url), self.history, self.pace, chance)

    def send(self, manner: Manner = Manner.ORDERLY, delay: float = 0) -> Visitor:
        """One more visitor, who comes in `delay` seconds."""
        visitor = self.stranger(f"v{len(self.visitors) + 1}", manner)
        self.visitors.append(visitor)

        async def come() -> None:
            await asyncio.sleep(delay)
            await visitor.visit()

        self._tasks.append(asyncio.create_task(come()))
        return visitor

    async def gone_home(self, seconds: float) -> bool:
        """Waits for everybody's visit to end, `seconds` at most; whether they all have."""
        _, left = await asyncio.wait(self._tasks, timeout=seconds)
        return not left

    async def until(self, what: str, seconds: float, check: Callable[[], bool]) -> float:
        """Waits for `check()`, and says when it was first seen true."""
        deadline = self.history.now() + seconds
        while not check():
            assert self.history.now() < deadline, f"waited {seconds:g} s for {what}"
            await asyncio.sleep(0.05)
        return self.history.now()

    @property
    def living(self) -> list[Visitor]:
        return [
            visitor
            for visitor in self.visitors
            if visitor.last.number is not None and visitor.last.state not in ENDED
        ]

    async def heard_since(self, at: float, seconds: float) -> float:
        """Waits until everybody who is in line was told so after `at`."""
        return await self.until(
            "everybody to be told where they stand",
            seconds,
            lambda: all(visitor.heard_at > at for visitor in self.living),
        )

    async def called_since(self, at: float, seconds: float) -> float:
        """When the first number was seen that was never called or at the desk before `at`."""

        def news() -> list[float]:
            return [seen for seen in self.wall.first_seen.values() if seen > at]

        await self.until("the next call", seconds, lambda: bool(news()))
        return min(news())


async def _asked(
    history: History,
    call: Call,
    wire: Wire,
    method: str,
    path: str,
    body: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Mapping[str, Any]:
    """The body of the answer; empty when there was none."""
    try:
        answer = await wire.ask(method, path, body, headers)
    except NotReached:
        history.end(call, FAILED)
    except NoAnswer:
        history.end(call, UNKNOWN)
    else:
        told = told_by(answer)
        # 503: a store did not answer, and what was asked may still be done.
        outcome = OK if answer.status < 300 else FAILED if answer.status < 500 else UNKNOWN
        history.end(call, outcome, told)
        return answer.body
    return {}


def told_by(answer: Answer) -> Told:
    body = answer.body
    if answer.status >= 300:
        return Told(status=answer.status, code=str(body.get("code", "")))
    line, ticket, job = body["line"], body.get("ticket") or {}, body.get("job") or {}
    return Told(
        status=answer.status,
        rev=body["rev"],
        number=ticket.get("number"),
        state=ticket.get("state", ""),
        ahead=ticket.get("ahead"),
        behind=ticket.get("behind"),
        waiting=line["waiting"],
        serving=_numbers(line["serving"]),
        called=_numbers(line["called"]),
        frozen=line["frozen"],
        job=job.get("id", ""),
        result=job.get("result") or "",
        poll_in=body["poll"]["in"],
    )


def _numbers(shown: Iterable[str]) -> tuple[int, ...]:
    """What people read as "A-042" is number 42."""
    return tuple(int(text.rpartition("-")[2]) for text in shown)
