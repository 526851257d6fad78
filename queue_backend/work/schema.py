"""The tables of the job line.

A row of `job_line` is the gate of its line: whoever puts or reserves locks it first, so that
counting and claiming are one step on every engine. It also holds what all processes must agree
on: the cap, and whether the line is paused.

`due` is when a job may next be reserved: after a put's delay, a back-off, or the end of a lease
and its grace. Expiry is the passing of time; nothing sweeps.

`live` is 1 while a job is queued or buried, else NULL. NULLs are never equal in a unique index,
so UNIQUE(line, key, live) says "once while it matters, again afterwards" on every engine.

`job_slot` is what workers say of their slots, for the operators of other processes.

The indexes follow the questions: order and position; the count of live leases; the newest
with a key; the last run times. Ended jobs fall out of the first two, so history costs nothing.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from queue_backend.database import metadata

LONGEST_NAME = 64
LONGEST_KEY = 128

lines = Table(
    "job_line",
    metadata,
    Column("name", String(LONGEST_NAME), primary_key=True),
    Column("cap", Integer, nullable=False),  # NO_CAP: any number may run
    Column("paused_reason", Text),  # NULL: not paused
    Column("paused_until", Float(53)),  # NULL: until somebody resumes it
)

jobs = Table(
    "job",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("line", String(LONGEST_NAME), nullable=False),
    Column("state", String(16), nullable=False),
    Column("pri", Integer, nullable=False),
    Column("due", Float(53), nullable=False),
    Column("holder", String(LONGEST_KEY)),
    Column("attempt", Integer, nullable=False, default=0),
    Column("fails", Integer, nullable=False, default=0),
    Column("key", String(LONGEST_KEY)),
    Column("live", SmallInteger),
    Column("expires", Float(53)),
    Column("tries", Integer),  # NULL: as the line says
    Column("task", String(LONGEST_NAME), nullable=False),
    Column("args", JSON, nullable=False),
    Column("body", LargeBinary(16_000_000)),
    Column("sealed", Text),  # apart from args, so that ending a job erases it in one statement
    Column("step", String(32), nullable=False, default=""),
    Column("stop_asked", Boolean, nullable=False, default=False),
    Column("result", JSON(none_as_null=True)),
    Column("error", Text),
    Column("put_at", Float(53), nullable=False),
    Column("taken_at", Float(53)),
    Column("done_at", Float(53)),
    UniqueConstraint("line", "key", "live"),
    Index("job_order", "line", "state", "pri", "id"),
    Index("job_leases", "line", "holder", "due"),
    Index("job_by_key", "line", "key", "id"),
    Index("job_ended", "line", "done_at"),
    # An id is shown to people as a reference; it must not come again after a purge.
    sqlite_autoincrement=True,
)

slots = Table(
    "job_slot",
    metadata,
    Column("line", String(LONGEST_NAME), primary_key=True),
    Column("holder", String(LONGEST_KEY), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("job", BigInteger),
    Column("since", Float(53), nullable=False),
    Column("heard_at", Float(53), nullable=False),
)
