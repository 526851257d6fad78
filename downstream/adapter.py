"""How the slow service is spoken to: the one interface between a worker and whatever is behind it.

An adapter names its *actions*: what can be asked, which fields that takes, which of them are
secret, whether it may be asked twice. It carries out one job at a time per *slot*, and answers
with one of five outcomes:

    done      it was carried out
    rejected  the service said no, and will say so again; the person reads why
    retry     nothing was sent, certainly; the job waits and is tried again
    unknown   it may have been carried out: never tried again blindly, but reconciled
    broken    the service cannot be used at all (its account, its certificate): the lane pauses

Whatever people read is an English msgid, marked by `N_`; pages translate it.

Kept out: jobs, leases and retries (`queue_backend/work`), pages and languages (`handlers`).
"""

import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from queue_backend.work.job import Job


def N_(msgid: str) -> str:
    """Marks a text for the catalogues, and leaves it as it is."""
    return msgid


FieldKind = Literal["text", "account", "phone", "secret", "new-secret"]
OutcomeKind = Literal["done", "rejected", "retry", "unknown", "broken"]


@dataclass(frozen=True, slots=True)
class Field:
    """One thing a person fills in.

    `secret` is a password they have, `new-secret` one they choose. A field that `repeats`
    another only guards against slips of the finger: it is compared and then dropped.
    `autocomplete` is HTML's word for what belongs here.
    """

    name: str
    label: str
    kind: FieldKind = "text"
    required: bool = True
    max_length: int = 64
    min_length: int = 0
    help: str = ""
    autocomplete: str = "off"
    repeats: str = ""

    @property
    def is_secret(self) -> bool:
        return self.kind in ("secret", "new-secret")


