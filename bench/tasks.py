"""Naps of a second, for workers started as a site starts them: `app.py worker bench.tasks`.

They nap in one line, or in two stages, of which the first puts the second.
"""

import time

from queue_backend.work.task import Jobs, then

# Where they are is said when it is measured.
jobs = Jobs("sqlite:///naps.db")


@jobs.task("nap", key=lambda at: at)
def nap(at: int) -> None:
    time.sleep(1)


@jobs.task("second", key=lambda at: at)
def second(at: int) -> None:
    time.sleep(1)


@jobs.task("first", key=lambda at: at)
def first(at: int) -> object:
    time.sleep(1)
    return then(second.later(at))
