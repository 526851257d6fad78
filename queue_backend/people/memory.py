"""The embedded store: memcached's meaning, in this process.

TTLs run on a clock of whole seconds that began with the store, as memcached's do, so an entry
lives between n - 1 and n seconds here as there. It forgets everything with its process; the
line's checkpoint lies in the ledger.
"""

from collections.abc import Collection, Mapping

from queue_backend.clock import Clock
from queue_backend.errors import Unavailable
from queue_backend.people.store import LARGEST_VALUE_BYTES, Found, Token


class MemoryStore:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._last_cas = 0
        self._entries: dict[str, tuple[bytes, int, int | None]] = {}  # value, cas, ends

    async def gets(self, key: str) -> Found | None:
        entry = self._living(key)
        return None if entry is None else Found(entry[0], Token(0, entry[1]))

    async def cas(self, key: str, value: bytes, token: Token, ttl_seconds: int = 0) -> bool:
        entry = self._living(key)
        _must_fit(value)
        if entry is None or entry[1] != token.cas:
            return False
        self._put(key, value, ttl_seconds)
        return True

    async def add(self, key: str, value: bytes, ttl_seconds: int = 0) -> bool:
        return key in await self.add_many({key: value}, ttl_seconds)

    async def add_many(self, values: Mapping[str, bytes], ttl_seconds: int) -> set[str]:
        for value in values.values():
            _must_fit(value)
        absent = {key: value for key, value in values.items() if self._living(key) is None}
        for key, value in absent.items():
            self._put(key, value, ttl_seconds)
        return set(absent)

    async def set_many(self, values: Mapping[str, bytes], ttl_seconds: int) -> None:
        for value in values.values():
            _must_fit(value)
        for key, value in values.items():
            self._put(key, value, ttl_seconds)

    async def get_many(self, keys: Collection[str]) -> dict[str, bytes]:
        found = ((key, self._living(key)) for key in keys)
        return {key: entry[0] for key, entry in found if entry is not None}

    async def touch_many(self, keys: Collection[str], ttl_seconds: int) -> set[str]:
        there = set()
        for key in keys:
            entry = self._living(key)
            if entry is not None:
                # As memcached: a touch keeps the cas id.
                self._entries[key] = (entry[0], entry[1], self._ends(ttl_seconds))
                there.add(key)
        return there

    async def remaining(self, keys: Collection[str]) -> dict[str, int]:
        now = self._now()
        left: dict[str, int] = {}
        for key in keys:
            entry = self._living(key)
            if entry is not None:
                left[key] = -1 if entry[2] is None else entry[2] - now
        return left

    async def delete(self, key: str) -> None:
        self._entries.pop(key, None)

    async def ready(self) -> None:
        return

    def close(self) -> None:
        self._entries.clear()

    def _now(self) -> int:
        return int(self._clock.monotonic() - self._began)

    def _ends(self, ttl_seconds: int) -> int | None:
        return self._now() + ttl_seconds if ttl_seconds else None

    def _put(self, key: str, value: bytes, ttl_seconds: int) -> None:
        self._last_cas += 1
        self._entries[key] = (value, self._last_cas, self._ends(ttl_seconds))

    def _living(self, key: str) -> tuple[bytes, int, int | None] | None:
        entry = self._entries.get(key)
        if entry is not None and entry[2] is not None and entry[2] <= self._now():
            del self._entries[key]
            return None
        return entry


def _must_fit(value: bytes) -> None:
    if len(value) > LARGEST_VALUE_BYTES:
        raise Unavailable("store-too-large", f"a value of {len(value)} bytes")
