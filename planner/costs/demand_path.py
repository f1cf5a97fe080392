"""The demand minute by minute, and which share of a month's hours each minute of it stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planner.demand import HOUR_S, MINUTE_S, REQUESTS, Demand, bins_of, peak_per_minute

Floats = npt.NDArray[np.float64]

DAY_S = 24 * HOUR_S
HOURS_PER_WEEK = 168.0
LONG_S = 45 * DAY_S  # of more, an hour is fine enough


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandPath:
    """Rates of `measured` bins of bin_s seconds each in their order and, where hours off are assumed, one bin for them.

    All arrays have the shape (bins,).
    """

    bin_s: float
    span_s: float  # of the demand
    arrivals: int  # that were counted, growth aside
    measured: int  # bins; one more may follow
    requests_per_s: Floats
    prompt_tokens_per_s: Floats
    completion_tokens_per_s: Floats
    share: Floats  # of a month's hours; sums to 1
    on: npt.NDArray[np.bool_]  # within the hours on
    peak_requests_per_s: float  # of the busiest sliding minute

    def mean(self, values: Floats) -> float:
        """Over a month, of what each bin has."""
        return float((self.share * values).sum())  # @ would wake the threads of BLAS, for longer than it takes

    @property
    def mean_requests_per_s(self) -> float:
        return self.mean(self.requests_per_s)

    @property
    def mean_tokens_per_s(self) -> float:
        return self.mean(self.prompt_tokens_per_s + self.completion_tokens_per_s)

    @property
    def output_share(self) -> float:
        """Of all tokens; zero where there are none."""
        tokens_per_s = self.mean_tokens_per_s
        return self.mean(self.completion_tokens_per_s) / tokens_per_s if tokens_per_s else 0.0

    @property
    def on_share(self) -> float:
        """Of a month's hours, those on."""
        return float(self.share[self.on].sum())


def demand_path(
    demand: Demand, *, growth: float = 1.0, hours_on_per_week: float = 168.0, off_hours_load_share: float = 0.0
) -> DemandPath:
    """The demand in bins of about a minute (of an hour, where it spans more than 45 days), repeated for a month.

    Growth multiplies its rates and leaves its hours where they are, as `planner.demand.grown` does not.

    Of a demand of a week or more the quietest hours are those off. A shorter one is taken to be what the hours on
    look like; the others then have `off_hours_load_share` of its mean rate. Raises ValueError for hours that no week
    has, and for less than no load.
    """
    if not 0 < hours_on_per_week <= HOURS_PER_WEEK or off_hours_load_share < 0 or growth <= 0:
        load = f"{off_hours_load_share:g} of the load in the others, {growth:g} times as much"
        raise ValueError(f"no month has {hours_on_per_week:g} h on a week, and {load}")
    span_s = demand.span_s if demand.span_s > 0 else MINUTE_S
    edges, bin_s = bins_of(demand, MINUTE_S if span_s <= LONG_S else HOUR_S)

    def rates_per_s(column: str | None) -> Floats:
        up_to = edges if column is None else np.append(0, np.cumsum(demand.arrivals[column].to_numpy()))[edges]
        counted: Floats = np.diff(up_to).astype(np.float64)
        return counted * growth / bin_s

    bins = len(edges) - 1

    path = DemandPath(
        bin_s=bin_s,
        span_s=span_s,
        arrivals=demand.arrivals.height,
        measured=bins,
        requests_per_s=rates_per_s(None),
        prompt_tokens_per_s=rates_per_s("prompt_tokens"),
        completion_tokens_per_s=rates_per_s("completion_tokens"),
        share=np.full(bins, 1 / bins),
        on=np.ones(bins, np.bool_),
        peak_requests_per_s=peak_per_minute(demand, REQUESTS) * growth / MINUTE_S,
    )
    on_share = hours_on_per_week / HOURS_PER_WEEK
    if on_share == 1:
        return path
    if span_s >= 7 * DAY_S:
        return replace(path, on=_busiest_hours(path, on_share))
    return _with_hours_off(path, on_share, off_hours_load_share)


def _busiest_hours(path: DemandPath, on_share: float) -> npt.NDArray[np.bool_]:
    """Which bins lie in them: nobody shuts a deployment down by the minute."""
    hour = (np.arange(path.measured) * path.bin_s / HOUR_S + 1e-9).astype(np.int64)
    counts = np.bincount(hour, weights=path.requests_per_s)
    busiest = np.argsort(-counts, kind="stable")[: math.ceil(on_share * len(counts) - 1e-9)]
    return np.isin(hour, busiest)


def _with_hours_off(path: DemandPath, on_share: float, load_share: float) -> DemandPath:
    def followed(rates_per_s: Floats) -> Floats:
        return np.append(rates_per_s, rates_per_s.mean() * load_share)

    return replace(
        path,
        requests_per_s=followed(path.requests_per_s),
        prompt_tokens_per_s=followed(path.prompt_tokens_per_s),
        completion_tokens_per_s=followed(path.completion_tokens_per_s),
        share=np.append(path.share * on_share, 1 - on_share),
        on=np.append(path.on, False),
    )


def unsaid_by(path: DemandPath) -> str | None:
    """What a demand of that length does not say of a month; None of four weeks and more."""
    if path.span_s >= 28 * DAY_S:
        return None
    lacking = "busier and quieter hours, nights and weekends"
    if path.span_s >= DAY_S:
        lacking = "weekends and other days"
    if path.span_s >= 7 * DAY_S:
        lacking = "other weeks"
    return (
        f"the demand spans {in_words(path.span_s)} and a month is taken to go on like that: of {lacking} it says "
        "nothing; plan from a longer trace with --demand"
    )


def in_words(span_s: float) -> str:
    """55 s, 5.1 min, 3.5 h, 12 days."""
    for unit_s, unit in ((DAY_S, "days"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if span_s >= 2 * unit_s:
            return f"{span_s / unit_s:.3g} {unit}"
    return f"{span_s:.3g} s"
