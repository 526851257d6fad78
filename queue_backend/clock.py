"""Time, handed in: so that a test's Tuesday can be followed by its Wednesday.

`monotonic` counts waiting and leases inside one process; `wall` is for what people and
other hosts read (stamps in tickets, "since 10:41"). Nothing below the front door asks the
operating system for either.
"""

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds; never steps back; means nothing to another process."""

    def wall(self) -> float:
        """Seconds since 1970; may step when the host's clock is set."""


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
