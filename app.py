"""The front door: the command line, and the one place that knows all parts.

Reads the settings, makes the parts and hands each what it needs, hangs the routes, starts the
movers, and closes in the reverse order of opening: no more visitors, running requests answered,
the workers' hands empty, the last heartbeats sent. Whatever keeps it from opening is one
sentence and exit code 2.

With several web processes this one only minds them: each is the same command again, they share
the port, and the line is one because its store is.

Kept out: everything that a line, a page or a mover decides.
"""

import asyncio
import contextlib
import errno
import fcntl
import gc
import hashlib
import hmac
import importlib
import json
import logging
import os
import random
import re
import resource
import secrets
import signal
import socket
import stat
import sys
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import argon2
import click
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets
from tornado.web import Application

from downstream.adapter import Adapter
from downstream.calls import Calls
from downstream.demo import DemoAdapter
from downstream.sealed import Keyring
from handlers.languages import Languages
from handlers.parts import Desk, Parts
from handlers.routes import application, server_options
from queue_backend.clock import Clock, SystemClock
from queue_backend.database import Database
from queue_backend.errors import NowServingError, Unavailable
from queue_backend.ledger import Ledger
from queue_backend.people.line import WaitingLine
from queue_backend.people.marshal import Marshal
from queue_backend.people.memcached import MemcachedStore
from queue_backend.people.memory import MemoryStore
from queue_backend.people.roster import Work, percentile
from queue_backend.people.rules import Rules
from queue_backend.people.store import Store
from queue_backend.people.ticket import TicketSigner
from queue_backend.work.handler import Handlers
from queue_backend.work.job import JobStats
from queue_backend.work.line import JobLine
from queue_backend.work.memcache_server import QueueServer
from queue_backend.work.task import Jobs, Task, tasks_of
from queue_backend.work.worker import Worker
from settings import BadSettings, Line, Settings, read

try:
    import uvloop
except ImportError:  # an extra; asyncio's own loop does as well, a little slower
    uvloop = None  # type: ignore[assignment]

log = logging.getLogger("nowserving")

HERE = Path(__file__).resolve().parent

ROUND_SECONDS = 1.0
FORGET_SECONDS = 3600.0
# A client of the queue server never asks what became of a job: operators may, for a while.
QUEUE_KEEP_SECONDS = 60.0
QUEUE_PURGE_SECONDS = 2.0
RESTART_SECONDS = 1.0
# System managers grant about 10 s before they kill.
CLOSING_SECONDS = 10.0
DOORS_CLOSING_SECONDS = 3.0
WORKERS_CLOSING_SECONDS = 4.0
MOST_DESCRIPTORS = 65_536
# Files, the database, the store, pipes: what is not a visitor.
OWN_DESCRIPTORS = 128
BACKLOG = 1024
CANNOT_START = 2


class CannotStart(Exception):
    """One sentence for whoever typed the command."""


# The command line

