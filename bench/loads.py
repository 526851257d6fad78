"""What is done with a queue while the time is taken. Each answers in operations a second."""

import threading
import time

from bench.queues import Contender


def put(queue: Contender, items: int) -> float:
    began = time.perf_counter()
    for at in range(items):
        queue.put(f"bench{at}")
    return items / (time.perf_counter() - began)


def put_by_threads(queue: Contender, items: int, threads: int) -> float:
    """All threads start together, and each puts its share."""
    share = items // threads
    start = threading.Barrier(threads + 1)

    def work(mine: int) -> None:
        start.wait()
        for at in range(share):
            queue.put(f"bench{mine}-{at}")

    workers = [threading.Thread(target=work, args=(mine,)) for mine in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return share * threads / (time.perf_counter() - began)


def get_and_done(queue: Contender, items: int) -> float:
    began = time.perf_counter()
    for _ in range(items):
        queue.done(queue.get())
    return items / (time.perf_counter() - began)


def get_and_done_once(queue: Contender, items: int) -> float:
    """One confirmation for all, at the end."""
    began = time.perf_counter()
    for _ in range(items):
        got = queue.get()
    queue.done(got)
    return items / (time.perf_counter() - began)


def put_get_done(queue: Contender, items: int) -> float:
    began = time.perf_counter()
    for at in range(items):
        queue.put(f"bench{at}")
        queue.done(queue.get())
    return items / (time.perf_counter() - began)


def both(first: float, second: float) -> float:
    """The rate of two loads one after the other, each of as many operations."""
    return 1 / (1 / first + 1 / second)
