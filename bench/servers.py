"""The servers that are asked over the wire, each started for a run and ended after it."""

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
def _running(directory: Path, name: str, command: Sequence[str], port: int) -> Iterator[Server]:
    process = Process(directory, name)
    # The variables of whoever measures must not reach the server that is measured.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("NOWSERVING_")
    }
    environment["NOWSERVING_DATA_DIRECTORY"] = str(directory / "data")
    process.spawn(command, environment)
    try:
        wait_until(f"{name} on port {port}", 20, lambda: not process.running or _answers(port))
        assert process.running, f"{name} ended with {process.wait()}\n{process.log}"
        yield Server(port, process.pid)
    finally:
        process.kill()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
