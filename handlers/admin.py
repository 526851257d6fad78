"""The operators' side: the live line, and the verbs of the line as buttons.

The admin desk has no verbs of its own. Each address here is one verb of `WaitingLine`, which
writes the audit before it acts; the tables below only say which, and what it needs to be told.

Kept out: who may come in (`door.py`); what a verb does to the line (`people/`).
"""

import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

from handlers.base import Api, Handler, Page, cookie_prefix, local_path
from handlers.door import Door, Session
from handlers.parts import Parts
from handlers.problems import HttpRefusal, problem_of
from handlers.wire import JsonObject, overview_body
from queue_backend.errors import BadInput, LineClosed, NotFound, WrongState
from queue_backend.people.line import WaitingLine
from queue_backend.people.roster import Words
from queue_backend.people.standing import Operator

ROWS_A_PAGE = 100
MOST_ROWS_A_PAGE = 500
LONGEST_TEXT = 200


class Told:
    """What an operator said along with a verb, taken from a form or from JSON."""

    def __init__(self, said: Mapping[str, object]) -> None:
        self._said = said

    @property
    def seen(self) -> str | None:
        """The state that the operator saw: if it is another by now, the verb is not done."""
        return self.text("seen") or None

    def text(self, name: str) -> str:
        text = self._said.get(name)
        if text is None:
            return ""
        if not isinstance(text, str):
            raise BadInput("text-type", name)
        text = unicodedata.normalize("NFC", text).strip()
        if len(text) > LONGEST_TEXT:
            raise BadInput("text-long", name)
        if any(unicodedata.category(character).startswith("C") for character in text):
            raise BadInput("field-characters", name)
        return text

    def words(self, name: str) -> Words:
        """`name_en` and `name_zh`, or `name` for both."""
        one = self.text(name)
        return Words(self.text(f"{name}_en") or one, self.text(f"{name}_zh") or one)

    def needed_words(self, name: str) -> Words:
        words = self.words(name)
        if not words:
            raise BadInput(f"{name}-missing", f"{name}_en")
        return words

    def whole(self, name: str, least: int) -> int:
        number = self._said.get(name)
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10:
            number = int(number)
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise BadInput(f"{name}-range", name)
        return number


LineVerb = Callable[[WaitingLine, Operator, Told], Awaitable[object]]
TicketVerb = Callable[[WaitingLine, Operator, int, Told], Awaitable[object]]

LINE_VERBS: Mapping[str, LineVerb] = {
    "open": lambda line, by, told: line.open(by),
    "pause": lambda line, by, told: line.pause(by, told.needed_words("reason")),
    "resume": lambda line, by, told: line.resume(by),
    "drain": lambda line, by, told: line.drain(by, told.words("reason")),
    "close": lambda line, by, told: line.close(by, told.words("reason")),
    "places": lambda line, by, told: line.set_places(by, told.whole("places", 0)),
    "announce": lambda line, by, told: line.announce(by, told.words("text")),
    "call-next": lambda line, by, told: line.call_next(by),
}

TICKET_VERBS: Mapping[str, TicketVerb] = {
    "call": lambda line, by, number, told: line.call(by, number, seen=told.seen),
    "recall": lambda line, by, number, told: line.recall(by, number, seen=told.seen),
    "extend": lambda line, by, number, told: line.grant(by, number, seen=told.seen),
    "aside": lambda line, by, number, told: line.set_aside(by, number, seen=told.seen),
    "return": lambda line, by, number, told: line.put_back(by, number, seen=told.seen),
    "move": lambda line, by, number, told: line.move(
        by, number, told.whole("position", 1), told.words("reason"), seen=told.seen
    ),
    "remove": lambda line, by, number, told: line.remove(
        by, number, told.words("reason"), seen=told.seen
    ),
    "finish": lambda line, by, number, told: line.complete(by, number, seen=told.seen),
}


