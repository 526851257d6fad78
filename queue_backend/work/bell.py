"""The bell: rings in this process when a line may have something new for whoever waits.

What happens in other processes is not heard; who waits looks for that now and then.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator


class Bell:
    """May be rung and listened to from any thread."""

    def __init__(self) -> None:
        self._listeners: set[Callable[[], object]] = set()
        self._changing = threading.Lock()

    def ring(self) -> None:
        with self._changing:
            listeners = tuple(self._listeners)
        for listener in listeners:
            # A loop that was closed meanwhile hears nothing, and misses nothing.
            with contextlib.suppress(RuntimeError):
                listener()

    @contextlib.contextmanager
    def heard_on_loop(self) -> Iterator[asyncio.Event]:
        """An event that is set by each ring. Clear it before you look, not after: so nothing
        is missed that happens between looking and waiting."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        with self._listened_to_by(lambda: loop.call_soon_threadsafe(event.set)):
            yield event

    @contextlib.contextmanager
    def heard_in_thread(self) -> Iterator[threading.Event]:
        """The same for a program without an event loop."""
        event = threading.Event()
        with self._listened_to_by(event.set):
            yield event

    @contextlib.contextmanager
    def _listened_to_by(self, listener: Callable[[], object]) -> Iterator[None]:
        with self._changing:
            self._listeners.add(listener)
        try:
            yield
        finally:
            with self._changing:
                self._listeners.discard(listener)
