"""Tasks: functions whose calls wait in a line, until a worker carries them out.

    jobs = Jobs("sqlite:///jobs.db")

    @jobs.task("ad", key=lambda account: account, tries=4, limit_seconds=30)
    def look_up(account: str) -> dict[str, object]: ...

    look_up("knolan")           runs it, here and now
    look_up.put("knolan")       puts it in line; it is on disk when this returns
    look_up.later("knolan")     is what would be put: a next stage, or for `Jobs.put`

    python app.py worker shop.work --line ad --slots 2

Arguments travel as JSON, under the task's name: its module's and its own. The worker imports the
modules that it is given and finds the tasks by these names, so a renamed function no longer gets
what was put before; give it its old `name`. Jobs whose task nobody knows are buried, never lost.

A job is run at least once. Whoever is called from a handler and understands such things is sent
`job.id` as the key of the request and `job.attempt` as its fencing token; one that does not may,
when a worker was frozen past its lease and wakes up inside a call, see that call beside the next.

Kept out: how jobs wait (`line.py`), who runs them (`worker.py`) and how (`handler.py`).
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack

from queue_backend.answer import Answer
from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.errors import BadInput, Unsupported
from queue_backend.work.beanstalk import BeanstalkLine, is_beanstalk, open_line
from queue_backend.work.job import Job, Put
from queue_backend.work.line import JobLine

P = ParamSpec("P")
R = TypeVar("R")

# The columns of the table.
LONGEST_NAME = 64
LONGEST_KEY = 128


@dataclass(frozen=True, slots=True)
class JobInHand:
    """What a handler may know of the job that it carries out.

    `id` stays the same however often the job is run, `attempt` is another number each time.
    `deadline` is on the monotonic clock, None without a limit. `stop_asked()` says that nobody
    wants the answer any more: an operator cancelled the job, it is past its deadline, or its
    lease was lost.
    """

    id: int
    attempt: int
    line: str
    deadline: float | None
    stop_asked: Callable[[], bool]

    def seconds_left(self) -> float | None:
        """For the time-outs of what a handler calls; None without a limit."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - SystemClock().monotonic())


_in_hand: ContextVar[JobInHand | None] = ContextVar("job_in_hand", default=None)


def current_job() -> JobInHand | None:
    """The job that is carried out here; None where a task was simply called."""
    return _in_hand.get()


@contextlib.contextmanager
def in_hand(job: JobInHand) -> Iterator[None]:
    """Inside, `job` is the current one."""
    token = _in_hand.set(job)
    try:
        yield
    finally:
        _in_hand.reset(token)


@dataclass(frozen=True, slots=True)
class Then:
    """What a handler returns whose work goes on elsewhere."""

    puts: tuple[Put, ...]
    result: object


def then(*puts: Put, result: object = None) -> Then:
    """Done, with this result, and these come next: `return then(resize.later(path), result=...)`.

    One transaction ends the job and puts the next ones, so no kill -9 comes between. They go into
    lines of the same database, however full those are.
    """
    return Then(puts, result)


class LineRules(TypedDict, total=False):
    """What `Jobs.rules` may say of a line; JobLine tells what each means."""

    cap: int | None
    lease_seconds: float
    grace_seconds: float
    tries: int
    backoff_seconds: float
    depth: int
    keep_seconds: float
    order: Literal["fifo", "lifo"]


