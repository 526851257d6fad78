"""How often the disk is made to sync, an operation: what durability costs, whatever the disk.

    python -m bench.syncs DIRECTORY CASE ITEMS

runs one case by itself. strace counts around such a run, or looks at a running server.
"""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench import loads, servers, wire
from bench.queues import Beanstalk, Ours, PersistAck, PersistFile, PersistSqlite
from bench.servers import Server
from tests.processes import ROOT, wait_until

FEW, MANY = 192, 576  # 32 and 64 divide their difference
STRACE = ["strace", "-f", "-qq", "-c", "-e", "trace=fsync,fdatasync"]

Start = Callable[[Path], AbstractContextManager[Server]]


def _set_get_delete(items: int, port: int) -> float:
    stored = wire.set_by(1, items, port)
    return loads.both(stored, wire.get_and_delete_by(1, items, port))


CASES: dict[str, Callable[[Path, int], float]] = {
    "put, ours": lambda path, items: loads.put(Ours(path), items),
    "put, ours, 64 threads": lambda path, items: loads.put_by_threads(Ours(path), items, 64),
    "put, SQLiteAckQueue": lambda path, items: loads.put(PersistAck(path), items),
    "put, SQLiteAckQueue, 64 threads": lambda path, items: loads.put_by_threads(
        PersistAck(path), items, 64
    ),
    "put, SQLiteQueue": lambda path, items: loads.put(PersistSqlite(path), items),
    "put, file Queue": lambda path, items: loads.put(PersistFile(path), items),
    "put+reserve+ack, ours": lambda path, items: loads.put_get_done(Ours(path), items),
    "put+get+ack, SQLiteAckQueue": lambda path, items: loads.put_get_done(PersistAck(path), items),
}


# The same over the wire, of a server that is running.
WIRED: dict[str, tuple[Start, Callable[[int, int], float]]] = {
    "set, queue server": (servers.queue_server, partial(wire.set_by, 1)),
    "set, queue server, 32 clients": (servers.queue_server, partial(wire.set_by, 32)),
    "set+get+delete, queue server": (servers.queue_server, _set_get_delete),
    "set+get+delete, synced journal": (servers.journal, _set_get_delete),
    "put, beanstalkd -b -f0": (
        servers.synced_beanstalkd,
        lambda items, port: loads.put(Beanstalk(port), items),
    ),
}


def can_be_counted() -> bool:
    return shutil.which("strace") is not None


def of_a_program(directory: Path, case: str) -> float:
    """Syncs of one operation: what MANY cost more than FEW, so that opening is not counted."""
    found = []
    for items in (FEW, MANY):
        report, where = directory / f"{case}-{items}.strace", directory / f"{case}-{items}"
        command = [sys.executable, "-m", "bench.syncs", str(where), case, str(items)]
        subprocess.run([*STRACE, "-o", str(report), *command], cwd=ROOT, check=True)
        found.append(_read(report))
    return (found[1] - found[0]) / (MANY - FEW)


def of_a_server(directory: Path, case: str) -> float:
    start, load = WIRED[case]
    with start(directory / case) as server:
        report = directory / f"{case}.strace"
        strace = subprocess.Popen([*STRACE, "-o", str(report), "-p", str(server.pid)])
        try:
            status = Path(f"/proc/{server.pid}/status")
            wait_until("strace", 10, lambda: "TracerPid:\t0\n" not in status.read_text())
            load(MANY, server.port)
        finally:
            # It lets go of the server and writes its report.
            strace.send_signal(signal.SIGINT)
            strace.wait(10)
    return _read(report) / MANY


def _read(report: Path) -> int:
    calls = re.findall(
        r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+).*\b(?:fsync|fdatasync)$", report.read_text(), re.M
    )
    return sum(map(int, calls))


if __name__ == "__main__":
    where, case, items = sys.argv[1:]
    CASES[case](Path(where), int(items))
