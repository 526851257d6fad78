"""The times and limits of one line, as its operator set them.

Being called holds nothing; only "I'm here" takes a place; only a running job holds a slot.
So the times are generous: whoever uses them costs the people behind nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    places: int = 2  # at the desk at once, when the line is new; operators change it later
    call_ahead: int = 1  # called beyond the free places
    max_waiting: int = 100_000
    answer_seconds: float = 120
    answer_extend_seconds: float = 60
    desk_lease_seconds: float = 300
    desk_extend_seconds: float = 300
    extends: int = 10  # how often "more time" is granted, at the call and at the desk
    away_after_seconds: float = 90  # silent this long: shown as away
    silent_aside_seconds: float = 300  # silent this long: set aside
    aside_seconds: float = 900  # the number is kept this long
    undo_seconds: float = 30
    # Longest poll interval with its jitter (60 s + 20 %) + request time-out + margin. After a
    # loss nobody is called, and a missing entry is no sign of silence, before everybody had
    # time to be heard.
    freeze_seconds: float = 85
    # Somebody not heard for this long when called does not use up the call: the next is called
    # in the same round. Longer than the longest interval told to the front (20 s, hidden tab).
    suspect_seconds: float = 25
    # A call unanswered for this long no longer keeps the next from being called.
    call_patience_seconds: float = 10
    ended_keep_seconds: float = 90  # the roster tells an ending this long; then the ledger does
    names: str = "masked"  # what others see: "number", "masked" or "full"

    @property
    def entry_seconds(self) -> int:
        """The TTL of a ticket's entry: silence is *read* from it up to the moment of setting
        aside, so that a missing entry always means a loss and never a silence."""
        return int(self.silent_aside_seconds + self.freeze_seconds) + 1
