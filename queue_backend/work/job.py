"""The job: one request that will be carried out, and what may become of it.

     put           reserve                ack
    ──────▶ READY ─────────▶ RESERVED ─────────▶ DONE
             ▲ ▲               │ │ │
             │ │ release, or   │ │ │ bury
             │ │ lease ends    │ │ └────────────▶ BURIED
             │ └───────────────┘ │ release later    │
             │                   └────▶ DELAYED     │
             │ its time comes             │         │ kick
             └────────────────────────────┴─────────┘
    cancel: READY, DELAYED or BURIED ──▶ CANCELLED; a RESERVED job is only asked to stop

Four states are stored, seven are shown. Whether a queued job is ready, reserved or delayed
follows from its holder and its `due`, so that what is shown can never disagree with the time:

    shown                   stored      holder                due
    delayed                 queued      none                  in the future
    ready                   queued      none, or a lapsed one past
    reserved                queued      set                   in the future
    buried done cancelled   the same    none                  -

Kept out: how jobs wait and who may take one (`line.py`), what they do (an adapter).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple


class JobState(StrEnum):
    READY = "ready"
    RESERVED = "reserved"
    DELAYED = "delayed"
    BURIED = "buried"
    DONE = "done"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing will happen to it any more, and its key is free again."""
        return self in (JobState.DONE, JobState.CANCELLED)


# What is stored for all that waits or runs; the other three are stored as they are shown.
QUEUED = "queued"


def shown_state(stored: str, holder: str | None, due: float, now: float) -> JobState:
    """The second table above."""
    if stored != QUEUED:
        return JobState(stored)
    if due <= now:
        return JobState.READY
    return JobState.DELAYED if holder is None else JobState.RESERVED


ORDINARY_PRI = 1_000
NO_CAP = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Put:
    """A job that is to be put. `args` is JSON, `body` are bytes that mean something to others.

    `line` names another line, for the next stage of what is acknowledged; "" is the same line.
    `tries` after which it is buried; None: as the line says.
    """

    task: str
    args: Mapping[str, object] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    key: str | None = None
    pri: int = ORDINARY_PRI
    delay_seconds: float = 0
    ttl_seconds: float | None = None
    tries: int | None = None
    line: str = ""


class Job(NamedTuple):
    """One row of the job line, as it was at one moment. All times are wall time.

    `attempt` counts how often it was reserved and is the fence: only the newest attempt may
    say anything about the job. `fails` counts how often it failed or its lease lapsed.
    `step` is the worker's word for how far the call has got ("" until one was begun); it stays
    when a holder falls silent, so that the next knows that a call may have been sent.
    `args` lose their `sealed` part when the job ends. A named tuple, because one is made of each
    row, and a frozen dataclass of so many fields costs more than reading it.
    """

    id: int
    line: str
    state: JobState
    task: str
    args: Mapping[str, object]
    pri: int
    due: float
    holder: str | None
    attempt: int
    fails: int
    key: str | None
    step: str
    stop_asked: bool
    result: Mapping[str, object] | None
    error: str | None
    put_at: float
    taken_at: float | None
    done_at: float | None
    body: bytes | None = None
    tries: int | None = None
    created: bool = False

    def __repr__(self) -> str:
        # Never what it says: names and sealed secrets are in it, and this is for logs.
        return f"<Job {self.id} of {self.line}: {self.task}, {self.state}, attempt {self.attempt}>"


@dataclass(frozen=True, slots=True)
class Lease:
    """A job in a holder's hand: (id, attempt), until `deadline` on this process's monotonic clock.

    The holder must have stopped by the deadline; the line gives the job and its slot away only
    a grace later. Renew with `touch`.
    """

    job: Job
    deadline: float


@dataclass(frozen=True, slots=True)
class JobStats:
    """How busy a job line is. `paused_reason` is None while it runs; `cap` is NO_CAP
    where any number may run.

    `recent_seconds` are the last run times, up to fifty, newest last.
    """

    ready: int
    reserved: int
    delayed: int
    buried: int
    cap: int
    paused_reason: str | None
    recent_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SlotView:
    """What one slot of a worker is doing since when; `slow` is a call past its deadline.

    All times are wall time. `heard_at` is when its worker last said so: one that is silent for
    long was killed, or its host is gone.
    """

    holder: str
    slot: int
    state: Literal["idle", "busy", "slow"]
    job: int | None
    since: float
    heard_at: float = 0.0
