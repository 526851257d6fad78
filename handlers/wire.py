"""What goes over the wire: the poll body and its parts, from what a line says.

One body serves the API, the page and the page's script, so they can never disagree. Times are
whole seconds from now, numbers are as people read them ("A-042"), and text that operators
wrote comes in the person's language. Nothing here looks anything up or waits: it runs on each
poll.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence

from downstream.adapter import N_, Adapter
from handlers.parts import Desk
from queue_backend.people.names import Neighbour
from queue_backend.people.roster import Words
from queue_backend.people.standing import Answer, Overview, Poll, Public, Row, Standing
from queue_backend.people.ticket import State
from queue_backend.work.job import Job, JobState, JobStats, SlotView

JsonObject = dict[str, object]
Translate = Callable[[str], str]

# Compact, and Chinese as it is.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode

quoted: Callable[[str], str] = json.encoder.encode_basestring

VERSION = 1
MOST_SHOWN = 20  # at the desk or called, on a page and on the wall
NEIGHBOURS_KEPT = 1024
MOST_JOBS_SHOWN = 50  # of each state, on the admin view

# Workers say each 5 s at least what they do: whoever missed three times was killed, or its host
# is gone.
NOT_HEARD_OF_SECONDS = 15

# For whoever looks at the line without a number; who holds one is told by the line.
LOOKING = {"in": 10, "hidden_in": 30, "stale_after": 30}
# For whoever watches a job: the visit is over, so the line has nothing more to tell.
AT_WORK = {"in": 2, "hidden_in": 10, "stale_after": 10}


def poll_body(
    standing: Standing | None,
    public: Public,
    desk: Desk,
    language: str,
    now: float,
    build: str,
    job: JsonObject | None = None,
) -> JsonObject:
    """The answer to a poll; without a number it tells what everybody may see."""
    at_work = job is not None and job["step"] != "finished"
    return {
        "v": VERSION,
        "rev": public.rev if standing is None else standing.rev,
        "now": int(now),
        "build": build,
        "line": line_part(public, desk, language),
        "ticket": standing and ticket_part(standing, public, desk, language),
        "ahead": [neighbour_part(each, desk) for each in standing.neighbours] if standing else [],
        "job": job,
        "notice": notice_part(public, language),
        "poll": AT_WORK if at_work else poll_part(standing.poll) if standing else LOOKING,
    }


class PollText:
    """The same body as `poll_body`, as JSON.

    What a line tells everybody is written once for each state of it; the small parts of which
    there are many are written by hand, because the encoder costs more than all the rest. Of
    those in front some are kept, because all who join together see nearly the same; not all,
    because the cost must not grow with how many different people ask.
    """

    def __init__(self, desk: Desk, build: str) -> None:
        self._desk = desk
        self._begin = f'{{"v":{VERSION},"build":{to_json(build)},"rev":'
        self._public: Public | None = None
        self._shared: dict[str, str] = {}  # by language
        self._neighbours: dict[Neighbour, str] = {}

    def of(self, standing: Standing, public: Public, language: str, now: float) -> str:
        if public is not self._public:
            self._public = public
            self._shared.clear()
            self._neighbours.clear()
        shared = self._shared.get(language)
        if shared is None:
            line = to_json(line_part(public, self._desk, language))
            notice = to_json(notice_part(public, language))
            shared = self._shared[language] = f'"line":{line},"notice":{notice},"job":null'
        if standing.state is State.WAITING and standing.moved is None:
            ticket = self._waiting(standing)
        else:
            ticket = to_json(ticket_part(standing, public, self._desk, language))
        known = self._neighbours
        ahead = ",".join([known.get(each) or self._neighbour(each) for each in standing.neighbours])
        shown, hidden, stale = standing.poll
        return (
            f'{self._begin}{standing.rev},"now":{int(now)},{shared},'
            f'"ticket":{ticket},"ahead":[{ahead}],'
            f'"poll":{{"in":{shown},"hidden_in":{hidden},"stale_after":{stale}}}}}'
        )

    def _waiting(self, standing: Standing) -> str:
        """As `ticket_part`, of somebody who waits where the number says: nearly all who ask."""
        ticket = standing.ticket
        eta = "null"
        if standing.estimate is not None:
            low, high = standing.estimate
            grew = f'"{standing.grew}"' if standing.grew else "null"
            eta = f'{{"lo":{math.ceil(low)},"hi":{math.ceil(high)},"grew":{grew}}}'
        return (
            f'{{"no":"{self._desk.number_text(ticket.number)}","number":{ticket.number},'
            f'"service":{quoted(ticket.service)},"state":"waiting","ahead":{standing.ahead},'
            f'"behind":{standing.behind},"joined_at":{ticket.joined_at},'
            f'"joined_ahead":{ticket.joined_ahead},"eta":{eta},"answer":null,"aside":null,'
            f'"undo":null,"place_in":null,"keep":{int(standing.keep_seconds)},"moved":null,'
            f'"away":{"true" if standing.away else "false"},"end":null}}'
        )

    def _neighbour(self, neighbour: Neighbour) -> str:
        """As `neighbour_part`."""
        number, name, state, for_seconds = neighbour
        since = "null" if for_seconds is None else int(for_seconds)
        text = (
            f'{{"no":"{self._desk.number_text(number)}","name":{quoted(name)},'
            f'"state":"{state.value}","for":{since}}}'
        )
        if len(self._neighbours) < NEIGHBOURS_KEPT:
            self._neighbours[neighbour] = text
        return text


def with_token(poll_text: str, token: str) -> str:
    """The same JSON object with its ticket's token; a token needs no escapes."""
    return f'{poll_text[:-1]},"token":"{token}"}}'


