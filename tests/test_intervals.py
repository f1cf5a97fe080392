"""One run's intervals hold what is true where neighbours resemble each other, and a run is ended by no chance."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from loadgen.samples import Gaps
from loadgen.slo import Threshold
from planner.intervals import BLOCKS, reached_ranks, share_interval
from planner.measured import Figure, latency_figure, share_of
from planner.metrics import quantile, values_of
from planner.quantiles import nearest_rank, needed_samples
from planner.thresholds import SURE_OF_MISS, ends_run
from tests.runs import answered, make_run

SPREAD = 0.35  # of the logarithm of a latency
P95 = math.exp(SPREAD * NormalDist().inv_cdf(0.95))


def following(dice: np.random.Generator, n: int, memory: float) -> NDArray[np.float64]:
    """Standard normal values, each of which remembers a share of the one before."""
    values = dice.standard_normal(n)
    for place in range(1, n):
        values[place] = memory * values[place - 1] + math.sqrt(1 - memory**2) * values[place]
    return values


def p95_of(values: NDArray[np.float64], confidence: float = 0.95) -> Figure:
    n, needs_n = len(values), needed_samples(0.95)
    if n < needs_n:
        return Figure(value=None, n=n, needs_n=needs_n)
    ordered = np.sort(values)
    value = float(ordered[nearest_rank(n, 0.95) - 1])
    blocks = np.array_split(values <= value, BLOCKS)
    below, sizes = np.array([block.sum() for block in blocks]), np.array([len(block) for block in blocks])
    low, high = reached_ranks(below, sizes, 0.95, confidence)
    at = [None if rank is None else float(np.interp(rank, np.arange(1, n + 1), ordered)) for rank in (low, high)]
    return Figure(value=value, low=at[0], high=at[1], n=n, needs_n=needs_n)


@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_the_interval_of_a_percentile_holds_it_where_answers_follow_each_other(memory: float) -> None:
    """Of runs of 400 answers, of which an interval for independent ones holds the true p95 in 85 of 100."""
    dice = np.random.default_rng(3)
    figures = [p95_of(np.exp(SPREAD * following(dice, 400, memory))) for _ in range(300)]
    held = sum((each.low or 0.0) <= P95 <= (each.high or math.inf) for each in figures) / len(figures)
    assert held >= (0.95 if memory == 0 else 0.915), held


@pytest.mark.parametrize("length", [1, 8])
def test_the_interval_of_a_share_holds_it_where_failures_come_together(length: int) -> None:
    """An interval for independent attempts holds 10 % of failures in stretches of 8 in 61 of 100 runs of 800."""
    dice = np.random.default_rng(4)
    runs = [np.repeat(dice.random(800 // length) < 0.1, length) for _ in range(300)]
    held = sum(share.low <= 0.1 <= share.high for share in map(share_interval, runs)) / len(runs)
    assert held >= 0.92, held


@pytest.mark.parametrize(("good", "n"), [(0, 20), (1, 17), (20, 20), (0, 5_000_000), (1, 19)])
def test_the_interval_of_few_hits_is_the_exact_one(good: int, n: int) -> None:
    hits = np.zeros(n, dtype=bool)
    hits[:good] = True
    exact = stats.binomtest(good, n).proportion_ci(0.95, "exact")
    found = share_interval(hits)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


@pytest.mark.parametrize(("n", "wider"), [(19, False), (20, True)])
def test_from_two_attempts_a_block_on_those_that_fail_together_are_seen(n: int, wider: bool) -> None:
    hits = np.arange(n) < 6
    exact = stats.binomtest(6, n).proportion_ci(0.95, "exact")
    found = share_interval(hits)
    assert (found.low < exact.low - 0.01 and found.high > exact.high + 0.01) is wider


@pytest.mark.parametrize(
    ("good", "n"), [(5_000, 5_000_000), (9_900, 10_000_000), (30_000, 60_000), (10_001, 5_000_000)]
)
def test_the_interval_of_many_hits_is_right_to_three_digits(good: int, n: int) -> None:
    hits = np.zeros(n, dtype=bool)
    hits[np.linspace(0, n - 1, good).astype(int)] = True
    exact = stats.binomtest(good, n).proportion_ci(0.95, "exact")
    found = share_interval(hits)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), rel=1e-3)


def test_the_figure_of_a_run_has_the_blocks_of_its_record(tmp_path: object) -> None:
    """A minute whose second half is slow: its p50 might be anything between, which sorted values alone deny."""
    samples = [answered(seq, seq / 10, ttft_s=0.1 + seq * 1e-5 + (seq >= 300), phase="steady") for seq in range(600)]
    gaps = [(seq, 0, [20_000 + seq + (seq >= 300) * 9_000] * 3) for seq in range(600)]
    run = make_run(tmp_path, samples, _gaps(gaps))  # type: ignore[arg-type]
    for metric in ("ttft", "itl"):
        found = latency_figure(run, Threshold.parse(f"{metric}.p50<1s"))
        alone = quantile(values_of(run, metric), 0.5)
        assert found.value == alone.value_ms and found.n == len(values_of(run, metric))
        assert found.low is not None and found.high is not None and alone.low_ms is not None
        assert found.low < alone.low_ms and found.high > (alone.high_ms or 0)


def _gaps(rows: list[tuple[int, int, list[int]]]) -> list[Gaps]:
    return rows  # type: ignore[return-value]


# Ended by a threshold: looked at each second


def share_ends(rule: Threshold, hits: NDArray[np.bool_], per_s: int) -> int | None:
    """The second in which a run is ended, of so many attempts a second."""
    up_to = np.cumsum(hits)
    for n in range(per_s, len(hits) + 1, per_s):
        if up_to[n - 1] / n > rule.limit and ends_run(rule, share_of(rule, hits[:n], SURE_OF_MISS)):
            return n // per_s
    return None


def p95_ends(rule: Threshold, values_ms: NDArray[np.float64], per_s: int) -> int | None:
    for n in range(per_s, len(values_ms) + 1, per_s):
        if (values_ms[:n] >= rule.limit).mean() > 0.05 and ends_run(rule, p95_of(values_ms[:n], SURE_OF_MISS)):
            return n // per_s
    return None


@pytest.mark.parametrize(
    ("share", "stretch", "runs"),
    [
        pytest.param(0.02, 10, 60, id="a second in fifty fails whole"),
        pytest.param(0.03, 1, 60, id="3 % of 5 %"),
        pytest.param(0.02, 10, 1_000, id="a second in fifty fails whole, often", marks=pytest.mark.long),
        pytest.param(0.03, 1, 1_000, id="3 % of 5 %, often", marks=pytest.mark.long),
        pytest.param(0.04, 1, 500, id="4 % of 5 %, often", marks=pytest.mark.long),
    ],
)
def test_a_run_well_inside_its_limit_is_ended_in_one_of_a_hundred_at_most(
    share: float, stretch: int, runs: int
) -> None:
    """Two minutes at 10/s by `failed<5%`; with 95 % for independent attempts 8 to 28 of 100 were ended."""
    dice, rule = np.random.default_rng(5), Threshold.parse("failed<5%", abort_on_fail=True)
    ended = sum(
        share_ends(rule, np.repeat(dice.random(1_200 // stretch) < share, stretch), 10) is not None for _ in range(runs)
    )
    assert ended <= runs / 100, ended


@pytest.mark.parametrize(
    ("memory", "runs"),
    [
        (0.6, 20),
        pytest.param(0.0, 300, marks=pytest.mark.long),
        pytest.param(0.6, 300, marks=pytest.mark.long),
        pytest.param(0.8, 300, marks=pytest.mark.long),
    ],
)
def test_a_p95_of_nine_tenths_of_its_limit_ends_no_run(memory: float, runs: int) -> None:
    dice, rule = np.random.default_rng(6), Threshold.parse("ttft.p95<1s", abort_on_fail=True)
    scale = 900 / P95
    ended = sum(
        p95_ends(rule, scale * np.exp(SPREAD * following(dice, 1_200, memory)), 10) is not None for _ in range(runs)
    )
    assert ended <= runs / 100, ended


def test_a_run_at_twice_its_limit_is_ended_soon() -> None:
    dice = np.random.default_rng(7)
    share, latency = Threshold.parse("failed<5%"), Threshold.parse("ttft.p95<1s")
    by_share = [share_ends(share, dice.random(3_000) < 0.1, 10) or 999 for _ in range(30)]
    by_p95 = [p95_ends(latency, 2_000 / P95 * np.exp(SPREAD * following(dice, 300, 0.6)), 10) or 999 for _ in range(30)]
    assert np.median(by_share) < 60 and max(by_share) < 300
    assert max(by_p95) <= 15
    assert share_ends(share, np.ones(3_000, dtype=bool), 10) == 9  # as soon as there are enough
