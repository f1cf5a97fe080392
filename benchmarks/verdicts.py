"""How often `headroom compare` is wrong: false alarms, missed regressions and intervals, over synthetic runs.

    python benchmarks/verdicts.py [--comparisons 500]

A run has requests whose latencies are log-normal (sigma 0.35) or worse, and an effect of its own: what one run differs
from the next by, although nothing changed; so does a session of runs from another. Every verdict is that of
`planner.compare.compare`, of TTFT and TPOT as by default. Nothing is measured here but the rule: real runs are compared
by benchmarks/alike.py.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import numpy as np

from planner.compare import compare
from planner.comparing.blocks import RunQuantile, run_quantile
from planner.comparing.exact import clopper_pearson
from planner.comparing.figures import Figures, Test, shift_of
from planner.comparing.run_facts import RunFacts
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import Verdict

SIGMA = 0.35
TOLERANCES = (Tolerance.parse("ttft.p50:+10%"), Tolerance.parse("ttft.p95:+15%"))
SESSIONS = (0.0, 0.01, 0.02, 0.03, 0.05)
SHAPES = ("log-normal", "autocorrelated", "bimodal")
SPREADS = ("normal", "heavy tails", "cold starts")
FEW_RUNS = ((2, 2), (2, 10), (10, 2), (3, 3), (3, 20))
OPERATING_POINTS = ((10, 400, 0.0), (10, 400, 0.01), (10, 400, 0.02), (10, 400, 0.03), (20, 200, 0.05))


@dataclass(frozen=True)
class World:
    """What runs are like."""

    spread: float = 0.0  # standard deviation of a run's effect, as a logarithm
    shape: str = "log-normal"  # of requests within a run
    effects: str = "normal"  # of runs
    sessions: float = 0.0  # standard deviation of a session's effect: each side is one, unless they are in turns

    def logs(self, dice: np.random.Generator, runs: int, requests: int) -> np.ndarray:
        """Log latencies, a row a run, in the order of time."""
        values = dice.standard_normal((runs, requests))
        if self.shape == "autocorrelated":  # of one request with the next: 0.6
            for at in range(1, requests):
                values[:, at] = 0.6 * values[:, at - 1] + 0.8 * values[:, at]
        values *= SIGMA
        if self.shape == "bimodal":  # a fast and a slow path
            values = values * 0.6 + np.where(dice.random((runs, requests)) < 0.7, 0.0, 1.2)
        return values + self.effect(dice, runs)[:, None]

    def effect(self, dice: np.random.Generator, runs: int) -> np.ndarray:
        if self.effects == "heavy tails":
            return self.spread * dice.standard_t(3, runs) / math.sqrt(3)
        usual = self.spread * dice.standard_normal(runs)
        cold = dice.exponential(0.3, runs) * (dice.random(runs) < 0.1) if self.effects == "cold starts" else 0.0
        return usual + cold


def log_quantiles(logs: np.ndarray) -> np.ndarray:
    """A row a tolerance, a column a run: nearest rank."""
    n = logs.shape[1]
    ranks = [max(1, math.ceil(each.percentile * n / 100)) - 1 for each in TOLERANCES]
    return np.partition(logs, ranks, axis=1)[:, ranks].T


def facts(figures: np.ndarray, side: str, *, in_turns: bool) -> list[RunFacts]:
    """Runs with these figures: logarithms, a row a percentile of TTFT and then of TPOT, a column a run."""
    at = {"base": (0, 1), "new": (1, 0)}[side]
    return [
        _run(f"{side}-{number}", values, _started(number, side, at, in_turns))
        for number, values in enumerate(figures.T)
    ]


def _started(number: int, side: str, at: tuple[int, int], in_turns: bool) -> str:
    minute = 2 * number + at[number % 2] if in_turns else number
    return f"2026-11-{20 if in_turns or side == 'base' else 21}T10:{minute:02d}:00Z"


def _run(name: str, logs: np.ndarray, started_utc: str) -> RunFacts:
    names = [(metric, each.percentile) for metric in ("ttft", "tpot") for each in TOLERANCES]
    quantiles = tuple(
        RunQuantile(metric=metric, percentile=at, n=400, value_ms=math.exp(log), low_ms=None, high_ms=None)
        for (metric, at), log in zip(names, logs.tolist(), strict=True)
    )
    return RunFacts(
        run_id=name,
        name=name,
        started_utc=started_utc,
        reasons=(),
        settings={},
        circumstances={},
        arrivals=400,
        unanswered=0,
        outcomes={"ok": 400},
        prompt_tokens=100.0,
        completion_tokens=50.0,
        quantiles=quantiles,
    )


def verdicts(
    world: World,
    runs: int,
    requests: int,
    *,
    comparisons: int,
    seed: int,
    slower: tuple[float, float] = (0.0, 0.0),
    test: Test = Test.WELCH,
    in_turns: bool = True,
    base_runs: int | None = None,
) -> dict[Verdict, int]:
    """How often each comes out; `slower` are the true slowdowns of the percentiles of TTFT.

    TPOT has effects of runs and sessions of its own, and is no slower.
    """
    dice, counts = np.random.default_rng(seed), dict.fromkeys(Verdict, 0)
    more, first = np.log1p(np.array([*slower, 0.0, 0.0]))[:, None], runs if base_runs is None else base_runs
    for _ in range(comparisons):
        figures = np.vstack([log_quantiles(world.logs(dice, first + runs, requests)) for _ in range(2)])
        sessions = world.sessions * np.repeat(dice.standard_normal((2, 2)), 2, axis=0)
        base = facts(figures[:, :first] + sessions[:, :1], "base", in_turns=in_turns)
        new = facts(figures[:, first:] + more + sessions[:, 1:], "new", in_turns=in_turns)
        counts[compare(base, new, test=test).verdict] += 1
    return counts


def ratio_coverage(world: World, runs: int, requests: int, *, comparisons: int, seed: int) -> list[float]:
    """How often the interval of the ratio holds the true one, which is 1: of p50 and of p95."""
    dice, held = np.random.default_rng(seed), np.zeros(len(TOLERANCES))
    for _ in range(comparisons):
        figures = log_quantiles(world.logs(dice, 2 * runs, requests)).tolist()
        for place, values in enumerate(figures):
            shift = shift_of(Figures(base=tuple(values[:runs]), new=tuple(values[runs:])), test=Test.WELCH, pairs=False)
            held[place] += shift.low <= 0 <= shift.high
    return list(held / comparisons)


def run_coverage(shape: str, requests: int, *, runs: int, seed: int) -> list[float]:
    """How often the interval of one run's percentile holds the true one."""
    dice, world = np.random.default_rng(seed), World(shape=shape)
    truth = np.quantile(world.logs(dice, 500, 4_000), [each.percentile / 100 for each in TOLERANCES])
    held = np.zeros(len(TOLERANCES))
    for logs in world.logs(dice, runs, requests):
        for place, tolerance in enumerate(TOLERANCES):
            found = run_quantile("ttft", tolerance.percentile, np.exp(logs))
            low, high = found.low_ms or 0.0, found.high_ms or math.inf
            held[place] += low <= math.exp(truth[place]) <= high
    return list(held / runs)


