"""What all answers share: headers, language, the ticket's cookie, and how a refusal is told.

A handler takes the request apart, asks a line, answers; none needs a `try` of its own, because
whatever a line raises becomes a status and a sentence here (`problems.py` has the table). On
the API that is a problem document (RFC 9457), on pages a page in the person's language.

Kept out: what may be done with a line, and in which state.
"""

import json
import logging
import re
from collections.abc import Awaitable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, parse_cookie
from tornado.web import HTTPError, RequestHandler, StaticFileHandler, stream_request_body

from downstream.adapter import Adapter
from handlers.parts import Desk, Parts
from handlers.problems import SENTENCES, HttpRefusal, Problem, problem_of
from handlers.wire import to_json
from queue_backend.errors import BadInput, BadTicket, NotFound, Refused, Unavailable
from queue_backend.people.line import WaitingLine
from queue_backend.people.ticket import Ticket
from queue_backend.work.line import JobLine

log = logging.getLogger(__name__)

LARGEST_BODY_BYTES = 65_536
LARGEST_DROPPED_BODY_BYTES = 8 * 1024 * 1024

# For every answer; what is only about documents that a browser shows stands further down.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

PAGE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
    "Vary": "Accept-Language, Cookie",
}


class TicketPaper:
    """How the signed ticket of one line travels: as a cookie, or as `Authorization: Ticket`."""

    def __init__(self, parts: Parts, line_name: str) -> None:
        self._name = f"{cookie_prefix(parts)}ticket_{line_name}"
        secure = "; Secure" if parts.https else ""
        age = parts.ticket_cookie_seconds
        self._attributes = f"; HttpOnly; Max-Age={age}; Path=/; SameSite=Lax{secure}"

    def shown(self, headers: HTTPHeaders, cookies: Mapping[str, str]) -> tuple[str, bool]:
        """The token ("": none came), and whether it came in the header."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if token and scheme.lower() == "ticket":
            return token.strip(), True
        return cookies.get(self._name, ""), False

    def cookie(self, token: str) -> str:
        return f'{self._name}="{token}"{self._attributes}'


def cookie_prefix(parts: Parts) -> str:
    # A browser takes a `__Host-` cookie only from us, never from a sibling host.
    return "__Host-" if parts.https else ""


class Handler(RequestHandler):
    """Every address is answered by one of these."""

    parts: Parts

    def initialize(self, parts: Parts) -> None:
        self.parts = parts

    headers: Mapping[str, str] = HEADERS

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in self.headers.items():
            self.set_header(name, value)
        # Also called before `initialize`, so the settings are asked and not the parts.
        if self.settings.get("https"):
            self.set_header("Strict-Transport-Security", "max-age=31536000")

    def compute_etag(self) -> str | None:
        # Nothing here may be stored, so there is nothing to compare with.
        return None

    def head(self, *arguments: str) -> Awaitable[None] | None:
        return self.get(*arguments)

    # What the request says

    def cookie(self, name: str) -> str:
        # Tornado's own `cookies` makes a Morsel of each, which costs a poll as much as its answer.
        return parse_cookie(self.request.headers.get("Cookie", "")).get(name, "")

    @property
    def language(self) -> str:
        """`en` or `zh-Hans`: as asked for, as remembered, or as the browser prefers."""
        asked = self.request.query_arguments.get("lang")
        return self.parts.languages.choose(
            query=asked[-1].decode("latin-1") if asked else "",
            cookie=self.cookie("lang"),
            accept_language=self.request.headers.get("Accept-Language", ""),
        )

    def translated(self, sentence: str) -> str:
        return self.parts.languages.gettext(self.language)(sentence)

    def line(self, name: str) -> WaitingLine:
        try:
            return self.parts.lines[name]
        except KeyError:
            raise NotFound("line-unknown") from None

    def desk(self, line: WaitingLine) -> Desk:
        return self.parts.desks[line.name]

    def jobs(self, line: WaitingLine) -> JobLine:
        return self.parts.jobs[line.name]

    def adapter(self, line: WaitingLine) -> Adapter:
        return self.parts.adapters[line.name]

    def json_body(self) -> Mapping[str, object]:
        """The JSON object that was sent; nothing sent is an empty one. Unknown keys are let be."""
        self._check_body("application/json")
        try:
            body = json.loads(self.request.body.decode()) if self.request.body else {}
        except (ValueError, RecursionError) as error:
            raise BadInput("json-malformed") from error
        if not isinstance(body, dict):
            raise BadInput("json-not-object")
        return body

    def form_body(self) -> Mapping[str, str]:
        """The fields of a form, exactly as typed: passwords keep their blanks, and characters
        that must be refused are not quietly turned into spaces, as `get_argument` would."""
        self._check_body("application/x-www-form-urlencoded", "multipart/form-data")
        try:
            return {
                name: values[-1].decode() for name, values in self.request.body_arguments.items()
            }
        except UnicodeDecodeError as error:
            raise BadInput("form-encoding") from error

    def _check_body(self, *kinds: str) -> None:
        if len(self.request.body) > LARGEST_BODY_BYTES:
            raise HttpRefusal(413, "body-too-large")
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if self.request.body and kind not in kinds:
            raise HttpRefusal(415, "content-type-unknown")

    # The ticket

    def ticket(self, line: WaitingLine) -> Ticket | None:
        """The paper that came with the request; None when there was none.

        Raises BadTicket when there was one, but not one of this line.
        """
        token, _ = self._token_shown(line)
        return self.parts.signer.read(token, line.name) if token else None

    def ticket_held(self, line: WaitingLine) -> Ticket:
        ticket = self.ticket(line)
        if ticket is None:
            raise BadTicket("ticket-missing")
        return ticket

    def hand_back(self, line: WaitingLine, ticket: Ticket) -> str:
        """Signs `ticket` and returns the token; a browser is given it as its cookie, a program
        that showed its token finds the new one in the body."""
        token = self.parts.signer.sign(ticket)
        if not self.came_by_header(line):
            self.add_header("Set-Cookie", self.paper(line).cookie(token))
        return token

    def paper(self, line: WaitingLine) -> TicketPaper:
        paper: TicketPaper = self.settings["papers"][line.name]
        return paper

    def came_by_header(self, line: WaitingLine) -> bool:
        return self._token_shown(line)[1]

    def _token_shown(self, line: WaitingLine) -> tuple[str, bool]:
        cookies = parse_cookie(self.request.headers.get("Cookie", ""))
        return self.paper(line).shown(self.request.headers, cookies)

    # What went wrong

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        problem = problem_of(error, status_code)
        self.put_status(problem)
        self.tell(problem, error)

    def put_status(self, problem: Problem) -> None:
        """The status of `problem` and the headers that belong to it."""
        self.set_status(problem.status)
        if problem.status in (429, 503):
            self.set_header("Retry-After", max(1, problem.retry_after_seconds))
        if problem.status == 401:
            self.set_header("WWW-Authenticate", "Ticket")
        if problem.status == 405:
            self.set_header("Allow", ", ".join(self._methods()))

    def tell(self, problem: Problem, error: BaseException | None) -> None:
        """Answers with `problem`: as a document or as a page."""
        raise NotImplementedError

    def said(self, problem: Problem) -> str:
        """The sentence of `problem`, in the person's language."""
        sentence = self.translated(problem.sentence)
        return sentence.replace("%(seconds)s", str(problem.retry_after_seconds))

    def _methods(self) -> list[str]:
        answered = ["GET", "HEAD"] if type(self).get is not RequestHandler.get else []
        if type(self).post is not RequestHandler.post:
            answered.append("POST")
        return answered

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(value, Refused | HTTPError):
            log.debug("%s %s: %s", self.request.method, self.request.path, value)
        elif isinstance(value, Unavailable):
            log.warning("%s; the browser is told to ask again", value)
        else:
            super().log_exception(typ, value, tb)