def line_part(public: Public, desk: Desk, language: str) -> JsonObject:
    return {
        "name": desk.name,
        "state": public.state,
        "reason": words(public.reason, language),
        "opens_at": (public.opens_at or desk.opens_at or None)
        if public.state == "closed"
        else None,
        "serving": [desk.number_text(number) for number in public.serving[:MOST_SHOWN]],
        "called": [desk.number_text(number) for number in public.called[:MOST_SHOWN]],
        "waiting": public.waiting,
        "estimate": span(public.estimate),
        "frozen": public.frozen,
    }


def ticket_part(standing: Standing, public: Public, desk: Desk, language: str) -> JsonObject:
    ticket = standing.ticket
    state = standing.state
    eta = span(standing.estimate)
    if eta is not None:
        eta["grew"] = standing.grew
    moved = standing.moved
    return {
        "no": desk.number_text(ticket.number),
        "number": ticket.number,
        "service": ticket.service,
        "state": state.value,
        "ahead": standing.ahead,
        "behind": standing.behind,
        "joined_at": ticket.joined_at,
        "joined_ahead": ticket.joined_ahead,
        "eta": eta,
        "answer": answer_part(standing.answer or standing.desk),
        "aside": _left(standing.aside_left_seconds),
        "undo": _left(standing.undo_left_seconds),
        "place_in": _seconds(standing.place_in_seconds),
        "keep": _seconds(standing.keep_seconds),
        "moved": moved
        and {
            "from": moved.before,
            "to": moved.after,
            "reason": words(moved.said, language),
        },
        "away": standing.away,
        "end": {
            "code": state.value,
            "reason": words(public.reason if state is State.VOID else standing.reason, language),
            "at": standing.ended_at and int(standing.ended_at),
            "rejoin": public.state == "open",
        }
        if state.ended
        else None,
    }


def poll_part(poll: Poll) -> JsonObject:
    return {
        "in": poll.in_seconds,
        "hidden_in": poll.hidden_in_seconds,
        "stale_after": poll.stale_after_seconds,
    }


def answer_part(answer: Answer | None) -> JsonObject | None:
    if answer is None:
        return None
    return {
        "left_in": int(answer.left_seconds),
        "total": int(answer.total_seconds),
        "extend_by": int(answer.extend_seconds),
        "extends_left": answer.extends_left,
    }


def neighbour_part(neighbour: Neighbour, desk: Desk) -> JsonObject:
    return {
        "no": desk.number_text(neighbour.number),
        "name": neighbour.name,
        "state": neighbour.state.value,
        "for": _seconds(neighbour.for_seconds),
    }


def notice_part(public: Public, language: str) -> JsonObject | None:
    if not public.announcement:
        return None
    return {
        "id": public.announcement_id,
        "level": "info",
        "text": words(public.announcement, language),
    }


def words(said: Words | None, language: str) -> str | None:
    return said.in_language(language) if said else None


def span(seconds: tuple[float, float] | None) -> JsonObject | None:
    if seconds is None:
        return None
    return {"lo": math.ceil(seconds[0]), "hi": math.ceil(seconds[1])}


def _seconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _left(seconds: float | None) -> JsonObject | None:
    return {"left_in": int(seconds)} if seconds else None


def public_body(public: Public, desk: Desk, language: str, now: float, build: str) -> JsonObject:
    """What everybody may see of a line; the wall shows both languages at once."""
    line = line_part(public, desk, language)
    said, announced = public.reason, public.announcement
    return {
        "v": VERSION,
        "rev": public.rev,
        "now": int(now),
        "build": build,
        "line": line
        | {
            "title": desk.title(language),
            "title_en": desk.title("en"),
            "title_zh": desk.title("zh"),
            "reason_en": words(said, "en"),
            "reason_zh": words(said, "zh"),
        },
        "upcoming": [desk.number_text(number) for number in public.upcoming],
        "places": public.places,
        "notice": (notice_part(public, language) or {})
        | {"text_en": words(announced, "en"), "text_zh": words(announced, "zh")}
        if announced
        else None,
        "poll": LOOKING,
    }