def false_alarms(n: int) -> None:
    print(f"false alarms of {n:,} comparisons of 10 runs of 400 requests with 10 like them, in turns (Welch | ranks)")
    for effects in SPREADS:
        for shape in SHAPES[:2]:
            for spread in (0.0, 0.01, 0.02, 0.03, 0.05):
                world = World(spread, shape, effects)
                line = []
                for test in Test:
                    alarms = verdicts(world, 10, 400, comparisons=n, seed=7, test=test)[Verdict.REGRESSED]
                    line.append(_share(alarms, n))
                print(f"  {effects:<12} {shape:<15} spread {spread:3.0%}  {' | '.join(line)}", flush=True)
    print("\nthe same of few runs, spread 5 %: runs of the base and new ones")
    for base_runs, runs in FEW_RUNS:
        alarms = verdicts(World(0.05), runs, 400, comparisons=n, seed=7, base_runs=base_runs)[Verdict.REGRESSED]
        print(f"  {base_runs:>2} and {runs:>2}  {_share(alarms, n)}", flush=True)
    print("\nthe same of sides made one after the other, spread 2 %, by how much sessions differ: alarms | +10 % found")
    for sessions in SESSIONS:
        world = World(0.02, sessions=sessions)
        counts = [
            verdicts(world, 10, 400, comparisons=n, seed=11, slower=slower, in_turns=False)
            for slower in ((0.0, 0.0), (0.10, 0.10))
        ]
        alarms, found = (each[Verdict.REGRESSED] for each in counts)
        print(f"  sessions {sessions:3.0%}  {_share(alarms, n)} | {found / n:6.1%}", flush=True)


def power(n: int) -> None:
    print("\nfound: p50 and p95 +10 % | p95 +15 % alone | equivalence where nothing changed")
    for runs, requests, spread in OPERATING_POINTS:
        for shape in SHAPES[:2]:
            world = World(spread, shape)
            counts = [
                verdicts(world, runs, requests, comparisons=n, seed=8, slower=slower)
                for slower in ((0.10, 0.10), (0.0, 0.15), (0.0, 0.0))
            ]
            found = [counts[0][Verdict.REGRESSED], counts[1][Verdict.REGRESSED], counts[2][Verdict.EQUIVALENT]]
            shares = " | ".join(f"{each / n:6.1%}" for each in found)
            print(f"  {runs} x {requests} {shape:<15} spread {spread:3.0%}  {shares}", flush=True)


def coverage(n: int) -> None:
    print("\n95 % intervals that hold the truth, p50 | p95: of one run's percentile, of the ratio of 10 runs to 10")
    for shape in SHAPES:
        one = run_coverage(shape, 400, runs=n, seed=9)
        ratio = ratio_coverage(World(0.02, shape), 10, 400, comparisons=n, seed=10)
        print(f"  {shape:<15} {one[0]:.1%} | {one[1]:.1%}    {ratio[0]:.1%} | {ratio[1]:.1%}", flush=True)


def _share(alarms: int, n: int) -> str:
    return f"{alarms / n:6.2%}, at most {clopper_pearson(alarms, n)[1]:.2%}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=500)
    n = parser.parse_args().comparisons
    false_alarms(n)
    power(n)
    coverage(n)
    return 0


if __name__ == "__main__":
    sys.exit(main())
