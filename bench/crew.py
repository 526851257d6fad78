"""Six worker processes on one line, and when each of their jobs ran.

    python -m bench.crew URL LINE CAP RUN_MS

is one of them: it says "ready", waits for a word, and works until the line is empty.
"""

import json
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from queue_backend.database import Database
from queue_backend.work.line import JobLine
from tests.processes import ROOT

SIZE = 6


class Crew:
    """Used as `with Crew(...) as crew`; none of its processes is left behind."""

    def __init__(self, url: str, line: str, *, cap: int, run_ms: int) -> None:
        command = [sys.executable, "-m", "bench.crew", url, line, str(cap), str(run_ms)]
        self._workers = [
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(SIZE)
        ]

    def __enter__(self) -> Self:
        for worker in self._workers:
            assert worker.stdout and worker.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.kill()
            worker.communicate()

    def go(self) -> None:
        for worker in self._workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()

    def runs(self) -> list[tuple[float, float]]:
        """When each job began and ended, once all is done, on the machine's one monotonic clock."""
        said = [worker.communicate(timeout=120)[0] for worker in self._workers]
        return sorted((begun, ended) for text in said for begun, ended in json.loads(text))


def most_at_once(runs: list[tuple[float, float]]) -> int:
    """As the jobs themselves saw it. One that ends as another begins was not beside it."""
    steps = sorted([(begun, 1) for begun, _ in runs] + [(ended, -1) for _, ended in runs])
    at_once = most = 0
    for _, step in steps:
        at_once += step
        most = max(most, at_once)
    return most


def work(url: str, name: str, cap: int, run_ms: int) -> None:
    database = Database(url)
    line = JobLine(database, name, cap=cap)
    runs = []
    print("ready", flush=True)
    sys.stdin.readline()
    # A second without a job is the end: as long as there are any, a slot is free within one.
    while (lease := line.reserve_blocking("crew", wait_seconds=1)) is not None:
        begun = time.monotonic()
        time.sleep(run_ms / 1000)
        runs.append((begun, time.monotonic()))
        line.ack(lease).result()
    print(json.dumps(runs))
    database.close()


if __name__ == "__main__":
    url, name, cap, run_ms = sys.argv[1:]
    work(url, name, int(cap), int(run_ms))
