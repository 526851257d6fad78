"""A bar: what a figure of one run must reach, or must stay below."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    what: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        met = "met" if self.met else "NOT MET"
        return f"{met:>7}  {self.value:8.2f}  {sign} {self.limit:<5g} {self.what}"


def at_least(limit: float, what: str, value: float) -> Bar:
    return Bar(what, value, limit)


def at_most(limit: float, what: str, value: float) -> Bar:
    return Bar(what, value, limit, at_least=False)