class Api(Handler):
    """Answers in JSON, and with problem documents."""

    def answer(self, body: Mapping[str, object], status: int = 200) -> None:
        self.answer_text(to_json(body), status)

    def answer_text(self, json_text: str, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish(json_text)

    def tell(self, problem: Problem, error: BaseException | None) -> None:
        document: dict[str, object] = {
            "type": f"/problems/{problem.code}",
            "title": self.translated(problem.title),
            "status": problem.status,
            "code": problem.code,
            "detail": self.said(problem),
        }
        if problem.field:
            document["field"] = problem.field
        if state := getattr(error, "state", ""):
            document["state"] = state
        if errors := getattr(error, "errors", None):
            document["errors"] = {
                field: {"code": code, "detail": self.translated(sentence)}
                for field, (code, sentence) in errors.items()
            }
        self.set_header("Content-Type", "application/problem+json; charset=UTF-8")
        self.finish(to_json(document))


class Page(Handler):
    """Answers with a page in the person's language."""

    headers = {**HEADERS, **PAGE_HEADERS}

    def prepare(self) -> None:
        if "lang" in self.request.query_arguments:
            self.remember_language(self.language)

    def remember_language(self, language: str) -> None:
        year = 31_536_000
        self.set_cookie("lang", language, max_age=year, samesite="Lax", secure=self.parts.https)

    def show(self, template: str, line: WaitingLine | None = None, **context: object) -> None:
        """Renders `template` with what every page knows and with `context`."""
        language = self.language
        other = self.parts.languages.other(language)
        desk = self._desk_shown(line)
        # After a POST the page stands at an address that cannot be asked for again.
        safe = self.request.method in ("GET", "HEAD")
        path = self.request.path if safe else (f"/lines/{line.name}" if line else "/")
        shown = {
            "lang": language,
            "other_lang": other,
            "other_lang_url": f"{path}?{urlencode({'lang': other})}",
            "static": self.static_url,
            "line_title": desk.title(language) if desk else "Now Serving",
            "contact": desk.contact(language) if desk else "",
            "build": self.parts.build,
            "path": path,
            "clock": _clock_time,
            "still": "still" in self.request.query_arguments,  # reload no more by yourself
            **context,
        }
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        page = self.parts.languages.environment(language).get_template(template)
        self.finish(page.render(shown))

    def _desk_shown(self, line: WaitingLine | None) -> Desk | None:
        if line is not None:
            return self.desk(line)
        return next(iter(self.parts.desks.values())) if len(self.parts.desks) == 1 else None

    def see(self, path: str) -> None:
        """303: what was posted is done, look there. `path` is always one of ours."""
        self.redirect(path, status=303)

    def tell(self, problem: Problem, error: BaseException | None) -> None:
        title = self.translated(problem.title)
        self.show("problem.html", status=problem.status, title=title, detail=self.said(problem))


class Anywhere(Page, Api):
    """Answers for addresses of both kinds."""

    def tell(self, problem: Problem, error: BaseException | None) -> None:
        kind = Api if self.request.path.startswith("/api/") else Page
        kind.tell(self, problem, error)


class Nowhere(Anywhere):
    """Any other address."""

    def prepare(self) -> None:
        raise NotFound("address-unknown")


class WrongHost(Anywhere):
    def prepare(self) -> None:
        raise HttpRefusal(421, "host-foreign")


@stream_request_body
class TooLarge(Anywhere):
    """The body is read to its end and dropped, so that the answer arrives; one that is far too
    large is cut off."""

    def prepare(self) -> None:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        connection.set_max_body_size(LARGEST_DROPPED_BODY_BYTES)

    def data_received(self, chunk: bytes) -> None:
        pass

    def get(self, *arguments: str) -> None:
        raise HttpRefusal(413, "body-too-large")

    post = put = patch = delete = options = get


class ProblemPage(Page):
    """`/problems/{code}`: what the `type` of a problem document points to."""

    def get(self, code: str) -> None:
        problem = problem_of(Refused(code))
        if problem.code not in SENTENCES:
            raise NotFound("address-unknown")
        title = self.translated(problem.title)
        self.show("problem.html", status=200, title=title, detail=self.said(problem))


def _clock_time(wall: float) -> str:
    """`10:41`, as the clock at the desk shows it."""
    return datetime.fromtimestamp(wall).strftime("%H:%M")


def local_path(text: str, otherwise: str = "/") -> str:
    """`text` if it is a path of this site, else `otherwise`: nobody is sent elsewhere from here.

    Browsers read `//host` and `/\\host` as another site, and drop tabs and line breaks.
    """
    if not re.fullmatch(r"/(?![/\\])[\x21-\x7e]*", text) or "\\" in text:
        return otherwise
    return text if not urlsplit(text).netloc else otherwise


class Static(Page, StaticFileHandler):
    """Files of `static/`. An address with its `?v=` never changes its content."""

    head = StaticFileHandler.head  # type: ignore[assignment]
    compute_etag = StaticFileHandler.compute_etag

    def initialize(self, path: str, parts: Parts) -> None:  # type: ignore[override]
        StaticFileHandler.initialize(self, path)
        self.parts = parts

    def prepare(self) -> None:
        pass

    def set_extra_headers(self, path: str) -> None:
        asked = self.get_query_argument("v", "")
        fresh = asked and asked == self.get_version(self.settings, path)
        self.set_header("Cache-Control", _FOR_EVER if fresh else "no-cache")
        self.clear_header("Expires")
        self.clear_header("Vary")

    @classmethod
    def get_content_version(cls, abspath: str) -> str:
        # 64 bits tell one build's file from the next; all 512 would make each page longer.
        return StaticFileHandler.get_content_version(abspath)[:16]


_FOR_EVER = "public, max-age=31536000, immutable"