class Jobs:
    """The tasks of one database, and their lines.

    Make it at the top of a module. The database is opened when the first job is put or taken, and
    anew in a child after a fork, because threads and files of the parent are of no use there.
    """

    def __init__(self, url: str, synchronous: str = "FULL") -> None:
        self.url = url
        self.tasks: dict[str, Task[..., Any]] = {}
        self._synchronous = synchronous
        self._rules: dict[str, LineRules] = {}
        self._lines: dict[str, JobLine | BeanstalkLine] = {}
        self._database: Database | None = None
        self._of_parents: list[object] = []
        self._opening = threading.RLock()
        os.register_at_fork(after_in_child=self._begin_anew)

    def rules(self, line: str, **rules: Unpack[LineRules]) -> None:
        """Say what holds for a line, before it is used: `jobs.rules("ad", cap=2)`. A line of which
        nothing is said has no cap. Say it where producers and workers both see it."""
        if line in self._lines:
            raise ValueError(f"line {line!r} is in use already, its rules come too late")
        self._rules[line] = {**self._rules.get(line, {}), **rules}

    def task(
        self,
        line: str,
        *,
        key: Callable[..., object] | None = None,
        tries: int | None = None,
        limit_seconds: float | None = None,
        process: bool = False,
        name: str = "",
    ) -> "Callable[[Callable[P, R]], Task[P, R]]":
        """Make a function a task of `line`.

        `key` gets the arguments it names and says which calls are the same: while one of them
        waits, runs or is buried, putting it again gives back that job. `tries` are the runs before
        it is buried, if not as many as the line's. What the function returns must be JSON and is
        the job's result; what is no dictionary stands there as its `value`.

        A thread cannot be killed. After `limit_seconds` its lease is no longer renewed, so another
        worker takes the job once that has lapsed, and the slot stays taken until the thread is
        back: use `job.seconds_left()` for time-outs. With `process` the function is run in a child
        process, started anew for each job, which is killed at the limit with all its own children;
        if it dies, that is a fail like another and the worker lives on.

        Its parameter `job`, if there is one, is not put but gets the JobInHand; give it a default
        of None, for whoever simply calls the function.
        """

        def made_of(function: Callable[P, R]) -> Task[P, R]:
            made = Task(self, function, line, name, key, tries, limit_seconds, process)
            if made.name in self.tasks:
                raise ValueError(f"there is a task {made.name} already")
            self.tasks[made.name] = made
            return made

        return made_of

    def line(self, name: str) -> JobLine:
        """The line itself, with all its verbs. Opens the database."""
        line = self.opened(name)
        if isinstance(line, BeanstalkLine):
            raise Unsupported(f"{name}: a line in beanstalkd has not all verbs; `opened` gives it")
        return line

    def opened(self, name: str) -> JobLine | BeanstalkLine:
        """The line with what verbs its engine has. Raises Unsupported, in words, where tasks or
        rules ask for what that cannot promise."""
        with self._opening:
            if name not in self._lines:
                self._lines[name] = self._open(name)
            return self._lines[name]

    def _open(self, name: str) -> JobLine | BeanstalkLine:
        rules: LineRules = {"cap": None, **self._rules.get(name, {})}
        if is_beanstalk(self.url):
            keyed = any(task.has_keys for task in self.tasks.values() if task.line == name)
            return open_line(self.url, name, needs=["key"] if keyed else [], **rules)
        if self._database is None:
            self._database = Database(self.url, self._synchronous)
        return JobLine(self._database, name, **rules)

    def put(self, put: Put) -> Answer[Job]:
        """Put what a task's `later` described, changed as one likes (`replace(...,
        delay_seconds=60)`). To be awaited on an event loop, or asked for its `.result()`."""
        if not put.line:
            raise BadInput("line-unknown", "line", f"{put.task}: in which line is it put?")
        return self.opened(put.line).put(
            put.task,
            put.args,
            body=put.body,
            key=put.key,
            pri=put.pri,
            delay_seconds=put.delay_seconds,
            ttl_seconds=put.ttl_seconds,
            tries=put.tries,
        )

    def ring_for(self, puts: Iterable[Put]) -> None:
        """Wake who waits in this process for what was just put by an ack: that rings the bell of
        its own line only."""
        for name in {put.line for put in puts}:
            line = self._lines.get(name)
            if isinstance(line, JobLine):
                line.bell.ring()

    def join(self, line: str, timeout_seconds: float | None = None) -> bool:
        """Wait until no job of the line waits or runs. False: not in time."""
        return self.line(line).join_blocking(timeout_seconds)

    def close(self) -> None:
        """Write what still waits and close the database; it opens again when it is needed."""
        with self._opening:
            lines, self._lines = self._lines, {}
            database, self._database = self._database, None
        for line in lines.values():
            if isinstance(line, BeanstalkLine):
                line.close()
        if database is not None:
            database.close()

    def _begin_anew(self) -> None:
        # A thread of the parent may have held the lock. And what the parent has open is kept
        # rather than dropped: to close its file here would disturb the parent's locks on it.
        self._opening = threading.RLock()
        self._of_parents += [self._database, *self._lines.values()]
        self._lines = {}
        self._database = None


