"""Things and people of the job line's tests: a clock that is turned by hand, jobs, leases."""

from dataclasses import replace

from downstream.adapter import COMMON_MESSAGES, ActionSpec, Field, Health, Outcome
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


ASK_ONCE = ActionSpec(
    name="ask-once",
    title="Ask once",
    summary="May not be sent twice.",
    ready=(),
    fields=(Field("account", "Account"), Field("password", "Password", "secret")),
    idempotent=False,
    deadline_seconds=30,
)
ASK_AGAIN = ActionSpec(
    name="ask-again",
    title="Ask again",
    summary="May be sent as often as one likes.",
    ready=(),
    fields=(Field("account", "Account"),),
    deadline_seconds=30,
)

DONE = Outcome("done", "found", {"phone": "2041"})
NOBODY_KNOWS = Outcome("unknown", "not-confirmed")


class ScriptedAdapter:
    """A slow service that answers what the test says: an Outcome, an exception, or whatever a
    coroutine function makes of the call. `asked` is what it was asked, in order."""

    messages = COMMON_MESSAGES

    def __init__(self, *answers, reconciled=NOBODY_KNOWS, **spec_changes):
        self.answers = list(answers)
        self.reconciled = reconciled
        self.asked = []
        self.is_open = False
        self.well = Health(True)
        self.actions = {spec.name: replace(spec, **spec_changes) for spec in (ASK_ONCE, ASK_AGAIN)}

    async def open(self):
        self.is_open = True

    async def close(self):
        self.is_open = False

    async def health(self):
        return self.well

    async def execute(self, job, context):
        self.asked.append(("execute", job.id, job.attempt))
        return await self._answer(self.answers.pop(0), job, context)

    async def reconcile(self, job, context):
        self.asked.append(("reconcile", job.id, job.attempt))
        return await self._answer(self.reconciled, job, context)

    async def _answer(self, answer, job, context):
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Outcome):
            return answer
        return await answer(job, context)
