"""The servers and workers that are measured, each started for a run and ended after it."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT, Process, free_port, wait_until


@dataclass(frozen=True)
class Server:
    port: int
    pid: int


@contextlib.contextmanager
def queue_server(directory: Path) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, str(ROOT / "app.py"), "queue-server", "--port", str(port)]
    with _running(directory, "queue-server", command, port) as server:
        yield server


@contextlib.contextmanager
def journal(directory: Path) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "bench.journal", str(port), str(directory / "journal")]
    with _running(directory, "journal", command, port) as server:
        yield server


@contextlib.contextmanager
def beanstalkd(directory: Path, *options: str) -> Iterator[Server]:
    port = free_port()
    command = ["beanstalkd", "-l", "127.0.0.1", "-p", str(port), *options]
    with _running(directory, "beanstalkd", command, port) as server:
        yield server


@contextlib.contextmanager
def synced_beanstalkd(directory: Path) -> Iterator[Server]:
    log = directory / "log"
    log.mkdir(parents=True)
    with beanstalkd(directory, "-b", str(log), "-f0") as server:
        yield server


@contextlib.contextmanager
def worker(directory: Path, url: str, line: str, slots: int) -> Iterator[None]:
    """A worker of `bench.tasks`."""
    process = Process(directory, f"worker-{line}")
    command = [sys.executable, str(ROOT / "app.py"), "worker", "bench.tasks", "--jobs", url]
    process.spawn([*command, "--line", line, "--slots", str(slots)], _environment(directory))
    try:
        wait_until(process.name, 20, lambda: not process.running or "Working" in process.output)
        assert process.running, f"{process.name} ended with {process.wait()}\n{process.log}"
        yield
    finally:
        process.kill()


@contextlib.contextmanager
def _running(directory: Path, name: str, command: Sequence[str], port: int) -> Iterator[Server]:
    process = Process(directory, name)
    process.spawn(command, _environment(directory))
    try:
        wait_until(f"{name} on port {port}", 20, lambda: not process.running or _answers(port))
        assert process.running, f"{name} ended with {process.wait()}\n{process.log}"
        yield Server(port, process.pid)
    finally:
        process.kill()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _environment(directory: Path) -> dict[str, str]:
    # The variables of whoever measures must not reach the server that is measured.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("NOWSERVING_")
    }
    return environment | {"NOWSERVING_DATA_DIRECTORY": str(directory / "data")}