_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings in TOML. Without it now-serving.toml is read, if it is there.",
)
_JOBS = click.option(
    "--jobs", metavar="URL", help="Database of jobs and ledger: sqlite:///FILE, or a server's."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Now Serving: a waiting room for slow back ends.

    People take a number in the browser, are called, and leave a request that a worker carries
    out. Settings come from a TOML file, from NOWSERVING_* variables and from the options here;
    the README has them all.
    """


@main.command()
@_CONFIG
@click.option("--port", type=int, help="Port to listen on, 8888 unless set; 0 for any free one.")
@click.option("--host", help="Address to listen on, 127.0.0.1 unless set; 0.0.0.0 for all.")
@click.option("--store", metavar="memory:|memcached://HOST:PORT", help="Where the lines stand.")
@_JOBS
@click.option("--processes", type=int, help="Web processes; more than 1 need memcached.")
@click.option("--no-worker", is_flag=True, help="Run no jobs in here; `worker` runs them apart.")
@click.option("--minded-by", type=int, hidden=True, help="Socket to the process that minds this.")
def serve(config: Path | None, no_worker: bool, minded_by: int | None, **options: Any) -> None:
    """Open the waiting room: pages, API, movers and, unless told otherwise, a worker.

    SIGTERM or Ctrl-C closes it cleanly; a second one ends it at once.
    """
    with _sentences():
        settings = _prepared(config, options)
        keys = read_keys(settings.secret_path)
        operators, password = _operators(settings)
        if minded_by is not None:
            _run(serve_minded(settings, keys, not no_worker, socket.socket(fileno=minded_by)))
        elif settings.processes > 1:
            command = _command_of_a_child(config, options, no_worker)
            _run(mind(settings, command, operators, password))
        else:
            _run(serve_alone(settings, keys, not no_worker, operators, password))


@main.command()
@_CONFIG
@_JOBS
@click.argument("modules", nargs=-1)
@click.option("--line", metavar="NAME", help="Whose tasks to run; needless where there is one.")
@click.option("--slots", type=click.IntRange(1), help="Tasks at once in this process; 1.")
@click.option(
    "--lease-seconds",
    type=click.FloatRange(0, min_open=True),
    help="A job is lost to others after so long a silence; else as its module says, or 30.",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0),
    default=WORKERS_CLOSING_SECONDS,
    show_default=True,
    help="For running jobs to finish when it closes; then they are given back.",
)
def worker(
    config: Path | None,
    modules: Sequence[str],
    line: str | None,
    slots: int | None,
    lease_seconds: float | None,
    grace_seconds: float,
    jobs: str | None,
) -> None:
    """Run jobs, apart from whoever puts them.

    Without MODULES, those of every line in the settings: it needs the database and the data
    directory of `serve`, nothing else. With MODULES, the tasks of one line that they define; the
    settings do not matter then.

    SIGTERM, SIGQUIT or Ctrl-C lets the running jobs finish first; a second one ends it at once,
    and what it had in hand comes back when the leases have lapsed. With MODULES, SIGHUP does as
    the first and starts anew, with the modules as they are then.
    """
    with _sentences():
        if modules:
            _begin_log("info")
            at_work = _tasks(modules, line, jobs, lease_seconds)
            _run(work_on_tasks(at_work, slots or 1, grace_seconds))
        elif line or slots or lease_seconds:
            raise CannotStart(
                "--line, --slots and --lease-seconds go with modules of tasks; those of the lines"
                " are in the settings"
            )
        else:
            _run(work(_prepared(config, {"jobs": jobs}), grace_seconds))


@main.command("queue-server")
@_CONFIG
@click.option("--port", type=click.IntRange(0, 65_535), default=11_300, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 for all addresses.")
@click.option("--jobs", metavar="URL", help="Database; unset: queue.db in the data directory.")
@click.option("--cap", type=click.IntRange(1), help="Jobs of a line in hand at once, anywhere.")
@click.option(
    "--lease-seconds",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="A client that is silent for this long loses its job.",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="A lost job is given to another this much later.",
)
@click.option(
    "--tries",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Lost clients before a job is buried.",
)
@click.option(
    "--depth",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Jobs of a line that may wait; then NOT_STORED.",
)
@click.option(
    "--max-body-bytes", type=click.IntRange(0, 16_000_000), default=2**20, show_default=True
)
@click.option("--connections", type=click.IntRange(1), default=1_000, show_default=True)
def queue_server(config: Path | None, jobs: str | None, **options: Any) -> None:
    """Serve job lines to any program that speaks memcached.

    `set LINE` puts a job and `get LINE` takes one, which is held until `delete LINE`. A client
    that vanishes gives its job back. Nobody is asked who they are: listen where only friends
    can reach. SIGTERM or Ctrl-C gives back what is held, and ends.
    """
    with _sentences():
        settings = _prepared(config, {})
        url = jobs or f"sqlite:///{settings.data_directory / 'queue.db'}"
        # People's lines keep their cap, and their requests, to themselves.
        closed = settings.lines if url == settings.jobs_url else ()
        _run(serve_queues(url, closed, **options))


@main.command("hash-password")
def hash_password() -> None:
    """Print what stands for a password in the settings.

    The password is asked for, never an argument: those can be read by others.
    """
    password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    if len(password) < 8:
        raise click.UsageError("A password has 8 characters at least.")
    click.echo(argon2.PasswordHasher().hash(password))


def _prepared(config: Path | None, options: Mapping[str, Any]) -> Settings:
    given = {name: value for name, value in options.items() if value is not None}
    settings = read(config, given)
    _begin_log(settings.log_level)
    _make_data_directory(settings.data_directory)
    return settings


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Whatever keeps us from starting is told in words, without a traceback."""
    try:
        yield
    except (BadSettings, CannotStart, NowServingError) as error:
        click.echo(f"Now Serving cannot start: {error}", err=True)
        sys.exit(CANNOT_START)


def _run(main_round: Coroutine[Any, Any, None]) -> None:
    """Runs it on one event loop, the faster one where it is installed."""
    # Requests leave little garbage, and none that matters in a hurry; the default walks all the
    # tickets a process remembers each 700 allocations (10 % of what a join cost).
    gc.set_threshold(50_000, 20, 50)
    _allow_many_connections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        runner.run(main_round)


def _allow_many_connections() -> None:
    # Each waiting browser may hold a connection, and the usual soft limit is 1024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _most_visitors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else max(1, soft - OWN_DESCRIPTORS)


class OneLine(logging.Formatter):
    """A name that somebody typed may not begin a line of its own in the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda c: repr(c[0])[1:-1], text)


def _begin_log(level: str) -> None:
    to_terminal = logging.StreamHandler()
    to_terminal.setFormatter(
        OneLine("%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[to_terminal], force=True)
    # A line for each poll would hide all others.
    logging.getLogger("tornado.access").setLevel("DEBUG" if level == "debug" else "WARNING")


# Secrets


def read_keys(path: Path) -> dict[int, str]:
    """The keys that sign, by number; made at the first start.

    The file holds a line `number secret` for each; the highest number signs, all are read. So a
    key is changed by adding a line, and dropped when the tickets it signed are past their life.
    """
    _make_secret_file(path)
    try:
        with open(path, encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(65_536)
    except (OSError, ValueError) as error:
        raise CannotStart(f"the secret in {path} cannot be read: {_why(error)}") from error
    if mode & 0o077:
        raise CannotStart(
            f"the secret in {path} can be read by others (mode {mode:04o}): chmod 600 {path}, and"
            " if others may have read it, delete it; all tickets are void then"
        )
    keys: dict[int, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        number, _, key = line.partition(" ")
        if not number.isdigit() or len(key) < 32:
            raise CannotStart(
                f"a line of {path} is not `number secret` with 32 characters of secret or more"
            )
        keys[int(number)] = key
    if not keys:
        raise CannotStart(f"{path} is empty; delete it and a new secret is made")
    return keys


def _make_secret_file(path: Path) -> None:
    """Whole or not at all, though several processes may start together."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"1 {secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: its key holds
            os.link(draft, path)
    except OSError as error:
        raise CannotStart(f"no secret can be written to {path}: {_why(error)}") from error
    finally:
        draft.unlink(missing_ok=True)


def _make_data_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"the data directory {path} cannot be made: {_why(error)}") from error


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _operators(settings: Settings) -> tuple[Mapping[str, str], str]:
    """Who may operate; with nobody named, one with a password for this run, which is returned."""
    if settings.operators:
        return settings.operators, ""
    password = secrets.token_urlsafe(12)
    return {"operator": argon2.PasswordHasher().hash(password)}, password


def _session_keys(keys: Mapping[int, str], operators: Mapping[str, str]) -> dict[int, str]:
    """Keys for the operators' sessions: theirs end when a password changes, and so do those of
    a one-time password with its run."""
    who = json.dumps(sorted(operators.items())).encode()
    return {
        number: hmac.new(key.encode(), b"sessions:" + who, hashlib.sha256).hexdigest()
        for number, key in keys.items()
    }


def _welcome(settings: Settings, port: int, password: str) -> None:
    """To the terminal, once, and not to the log: it may hold a password."""
    everywhere = settings.host in ("0.0.0.0", "::", "")
    host = "127.0.0.1" if everywhere else settings.host
    address = settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    click.echo(f"Now Serving is open at {address}/")
    if password:
        click.echo(f"Operators sign in at {address}/admin as operator, password {password}")
        click.echo("That is good until this program ends; the README tells how to name operators.")
    if host in ("127.0.0.1", "localhost", "::1") and not (everywhere or settings.public_url):
        click.echo("Only this machine reaches it; --host 0.0.0.0 opens it to others.")
    click.echo("Ctrl-C closes it.")


# Ending


class Closing(asyncio.Event):
    """Set by the first SIGTERM, SIGQUIT or Ctrl-C; the second one ends the program where it
    stands, and so does taking longer than `seconds`."""

    def __init__(self, seconds: float = CLOSING_SECONDS) -> None:
        super().__init__()
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self._loop.add_signal_handler(number, self._asked, number)

    def _asked(self, number: int) -> None:
        if self.is_set():
            os._exit(128 + number)
        self.begin("a second signal ends it at once")

    def begin(self, why: str) -> None:
        log.info("closing; %s", why)
        self.set()
        # Whatever hangs then must not keep a port, a lock or a place at the marshal's.
        self._loop.call_later(self._seconds, self._give_up)

    def _give_up(self) -> None:
        log.error("not closed within %g s; ended where it stands", self._seconds)
        os._exit(1)


# The doors


class Doors(HTTPServer):
    """Tornado's server with a limit of connections, and a way to close that answers first.

    Without the limit a process out of descriptors spins in its accept loop and serves nobody.
    """

    def initialize(  # type: ignore[override]
        self, request_callback: Application, most_connections: int, **options: Any
    ) -> None:
        super().initialize(request_callback, **options)
        self._most_connections = most_connections
        self._connections_open = 0
        self._answering: set[object] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if self._connections_open >= self._most_connections:
            stream.close()
            return
        self._connections_open += 1
        super().handle_stream(stream, address)

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        # A connection comes here for its first request, and again when that was answered.
        self._answered(server_conn)
        # Only a proxy of ours may say who somebody is. `super()` reads this at once.
        peer = getattr(getattr(request_conn, "context", None), "remote_ip", "")
        self.xheaders = peer in (self.trusted_downstream or ())
        delegate = super().start_request(server_conn, request_conn)
        return _Begun(delegate, lambda: self._begins(server_conn), proxied=self.xheaders)

    def on_close(self, server_conn: object) -> None:
        self._connections_open -= 1
        self._answered(server_conn)
        super().on_close(server_conn)

    def _begins(self, connection: object) -> None:
        self._answering.add(connection)
        self._quiet.clear()

    def _answered(self, connection: object) -> None:
        self._answering.discard(connection)
        if not self._answering:
            self._quiet.set()

    async def close(self, seconds: float) -> None:
        """Nobody new; whoever was asking is answered, for `seconds` at most."""
        self.stop()
        self.conn_params.no_keep_alive = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), seconds)
        await self.close_all_connections()