@dataclass(frozen=True, slots=True)
class ResultField:
    """One thing a person is told when their job is done."""

    name: str
    label: str


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """What can be asked of the service.

    `ready` is what to have at hand, said while people still wait. `rules` are sentences about
    what a new secret must look like. An action that is not `idempotent` is never sent twice.
    """

    name: str
    title: str
    summary: str
    ready: tuple[str, ...]
    fields: tuple[Field, ...]
    result: tuple[ResultField, ...] = ()
    rules: tuple[str, ...] = ()
    idempotent: bool = True
    deadline_seconds: float = 30

    def divide(self, values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Cleaned values as (what a job may hold in clear, what must be sealed). Fields left
        empty and repetitions are in neither."""
        kept = [asked for asked in self.fields if values.get(asked.name) and not asked.repeats]
        plain = {asked.name: values[asked.name] for asked in kept if not asked.is_secret}
        secret = {asked.name: values[asked.name] for asked in kept if asked.is_secret}
        return plain, secret


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call. `code` is stable, and a key of the adapter's `messages`; `fields`
    are shown to the person; `private` is for the log, and never holds what somebody typed."""

    kind: OutcomeKind
    code: str
    fields: Mapping[str, str] = field(default_factory=dict)
    private: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What one call is given besides its job.

    `deadline` is on the worker's monotonic clock: every wait inside a call ends before it.
    `cancelled` says that nobody wants the answer any more; a call that can stop safely should.
    `progress` shows people a step ("running", "checking"). `secret` hands out each secret
    once, and raises KeyError after that.
    """

    slot: int
    deadline: float
    cancelled: Callable[[], bool]
    progress: Callable[[str], Awaitable[None]]
    secret: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the service can be used now; `code` says why not, `detail` is for the operator."""

    ok: bool
    code: str = "ok"
    detail: str = ""


class Adapter(Protocol):
    """One slow service. `execute` and `reconcile` come back only when their call is really over:
    a slot is free when they return, and not before, also when they are cancelled."""

    @property
    def actions(self) -> Mapping[str, ActionSpec]:
        """By name, in the order in which people are offered them."""

    @property
    def messages(self) -> Mapping[str, str]:
        """A sentence for each code an outcome may have, COMMON_MESSAGES among them."""

    async def open(self) -> None:
        """Get ready; raises Unavailable or Unsupported in words."""

    async def execute(self, job: Job, context: Context) -> Outcome:
        """Carry out the job. An exception counts as `unknown`."""

    async def reconcile(self, job: Job, context: Context) -> Outcome:
        """Find out what became of a call whose answer was lost, without repeating it.

        `retry` says: certainly nothing happened. `unknown` says: nobody can tell.
        """

    async def health(self) -> Health:
        """A cheap look that risks nothing, above all no failed logon."""

    async def close(self) -> None:
        """Give everything back."""


# What a worker itself may have to say about a job, whichever adapter it has.
COMMON_MESSAGES: Mapping[str, str] = {
    "not-confirmed": N_(
        "We could not find out whether it went through. Please check before you try again."
    ),
    "secrets-lost": N_(
        "What you typed was erased before it could be used. Please fill it in again."
    ),
    "action-unknown": N_("This cannot be done here. Please contact the help desk."),
    "lease-lapsed": N_(
        "It was begun more than once and never ended. Please contact the help desk."
    ),
    "cancelled": N_("It was stopped before anything was changed."),
    "expired": N_("It waited too long and was not begun. Nothing was changed."),
}

# What `check` may find, in the order in which it looks.
FORM_MESSAGES: Mapping[str, str] = {
    "required": N_("Please fill this in."),
    "not-text": N_("This must be text."),
    "too-long": N_("This is too long."),
    "bad-characters": N_("This contains characters that cannot be used here."),
    "bad-account": N_("This does not look like an account name."),
    "bad-phone": N_("Use digits, spaces and + - ( ) only, such as +49 30 1234-56."),
    "too-short": N_("This is too short."),
    "needs-digit": N_("There must be at least one digit in it."),
    "needs-letter": N_("There must be at least one letter in it."),
    "passwords-differ": N_("The two entries are not the same."),
}

# Characters a directory refuses in account names, and with them every kind of filter trick.
_ACCOUNT = re.compile(r"""[^\s"/\\\[\]:;|=,+*?<>()&!]+""")
_PHONE = re.compile(r"\+?[0-9(][0-9 ()/.-]{1,30}[0-9]")


def clean(spec: ActionSpec, raw: Mapping[str, object]) -> dict[str, str]:
    """What was typed into the fields of `spec`, and nothing else: composed (NFC), and trimmed
    unless it is secret. Call it after `check` found nothing."""
    return {
        asked.name: _cleaned(asked, text)
        for asked in spec.fields
        if isinstance(text := raw.get(asked.name), str)
    }


def check(spec: ActionSpec, raw: Mapping[str, object]) -> dict[str, str]:
    """What is wrong with a filled-in form: field name to a code of FORM_MESSAGES, the first
    that applies. Empty when nothing is. What only the service can know, it says itself."""
    found = {asked.name: _fault(asked, raw) for asked in spec.fields}
    return {name: code for name, code in found.items() if code is not None}


def plain_fields(job: Job) -> dict[str, str]:
    """What the person filled in, without the secrets."""
    fields = job.args.get("fields")
    if not isinstance(fields, Mapping):
        return {}
    return {str(name): str(value) for name, value in fields.items()}


def _cleaned(asked: Field, text: str) -> str:
    composed = unicodedata.normalize("NFC", text)
    return composed if asked.is_secret else composed.strip()


def _fault(asked: Field, raw: Mapping[str, object]) -> str | None:
    value = raw.get(asked.name, "")
    if value is not None and not isinstance(value, str):
        return "not-text"
    text = _cleaned(asked, value or "")
    if not text:
        return "required" if asked.required else None
    if len(text) > asked.max_length:
        return "too-long"
    if any(unicodedata.category(character).startswith("C") for character in text):
        return "bad-characters"
    if asked.kind == "account" and not _ACCOUNT.fullmatch(text):
        return "bad-account"
    if asked.kind == "phone" and not _PHONE.fullmatch(text):
        return "bad-phone"
    if asked.repeats:
        return None if value == raw.get(asked.repeats) else "passwords-differ"
    if len(text) < asked.min_length:
        return "too-short"
    if asked.kind == "new-secret" and not any(character.isdigit() for character in text):
        return "needs-digit"
    if asked.kind == "new-secret" and not any(character.isalpha() for character in text):
        return "needs-letter"
    return None
