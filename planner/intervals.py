"""Intervals of one run's shares and percentiles that stay right where neighbours in time resemble each other.

How much the blocks of the run differ says how many independent values would know as much (the design effect of cluster
sampling). A share has the exact interval of that many trials (Korn and Graubard, 1998), a percentile those ranks that
the share of values below it reaches (Woodruff, 1952); neither is narrower than independent values would make it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.comparing.student import beta_quantile, t_quantile
from planner.quantiles import CONFIDENCE, Share, interval_ranks

BLOCKS = 10
MANY = 10_000  # hits, from where on the normal distribution says the same as the exact one


def share_interval(hits: NDArray[np.bool_], confidence: float = CONFIDENCE) -> Share:
    """Of n >= 1 trials in the order of time, those that were hits."""
    n, good = len(hits), int(hits.sum())
    share, tail = good / n, (1 - confidence) / 2
    effect = 1.0
    if 0 < good < n and n >= 2 * BLOCKS:
        z, t = t_quantile(1 - tail, math.inf), t_quantile(1 - tail, BLOCKS - 1)
        effect = max(1.0, (t / z * block_error(*in_blocks(hits))) ** 2 / (share * (1 - share) / n))
    low, high = _exact(good / effect, n / effect, tail)
    return Share(share, low, high)


def _exact(good: float, n: float, tail: float) -> tuple[float, float]:
    """Clopper and Pearson's (1934), of as many trials as there seem to be."""
    share = good / n
    if min(good, n - good) > MANY:
        half = t_quantile(1 - tail, math.inf) * math.sqrt(share * (1 - share) / n)
        return share - half, share + half
    low = 0.0 if good == 0 else beta_quantile(tail, good, n - good + 1)
    high = 1.0 if good == n else beta_quantile(1 - tail, good + 1, n - good)
    return low, high


def in_blocks(hits: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of each block how many are hits, and its size."""
    blocks = np.array_split(hits, BLOCKS)
    return np.array([block.sum() for block in blocks]), np.array([len(block) for block in blocks])


def block_error(below: NDArray[Any], sizes: NDArray[Any]) -> float:
    """The standard error of a share, of which each block has so many of so many: a ratio over blocks."""
    surplus = below - below.sum() / sizes.sum() * sizes
    return float(np.sqrt(BLOCKS / (BLOCKS - 1) * np.square(surplus).sum()) / sizes.sum())


def block_ranks(
    below: NDArray[Any], sizes: NDArray[Any], q: float, confidence: float = CONFIDENCE
) -> tuple[float | None, float | None]:
    """The ranks, from 1, that the share of values below the percentile reaches; None beyond the values.

    `below`: of each block's `sizes` values, how many are at most the percentile that was measured.
    """
    n = int(sizes.sum())
    reach = t_quantile((1 + confidence) / 2, BLOCKS - 1) * block_error(below, sizes)
    lowest, highest = n * (q - reach) + 0.5, n * (q + reach) + 0.5
    return (lowest if lowest >= 1 else None), (highest if highest <= n else None)


def reached_ranks(
    below: NDArray[Any], sizes: NDArray[Any], q: float, confidence: float = CONFIDENCE
) -> tuple[float | None, float | None]:
    """The `block_ranks`, or those of independent values where these are wider; None beyond the values."""
    n = int(sizes.sum())
    low, high = interval_ranks(n, q, confidence)
    if n < 2 * BLOCKS:
        return low, high
    lowest, highest = block_ranks(below, sizes, q, confidence)
    return (
        None if low is None or lowest is None else min(float(low), lowest),
        None if high is None or highest is None else max(float(high), highest),
    )
