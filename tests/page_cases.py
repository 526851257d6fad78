"""Every page in every state that a person can see, as the contexts that handlers hand over.

The words of `pages.md`'s table of states are the names here. Tests render them; so may anybody
who wants to look at a page without bringing a line into that state first.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from downstream.adapter import FORM_MESSAGES
from downstream.demo import ACTIONS, MESSAGES
from handlers.languages import Languages
from queue_backend.people.rules import Rules

NOW = 1_763_722_860  # 11:01 in UTC, which is what `clock` below says

Context = dict[str, Any]
Translate = Callable[[str], str]


def clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M")


def pages(
    languages: Languages, lang: str, static: Callable[[str], str] = "/static/{}".format
) -> Iterator[tuple[str, str, Context]]:
    """(name of the case, template, context) for each."""
    other = languages.other(lang)
    zh = lang == "zh-Hans"
    shared: Context = {
        "lang": lang,
        "other_lang": other,
        "other_lang_url": f"/lines/desk?lang={other}",
        "static": static,
        "line_title": "账号自助台" if zh else "Account desk",
        "contact": "IT 服务台，分机 8000" if zh else "IT desk, ext. 8000",
        "build": "abc123",
        "path": "/lines/desk",
        "clock": clock,
    }
    translate = languages.gettext(lang)
    for name, context in _queue(zh, translate).items():
        yield f"queue-{name}", "queue.html", shared | context
    for name, context in _desk(translate).items():
        yield f"desk-{name}", "desk.html", shared | context
    for name, context in _jobs(translate).items():
        yield f"job-{name}", "job.html", shared | context
    for name, context in _admin(zh, translate).items():
        yield f"admin-{name}", "admin.html", shared | context
    for name, context in _wall().items():
        yield f"wall-{name}", "wall.html", shared | context
    signing: Context = {"name": "", "error": None, "back": "/admin"}
    wrong = translate("The name or the password is not right.")
    yield "sign-in", "sign_in.html", shared | signing
    yield "sign-in-wrong", "sign_in.html", shared | signing | {"name": "li", "error": wrong}
    public = [_public(), _public(name="it", title="IT", state="closed", waiting=0, estimate=None)]
    yield "lines", "lines.html", shared | {"lines": public, "line_title": "Now Serving"}
    for status, title, detail in (
        (404, "Not found", "There is no page at this address."),
        (409, "Not now", "It is not your turn at the desk, so nothing was sent."),
        (503, "Please try again soon", "The line is full. Please try again in about 10 minutes."),
    ):
        problem = {"status": status, "title": translate(title), "detail": translate(detail)}
        yield f"problem-{status}", "problem.html", shared | problem


def line(**changes: object) -> Context:
    return {
        "name": "desk",
        "state": "open",
        "reason": None,
        "opens_at": None,
        "serving": ["A-039"],
        "called": ["A-040"],
        "waiting": 8,
        "estimate": {"lo": 480, "hi": 600},
        "frozen": False,
    } | changes


def ticket(**changes: object) -> Context:
    return {
        "no": "A-042",
        "number": 42,
        "service": "change-password",
        "state": "waiting",
        "ahead": 3,
        "behind": 5,
        "joined_at": NOW - 1200,
        "joined_ahead": 10,
        "eta": {"lo": 240, "hi": 360, "grew": None},
        "answer": None,
        "aside": None,
        "undo": None,
        "place_in": None,
        "keep": 375,
        "moved": None,
        "away": False,
        "end": None,
    } | changes


def answer(left_in: int, extends_left: int = 10, total: int = 120) -> Context:
    return {"left_in": left_in, "total": total, "extend_by": 60, "extends_left": extends_left}


def ended(code: str, reason: str | None = None, **changes: object) -> Context:
    end = {"code": code, "reason": reason, "at": NOW - 540, "rejoin": True}
    return ticket(state=code, ahead=0, behind=0, eta=None, end=end, **changes)


AHEAD = (
    {"no": "A-039", "name": "张*", "state": "serving", "for": 72},
    {"no": "A-040", "name": "k***n", "state": "called", "for": 12},
    {"no": "A-041", "name": "李*明", "state": "waiting", "for": 0},
)


def body(ticket: Context | None = None, **changes: object) -> Context:
    return {
        "v": 1,
        "rev": 12,
        "now": NOW,
        "build": "abc123",
        "line": line(),
        "ticket": ticket,
        "ahead": list(AHEAD[-ticket["ahead"] :]) if ticket and ticket["ahead"] else [],
        "job": None,
        "notice": None,
        "poll": {"in": 3, "hidden_in": 15, "stale_after": 12},
    } | changes


def _queue(zh: bool, translate: Translate) -> dict[str, Context]:
    reason = "后台维护" if zh else "The directory is being serviced"
    announcement = (
        "今天电话查询较慢，密码修改不受影响。"
        if zh
        else "Phone look-ups are slow today. Password changes are not affected."
    )
    paused = line(state="paused", reason=reason)
    notice = {"id": 3, "level": "info", "text": announcement}
    moved = {"from": 3, "to": 5, "reason": "急件" if zh else "An urgent case"}
    duplicate = "重复取号" if zh else "Taken twice"
    nobody = line(serving=[], called=[], waiting=0, estimate=None)
    late = {"in": 0, "hidden_in": 0, "stale_after": 0}
    busy = line(serving=["A-038", "A-039", "A-037"])
    cases: dict[str, Context] = {
        "none": {"body": body()},
        "none-empty": {"body": body(line=nobody)},
        "none-unmeasured": {"body": body(line=line(estimate=None, waiting=1))},
        "none-paused": {"body": body(line=paused)},
        "none-frozen": {"body": body(line=line(frozen=True))},
        "none-wrong": {
            "body": body(),
            "form": {
                "name": "",
                "service": "unlock",
                "errors": {"name": translate("Please enter a name.")},
            },
            "error": translate("Please enter a name."),
        },
        "none-one-service": {"body": body(), "specs": [ACTIONS["unlock"]]},
        "cookies-off": {"body": body(), "cookies_off": True},
        "error": {
            "body": body(ticket()),
            "error": translate(
                "This changed in the meantime, so nothing was done. Please look again."
            ),
        },
        "lost": {
            "body": body(),
            "lost": True,
            "error": translate("This number is too old. Please take a new one."),
        },
        "closed": {"body": body(line=nobody | {"state": "closed", "opens_at": "08:30"})},
        "draining": {"body": body(line=line(state="draining"))},
        "full": {"body": body(line=line(state="full"))},
        "waiting-many": {"body": body(ticket(ahead=12, joined_ahead=31), ahead=list(AHEAD))},
        "waiting": {"body": body(ticket())},
        "waiting-one": {"body": body(ticket(ahead=1, behind=1))},
        "waiting-next": {"body": body(ticket(ahead=0, eta={"lo": 0, "hi": 50, "grew": None}))},
        "waiting-last": {"body": body(ticket(behind=0, joined_ahead=3))},
        "waiting-first": {"body": body(ticket(ahead=0, behind=0, joined_ahead=0))},
        "waiting-unmeasured": {"body": body(ticket(eta=None))},
        "waiting-grew": {"body": body(ticket(eta={"lo": 540, "hi": 720, "grew": "slow"}))},
        "waiting-stood": {"body": body(ticket(eta={"lo": 540, "hi": 720, "grew": "paused"}))},
        "waiting-busy": {"body": body(ticket(), line=busy)},
        "waiting-frozen": {"body": body(ticket(), line=line(frozen=True))},
        "waiting-paused": {"body": body(ticket(), line=paused)},
        "waiting-draining": {"body": body(ticket(), line=line(state="draining"))},
        "waiting-announced": {"body": body(ticket(), notice=notice)},
        "waiting-moved": {"body": body(ticket(ahead=5, moved=moved), ahead=list(AHEAD))},
        "waiting-still": {"body": body(ticket()), "still": True},
        "called": {"body": body(ticket(state="called", ahead=0, answer=answer(98)))},
        "called-last": {"body": body(ticket(state="called", ahead=0, answer=answer(28)))},
        "called-extended": {
            "body": body(ticket(state="called", ahead=0, answer=answer(118, 9, 180)))
        },
        "called-no-more": {"body": body(ticket(state="called", ahead=0, answer=answer(20, 0)))},
        "called-paused": {
            "body": body(ticket(state="called", ahead=0, answer=answer(98)), line=paused)
        },
        "ready": {"body": body(ticket(state="ready", ahead=0, place_in=40))},
        "ready-unmeasured": {"body": body(ticket(state="ready", ahead=0))},
        "aside": {"body": body(ticket(state="aside", ahead=0, aside={"left_in": 420}))},
        "expired": {"body": body(ended("expired"), poll=late)},
        "left": {"body": body(ended("left", undo={"left_in": 27}), poll=late)},
        "left-over": {"body": body(ended("left"), poll=late)},
        "removed": {"body": body(ended("removed", duplicate), poll=late)},
        "removed-unsaid": {"body": body(ended("removed"), poll=late)},
        "void": {"body": body(ended("closed"), line=line(state="closed", opens_at="08:30"))},
        "done": {"body": body(ended("done"), poll=late)},
    }
    return {name: _queue_defaults(context) for name, context in cases.items()}


def _queue_defaults(context: Context) -> Context:
    held = context["body"]["ticket"]
    return {
        "spec": ACTIONS[held["service"]] if held else None,
        "specs": list(ACTIONS.values()),
        "form": {"name": "", "service": "", "errors": {}},
        "request_id": "Xk2vQ9pLw0aB",
        "rules": Rules(),
        "still": False,
        "error": None,
        "cookies_off": False,
        "lost": False,
    } | context


def _desk(translate: Translate) -> dict[str, Context]:
    def at_desk(service: str, left_in: int = 252, **changes: object) -> Context:
        held = ticket(state="serving", service=service, ahead=0, answer=answer(left_in, 10, 300))
        return {
            "body": body(held),
            "spec": ACTIONS[service],
            "values": {},
            "errors": {},
            "action": "/lines/desk/desk",
        } | changes

    wrong = {
        "password": translate(FORM_MESSAGES["required"]),
        "new_password_again": translate(FORM_MESSAGES["passwords-differ"]),
    }
    return {
        **{service: at_desk(service) for service in ACTIONS},
        "wrong": at_desk("change-password", values={"account": "knolan"}, errors=wrong),
        "last-minute": at_desk("look-up-phone", 48, values={"account": "<b>&\"'"}),
    }


def _jobs(translate: Translate) -> dict[str, Context]:
    def with_job(service: str = "change-password", **changes: object) -> Context:
        job = {
            "id": "17",
            "action": service,
            "step": "finished",
            "ahead": 0,
            "for": 12,
            "usual": {"lo": 40, "hi": 60},
            "result": None,
            "code": None,
            "text": None,
            "fields": [],
            "ref": "7Q3K-17",
            "may_retry": False,
        } | changes
        held = ended("done", service=service)
        return {"body": body(held, job=job), "spec": ACTIONS[service], "still": False}

    def told(
        result: str, code: str, service: str = "change-password", **changes: object
    ) -> Context:
        sentence = translate(MESSAGES[code])
        return with_job(service, result=result, code=code, text=sentence, **changes)

    answers = {"name": "张伟", "phone": "+86 10 5550 0142", "department": "采购部"}
    labels = {each.name: translate(each.label) for each in ACTIONS["look-up-phone"].result}
    fields = [{"name": k, "label": labels[k], "value": v} for k, v in answers.items()]
    return {
        "waiting": with_job(step="waiting", ahead=1),
        "waiting-next": with_job(step="waiting", usual=None),
        "running": with_job(step="running"),
        "checking": with_job(step="checking"),
        "done": told("done", "password-changed"),
        "found": told("done", "found", service="look-up-phone", fields=fields),
        "failed": told("failed", "password-wrong", may_retry=True),
        "failed-for-good": told("failed", "action-unknown"),
        "unknown": told("unknown", "not-confirmed"),
        "gone": {
            "body": body(ended("done")),
            "spec": ACTIONS["unlock"],
            "still": False,
        },
    }


def row(number: int, state: str, **changes: object) -> Context:
    names = ("张伟", "Karen Nolan", "李小明", "Mark Fischer", "王芳", "Sofia Duarte", "赵磊")
    services = tuple(ACTIONS)
    service = services[number % len(services)]
    return {
        "number": number,
        "no": f"A-{number:03d}",
        "name": names[number % len(names)],
        "service": service,
        "service_title": ACTIONS[service].title,
        "state": state,
        "position": None,
        "joined_at": NOW - 600,
        "waited": 660 - number,
        "heard": number % 5,
        "left": None,
        "extends_used": 0,
        "away": False,
    } | changes


def overview(rows: list[Context], **changes: object) -> Context:
    waiting = sum(each["state"] == "waiting" for each in rows)
    extra = {
        "reason_en": None,
        "reason_zh": None,
        "places": 2,
        "announcement_en": "Phone look-ups are slow today.",
        "announcement_zh": None,
    }
    kpi = {
        "waiting": waiting,
        "aside": sum(each["state"] == "aside" for each in rows),
        "serving": sum(each["state"] == "serving" for each in rows),
        "places": 2,
        "wait_median": 250,
        "wait_p90": 422,
        "served_recent": 37,
        "missed_recent": 3,
        "jobs_held": 1,
    }
    actions = [
        {
            "at": NOW - 60 * each,
            "who": "li",
            "action": action,
            "no": no,
            "before": before,
            "after": after,
            "reason": reason,
            "outcome": "done",
        }
        for each, (action, no, before, after, reason) in enumerate(
            (
                ("places", None, "1", "2", ""),
                ("aside", "A-046", "called", "aside", ""),
                ("move", "A-041", "waiting", "1", "Urgent case"),
                ("call-next", None, "", "", ""),
            )
        )
    ]
    actions[3]["outcome"] = "line-empty"
    return {
        "v": 1,
        "rev": 12,
        "now": NOW,
        "build": "abc123",
        "line": line() | extra,
        "kpi": kpi,
        "total": len(rows),
        "offset": 0,
        "rows": rows,
        "jobs": {
            "ready": 3,
            "reserved": 1,
            "delayed": 0,
            "buried": 0,
            "cap": 2,
            "paused_reason": None,
        },
        "work": {"state": "running", "why": None, "rows": [], "more": 0, "slots": []},
        "actions": actions,
        "marshal": "web-1",
        "session": {"name": "li", "left_in": 1500},
    } | changes


def request(id: int, state: str, **changes: object) -> Context:
    services = tuple(ACTIONS)
    return {
        "id": id,
        "ref": f"7Q3{'KXMT'[id % 4]}-{id}",
        "title": ACTIONS[services[id % len(services)]].title,
        "state": state,
        "position": None,
        "age": 7 * id,
        "for": None,
        "attempt": 0,
        "fails": 0,
        "holder": None,
        "stopping": False,
        "code": None,
        "error": None,
    } | changes


def slot(number: int, state: str, job: str | None, seconds: int | None) -> Context:
    return {"slot": f"win-01-4711-9c3e/{number}", "state": state, "job": job, "for": seconds}


def _work(translate: Translate) -> Context:
    holder = "win-01-4711-9c3e/1"
    lapsed = {"code": "lease-lapsed", "error": translate(MESSAGES["lease-lapsed"])}
    again = {"code": "directory-busy", "error": "directory-busy"}
    rows = [
        request(17, "reserved", **{"for": 72}, attempt=1, holder=holder),
        request(16, "reserved", **{"for": 140}, attempt=2, fails=1, holder=holder, stopping=True),
        request(11, "buried", age=200_000, attempt=4, fails=4, **lapsed),
        request(12, "buried", age=9_000, attempt=4, fails=4, **again),
        request(15, "delayed", **{"for": 431}, attempt=1, fails=1, **again),
        request(18, "ready", position=1),
        request(19, "ready", position=2, attempt=1),
    ]
    for each in rows:
        each["title"] = translate(each["title"])
    slots = [
        slot(1, "busy", "7Q3X-17", 72),
        slot(2, "slow", "7Q3K-16", 140),
        slot(3, "idle", None, None),
        slot(4, "lost", "7Q3T-11", 5_000),
    ]
    return {"state": "running", "why": None, "rows": rows, "more": 0, "slots": slots}


def _admin(zh: bool, translate: Translate) -> dict[str, Context]:
    rows = [
        row(39, "serving", left=190),
        row(38, "ready"),
        row(40, "called", left=41, extends_used=1),
        row(41, "waiting", position=1),
        row(42, "waiting", position=2),
        row(43, "waiting", position=3, away=True, heard=112),
        row(44, "waiting", position=4),
        row(45, "waiting", position=5),
        row(46, "aside", left=428, heard=260),
    ]
    many = [row(each, "waiting", position=each) for each in range(1, 101)]
    paused = {"state": "paused", "reason_en": "The directory is being serviced"}
    work = _work(translate)
    busy = {"ready": 2, "reserved": 2, "delayed": 1, "buried": 2, "cap": 3, "paused_reason": None}
    broken = "broken: certificate-expired"
    stopped = {"jobs": busy | {"reserved": 0, "paused_reason": broken}, "work": work}
    stopped["work"] = work | {"state": "paused", "why": broken, "more": 9_950}
    for each in rows + many:
        each["service_title"] = translate(each["service_title"])
    cases: Mapping[str, Context] = {
        "busy": {"overview": overview(rows, jobs=busy, work=work)},
        "asked": {
            "overview": overview(rows, jobs=busy, work=work),
            "asked_ticket": rows[4],
            "asked_job": work["rows"][0],
        },
        "empty": {"overview": overview([], actions=[], marshal="")},
        "paused": {
            "overview": overview(rows, line=overview(rows)["line"] | paused),
            "error": translate("Please give a reason."),
        },
        "closed": {"overview": overview([], line=overview([])["line"] | {"state": "closed"})},
        "stopped": {"overview": overview(rows, **stopped)},
        "hundred": {"overview": overview(many, total=2000, offset=100, jobs=busy, work=work)},
    }
    asked_nothing = {"search": "", "asked_ticket": None, "asked_job": None, "error": None}
    return {name: {"operator": "li", **asked_nothing, **context} for name, context in cases.items()}


def _public(name: str = "desk", title: str = "Account desk", **changes: object) -> Context:
    extra = {"name": name, "title": title, "title_en": title, "title_zh": "账号自助台"}
    said = {"reason_en": None, "reason_zh": None}
    return {
        "v": 1,
        "rev": 12,
        "now": NOW,
        "build": "abc123",
        "line": line() | extra | said | changes,
        "upcoming": ["A-041", "A-042", "A-043", "A-044"],
        "places": 2,
        "notice": None,
        "poll": {"in": 2, "hidden_in": 30, "stale_after": 30},
    }


def _wall() -> dict[str, Context]:
    notice = {
        "id": 3,
        "level": "info",
        "text": "Phone look-ups are slow today.",
        "text_en": "Phone look-ups are slow today.",
        "text_zh": "今天电话查询较慢。",
    }
    nobody = _public(serving=[], called=[], waiting=0, estimate=None) | {"upcoming": []}
    four = _public(serving=["A-036", "A-037", "A-038"], called=["A-039", "A-040"])
    return {
        "busy": {"public": _public()},
        "five": {"public": four},
        "nobody": {"public": nobody},
        "paused": {"public": _public(state="paused") | {"notice": notice}},
        "closed": {"public": nobody | {"line": nobody["line"] | {"state": "closed"}}},
    }