class Staff(Handler):
    """Whatever only operators may ask for."""

    door: Door
    session: Session | None = None

    def initialize(self, parts: Parts, door: Door) -> None:  # type: ignore[override]
        super().initialize(parts)
        self.door = door

    def recognise(self) -> Session | None:
        cookie = self.cookie(self._session_cookie)
        self.session = self.door.read(cookie) if cookie else None
        return self.session

    def give_session(self, session: Session) -> None:
        self.set_cookie(
            self._session_cookie,
            self.door.sign(session),
            httponly=True,
            samesite="Strict",
            secure=self.parts.https,
        )

    def prolong_session(self) -> None:
        if self.session is not None and (longer := self.door.prolonged(self.session)):
            self.session = longer
            self.give_session(longer)

    def end_session(self) -> None:
        if self.session is not None:
            self.door.end(self.session)
        self.clear_cookie(
            self._session_cookie, httponly=True, samesite="Strict", secure=self.parts.https
        )

    @property
    def _session_cookie(self) -> str:
        return f"{cookie_prefix(self.parts)}operator"

    @property
    def operator(self) -> Operator:
        if self.session is None:
            raise HttpRefusal(401, "session-missing")
        return Operator(self.session.name, self.request.remote_ip or "")

    async def do_to_line(self, line: WaitingLine, verb: str, told: Told) -> None:
        if verb not in LINE_VERBS:
            raise NotFound("action-unknown")
        await LINE_VERBS[verb](line, self.operator, told)

    async def do_to_ticket(self, line: WaitingLine, number: str, verb: str, told: Told) -> None:
        if verb not in TICKET_VERBS:
            raise NotFound("action-unknown")
        if not number.isascii() or not number.isdigit() or len(number) > 9:
            raise NotFound("ticket-unknown")
        await TICKET_VERBS[verb](line, self.operator, int(number), told)

    async def overview(self, line: WaitingLine) -> JsonObject:
        """All that the admin view shows."""
        offset = self._query_number("offset", 0, 10_000_000)
        limit = self._query_number("limit", ROWS_A_PAGE, MOST_ROWS_A_PAGE)
        desk = self.desk(line)
        search = desk.searched(self.get_query_argument("search", "")[:LONGEST_TEXT])
        overview = await line.overview(offset=offset, limit=limit, search=search)
        stats = await self.jobs(line).stats()
        actions = await self.parts.ledger.recent_actions(line.name)
        now = self.parts.clock.wall()
        body = overview_body(
            overview, desk, self.adapter(line), self.language, now, offset, self.translated
        )
        body["build"] = self.parts.build
        body["jobs"] = {
            "ready": stats.ready,
            "reserved": stats.reserved,
            "delayed": stats.delayed,
            "buried": stats.buried,
            "cap": stats.cap,
            "paused_reason": stats.paused_reason,
        }
        body["workers"] = [
            {"slot": each.slot, "state": each.state, "job": each.job, "for": int(each.for_seconds)}
            for each in self.parts.workers(line.name)
        ]
        body["actions"] = [
            {
                "at": int(row.at),
                "who": row.who,
                "action": row.action,
                "no": None if row.number is None else desk.number_text(row.number),
                "before": row.before,
                "after": row.after,
                "reason": row.reason,
                "outcome": row.outcome,
            }
            for row in actions
        ]
        left = self.session.until - now if self.session else 0
        body["session"] = {"name": self.operator.name, "left_in": int(left)}
        return body

    def _query_number(self, name: str, otherwise: int, most: int) -> int:
        text = self.get_query_argument(name, "")
        if not text:
            return otherwise
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise BadInput("number-malformed", name)
        return min(int(text), most)


class StaffApi(Staff, Api):
    def prepare(self) -> None:
        if self.recognise() is None:
            raise HttpRefusal(401, "session-missing")
        if self.request.method == "POST":
            # The page's polling does not keep a session alive, a press does.
            self.prolong_session()

    def told(self) -> Told:
        kind = self.request.headers.get("Content-Type", "")
        form = kind.startswith(("application/x-www-form-urlencoded", "multipart/form-data"))
        return Told(self.form_body() if form else self.json_body())


