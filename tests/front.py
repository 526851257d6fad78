"""One waiting room behind Tornado's own server, and the people who come to it.

Everything is real but time and the slow service's slowness: the line stands in the store of
this process, ledger and jobs in a SQLite file, the pages come from the templates.
"""

import json
import secrets
from collections.abc import Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from urllib.parse import urlencode

from argon2 import PasswordHasher
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.httputil import parse_cookie
from tornado.testing import bind_unused_port

from downstream.calls import Calls
from downstream.demo import DemoAdapter
from downstream.sealed import Keyring
from handlers.languages import Languages
from handlers.parts import Desk, Parts
from handlers.routes import application, server_options
from queue_backend.database import Database
from queue_backend.ledger import Ledger
from queue_backend.people.line import WaitingLine
from queue_backend.people.marshal import Marshal
from queue_backend.people.memory import MemoryStore
from queue_backend.people.rules import Rules
from queue_backend.people.ticket import TicketSigner
from queue_backend.work.line import JobLine
from queue_backend.work.worker import Worker
from tests.fakes import Clock

HERE = Path(__file__).resolve().parent.parent
PASSWORD = "open sesame"
# Cheap to check; what it costs in the product is not tested here.
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
TICKET_LIFE_SECONDS = 86_400
KEYS = {1: "k" * 32}

HAN = range(0x4E00, 0xA000)


def is_chinese(text: str) -> bool:
    return any(ord(character) in HAN for character in text)


class Answer:
    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.code
        self.headers = response.headers
        self.text = response.body.decode()

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def leads_to(self) -> str:
        return self.headers.get("Location", "")


class Browser:
    """Keeps cookies; follows no redirect by itself."""

    def __init__(self, room: "Room", lang: str = "en") -> None:
        self.room = room
        self.lang = lang
        self.cookies: dict[str, str] = {}

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, form: Mapping[str, str] | None = None, **fields) -> Answer:
        """A form, as a page would post it."""
        body = urlencode({**(form or {}), **fields})
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.ask("POST", path, body.encode(), kind)

    async def send(self, path: str, said: object = None, **headers: str) -> Answer:
        """JSON, as a program would send it."""
        body = b"" if said is None else json.dumps(said).encode()
        return await self.ask(
            "POST", path, body, {"Content-Type": "application/json"} | _dashed(headers)
        )

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"Accept-Language": self.lang} | _dashed(headers or {})
        if self.cookies:
            sent["Cookie"] = "; ".join(f'{name}="{text}"' for name, text in self.cookies.items())
        response = await AsyncHTTPClient().fetch(
            HTTPRequest(
                self.room.address + path,
                method=method,
                body=body,
                headers=sent,
                follow_redirects=False,
                allow_nonstandard_methods=True,
            ),
            raise_error=False,
        )
        for cookie in response.headers.get_list("Set-Cookie"):
            name, text = next(iter(parse_cookie(cookie.partition(";")[0]).items()))
            if text:
                self.cookies[name] = text
            else:
                self.cookies.pop(name, None)
        return Answer(response)

    # What people do

    async def take(self, name: str = "Karen Nolan", service: str = "look-up-phone") -> Answer:
        said = {"name": name, "service": service, "request_id": secrets.token_hex(8)}
        return await self.send("/api/lines/desk/tickets", said)

    async def poll(self) -> Answer:
        return await self.get("/api/lines/desk/ticket")

    async def do(self, verb: str) -> Answer:
        return await self.send(f"/api/lines/desk/ticket/{verb}")

    async def submit(self, **fields: str) -> Answer:
        return await self.send("/api/lines/desk/ticket/job", {"fields": fields})

    async def ticket(self):
        return (await self.poll()).json["ticket"]

    async def reach_the_desk(self, service: str = "look-up-phone", name: str = "Karen Nolan"):
        """Take a number, be called, say that one is here."""
        await self.take(name, service)
        await self.room.pass_time(2)
        return await self.do("confirm")


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): text for name, text in headers.items()}


class Room:
    def __init__(self, directory: Path, clock: Clock, rules: Rules, **parts) -> None:
        self.clock = clock
        self.database = Database(f"sqlite:///{directory / 'room.db'}", "NORMAL")
        self.ledger = Ledger(self.database)
        self.adapter = DemoAdapter(Random(1), latency_seconds=(0, 0))
        self.store = MemoryStore(clock)
        self.line = WaitingLine(
            "desk",
            rules=rules,
            services=self.adapter.actions,
            store=self.store,
            ledger=self.ledger,
            clock=clock,
            new_id=lambda: secrets.token_hex(16),
            process="test",
        )
        self.marshal = Marshal(self.line, clock)
        self.jobs = JobLine(self.database, "desk", clock=clock, cap=2)
        keyring = Keyring.at(directory / "keyring")
        calls = Calls(self.jobs, self.adapter, keyring, clock)
        self.worker = Worker(self.jobs, calls, holder="test", clock=clock, slots=2)
        self.signer = TicketSigner(KEYS, clock, TICKET_LIFE_SECONDS)
        self.parts = Parts(
            **{
                "clock": clock,
                "lines": {"desk": self.line},
                "jobs": {"desk": self.jobs},
                "adapters": {"desk": self.adapter},
                "desks": {"desk": Desk("desk", "Account desk", "账号自助台", contact_en="5000")},
                "ledger": self.ledger,
                "keyring": keyring,
                "signer": self.signer,
                "languages": Languages(HERE / "translations"),
                "session_keys": {1: "s" * 32},
                "operators": {"anna": HASH},
                "static_path": HERE / "static",
                **parts,
            }
        )
        socket, port = bind_unused_port()
        self.address = f"http://127.0.0.1:{port}"
        self.application = application(self.parts)
        self.server = HTTPServer(self.application, **server_options(self.parts))
        self.server.add_socket(socket)

    async def open(self) -> None:
        await self.line.refresh()
        await self.adapter.open()
        await self.round()

    async def round(self) -> None:
        await self.line.round()
        await self.marshal.tick()
        await self.line.refresh()

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.tick(1)
            await self.round()

    async def work(self) -> None:
        """A worker does the next job."""
        assert await self.worker.turn_once(1)

    def browser(self, lang: str = "en") -> Browser:
        return Browser(self, lang)

    async def operator(self, lang: str = "en") -> Browser:
        browser = Browser(self, lang)
        answer = await browser.post("/admin/sign-in", name="anna", password=PASSWORD)
        assert answer.status == 303, answer.text
        return browser

    async def close(self) -> None:
        self.server.stop()
        await self.server.close_all_connections()
        self.store.close()
        self.database.close()


@asynccontextmanager
async def a_room(directory: Path, clock: Clock, rules: Rules | None = None, **parts):
    room = Room(directory, clock, rules or Rules(), **parts)
    await room.open()
    try:
        yield room
    finally:
        await room.close()
