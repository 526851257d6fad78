"""How a task's function is run by a worker: in its slot's thread, or in a child process.

What becomes of the job:

    it returns             ack, with what it returned (`then` puts the next stages with it)
    it raises              release, with class and message: back-off, and buried past its tries
    its child dies         the same, "died with signal 9"
    past its limit         a child is killed, which is a fail; a thread goes on, but its lease is
                           renewed no more, so that the job comes back when that has lapsed
    an operator cancels    it is asked to stop; a child is killed; failing then, it is buried
    nobody knows its task  bury

A child is started anew for each job, in a session of its own, so that it can be killed with all
its children. It hears from its worker on its standard input: first the job, then how long the
lease still lasts. When that falls silent, or the lease ends, it ends itself and its children: the
worker was killed or frozen, and another may have the job.

When the grace of a stop is over, a child is killed and its job given back. A thread's job is given
back too, while the thread may still be at it; its process ends right after.

Kept out: slots, heartbeats and stopping (`worker.py`), what a task is (`task.py`).
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any, BinaryIO

from queue_backend.answer import Answer
from queue_backend.clock import Clock, SystemClock
from queue_backend.errors import Unsupported
from queue_backend.work.job import Put
from queue_backend.work.task import JobInHand, Task, Then, in_hand, tasks_of
from queue_backend.work.worker import Held

log = logging.getLogger(__name__)

LONGEST_ERROR = 2_000

# The child's first words. Its path must be ours before anything of ours can be imported.
_BE_A_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from queue_backend.work.handler import be_a_child; be_a_child(int(sys.argv[1]))"
)


@dataclass(frozen=True, slots=True)
class _End:
    """How a handler ended: with a result, and stages to come, or with an error."""

    result: Mapping[str, object] | None = None
    puts: tuple[Put, ...] = ()
    error: str | None = None


class Handlers:
    """The craft of those who work for tasks."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], clock: Clock) -> None:
        self._tasks = tasks
        self._clock = clock
        self._threads: dict[int, _SlotThread] = {}

    async def open(self) -> None:
        pass

    async def keep_house(self) -> None:
        pass

    async def close(self) -> None:
        # They are not waited for: one that is still at it ends with the process.
        for thread in self._threads.values():
            thread.ask(None)
        self._threads.clear()

    async def carry_out(self, held: Held) -> None:
        job = held.job
        task = self._tasks.get(job.task)
        if task is None:
            await held.bury(f"task-unknown: {job.task or 'it names no task'}")
            return
        if job.stop_asked:
            # It was cancelled in the hand of a worker that died over it.
            await held.bury("cancelled")
            return
        end = await (self._in_child if task.process else self._in_thread)(task, held)
        if end.error is None:
            try:
                await held.ack(end.result, then=end.puts)
            except Unsupported as error:
                # Stages, in a line that cannot put them with the end of the one before.
                await held.bury(str(error))
                return
            task.jobs.ring_for(end.puts)
            log.info("job %d: %s is done", job.id, job.task)
        elif held.job.stop_asked:
            await held.bury(f"cancelled; {end.error}")
        else:
            await held.release(error=end.error)

    # In a thread

    async def _in_thread(self, task: Task[..., Any], held: Held) -> _End:
        thread = self._threads.get(held.slot)
        if thread is None:
            thread = self._threads[held.slot] = _SlotThread(held.slot)
        limit = task.limit_seconds
        job = JobInHand(
            id=held.job.id,
            attempt=held.job.attempt,
            line=held.job.line,
            deadline=None if limit is None else self._clock.monotonic() + limit,
            stop_asked=held.stop.is_set,
        )
        arguments = dict(held.job.args)
        timer = None
        if limit is not None:
            timer = asyncio.get_running_loop().call_later(limit, _lapse, task, held)
        try:
            return await thread.ask(lambda: _run(task, arguments, job))
        finally:
            if timer is not None:
                timer.cancel()

    # In a child

    async def _in_child(self, task: Task[..., Any], held: Held) -> _End:
        # The limit holds for the whole of it, its start included.
        limit = task.limit_seconds
        deadline = None if limit is None else self._clock.monotonic() + limit
        with tempfile.TemporaryFile() as said:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _BE_A_CHILD, str(said.fileno()), json.dumps(sys.path)),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=[said.fileno()],
                start_new_session=True,
            )
            assert child.stdin is not None
            tell = asyncio.create_task(self._tell(child.stdin, task, held, deadline))
            gone = asyncio.create_task(child.wait())
            stop = asyncio.create_task(held.stop.wait())
            try:
                await asyncio.wait(
                    (gone, stop),
                    timeout=None if deadline is None else deadline - self._clock.monotonic(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                ended_by_itself, told_to_stop = gone.done(), stop.done()
            finally:
                for each in (tell, stop):
                    each.cancel()
                # Before it is waited for: until then nobody else can have its number.
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                await asyncio.gather(tell, stop, gone, return_exceptions=True)
                child.stdin.close()
            if (end := _read_end(said)) is not None:
                return end
            if told_to_stop:
                return _End(error="it was told to stop")
            if not ended_by_itself:
                return _End(error=f"ended at its limit of {limit:g} s")
            code = gone.result()
            how = f"died with signal {-code}" if code < 0 else f"exited with {code}, saying nothing"
            return _End(error=how)

    async def _tell(
        self,
        child: asyncio.StreamWriter,
        task: Task[..., Any],
        held: Held,
        deadline: float | None,
    ) -> None:
        """The job, and then how long its lease lasts, more often than it is renewed. Deadlines
        are on the monotonic clock, which all processes of a host share."""
        job = {
            "jobs": task.jobs.url,
            "module": task.module,
            "task": task.name,
            "args": dict(held.job.args),
            "id": held.job.id,
            "attempt": held.job.attempt,
            "line": held.job.line,
            "deadline": deadline,
            "lease_left_seconds": held.lease.deadline - self._clock.monotonic(),
            "log_level": logging.getLogger().getEffectiveLevel(),
        }
        with contextlib.suppress(ConnectionError):  # it died meanwhile, which is seen elsewhere
            child.write(json.dumps(job).encode() + b"\n")
            while True:
                await child.drain()
                await asyncio.sleep(held.lease_seconds / 4)
                child.write(b"%f\n" % (held.lease.deadline - self._clock.monotonic()))


def _lapse(task: Task[..., Any], held: Held) -> None:
    log.warning(
        "job %d: past its limit of %g s; it goes to another when its lease has ended, slot %d"
        " stays taken until its thread is back",
        *(held.job.id, task.limit_seconds, held.slot),
    )
    held.let_lapse()


class _SlotThread(threading.Thread):
    """A slot's own thread, so that what a handler keeps in thread locals stays its slot's. Not
    one of an executor's: the interpreter would wait for those before it ends."""

    def __init__(self, slot: int) -> None:
        super().__init__(name=f"slot-{slot}", daemon=True)
        self._asked: SimpleQueue[tuple[Answer[_End], Callable[[], _End]] | None] = SimpleQueue()
        self.start()

    def ask(self, call: Callable[[], _End] | None) -> Answer[_End]:
        """None ends it."""
        answer: Answer[_End] = Answer()
        self._asked.put(None if call is None else (answer, call))
        return answer

    def run(self) -> None:
        while (asked := self._asked.get()) is not None:
            answer, call = asked
            if answer.set_running_or_notify_cancel():
                answer.set_result(call())


def _run(task: Task[..., Any], arguments: Mapping[str, object], job: JobInHand) -> _End:
    known = {**arguments, "job": job} if task.takes_job else arguments
    try:
        with in_hand(job):
            returned = task.function(**known)
        done = returned if isinstance(returned, Then) else Then((), returned)
        json.dumps(done.result, allow_nan=False)
        if done.result is None or isinstance(done.result, dict):
            return _End(done.result, done.puts)
        return _End({"value": done.result}, done.puts)
    except BaseException as error:  # sys.exit() too ends a job, and not its worker
        log.warning("job %d: %s failed", job.id, task.name, exc_info=error)
        return _End(error=_sentence(error))


def _sentence(error: BaseException) -> str:
    """What every engine can store."""
    text = f"{type(error).__name__}: {error}".replace("\0", " ")[:LONGEST_ERROR]
    return text.encode("utf-8", "replace").decode("utf-8")


def _read_end(said: BinaryIO) -> _End | None:
    """What the child said at its end; None if it came to nothing."""
    said.seek(0)
    try:
        end = json.load(said)
    except ValueError:
        return None
    return _End(end["result"], tuple(Put(**put) for put in end["puts"]), end["error"])


# The child's side


def be_a_child(said: int) -> None:
    """Carry out the one job that is read from standard input, and write its end to `said`."""
    os.set_inheritable(said, False)
    worker = os.dup(0)
    # What the handler starts must not read what is for us.
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    heard = b""
    while b"\n" not in heard:
        more = os.read(worker, 65_536)
        if not more:
            return
        heard += more
    first, _, rest = heard.partition(b"\n")
    asked = json.loads(first)
    watch = (worker, rest, asked["lease_left_seconds"])
    threading.Thread(target=_end_with_the_lease, args=watch, daemon=True).start()
    logging.basicConfig(
        level=asked["log_level"],
        format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s",
    )
    job = JobInHand(
        id=asked["id"],
        attempt=asked["attempt"],
        line=asked["line"],
        deadline=asked["deadline"],
        stop_asked=lambda: False,
    )
    try:
        task = tasks_of([importlib.import_module(asked["module"])])[asked["task"]]
        task.jobs.url = asked["jobs"]  # the worker may have been told of another
    except Exception as error:
        traceback.print_exc()
        end = _End(error=_sentence(error))
    else:
        end = _run(task, asked["args"], job)
    puts = [asdict(put) for put in end.puts]
    with open(said, "w") as file:
        json.dump({"result": end.result, "puts": puts, "error": end.error}, file)


def _end_with_the_lease(worker: int, heard: bytes, left_seconds: float) -> None:
    """The holder must have stopped when the lease ends, also when its worker cannot see to it."""
    clock = SystemClock()
    ends_at = clock.monotonic() + left_seconds
    while True:
        left = max(0.0, ends_at - clock.monotonic())
        readable, _, _ = select.select([worker], [], [], left)
        more = os.read(worker, 65_536) if readable else b""
        if not more:
            os.killpg(0, signal.SIGKILL)
        *lines, heard = (heard + more).split(b"\n")
        if lines:
            ends_at = clock.monotonic() + float(lines[-1])