class _Begun(HTTPMessageDelegate):
    """Tells when a request has begun, and passes everything on."""

    def __init__(
        self, delegate: HTTPMessageDelegate, begun: Callable[[], None], proxied: bool
    ) -> None:
        self._begun = begun
        self._proxied = proxied
        self._headers_received = delegate.headers_received
        self.data_received = delegate.data_received  # type: ignore[method-assign]
        self.finish = delegate.finish  # type: ignore[method-assign]
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._begun()
        if self._proxied:
            # It would beat X-Forwarded-For, and a proxy that does not know it passes it on.
            headers.pop("X-Real-Ip", None)
        return self._headers_received(start_line, headers)


def listen(host: str, port: int, shared: bool) -> list[socket.socket]:
    """Raises CannotStart when another program has the port, or this machine not the address."""
    try:
        return bind_sockets(port, host, backlog=BACKLOG, reuse_port=shared)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            said = f"port {port} is taken by another program; choose another with --port"
        elif error.errno == errno.EACCES:
            said = f"port {port} needs rights that this user does not have; choose one over 1023"
        else:
            said = f"cannot listen on {host}: {_why(error)}"
        raise CannotStart(said) from error


# Movers


async def every(seconds: float, act: Callable[[], Awaitable[object]], name: str) -> NoReturn:
    """One round of `act` each `seconds`. A round that fails is told, once while it goes on
    failing in the same way, and the next one comes all the same."""
    loop = asyncio.get_running_loop()
    trouble = ""
    while True:
        began = loop.time()
        try:
            await act()
        except Exception as error:
            if trouble != (trouble := f"{type(error).__name__}: {error}"):
                known = isinstance(error, NowServingError)
                log.warning(
                    "%s: %s; tried again each %g s", name, error, seconds, exc_info=not known
                )
        else:
            if trouble:
                log.info("%s: works again", name)
            trouble = ""
        await asyncio.sleep(max(0.0, began + seconds - loop.time()))