# The job

_RESULTS = {"done": "done", "rejected": "failed", "unknown": "unknown"}
_FINISHED = N_("Your request was carried out.")
_FAILED = N_("It did not work. Nothing was changed.")
_UNKNOWN = N_("We do not know yet whether it worked.")
# Of a buried job nobody can promise that nothing was changed.
_BURIED = N_("It did not work, also when it was tried again. Please contact the help desk.")
_SENTENCES = {"done": _FINISHED, "failed": _FAILED, "unknown": _UNKNOWN}


def job_part(
    job: Job,
    *,
    ahead: int,
    recent_seconds: Sequence[float],
    adapter: Adapter,
    now: float,
    translate: Translate,
) -> JsonObject:
    """What a person is told of the job they left at the desk."""
    step, since = _step(job)
    result, code, sentence = _outcome(job, adapter)
    spec = adapter.actions.get(job.task)
    values = (job.result or {}).get("fields")
    return {
        "id": str(job.id),
        "action": job.task,
        "step": step,
        "ahead": ahead if step == "waiting" else 0,
        "for": max(0, int(now - since)),
        "usual": usual(recent_seconds),
        "result": result,
        "code": code,
        "text": translate(sentence) if sentence else None,
        "fields": [
            {"name": each.name, "label": translate(each.label), "value": values[each.name]}
            for each in (spec.result if spec else ())
            if isinstance(values, Mapping) and each.name in values
        ],
        "ref": reference(job),
        "may_retry": nothing_changed(job),
    }


def nothing_changed(job: Job) -> bool:
    """Whether that is certain, so that trying again does no harm."""
    if job.state is JobState.CANCELLED:
        return job.error != "not-confirmed"
    result = job.result or {}
    return job.state is JobState.DONE and result.get("outcome") == "rejected"


def _step(job: Job) -> tuple[str, float]:
    """The step in a word, and since when (wall time)."""
    if job.state.ended or job.state is JobState.BURIED:
        return "finished", job.done_at or job.taken_at or job.put_at
    if job.state is JobState.RESERVED:
        step = "checking" if job.step == "checking" else "running"
        return step, job.taken_at or job.put_at
    return "waiting", job.put_at


def _outcome(job: Job, adapter: Adapter) -> tuple[str | None, str | None, str]:
    """result, code and sentence; the sentence is still a key of the catalogues."""
    if job.state is JobState.BURIED:
        code = job.error or "out-of-tries"
        return "failed", code, adapter.messages.get(code, _BURIED)
    if job.state is JobState.CANCELLED:
        code = job.error or "cancelled"
        if not nothing_changed(job):
            return "unknown", code, _UNKNOWN
        return "failed", code, adapter.messages.get(code, _FAILED)
    if job.state is not JobState.DONE or job.result is None:
        return None, None, ""
    result = _RESULTS.get(str(job.result.get("outcome")), "unknown")
    code = str(job.result.get("code") or result)
    return result, code, adapter.messages.get(code, _SENTENCES[result])


