"""The things and people that every test may ask for."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes import Clock
from tests.processes import MariaDB, Memcached, PostgreSQL, Serving, ended_together


def must_be_installed(is_installed: bool, packages: str) -> None:
    """Skipping is a choice one makes aloud, and CI never makes it."""
    if is_installed:
        return
    reason = f"not installed: make test does it, or apt-get install {packages}"
    if os.environ.get("NOWSERVING_TEST_SKIP") and os.environ.get("CI") != "true":
        pytest.skip(reason)
    pytest.fail(reason)


@pytest.fixture
def clock() -> Clock:
    """Time that passes only by `clock.tick(seconds)`."""
    return Clock()


@pytest.fixture(scope="session")
def memcached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memcached]:
    """One real memcached for all tests; a test that needs it empty flushes it first."""
    must_be_installed(Memcached.installed(), "memcached")
    with Memcached(tmp_path_factory.mktemp("memcached")) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """One real MariaDB for all tests; each asks it for a `new_database()`."""
    must_be_installed(MariaDB.installed(), "mariadb-server-core mariadb-client-core")
    with MariaDB(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """One real PostgreSQL for all tests; each asks it for a `new_database()`."""
    must_be_installed(PostgreSQL.installed(), "postgresql")
    with PostgreSQL(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Starts a real `app.py serve` and waits until it is ready: `serve("--processes", "2")`.

    Each call is another server; `settings=` is its TOML file, `environment=` its variables,
    `start=False` leaves the start to the test.
    """
    servers: list[Serving] = []

    def start_one(
        *options: str,
        settings: str = "",
        environment: dict[str, str] | None = None,
        start: bool = True,
    ) -> Serving:
        directory = tmp_path / f"serve-{len(servers) + 1}"
        server = Serving(directory, *options, settings=settings, environment=environment)
        servers.append(server)
        return server.start() if start else server

    with ended_together(servers):
        yield start_one
