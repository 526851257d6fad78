"""What a line tells: to the person who asks, to everybody, and to its operator.

Plain values for the pages to translate. Names of others are masked before they come here.
"""

from dataclasses import dataclass

from queue_backend.people.roster import Moved, Words
from queue_backend.people.ticket import State, Ticket


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Somebody in front. `name` is as others may see it, and empty while unknown."""

    number: int
    name: str
    state: State
    for_seconds: float | None  # in this state; None for those who wait


@dataclass(frozen=True, slots=True)
class Answer:
    """A time that runs: to answer a call, or at the desk."""

    left_seconds: float
    total_seconds: float
    extend_seconds: float
    extends_left: int


@dataclass(frozen=True, slots=True)
class Poll:
    """When to ask again; 0: not by itself."""

    in_seconds: float
    hidden_in_seconds: float
    stale_after_seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One ticket at one version of the roster. `ticket` is the paper to hand out; it was
    stamped anew when `stamped`."""

    ticket: Ticket
    stamped: bool
    state: State
    rev: int
    ahead: int
    behind: int
    estimate: tuple[float, float] | None
    grew: str | None
    neighbours: tuple[Neighbour, ...]
    answer: Answer | None
    desk: Answer | None
    aside_left_seconds: float | None
    undo_left_seconds: float | None
    place_in_seconds: float | None
    keep_seconds: float
    moved: Moved | None
    reason: Words
    ended_at: float | None  # wall
    called_at: float | None  # wall
    poll: Poll
    away: bool


@dataclass(frozen=True, slots=True)
class Public:
    """What anybody may know of a line, at one version of its roster."""

    rev: int
    state: str  # open, paused, draining, full, closed
    reason: Words
    opens_at: str
    serving: tuple[int, ...]
    called: tuple[int, ...]
    ready: tuple[int, ...]
    seated: tuple[tuple[int, State, float, float], ...]  # number, state, for, left: seconds
    waiting: int
    upcoming: tuple[int, ...]
    estimate: tuple[float, float] | None
    pace: tuple[float, float] | None  # seconds of the estimate that one person ahead adds
    frozen: bool
    places: int
    announcement: Words
    announcement_id: int


@dataclass(frozen=True, slots=True)
class Row:
    """One ticket as its operator sees it. Times in seconds; `joined_at` is wall time."""

    number: int
    name: str
    service: str
    state: State
    position: int | None
    joined_at: float | None
    waited_seconds: float | None
    heard_seconds_ago: float | None
    left_seconds: float | None
    extends_used: int
    away: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """The operator's view of a line. `recent` figures are those of the last hour."""

    rows: tuple[Row, ...]
    total: int
    public: Public
    aside: int
    wait_median_seconds: float | None
    wait_p90_seconds: float | None
    served_recent: int
    missed_recent: int
    marshal: str
    jobs_held: int


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts on a line, and from where; both go into the audit."""

    name: str
    address: str = ""
