"""What the work line costs, beside persist-queue, beanstalkd and a synced journal like RedQueue's.

Ours always commits with `synchronous=FULL`, keeps its cap and its fence, and keeps done jobs,
unless a row says otherwise. Each contender starts every round with an empty directory.
"""

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from bench import loads, servers, syncs, tasks, wire
from bench.bar import Bar, at_least, at_most
from bench.crew import Crew, most_at_once
from bench.progress import say, table
from bench.queues import (
    Beanstalk,
    Contender,
    Open,
    Ours,
    OursLocal,
    PersistAck,
    PersistFile,
    PersistSqlite,
)
from bench.rounds import middle, ratio, rounds
from bench.servers import Server
from queue_backend.work.task import Task

Row = dict[str, object]
Nap = Task[[int], Any]

# What the paper on the field measured with one client: RedQueue, mended so that it syncs. Its
# rates hold for that machine; they are carried over to this one by persist-queue, of which the
# same paper says that a get and an ack took 0.39 ms there.
REDQUEUE_SETS, REDQUEUE_GETS = 3_700, 2_000
PERSIST_GET_AND_ACK = 1 / 0.000_39

DONE_ROWS = 20_000
JOBS, RUN_MS = 200, 10


def bench(directory: Path, *, rounds: int, items: int) -> tuple[list[Row], list[Bar]]:
    if shutil.which("beanstalkd") is None:
        sys.exit("beanstalkd is missing; `make bench` installs it")
    rows: list[Row] = []
    bars: list[Bar] = []
    for measure in (
        thousand_items,
        threads,
        one_thread,
        history,
        beanstalkd,
        over_the_wire,
        cap,
        naps,
        snapshot,
        beside_workers,
        durability,
    ):
        say(f"work: {measure.__doc__}")
        found, judged = measure(directory / measure.__name__, rounds, items)
        rows += [{"measure": measure.__name__, **row} for row in found]
        bars += judged
        head = list(found[0])
        cells = [[_shown(row[column]) for column in head] for row in found]
        print(table(f"\n{measure.__doc__}", head, cells), flush=True)
    return rows, bars


