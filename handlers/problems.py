"""Which error is which status, and the sentence a person reads for it.

Lines raise; this table answers. A program goes by `code`, which never changes; a person reads
the sentence in their language. Both languages have every sentence, because each stands here
once, as the key of the catalogues. A code without a sentence of its own gets that of its
status, so a new error is never a blank page; `test_bad_input.py` finds it all the same.

Kept out: how a problem is shown (`base.py`), and when it is raised.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tornado.web import HTTPError

from downstream.adapter import COMMON_MESSAGES, FORM_MESSAGES, N_
from queue_backend.errors import (
    BadInput,
    BadTicket,
    LeaseLost,
    LineClosed,
    LineFull,
    NotFound,
    NowServingError,
    Refused,
    Unavailable,
    Unsupported,
    WrongState,
)


class HttpRefusal(Refused):
    """Refused for a reason that only HTTP knows, so it brings its own status."""

    def __init__(self, status: int, code: str, retry_after_seconds: int = 0) -> None:
        super().__init__(code)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


# A full line is 503 and not 409: the same request will do later, and `Retry-After` says when.
STATUSES: Mapping[type[NowServingError], int] = {
    BadInput: 400,
    BadTicket: 401,
    NotFound: 404,
    WrongState: 409,
    LineClosed: 409,
    LineFull: 503,
    LeaseLost: 409,
    Unsupported: 501,
    Unavailable: 503,
}

TITLES: Mapping[int, str] = {
    400: N_("This could not be read"),
    401: N_("Please show your number or sign in"),
    403: N_("Not from here"),
    404: N_("Not found"),
    405: N_("Not this way"),
    409: N_("Not now"),
    413: N_("Too much at once"),
    415: N_("Unknown kind of content"),
    421: N_("Wrong address"),
    429: N_("Too many tries"),
    500: N_("Something went wrong"),
    501: N_("Not possible here"),
    503: N_("Please try again soon"),
}

# What Tornado itself refuses, as codes of ours.
_CODES_OF_STATUS: Mapping[int, str] = {
    400: "request-malformed",
    403: "origin-foreign",
    404: "address-unknown",
    405: "method-unknown",
}

SENTENCES: Mapping[str, str] = {
    **COMMON_MESSAGES,
    **FORM_MESSAGES,
    # what was sent
    "request-malformed": N_("The request could not be read. Nothing was changed."),
    "json-malformed": N_("The request is not readable JSON. Nothing was changed."),
    "json-not-object": N_("The request must be a JSON object. Nothing was changed."),
    "form-encoding": N_("The form contains characters that could not be read."),
    "content-type-unknown": N_("Send JSON to the API and forms to the pages."),
    "body-too-large": N_("The request is larger than 64 KiB. Nothing was changed."),
    "name-type": N_("The name must be text."),
    "name-empty": N_("Please enter a name."),
    "name-long": N_("The name may have 40 characters at most."),
    "name-characters": N_("The name contains characters that cannot be shown."),
    "service-unknown": N_("There is no such service at this desk."),
    "request-id": N_(
        "The request needs an id of its own: 8 to 64 letters, digits, hyphens or underscores."
    ),
    "action-type": N_("The action must be text."),
    "action-unknown": N_("There is no such action at this desk."),
    "action-other": N_("Your number is for another service."),
    "fields-type": N_("The fields must be text, each under its name."),
    "field-characters": N_("This contains characters that cannot be shown."),
    "text-long": N_("The text may have 200 characters at most."),
    "text-type": N_("The text must be text."),
    "number-malformed": N_("Please enter a whole number."),
    "places-range": N_("Please enter a whole number of places, from 0 to 999."),
    "position-range": N_("Please enter a place in the line, from 1 up."),
    "reason-missing": N_("Please give a reason."),
    "language-unknown": N_("The page is available in English and Chinese only."),
    # the number
    "ticket-missing": N_("We cannot find your number in this browser."),
    "ticket-forged": N_("This is not a number that we gave out for this line."),
    "ticket-expired": N_("This number is too old. Please take a new one."),
    "ticket-unknown": N_("There is no such number in this line."),
    # what is not there
    "line-unknown": N_("There is no such line."),
    "job-unknown": N_("There is no such request."),
    "address-unknown": N_("There is no page at this address."),
    "method-unknown": N_("This address does not take such a request."),
    # not now
    "line-closed": N_("The desk is closed. No numbers are given now."),
    "line-draining": N_("No new numbers today. Everyone in line will still be served."),
    "line-full": N_("The line is full. Please try again in about 10 minutes."),
    "no-turn": N_("It is not your turn at the desk, so nothing was sent."),
    "no-more-time": N_("There is no more time to add."),
    "not-in-line": N_("This number is not in line any more."),
    "not-waiting": N_("This number is not waiting any more."),
    "not-called": N_("This number is not called any more."),
    "not-serving": N_("This number is not at the desk any more."),
    "not-aside": N_("This number is not set aside."),
    "not-left": N_("This number has not left the line."),
    "not-done": N_("The visit with this number is not over."),
    "nobody-behind": N_("Nobody is behind you."),
    "nobody-waiting": N_("Nobody is waiting."),
    "undo-over": N_("It is too late to undo this. Please take a new number."),
    "job-wrong-state": N_("This request is already under way or over."),
    "lease-lost": N_("This request is in other hands now."),
    "not-retryable": N_("There is nothing to try again."),
    "state-changed": N_("This changed in the meantime, so nothing was done. Please look again."),
    # who may
    "origin-foreign": N_("This request came from another site, so nothing was done."),
    "host-foreign": N_("This service does not answer at this address."),
    "session-missing": N_("Please sign in first."),
    "sign-in-wrong": N_("The name or the password is not right."),
    "sign-in-slow": N_("Too many wrong tries. Please try again in %(seconds)s seconds."),
    # our own trouble
    "store-unavailable": N_(
        "The line cannot be reached just now. Your place is kept. Please try again in a moment."
    ),
    "database-unavailable": N_(
        "Requests cannot be stored just now. Your place is kept. Please try again in a moment."
    ),
    "store-busy": N_("Too much happens at once. Please try again in a moment."),
    "join-pending": N_("Your number is still being made. Please try again in a moment."),
    "roster-unreadable": N_("The line cannot be read just now. Please try again in a moment."),
    "store-too-large": N_("There is no more room just now. Please try again in a moment."),
    "unsupported": N_("This is not possible here."),
    "unexpected": N_("Something went wrong on our side. It has been written down."),
}

_SENTENCES_OF_STATUS: Mapping[int, str] = {
    400: SENTENCES["request-malformed"],
    401: SENTENCES["ticket-missing"],
    404: SENTENCES["address-unknown"],
    409: SENTENCES["state-changed"],
    503: SENTENCES["store-unavailable"],
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal, ready to be told: `title` and `sentence` are still keys of the catalogues."""

    status: int
    code: str
    title: str
    sentence: str
    field: str
    retry_after_seconds: int


def problem_of(error: BaseException | None, status: int = 500) -> Problem:
    """What to answer to `error`; `status` is Tornado's opinion, for errors that are not ours."""
    code = "unexpected"
    if isinstance(error, HttpRefusal):
        status, code = error.status, error.code
    elif isinstance(error, NowServingError):
        status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)
        code = error.code
    elif status < 500 and isinstance(error, HTTPError | None):
        code = _CODES_OF_STATUS.get(status, "request-malformed")
    return Problem(
        status=status,
        code=code,
        title=TITLES.get(status, TITLES[500]),
        sentence=sentence_of(code, status),
        field=getattr(error, "field", ""),
        retry_after_seconds=getattr(error, "retry_after_seconds", 0),
    )


def sentence_of(code: str, status: int = 400) -> str:
    """The sentence for `code`, still in English: the key of the catalogues."""
    fallback = _SENTENCES_OF_STATUS.get(status, SENTENCES["unexpected"])
    return SENTENCES.get(code, fallback)
