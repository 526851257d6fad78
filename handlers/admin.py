"""The operators' side: the live line, and the verbs of the line as buttons.

The admin desk has no verbs of its own. Each address here is one verb of `WaitingLine` or of
`JobLine`; the tables below only say which, and what it needs to be told. The people's line
writes the audit before it acts. The work line knows neither operators nor a ledger, because
most who use one have neither; so what operators do to it goes into the audit here.

Kept out: who may come in (`door.py`); what a verb does to a line (`people/`, `work/`).
"""

import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

from handlers.base import Api, Handler, Page, cookie_prefix, local_path
from handlers.door import Door, Session
from handlers.parts import Desk, Parts
from handlers.problems import HttpRefusal, problem_of
from handlers.wire import JsonObject, job_row_part, overview_body, row_part, work_body
from queue_backend.errors import BadInput, LineClosed, NotFound, WrongState
from queue_backend.ledger import AuditEntry, AuditRow
from queue_backend.people.line import WaitingLine
from queue_backend.people.roster import Words
from queue_backend.people.standing import Operator
from queue_backend.work.job import JobState, JobStats
from queue_backend.work.line import JobLine

ROWS_A_PAGE = 100
MOST_ROWS_A_PAGE = 500
LONGEST_TEXT = 200
JOBS_LOOKED_AT = 200


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


# What a verb does to the work line as it was seen, and what that is then; `why` is the operator's
# name and reason.
WorkVerb = Callable[[JobLine, JobStats, str], Awaitable[object]]
JobVerb = Callable[[JobLine, int, str | None], Awaitable[object]]

WORK_VERBS: Mapping[str, tuple[WorkVerb, str]] = {
    "pause": (lambda jobs, seen, why: jobs.pause(reason=why), "paused"),
    "resume": (lambda jobs, seen, why: jobs.resume(), "running"),
    "kick-buried": (lambda jobs, seen, why: jobs.kick_buried(seen.buried), "0"),
}

