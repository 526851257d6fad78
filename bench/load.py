"""One load of `wrk` on one process, and what it cost that process.

The server stands on core 0, `wrk` and memcached on core 1: what is measured is the server.
CPU is read from the scheduler's nanoseconds; it is far steadier than a rate on a machine that
others share. Both are given, and only their ratios within one run mean anything.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 64


@dataclass(frozen=True)
class Cost:
    rate: float  # requests a second
    cpu_us: float  # of the server, a request
    store_cpu_us: float  # of memcached, a request; 0 where none is asked
    requests: int


def pin(pid: int, core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cores[core % len(cores)]})


def load(
    url: str,
    pid: int,
    script: Path,
    seconds: int,
    *,
    store_pid: int | None,
    run: str,
    tickets: Path,
) -> Cost:
    """Raises AssertionError when an answer was not a 2xx: a rate of refusals says nothing."""
    cores = sorted(os.sched_getaffinity(0))
    before = _cpu_ns(pid), _cpu_ns(store_pid)
    said = subprocess.run(
        ["taskset", "-c", str(cores[-1]), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
        + ["-s", str(script), url],
        env={**os.environ, "BENCH_TICKETS": str(tickets), "BENCH_RUN": run},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    after = _cpu_ns(pid), _cpu_ns(store_pid)
    assert "Non-2xx" not in said, said
    done = re.search(r"(\d+) requests in ([\d.]+)(m?s)", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert done and rate, said
    requests = int(done[1])
    return Cost(
        rate=float(rate[1]),
        cpu_us=(after[0] - before[0]) / requests / 1000,
        store_cpu_us=(after[1] - before[1]) / requests / 1000,
        requests=requests,
    )


def _cpu_ns(pid: int | None) -> int:
    if pid is None:
        return 0
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