# The parts


class Rooms:
    """What one process has of each kind, made from the settings and handed plain values.

    Whatever needs closing is put on `to_close` as it is opened; closing goes in reverse.
    """

    def __init__(
        self, settings: Settings, to_close: contextlib.AsyncExitStack, with_worker: bool
    ) -> None:
        self.clock = SystemClock()
        self.process = _this_process()
        self.keyring = Keyring.at(settings.data_directory / "keyring")
        self.database = Database(settings.jobs_url)
        to_close.callback(self.database.close)
        self.ledger = Ledger(self.database)
        self.adapters = {name: _adapter(line) for name, line in settings.lines.items()}
        self.jobs = {
            name: JobLine(
                self.database,
                name,
                cap=line.slots,
                lease_seconds=line.job_lease_seconds,
                grace_seconds=line.job_grace_seconds,
                tries=line.job_tries,
                backoff_seconds=line.job_backoff_seconds,
                depth=line.job_depth,
                keep_seconds=line.job_keep_seconds,
            )
            for name, line in settings.lines.items()
        }
        self.workers = {
            name: Worker(
                self.jobs[name],
                Calls(self.jobs[name], self.adapters[name], self.keyring, self.clock),
                holder=self.process,
                clock=self.clock,
                slots=line.slots,
            )
            for name, line in settings.lines.items()
            if with_worker
        }

    async def start_workers(
        self, to_close: contextlib.AsyncExitStack, grace_seconds: float = WORKERS_CLOSING_SECONDS
    ) -> None:
        for worker in self.workers.values():
            await worker.start()
        to_close.push_async_callback(self._stop_workers, grace_seconds)

    async def _stop_workers(self, grace_seconds: float) -> None:
        await asyncio.gather(*(worker.stop(grace_seconds) for worker in self.workers.values()))

    def waiting_lines(self, settings: Settings, store: Store) -> dict[str, WaitingLine]:
        return {
            name: WaitingLine(
                name,
                rules=_rules(line),
                services=self.adapters[name].actions,
                store=store,
                ledger=self.ledger,
                clock=self.clock,
                new_id=lambda: secrets.token_hex(16),
                process=self.process,
            )
            for name, line in settings.lines.items()
        }


