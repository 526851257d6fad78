"""A real `app.py serve` on a real memcached, with as many people waiting as asked for.

They take their numbers through the line's own verbs, from this process: so the roster, the
entries and the ledger are what they would be on a Monday, and no internal is reached into.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app import read_keys
from queue_backend.clock import SystemClock
from queue_backend.database import Database
from queue_backend.ledger import Ledger
from queue_backend.people.line import WaitingLine
from queue_backend.people.memcached import MemcachedStore
from queue_backend.people.roster import Words
from queue_backend.people.rules import Rules
from queue_backend.people.standing import Operator
from queue_backend.people.ticket import Ticket, TicketSigner
from tests.processes import Memcached, Serving

TOKENS = 4000


class Room:
    def __init__(self, serving: Serving, memcached: Memcached, tickets: Path) -> None:
        self.serving = serving
        self.memcached = memcached
        self.tickets = tickets  # a file, a signed ticket a line


@contextmanager
def room(directory: Path, waiting: int) -> Iterator[Room]:
    settings = "[lines.desk]\nmax_waiting = 250000\n"
    with Memcached(directory) as memcached:
        serving = Serving(directory, "--store", memcached.url, "--no-worker", settings=settings)
        with serving:
            data = directory / "data"
            tokens = asyncio.run(_fill(data, memcached, waiting))
            tickets = directory / "tickets"
            tickets.write_text("\n".join(tokens) + "\n")
            yield Room(serving, memcached, tickets)
            serving.stop()


async def _fill(data: Path, memcached: Memcached, waiting: int) -> list[str]:
    clock = SystemClock()
    database = Database(f"sqlite:///{data / 'now-serving.db'}")
    store = MemcachedStore("127.0.0.1", memcached.port, clock)
    line = WaitingLine(
        "desk",
        rules=Rules(max_waiting=250_000),
        services=["look-up-phone"],
        store=store,
        ledger=Ledger(database),
        clock=clock,
        new_id=lambda: secrets.token_hex(16),
        process="bench",
    )
    await line.refresh()
    # Nobody is called while it is measured, so everybody who polls waits.
    await line.pause(Operator("bench"), Words(en="measuring"))
    taken: list[Ticket] = []
    while len(taken) < waiting:
        count = min(500, waiting - len(taken))
        taken += await asyncio.gather(
            *(
                line.take("Karen Nolan", "look-up-phone", secrets.token_hex(16))
                for _ in range(count)
            )
        )
    signer = TicketSigner(read_keys(data / "secret"), clock, 86_400)
    step = max(1, len(taken) // TOKENS)
    tokens = [signer.sign(ticket) for ticket in taken[::step]]
    store.close()
    database.close()
    return tokens
