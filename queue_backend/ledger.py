"""The ledger: what of the people's lines must outlive every store and every process.

Five things, and nothing else: the high-water mark of each line (no number at or below it is
ever given again), the newest checkpoint of its roster, the tombstones of tickets that ended
(so that a browser which still holds one cannot bring it back), how operators left the line's
switches (so that a line made anew without a checkpoint stays closed), and the audit of what
operators did. The audit is written before the act, and its rows are only ever added.

Kept out: what a checkpoint, a tombstone's reason or a switch contains (`people/line.py`), and when
something is recorded (`people/line.py` too: before a number is shown).
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from queue_backend.database import Database, metadata
from queue_backend.durable import PDict
from queue_backend.engine import insert_unless_there
from queue_backend.errors import NowServingError, NumbersGiven

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """How a ticket ended. `at` is wall time; `reason` is JSON text, opaque here."""

    number: int
    state: str
    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """What the ledger knows of a line; zeros and None for a line it never saw.

    `version` is that of the checkpoint. Numbers up to `void_below` are void: the line was
    closed over them. `switches` are as an operator left them at `switches_version`; empty
    where none ever did.
    """

    high_water: int
    void_below: int
    version: int
    checkpoint: bytes | None
    switches: Mapping[str, Any] = field(default_factory=dict)
    switches_version: int = 0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What an operator is about to do; `at` is wall time, `before` and `after` are states.
    `number` is that of a ticket, or the id of a job."""

    line: str
    at: float
    who: str
    action: str
    number: int | None
    before: str
    after: str
    reason: str
    address: str


@dataclass(frozen=True, slots=True)
class AuditRow(AuditEntry):
    """An entry as it stands in the audit. `outcome` is None while the act is under way,
    and stays so when the process died over it."""

    id: int
    outcome: str | None


