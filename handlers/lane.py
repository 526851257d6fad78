"""The fast lane: polls and joins by program, past Tornado's request handlers.

A thousand people ask where they stand for each who does anything else, and half of what an
answer costs is the machinery around a handler. So a plain poll is answered straight from the
request's headers, with the body that `PollApi` would give; and so is a plain join, because a
rush on a line is a thousand joins at once. Whatever is not plain goes the ordinary way, which
knows all the rest: a query, a ticket that does not read or that this process does not know, a
visit that is over, a refusal, an outage. A join that is refused here is asked again there, with
the same `request_id`, and refused there in words.

What must change with this: `PollApi` and `TakeApi` in `waiting.py`, which answer the same
addresses.
"""

import json
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
    format_timestamp,
    parse_cookie,
    split_host_and_port,
)

from handlers.base import HEADERS, LARGEST_BODY_BYTES, TicketPaper
from handlers.counts import Counts
from handlers.parts import Parts
from handlers.wire import PollText, with_token
from queue_backend.errors import NowServingError
from queue_backend.people.line import WaitingLine
from queue_backend.people.standing import Standing

log = logging.getLogger(__name__)

OK = ResponseStartLine("HTTP/1.1", 200, "OK")
CREATED = ResponseStartLine("HTTP/1.1", 201, "Created")

# Another origin's requests, and those of a browser's pages, are looked at the ordinary way.
_NOT_PLAIN_IN_A_JOIN = ("Origin", "Sec-Fetch-Site", "Authorization", "Transfer-Encoding", "Expect")


