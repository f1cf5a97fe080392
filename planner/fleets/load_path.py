"""Load over time: what a demand asks of a fleet minute by minute, and the instances that takes with a lead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from planner.demand import HOUR_S, MINUTE_S, REQUESTS, Demand, bins_of, peaks_per_minute
from planner.fleets.sharing import Floats
from planner.quantiles import nearest_rank

PARTS = 1_000_000  # of a request's share, which are counted
LEAD_QUANTILE = 0.95
SURE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class HourOfFleet:
    hour: int  # from the start of the demand
    requests: int
    peak_rate_per_s: float  # of the hour's busiest minute, in requests of the mean mix
    instances: int  # at the hour's most, spare included: ready in each minute for the load until a lead later


@dataclass(frozen=True, slots=True)
class LoadPath:
    """By bins of about a minute, as costs are counted; `load_per_s` counts a request by its share of an instance."""

    bin_s: float
    load_per_s: Floats
    requests: NDArray[np.int64]
    span_s: float
    peak_per_s: float  # of the load: within any 60 s, or the quantile of the bins that was asked for
    peak_requests_per_s: float  # likewise, of the requests


def path_of(demand: Demand, weights: Floats, quantile: float = 1.0) -> LoadPath:
    """`weights` are of the demand's arrivals, 1 in the mean. A demand below a minute is one bin at its rate."""
    edges, bin_s = bins_of(demand, MINUTE_S)
    requests = np.diff(edges)
    bins = len(requests)
    load_per_s: Floats = np.bincount(np.repeat(np.arange(bins), requests), weights=weights, minlength=bins) / bin_s
    if quantile == 1:
        whole = pl.lit(pl.Series("weight", np.round(weights * PARTS).astype(np.int64)))
        load, requests_n = peaks_per_minute(demand, whole, REQUESTS)
        peak_per_s, peak_requests_per_s = load / PARTS / MINUTE_S, requests_n / MINUTE_S
    else:
        rank = nearest_rank(bins, quantile) - 1
        peak_per_s, peak_requests_per_s = float(np.sort(load_per_s)[rank]), float(np.sort(requests)[rank]) / bin_s
    return LoadPath(
        bin_s=bin_s,
        load_per_s=load_per_s,
        requests=requests,
        span_s=demand.span_s,
        peak_per_s=peak_per_s,
        peak_requests_per_s=peak_requests_per_s,
    )


def most_ahead(load_per_s: Floats, lead_s: float, bin_s: float = MINUTE_S) -> Floats:
    """For each bin the most load within it and the lead behind it."""
    ahead = math.ceil(lead_s / bin_s - SURE)
    padded = np.concatenate([load_per_s, np.full(ahead, -np.inf)])
    windows: Floats = np.lib.stride_tricks.sliding_window_view(padded, ahead + 1).max(axis=1)
    return windows


def needed_by_hour(
    path: LoadPath, rate_per_s: float, *, lead_s: float, least: int, spare: int
) -> tuple[tuple[HourOfFleet, ...], float]:
    """The hours, and the instance-hours of what each bin needs."""
    ahead = most_ahead(path.load_per_s, lead_s, path.bin_s)
    instances = np.maximum(np.ceil(ahead / rate_per_s - SURE).astype(np.int64) + spare, least)
    hour_of = (np.arange(len(instances)) * path.bin_s / HOUR_S + SURE).astype(np.int64)
    hours = tuple(
        HourOfFleet(
            hour=int(hour),
            requests=int(path.requests[hour_of == hour].sum()),
            peak_rate_per_s=float(path.load_per_s[hour_of == hour].max()),
            instances=int(instances[hour_of == hour].max()),
        )
        for hour in np.unique(hour_of)
    )
    return hours, float(instances.sum()) * path.bin_s / HOUR_S


def headroom_for(path: LoadPath, lead_s: float) -> float | None:
    """By how much the load grows within the lead, 19 times of 20 no more; None where the demand is no longer than it.

    h = Q_95(max of the load over [t, t + lead] / load at t) - 1.
    """
    whole = len(path.load_per_s) - math.ceil(lead_s / path.bin_s - SURE)
    if whole < 1 or path.span_s <= lead_s:
        return None
    now = path.load_per_s[:whole]
    busy = now > 0
    if not busy.any():
        return None
    growth = np.sort(most_ahead(path.load_per_s, lead_s, path.bin_s)[:whole][busy] / now[busy])
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