def _adapter(line: Line) -> Adapter:
    return DemoAdapter(
        random.Random(),
        latency_seconds=(line.demo.shortest_seconds, line.demo.longest_seconds),
        slots=line.slots,
    )


def _rules(line: Line) -> Rules:
    return Rules(
        places=line.places,
        call_ahead=line.call_ahead,
        max_waiting=line.max_waiting,
        answer_seconds=line.answer_seconds,
        answer_extend_seconds=line.answer_extend_seconds,
        desk_lease_seconds=line.desk_lease_seconds,
        desk_extend_seconds=line.desk_extend_seconds,
        extends=line.extends,
        away_after_seconds=line.away_after_seconds,
        silent_aside_seconds=line.silent_aside_seconds,
        aside_seconds=line.aside_seconds,
        undo_seconds=line.undo_seconds,
        suspect_seconds=line.suspect_seconds,
        call_patience_seconds=line.call_patience_seconds,
        freeze_seconds=line.freeze_seconds or Rules().freeze_seconds,
        names=line.names,
    )


def _work(stats: JobStats) -> Work:
    """How busy the job line is, in the words of the waiting line.

    Places are held for what waits for a slot, so that nobody is called to a form whose request
    would only wait in turn. Rounded, because a roster that differs is a roster to write.
    """
    measured = sorted(stats.recent_seconds)
    return Work(
        middle_seconds=round(percentile(measured, 0.5), 1) if measured else 0,
        high_seconds=round(percentile(measured, 0.8), 1) if measured else 0,
        slots=stats.cap,
        held=max(0, stats.ready + stats.reserved - stats.cap),
        stopped=stats.paused_reason is not None,
    )


def _store(settings: Settings, clock: Clock) -> Store:
    if settings.store == "memory:":
        return MemoryStore(clock)
    host, _, port = settings.store.removeprefix("memcached://").rpartition(":")
    return MemcachedStore(host, int(port), clock)


def _alone_with(directory: Path) -> int:
    """Two lines in the memory of two processes would give the same numbers twice."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise CannotStart(
            f"another Now Serving keeps its line in memory and its data in {directory}; give this"
            " one a data_directory of its own, or give both one memcached"
        ) from error
    return lock


def _build() -> str:
    """Another text or style is another build, and open pages load themselves anew."""
    digest = hashlib.sha256()
    for folder in ("static", "templates", "translations"):
        for path in sorted((HERE / folder).rglob("*")):
            if path.is_file():
                digest.update(path.relative_to(HERE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _this_process() -> str:
    """Unique over all hosts: the marshal's lock and the leases of jobs go by it."""
    return f"{_ascii(socket.gethostname())}-{os.getpid()}-{secrets.token_hex(2)}"


def _ascii(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "", text)[:40] or "host"


# One web process, and one worker


