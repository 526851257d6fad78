"""The real processes that tests, the simulation and the bench start, and end by their own id.

Ports are below 32768: above it the system hands out ports to clients, and a fixed one may be
taken between asking and binding.
"""

import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

ROOT = Path(__file__).resolve().parent.parent
LOWEST_PORT, HIGHEST_PORT = 20_000, 32_000


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    for port in random.Random().sample(range(LOWEST_PORT, HIGHEST_PORT), 200):
        with contextlib.closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port between {LOWEST_PORT} and {HIGHEST_PORT}")


def wait_until(what: str, seconds: float, check: Callable[[], bool]) -> None:
    """Returns when `check()` is true; fails after `seconds`, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


class Process:
    """One child of the tests: started, signalled, ended; its output kept in files."""

    polite_signal = signal.SIGTERM

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was not started"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def output(self) -> str:
        """What it wrote to its standard output so far, over all its starts."""
        return (self.directory / f"{self.name}.out").read_text()

    @property
    def log(self) -> str:
        """What it wrote to its standard error so far, over all its starts."""
        return (self.directory / f"{self.name}.err").read_text()

    def spawn(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        assert not self.running, f"{self.name} is running already"
        self.directory.mkdir(parents=True, exist_ok=True)
        with (
            open(self.directory / f"{self.name}.out", "ab") as out,
            open(self.directory / f"{self.name}.err", "ab") as err,
        ):
            self._child = subprocess.Popen(
                list(command),
                # Another user may not be let into the directory of ours.
                cwd=ROOT if user is None else "/",
                user=user,
                group=user and pwd.getpwnam(user).pw_gid,
                extra_groups=user and [],
                env=dict(environment) if environment is not None else None,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def send(self, number: int) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def hold(self) -> None:
        """Stopped as it stands: connections stay open and nothing answers."""
        self.send(signal.SIGSTOP)

    def go_on(self) -> None:
        self.send(signal.SIGCONT)

    def wait(self, seconds: float = 20) -> int:
        """Its exit code, once it has ended."""
        assert self._child is not None
        return self._child.wait(seconds)

    def stop(self, seconds: float = 20) -> int:
        """Ends it the polite way; kills it when it does not end. The exit code."""
        if self._child is None:
            return 0
        if self.running:
            self.go_on()
            self.send(self.polite_signal)
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {seconds:g} s") from None

    def kill(self) -> None:
        """kill -9: no last words."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class Memcached(Process):
    """A real memcached as this service wants it: it refuses rather than evicts."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        super().__init__(directory, "memcached")
        self.port = port or free_port()
        self.url = f"memcached://127.0.0.1:{self.port}"

    @staticmethod
    def installed() -> bool:
        return shutil.which("memcached") is not None

    def start(self) -> Self:
        command = f"memcached -M -U 0 -R 200 -l 127.0.0.1 -p {self.port}".split()
        if os.geteuid() == 0:
            command += ["-u", "root"]
        self.spawn(command)
        wait_until(f"memcached on port {self.port}", 5, self.answers)
        return self

    def answers(self) -> bool:
        try:
            return self.ask("version").startswith("VERSION")
        except OSError:
            return False

    def flush(self) -> None:
        """Everything is lost, the connections stay."""
        assert self.ask("flush_all") == "OK"

    def ask(self, line: str) -> str:
        """The first line that memcached answers to `line`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(line.encode() + b"\r\n")
            return connection.makefile("rb").readline().decode().strip()

    def __enter__(self) -> Self:
        return self.start()


class Beanstalkd(Process):
    """A real beanstalkd: with a log that is synced at each put, unless told otherwise.

    Started again on the same object it finds what is in its log, at the same address.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        super().__init__(directory, "beanstalkd")
        self.port = free_port()
        self.durable = durable
        self.url = f"beanstalk://127.0.0.1:{self.port}"

    @staticmethod
    def installed() -> bool:
        return shutil.which("beanstalkd") is not None

    def start(self) -> Self:
        command = f"beanstalkd -l 127.0.0.1 -p {self.port}".split()
        if self.durable:
            log = self.directory / "log"
            log.mkdir(parents=True, exist_ok=True)
            command += ["-b", str(log), "-f0"]
        self.spawn(command)
        wait_until(f"beanstalkd on port {self.port}", 5, self.answers)
        return self

    def answers(self) -> bool:
        assert self.running, f"{self.name} ended with {self.wait()}\n{self.log}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> Self:
        return self.start()


class DatabaseServer(Process):
    """A database server with a data directory and a port of its own, on 127.0.0.1 only.

    What it has answered as committed is on the disk, as in a real installation; only memory is
    small, and what nobody asks for is off. Started again on the same object it finds what it
    left behind, at the same address.
    """

    administration: str  # the database that every such server has
    which_connection: str  # what a connection asks to learn its own number
    end_connection: str  # what the administrator says to break the one of that number

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(directory, name)
        self.port = free_port()
        self.data = directory / "data"
        self._databases = 0

    def new_database(self) -> str:
        """The address of a database that is empty."""
        self._databases += 1
        name = f"now_serving_{self._databases}"
        self.ask(f"CREATE DATABASE {name}")
        return self.address(name)

    def drop(self, address: str) -> None:
        """Away with a database that nobody uses any more."""
        self.ask(f"DROP DATABASE {make_url(address).database}")

    @staticmethod
    def program(name: str) -> str | None:
        """Where a server's program is: often off the PATH of those who are not root."""
        return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    def address(self, database: str) -> str:
        raise NotImplementedError

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """What the server answers to whoever administers it."""
        engine = create_engine(
            self.address(self.administration), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            answer = connection.exec_driver_sql(statement)
            return [tuple(row) for row in answer] if answer.returns_rows else []

    def answers(self) -> bool:
        try:
            return self.ask("SELECT 1") == [(1,)]
        except DBAPIError:
            assert self.running, f"{self.name} ended with {self.wait()}\n{self.log}"
            return False

    def start(self) -> Self:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        shutil.rmtree(self.data, ignore_errors=True)


class MariaDB(DatabaseServer):
    """A real mariadbd, from Debian's mariadb-server."""

    administration = "mysql"
    which_connection = "SELECT CONNECTION_ID()"
    end_connection = "KILL {}"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "mariadb")

    @staticmethod
    def installed() -> bool:
        return MariaDB.program("mariadbd") is not None

    def address(self, database: str) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        program = self.program("mariadbd")
        assert program is not None, "MariaDB is not installed"
        options = ["--no-defaults", f"--datadir={self.data}"]
        if os.geteuid() == 0:
            options += ["--user=root"]
        if not self.data.exists():
            self.spawn(
                ["mariadb-install-db", *options, "--skip-test-db"]
                + ["--auth-root-authentication-method=normal"]
            )
            assert self.wait(60) == 0, self.log
        self.spawn(
            [program, *options, f"--port={self.port}", "--bind-address=127.0.0.1"]
            + [f"--socket={self.directory / 's'}", f"--pid-file={self.directory / 'pid'}"]
            + ["--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=64M"]
            + ["--innodb-log-file-size=192M", "--max-allowed-packet=64M", "--skip-name-resolve"]
            + ["--performance-schema=OFF", "--skip-log-bin"]
        )
        wait_until(f"mariadbd on port {self.port}", 30, self.answers)
        return self


