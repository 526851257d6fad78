"""The ledger: marks only rise, a record is all or nothing, the audit only grows."""

import asyncio

import pytest
from sqlalchemy import text

from queue_backend.database import Database
from queue_backend.errors import NumbersGiven, Unavailable, WrongState
from queue_backend.ledger import AuditEntry, Ledger, Recalled, Tombstone


@pytest.fixture
def database(tmp_path):
    opened = Database(f"sqlite:///{tmp_path / 'line.db'}")
    yield opened
    opened.close()


@pytest.fixture
def ledger(database):
    return Ledger(database)


def left(number, at=100.0):
    return Tombstone(number, "left", at, '{"en":"left"}')


def removal(who="ada", line="desk", number=7):
    return AuditEntry(
        line, 1_700.5, who, "remove", number, "waiting", "removed", "no-show", "10.0.0.1"
    )


async def record(ledger, line="desk", **changes):
    nothing = {
        "generation": "ab" * 16,
        "first": None,
        "high_water": 0,
        "version": 0,
        "checkpoint": b"roster",
        "void_below": 0,
        "ended": (),
        "revived": (),
    }
    await ledger.record(line, **{**nothing, **changes})


async def test_a_line_never_seen_recalls_nothing(ledger):
    assert await ledger.recall("desk") == Recalled(0, 0, 0, None)


async def test_what_is_recorded_is_recalled(ledger):
    await record(ledger, high_water=42, version=7, checkpoint=b"roster", void_below=3)
    assert await ledger.recall("desk") == Recalled(42, 3, 7, b"roster")


async def test_marks_only_rise(ledger):
    await record(ledger, high_water=42, void_below=30)
    await record(ledger, high_water=41, void_below=29)
    assert await ledger.recall("desk") == Recalled(42, 30, 0, b"roster")


async def test_an_older_checkpoint_never_replaces_a_newer_one(ledger):
    await record(ledger, version=8, checkpoint=b"new")
    await record(ledger, version=7, checkpoint=b"old")
    assert (await ledger.recall("desk")).checkpoint == b"new"
    await record(ledger, version=8, checkpoint=b"same version, written again")
    assert (await ledger.recall("desk")).checkpoint == b"same version, written again"


async def test_one_that_is_late_raises_the_marks_and_leaves_the_newer_checkpoint(ledger):
    await record(ledger, high_water=4, version=8, checkpoint=b"new")
    await record(ledger, high_water=6, void_below=2, version=7, checkpoint=b"old")
    assert await ledger.recall("desk") == Recalled(6, 2, 8, b"new")


async def test_lines_are_apart(ledger):
    await record(ledger, "desk", high_water=5, ended=[left(1)])
    await record(ledger, "counter", high_water=9)
    assert (await ledger.recall("desk")).high_water == 5
    assert await ledger.tombstone("counter", 1) is None


async def test_a_record_twice_is_a_record_once(ledger):
    change = {
        "high_water": 5,
        "version": 2,
        "checkpoint": b"roster",
        "ended": [left(1), left(2)],
        "revived": [3],
    }
    await record(ledger, **change)
    once = await ledger.recall("desk")
    await record(ledger, **change)
    assert await ledger.recall("desk") == once
    assert await ledger.tombstone("desk", 1) == left(1)


async def test_an_undone_leave_takes_its_tombstone_away(ledger):
    await record(ledger, ended=[left(1), left(2)])
    await record(ledger, revived=[1])
    assert await ledger.tombstone("desk", 1) is None
    assert await ledger.tombstone("desk", 2) == left(2)


async def test_a_tombstone_is_replaced_by_a_later_one(ledger):
    await record(ledger, ended=[left(1)])
    done = Tombstone(1, "done", 200.0, "{}")
    await record(ledger, ended=[left(1), done], revived=[1])
    assert await ledger.tombstone("desk", 1) == done


async def test_a_record_is_all_or_nothing(ledger, database):
    """The last statement of it fails; nothing of the first may stand."""
    await record(ledger, high_water=1)
    broken = Tombstone(5, None, 1.0, "")  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await record(ledger, high_water=9, version=9, checkpoint=b"x", ended=[left(4), broken])
    assert await ledger.recall("desk") == Recalled(1, 0, 0, b"roster")
    assert await ledger.tombstone("desk", 4) is None


