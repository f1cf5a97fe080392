"""A percentile of one run with an interval that stays right where neighbouring requests resemble each other.

The interval is Woodruff's (1952): the share of values below the percentile is a mean, whose error is taken from blocks
of the run in time, and the ranks that it reaches are read off the sorted values. A bootstrap of the same blocks covers
a p95 of 400 requests 88 to 92 times in 100 instead of 95, since what it draws again is too few blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.comparing.student import t_quantile
from planner.intervals import BLOCKS, block_ranks, in_blocks
from planner.quantiles import needed_samples

_T = t_quantile(0.975, BLOCKS - 1)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuantile:
    """A percentile within one run. It says nothing of how other runs of the same would differ."""

    metric: str
    percentile: float  # 95.0
    n: int
    value_ms: float | None  # None where n cannot support it
    low_ms: float | None  # 95 % interval; None where it reaches beyond the values
    high_ms: float | None
    of: str = ""  # which requests: all that have the latency, scenario=NAME, or stream=no

    @property
    def log_error(self) -> float | None:
        """The standard error of the logarithm, with BLOCKS - 1 degrees of freedom; None where an end is not known.

        The one end says nothing of the other: above a high percentile values lie further apart than below it.
        """
        if not self.low_ms or self.high_ms is None:
            return None
        return math.log(self.high_ms / self.low_ms) / 2 / _T


def run_quantile(metric: str, percentile: float, values_ms: Floats, of: str = "") -> RunQuantile:
    """`values_ms` in the order of time."""
    q, n = percentile / 100, len(values_ms)
    if n < max(needed_samples(q), 2 * BLOCKS):
        return RunQuantile(metric=metric, percentile=percentile, n=n, value_ms=None, low_ms=None, high_ms=None, of=of)
    ascending = np.sort(values_ms)
    value = float(ascending[max(1, math.ceil(round(q * n, 6))) - 1])
    low, high = block_ranks(*in_blocks(values_ms <= value), q)
    return RunQuantile(
        metric=metric,
        percentile=percentile,
        n=n,
        value_ms=value,
        low_ms=_at_rank(ascending, low),
        high_ms=_at_rank(ascending, high),
        of=of,
    )


def _at_rank(ascending: Floats, rank: float | None) -> float | None:
    """Between two order statistics where the rank, from 1, is not whole."""
    return None if rank is None else float(np.interp(rank, np.arange(1, len(ascending) + 1), ascending))
