"""The fast lane: the poll of somebody who stands in line, past Tornado's request handlers.

A thousand people ask where they stand for each who does anything else, and most of what an
answer costs is the machinery around a handler: half of Tornado's CPU is saved without it. So a
plain poll is answered straight from the request's headers, with the body that `PollApi` would
give. Whatever is not plain goes the ordinary way, which knows all the rest: a query, a ticket
that does not read, one that this process does not know, a visit that is over, an outage.

What must change with this: `PollApi` in `waiting.py`, which answers the same address.
"""

from collections.abc import Awaitable, Mapping
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

from handlers.base import HEADERS, TicketPaper
from handlers.counts import Counts
from handlers.parts import Parts
from handlers.wire import PollText, with_token
from queue_backend.errors import NowServingError
from queue_backend.people.line import WaitingLine
from queue_backend.people.standing import Standing
from queue_backend.people.ticket import Ticket

_OK = ResponseStartLine("HTTP/1.1", 200, "OK")


class FastLane:
    """Answers plain polls of all lines."""

    def __init__(
        self,
        parts: Parts,
        papers: Mapping[str, TicketPaper],
        texts: Mapping[str, PollText],
        counts: Counts,
    ) -> None:
        self._parts = parts
        self._counts = counts
        self._lines = {
            f"/api/lines/{name}/ticket": (line, papers[name], texts[name])
            for name, line in parts.lines.items()
        }

    def answer(
        self, start_line: RequestStartLine, headers: HTTPHeaders
    ) -> tuple[HTTPHeaders, bytes] | None:
        """Headers and body; None when the request must go the ordinary way."""
        asked = self._lines.get(start_line.path)
        if asked is None or not _is_plain(start_line, headers):
            return None
        if self._parts.public_url:
            host, _ = split_host_and_port(headers.get("Host", "").lower())
            if not self._parts.answers_at(host):
                return None
        line, paper, texts = asked
        cookies = parse_cookie(headers.get("Cookie", ""))
        try:
            token, by_header = paper.shown(headers, cookies)
            if not token:
                return None
            standing = _at_once(line, self._parts.signer.read(token, line.name))
            public = line.public()
        except NowServingError:
            return None
        if standing is None or standing.state.ended:
            return None
        language = self._parts.languages.choose(
            query="",
            cookie=cookies.get("lang", ""),
            accept_language=headers.get("Accept-Language", ""),
        )
        now = self._parts.clock.wall()
        text = texts.of(standing, public, language, now)
        told = HTTPHeaders()
        for name, value in HEADERS.items():
            told[name] = value
        told["Content-Type"] = "application/json; charset=UTF-8"
        told["Date"] = _date(int(now))
        if standing.stamped:
            token = self._parts.signer.sign(standing.ticket)
            if by_header:
                text = with_token(text, token)
            else:
                told["Set-Cookie"] = paper.cookie(token)
        body = text.encode()
        told["Content-Length"] = str(len(body))
        self._counts.polls += 1
        return told, body


@lru_cache(4)
def _date(second: int) -> str:
    return format_timestamp(second)


def _is_plain(start_line: RequestStartLine, headers: HTTPHeaders) -> bool:
    return (
        start_line.method == "GET"
        and start_line.version == "HTTP/1.1"
        and "Host" in headers
        and "Content-Length" not in headers
        and "Transfer-Encoding" not in headers
    )


def _at_once(line: WaitingLine, ticket: Ticket) -> Standing | None:
    """Where `ticket` stands, if that is known here; None if a store would have to be asked.

    `stand` waits for nothing then, so its first step is its last. Closing it where it would
    wait takes nothing back that matters: the ordinary way asks again.
    """
    asking = line.stand(ticket)
    try:
        asking.send(None)
    except StopIteration as done:
        standing: Standing = done.value
        return standing
    asking.close()
    return None


class Entrance(HTTPMessageDelegate):
    """Looks at each request's headers, and sends it one way or the other."""

    def __init__(
        self, lane: FastLane, connection: HTTPConnection, ordinary: HTTPMessageDelegate
    ) -> None:
        self._lane = lane
        self._connection = connection
        self._ordinary = ordinary
        self._answer: tuple[HTTPHeaders, bytes] | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._answer = self._lane.answer(start_line, headers)
        if self._answer is None:
            return self._ordinary.headers_received(start_line, headers)
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._ordinary.data_received(chunk)

    def finish(self) -> None:
        if self._answer is None:
            return self._ordinary.finish()
        headers, body = self._answer
        self._connection.write_headers(_OK, headers, body)
        self._connection.finish()

    def on_connection_close(self) -> None:
        if self._answer is None:
            self._ordinary.on_connection_close()
