"""Intervals of the serving model: how far a prediction may be from what will be measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BASE_PAD = 0.03  # of a rate, within the steps: the residual of one form against another
PAD_PER_HORIZON = 0.2  # further, for each multiple of the highest steady rate: 90 % of errors at twice it are within
COVERAGE = 0.9
# By how many errors there are: the factor c for which another stays within c times the largest of them with 90 %
# probability, all being normal: the root of the integral of (2 Phi(c m) - 1) over the density of that largest.
OF_LARGEST = (math.inf, 6.31, 2.32, 1.67, 1.40, 1.25, 1.16, 1.09, 1.04)
NARROWEST = 0.005  # of a latency: no fit is known better


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure and where it lies with 90 % probability. `high` is infinite where nothing bounds it."""

    value: float
    low: float
    high: float

    def __float__(self) -> float:
        return self.value

    def divided(self, by: float) -> Interval:
        return Interval(value=self.value / by, low=self.low / by, high=self.high / by)


def load_pad(horizon: float) -> float:
    """Relative uncertainty of a rate: grows with the distance from the highest steady rate (horizon = 1)."""
    return BASE_PAD + PAD_PER_HORIZON * max(0.0, horizon - 1)


def half_width(left_out_errors: Sequence[float]) -> float:
    """Relative half-width of a 90 % interval: the conformal quantile of the errors at what was left out.

    That is the ceil(.9 (k + 1))-th smallest of k; of fewer than nine, the largest times OF_LARGEST.
    """
    ordered = sorted(abs(error) for error in left_out_errors)
    if len(ordered) < len(OF_LARGEST):
        return max(NARROWEST, OF_LARGEST[len(ordered)] * ordered[-1])
    return max(NARROWEST, ordered[min(len(ordered), math.ceil(COVERAGE * (len(ordered) + 1))) - 1])


def combined(value: float, *ends: tuple[float, float]) -> Interval:
    """One interval of several independent sources of error: (low, high) of each, about the value."""
    below = math.sqrt(sum(max(0.0, value - low) ** 2 for low, _ in ends))
    above = math.sqrt(sum(max(0.0, high - value) ** 2 for _, high in ends))
    return Interval(value=value, low=max(0.0, value - below), high=value + above)