class OverviewApi(StaffApi):
    """GET /api/admin/lines/{line}"""

    async def get(self, name: str) -> None:
        self.answer(await self.overview(self.line(name)))


class LineVerbApi(StaffApi):
    """POST /api/admin/lines/{line}/{verb}"""

    async def post(self, name: str, verb: str) -> None:
        line = self.line(name)
        await self.do_to_line(line, verb, self.told())
        self.answer(await self.overview(line))


class TicketVerbApi(StaffApi):
    """POST /api/admin/lines/{line}/tickets/{number}/{verb}"""

    async def post(self, name: str, number: str, verb: str) -> None:
        line = self.line(name)
        await self.do_to_ticket(line, number, verb, self.told())
        self.answer(await self.overview(line))


class StaffPage(Staff, Page):
    def prepare(self) -> None:
        super().prepare()
        if self.recognise() is None:
            safe = self.request.method in ("GET", "HEAD")
            back = self.request.path if safe else "/admin"
            self.see(f"/admin/sign-in?{urlencode({'back': back})}")
            return
        self.prolong_session()

    async def show_line(self, line: WaitingLine, refused: Exception | None = None) -> None:
        """The admin view of `line` as it is now, under the sentence of `refused`."""
        error = None
        if refused is not None:
            problem = problem_of(refused)
            self.put_status(problem)
            error = self.said(problem)
        self.show(
            "admin.html",
            line,
            overview=await self.overview(line),
            specs=list(self.adapter(line).actions.values()),
            operator=self.operator.name,
            search=self.get_query_argument("search", ""),
            error=error,
        )


class AdminPage(StaffPage):
    """GET /admin: the first line."""

    def get(self) -> None:
        self.see(f"/admin/lines/{next(iter(self.parts.lines))}")


class LinePage(StaffPage):
    """GET /admin/lines/{line}"""

    async def get(self, name: str) -> None:
        await self.show_line(self.line(name))


class LineVerbPage(StaffPage):
    """POST /admin/lines/{line}/{verb}"""

    async def post(self, name: str, verb: str) -> None:
        line = self.line(name)
        try:
            await self.do_to_line(line, verb, Told(self.form_body()))
        except (BadInput, WrongState, LineClosed) as refused:
            return await self.show_line(line, refused)
        self.see(f"/admin/lines/{line.name}")


class TicketVerbPage(StaffPage):
    """POST /admin/lines/{line}/tickets/{number}/{verb}"""

    async def post(self, name: str, number: str, verb: str) -> None:
        line = self.line(name)
        try:
            await self.do_to_ticket(line, number, verb, Told(self.form_body()))
        except (BadInput, WrongState, LineClosed) as refused:
            return await self.show_line(line, refused)
        self.see(f"/admin/lines/{line.name}")


class SignInPage(Staff, Page):
    """/admin/sign-in"""

    def get(self) -> None:
        back = local_path(self.get_query_argument("back", ""), "/admin")
        if self.recognise() is not None:
            return self.see(back)
        self.show("sign_in.html", name="", error=None, back=back)

    async def post(self) -> None:
        form = self.form_body()
        name = form.get("name", "")
        back = local_path(form.get("back", ""), "/admin")
        try:
            session = await self.door.let_in(
                name, form.get("password", ""), self.request.remote_ip or ""
            )
        except HttpRefusal as refused:
            problem = problem_of(refused)
            self.put_status(problem)
            return self.show("sign_in.html", name=name[:64], error=self.said(problem), back=back)
        self.give_session(session)
        self.see(back)


class SignOutPage(Staff, Page):
    """POST /admin/sign-out"""

    def post(self) -> None:
        self.form_body()
        self.recognise()
        self.end_session()
        self.see("/admin/sign-in")