@dataclass(frozen=True, slots=True)
class Counter:
    """One line, with what is made once for it."""

    line: WaitingLine
    paper: TicketPaper
    texts: PollText


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, ready to be written."""

    start_line: ResponseStartLine
    headers: HTTPHeaders
    body: bytes


class FastLane:
    """Answers what is plain, for all lines. None: it must go the ordinary way."""

    def __init__(
        self,
        parts: Parts,
        papers: Mapping[str, TicketPaper],
        texts: Mapping[str, PollText],
        counts: Counts,
    ) -> None:
        self._parts = parts
        self._counts = counts
        counters = {
            name: Counter(line, papers[name], texts[name]) for name, line in parts.lines.items()
        }
        self._polls = {f"/api/lines/{name}/ticket": each for name, each in counters.items()}
        self._joins = {f"/api/lines/{name}/tickets": each for name, each in counters.items()}

    def poll(self, start_line: RequestStartLine, headers: HTTPHeaders) -> Told | None:
        """The answer to a poll, at once: no store is asked and nothing is waited for."""
        counter = self._polls.get(start_line.path)
        if counter is None or start_line.method != "GET" or not self._is_ours(start_line, headers):
            return None
        if "Content-Length" in headers or "Transfer-Encoding" in headers:
            return None
        cookies = parse_cookie(headers.get("Cookie", ""))
        token, by_header = counter.paper.shown(headers, cookies)
        if not token:
            return None
        try:
            ticket = self._parts.signer.read(token, counter.line.name)
            standing = counter.line.standing_known(ticket)
            if standing is None or standing.state.ended:
                return None
            text = self._text(counter, standing, headers, cookies)
        except NowServingError:
            return None
        told = self._headers()
        if standing.stamped:
            token = self._parts.signer.sign(standing.ticket)
            if by_header:
                text = with_token(text, token)
            else:
                told["Set-Cookie"] = counter.paper.cookie(token)
        self._counts.polls += 1
        return _told(OK, told, text)

    def joining(self, start_line: RequestStartLine, headers: HTTPHeaders) -> Counter | None:
        """Whether this is a plain join, and of which line."""
        counter = self._joins.get(start_line.path)
        if counter is None or start_line.method != "POST" or not self._is_ours(start_line, headers):
            return None
        if any(name in headers for name in _NOT_PLAIN_IN_A_JOIN):
            return None
        length = headers.get("Content-Length", "")
        if not length.isdigit() or not 0 < int(length) <= LARGEST_BODY_BYTES:
            return None
        if headers.get("Content-Type") != "application/json":
            return None
        # Who shows a ticket may be given that one back.
        held, _ = counter.paper.shown(headers, parse_cookie(headers.get("Cookie", "")))
        return None if held else counter

    async def join(self, counter: Counter, headers: HTTPHeaders, body: bytes) -> Told | None:
        try:
            said = json.loads(body)
            if not isinstance(said, dict):
                return None
            ticket = await counter.line.take(
                said.get("name", ""), said.get("service", ""), said.get("request_id", "")
            )
            standing = counter.line.standing_known(ticket)
            if standing is None or standing.state.ended:
                return None
            cookies = parse_cookie(headers.get("Cookie", ""))
            text = self._text(counter, standing, headers, cookies)
        except (NowServingError, ValueError, RecursionError):
            return None
        token = self._parts.signer.sign(standing.ticket)
        told = self._headers()
        told["Set-Cookie"] = counter.paper.cookie(token)
        self._counts.joins += 1
        return _told(CREATED, told, with_token(text, token))

    def _is_ours(self, start_line: RequestStartLine, headers: HTTPHeaders) -> bool:
        if start_line.version != "HTTP/1.1" or "Host" not in headers:
            return False
        if not self._parts.public_url:
            return True
        host, _ = split_host_and_port(headers["Host"].lower())
        return self._parts.answers_at(host)

    def _text(
        self,
        counter: Counter,
        standing: Standing,
        headers: HTTPHeaders,
        cookies: Mapping[str, str],
    ) -> str:
        language = self._parts.languages.choose(
            query="",
            cookie=cookies.get("lang", ""),
            accept_language=headers.get("Accept-Language", ""),
        )
        now = self._parts.clock.wall()
        return counter.texts.of(standing, counter.line.public(), language, now)

    def _headers(self) -> HTTPHeaders:
        told = HTTPHeaders()
        for name, value in HEADERS.items():
            told[name] = value
        told["Content-Type"] = "application/json; charset=UTF-8"
        told["Date"] = _date(int(self._parts.clock.wall()))
        return told


def _told(start_line: ResponseStartLine, headers: HTTPHeaders, text: str) -> Told:
    body = text.encode()
    headers["Content-Length"] = str(len(body))
    return Told(start_line, headers, body)


@lru_cache(4)
def _date(second: int) -> str:
    return format_timestamp(second)


class Entrance(HTTPMessageDelegate):
    """Looks at each request's headers, and sends it one way or the other."""

    def __init__(
        self, lane: FastLane, connection: HTTPConnection, ordinary: HTTPMessageDelegate
    ) -> None:
        self._lane = lane
        self._connection = connection
        self._ordinary = ordinary
        self._told: Told | None = None
        self._joins: Counter | None = None
        self._body = b""

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._told = self._lane.poll(start_line, headers)
        if self._told is not None:
            return None
        self._joins = self._lane.joining(start_line, headers)
        if self._joins is not None:
            self._start_line, self._headers = start_line, headers
            return None
        return self._ordinary.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._joins is None:
            return self._ordinary.data_received(chunk)
        self._body += chunk
        if len(self._body) < int(self._headers["Content-Length"]):
            return None
        # The connection waits for this as for a body, at most for the body's time-out: that
        # spares a task, and setting the watch for a client that closes meanwhile.
        return self._join(self._joins)

    def finish(self) -> None:
        if self._told is not None:
            self._connection.write_headers(
                self._told.start_line, self._told.headers, self._told.body
            )
            self._connection.finish()
            return
        if self._joins is not None:
            self._ordinary.headers_received(self._start_line, self._headers)
            self._ordinary.data_received(self._body)
        self._ordinary.finish()

    def on_connection_close(self) -> None:
        if self._told is None and self._joins is None:
            self._ordinary.on_connection_close()

    async def _join(self, counter: Counter) -> None:
        try:
            self._told = await self._lane.join(counter, self._headers, self._body)
        except Exception:
            log.exception("a join failed on the fast lane; it is asked again the ordinary way")
