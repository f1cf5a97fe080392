"""Growth: when it reaches a limit, and what the hours of a week look like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planner.costs.demand_path import DAY_S, HOURS_PER_WEEK, Floats
from planner.demand import HOUR_S, Demand

WEEKS_FOR_A_PROFILE = 2
MOST_MONTHS = 1_200
HOURS = int(HOURS_PER_WEEK)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReached:
    limit: str  # in words
    now: float
    at: float  # in the same unit
    growth_per_month: float  # 0.05: 5 % more each month
    months: int | None  # from now; 0: it is reached already; None: growth does not lead there
    break_even: bool  # beyond it there is a choice, and no limit


def months_until(now: float, at: float, growth_per_month: float) -> int | None:
    """The first whole month m in which now x (1 + growth)^m is at least `at`.

    0 where it is now. None where the demand is nothing, does not grow, or takes more than a hundred years to.
    """
    if now >= at:
        return 0
    if now <= 0 or growth_per_month <= 0 or not math.isfinite(at):
        return None
    months = math.log(at / now) / math.log1p(growth_per_month)
    # A limit that a whole number of months just reaches is not to be missed by rounding.
    return max(1, math.ceil(months - 1e-9)) if months <= MOST_MONTHS else None


def limits_reached(
    limits: Mapping[str, tuple[float, float]], growth_per_month: float, *, break_even: str | None = None
) -> tuple[LimitReached, ...]:
    """Of limits by name, as (now, at); the first to be reached first. `break_even` is the name of the one that is."""
    rows = [
        LimitReached(
            limit=name,
            now=now,
            at=at,
            growth_per_month=growth_per_month,
            months=months_until(now, at, growth_per_month),
            break_even=name == break_even,
        )
        for name, (now, at) in limits.items()
    ]
    return tuple(sorted(rows, key=lambda row: math.inf if row.months is None else row.months))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeekProfile:
    """The hours of a week, Monday 00:00 UTC first where the demand's start is known, else from its own start."""

    weeks: int  # whole ones that it is made of
    median_requests_per_s: tuple[float, ...]  # 168
    p95_requests_per_s: tuple[float, ...]  # nearest rank: below 20 weeks it is the greatest seen
    peak_to_average: float  # the busiest hour of the profile's medians over their mean
    busiest_hour: int  # of the 168


def week_profile(demand: Demand) -> WeekProfile | None:
    """None below two whole weeks: a profile is not identified by one of each hour."""
    weeks = int(demand.span_s / (7 * DAY_S) + 1e-9)
    if weeks < WEEKS_FOR_A_PROFILE:
        return None
    hours = (demand.arrivals["at_s"].to_numpy() / HOUR_S).astype(np.int64)
    counted = np.bincount(hours[hours < weeks * HOURS], minlength=weeks * HOURS) / HOUR_S
    by_hour = np.sort(counted.reshape(weeks, HOURS), axis=0)
    median = np.median(by_hour, axis=0)
    mean = float(median.mean())
    return WeekProfile(
        weeks=weeks,
        median_requests_per_s=_plain(median),
        p95_requests_per_s=_plain(by_hour[math.ceil(0.95 * weeks) - 1]),
        peak_to_average=float(median.max()) / mean if mean else 1.0,
        busiest_hour=int(median.argmax()),
    )


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