# One row, because each change of a line raises the marks and replaces the checkpoint.
lines = Table(
    "people_line",
    metadata,
    Column("line", String(64), primary_key=True),
    Column("high_water", BigInteger, nullable=False),
    Column("void_below", BigInteger, nullable=False),
    # Whose roster gave the newest numbers, and above which number that roster began.
    Column("generation", String(32), nullable=False),
    Column("base", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("body", LargeBinary(16_000_000)),
)

tombstones = Table(
    "tombstone",
    metadata,
    Column("line", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("at", Float(53), nullable=False, index=True),
    Column("reason", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("line", String(64), nullable=False, index=True),
    Column("at", Float(53), nullable=False),
    Column("who", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("number", BigInteger),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("address", String(64), nullable=False),
    sqlite_autoincrement=True,
)

# A row of its own, so that no row of the audit is ever changed.
audit_outcomes = Table(
    "audit_outcome",
    metadata,
    Column("audit_id", ForeignKey(audit.c.id), primary_key=True, autoincrement=False),
    Column("outcome", String(64), nullable=False),
)

_UNTOUCHED: dict[str, Any] = {"switches": {}, "switches_version": 0}

# Made once: building a statement costs as much as running it.
_look_at = select(lines).where(lines.c.line == bindparam("of_line")).with_for_update()

_write = (
    update(lines)
    .where(lines.c.line == bindparam("of_line"))
    .values(
        high_water=bindparam("to_high_water"),
        void_below=bindparam("to_void_below"),
        generation=bindparam("to_generation"),
        base=bindparam("to_base"),
        version=bindparam("to_version"),
        body=bindparam("to_body"),
    )
)

# Nearly every change is simply the next one: then nothing has to be looked at before.
_write_next = (
    update(lines)
    .where(lines.c.line == bindparam("of_line"))
    .where(lines.c.generation == bindparam("of_generation"))
    .where(lines.c.base < bindparam("of_first"))
    .where(lines.c.high_water <= bindparam("to_high_water"))
    .where(lines.c.void_below <= bindparam("to_void_below"))
    .where(lines.c.version <= bindparam("to_version"))
    .values(
        high_water=bindparam("to_high_water"),
        void_below=bindparam("to_void_below"),
        version=bindparam("to_version"),
        body=bindparam("to_body"),
    )
)

_drop_tombstone = (
    delete(tombstones)
    .where(tombstones.c.line == bindparam("of_line"))
    .where(tombstones.c.number == bindparam("of_number"))
)


@dataclass(frozen=True, slots=True)
class _LineChange:
    """One change of a line on its way into the line's row."""

    line: str
    generation: str
    first: int | None
    high_water: int
    void_below: int
    version: int
    checkpoint: bytes

    def write(self, connection: Connection) -> None:
        next_one = {
            "of_line": self.line,
            "of_generation": self.generation,
            "of_first": self.high_water + 1 if self.first is None else self.first,
            "to_high_water": self.high_water,
            "to_void_below": self.void_below,
            "to_version": self.version,
            "to_body": self.checkpoint,
        }
        if connection.execute(_write_next, next_one).rowcount:
            return
        row = connection.execute(_look_at, {"of_line": self.line}).one_or_none()
        if row is None:
            born = {
                "line": self.line,
                "high_water": self.high_water,
                "void_below": self.void_below,
                "generation": self.generation,
                "base": 0,
                "version": self.version,
                "body": self.checkpoint,
            }
            # Of two hosts that begin a line at once, the second finds here the row of the first.
            insert_unless_there(connection, lines, born)
            row = connection.execute(_look_at, {"of_line": self.line}).one()
        gave, base = row.generation, row.base
        if self.first is not None:
            if gave != self.generation:
                gave, base = self.generation, row.high_water
            if self.first <= base:
                raise NumbersGiven(row.high_water)
        newer = self.version >= row.version
        connection.execute(
            _write,
            {
                "of_line": self.line,
                "to_high_water": max(row.high_water, self.high_water),
                "to_void_below": max(row.void_below, self.void_below),
                "to_generation": gave,
                "to_base": base,
                "to_version": self.version if newer else row.version,
                "to_body": self.checkpoint if newer else row.body,
            },
        )


class Ledger:
    """The durable book of all people's lines in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._switches = PDict(database, "people-switches")

    async def record(
        self,
        line: str,
        *,
        generation: str,
        first: int | None,
        high_water: int,
        version: int,
        checkpoint: bytes,
        void_below: int,
        ended: Sequence[Tombstone],
        revived: Sequence[int],
    ) -> None:
        """Write down one change of a line, as one transaction.

        `first` to `high_water` are the numbers that the change gives (None: it gives none), by
        the roster of `generation`. Within one generation the store's `cas` keeps numbers apart;
        between two, this transaction does: whoever is late with a number raises NumbersGiven,
        and nothing is written.

        Safe to repeat and safe to arrive late: marks only rise, and a checkpoint never replaces
        one of a higher version. A number in both `revived` and `ended` stays ended.
        """
        dropped = [*revived, *(tombstone.number for tombstone in ended)]

        def act(connection: Connection) -> None:
            change = _LineChange(
                line, generation, first, high_water, void_below, version, checkpoint
            )
            change.write(connection)
            if dropped:
                connection.execute(
                    _drop_tombstone, [{"of_line": line, "of_number": number} for number in dropped]
                )
            if ended:
                connection.execute(
                    insert(tombstones),
                    [
                        {"line": line, **asdict(tombstone)}
                        for tombstone in {
                            tombstone.number: tombstone for tombstone in ended
                        }.values()
                    ],
                )

        await self._database.write(act)

    async def recall(self, line: str) -> Recalled:
        """What was recorded of `line`."""
        kept = await self._switches.fetch(line, _UNTOUCHED)

        def look(connection: Connection) -> Recalled:
            row = connection.execute(select(lines).where(lines.c.line == line)).one_or_none()
            if row is None:
                return Recalled(0, 0, 0, None, **kept)
            return Recalled(row.high_water, row.void_below, row.version, row.body, **kept)

        return await self._database.read(look)

    async def keep_switches(self, line: str, switches: Mapping[str, Any], version: int) -> None:
        """How an operator left the switches of `line`, as of `version` of its roster; on disk on
        return. Late is harmless: what is kept of a higher version stays."""
        new = {"switches": switches, "switches_version": version}
        await self._switches.change(
            line, lambda kept: kept if kept["switches_version"] > version else new, _UNTOUCHED
        )

    async def tombstone(self, line: str, number: int) -> Tombstone | None:
        """How ticket `number` ended, or None while it lives or is unknown."""

        def look(connection: Connection) -> Tombstone | None:
            row = connection.execute(
                select(
                    tombstones.c.number, tombstones.c.state, tombstones.c.at, tombstones.c.reason
                )
                .where(tombstones.c.line == line)
                .where(tombstones.c.number == number)
            ).one_or_none()
            return Tombstone(*row) if row else None

        return await self._database.read(look)

    @contextlib.asynccontextmanager
    async def witness(self, entry: AuditEntry) -> AsyncIterator[None]:
        """Around an act of an operator: it is in the audit before it takes effect, and what
        became of it afterwards. Dying in between leaves it there without an outcome."""
        audit_id = await self.intend(entry)
        try:
            yield
        except NowServingError as error:
            await self.conclude(audit_id, error.code)
            raise
        await self.conclude(audit_id, "done")
        log.info("line %s: %s did %s %s", entry.line, entry.who, entry.action, entry.number or "")

    async def intend(self, entry: AuditEntry) -> int:
        """Enter what is about to be done; it is on disk on return, and may be done now."""

        def act(connection: Connection) -> int:
            key = connection.execute(insert(audit).values(asdict(entry))).inserted_primary_key
            assert key is not None
            return int(key[0])

        return await self._database.write(act)

    async def conclude(self, audit_id: int, outcome: str) -> None:
        """Enter what became of it: "done" or an error's code. The first outcome stands."""

        def act(connection: Connection) -> None:
            known = select(audit_outcomes).where(audit_outcomes.c.audit_id == audit_id)
            if connection.execute(known).first() is None:
                connection.execute(
                    insert(audit_outcomes).values(audit_id=audit_id, outcome=outcome)
                )

        await self._database.write(act)

    async def recent_actions(self, line: str, limit: int = 20) -> list[AuditRow]:
        """The last things operators did to `line`, newest first."""

        def look(connection: Connection) -> list[AuditRow]:
            rows = connection.execute(
                select(audit, audit_outcomes.c.outcome)
                .outerjoin_from(audit, audit_outcomes, audit_outcomes.c.audit_id == audit.c.id)
                .where(audit.c.line == line)
                .order_by(audit.c.id.desc())
                .limit(limit)
            )
            return [AuditRow(**row) for row in rows.mappings()]

        return await self._database.read(look)

    async def forget_before(self, wall: float) -> None:
        """Drop the tombstones older than `wall`: their tickets are past their life and are
        refused for that. The audit is not forgotten here."""
        await self._database.write(
            lambda connection: connection.execute(
                delete(tombstones).where(tombstones.c.at < wall)
            ).close()
        )
