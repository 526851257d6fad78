"""The door to the operators' side: who may come in, and for how long.

A session is a signed value in a cookie with its own end inside; it slides with each press, not
with the page's polling, so a desk left alone signs itself out. Guessing is slow: five wrong
tries from one address, then a wait that doubles. An unknown name costs the same work as a
wrong password, and neither is done on the event loop.

Kept out: what an operator may do (all of them may do all of it), and the pages.
"""

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from tornado.web import create_signed_value, decode_signed_value

from handlers.problems import HttpRefusal
from queue_backend.clock import Clock
from queue_backend.errors import Unsupported
from queue_backend.people.ticket import SHORTEST_SECRET_BYTES

FREE_TRIES = 5
FIRST_WAIT_SECONDS = 30
LONGEST_WAIT_SECONDS = 900
ADDRESSES_REMEMBERED = 10_000

_PURPOSE = "operator"


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody signed in; `until` is wall time."""

    name: str
    id: str
    until: float


@dataclass(frozen=True, slots=True)
class Tries:
    """Wrong tries from one address; none is looked at before `again_at` (monotonic)."""

    count: int = 0
    again_at: float = 0


class Door:
    def __init__(
        self,
        operators: Mapping[str, str],
        keys: Mapping[int, str],
        clock: Clock,
        session_seconds: int,
    ) -> None:
        if any(len(key.encode()) < SHORTEST_SECRET_BYTES for key in keys.values()):
            raise Unsupported(f"a session key is shorter than {SHORTEST_SECRET_BYTES} bytes")
        self.session_seconds = session_seconds
        self._operators = operators
        self._keys = dict(keys)
        self._clock = clock
        self._tries: dict[str, Tries] = {}
        # Sessions that were signed out before their end. Other processes do not know of them:
        # there, a copied cookie lasts until its own end.
        self._ended: dict[str, float] = {}
        # Each check takes 64 MiB and a core for a while; a flood of them waits in line.
        self._checks = asyncio.Semaphore(2)

    async def let_in(self, name: str, password: str, address: str) -> Session:
        """A session for `name`. Raises HttpRefusal: `sign-in-wrong`, `sign-in-slow`."""
        now = self._clock.monotonic()
        tries = self._tries.get(address, Tries())
        if now < tries.again_at:
            raise HttpRefusal(429, "sign-in-slow", round(tries.again_at - now) or 1)
        # Counted before it is looked at, or a hundred tries at once would all be free.
        self._remember(address, tries.count + 1, now)
        if not await self._is_right(name, password):
            raise HttpRefusal(401, "sign-in-wrong")
        self._tries.pop(address, None)
        return Session(name, secrets.token_hex(8), self._clock.wall() + self.session_seconds)

    async def _is_right(self, name: str, password: str) -> bool:
        if not self._operators:
            return False
        known = self._operators.get(name)
        # Equal work for a name that nobody has.
        hash_ = known or next(iter(self._operators.values()))
        async with self._checks:
            try:
                await asyncio.to_thread(PasswordHasher().verify, hash_, password)
            except (VerificationError, InvalidHashError, UnicodeEncodeError):
                return False
        return known is not None

    def _remember(self, address: str, count: int, now: float) -> None:
        wait = 0.0
        if count >= FREE_TRIES:
            wait = min(FIRST_WAIT_SECONDS * 2.0 ** (count - FREE_TRIES), LONGEST_WAIT_SECONDS)
        if len(self._tries) >= ADDRESSES_REMEMBERED:
            self._tries = {each: of for each, of in self._tries.items() if of.again_at > now}
        self._tries[address] = Tries(count, now + wait)

    def sign(self, session: Session) -> str:
        text = json.dumps([session.name, session.id, int(session.until)])
        newest = max(self._keys)
        return create_signed_value(
            self._keys, _PURPOSE, text, version=2, clock=self._clock.wall, key_version=newest
        ).decode("ascii")

    def read(self, cookie: str) -> Session | None:
        """The session in `cookie`; None if it is none, or over, or its operator is gone."""
        try:
            text = decode_signed_value(
                self._keys, _PURPOSE, cookie, clock=self._clock.wall, min_version=2
            )
        except (ValueError, KeyError):
            return None
        if text is None:
            return None
        session = Session(*json.loads(text))
        now = self._clock.wall()
        # A stamp from the future would outlive its end.
        if not now < session.until <= now + self.session_seconds:
            return None
        if session.id in self._ended or session.name not in self._operators:
            return None
        return session

    def prolonged(self, session: Session) -> Session | None:
        """The same session with its full time again; None while that is hardly longer."""
        until = self._clock.wall() + self.session_seconds
        if until - session.until < min(60, self.session_seconds / 10):
            return None
        return Session(session.name, session.id, until)

    def end(self, session: Session) -> None:
        now = self._clock.wall()
        self._ended = {id_: until for id_, until in self._ended.items() if until > now}
        # A prolonged copy ends later than this one, but never later than this:
        self._ended[session.id] = now + self.session_seconds
