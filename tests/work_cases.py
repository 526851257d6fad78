"""Things and people of the job line's tests: a clock that is turned by hand, jobs, leases."""

from queue_backend.work.line import JobLine


class TurnedClock:
    """Time passes by `tick`, and in no other way."""

    def __init__(self, wall=1_700_000_000.0):
        self._wall = wall
        self._monotonic = 1_000.0

    def tick(self, seconds):
        self._wall += seconds
        self._monotonic += seconds

    def monotonic(self):
        return self._monotonic

    def wall(self):
        return self._wall


def open_line(database, clock, **rules):
    """A line with round numbers: lease 30 s, grace 5 s, back-off 60 s, three tries, two slots."""
    ordinary = {"cap": 2, "lease_seconds": 30, "grace_seconds": 5, "tries": 3}
    return JobLine(database, "desk", clock=clock, **{**ordinary, "backoff_seconds": 60, **rules})


async def put(line, key=None, **how):
    return await line.put("look-up-phone", {"fields": {"account": "knolan"}}, key=key, **how)


async def reserved(line, holder="worker"):
    lease = await line.reserve(holder)
    assert lease is not None, "nothing to reserve"
    return lease