async def serve_alone(
    settings: Settings,
    keys: Mapping[int, str],
    with_worker: bool,
    operators: Mapping[str, str],
    password: str,
) -> None:
    closing = Closing()
    async with contextlib.AsyncExitStack() as to_close:
        sockets = listen(settings.host, settings.port, shared=False)
        await _open(settings, keys, with_worker, operators, sockets, to_close)
        _welcome(settings, int(sockets[0].getsockname()[1]), password)
        await closing.wait()


async def serve_minded(
    settings: Settings, keys: Mapping[int, str], with_worker: bool, minder: socket.socket
) -> None:
    """One of several web processes. Tells the one who minds it that its doors are open, and
    closes when that one has died."""
    closing = Closing()
    async with contextlib.AsyncExitStack() as to_close:
        sockets = listen(settings.host, settings.port, shared=True)
        await _open(settings, keys, with_worker, settings.operators, sockets, to_close)
        loop = asyncio.get_running_loop()

        def minder_died() -> None:
            # Nothing is ever sent this way: what there is to read is the end.
            loop.remove_reader(minder)
            if not closing.is_set():
                closing.begin("the one who minds this has ended")

        loop.add_reader(minder, minder_died)
        with contextlib.suppress(OSError):  # it died meanwhile, which is read above
            minder.send(b".")
        await closing.wait()


async def _open(
    settings: Settings,
    keys: Mapping[int, str],
    with_worker: bool,
    operators: Mapping[str, str],
    sockets: list[socket.socket],
    to_close: contextlib.AsyncExitStack,
) -> None:
    """Everything that one web process is, opened from the ground up."""
    if settings.store == "memory:":
        to_close.callback(os.close, _alone_with(settings.data_directory))
    rooms = Rooms(settings, to_close, with_worker)
    store = _store(settings, rooms.clock)
    to_close.callback(store.close)
    lines = rooms.waiting_lines(settings, store)
    marshals = {
        name: Marshal(line, rooms.clock, _busy(rooms.jobs[name])) for name, line in lines.items()
    }
    try:
        await store.ready()
    except Unavailable as error:
        raise CannotStart(f"the store {settings.store} does not answer ({error})") from error
    for line in lines.values():
        await line.refresh()

    async def last_round() -> None:
        # The heartbeats gathered since the last round, and the lead for another to take.
        for name, line in lines.items():
            with contextlib.suppress(Unavailable):
                await line.round()
                await marshals[name].resign()

    to_close.push_async_callback(last_round)
    await rooms.start_workers(to_close)
    movers = [
        *(every(ROUND_SECONDS, line.round, f"line {line.name}") for line in lines.values()),
        *(every(ROUND_SECONDS, each.tick, f"marshal of {name}") for name, each in marshals.items()),
        every(FORGET_SECONDS, lambda: _forget(rooms, settings), "ledger"),
    ]
    to_close.push_async_callback(stopped, [asyncio.create_task(mover) for mover in movers])

    async def database_answers() -> str:
        await rooms.ledger.recall(next(iter(lines)))
        return ""

    async def store_answers() -> str:
        await store.ready()
        return ""

    parts = Parts(
        clock=rooms.clock,
        lines=lines,
        jobs=rooms.jobs,
        adapters=rooms.adapters,
        desks={name: _desk(name, line) for name, line in settings.lines.items()},
        ledger=rooms.ledger,
        keyring=rooms.keyring,
        signer=TicketSigner(keys, rooms.clock, settings.ticket_life_seconds),
        languages=Languages(HERE / "translations"),
        session_keys=_session_keys(keys, operators),
        operators=operators,
        build=_build(),
        public_url=settings.public_url,
        allowed_hosts=settings.allowed_hosts,
        trusted_proxies=settings.trusted_proxies,
        static_path=HERE / "static",
        ticket_cookie_seconds=settings.ticket_life_seconds,
        session_seconds=settings.session_seconds,
        checks={"store": store_answers, "database": database_answers},
        counters=lambda: _counters(rooms.database, lines.values()),
    )
    doors = Doors(application(parts), most_connections=_most_visitors(), **server_options(parts))
    doors.add_sockets(sockets)
    to_close.push_async_callback(doors.close, DOORS_CLOSING_SECONDS)


def _busy(jobs: JobLine) -> Callable[[], Awaitable[Work]]:
    async def busy() -> Work:
        return _work(await jobs.stats())

    return busy


def _desk(name: str, line: Line) -> Desk:
    return Desk(
        name,
        title_en=line.title.en or line.title.zh,
        title_zh=line.title.zh or line.title.en,
        prefix=line.prefix,
        contact_en=line.contact.en or line.contact.zh,
        contact_zh=line.contact.zh or line.contact.en,
        opens_at=line.opens_at,
    )