class Task(Generic[P, R]):
    """A function with a name under which its calls can wait."""

    def __init__(
        self,
        jobs: Jobs,
        function: Callable[P, R],
        line: str,
        name: str,
        key: Callable[..., object] | None,
        tries: int | None,
        limit_seconds: float | None,
        process: bool,
    ) -> None:
        functools.update_wrapper(self, function)
        self.jobs = jobs
        self.function = function
        self.line = line
        self.module = _module_of(function)
        self.name = name or f"{self.module}.{function.__qualname__}"
        self.limit_seconds = limit_seconds
        self.process = process
        self.has_keys = key is not None
        self._key = key
        self._tries = tries
        parameters = inspect.signature(function).parameters
        self.takes_job = "job" in parameters
        self._signature = inspect.Signature(
            [parameter for parameter in parameters.values() if parameter.name != "job"]
        )
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{self.name} is a coroutine function; a task runs in a thread")
        for parameter in self._signature.parameters.values():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise TypeError(f"{self.name}: arguments are put by name, {parameter} has none")
        if len(self.name) > LONGEST_NAME:
            raise ValueError(
                f"{self.name} is longer than {LONGEST_NAME} characters; give it a shorter `name`"
            )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def put(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Put a call in line, and wait until it is on disk.

        On an event loop, where nobody may wait: `await jobs.put(look_up.later(...))`. Raises
        BadInput (`bad-arguments`, `not-json`) and LineFull.
        """
        return self.jobs.put(self.later(*args, **kwargs)).result()

    def later(self, *args: P.args, **kwargs: P.kwargs) -> Put:
        """What `put` would put. Nothing is written."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadInput("bad-arguments", sentence=f"{self.name}: {error}") from error
        arguments = _flat(bound)
        for name, value in arguments.items():
            if not _is_json(value) or (name == "sealed" and not isinstance(value, str)):
                raise BadInput("not-json", name, f"{self.name}: {name} cannot travel as JSON")
        bound.apply_defaults()
        return Put(
            self.name, arguments, key=self._key_of(_flat(bound)), tries=self._tries, line=self.line
        )

    def _key_of(self, arguments: Mapping[str, object]) -> str | None:
        if self._key is None:
            return None
        asked = inspect.signature(self._key).parameters
        key = self._key(**{name: arguments[name] for name in asked if name in arguments})
        if key is None:
            return None
        # Several tasks share a line, and another task's "knolan" is another job.
        whole = f"{self.name}:{key}"
        if len(whole) <= LONGEST_KEY:
            return whole
        return f"{self.name}:{hashlib.sha256(whole.encode()).hexdigest()[: LONGEST_NAME - 1]}"


def tasks_of(modules: Iterable[ModuleType]) -> "dict[str, Task[..., Any]]":
    """All tasks, by name, of the databases that these modules speak of."""
    found: dict[str, Task[..., Any]] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Task):
                found |= value.jobs.tasks
            elif isinstance(value, Jobs):
                found |= value.tasks
    return found


def _module_of(function: Callable[..., object]) -> str:
    """As a worker will import it, also where the module is run as a program."""
    if function.__module__ != "__main__":
        return function.__module__
    program = sys.modules["__main__"]
    if program.__spec__ is not None:
        return program.__spec__.name.removesuffix(".__main__")
    return Path(getattr(program, "__file__", None) or "__main__").stem


def _flat(bound: inspect.BoundArguments) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            flat |= value
        else:
            flat[name] = value
    return flat


def _is_json(value: object) -> bool:
    """Whether it arrives as it was sent. A tuple would come as a list, and a number that is a
    key of a dictionary as text."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
