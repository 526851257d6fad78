"""The front door: what each command does, says and leaves behind."""

import asyncio
import http.client
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

import argon2
import pytest
from click.testing import CliRunner
from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application, RequestHandler

import app
from queue_backend.errors import Unavailable
from tests.processes import Serving, free_port, wait_until

SLOW_DOWNSTREAM = "[lines.desk.demo]\nshortest_seconds = 0.1\nlongest_seconds = 0.2\n"


def api(
    server: Serving, path: str, body: object = None, token: str = "", cookie: str = ""
) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Ticket {token}"
    if cookie:
        headers["Cookie"] = cookie
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + "/api" + path, data, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def take(server: Serving, request_id: str = "request-1") -> dict[str, Any]:
    asked = {"name": "张伟", "service": "look-up-phone", "request_id": request_id}
    return api(server, "/lines/desk/tickets", asked)


def sign_in(server: Serving, password: str) -> tuple[int, str]:
    """The status, and the session's cookie."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    form = urlencode({"name": server.operator, "password": password})
    connection.request(
        "POST",
        "/admin/sign-in",
        form,
        {"Content-Type": "application/x-www-form-urlencoded"},
    )
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, (answer.getheader("Set-Cookie") or "").partition(";")[0]


def refused(server: Serving, within_seconds: float = 20) -> str:
    """What a start that must fail says; it ends with 2 and without a traceback."""
    server.launch()
    assert server.wait(within_seconds) == 2
    assert "Traceback" not in server.log
    assert server.log.startswith("Now Serving cannot start: ")
    return server.log


# What the commands say


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["worker"], ["queue-server"], ["hash-password"]]
)
def test_every_command_explains_itself_in_sentences(command):
    said = CliRunner().invoke(app.main, [*command, "--help"])
    assert said.exit_code == 0
    assert ". " in said.output or ".\n" in said.output
    assert "--minded-by" not in said.output


def test_a_password_is_asked_for_and_printed_as_its_hash():
    said = CliRunner().invoke(app.main, ["hash-password"], input="correct horse\n" * 2)
    assert said.exit_code == 0
    assert "correct horse" not in said.output
    argon2.PasswordHasher().verify(said.stdout.strip().splitlines()[-1], "correct horse")


def test_a_password_is_never_an_argument():
    assert CliRunner().invoke(app.main, ["hash-password", "correct horse"]).exit_code == 2


def test_a_short_password_is_refused():
    said = CliRunner().invoke(app.main, ["hash-password"], input="short\nshort\n")
    assert said.exit_code == 2
    assert "8 characters" in said.output


# Opening


def test_the_address_and_the_way_to_become_operator_are_printed(serve):
    server = serve()
    assert f"Now Serving is open at {server.url}/" in server.output
    assert sign_in(server, server.password)[0] == 303
    assert sign_in(server, "another")[0] == 401


def test_the_one_time_password_is_never_logged(serve):
    server = serve(environment={"NOWSERVING_LOG_LEVEL": "debug"})
    sign_in(server, server.password)
    assert server.output.count(server.password) == 1
    assert server.password not in server.log


def test_the_one_time_password_ends_with_its_run(serve):
    server = serve()
    password = server.password
    _, cookie = sign_in(server, password)
    assert api(server, "/admin/lines/desk", cookie=cookie)["rows"] == []
    server.stop()
    server.start()
    assert server.password != password
    assert sign_in(server, password)[0] == 401
    with pytest.raises(urllib.error.HTTPError, match="401"):
        api(server, "/admin/lines/desk", cookie=cookie)


def test_named_operators_need_no_one_time_password(serve):
    hashed = argon2.PasswordHasher().hash("correct horse")
    server = serve(settings=f"[operators]\noperator = '{hashed}'\n")
    assert "password" not in server.output
    assert sign_in(server, "correct horse")[0] == 303


def test_it_serves_without_uvloop(serve, tmp_path):
    server = serve(start=False)
    server.directory.mkdir(parents=True)
    without = "import sys; sys.modules['uvloop'] = None; import app; app.main()"
    server.spawn(
        [sys.executable, "-c", without, "serve", "--port", str(server.port)], server.variables()
    )
    wait_until("it to be ready", 20, server.ready)
    assert server.stop() == 0


# What keeps it from opening


def test_a_taken_port_is_said_in_a_sentence(serve):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = serve("--port", str(other.getsockname()[1]), start=False)
        assert "is taken by another program; choose another with --port" in refused(server)


def test_a_taken_port_is_said_once_for_several_processes(serve, memcached):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        server = serve("--port", port, "--processes=2", "--store", memcached.url, start=False)
        assert refused(server).count("is taken by another program") == 1


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_store_that_does_not_answer_is_said_in_a_sentence(serve, processes):
    store = f"memcached://127.0.0.1:{free_port()}"
    said = refused(serve("--store", store, "--processes", processes, start=False))
    assert said.count(f"the store {store} does not answer") == 1


@pytest.mark.parametrize(
    ("options", "environment", "settings", "sentence"),
    [
        ([], {"NOWSERVING_PROT": "1"}, "", "NOWSERVING_PROT is not a setting; did you mean"),
        ([], {}, "[lines.desk]\nplacs = 1", "lines.desk.placs is not a setting"),
        (["--processes", "2"], {}, "", "2 processes cannot share a line kept in the memory"),
        (["--store", "redis://x"], {}, "", "a store is `memory:` or `memcached://host:port`"),
        (["--jobs", "mysql://x"], {}, "", "sqlite:///FILE"),
        (["--host", "203.0.113.7"], {}, "", "cannot listen on 203.0.113.7"),
        ([], {"NOWSERVING_DATA_DIRECTORY": "/dev/null/data"}, "", "/dev/null/data cannot be made"),
    ],
)
def test_what_keeps_it_from_opening_is_one_sentence(
    serve, options, environment, settings, sentence
):
    server = serve(*options, environment=environment, settings=settings, start=False)
    assert sentence in refused(server)


def test_two_lines_in_memory_never_share_their_data(serve):
    """Each would give the same numbers to other people."""
    first = serve()
    second = serve(
        environment={"NOWSERVING_DATA_DIRECTORY": str(first.directory / "data")}, start=False
    )
    assert "another Now Serving keeps its line in memory" in refused(second)


# Secrets


def test_secrets_are_made_at_the_first_start_for_their_owner_alone(serve):
    server = serve()
    data = server.directory / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for name in ("secret", "keyring", "now-serving.db"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600, name
    before = (data / "secret").read_text()
    server.stop()
    server.start()
    assert (data / "secret").read_text() == before


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "secret"
    app.read_keys(path)
    path.chmod(0o640)
    with pytest.raises(app.CannotStart, match="can be read by others"):
        app.read_keys(path)


@pytest.mark.parametrize("text", ["", "1 short", "x" * 64, "one " + "x" * 64, "1 " + "x" * 31])
def test_a_secret_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(app.CannotStart):
        app.read_keys(path)


def test_secrets_rotate_by_number(tmp_path):
    path = tmp_path / "secret"
    first = app.read_keys(path)
    assert list(first) == [1]
    path.write_text(f"# rotated\n1 {first[1]}\n2 {'n' * 64}\n")
    assert app.read_keys(path) == {1: first[1], 2: "n" * 64}


# Closing


def test_it_closes_cleanly_and_frees_its_port(serve):
    server = serve()
    assert server.stop() == 0
    assert "Traceback" not in server.log
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))


def test_who_was_asking_when_it_closes_is_answered(serve):
    server = serve()
    body = json.dumps({"name": "A", "service": "look-up-phone", "request_id": "request-1"}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as late:
        late.sendall(
            b"POST /api/lines/desk/tickets HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        time.sleep(0.3)
        server.send(signal.SIGTERM)
        time.sleep(0.3)
        late.sendall(body)
        assert late.recv(65_536).startswith(b"HTTP/1.1 201")
    assert server.wait() == 0


def test_a_second_signal_ends_it_at_once(serve):
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as idle:
        idle.sendall(
            b"POST /api/lines/desk/tickets HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        )
        time.sleep(0.3)
        server.send(signal.SIGTERM)
        time.sleep(0.3)
        assert server.running
        began = time.monotonic()
        server.send(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("polite", [True, False])
def test_a_restart_keeps_the_line(serve, polite):
    server = serve(settings="[lines.desk]\nplaces = 1\ncall_ahead = 0\n")
    first, second, third = (take(server, f"request-{n}") for n in (1, 2, 3))
    server.stop() if polite else server.kill()
    server.start()
    for ticket in (third, second, first):
        found = api(server, "/lines/desk/ticket", token=ticket["token"])["ticket"]
        assert found["number"] == ticket["ticket"]["number"]
        assert found["state"] in ("waiting", "called")
    assert take(server, "request-4")["ticket"]["number"] == 4


# Several processes


def children_of(server: Serving) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in listed.stdout.split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def several(serve, memcached, **options) -> Serving:
    memcached.flush()
    server: Serving = serve("--processes", "2", "--store", memcached.url, **options)
    return server


def test_two_processes_are_one_line(serve, memcached):
    server = several(serve, memcached)
    assert len(children_of(server)) == 2
    # Each connection may land in either process; numbers go on without a gap or a repeat.
    numbers = [take(server, f"request-{n}")["ticket"]["number"] for n in range(1, 21)]
    assert numbers == list(range(1, 21))
    assert server.output.count("password") == 1
    assert sign_in(server, server.password)[0] == 303
    children = children_of(server)
    assert server.stop() == 0
    assert not any(map(alive, children))


def test_no_secret_is_an_argument_of_a_child(serve, memcached):
    server = several(serve, memcached)
    for pid in children_of(server):
        with open(f"/proc/{pid}/cmdline") as told:
            assert "argon2" not in (line := told.read())
            assert server.password not in line


def test_a_process_that_died_is_started_again(serve, memcached):
    server = several(serve, memcached)
    first, second = children_of(server)
    os.kill(first, signal.SIGKILL)
    wait_until("another child", 10, lambda: len({*children_of(server)} - {first}) == 2)
    assert second in children_of(server)
    assert "started again in 1 s" in server.log


def test_processes_end_with_the_one_who_minds_them(serve, memcached):
    server = several(serve, memcached)
    children = children_of(server)
    server.kill()
    wait_until("the children to end", 10, lambda: not any(map(alive, children)))


def test_a_process_whose_minder_died_while_it_opened_ends_too(serve, memcached):
    server = several(serve, memcached)
    first, _ = children_of(server)
    os.kill(first, signal.SIGKILL)
    wait_until("another child", 10, lambda: len({*children_of(server)} - {first}) == 2)
    children = children_of(server)
    server.kill()
    wait_until("the children to end", 15, lambda: not any(map(alive, children)))


def test_a_worker_apart_does_the_jobs(serve):
    server = serve("--no-worker", settings=SLOW_DOWNSTREAM)
    token = take(server)["token"]

    def poll() -> dict[str, Any]:
        return api(server, "/lines/desk/ticket", token=token)

    wait_until("the call", 5, lambda: poll()["ticket"]["state"] == "called")
    api(server, "/lines/desk/ticket/confirm", {}, token)
    form = {"action": "look-up-phone", "fields": {"account": "zhangwei"}}
    assert api(server, "/lines/desk/ticket/job", form, token)["job"]["step"] == "waiting"
    time.sleep(1)
    assert poll()["job"]["step"] == "waiting"
    worker = server.worker()
    try:
        wait_until("the result", 20, lambda: poll()["job"]["step"] == "finished")
        assert poll()["job"]["result"] == "done"
        assert worker.stop() == 0
    finally:
        worker.kill()


# The movers, the log, the doors


async def test_a_round_that_fails_is_told_once_and_the_next_comes(caplog):
    caplog.set_level(logging.INFO)
    rounds = iter(["well", "no answer", "no answer", "no answer", "well", "well"])
    over = asyncio.Event()

    async def act() -> None:
        match next(rounds, "over"):
            case "over":
                over.set()
            case "no answer":
                raise Unavailable(sentence="no answer")

    mover = asyncio.create_task(app.every(0.001, act, "line desk"))
    await asyncio.wait_for(over.wait(), 5)
    mover.cancel()
    told = [record.getMessage() for record in caplog.records if record.name == "nowserving"]
    assert told == [
        "line desk: no answer; tried again each 0.001 s",
        "line desk: works again",
    ]


async def test_a_mover_that_lost_its_cancellation_is_stopped_all_the_same():
    """It went on for ever, and its process with it: one round in some thousand swallows it."""
    swallowed = asyncio.Event()

    async def act() -> None:
        if not swallowed.is_set():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.set()

    mover = asyncio.create_task(app.every(0.001, act, "line desk"))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(app.stopped([mover]), 5)
    assert swallowed.is_set()


def test_nobody_begins_a_line_of_their_own_in_the_log():
    record = logging.makeLogRecord({"msg": "%s waits", "args": ("A\nERROR all is lost\x1b[2J",)})
    said = app.OneLine("%(message)s").format(record)
    assert said == r"A\nERROR all is lost\x1b[2J waits"


class Who(RequestHandler):
    def get(self) -> None:
        self.write(self.request.remote_ip or "")


@pytest.fixture
async def doors():
    opened: list[app.Doors] = []

    def open_doors(**options: Any) -> str:
        port = free_port()
        each = app.Doors(Application([("/", Who)]), **{"most_connections": 100, **options})
        each.add_sockets(app.listen("127.0.0.1", port, shared=False))
        opened.append(each)
        return f"http://127.0.0.1:{port}/"

    yield open_doors
    for each in opened:
        await each.close(1)


async def answered_as(address: str, **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await AsyncHTTPClient(force_instance=True).fetch(address, headers=named)
    return answer.body.decode()


async def test_nobody_can_say_to_be_somebody_else(doors):
    address = doors(xheaders=True, trusted_downstream=["192.0.2.1"])
    assert await answered_as(address, X_Forwarded_For="198.51.100.1") == "127.0.0.1"


async def test_a_proxy_of_ours_says_who_asks(doors):
    address = doors(xheaders=True, trusted_downstream=["127.0.0.1"])
    assert await answered_as(address, X_Forwarded_For="198.51.100.1") == "198.51.100.1"
    # What the client added itself stands further left.
    said = await answered_as(address, X_Forwarded_For="10.0.0.1, 198.51.100.1, 127.0.0.1")
    assert said == "198.51.100.1"
    assert await answered_as(address, X_Real_Ip="10.0.0.1") == "127.0.0.1"


async def test_connections_over_the_limit_are_closed_and_the_others_served(doors):
    address = doors(most_connections=2)
    port = int(address.split(":")[2].strip("/"))
    kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    await asyncio.sleep(0.1)
    over_reader, over_writer = await asyncio.open_connection("127.0.0.1", port)
    assert await asyncio.wait_for(over_reader.read(), 2) == b""
    over_writer.close()
    reader, writer = kept[0]
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"HTTP/1.1 200")
    for _, each in kept:
        each.close()
    await asyncio.sleep(0.1)
    assert await answered_as(address) == "127.0.0.1"