def thousand_items(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """persist-queue's own table: seconds for its items, one task_done at the end, or many"""
    kinds: dict[str, Open] = {
        "ours, FIFOQueue": OursLocal,
        "ours, FIFOQueue, NORMAL": partial(OursLocal, synchronous="NORMAL"),
        "ours, AckQueue": partial(OursLocal, ack=True),
        "ours, a job line": Ours,
        "SQLiteQueue": PersistSqlite,
        "SQLiteAckQueue": PersistAck,
        "file Queue": PersistFile,
    }
    # Who confirms each item has no row for one confirmation.
    confirm_each = ("ours, a job line", "SQLiteAckQueue")
    written: dict[str, list[float]] = {name: [] for name in kinds}
    once: dict[str, list[float]] = {name: [] for name in kinds}

    def turn(name: str, at: int) -> float:
        with closing(kinds[name](directory / f"{name}-{at}")) as queue:
            write = loads.put(queue, items)
            read_once = None
            if name not in confirm_each:
                read_once = loads.get_and_done_once(queue, items)
                loads.put(queue, items)
            many = loads.both(write, loads.get_and_done(queue, items))
            if at:
                written[name].append(write)
                if read_once:
                    once[name].append(loads.both(write, read_once))
            return many

    many = rounds(count, {name: partial(turn, name) for name in kinds})
    rows: list[Row] = [
        {
            "queue": name,
            "write s": items / middle(written, name),
            "write/read, one s": items / middle(once, name) if once[name] else None,
            "write/read, many s": items / middle(many, name),
            "write, over SQLiteQueue": ratio(written, name, "SQLiteQueue"),
            "many, over SQLiteQueue": ratio(many, name, "SQLiteQueue"),
        }
        for name in kinds
    ]
    return rows, []


def threads(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """puts a second by one, 8 and 64 threads"""
    rows: list[Row] = []
    by_threads: dict[int, float] = {}
    for many in (1, 8, 64):
        figures = rounds(
            count,
            {
                name: _fresh(kind, directory / f"{name}-{many}", _putting(items, many))
                for name, kind in (("ours", Ours), ("theirs", PersistAck))
            },
        )
        by_threads[many] = ratio(figures, "ours", "theirs")
        rows.append(
            {
                "threads": str(many),
                "ours": middle(figures, "ours"),
                "SQLiteAckQueue": middle(figures, "theirs"),
                "ratio": by_threads[many],
            }
        )
    return rows, [
        at_least(1.5, "put, 8 threads, over SQLiteAckQueue", by_threads[8]),
        at_least(3, "put, 64 threads, over SQLiteAckQueue", by_threads[64]),
    ]


def one_thread(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """put, reserve and ack a second, by one thread, holding cap and fence"""

    def load(queue: Contender) -> float:
        return loads.put_get_done(queue, items)

    figures = rounds(
        count,
        {
            "ours": _fresh(Ours, directory / "ours", load),
            "theirs": _fresh(PersistAck, directory / "theirs", load),
        },
    )
    found = ratio(figures, "ours", "theirs")
    row: Row = {
        "load": "put+reserve+ack",
        "ours": middle(figures, "ours"),
        "SQLiteAckQueue": middle(figures, "theirs"),
        "ratio": found,
    }
    return [row], [at_least(0.5, "put+reserve+ack, one thread, over SQLiteAckQueue", found)]


def history(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """what 20,000 done jobs cost: time of reserve and ack, over an empty table's"""
    fewer = min(items, 300)
    rows: list[Row] = []
    bars: list[Bar] = []
    kinds: dict[str, Open] = {"ours": partial(Ours, cap=_AT_ONCE), "SQLiteAckQueue": PersistAck}
    for name, kind in kinds.items():
        with (
            closing(kind(directory / f"{name}-empty")) as empty,
            closing(kind(directory / f"{name}-full")) as full,
        ):
            say(f"work: {name} does {DONE_ROWS:,} jobs and keeps them")
            _keep_done(full)

            def turn(queue: Contender, at: int) -> float:
                loads.put(queue, fewer)
                return loads.get_and_done(queue, fewer)

            figures = rounds(count, {"empty": partial(turn, empty), "full": partial(turn, full)})
        dearer = ratio(figures, "empty", "full")
        rows.append(
            {
                "queue": name,
                "empty, a second": middle(figures, "empty"),
                "with done jobs, a second": middle(figures, "full"),
                "dearer": dearer,
            }
        )
        if name == "ours":
            bars.append(at_most(1.2, "reserve+ack with 20,000 done jobs, over empty", dearer))
    return rows, bars


def beanstalkd(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """beside beanstalkd, through greenstalk, one client: in memory, and synced by -b -f0"""

    def theirs(server: Server) -> Open:
        return lambda path: Beanstalk(server.port)

    with (
        servers.beanstalkd(directory / "memory") as memory,
        servers.synced_beanstalkd(directory / "synced") as synced,
    ):
        kinds: dict[str, Open] = {
            "ours": Ours,
            "ours, NORMAL": partial(Ours, synchronous="NORMAL"),
            "beanstalkd": theirs(memory),
            "beanstalkd -b -f0": theirs(synced),
        }
        taken: dict[str, list[float]] = {name: [] for name in kinds}

        def turn(name: str, at: int) -> float:
            with closing(kinds[name](directory / f"{name}-{at}")) as queue:
                put = loads.put(queue, items)
                took = loads.get_and_done(queue, items)
                if at:
                    taken[name].append(took)
                return put

        puts = rounds(count, {name: partial(turn, name) for name in kinds})
    rows: list[Row] = [
        {
            "queue": name,
            "put": middle(puts, name),
            "reserve+delete": middle(taken, name),
            "put, over -b -f0": ratio(puts, name, "beanstalkd -b -f0"),
            "reserve+delete, over -b -f0": ratio(taken, name, "beanstalkd -b -f0"),
        }
        for name in kinds
    ]
    return rows, []


def over_the_wire(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """RedQueue's place: set, and get+delete, over the wire, by one client and by 32"""
    sets: dict[str, list[float]] = {}
    one, many, yardstick = "queue server, 1", "queue server, 32", "synced journal, 1"
    library = "SQLiteAckQueue, no wire"

    def turn(name: str, server: Server, clients: int, at: int) -> float:
        stored = wire.set_by(clients, items, server.port)
        got = wire.get_and_delete_by(clients, items, server.port)
        if at:
            sets.setdefault(name, []).append(stored)
        return got

    def persist(at: int) -> float:
        with closing(PersistAck(directory / f"persist-{at}")) as queue:
            stored = loads.put(queue, items)
            if at:
                sets.setdefault(library, []).append(stored)
            return loads.get_and_done(queue, items)

    with (
        servers.queue_server(directory / "ours") as ours,
        servers.journal(directory / "journal") as journal,
    ):
        contenders: dict[str, Callable[[int], float]] = {
            one: partial(turn, one, ours, 1),
            many: partial(turn, many, ours, 32),
            yardstick: partial(turn, yardstick, journal, 1),
            "synced journal, 32": partial(turn, "synced journal, 32", journal, 32),
            library: persist,
        }
        gets = rounds(count, contenders)

    # RedQueue's figures as this machine would have shown them in each round.
    carried = "RedQueue's figure, carried over"
    sets[carried] = [REDQUEUE_SETS * each / PERSIST_GET_AND_ACK for each in gets[library]]
    gets[carried] = [REDQUEUE_GETS * each / PERSIST_GET_AND_ACK for each in gets[library]]
    rows: list[Row] = [
        {
            "server, clients": name,
            "set": middle(sets, name),
            "get+delete": middle(gets, name),
            "set, over persist-queue": ratio(sets, name, library),
            "get+delete, over persist-queue": ratio(gets, name, library),
            "set, over journal": ratio(sets, name, yardstick),
            "get+delete, over journal": ratio(gets, name, yardstick),
        }
        for name in [*contenders, carried]
    ]
    bars = []
    for load, figures in (("set", sets), ("get+delete", gets)):
        for whose, over in (("a synced journal", yardstick), ("RedQueue carried over", carried)):
            bars += [
                at_least(0.7, f"{load}, 1 client, over {whose}", ratio(figures, one, over)),
                at_least(2, f"{load}, 32 clients, over {whose}", ratio(figures, many, over)),
            ]
    return rows, bars


def cap(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """cap 2, six processes, 200 jobs of 10 ms: the wall over the ideal"""
    walls, most = [], 0
    for at in range(count):
        with closing(Ours(directory / str(at), cap=2)) as queue:
            loads.put(queue, JOBS)
            with Crew(queue.url, queue.line.name, cap=2, run_ms=RUN_MS) as crew:
                began = time.monotonic()
                crew.go()
                runs = crew.runs()
        assert len(runs) == JOBS, f"{len(runs)} runs of {JOBS} jobs"
        walls.append((max(ended for _, ended in runs) - began) / (JOBS * RUN_MS / 1000 / 2))
        most = max(most, most_at_once(runs))
    wall = statistics.median(walls)
    row: Row = {"most at once": str(most), "wall over ideal": wall, "worst": max(walls)}
    return [row], [
        at_most(2, "most at once under a cap of 2, six processes", most),
        at_most(1.6, "wall over ideal under a cap of 2, six processes", wall),
    ]


def naps(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """seconds from the first put to the last end, of jobs of a second in workers' processes"""

    def turn(put: Nap, last: Nap, slots: Mapping[str, int], jobs: int, at: int) -> float:
        where = directory / f"{put.line}-{at}"
        tasks.jobs.url = f"sqlite:///{where / 'naps.db'}"
        with ExitStack() as running:
            running.callback(tasks.jobs.close)
            for line, many in slots.items():
                running.enter_context(servers.worker(where, tasks.jobs.url, line, many))
            began = time.time()
            for job in range(jobs):
                put.put(job)
            assert all(tasks.jobs.join(line, 60) for line in slots), "the workers are stuck"
            ended = [
                tasks.jobs.line(last.line).find(f"{last.name}:{job}").result()
                for job in range(jobs)
            ]
            return max(job.done_at or 0 for job in ended if job) - began

    one, two = "10 jobs in 10 slots", "5 jobs through two stages of 5 slots"
    figures = rounds(
        count,
        {
            one: partial(turn, tasks.nap, tasks.nap, {"nap": 10}, 10),
            two: partial(turn, tasks.first, tasks.second, {"first": 5, "second": 5}, 5),
        },
    )
    rows: list[Row] = [{"load": name, "seconds": middle(figures, name)} for name in (one, two)]
    return rows, [
        at_most(1.3, f"{one}, of 1 s each, s", middle(figures, one)),
        at_most(2.4, f"{two}, of 1 s each, s", middle(figures, two)),
    ]


def snapshot(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """milliseconds of a look at a line in which 10,000 jobs wait"""
    with closing(Ours(directory)) as queue:
        _fill(queue, 10_000)
        newest = queue.line.put("bench").result().id
        looks: dict[str, Callable[[], object]] = {
            "snapshot, all of them": lambda: queue.line.snapshot(10_000).result(),
            "snapshot, the first 200": lambda: queue.line.snapshot().result(),
            "position of the last": lambda: queue.line.position(newest).result(),
            "stats": lambda: queue.line.stats().result(),
        }

        def turn(look: Callable[[], object], at: int) -> float:
            began = time.perf_counter()
            look()
            return (time.perf_counter() - began) * 1000

        # One look is soon done, so it is looked often.
        figures = rounds(count * 5, {name: partial(turn, look) for name, look in looks.items()})
    rows: list[Row] = [{"look": name, "ms": middle(figures, name)} for name in looks]
    # All of them are measured to be known; whoever looks asks for the first.
    looked = middle(figures, "snapshot, the first 200")
    return rows, [at_most(10, "snapshot of a line of 10,000, ms", looked)]


def beside_workers(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """milliseconds of a put while six workers reserve and ack, a put each 5 ms"""
    slowest = []
    middles = []
    for at in range(count):
        with closing(Ours(directory / str(at), cap=6)) as queue:
            with Crew(queue.url, queue.line.name, cap=6, run_ms=RUN_MS) as crew:
                loads.put(queue, 20)
                crew.go()
                took = []
                for _ in range(300):
                    began = time.perf_counter()
                    queue.put("bench")
                    took.append((time.perf_counter() - began) * 1000)
                    time.sleep(0.005)
                crew.runs()
        slowest.append(statistics.quantiles(took, n=100)[98])
        middles.append(statistics.median(took))
    p99 = statistics.median(slowest)
    row: Row = {"load": "put", "median ms": statistics.median(middles), "p99 ms": p99}
    return [row], [at_most(10, "p99 of a put beside six workers, ms", p99)]


def durability(directory: Path, count: int, items: int) -> tuple[list[Row], list[Bar]]:
    """syncs an operation"""
    directory.mkdir(parents=True)
    if not syncs.can_be_counted():
        # Ours counts by itself: each commit is one sync.
        with closing(Ours(directory)) as queue:
            loads.put_by_threads(queue, items, 64)
            commits = queue.database.commits / queue.database.acts
        return [{"load": "put, ours, 64 threads (strace is missing)", "syncs": commits}], []
    rows: list[Row] = []
    for case in syncs.CASES:
        say(f"work: counting {case}")
        rows.append({"load": case, "syncs": syncs.of_a_program(directory, case)})
    for case in syncs.WIRED:
        say(f"work: counting {case}")
        rows.append({"load": case, "syncs": syncs.of_a_server(directory, case)})
    return rows, []


# How it is done


def _putting(items: int, threads: int) -> Callable[[Contender], float]:
    return lambda queue: loads.put_by_threads(queue, items, threads)


def _fresh(kind: Open, path: Path, load: Callable[[Contender], float]) -> Callable[[int], float]:
    """The load on a queue that is new in each round."""

    def turn(at: int) -> float:
        with closing(kind(path / str(at))) as queue:
            return load(queue)

    return turn


def _keep_done(queue: Contender) -> None:
    """DONE_ROWS jobs, done and kept. Ours is asked for many at once: it is not measured here."""
    if isinstance(queue, Ours):
        _fill(queue, DONE_ROWS)
        for _ in range(DONE_ROWS // _AT_ONCE):
            leases = [queue.line.claim("bench") for _ in range(_AT_ONCE)]
            acks = [queue.line.ack(lease) for each in leases if (lease := each.result())]
            assert len(acks) == _AT_ONCE
            for ack in acks:
                ack.result()
    else:
        for at in range(DONE_ROWS):
            queue.put(f"bench{at}")
            queue.done(queue.get())


def _fill(queue: Ours, jobs: int) -> None:
    for _ in range(jobs // _AT_ONCE):
        for put in [queue.line.put("bench", {"at": at}) for at in range(_AT_ONCE)]:
            put.result()


_AT_ONCE = 250


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case float() if value >= 100:
            return f"{value:,.0f}"
        case float():
            return f"{value:.2f}"
    return str(value)
