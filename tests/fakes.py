"""Stand-ins that tests hand in where the product hands in the real thing."""


class Clock:
    """Stands still until the test lets time pass; both hands move together.

    `wall` may be set apart from `monotonic`, as a host's clock may be.
    """

    def __init__(self, wall: float = 1_763_712_000.0, monotonic: float = 1_000.0) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def tick(self, seconds: float) -> None:
        assert seconds >= 0, "time does not run backwards; set_wall() steps the wall clock"
        self._monotonic += seconds
        self._wall += seconds

    def set_wall(self, wall: float) -> None:
        self._wall = wall
