"""What a line tells: to the person who asks, to everybody, and to its operator.

Plain values for the pages to translate, each read off one version of the roster, so what they
say fits together. `now` is line time, `wall` is seconds since 1970.

What is made anew for each poll is a named tuple: a frozen dataclass of 25 fields costs as much
as all that is computed for it.

Kept out: where the roster comes from (`line.py`), and every word that people read.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from queue_backend.people.names import Names, Neighbour
from queue_backend.people.roster import NOTHING_SAID, Gate, Moved, Roster, Seat, Words
from queue_backend.people.rules import Rules
from queue_backend.people.ticket import State, Ticket

NEIGHBOURS = 10
SEATED_SHOWN = 4
STAMP_SECONDS = 45  # a ticket is stamped anew when its stamp is older


class Answer(NamedTuple):
    """A time that runs: to answer a call, or at the desk."""

    left_seconds: float
    total_seconds: float
    extend_seconds: float
    extends_left: int

    @classmethod
    def of(cls, seat: Seat, now: float, rules: Rules) -> Self:
        called = seat.state is State.CALLED
        return cls(
            left_seconds=max(0.0, seat.until - now),
            total_seconds=seat.until - seat.since,
            extend_seconds=rules.answer_extend_seconds if called else rules.desk_extend_seconds,
            extends_left=max(0, rules.extends - seat.extends),
        )


class Poll(NamedTuple):
    """When to ask again; 0: not by itself."""

    in_seconds: float
    hidden_in_seconds: float
    stale_after_seconds: float


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

    @classmethod
    def of(cls, roster: Roster, now: float, rules: Rules) -> Self:
        seated = [
            (number, state, max(0.0, now - seat.since), max(0.0, seat.until - now))
            for state in (State.SERVING, State.READY, State.CALLED)
            for number in roster.numbers(state)
            for seat in [roster.seats[number]]
        ]
        waiting = len(roster.order)
        full = roster.gate is Gate.OPEN and waiting >= rules.max_waiting
        return cls(
            rev=roster.version,
            state="full" if full else roster.gate.value,
            reason=roster.said,
            opens_at=roster.opens_at,
            serving=tuple(roster.numbers(State.SERVING)),
            called=tuple(roster.numbers(State.CALLED)),
            ready=tuple(roster.numbers(State.READY)),
            seated=tuple(seated),
            waiting=waiting,
            upcoming=tuple(roster.order.first(4)),
            estimate=roster.estimate(len(seated) + waiting),
            pace=roster.estimate(1),
            frozen=roster.frozen,
            places=roster.places,
            announcement=roster.announcement,
            announcement_id=roster.announcement_id,
        )


class Standing(NamedTuple):
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
    poll: Poll
    away: bool

    @classmethod
    def of(
        cls,
        ticket: Ticket,
        state: State,
        roster: Roster,
        public: Public,
        names: Names,
        now: float,
        wall: float,
        rules: Rules,
    ) -> Self:
        """Of a ticket that `roster` knows. The cost does not depend on how many wait."""
        number = ticket.number
        seat = roster.seats.get(number)
        ahead = behind = 0
        neighbours: tuple[Neighbour, ...] = ()
        estimate = None
        if state is State.WAITING:
            rank = roster.order.rank(number)
            ahead = len(public.seated) + rank
            behind = public.waiting - rank - 1
            neighbours = _in_front(number, roster, public, names)
            if public.pace is not None:
                estimate = (ahead * public.pace[0], ahead * public.pace[1])
        paper = stamped(ticket, state, estimate, int(wall))
        aside_until = roster.aside_until(number) if state is State.ASIDE else None
        since = None if seat is None else wall - (now - seat.since)
        return cls(
            ticket=paper,
            stamped=paper is not ticket,
            state=state,
            rev=roster.version,
            ahead=ahead,
            behind=behind,
            estimate=estimate,
            grew=_grew(paper, estimate, wall, roster),
            neighbours=neighbours,
            answer=Answer.of(seat, now, rules) if seat and state is State.CALLED else None,
            desk=Answer.of(seat, now, rules) if seat and state is State.SERVING else None,
            aside_left_seconds=None if aside_until is None else max(0.0, aside_until - now),
            undo_left_seconds=(
                roster.undo_left(number, now, rules) if state is State.LEFT else None
            ),
            place_in_seconds=_place_in(public) if state is State.READY else None,
            keep_seconds=rules.silent_aside_seconds,
            moved=roster.moved.get(number),
            reason=seat.said if seat else NOTHING_SAID,
            ended_at=since if state.ended else None,
            poll=_poll(state, ahead, estimate, public),
            away=number in roster.away,
        )

    @classmethod
    def ended(
        cls, ticket: Ticket, state: State, at: float | None, reason: Words, rev: int, wall: float
    ) -> Self:
        """Of a ticket whose ending the roster has forgotten."""
        paper = stamped(ticket, state, None, int(wall))
        return cls(
            ticket=paper,
            stamped=paper is not ticket,
            state=state,
            rev=rev,
            ahead=0,
            behind=0,
            estimate=None,
            grew=None,
            neighbours=(),
            answer=None,
            desk=None,
            aside_left_seconds=None,
            undo_left_seconds=0.0 if state is State.LEFT else None,
            place_in_seconds=None,
            keep_seconds=0,
            moved=None,
            reason=reason,
            ended_at=at,
            poll=_STOP,
            away=False,
        )


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

    @classmethod
    def of(
        cls,
        number: int,
        roster: Roster,
        ticket: Ticket | None,
        heard_seconds_ago: float | None,
        now: float,
        wall: float,
    ) -> Self:
        """`ticket` as it was taken, for what the roster does not hold; None while unknown."""
        seat = roster.seats.get(number)
        state = roster.state(number) or State.EXPIRED
        until = roster.aside_until(number) if state is State.ASIDE else None
        if seat is not None and state in (State.CALLED, State.SERVING):
            until = seat.until
        return cls(
            number=number,
            name=ticket.name if ticket else "",
            service=ticket.service if ticket else "",
            state=state,
            position=roster.order.rank(number) + 1 if state is State.WAITING else None,
            joined_at=ticket.joined_at if ticket else None,
            waited_seconds=max(0.0, wall - ticket.joined_at) if ticket else None,
            heard_seconds_ago=heard_seconds_ago,
            left_seconds=None if until is None else max(0.0, until - now),
            extends_used=seat.extends if seat else 0,
            away=number in roster.away,
        )


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


def stamped(
    ticket: Ticket, state: State, estimate: tuple[float, float] | None, wall: int
) -> Ticket:
    """The paper, made anew when its stamp is old, says another state, or promised nothing yet."""
    promised_at = ticket.promised_at
    if not promised_at and estimate is not None:
        promised_at = wall + int(estimate[1])
    if (
        wall - ticket.stamped_at < STAMP_SECONDS
        and state is ticket.state
        and promised_at == ticket.promised_at
    ):
        return ticket
    return replace(ticket, stamped_at=wall, state=state, promised_at=promised_at)


def _grew(
    paper: Ticket, estimate: tuple[float, float] | None, wall: float, roster: Roster
) -> str | None:
    """Why the wait is longer than its owner was promised, by a fifth and by a minute."""
    if estimate is None:
        return None
    promised = max(0.0, paper.promised_at - wall)
    if estimate[1] <= promised + 60 or estimate[1] <= 1.2 * promised:
        return None
    return "paused" if roster.gate is Gate.PAUSED else "slow"


def _in_front(number: int, roster: Roster, public: Public, names: Names) -> tuple[Neighbour, ...]:
    """Up to ten: first those at the desk and called, then the nearest who wait."""
    seated = public.seated[:SEATED_SHOWN]
    shown = [names.seated(each, state, for_seconds) for each, state, for_seconds, _ in seated]
    before = roster.order.before(number, NEIGHBOURS - len(seated))
    return (*shown, *[names.waiting(each) for each in before])


def _place_in(public: Public) -> float | None:
    """A guess for somebody confirmed: what is left of a usual visit for the longest at the desk."""
    if public.pace is None or not public.serving:
        return None
    longest = max(for_seconds for _, state, for_seconds, _ in public.seated if state in _SEATED)
    left = public.pace[0] * public.places - longest
    # Somebody who takes longer than usual makes no promise for others.
    return left if left > 0 else None


def _poll(state: State, ahead: int, estimate: tuple[float, float] | None, public: Public) -> Poll:
    """When to ask again: often near the front, seldom far back, where a quarter of the expected
    wait lets everybody ask several times before their turn."""
    if state.ended:
        return _STOP
    if state in (State.CALLED, State.READY, State.SERVING):
        shown, hidden = 2.0, 10.0
    elif state is State.ASIDE or public.state == "paused":
        shown, hidden = 20.0, 30.0
    elif ahead <= 3:
        shown, hidden = 3.0, 15.0
    elif ahead <= 10:
        shown, hidden = 5.0, 20.0
    elif ahead <= 50:
        shown, hidden = 10.0, 25.0
    else:
        most = 60.0 if public.waiting > 50_000 else 30.0
        quarter = estimate[0] / 4 if estimate else most
        shown = min(most, max(20.0, quarter))
        hidden = max(30.0, shown)
    return Poll(shown, hidden, max(10.0, 2.5 * shown))


_SEATED = frozenset({State.READY, State.SERVING})
_STOP = Poll(0, 0, 0)
