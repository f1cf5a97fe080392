"""How often `headroom compare` is wrong: false alarms, missed regressions and intervals, over synthetic runs.

    python benchmarks/verdicts.py [--comparisons 500]

A run has requests whose latencies are log-normal (sigma 0.35) or worse, and an effect of its own: what one run differs
from the next by, although nothing changed. Every verdict is made by the rule that `headroom compare` uses. Nothing is
measured here but the rule: real runs are compared by tests/test_compare_real.py.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import numpy as np

from planner.comparing.blocks import run_quantile
from planner.comparing.exact import clopper_pearson
from planner.comparing.shifts import holm
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import Figures, Test, Verdict, judge, shift_of

SIGMA = 0.35
TOLERANCES = (Tolerance.parse("ttft.p50:+10%"), Tolerance.parse("ttft.p95:+15%"))
BESIDE = 3  # of TPOT two, and the unanswered: what is compared by default beside TTFT
SHAPES = ("log-normal", "autocorrelated", "bimodal")
SPREADS = ("normal", "heavy tails", "cold starts")
OPERATING_POINTS = ((10, 400, 0.0), (10, 400, 0.01), (10, 400, 0.02), (10, 400, 0.03), (20, 200, 0.05))


@dataclass(frozen=True)
class World:
    """What runs are like."""

    spread: float = 0.0  # standard deviation of a run's effect, as a logarithm
    shape: str = "log-normal"  # of requests within a run
    effects: str = "normal"  # of runs

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


def verdict(base: np.ndarray, new: np.ndarray, test: Test, *, beside: int = 0) -> Verdict:
    """Rows are tolerances, columns runs. So many other figures, which show nothing, share its alpha."""
    shifts = [
        shift_of(Figures(base=tuple(a), new=tuple(b)), test=test, pairs=False)
        for a, b in zip(base.tolist(), new.tolist(), strict=True)
    ]
    slower = holm([*(each.p_slower for each in shifts), *[1.0] * beside])
    faster = holm([*(each.p_faster for each in shifts), *[1.0] * beside])
    verdicts = [
        judge(shift, tolerance, p_slower=p, p_faster=q, one_run=False)
        for shift, tolerance, p, q in zip(shifts, TOLERANCES, slower, faster, strict=False)
    ]
    return min(verdicts, key=list(Verdict).index)


def verdicts(
    world: World,
    runs: int,
    requests: int,
    *,
    comparisons: int,
    seed: int,
    slower: tuple[float, float] = (0.0, 0.0),
    test: Test = Test.WELCH,
    beside: int = 0,
) -> dict[Verdict, int]:
    """How often each comes out; `slower` are the true slowdowns of the percentiles."""
    dice, counts = np.random.default_rng(seed), dict.fromkeys(Verdict, 0)
    more = np.log1p(np.array(slower))[:, None]
    for _ in range(comparisons):
        figures = log_quantiles(world.logs(dice, 2 * runs, requests))
        counts[verdict(figures[:, :runs], figures[:, runs:] + more, test, beside=beside)] += 1
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=500)
    n = parser.parse_args().comparisons
    print(f"false alarms of {n:,} comparisons of 10 runs of 400 requests with 10 like them (Welch | ranks)")
    for effects in SPREADS:
        for shape in SHAPES[:2]:
            for spread in (0.0, 0.01, 0.02, 0.03, 0.05):
                world = World(spread, shape, effects)
                line = []
                for test in Test:
                    alarms = verdicts(world, 10, 400, comparisons=n, seed=7, test=test)[Verdict.REGRESSED]
                    line.append(f"{alarms / n:6.2%}, at most {clopper_pearson(alarms, n)[1]:.2%}")
                print(f"  {effects:<12} {shape:<15} spread {spread:3.0%}  {' | '.join(line)}", flush=True)
    print(f"\n{2 + BESIDE} figures compared; found: p50 +10 % | p95 +15 % alone | equivalence where nothing changed")
    for runs, requests, spread in OPERATING_POINTS:
        counts = [
            verdicts(World(spread), runs, requests, comparisons=n, seed=8, slower=slower, beside=BESIDE)
            for slower in ((0.10, 0.10), (0.0, 0.15), (0.0, 0.0))
        ]
        found = [counts[0][Verdict.REGRESSED], counts[1][Verdict.REGRESSED], counts[2][Verdict.EQUIVALENT]]
        print(
            f"  {runs} x {requests}, spread {spread:3.0%}  {' | '.join(f'{each / n:6.1%}' for each in found)}",
            flush=True,
        )
    print("\n95 % intervals that hold the truth, p50 | p95: of one run's percentile, of the ratio of 10 runs to 10")
    for shape in SHAPES:
        one = run_coverage(shape, 400, runs=n, seed=9)
        ratio = ratio_coverage(World(0.02, shape), 10, 400, comparisons=n, seed=10)
        print(f"  {shape:<15} {one[0]:.1%} | {one[1]:.1%}    {ratio[0]:.1%} | {ratio[1]:.1%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
