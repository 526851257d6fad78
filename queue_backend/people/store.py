"""What a line asks of its store: memcached's meaning, no more.

Two stores keep this promise, `memory.py` and `memcached.py`, under one contract suite. A call
either says what is so or raises Unavailable, and then its outcome is *unknown*: a write that
timed out may still be applied later. An outage never looks like a missing key.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

LARGEST_VALUE_BYTES = 1_000_000  # memcached's 1 MiB less its own header


@dataclass(frozen=True, slots=True)
class Token:
    """Says which reading of a value a `cas` replaces. Ids restart with the server, so a token
    is good only on the connection that read it."""

    connection: int
    cas: int


@dataclass(frozen=True, slots=True)
class Found:
    value: bytes
    token: Token


class Store(Protocol):
    """TTLs are whole seconds, 0 for none, at most 30 days; an entry may live up to one second
    less than asked. Keys are made of integers and hex only. All calls raise Unavailable."""

    async def gets(self, key: str) -> Found | None:
        """None: read as absent, on a working connection."""

    async def cas(self, key: str, value: bytes, token: Token, ttl_seconds: int = 0) -> bool:
        """False: changed or gone meanwhile, or read on another connection; nothing written.
        A value that is too large is refused and the old one stays."""

    async def add(self, key: str, value: bytes, ttl_seconds: int = 0) -> bool:
        """False: there was one already."""

    async def add_many(self, values: Mapping[str, bytes], ttl_seconds: int) -> set[str]:
        """The keys that were added, because they were absent."""

    async def set_many(self, values: Mapping[str, bytes], ttl_seconds: int) -> None:
        """Only for what may be lost: a `set` that fails deletes the old value."""

    async def get_many(self, keys: Collection[str]) -> dict[str, bytes]:
        """What is there, by key."""

    async def touch_many(self, keys: Collection[str], ttl_seconds: int) -> set[str]:
        """Gives each a new TTL; the keys that were there."""

    async def remaining(self, keys: Collection[str]) -> dict[str, int]:
        """Whole seconds left for each key that is there (-1: no TTL), renewing nothing."""

    async def delete(self, key: str) -> None: ...

    async def ready(self) -> None:
        """Returns when the store answers."""

    def close(self) -> None: ...
