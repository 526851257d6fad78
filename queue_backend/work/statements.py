"""What is asked of the job tables, each question built once.

Building a statement costs as much as running it, so they stand here ready, with named
parameters: `of_...` choose rows, `to_...` are what columns become. All are plain enough to be
the same on SQLite, MariaDB and PostgreSQL.
"""

from sqlalchemy import (
    ColumnElement,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from queue_backend.prepared import Prepared
from queue_backend.work.job import QUEUED, JobState
from queue_backend.work.schema import jobs, lines, slots

_mine = jobs.c.line == bindparam("of_line")
_this = jobs.c.id == bindparam("of_id")
_queued = jobs.c.state == QUEUED
_now: ColumnElement[float] = bindparam("now")

_ready = and_(_queued, jobs.c.due <= _now)
_leased = and_(_queued, jobs.c.holder.is_not(None), jobs.c.due > _now)
_delayed = and_(_queued, jobs.c.holder.is_(None), jobs.c.due > _now)
_waiting = or_(_ready, _delayed)


def _count(*conditions: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).select_from(jobs).where(_mine, *conditions)


def _how_many(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _changed(*columns: str) -> Update:
    return update(jobs).values({column: bindparam(f"to_{column}") for column in columns})


# The gate: its row is locked before anything else. On SQLite BEGIN IMMEDIATE has locked the
# file already, and FOR UPDATE is not spelt out.
_gate = select(lines).where(lines.c.name == bindparam("of_line"))
gate = Prepared(_gate)
gate_locked = Prepared(_gate.with_for_update())
set_cap = update(lines).where(lines.c.name == bindparam("of_line")).values(cap=bindparam("to_cap"))
set_pause = (
    update(lines)
    .where(lines.c.name == bindparam("of_line"))
    .values(paused_reason=bindparam("to_paused_reason"), paused_until=bindparam("to_paused_until"))
)

_NEW = (
    *("line", "state", "pri", "due", "key", "live", "expires", "tries", "task", "args", "body"),
    *("sealed", "put_at", "attempt", "fails", "step", "stop_asked"),
)
put = Prepared(insert(jobs).values({column: bindparam(f"to_{column}") for column in _NEW}))
one = Prepared(select(jobs).where(_mine, _this))
_by_key = (
    select(jobs).where(_mine, jobs.c.key == bindparam("of_key")).order_by(jobs.c.id.desc()).limit(1)
)
by_key = Prepared(_by_key)
live_by_key = Prepared(_by_key.where(jobs.c.live == 1))

oldest_ready = Prepared(select(jobs).where(_mine, _ready).order_by(jobs.c.pri, jobs.c.id).limit(1))
# Ordered by pri upwards and id downwards it would sort the whole line, for no index is so.
_others = jobs.alias()
_smallest_pri = (
    select(_others.c.pri)
    .where(_others.c.line == bindparam("of_line"), _others.c.state == QUEUED, _others.c.due <= _now)
    .order_by(_others.c.pri, _others.c.id)
    .limit(1)
    .scalar_subquery()
)
newest_ready = Prepared(
    select(jobs)
    .where(_mine, _ready, jobs.c.pri == _smallest_pri)
    .order_by(jobs.c.id.desc())
    .limit(1)
)

count_leased = Prepared(_count(_leased))
count_queued = _count(_queued)
count_ahead = _count(
    _ready,
    or_(
        jobs.c.pri < bindparam("than_pri"),
        and_(jobs.c.pri == bindparam("than_pri"), jobs.c.id < bindparam("than_id")),
    ),
)
count_by_state = select(
    _how_many(_ready), _how_many(_leased), _how_many(_delayed), _how_many(jobs.c.state == "buried")
).where(_mine, jobs.c.state.in_((QUEUED, "buried")))
run_times = (
    select(jobs.c.done_at - jobs.c.taken_at)
    .where(_mine, jobs.c.state == JobState.DONE)
    .order_by(jobs.c.done_at.desc())
    .limit(bindparam("at_most"))
)
live_in_order = (
    select(jobs)
    .where(_mine, jobs.c.state.in_((QUEUED, "buried")))
    .order_by(case((_queued, 1), else_=0), jobs.c.pri, jobs.c.id)
    .limit(bindparam("at_most"))
)
ids_in_order = select(jobs.c.id).where(_mine, _waiting).order_by(jobs.c.pri, jobs.c.id)
oldest_buried = (
    select(jobs.c.id)
    .where(_mine, jobs.c.state == JobState.BURIED)
    .order_by(jobs.c.id)
    .limit(bindparam("at_most"))
)
expired = select(jobs.c.id).where(
    _mine, _queued, jobs.c.step == "", jobs.c.expires <= _now, or_(_ready, _delayed)
)
forget = delete(jobs).where(_mine, jobs.c.done_at < bindparam("before"))

# By whoever holds the newest attempt, and by nobody else.
_held = and_(
    _this,
    _queued,
    jobs.c.holder == bindparam("of_holder"),
    jobs.c.attempt == bindparam("of_attempt"),
)
held = select(jobs).where(_held).with_for_update()
renew = Prepared(_changed("due", "step").where(_held, jobs.c.due > _now))
renew_silently = Prepared(_changed("due").where(_held, jobs.c.due > _now))
_ended = _changed(
    "state", "live", "done_at", "step", "holder", "sealed", "stop_asked", "result", "error"
)
ack = Prepared(_ended.where(_held))
end = Prepared(_ended.where(_this))

claim = Prepared(_changed("holder", "attempt", "fails", "taken_at", "due").where(_this))
put_back = _changed("holder", "due", "fails", "error", "step").where(_this)
bury = _changed("state", "holder", "sealed", "stop_asked", "fails", "error", "step").where(_this)
kick = _changed("state", "due", "fails", "error").where(_this)
ask_to_stop = update(jobs).where(_this).values(stop_asked=True)
change = _changed("args", "body").where(_this)
prolong = _changed("expires").where(_this, _queued)

slots_of_line = (
    select(slots).where(slots.c.line == bindparam("of_line")).order_by(slots.c.holder, slots.c.slot)
)
forget_slots = delete(slots).where(
    slots.c.line == bindparam("of_line"), slots.c.holder == bindparam("of_holder")
)
forget_silent_slots = delete(slots).where(
    slots.c.line == bindparam("of_line"), slots.c.heard_at < bindparam("before")
)
say_slots = insert(slots)
