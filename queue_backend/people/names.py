"""Whose numbers those are: what this process remembers of tickets besides their places.

Names are in each ticket's own entry and not in the roster; a poll asks no store, so what is
asked for here and not known is told as empty, noted, and learned by the next round.

Kept out: reading entries (`line.py`). What is remembered may be forgotten at any time.
"""

from itertools import islice
from typing import NamedTuple

from queue_backend.people.ticket import State, Ticket, masked

KEPT = 50_000
LEARNED_A_ROUND = 2_000


class Neighbour(NamedTuple):
    """Somebody in front. `name` is as others may see it, and empty while unknown."""

    number: int
    name: str
    state: State
    for_seconds: float | None  # in this state; None for those who wait


class Names:
    """`shown` is the rule for what others see: "number", "masked" or "full"."""

    def __init__(self, shown: str) -> None:
        self._rule = shown
        self._tickets: dict[int, Ticket] = {}
        self._waiting: dict[int, Neighbour] = {}  # ten people behind ask for the same one
        self._missing: set[int] = set()

    def keep(self, ticket: Ticket) -> None:
        if len(self._tickets) >= KEPT:
            for oldest in list(self._tickets)[: KEPT // 10]:
                del self._tickets[oldest]
                self._waiting.pop(oldest, None)
        self._tickets[ticket.number] = ticket

    def ticket(self, number: int) -> Ticket | None:
        """As it was taken: name, service, when it joined. None while unknown."""
        return self._tickets.get(number)

    def waiting(self, number: int) -> Neighbour:
        """Somebody who waits, as others may see them."""
        known = self._waiting.get(number)
        if known is not None:
            return known
        ticket = self._tickets.get(number)
        if ticket is None or self._rule == "number":
            if self._rule != "number":
                self._missing.add(number)
            return Neighbour(number, "", State.WAITING, None)
        name = ticket.name if self._rule == "full" else masked(ticket.name)
        known = self._waiting[number] = Neighbour(number, name, State.WAITING, None)
        return known

    def seated(self, number: int, state: State, for_seconds: float) -> Neighbour:
        return Neighbour(number, self.waiting(number).name, state, for_seconds)

    def asked_for(self) -> list[int]:
        """The numbers asked for and not known since the last time this was asked, as many as
        are learned without holding up a page; the others will be asked for again."""
        asked, self._missing = self._missing, set()
        return list(islice(asked, LEARNED_A_ROUND))
