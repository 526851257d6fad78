"""Things and people of the waiting line's tests: a room, its processes, visitors, an operator.

Time passes by `room.pass_time(seconds, alive=[...])`, second by second: the living ask where
they stand, every process makes its round, every marshal its tick.
"""

import asyncio
import uuid
from collections import Counter

from sqlalchemy import select, update

from queue_backend.database import Database
from queue_backend.errors import Unavailable
from queue_backend.ledger import Ledger, lines, tombstones
from queue_backend.people.line import WaitingLine
from queue_backend.people.marshal import Marshal
from queue_backend.people.memory import MemoryStore
from queue_backend.people.rules import Rules
from queue_backend.people.standing import Operator, Standing
from queue_backend.people.ticket import State

SERVICES = ("look-up-phone", "change-password")
INES = Operator("ines", "10.0.0.7")


class TroubledStore:
    """A store that passes everything on, counts it, and is out of order when the test says so."""

    def __init__(self, store):
        self.inner = store
        self.out_of_order = False
        self.calls: Counter[str] = Counter()
        self.keys_asked = 0  # by `remaining`
        self.fail_after = {}  # call -> times that it is carried out and its answer then lost

    def __getattr__(self, name):
        act = getattr(self.inner, name)
        if not asyncio.iscoroutinefunction(act):
            return act

        async def asked(*args, **kwargs):
            self.calls[name] += 1
            if name == "remaining":
                self.keys_asked += len(args[0])
            if self.out_of_order:
                raise Unavailable("store-unavailable", "out of order")
            answer = await act(*args, **kwargs)
            if self.fail_after.get(name, 0) > 0:
                self.fail_after[name] -= 1
                raise Unavailable("store-unavailable", "the answer was lost")
            return answer

        return asked

    @property
    def writes(self):
        return sum(self.calls[name] for name in ("cas", "add", "add_many", "set_many"))

    def lose_everything(self):
        """As a flush: everything is gone, the connection stays."""
        self.inner._entries.clear()

    def lose(self, ending):
        """As an eviction: the one key with this ending is gone."""
        (key,) = [key for key in self.inner._entries if key.endswith(ending)]
        del self.inner._entries[key]

    def lose_entries(self):
        """Every ticket's own entry, and not the roster."""
        for key in [key for key in self.inner._entries if ":t:" in key]:
            del self.inner._entries[key]


class TroubledLedger:
    """A ledger that may be out of order or slow; `order` is what it was asked to write."""

    def __init__(self, ledger):
        self.inner = ledger
        self.out_of_order = False
        self.order = []
        self.asked_to_record = asyncio.Event()
        self.go_on = asyncio.Event()  # cleared: a record waits before it is written
        self.go_on.set()
        self.recalled = asyncio.Event()
        self.tell = asyncio.Event()  # cleared: what was recalled waits before it is told
        self.tell.set()

    witness = Ledger.witness  # by our own `intend` and `conclude`

    def __getattr__(self, name):
        act = getattr(self.inner, name)

        async def asked(*args, **kwargs):
            if self.out_of_order:
                raise Unavailable("database-unavailable", "out of order")
            if name in ("record", "intend", "conclude", "keep_switches"):
                self.order.append(name)
            if name == "record":
                self.asked_to_record.set()
                await self.go_on.wait()
            answer = await act(*args, **kwargs)
            if name == "recall":
                self.recalled.set()
                await self.tell.wait()
            return answer

        return asked


class Process:
    """A web process: its line and its marshal."""

    def __init__(self, room, name, ledger=None, store=None):
        self.room = room
        self.name = name
        self.alive = True
        self.ledger = ledger or room.ledger
        self.line = WaitingLine(
            "desk",
            rules=room.rules,
            services=SERVICES,
            store=store or room.store,
            ledger=self.ledger,
            clock=room.clock,
            new_id=lambda: uuid.uuid4().hex,
            process=name,
        )
        self.marshal = Marshal(self.line, room.clock)

    async def go_round(self):
        await self.line.round()
        await self.marshal.tick()


class Visitor:
    """Somebody with a ticket, at the process that answered last."""

    def __init__(self, room, ticket, process):
        self.room = room
        self.ticket = ticket
        self.process = process
        self.last: Standing | None = None

    def __repr__(self):
        return f"{self.ticket.name} ({self.number})"

    @property
    def number(self):
        return self.ticket.number

    @property
    def state(self):
        assert self.last is not None, f"{self!r} never asked"
        return self.last.state

    def told(self, standing):
        assert standing.ticket.number == self.number, "renumbered"
        self.last, self.ticket = standing, standing.ticket
        return standing

    async def poll(self, process=None):
        return self.told(await (process or self.process).line.stand(self.ticket))

    async def act(self, verb, process=None):
        """`confirm`, `extend`, `leave`, `undo`, `come_back`, `give_way`, `acknowledge`,
        `turn`, `finish`, `retry`."""
        return self.told(await getattr((process or self.process).line, verb)(self.ticket))


class Room:
    """One line with everything under it. `process` is its first process."""

    def __init__(self, directory, clock, rules=None, store=None):
        self.clock = clock
        self.rules = rules or Rules()
        self.store = store or TroubledStore(MemoryStore(clock))
        self.database = Database(f"sqlite:///{directory / 'room.db'}", synchronous="NORMAL")
        self.book = Ledger(self.database)
        self.ledger = TroubledLedger(self.book)
        self.processes = []
        self.process = self.start()

    @property
    def line(self):
        return self.process.line

    @property
    def marshal(self):
        return self.process.marshal

    @property
    def roster(self):
        return self.line._known()

    def start(self, name="", **parts):
        """One more process."""
        process = Process(self, name or f"process-{len(self.processes) + 1}", **parts)
        self.processes.append(process)
        return process

    def close(self):
        self.database.close()

    def kill(self, process):
        """Without a word: what it held is left to run out by itself."""
        process.alive = False

    async def take(self, name="Ada", request_id=None, process=None):
        process = process or self.process
        ticket = await process.line.take(name, SERVICES[0], request_id or uuid.uuid4().hex)
        return Visitor(self, ticket, process)

    async def fill(self, people, process=None):
        """That many join, all at once, and are told where they stand."""
        names = [f"Visitor {n}" for n in range(people)]
        visitors = list(await asyncio.gather(*(self.take(name, None, process) for name in names)))
        for visitor in visitors:
            await visitor.poll()
        return visitors

    async def pass_time(self, seconds, alive=()):
        for _ in range(round(seconds)):
            self.clock.tick(1)
            for visitor in alive:
                if not visitor.process.alive:
                    visitor.process = next(each for each in self.processes if each.alive)
                await visitor.poll()
            for process in self.processes:
                if process.alive:
                    await process.go_round()

    async def lose_checkpoint(self):
        """As a data directory restored without it: the marks stay."""
        await self.database.write(
            lambda connection: connection.execute(update(lines).values(body=None)).close()
        )

    async def lose_all_but_the_marks(self):
        """Store, processes and checkpoint; only what the browsers hold is left. A new process."""
        for process in self.processes:
            process.alive = False
        self.store.lose_everything()
        await self.lose_checkpoint()
        self.process = self.start()
        return self.process

    async def tombs(self):
        rows = await self.database.read(
            lambda connection: connection.execute(
                select(tombstones.c.number, tombstones.c.state)
            ).all()
        )
        return {number: State(state) for number, state in rows}
