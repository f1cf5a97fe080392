"""Load over time: what a demand asks of a fleet minute by minute, and the instances that takes with a lead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from planner.demand import Demand
from planner.fleets.sharing import Floats
from planner.quantiles import nearest_rank

MINUTE_S = 60.0
MINUTES_AN_HOUR = 60
LEAD_QUANTILE = 0.95
SURE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class HourOfFleet:
    hour: int  # from the start of the demand
    requests: int
    peak_rate_per_s: float  # of the hour's busiest minute, in requests of the mean mix
    instances: int  # at the hour's most, spare included: ready at each minute for the load until a lead later


@dataclass(frozen=True, slots=True)
class LoadPath:
    """By minutes of the demand; `load_per_s` counts a request by its share of an instance."""

    load_per_s: Floats
    requests: NDArray[np.int64]
    span_s: float
    peak_per_s: float  # of the load: the busiest minute, or the quantile of the minutes that was asked for
    peak_requests_per_s: float  # likewise, of the requests


def path_of(demand: Demand, weights: Floats, quantile: float = 1.0) -> LoadPath:
    """`weights` are of the demand's arrivals, 1 in the mean. A demand below a minute is one minute at its rate."""
    at_s = demand.arrivals["at_s"].to_numpy()
    minutes = max(1, math.ceil(demand.span_s / MINUTE_S - SURE))
    minute = np.minimum((at_s / MINUTE_S + SURE).astype(np.int64), minutes - 1)
    width_s = min(MINUTE_S, demand.span_s)
    load_per_s: Floats = np.bincount(minute, weights=weights, minlength=minutes) / width_s
    requests = np.bincount(minute, minlength=minutes)
    rank = nearest_rank(minutes, quantile) - 1
    return LoadPath(
        load_per_s=load_per_s,
        requests=requests,
        span_s=demand.span_s,
        peak_per_s=float(np.sort(load_per_s)[rank]),
        peak_requests_per_s=float(np.sort(requests)[rank]) / width_s,
    )


def most_ahead(load_per_s: Floats, lead_s: float) -> Floats:
    """For each minute the most load within it and the lead behind it."""
    ahead = math.ceil(lead_s / MINUTE_S)
    padded = np.concatenate([load_per_s, np.full(ahead, -np.inf)])
    windows: Floats = np.lib.stride_tricks.sliding_window_view(padded, ahead + 1).max(axis=1)
    return windows


def needed_by_hour(
    path: LoadPath, rate_per_s: float, *, lead_s: float, least: int, spare: int
) -> tuple[tuple[HourOfFleet, ...], float]:
    """The hours, and the instance-hours of what each minute needs."""
    ahead = most_ahead(path.load_per_s, lead_s)
    instances = np.maximum(np.ceil(ahead / rate_per_s - SURE).astype(np.int64) + spare, least)
    hours = []
    for first in range(0, len(instances), MINUTES_AN_HOUR):
        minutes = slice(first, first + MINUTES_AN_HOUR)
        hours.append(
            HourOfFleet(
                hour=first // MINUTES_AN_HOUR,
                requests=int(path.requests[minutes].sum()),
                peak_rate_per_s=float(path.load_per_s[minutes].max()),
                instances=int(instances[minutes].max()),
            )
        )
    widths_s = np.full(len(instances), MINUTE_S)
    widths_s[-1] = path.span_s - MINUTE_S * (len(instances) - 1)
    return tuple(hours), float((instances * widths_s).sum()) / 3_600


def headroom_for(path: LoadPath, lead_s: float) -> float | None:
    """By how much the load grows within the lead, 19 times of 20 no more; None where the demand is no longer than it.

    h = Q_95(max of the load over [t, t + lead] / load at t) - 1.
    """
    whole = len(path.load_per_s) - math.ceil(lead_s / MINUTE_S)
    if whole < 1 or path.span_s <= lead_s:
        return None
    now = path.load_per_s[:whole]
    busy = now > 0
    if not busy.any():
        return None
    growth = np.sort(most_ahead(path.load_per_s, lead_s)[:whole][busy] / now[busy])
    return float(growth[nearest_rank(len(growth), LEAD_QUANTILE) - 1]) - 1


def busiest_stretch(demand: Demand, stretch_s: float) -> Demand:
    """The stretch of so many seconds with the most arrivals, from the first of them on."""
    if demand.span_s <= stretch_s:
        return demand
    at_s = demand.arrivals["at_s"].to_numpy()
    counts = np.searchsorted(at_s, at_s + stretch_s) - np.arange(len(at_s))
    first = int(counts.argmax())
    arrivals = demand.arrivals.slice(first, int(counts[first])).with_columns(pl.col("at_s") - at_s[first])
    return Demand(arrivals, stretch_s, f"the busiest {stretch_s / 60:.3g} min of {demand.source}")
