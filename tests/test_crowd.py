"""A thousand visitors at two processes, one memcached and two places.

Some vanish, some never answer, some leave, some undo it, some submit twice; then the history is
read and every promise is looked for in it. Times are short by the settings alone.
"""

import random
from pathlib import Path

import pytest

from tests.crowd import Crowd, Manner, Pace
from tests.history import Bounds, History, check, figures, read_history, read_jobs, table
from tests.processes import Memcached

VISITORS = 1000
ARRIVING_SECONDS = 20
LONGEST_SECONDS = 120  # some 60 on two quiet cores

SETTINGS = """
[lines.desk]
places = 2
call_ahead = 24
answer_seconds = 4
desk_lease_seconds = 4
away_after_seconds = 7
suspect_seconds = 6
silent_aside_seconds = 10
call_patience_seconds = 1.5
aside_seconds = 12
undo_seconds = 6
freeze_seconds = 3
demo = { shortest_seconds = 0.01, longest_seconds = 0.04 }
"""
BOUNDS = Bounds(
    places=2,
    slots=2,
    answer_seconds=4,
    silent_aside_seconds=10,
    call_patience_seconds=1.5,
)
PACE = Pace(
    far=2.5,
    near=0.7,
    near_ahead=80,
    ready=0.08,
    at_the_desk=(0.0, 0.02),
    absent=21,
    absent_when_called=10,
    undo_after=1.5,
)
MANNERS = {
    Manner.VANISHES: 110,
    Manner.RETURNS: 25,
    Manner.VANISHES_WHEN_CALLED: 30,
    Manner.STALLS: 40,
    Manner.DAWDLES: 4,
    Manner.LEAVES: 140,
    Manner.UNDOES: 50,
    Manner.TWICE: 60,
}


async def test_a_thousand_visits_break_no_promise(
    serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    manners = [manner for manner, count in MANNERS.items() for _ in range(count)]
    manners += [Manner.ORDERLY] * (VISITORS - len(manners))
    chance.shuffle(manners)

    history = History(tmp_path / "history.jsonl")
    with Memcached(tmp_path / "memcached") as store:
        server = serve("--processes", "2", "--store", store.url, settings=SETTINGS)
        async with Crowd(server.url, history, PACE, chance) as crowd:
            for manner in manners:
                crowd.send(manner, delay=chance.uniform(0, ARRIVING_SECONDS))
            all_went_home = await crowd.gone_home(LONGEST_SECONDS)
        database = next((server.directory / "data").glob("*.db"))
        server.stop()
    history.close()

    calls, jobs = read_history(history.path), read_jobs(database)
    violations = check(calls, jobs, BOUNDS)
    rows = [*figures(calls, violations), ("jobs", str(len(jobs)))]
    with capsys.disabled():
        print(f"\n{table(rows)}")
    shown = "\n".join(str(violation) for violation in violations[:20])
    assert not violations, f"{shown}\n{history.path}"
    still = [visitor for visitor in crowd.visitors if not visitor.over]
    assert all_went_home, f"{len(still)} were not done, such as {still[0].who}: {still[0].last}"
    served = sum(visitor.last.state == "done" for visitor in crowd.visitors)
    assert served >= VISITORS * 6 // 10
