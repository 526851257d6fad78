"""Rounds: contenders take turns, so that a machine that changes its pace changes it for all."""

import random
import statistics
from collections.abc import Callable, Mapping


def rounds(count: int, contenders: Mapping[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """The figures of each contender, a round each; called with the number of the round.

    Round 0 warms up and is thrown away.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for at in range(count + 1):
        random.shuffle(names)
        for name in names:
            figure = contenders[name](at)
            if at:
                figures[name].append(figure)
    return figures


def ratio(figures: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """The median of the rounds' ratios."""
    pairs = zip(figures[ours], figures[theirs], strict=True)
    return statistics.median(a / b for a, b in pairs)


def middle(figures: Mapping[str, list[float]], name: str) -> float:
    return statistics.median(figures[name])