class PostgreSQL(DatabaseServer):
    """A real PostgreSQL, from Debian's postgresql. It refuses to be run by root, and so is
    another user's then, whose data lie where that user is let in."""

    administration = "postgres"
    which_connection = "SELECT pg_backend_pid()"
    end_connection = "SELECT pg_terminate_backend({})"
    polite_signal = signal.SIGINT  # to its own SIGTERM it would wait until all clients are gone

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "postgresql")
        self._user: str | None = None
        if os.geteuid() == 0:
            known = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in known else "nobody"
            self.data = Path(tempfile.mkdtemp(prefix="now-serving-postgresql-"))
            shutil.chown(self.data, self._user)

    @staticmethod
    def installed() -> bool:
        return PostgreSQL._programs() is not None

    @staticmethod
    def _programs() -> Path | None:
        # Debian keeps them off the PATH, because several versions may stand side by side.
        found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
        newest = max(found, key=lambda path: float(path.parent.parent.name), default=None)
        on_path = shutil.which("postgres")
        return newest.parent if newest else Path(on_path).parent if on_path else None

    def address(self, database: str) -> str:
        return f"postgresql+psycopg://now_serving@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        programs = self._programs()
        assert programs is not None, "PostgreSQL is not installed"
        if not (self.data / "PG_VERSION").exists():
            self.spawn(
                [str(programs / "initdb"), "-D", str(self.data), "-U", "now_serving"]
                + ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"],
                user=self._user,
            )
            assert self.wait(60) == 0, self.log
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "fsync": "on",
            "synchronous_commit": "on",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.spawn([str(programs / "postgres"), "-D", str(self.data), *options], user=self._user)
        wait_until(f"postgres on port {self.port}", 30, self.answers)
        return self

    def kill(self) -> None:
        """As a crash: nothing is finished or flushed. Its children go too, as they would not
        at once with kill -9."""
        if self.running:
            self.send(signal.SIGQUIT)
            self.wait()


class Serving(Process):
    """A real `app.py serve` with a data directory and a port of its own.

    Started again on the same object it finds what it left behind, at the same address.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        settings: str = "",
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__(directory, "serve")
        self.options = options
        self.settings = settings
        self.environment = dict(environment or {})
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._starts = 0

    @property
    def operator(self) -> str:
        return "operator"

    @property
    def password(self) -> str:
        """The one-time password of the newest start, read off the terminal as a person would."""
        found: list[str] = re.findall(r"password:? +(\S+)", self.output)
        assert found, f"no password was printed:\n{self.output}"
        return found[-1]

    def start(self, ready_seconds: float = 20) -> Self:
        self.launch()
        try:
            wait_until(f"{self.url}/readyz", ready_seconds, self._ready_or_dead)
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.log}") from None
        assert self.running, f"serve ended with {self.wait()}\n{self.log}"
        return self

    def launch(self) -> None:
        """Starts it without waiting; for starts that are meant to fail."""
        self._starts += 1
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "now-serving.toml"
        config.write_text(self.settings)
        self.spawn(
            [sys.executable, str(ROOT / "app.py"), "serve"]
            + ["--config", str(config), "--port", str(self.port), *self.options],
            self.variables(),
        )

    def variables(self) -> dict[str, str]:
        # The variables of whoever runs the tests must not reach the server under test.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NOWSERVING_")
        }
        environment["NOWSERVING_DATA_DIRECTORY"] = str(self.directory / "data")
        return environment | self.environment

    def worker(self, name: str = "worker") -> "Process":
        """An `app.py worker` apart, with the settings and the data of this server."""
        process = Process(self.directory, name)
        config = self.directory / "now-serving.toml"
        process.spawn(
            [sys.executable, str(ROOT / "app.py"), "worker", "--config", str(config)],
            self.variables(),
        )
        return process

    def _ready_or_dead(self) -> bool:
        # Of several processes the first is ready before the last is there.
        told = self.output.count("Ctrl-C closes it") == self._starts
        return not self.running or (told and self.ready())

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def __enter__(self) -> Self:
        return self.start()


@contextlib.contextmanager
def ended_together(processes: Sequence[Process]) -> Iterator[None]:
    """Whatever happens inside, none of the processes is left behind."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
