"""What a report's figures over time, and of lengths, are drawn from: one question, one frame.

Long series are reduced to what a figure's pixels can show, with every extreme in it (planner/reduced.py).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from loadgen.samples import Outcome, Run
from planner.demand import MINUTE_S, Demand, Floats, Whole, admission_tokens, attempts_with_tokens
from planner.in_flight import in_flight
from planner.limits_ahead import reached_by_growth
from planner.metrics import values
from planner.plan import Plan
from planner.quantiles import as_fraction, needed_samples
from planner.reduced import reduced
from planner.rows import NS_PER_S, OK, SENT, STEADY, THROTTLED, Stretch, config_of, in_ms, in_seconds

REFUSED, FAILED, DROPPED = "refused", "failed", "dropped"
TROUBLES = {
    Outcome.THROTTLED: REFUSED, Outcome.DROPPED: DROPPED,
    **dict.fromkeys((Outcome.FILTERED, Outcome.REJECTED, Outcome.SERVER_ERROR), FAILED),
    **dict.fromkeys((Outcome.TIMEOUT, Outcome.NETWORK, Outcome.BROKEN_STREAM), FAILED),
}  # fmt: skip
EDGES = (0, 1, *sorted(part << power for power in range(23) for part in (2, 3)))  # of tokens: two bins an octave
MOST_MONTHS = 60
GROWTH_POINTS = 25


def demand_over_time(demand: Demand, stretch: Stretch, plan: Plan, run: Run) -> pl.DataFrame:
    """What came due in the minute before, in shares of the quota. Columns at_s, tokens_share, requests_share, whole.

    Of the steady phase, at each arrival and each second; its largest values are `plan.quota`'s shares. The first minute
    fills from nothing, as a quota's does, and `whole` is false there: an estimate from less would rise above the
    busiest minute by chance. A phase of less than a minute is scaled up to one. Empty without a quota.
    """
    schema = {"at_s": pl.Float64, "tokens_share": pl.Float64, "requests_share": pl.Float64, "whole": pl.Boolean}
    if plan.quota is None or demand.arrivals.is_empty():
        return pl.DataFrame(schema=schema)
    arrived_s = demand.arrivals["at_s"].to_numpy()
    tokens = demand.arrivals.select(admission_tokens(config_of(run).quota.admission)).to_series().to_numpy()
    seconds = np.arange(0.0, demand.span_s)
    at_s = np.unique(np.concatenate([arrived_s, seconds, [demand.span_s]]))
    scale = max(1.0, MINUTE_S / demand.span_s)
    frame = pl.DataFrame(
        {
            "at_s": at_s + stretch.start_s,
            "tokens_share": _within_a_minute(arrived_s, tokens, at_s) * scale / plan.quota.tokens_per_minute,
            "requests_share": _within_a_minute(arrived_s, np.ones(len(arrived_s), np.int64), at_s)
            * scale
            / plan.quota.requests_per_minute,
            "whole": at_s >= min(MINUTE_S, demand.span_s),
        },
        schema=schema,
    )
    return reduced(frame, "at_s", "tokens_share", "requests_share")


def _within_a_minute(arrived_s: Floats, amount: Whole, at_s: Floats) -> Floats:
    """The sum of what arrived in (t - 60 s, t], for each t."""
    up_to = np.concatenate([[0], np.cumsum(amount)])
    arrived_ns, at_ns = (np.rint(each * NS_PER_S) for each in (arrived_s, at_s))
    last = np.searchsorted(arrived_ns, at_ns, side="right")
    past = np.searchsorted(arrived_ns, at_ns - MINUTE_S * NS_PER_S, side="right")
    within: Floats = (up_to[last] - up_to[past]).astype(np.float64)
    return within


def growth_by_month(plan: Plan) -> pl.DataFrame:
    """How full each limit is as the demand grows. Columns limit, month, share, months (when it is reached, or null).

    Of the limits that growth leads to within five years, and up to there. Empty where no growth was asked for.
    """
    schema = {"limit": pl.String, "month": pl.Float64, "share": pl.Float64, "months": pl.Int64}
    rows = [
        row for row in reached_by_growth(plan) if row.months is not None and row.months <= MOST_MONTHS and row.at > 0
    ]
    last = max(6, *(round(1.2 * (row.months or 0)) for row in rows)) if rows else 0
    months = np.unique(np.concatenate([np.linspace(0, last, GROWTH_POINTS), [row.months or 0 for row in rows]]))
    frames = [
        pl.DataFrame(
            {
                "limit": [row.limit] * len(months),
                "month": months,
                "share": row.now / row.at * (1 + row.growth_per_month) ** months,
                "months": [row.months] * len(months),
            },
            schema=schema,
        )
        for row in rows
    ]
    return pl.concat([pl.DataFrame(schema=schema), *frames])


def in_flight_over_time(run: Run) -> pl.DataFrame:
    """Requests in flight from each instant on at which that changed, the whole run. Columns at_s, in_flight."""
    changes = in_flight(run).select(at_s=in_seconds(pl.col("at_ns")), in_flight="in_flight").collect()
    return reduced(changes, "at_s", "in_flight")


def troubles_over_time(run: Run, every_s: float) -> pl.DataFrame:
    """What was refused, failed or was dropped, by when it did (a drop by when it was due). Columns at_s, trouble, n.

    at_s is the start of the bin; what the client cancelled itself is none of these.
    """
    every_ns = max(1, round(every_s * NS_PER_S))
    ended_ns = pl.coalesce("done_ns", "sent_ns", "due_ns")
    trouble = pl.col("outcome").cast(pl.String).replace_strict(
        {outcome.value: name for outcome, name in TROUBLES.items()}, default=None, return_dtype=pl.String
    )  # fmt: skip
    return (
        run.samples.select(at_s=in_seconds(ended_ns // every_ns * every_ns), trouble=trouble)
        .drop_nulls("trouble")
        .group_by("at_s", "trouble")
        .agg(n=pl.len())
        .sort("at_s", "trouble")
        .collect()
    )


def refusals_over_time(run: Run, every_s: float) -> pl.DataFrame:
    """Attempts answered 429, by when they were sent, and how many were. Columns at_s, n, attempts.

    at_s is the start of the bin; bins in which nothing was refused are there too.
    """
    every_ns = max(1, round(every_s * NS_PER_S))
    return (
        run.samples.filter(SENT)
        .group_by(at_s=in_seconds(pl.col("sent_ns") // every_ns * every_ns))
        .agg(n=THROTTLED.sum(), attempts=pl.len())
        .sort("at_s")
        .collect()
    )


def waits_over_time(run: Run, every_s: float) -> pl.DataFrame:
    """How long the client's throttle held first attempts, by when they were due. Columns at_s, p50_ms, max_ms, n."""
    every_ns = max(1, round(every_s * NS_PER_S))
    middle = as_fraction(0.5)
    median = pl.col("value_ns").sort().get((pl.len().cast(pl.Int64) * middle.numerator - 1) // middle.denominator)
    return (
        values(run, "throttle_wait", pl.lit(value=True))
        .group_by(at_s=in_seconds(pl.col("due_ns") // every_ns * every_ns))
        .agg(p50_ms=in_ms(median), max_ms=in_ms(pl.col("value_ns").max()), n=pl.len())
        .sort("at_s")
        .collect()
    )


def lengths(run: Run) -> pl.DataFrame:
    """How many answers of the steady phase had such lengths, and how long they took.

    Columns prompt_low, prompt_high, completion_low, completion_high (tokens: from, to below), n, service_p50_ms (null
    of fewer answers than a median needs). Bins of EDGES, two an octave; only those that hold any.
    """
    tokens = ("prompt_tokens", "completion_tokens")
    answers = attempts_with_tokens(run).filter(STEADY & OK)
    frame = answers.select(*tokens, service_ns=pl.col("done_ns") - pl.col("sent_ns")).collect(engine="streaming")
    edges = np.array(EDGES)
    bins = {name: np.searchsorted(edges, frame[name].to_numpy(), side="right") - 1 for name in tokens}
    counted = (
        frame.select("service_ns", **{name: pl.Series(place) for name, place in bins.items()})
        .group_by(*tokens)
        .agg(n=pl.len(), median_ns=pl.col("service_ns").sort().get((pl.len() - 1) // 2))
        .sort(*tokens)
    )
    ends = {
        f"{name.removesuffix('_tokens')}_{end}": pl.Series(edges[counted[name].to_numpy() + more], dtype=pl.Int64)
        for name in tokens
        for end, more in (("low", 0), ("high", 1))
    }
    median_ms = pl.when(pl.col("n") >= needed_samples(0.5)).then(in_ms(pl.col("median_ns")))
    return counted.select(**ends, n=pl.col("n").cast(pl.Int64), service_p50_ms=median_ms)
