"""What a poll and a join cost, beside a bare Tornado handler of the same run.

Variants are shuffled in each round, and each ratio is to the bare handler of the same round.
"""

import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from bench.bar import Bar, at_least, at_most
from bench.load import Cost, load, pin
from bench.progress import say, table
from bench.room import Room, room
from tests.processes import ROOT, free_port, wait_until

HERE = Path(__file__).parent


def bench(
    directory: Path, *, sizes: Sequence[int], rounds: int, seconds: int
) -> tuple[list[dict[str, float]], list[Bar]]:
    for tool in ("wrk", "taskset", "memcached"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing; `make bench` installs it")
    results = []
    with _bare() as bare:
        for size in sizes:
            say(f"{size:,} people take their numbers")
            with room(directory / str(size), size) as place:
                results.append(measure(size, place, bare, rounds, seconds))
    print(shown(results))
    return results, bars(results)


def measure(
    size: int, place: Room, bare: "subprocess.Popen[bytes]", rounds: int, seconds: int
) -> dict[str, float]:
    serving, memcached = place.serving, place.memcached
    pin(serving.pid, 0)
    pin(bare.pid, 0)
    pin(memcached.pid, -1)
    bare_url = f"http://127.0.0.1:{_BARE_PORT}"
    targets = {
        "bare poll": (bare_url, bare.pid, "poll.lua", None),
        "poll": (serving.url, serving.pid, "poll.lua", memcached.pid),
        "bare join": (bare_url, bare.pid, "join.lua", None),
        "join": (serving.url, serving.pid, "join.lua", memcached.pid),
    }
    # Joins make the line longer, so polls are measured before any of them.
    costs: dict[str, list[Cost]] = {name: [] for name in targets}
    for kind in ("poll", "join"):
        names = [f"bare {kind}", kind]
        for at in range(rounds + 1):
            random.shuffle(names)
            for name in names:
                url, pid, script, store_pid = targets[name]
                cost = load(
                    url,
                    pid,
                    HERE / script,
                    seconds if at else 1,
                    store_pid=store_pid,
                    run=f"{size}-{name.replace(' ', '-')}-{at}",
                    tickets=place.tickets,
                )
                if at:  # the first round warms up
                    costs[name].append(cost)
            say(f"{size:,} waiting, {kind}, round {at} of {rounds}")
        if kind == "poll":
            heartbeats = _heartbeats(serving.url)
    stall = longest_answer_while_stopped(place)

    def ratio(name: str, figure: str) -> float:
        pairs = zip(costs[name], costs[f"bare {name}"], strict=True)
        return float(statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs))

    polls = costs["poll"]
    return {
        "waiting": size,
        "poll_rate": ratio("poll", "rate"),
        "poll_cpu": ratio("poll", "cpu_us"),
        "join_rate": ratio("join", "rate"),
        "join_cpu": ratio("join", "cpu_us"),
        "poll_cpu_us": statistics.median(cost.cpu_us for cost in polls),
        "poll_a_second": statistics.median(cost.rate for cost in polls),
        "join_a_second": statistics.median(cost.rate for cost in costs["join"]),
        "store_cpu_share": statistics.median(cost.store_cpu_us / cost.cpu_us for cost in polls),
        "heartbeats_a_batch": heartbeats,
        "longest_answer_ms": stall,
    }


def longest_answer_while_stopped(place: Room) -> float:
    """Milliseconds that a page waited at most while memcached was stopped for two seconds and
    people went on joining: what the event loop was held up."""
    worst = 0.0
    over = threading.Event()

    def look() -> None:
        nonlocal worst
        while not over.is_set():
            began = time.perf_counter()
            urllib.request.urlopen(place.serving.url + "/healthz", timeout=10).read()
            worst = max(worst, time.perf_counter() - began)
            time.sleep(0.005)

    def join(at: int) -> None:
        body = {"name": "Karen Nolan", "service": "look-up-phone", "request_id": f"stall-{at:04d}"}
        request = urllib.request.Request(
            place.serving.url + "/api/lines/desk/tickets",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=10).read()
        except OSError:
            pass  # refused with 503 while memcached is stopped, as it should be

    looking = threading.Thread(target=look)
    place.memcached.hold()
    looking.start()
    joins = [threading.Thread(target=join, args=(at,)) for at in range(20)]
    for thread in joins:
        thread.start()
        time.sleep(0.1)
    place.memcached.go_on()
    over.set()
    for thread in [looking, *joins]:
        thread.join()
    return worst * 1000


def _heartbeats(url: str) -> float:
    text = urllib.request.urlopen(url + "/metrics", timeout=5).read().decode()
    figures = {}
    for row in text.splitlines():
        if not row.startswith("#") and " " in row:
            name, _, value = row.rpartition(" ")
            figures[name.partition("{")[0]] = float(value)
    batches = figures.get("nowserving_heartbeat_batches_total", 0)
    return figures.get("nowserving_heartbeats_total", 0) / batches if batches else 0.0


def shown(results: list[dict[str, float]]) -> str:
    head = ["waiting", "poll rate", "poll CPU", "join rate", "join CPU", "poll CPU us", "polls/s"]
    head += ["joins/s", "store CPU", "beats/batch", "stall ms"]
    rows = [
        [
            f"{each['waiting']:,.0f}",
            f"{each['poll_rate']:.2f}",
            f"{each['poll_cpu']:.2f}",
            f"{each['join_rate']:.2f}",
            f"{each['join_cpu']:.2f}",
            f"{each['poll_cpu_us']:.0f}",
            f"{each['poll_a_second']:,.0f}",
            f"{each['join_a_second']:,.0f}",
            f"{each['store_cpu_share']:.1%}",
            f"{each['heartbeats_a_batch']:.0f}",
            f"{each['longest_answer_ms']:.0f}",
        ]
        for each in results
    ]
    return table("ratios are to a bare Tornado handler of the same run", head, rows)


def bars(results: list[dict[str, float]]) -> list[Bar]:
    by_size = {each["waiting"]: each for each in results}
    found = [
        at_least(0.8, "lowest poll rate", min(each["poll_rate"] for each in results)),
        at_least(0.6, "lowest join rate", min(each["join_rate"] for each in results)),
        at_least(
            10, "fewest heartbeats a batch", min(each["heartbeats_a_batch"] for each in results)
        ),
        at_most(
            100,
            "longest stall, memcached stopped 2 s, ms",
            max(each["longest_answer_ms"] for each in results),
        ),
    ]
    if 1000 in by_size and 100_000 in by_size:
        # Each beside its own bare handler, so that a machine that changed its pace meanwhile
        # does not decide it.
        grown = by_size[100_000]["poll_cpu"] / by_size[1000]["poll_cpu"]
        found.append(at_most(1.2, "poll CPU at 100,000 over 1,000", grown))
    return found


class _bare:
    """The bare handler, in a process of its own."""

    def __enter__(self) -> "subprocess.Popen[bytes]":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.bare", str(_BARE_PORT)], cwd=ROOT
        )
        wait_until("the bare handler", 10, self._answers)
        return self._process

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    @staticmethod
    def _answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", _BARE_PORT)) == 0


_BARE_PORT = free_port()