async def _forget(rooms: Rooms, settings: Settings) -> None:
    # A ticket past its life is refused for that, so its tombstone has done its duty.
    await rooms.ledger.forget_before(rooms.clock.wall() - settings.ticket_life_seconds)


async def stopped(movers: Sequence["asyncio.Task[NoReturn]"]) -> None:
    going = set(movers)
    while going:
        # Again and again: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes just
        # as what it waits for ends, and a mover that lost it would make its rounds for ever.
        for mover in going:
            mover.cancel()
        _, going = await asyncio.wait(going, timeout=0.2)


def _counters(database: Database, lines: Iterable[WaitingLine]) -> dict[str, float]:
    """What travelled together, for `/metrics`: asks over batches is how well it did."""
    lines = list(lines)
    return {
        "heartbeats_total": sum(line.beats.asks for line in lines),
        "heartbeat_batches_total": sum(line.beats.batches for line in lines),
        "roster_changes_total": sum(line.changes.asks for line in lines),
        "roster_batches_total": sum(line.changes.batches for line in lines),
        "database_acts_total": database.acts,
        "database_commits_total": database.commits,
    }


async def serve_queues(
    url: str,
    closed: Collection[str],
    *,
    host: str,
    port: int,
    cap: int | None,
    lease_seconds: float,
    grace_seconds: float,
    tries: int,
    depth: int,
    max_body_bytes: int,
    connections: int,
) -> None:
    closing = Closing()
    async with contextlib.AsyncExitStack() as to_close:
        sockets = listen(host, port, shared=False)
        database = Database(url)
        to_close.callback(database.close)

        def open_line(name: str) -> JobLine:
            return JobLine(
                database,
                name,
                cap=cap,
                lease_seconds=lease_seconds,
                grace_seconds=grace_seconds,
                tries=tries,
                depth=depth,
                keep_seconds=QUEUE_KEEP_SECONDS,
            )

        server = QueueServer(
            open_line,
            clock=SystemClock(),
            holder=_this_process(),
            max_body_bytes=max_body_bytes,
            most_connections=min(connections, _most_visitors()),
            closed=closed,
        )
        server.add_sockets(sockets)
        to_close.push_async_callback(server.close)
        movers = [
            every(ROUND_SECONDS, server.round, "queue server"),
            every(QUEUE_PURGE_SECONDS, server.purge, "queue server's purge"),
        ]
        to_close.push_async_callback(stopped, [asyncio.create_task(mover) for mover in movers])
        address = f"[{host}]" if ":" in host else host
        click.echo(f"Job lines are served at {address}:{sockets[0].getsockname()[1]}. Ctrl-C ends.")
        await closing.wait()


async def work(settings: Settings, grace_seconds: float) -> None:
    closing = Closing(grace_seconds + CLOSING_SECONDS)
    async with contextlib.AsyncExitStack() as to_close:
        rooms = Rooms(settings, to_close, with_worker=True)
        await rooms.start_workers(to_close, grace_seconds)
        click.echo(f"Working for {', '.join(rooms.workers)}. Ctrl-C ends it.")
        await closing.wait()


# A worker for tasks


class TasksOfLine(NamedTuple):
    jobs: Jobs
    line: str
    tasks: Mapping[str, Task[..., Any]]