JOB_VERBS: Mapping[str, tuple[JobVerb, JobState]] = {
    "kick": (lambda jobs, id, seen: jobs.kick(id, seen), JobState.READY),
    "cancel": (lambda jobs, id, seen: jobs.cancel(id, seen), JobState.CANCELLED),
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

    async def do_to_work(self, line: WaitingLine, verb: str, told: Told) -> None:
        """What the operator saw is whether it runs; for `kick-buried`, how many are buried."""
        if verb not in WORK_VERBS:
            raise NotFound("action-unknown")
        said = told.needed_words("reason") if verb == "pause" else told.words("reason")
        jobs, by, (act, after) = self.jobs(line), self.operator, WORK_VERBS[verb]
        stats = await jobs.stats()
        running = "running" if stats.paused_reason is None else "paused"
        state = str(stats.buried) if verb == "kick-buried" else running
        entry = self._entry(line, f"work-{verb}", None, state, after, said)
        async with self.parts.ledger.witness(entry):
            _check_seen(told, state)
            # The name stands first, so that no reason reads as one that a worker gave: a worker
            # resumes what it paused.
            await act(jobs, stats, f"{by.name} – {entry.reason}")

    async def do_to_job(self, line: WaitingLine, id: str, verb: str, told: Told) -> None:
        if verb not in JOB_VERBS:
            raise NotFound("action-unknown")
        if not id.isascii() or not id.isdigit() or len(id) > 18:
            raise NotFound("job-unknown")
        jobs, (act, after) = self.jobs(line), JOB_VERBS[verb]
        job = await jobs.peek(int(id))
        entry = self._entry(line, f"job-{verb}", job.id, job.state, after, told.words("reason"))
        async with self.parts.ledger.witness(entry):
            await act(jobs, job.id, told.seen)

    def _entry(
        self,
        line: WaitingLine,
        action: str,
        number: int | None,
        before: str,
        after: str,
        said: Words,
    ) -> AuditEntry:
        by = self.operator
        return AuditEntry(
            line=line.name,
            at=self.parts.clock.wall(),
            who=by.name,
            action=action,
            number=number,
            before=str(before),
            after=str(after),
            reason=" / ".join(dict.fromkeys(text for text in (said.en, said.zh) if text)),
            address=by.address,
        )

    async def overview(self, line: WaitingLine) -> JsonObject:
        """All that the admin view shows."""
        offset = self._query_number("offset", 0, 10_000_000)
        limit = self._query_number("limit", ROWS_A_PAGE, MOST_ROWS_A_PAGE)
        desk = self.desk(line)
        search = desk.searched(self.get_query_argument("search", "")[:LONGEST_TEXT])
        overview = await line.overview(offset=offset, limit=limit, search=search)
        jobs = self.jobs(line)
        stats = await jobs.stats()
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
        body["work"] = work_body(
            await jobs.snapshot(JOBS_LOOKED_AT),
            stats,
            await jobs.workers(),
            self.adapter(line),
            now,
            self.translated,
        )
        body["actions"] = [
            {
                "at": int(row.at),
                "who": row.who,
                "action": row.action,
                "no": _number_told(row, desk),
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


def _check_seen(told: Told, state: str) -> None:
    if told.seen and told.seen != state:
        raise WrongState("state-changed", state)


def _number_told(row: AuditRow, desk: Desk) -> str | None:
    """That of a ticket as it is called, the id of a job as it is."""
    if row.number is None:
        return None
    return str(row.number) if row.action.startswith("job-") else desk.number_text(row.number)


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


class WorkVerbApi(StaffApi):
    """POST /api/admin/lines/{line}/work/{verb}"""

    async def post(self, name: str, verb: str) -> None:
        line = self.line(name)
        await self.do_to_work(line, verb, self.told())
        self.answer(await self.overview(line))


class JobVerbApi(StaffApi):
    """POST /api/admin/lines/{line}/jobs/{id}/{verb}"""

    async def post(self, name: str, id: str, verb: str) -> None:
        line = self.line(name)
        await self.do_to_job(line, id, verb, self.told())
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
            operator=self.operator.name,
            search=self.get_query_argument("search", ""),
            # What a script opens for a row is asked for by a link without one.
            asked_ticket=await self._asked_ticket(line),
            asked_job=await self._asked_job(line),
            error=error,
        )

    async def _asked_ticket(self, line: WaitingLine) -> JsonObject | None:
        number = self._query_number("ticket", 0, 10_000_000)
        if not number:
            return None
        found = await line.overview(offset=0, limit=MOST_ROWS_A_PAGE, search=str(number))
        row = next((row for row in found.rows if row.number == number), None)
        if row is None:
            return None
        return row_part(row, self.desk(line), self.adapter(line), self.translated)

    async def _asked_job(self, line: WaitingLine) -> JsonObject | None:
        id = self._query_number("job", 0, 999_999_999)
        if not id:
            return None
        job = await self.jobs(line).peek(id)
        now = self.parts.clock.wall()
        return job_row_part(job, None, self.adapter(line), now, self.translated)


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


class WorkVerbPage(StaffPage):
    """POST /admin/lines/{line}/work/{verb}"""

    async def post(self, name: str, verb: str) -> None:
        line = self.line(name)
        try:
            await self.do_to_work(line, verb, Told(self.form_body()))
        except (BadInput, WrongState) as refused:
            return await self.show_line(line, refused)
        self.see(f"/admin/lines/{line.name}")


class JobVerbPage(StaffPage):
    """POST /admin/lines/{line}/jobs/{id}/{verb}"""

    async def post(self, name: str, id: str, verb: str) -> None:
        line = self.line(name)
        try:
            await self.do_to_job(line, id, verb, Told(self.form_body()))
        except (BadInput, WrongState) as refused:
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
