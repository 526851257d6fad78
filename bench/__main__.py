"""What the two lines cost, each beside something known in the same run.

Machines are shared and noisy, so only ratios are meant: variants take turns within each round,
and each ratio is the median of the rounds' ratios.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench import people, work
from bench.bar import Bar
from bench.progress import say
from tests.processes import ROOT


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    asked.add_argument("line", nargs="?", choices=["people", "work"], help="only this one")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--waiting", default="100,1000,10000,100000", help="people: in line")
    asked.add_argument("--seconds", type=int, default=2, help="people: of each load")
    asked.add_argument("--items", type=int, default=1000, help="work: put and taken a round")
    asked.add_argument("--json", type=Path, default=ROOT / "bench" / "results.json")
    chosen = asked.parse_args()
    benches: dict[str, Callable[[Path], tuple[list[Any], list[Bar]]]] = {
        "people": partial(
            people.bench,
            sizes=[int(each) for each in chosen.waiting.split(",")],
            rounds=chosen.rounds,
            seconds=chosen.seconds,
        ),
        "work": partial(work.bench, rounds=chosen.rounds, items=chosen.items),
    }
    kept = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    results = {line: kept[line] for line in benches if line in kept}
    for line, bench in benches.items():
        if chosen.line in (None, line):
            with tempfile.TemporaryDirectory() as directory:
                rows, bars = bench(Path(directory))
            for bar in bars:
                print(bar)
            results[line] = {
                "rows": rows,
                "bars": [{**asdict(bar), "met": bar.met} for bar in bars],
            }
            chosen.json.write_text(json.dumps(results, indent=2) + "\n")
    say(f"kept in {chosen.json}")


if __name__ == "__main__":
    main()