def _tasks(
    modules: Sequence[str], line: str | None, url: str | None, lease_seconds: float | None
) -> TasksOfLine:
    """What the modules define for one line, of one database."""
    sys.path.insert(0, os.getcwd())
    found = tasks_of([_imported(name) for name in modules])
    named = ", ".join(modules)
    if not found:
        raise CannotStart(f"there are no tasks in {named}")
    lines = sorted({task.line for task in found.values()})
    if line is None and len(lines) > 1:
        raise CannotStart(f"{named}: tasks of the lines {', '.join(lines)}; choose one by --line")
    line = line or lines[0]
    of_line = {name: task for name, task in found.items() if task.line == line}
    if not of_line:
        raise CannotStart(
            f"{named}: no task is of the line {line!r}, but of {', '.join(map(repr, lines))}"
        )
    all_jobs = {id(task.jobs): task.jobs for task in found.values()}.values()
    if url is not None:
        for jobs in all_jobs:
            jobs.url = url
    if len({task.jobs.url for task in of_line.values()}) > 1:
        raise CannotStart(
            f"{named}: the tasks of {line!r} are in different databases; give the modules one"
            " Jobs, or run a worker for each"
        )
    jobs = next(iter(of_line.values())).jobs
    if lease_seconds is not None:
        jobs.rules(line, lease_seconds=lease_seconds)
    return TasksOfLine(jobs, line, of_line)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise CannotStart(f"{name} cannot be imported: {error}") from error
    except Exception as error:
        log.exception("importing %s failed", name)
        raise CannotStart(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


async def work_on_tasks(at_work: TasksOfLine, slots: int, grace_seconds: float) -> None:
    closing = Closing(grace_seconds + CLOSING_SECONDS)
    again = _start_anew_on_hangup(closing)
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as to_close:
        to_close.callback(at_work.jobs.close)
        worker = Worker(
            at_work.jobs.opened(at_work.line),
            Handlers(at_work.tasks, clock),
            holder=_this_process(),
            clock=clock,
            slots=slots,
        )
        await worker.start()
        to_close.push_async_callback(worker.stop, grace_seconds)
        tasks = ", ".join(sorted(at_work.tasks))
        click.echo(f"Working on {tasks} in line {at_work.line}, {slots} at once. Ctrl-C ends it.")
        await closing.wait()
    if again.is_set():
        # The same process, so whoever minds it need not know.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _start_anew_on_hangup(closing: Closing) -> asyncio.Event:
    again = asyncio.Event()

    def asked() -> None:
        again.set()
        if not closing.is_set():
            closing.begin("and starting anew")

    # Where there is a terminal, the signal says that it is gone.
    if not sys.stdin.isatty():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked)
    return again


# Several web processes


class Child:
    """One web process, seen by the one who minds it.

    Each holds one end of a socket. The child says on it when its doors are open; its closing
    tells the child that its minder has died, however that came about.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._end: socket.socket | None = None

    async def start(self) -> None:
        self.let_go()
        self._end, theirs = socket.socketpair()
        self._end.setblocking(False)
        with theirs:
            # In a session of its own: Ctrl-C reaches the minder alone, who passes it on once.
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                "--minded-by",
                str(theirs.fileno()),
                env=self._environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    async def is_open(self) -> bool:
        """Waits until its doors are open; False when it ended instead."""
        assert self._end is not None
        return bool(await asyncio.get_running_loop().sock_recv(self._end, 1))

    async def ended(self) -> int:
        assert self._process is not None
        return await self._process.wait()

    async def keep(self) -> NoReturn:
        """Starts it again whenever it ends."""
        while True:
            code = await self.ended()
            log.error("%s ended with %d; started again in %g s", self.name, code, RESTART_SECONDS)
            await asyncio.sleep(RESTART_SECONDS)
            await self.start()

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()
        self.let_go()

    def let_go(self) -> None:
        if self._end is not None:
            self._end.close()


def _command_of_a_child(
    config: Path | None, options: Mapping[str, Any], no_worker: bool
) -> list[str]:
    command = [sys.executable, str(HERE / "app.py"), "serve"]
    for name, value in {"config": config, **options}.items():
        if value is not None and name != "port":
            command += [f"--{name}", str(value)]
    return command + ["--no-worker"] * no_worker


async def mind(
    settings: Settings, command: Sequence[str], operators: Mapping[str, str], password: str
) -> None:
    """Starts the web processes, starts one again that ended, and ends them all."""
    closing = Closing()
    # Without sharing, so that another program on the port is found out before any child.
    tried = listen(settings.host, settings.port, shared=False)
    port = int(tried[0].getsockname()[1])
    for each in tried:
        each.close()
    # The hash and not the password; and not as an argument, which anybody could read.
    environment = {**os.environ, "NOWSERVING_OPERATORS": json.dumps(dict(operators))}
    # One worker is enough: the cap holds over all of them, and the demo's directory lives in one.
    children = [
        Child(
            [*command, "--port", str(port), *["--no-worker"] * (number > 1)],
            environment,
            f"web process {number}",
        )
        for number in range(1, settings.processes + 1)
    ]
    async with contextlib.AsyncExitStack() as to_close:
        for child in children:
            # One after the other: what keeps the first from opening is said once.
            await child.start()
            to_close.push_async_callback(child.stop)
            if not await child.is_open():
                sys.exit(await child.ended())
            if closing.is_set():
                return
        _welcome(settings, port, password)
        keeping = [asyncio.create_task(child.keep()) for child in children]
        to_close.push_async_callback(stopped, keeping)
        await closing.wait()


if __name__ == "__main__":
    main()
