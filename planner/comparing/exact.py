"""Exact tests of small samples: no normal approximation, and no table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from planner.comparing.student import beta_quantile


def fisher_above(bad_base: int, n_base: int, bad_new: int, n_new: int) -> float:
    """The chance that so many of the bad, or more, fall to the new side if both are alike (Fisher's exact test).

    One-sided; 1 where either side is empty.
    """
    bad, n = bad_base + bad_new, n_base + n_new
    if not n_base or not n_new or not bad:
        return 1.0
    log_all = _log_choose(n, bad)
    chances = (
        math.exp(_log_choose(n_new, k) + _log_choose(n_base, bad - k) - log_all)
        for k in range(bad_new, min(bad, n_new) + 1)
        if bad - k <= n_base
    )
    return min(1.0, math.fsum(chances))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def clopper_pearson(good: int, n: int) -> tuple[float, float]:
    """The interval of a share that covers it 95 times in 100 at least, whatever it is (Clopper and Pearson, 1934)."""
    tail = 0.025
    low = 0.0 if good == 0 else beta_quantile(tail, good, n - good + 1)
    high = 1.0 if good == n else beta_quantile(1 - tail, good + 1, n - good)
    return low, high


def mann_whitney_above(base: Sequence[float], new: Sequence[float]) -> float:
    """The chance that the new values rank so high or higher if both are alike (Mann and Whitney, 1947); one-sided.

    Exact for values without ties. A tie counts half, rounded to the side of no difference.
    """
    wins = sum((b < a) + (b == a) / 2 for b in base for a in new)
    counts = _wins(len(base), len(new))
    return sum(counts[math.floor(wins) :]) / sum(counts)


@lru_cache(maxsize=256)
def _wins(n_base: int, n_new: int) -> tuple[int, ...]:
    """How many orderings of the two give each number of wins: the coefficients of Gauss's binomial."""
    most = n_base * n_new
    counts = [1] + [0] * most
    for each in range(1, n_base + 1):
        for k in range(most, n_new + each - 1, -1):
            counts[k] -= counts[k - n_new - each]
        for k in range(each, most + 1):
            counts[k] += counts[k - each]
    return tuple(counts)


def signed_rank_above(differences: Sequence[float]) -> float:
    """The chance that differences of pairs sum to so high ranks or higher if none is meant (Wilcoxon, 1945).

    One-sided and exact for differences without ties; zeros are left out.
    """
    sizes = sorted((abs(each), each > 0) for each in differences if each)
    seen = sum(rank for rank, (_, positive) in enumerate(sizes, 1) if positive)
    counts = _rank_sums(len(sizes))
    return sum(counts[seen:]) / sum(counts)


@lru_cache(maxsize=256)
def _rank_sums(n: int) -> tuple[int, ...]:
    counts = [1] + [0] * (n * (n + 1) // 2)
    for rank in range(1, n + 1):
        for k in range(len(counts) - 1, rank - 1, -1):
            counts[k] += counts[k - rank]
    return tuple(counts)


def least_chance(n_base: int, n_new: int, *, pairs: bool) -> float:
    """The smallest chance that either test of ranks can come to: so few orders there are of so few."""
    return 2.0**-n_base if pairs else 1 / math.comb(n_base + n_new, n_base)


def shift_orders(n_base: int, n_new: int, confidence: float = 0.95) -> int:
    """How many of the ascending differences are cut off either end for an interval of the shift; 0: none can be.

    The Hodges-Lehmann interval: the distribution of wins says which of the n_base * n_new differences bound it.
    """
    return _cut(_wins(n_base, n_new), (1 - confidence) / 2)


def pair_shift_orders(n: int, confidence: float = 0.95) -> int:
    """Likewise of the n (n + 1) / 2 means of two differences of pairs (Walsh averages)."""
    return _cut(_rank_sums(n), (1 - confidence) / 2)


def _cut(counts: Sequence[int], tail: float) -> int:
    total, below = sum(counts), 0
    for orders, count in enumerate(counts):
        below += count
        if below / total > tail:
            return orders
    return 0