async def test_records_that_arrive_together_share_commits(ledger, database):
    before = database.commits
    await asyncio.gather(*(record(ledger, high_water=number) for number in range(1, 101)))
    assert (await ledger.recall("desk")).high_water == 100
    assert database.commits - before <= 10


async def test_old_tombstones_are_forgotten(ledger):
    await record(ledger, ended=[left(1, at=100.0), left(2, at=200.0)])
    await ledger.forget_before(150.0)
    assert await ledger.tombstone("desk", 1) is None
    assert await ledger.tombstone("desk", 2) == left(2, at=200.0)


async def test_an_intent_is_in_the_audit_before_its_outcome(ledger):
    audit_id = await ledger.intend(removal())
    (open_row,) = await ledger.recent_actions("desk")
    assert (open_row.id, open_row.outcome) == (audit_id, None)
    assert (open_row.who, open_row.action, open_row.number) == ("ada", "remove", 7)
    await ledger.conclude(audit_id, "done")
    (row,) = await ledger.recent_actions("desk")
    assert row.outcome == "done"


async def test_the_first_outcome_of_an_action_stands(ledger):
    audit_id = await ledger.intend(removal())
    await ledger.conclude(audit_id, "wrong-state")
    await ledger.conclude(audit_id, "done")
    assert (await ledger.recent_actions("desk"))[0].outcome == "wrong-state"


async def test_a_witnessed_act_is_in_the_audit_before_it_begins_and_with_what_became_of_it(ledger):
    async with ledger.witness(removal("ada")):
        (row,) = await ledger.recent_actions("desk")
        assert (row.who, row.outcome) == ("ada", None)
    with pytest.raises(WrongState):
        async with ledger.witness(removal("ben")):
            raise WrongState("state-changed", "called")
    ben, ada = await ledger.recent_actions("desk")
    assert (ada.outcome, ben.outcome) == ("done", "state-changed")


async def test_recent_actions_are_newest_first_of_their_line_and_no_more_than_asked(ledger):
    for who in ("ada", "ben", "cyd"):
        await ledger.intend(removal(who))
    await ledger.intend(removal("dora", line="counter"))
    assert [row.who for row in await ledger.recent_actions("desk", limit=2)] == ["cyd", "ben"]


async def test_a_record_replaces_and_does_not_heap_up(ledger, database):
    """One a group commit, with 17 KB of checkpoint."""
    for number in range(50):
        await record(ledger, high_water=number, version=number, checkpoint=b"x" * 17_000)
    size = await database.read(
        lambda connection: connection.execute(text("PRAGMA page_count")).scalar_one()
    )
    assert size < 100


async def test_numbers_of_one_generation_may_be_told_in_any_order(ledger):
    """Its roster keeps them apart; two processes raise the mark as they come."""
    await record(ledger, generation="a", first=4, high_water=6)
    await record(ledger, generation="a", first=1, high_water=3)
    assert (await ledger.recall("desk")).high_water == 6


async def test_a_number_given_by_one_generation_is_refused_to_every_other(ledger):
    await record(ledger, generation="a", first=1, high_water=9)
    with pytest.raises(NumbersGiven) as refused:
        await record(ledger, generation="b", first=9, high_water=9, checkpoint=b"b", version=5)
    assert refused.value.high_water == 9
    assert (await ledger.recall("desk")).checkpoint == b"roster"
    await record(ledger, generation="b", first=10, high_water=10)
    with pytest.raises(NumbersGiven):  # the older one is late with a number that b has given
        await record(ledger, generation="a", first=10, high_water=10)


async def test_whoever_takes_over_again_gives_no_number_of_the_time_between(ledger):
    await record(ledger, generation="a", first=1, high_water=9)
    await record(ledger, generation="b", first=10, high_water=10)
    await record(ledger, generation="a", first=11, high_water=11)
    with pytest.raises(NumbersGiven):
        await record(ledger, generation="a", first=10, high_water=10)
