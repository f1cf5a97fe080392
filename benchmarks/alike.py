"""Real runs of one simulated deployment that nothing changed between, compared two by two and ten by ten.

    python benchmarks/alike.py [--pairs 20]

Each is a load process of its own, a second of streams at 110 requests/s. Every alarm is a false one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from headroom.running import ready
from headroom.series import Player
from loadgen.config import RunConfig
from loadgen.samples import Run
from planner.compare import compare
from planner.comparing.run_facts import RunFacts, facts_of
from planner.comparing.verdict import Verdict
from scenarios import PLACES

CONFIG = {
    "target": {"url": "sim"},
    "scenarios": {"streaming": 1},
    "load": {"rate": 110, "duration": 1.1, "warmup": 0.1, "max_tokens": 4, "throttle": "off"},
    "quota": {"tokens_per_minute": 100_000_000, "requests_per_minute": 1_000_000},
}
SPOILED_SHARE = 0.5  # of the runs may be spoiled by other programs before it is given up
TEN = 10


@dataclass(frozen=True)
class Alike:
    pairs: Counter[Verdict]  # one run against one
    sets: Counter[Verdict]  # ten against ten, in turns
    spoiled: int  # runs that the load generator spoiled, and that were played again


def alike(pairs: int) -> Alike:
    """Raises RuntimeError where the machine is too busy to measure anything."""
    runs, spoiled = _runs(2 * pairs)
    of_pairs = Counter(compare([a], [b]).verdict for a, b in zip(runs[::2], runs[1::2], strict=True))
    tens = [runs[start : start + 2 * TEN] for start in range(0, len(runs) - 2 * TEN + 1, 2 * TEN)]
    return Alike(of_pairs, Counter(compare(each[::2], each[1::2]).verdict for each in tens), spoiled)


def _runs(number: int) -> tuple[list[RunFacts], int]:
    config, runs, spoiled = RunConfig.model_validate(CONFIG), [], 0
    with tempfile.TemporaryDirectory() as place, ready(config) as (settled, environment, deployments):
        player = Player({"streaming": PLACES["streaming"]}, environment, deployments, whole="comparison")
        while len(runs) < number:
            folder = Path(place) / f"{len(runs) + spoiled:04d}"
            player.play(settled, folder)
            facts = facts_of(Run.open(folder))
            if not facts.reasons:
                runs.append(facts)
                continue
            spoiled += 1
            if spoiled > 10 + SPOILED_SHARE * number:
                raise RuntimeError(f"{spoiled} runs were spoiled: {facts.reasons[0]}")
    return runs, spoiled


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    found = alike(parser.parse_args().pairs)
    for name, verdicts in (("one run against one", found.pairs), ("ten runs against ten", found.sets)):
        told = ", ".join(f"{verdicts[verdict]} {verdict.value}" for verdict in Verdict)
        print(f"{name:<21} {verdicts.total():>4} comparisons: {told}")
    print(f"{found.spoiled} runs spoiled by other programs, and played again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
