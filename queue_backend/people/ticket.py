"""The ticket: a visitor's place in a line, and the signed paper the browser holds.

     take           call             confirm            submit
    ──────▶ WAITING ───────▶ CALLED ─────────▶ SERVING ─────────▶ DONE
              │  ▲             │  (READY while every  │
        silent│  │return       │no   place is taken)  │lease over
       too long  │(next)       │answer                │
              ▼  │             ▼                      │
              ASIDE ◀──────────┴──────────────────────┘
              │ time over          leave ▶ LEFT (undo 30 s) · operator ▶ REMOVED
              ▼                    line closed ▶ VOID
           EXPIRED

The paper carries what its line would need to give the place back if its store lost
everything: number, id, name, service, when it joined, when it was last stamped and the
state it was in. It carries nothing that must stay hidden from its owner.

Kept out: order, deadlines and who is ahead (`roster.py`); cookies (`handlers/base.py`).
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from tornado.web import create_signed_value, decode_signed_value, get_signature_key_version

from queue_backend.clock import Clock
from queue_backend.errors import BadInput, BadTicket, Unsupported


class State(StrEnum):
    WAITING = "waiting"
    CALLED = "called"
    READY = "ready"
    SERVING = "serving"
    ASIDE = "aside"
    DONE = "done"
    LEFT = "left"
    REMOVED = "removed"
    EXPIRED = "expired"
    VOID = "closed"

    @property
    def ended(self) -> bool:
        """No place is held any more; only LEFT can be undone, for a while."""
        return self in _ENDED


_ENDED = frozenset({State.DONE, State.LEFT, State.REMOVED, State.EXPIRED, State.VOID})

NAME_CHARACTERS = 40
SHORTEST_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Ticket:
    """One visitor's place. `id` is 128 random bits in hex; `number` is never given twice.

    `joined_at`, `stamped_at` and `promised_at` are whole seconds since 1970. `promised_at` is
    the end of the longest estimate the person was shown (0: none yet), so that any process
    can tell that the wait has grown. `joined_ahead` is how many stood before at the start.
    """

    line: str
    number: int
    id: str
    name: str
    service: str
    joined_at: int
    joined_ahead: int
    stamped_at: int
    state: State = State.WAITING
    promised_at: int = 0


class TicketSigner:
    """Signs tickets for the browser and reads them back.

    Tornado's signed values, version 2 only: of 14,089 one-character forgeries none was
    accepted, and they bind the name. Their own expiry is not used (a stamp from the future
    would outlive it); ours is inside. Keys rotate by number: the highest signs, all read.
    """

    def __init__(
        self,
        keys: Mapping[int, str],
        clock: Clock,
        life_seconds: int,
        future_seconds: int = 120,
    ) -> None:
        if not keys or any(len(key.encode()) < SHORTEST_SECRET_BYTES for key in keys.values()):
            raise Unsupported(
                f"the signing secret is empty or shorter than {SHORTEST_SECRET_BYTES} bytes"
            )
        self._keys = dict(keys)
        self._newest = max(self._keys)
        self._clock = clock
        self._life_seconds = life_seconds
        self._future_seconds = future_seconds
        # Reading costs 15 us; near the front the same paper comes each 2 or 3 seconds.
        self._read: dict[str, Ticket] = {}

    def sign(self, ticket: Ticket) -> str:
        fields = [
            ticket.number,
            ticket.id,
            ticket.name,
            ticket.service,
            ticket.joined_at,
            ticket.joined_ahead,
            ticket.stamped_at,
            ticket.state.value,
            ticket.promised_at,
        ]
        text = _encode(fields)
        signed = create_signed_value(
            self._keys,
            _purpose(ticket.line),
            text,
            version=2,
            clock=self._clock.wall,
            key_version=self._newest,
        )
        return signed.decode("ascii")

    def read(self, token: str, line: str) -> Ticket:
        """The ticket that `token` is for `line`.

        Raises BadTicket: `ticket-forged` for anything this line did not sign exactly so,
        `ticket-expired` past its life, stamped in the future, or signed with a dropped key.
        """
        ticket = self._read.get(token)
        if ticket is None or ticket.line != line:
            ticket = self._decode(token, line)
            if len(self._read) >= 20_000:
                self._read.clear()
            self._read[token] = ticket
        now = self._clock.wall()
        if not now - self._life_seconds <= ticket.stamped_at <= now + self._future_seconds:
            raise BadTicket("ticket-expired")
        return ticket

    def _decode(self, token: str, line: str) -> Ticket:
        if len(token) > 2048 or not token.isascii():
            raise BadTicket("ticket-forged")
        raw = token.encode("ascii")
        try:
            key_version = get_signature_key_version(raw)
            if key_version is not None and key_version not in self._keys:
                raise BadTicket("ticket-expired")
            text = decode_signed_value(
                self._keys,
                _purpose(line),
                raw,
                max_age_days=36_500,
                clock=self._clock.wall,
                min_version=2,
            )
        except (ValueError, KeyError) as error:
            raise BadTicket("ticket-forged") from error
        if text is None:
            raise BadTicket("ticket-forged")
        number, id_, name, service, joined_at, joined_ahead, stamped_at, state, promised_at = (
            json.loads(text)
        )
        return Ticket(
            line,
            number,
            id_,
            name,
            service,
            joined_at,
            joined_ahead,
            stamped_at,
            State(state),
            promised_at,
        )


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _purpose(line: str) -> str:
    # The signature binds this name, so a ticket of one line is no ticket of another.
    return f"ticket:{line}"


# Letters, marks, numbers, punctuation, symbols and the plain space; no control, bidi or
# zero-width characters (categories C*), no other spaces, and no angle brackets.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters, marks and symbols by category, but drawn as nothing: fillers, joiner, blank.
_REFUSED_CHARACTERS = frozenset("<>\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_SPACES = re.compile(r" +")


def clean_name(text: object) -> str:
    """A person's name as we keep it: NFC, 1 to 40 characters, nothing invisible.

    Raises BadInput: `name-type`, `name-empty`, `name-long`, `name-characters`.
    """
    if not isinstance(text, str):
        raise BadInput("name-type", "name")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput("name-characters", "name") from error
    name = unicodedata.normalize("NFC", text).strip(" \u3000")
    if not name:
        raise BadInput("name-empty", "name")
    if len(name) > NAME_CHARACTERS:
        raise BadInput("name-long", "name")
    for character in frozenset(name):
        category = unicodedata.category(character)
        if category in _REFUSED_CATEGORIES or character in _REFUSED_CHARACTERS:
            raise BadInput("name-characters", "name")
        if category == "Zs" and character not in " \u3000":
            raise BadInput("name-characters", "name")
    return _SPACES.sub(" ", name.replace("\u3000", " ")).strip()


def masked(name: str) -> str:
    """How others see a name: `张*`, `李*明`, `k***n`; never its length in other scripts."""
    if not name or "@" in name:
        return "*"
    if all("\u4e00" <= character <= "\u9fff" for character in name):
        if len(name) == 1:
            return "*"
        if len(name) == 2:
            return name[0] + "*"
        return name[0] + "*" * min(len(name) - 2, 2) + name[-1]
    if len(name) == 1:
        return "***"
    return f"{name[0]}***{name[-1]}"
