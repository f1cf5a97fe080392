"""How many deployments a demand needs, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable

from loadgen.quota import Quota
from planner.demand import MINUTE_S, Demand, admission_tokens


def smallest(is_enough: Callable[[int], bool], start: int, most: int) -> int:
    """The smallest number from 1 that is enough, if each above one that is enough is so too, and `most` is.

    Looked for from `start` in both directions, by steps that double, and then by halves.
    """
    step = 1
    if is_enough(start):
        low, high = start - 1, start
        while low > 0 and is_enough(low):
            low, high, step = max(0, low - 2 * step), low, 2 * step
    else:
        low, high = start, start + 1
        while high < most and not is_enough(high):
            low, high, step = high, min(most, high + 2 * step), 2 * step
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def mean_load(demand: Demand, quota: Quota) -> float:
    """The deployments' quota that the demand takes up on average, by the limit that it fills more."""
    minutes = demand.span_s / MINUTE_S
    tokens: int = demand.arrivals.select(admission_tokens(quota.admission).sum()).item()
    return max(tokens / quota.tokens_per_minute, demand.arrivals.height / quota.requests_per_minute) / minutes