def usual(recent_seconds: Sequence[float]) -> JsonObject | None:
    """From the middle to the 80th percentile of the last runs; None with fewer than five."""
    if len(recent_seconds) < 5:
        return None
    runs = sorted(recent_seconds)
    return span((runs[len(runs) // 2], runs[len(runs) * 8 // 10]))


# No I, L, O, U: a reference is read aloud.
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# As `visit.py` makes the key: line, ticket, count.
_TICKET_OF_KEY = re.compile(r"[^:]*:([0-9a-f]{5})[0-9a-f]*:")


def reference(job: Job) -> str:
    """What a person reads aloud and an operator finds: a few letters of the ticket, and the id
    of the job. Jobs that nobody left at a desk have only the id."""
    ticket_id = _TICKET_OF_KEY.match(job.key or "")
    if ticket_id is None:
        return str(job.id)
    bits = int(ticket_id[1], 16)
    letters = "".join(_LETTERS[bits >> shift & 31] for shift in (15, 10, 5, 0))
    return f"{letters}-{job.id}"


# The operator's table


def overview_body(
    overview: Overview,
    desk: Desk,
    adapter: Adapter,
    language: str,
    now: float,
    offset: int,
    translate: Translate,
) -> JsonObject:
    public = overview.public
    return {
        "v": VERSION,
        "rev": public.rev,
        "now": int(now),
        "line": line_part(public, desk, language)
        | {
            "reason_en": words(public.reason, "en"),
            "reason_zh": words(public.reason, "zh"),
            "places": public.places,
            "announcement_en": words(public.announcement, "en"),
            "announcement_zh": words(public.announcement, "zh"),
        },
        "kpi": {
            "waiting": public.waiting,
            "aside": overview.aside,
            "serving": len(public.serving),
            "places": public.places,
            "wait_median": _seconds(overview.wait_median_seconds),
            "wait_p90": _seconds(overview.wait_p90_seconds),
            "served_recent": overview.served_recent,
            "missed_recent": overview.missed_recent,
            "jobs_held": overview.jobs_held,
        },
        "total": overview.total,
        "offset": offset,
        "rows": [row_part(row, desk, adapter, translate) for row in overview.rows],
        "marshal": overview.marshal,
    }


def row_part(row: Row, desk: Desk, adapter: Adapter, translate: Translate) -> JsonObject:
    spec = adapter.actions.get(row.service)
    return {
        "number": row.number,
        "no": desk.number_text(row.number),
        "name": row.name,
        "service": row.service,
        "service_title": translate(spec.title) if spec else row.service,
        "state": row.state.value,
        "position": row.position,
        "joined_at": _seconds(row.joined_at),
        "waited": _seconds(row.waited_seconds),
        "heard": _seconds(row.heard_seconds_ago),
        "left": _seconds(row.left_seconds),
        "extends_used": row.extends_used,
        "away": row.away,
    }


# The operator's view of the work line


def work_body(
    jobs: Sequence[Job],
    stats: JobStats,
    slots: Sequence[SlotView],
    adapter: Adapter,
    now: float,
    translate: Translate,
) -> JsonObject:
    """What needs a hand comes first: running and buried jobs, then those that only wait."""
    shown: list[JsonObject] = []
    for state in (JobState.RESERVED, JobState.BURIED, JobState.DELAYED, JobState.READY):
        of_state = [job for job in jobs if job.state is state][:MOST_JOBS_SHOWN]
        shown += [
            job_row_part(job, place, adapter, now, translate)
            for place, job in enumerate(of_state, 1)
        ]
    references = {job.id: reference(job) for job in jobs}
    why = stats.paused_reason
    return {
        "state": "running" if why is None else "paused",
        "why": why and said_of(why.removeprefix("broken: "), adapter, translate, why),
        "rows": shown,
        "more": max(0, stats.ready + stats.reserved + stats.delayed + stats.buried - len(shown)),
        "slots": [slot_part(view, references, now) for view in slots],
    }


def job_row_part(
    job: Job, place: int | None, adapter: Adapter, now: float, translate: Translate
) -> JsonObject:
    """Ids and codes only: what somebody filled in is between them and the service."""
    spec = adapter.actions.get(job.task)
    running = job.state is JobState.RESERVED
    seconds = None
    if running:
        seconds = max(0, int(now - (job.taken_at or job.put_at)))
    elif job.state is JobState.DELAYED:
        seconds = math.ceil(job.due - now)
    return {
        "id": job.id,
        "ref": reference(job),
        "title": translate(spec.title) if spec else job.task,
        "state": job.state.value,
        "position": place if job.state is JobState.READY else None,
        "age": max(0, int(now - job.put_at)),
        "for": seconds,  # running since, or put off until
        "attempt": job.attempt,
        "fails": job.fails,
        "holder": job.holder if running else None,
        "stopping": running and job.stop_asked,
        "code": job.error and _code(job.error),
        "error": job.error and said_of(job.error, adapter, translate),
    }


def slot_part(view: SlotView, references: Mapping[int, str], now: float) -> JsonObject:
    silent = max(0, int(now - view.heard_at))
    lost = silent > NOT_HEARD_OF_SECONDS
    since = silent if lost else max(0, int(now - view.since))
    return {
        "slot": f"{view.holder}/{view.slot}",
        "state": "lost" if lost else view.state,
        "job": None if view.job is None else references.get(view.job, str(view.job)),
        "for": None if view.state == "idle" and not lost else since,
    }


def said_of(code: str, adapter: Adapter, translate: Translate, otherwise: str | None = None) -> str:
    """The sentence for a code of the adapter's; for one it does not know, `otherwise` or the
    code. An error that is no code may hold what somebody typed, and stays in the log."""
    if code in adapter.messages:
        return translate(adapter.messages[code])
    return otherwise or _code(code) or translate(_IN_THE_LOG)


_IN_THE_LOG = N_("The log of the worker tells why.")


def _code(error: str) -> str | None:
    return error if re.fullmatch(r"[a-z0-9-]{1,64}", error) else None
