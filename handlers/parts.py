"""What the handlers are handed: the lines, and the plain values that pages need.

The front door (`app.py`) builds all of it and nobody here builds any of it, so a test hands in
a real line over the store in this process, and a clock that stands still.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from downstream.adapter import Adapter
from downstream.sealed import Keyring
from handlers.languages import Languages
from queue_backend.clock import Clock
from queue_backend.ledger import Ledger
from queue_backend.people.line import WaitingLine
from queue_backend.people.roster import Words
from queue_backend.people.ticket import TicketSigner
from queue_backend.work.line import JobLine


@dataclass(frozen=True, slots=True)
class Desk:
    """How one line is presented to people; what it *does* is the line's own business."""

    name: str
    title_en: str
    title_zh: str
    prefix: str = "A"
    contact_en: str = ""
    contact_zh: str = ""
    opens_at: str = ""  # "08:30": shown while closed

    def title(self, language: str) -> str:
        return Words(self.title_en, self.title_zh).in_language(language)

    def contact(self, language: str) -> str:
        return Words(self.contact_en, self.contact_zh).in_language(language)

    def number_text(self, number: int) -> str:
        """`A-042`: as called, printed and shown on the wall."""
        return f"{self.prefix}-{number:03d}"

    def searched(self, text: str) -> str:
        """What to look for: `a-042` and `42` are the number 42, all else is part of a name."""
        bare = text.strip().upper().removeprefix(f"{self.prefix}-")
        return str(int(bare)) if bare.isascii() and bare.isdigit() else text.strip()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One room of each kind, under the name of its line."""

    clock: Clock
    lines: Mapping[str, WaitingLine]
    jobs: Mapping[str, JobLine]
    adapters: Mapping[str, Adapter]
    desks: Mapping[str, Desk]
    ledger: Ledger
    keyring: Keyring
    signer: TicketSigner
    languages: Languages
    session_keys: Mapping[int, str]  # key number -> secret of 32 bytes or more; the highest signs
    operators: Mapping[str, str] = field(default_factory=dict)  # name -> argon2 hash
    build: str = "dev"
    public_url: str = ""  # "https://desk.example.org"; empty: any address, plain http
    allowed_hosts: frozenset[str] = frozenset()  # besides that of public_url and this machine
    trusted_proxies: tuple[str, ...] = ()  # whose X-Forwarded-* headers are believed
    static_path: Path = Path("static")
    ticket_cookie_seconds: int = 86_400
    session_seconds: int = 1_800
    # What `/readyz` asks: a name ("store", "database", "worker") and a question that returns
    # "" when all is well, else what is not; one that raises or takes over a second is not well.
    checks: Mapping[str, Callable[[], Awaitable[str]]] = field(default_factory=dict)
    # More numbers for `/metrics`, by name ("heartbeat_batch_size"), read when asked.
    counters: Callable[[], Mapping[str, float]] = dict

    @property
    def https(self) -> bool:
        return self.public_url.startswith("https://")

    def answers_at(self, host: str) -> bool:
        """Whether `host` (without its port) is an address of ours.

        A page of another site may make its own name resolve to us, and would then be "same
        origin" for a browser; so once we know our public address we answer to no other name.
        """
        if not self.public_url or host in _THIS_MACHINE or host in self.allowed_hosts:
            return True
        return host == (urlsplit(self.public_url).hostname or "")


_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
