"""Who waits, in which order: number order, and its few exceptions.

An exception is somebody who stands elsewhere than the number says: came back from aside,
gave way, was moved. It stands *before the first number in order that is not smaller than its
anchor*; an anchor is a boundary between numbers, not a person, so it needs no care when
people around it leave. Exceptions of one anchor stand in the order of the list. So the order
of 100,000 people is a bitmap and a handful of pairs, and a position is exact.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator

from queue_backend.people.numbers import NumberSet


class Order:
    """A value: each change gives a new one. Positions count from 0."""

    __slots__ = ("_anchors", "_at", "_ranks", "exceptions", "regular")

    def __init__(
        self, regular: NumberSet | None = None, exceptions: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.regular = regular if regular is not None else NumberSet()
        self.exceptions = exceptions  # (number, anchor), by anchor
        self._anchors: list[int] | None = None
        self._ranks: list[int] = []
        self._at: dict[int, int] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Order):
            return NotImplemented
        return self.regular == other.regular and self.exceptions == other.exceptions

    def __hash__(self) -> int:
        return hash((self.regular, self.exceptions))

    def __repr__(self) -> str:
        return f"Order({self.first(8)}{'…' if len(self) > 8 else ''})"

    def __len__(self) -> int:
        return len(self.regular) + len(self.exceptions)

    def __contains__(self, number: int) -> bool:
        if number in self.regular:
            return True
        if not self.exceptions:
            return False
        self._index()
        return number in self._at

    def __iter__(self) -> Iterator[int]:
        exceptions = iter(self.exceptions)
        following = next(exceptions, None)
        for number in self.regular:
            while following is not None and following[1] <= number:
                yield following[0]
                following = next(exceptions, None)
            yield number
        while following is not None:
            yield following[0]
            following = next(exceptions, None)

    def rank(self, number: int) -> int:
        """How many stand before `number`, which must be in the order."""
        if not self.exceptions:
            return self.regular.rank(number)
        anchors = self._index()
        at = self._at.get(number)
        if at is not None:
            return self._ranks[at]
        return self.regular.rank(number) + bisect_right(anchors, number)

    def at(self, position: int) -> int:
        """The number at `position`. Raises IndexError."""
        if not self.exceptions:
            return self.regular.at(position)
        self._index()
        before = bisect_left(self._ranks, position)
        if before < len(self._ranks) and self._ranks[before] == position:
            return self.exceptions[before][0]
        return self.regular.at(position - before)

    def first(self, count: int) -> list[int]:
        members: list[int] = []
        for number in self:
            if len(members) >= count:
                break
            members.append(number)
        return members

    def before(self, number: int, count: int) -> list[int]:
        """The `count` nearest that stand before `number`, nearest last."""
        if not self.exceptions:
            return self.regular.below(number, count)
        rank = self.rank(number)
        return [self.at(position) for position in range(max(0, rank - count), rank)]

    def anchor(self, number: int) -> int | None:
        """Where an exception stands; None for somebody in number order."""
        if not self.exceptions:
            return None
        self._index()
        at = self._at.get(number)
        return None if at is None else self.exceptions[at][1]

    def add(self, number: int, anchor: int | None = None) -> "Order":
        """In number order, or as the last of those who stand at `anchor`."""
        if number in self:
            return self
        if anchor is None:
            return Order(self.regular.add(number), self.exceptions)
        at = bisect_right([each for _, each in self.exceptions], anchor)
        return Order(self.regular, _inserted(self.exceptions, at, (number, anchor)))

    def add_many(self, numbers: Collection[int]) -> "Order":
        """In number order; none of them is in the order yet."""
        return Order(self.regular.add_many(numbers), self.exceptions)

    def discard(self, number: int) -> "Order":
        if number in self.regular:
            return Order(self.regular.discard(number), self.exceptions)
        kept = tuple(pair for pair in self.exceptions if pair[0] != number)
        return self if len(kept) == len(self.exceptions) else Order(self.regular, kept)

    def discard_many(self, numbers: Collection[int]) -> "Order":
        gone = frozenset(numbers)
        kept = tuple(pair for pair in self.exceptions if pair[0] not in gone)
        return Order(self.regular.discard_many(gone), kept)

    def move(self, number: int, position: int, end: int) -> "Order":
        """`number`, which is in the order, to `position`; `end` is the next number to be given.

        A position past the end is the last place before newcomers.
        """
        rest = self.discard(number)
        if position >= len(rest):
            return rest.add(number, end)
        following = rest.at(max(0, position))
        rest._index()
        at = rest._at.get(following)
        if at is None:
            return rest.add(number, following)
        pair = (number, rest.exceptions[at][1])
        return Order(rest.regular, _inserted(rest.exceptions, at, pair))

    def _index(self) -> list[int]:
        if self._anchors is None:
            self._anchors = [anchor for _, anchor in self.exceptions]
            self._ranks = [
                self.regular.rank(anchor) + at for at, (_, anchor) in enumerate(self.exceptions)
            ]
            self._at = {number: at for at, (number, _) in enumerate(self.exceptions)}
        return self._anchors


def _inserted(
    pairs: tuple[tuple[int, int], ...], at: int, pair: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    return (*pairs[:at], pair, *pairs[at:])
