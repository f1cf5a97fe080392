"""The figures that thresholds name, each with n and a 95 % interval.

Percentiles have order-statistic intervals and shares Wilson's (see quantiles). Means, rates and costs have those of
batch means: the requests in the order they came due (or the steady phase) are cut into 20 batches, whose means are
nearly independent where single values are not, and Student's t holds for them (Law, Simulation Modeling and Analysis,
chapter 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from loadgen.config import TargetConfig
from loadgen.samples import Outcome, Run
from loadgen.slo import Slo, Threshold
from planner.demand import attempts_with_tokens
from planner.metrics import max_ms, quantile, values
from planner.objectives import goodput, part, sorted_of
from planner.prices import PriceBook, read_prices
from planner.quantiles import wilson
from planner.rows import NS_PER_MS, OK, PAST_BUDGET, SENT, STEADY, THROTTLED, config_of, steady_stretch
from planner.traffic import billed_attempts

Numbers = np.ndarray[tuple[int, ...], np.dtype[Any]]
BATCHES = 20
FEWEST_OF_BATCH = 2  # requests
_T = 2.093024054408263  # Student's t of 19 degrees of freedom, 97.5 %
_DROPPED = pl.col("outcome") == Outcome.DROPPED
_CANCELLED = pl.col("outcome") == Outcome.CANCELLED
_FAILED = pl.col("outcome").is_in(
    [
        each.value
        for each in (
            Outcome.REJECTED,
            Outcome.SERVER_ERROR,
            Outcome.TIMEOUT,
            Outcome.NETWORK,
            Outcome.BROKEN_STREAM,
        )
    ]
)
_ENDED = ~_DROPPED & ~_CANCELLED  # attempts of which we know what came


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A value in its metric's unit; None where the data cannot say, and `why` if it is not n alone."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    needs_n: int = 1
    why: str = ""


def latency_figure(run: Run, rule: Threshold) -> Figure:
    """Milliseconds."""
    if rule.statistic == "mean":
        of_requests = values(run, rule.metric, STEADY & part(rule)).group_by("seq", "attempt")
        sums = of_requests.agg(due=pl.col("due_ns").first(), total=pl.col("value_ns").sum(), n=pl.len())
        in_order = sums.sort("due", "seq", "attempt").collect()
        return _mean(in_order["total"].to_numpy() / NS_PER_MS, in_order["n"].to_numpy())
    ascending = sorted_of(run, rule)
    n = len(ascending)
    if n == 0:
        return Figure(value=None, n=0, why=f"no answer of the steady phase has {rule.metric}")
    if rule.quantile is not None:
        found = quantile(ascending, rule.quantile)
        return Figure(value=found.value_ms, low=found.low_ms, high=found.high_ms, n=n, needs_n=found.needs_n)
    return Figure(value=max_ms(ascending) if rule.statistic == "max" else float(ascending[0]) / NS_PER_MS, n=n)


def share_figure(run: Run, rule: Threshold, slos: Sequence[Slo]) -> Figure:
    """0 to 1; of arrivals for goodput and dropped, of attempts for the others."""
    steady = run.samples.filter(STEADY & part(rule))
    if rule.metric == "goodput":
        found = goodput(run, slos, STEADY & part(rule))
        counts = (0, 0) if found is None else (found.good, found.offered)
    elif rule.metric == "dropped":
        arrivals = steady.filter(~PAST_BUDGET).select(_DROPPED.sum(), pl.col("seq").n_unique().alias("n"))
        counts = arrivals.collect().row(0)
    elif rule.metric == "throttled":
        counts = steady.filter(SENT).select(THROTTLED.sum(), pl.len().alias("n")).collect().row(0)
    else:
        bad = _FAILED if rule.metric == "failed" else ~OK
        counts = steady.filter(_ENDED).select(bad.sum(), pl.len().alias("n")).collect().row(0)
    hits, n = counts
    if n == 0:
        return Figure(value=None, n=0, why="nothing came due in the steady phase")
    share = wilson(hits, n)
    return Figure(value=share.value, low=share.low, high=share.high, n=n)


def rate_figure(run: Run, rule: Threshold) -> Figure:
    """Answers, or tokens of answers, a second of the steady phase, by when they were complete."""
    stretch = steady_stretch(run)
    if stretch.seconds <= 0:
        return Figure(value=None, n=0, why="there is no steady phase")
    amount = pl.len() if rule.metric == "requests_per_s" else pl.col("completion_tokens").sum()
    width_ns = (stretch.end_ns - stretch.start_ns) / BATCHES
    within = pl.col("done_ns").is_between(stretch.start_ns, stretch.end_ns, closed="left")
    batch = ((pl.col("done_ns") - stretch.start_ns) / width_ns).floor().clip(0, BATCHES - 1).cast(pl.Int64)
    rows = (
        attempts_with_tokens(run)
        .filter(OK & within & part(rule))
        .group_by(batch=batch)
        .agg(n=pl.len(), amount=amount)
        .collect()
    )
    sums = np.zeros(BATCHES)
    sums[rows["batch"].to_numpy()] = rows["amount"].to_numpy()
    value = float(sums.sum()) / stretch.seconds
    low, high = _interval(value, sums / (stretch.seconds / BATCHES))
    return Figure(value=value, low=max(0.0, low), high=high, n=int(rows["n"].sum()))


def count_figure(run: Run, rule: Threshold) -> Figure:
    """Attempts of the steady phase that were sent."""
    n: int = run.samples.filter(STEADY & SENT & part(rule)).select(pl.len()).collect().item()
    return Figure(value=float(n), n=n)


def cost_figure(run: Run, rule: Threshold) -> Figure:
    """US dollars for a thousand requests that are billed, of the whole run, at the price book's serverless prices."""
    config = config_of(run)
    book = read_prices(config.plan.prices)
    usd = pl.lit(None, pl.Float64)
    for target in config.targets:
        price = _usd_of(target, str(run.manifest.deployment_of(target.name).get("model_name") or ""), book)
        mine = pl.lit(value=True) if len(config.targets) == 1 else pl.col("target") == target.name
        usd = pl.when(mine).then(price).otherwise(usd)
    billed = billed_attempts(run).filter(part(rule)).sort("due_ns", "seq").select(usd=usd * 1_000).collect()["usd"]
    if billed.is_empty() or billed.null_count():
        why = "no request was billed" if billed.is_empty() else "the price book has no price for the model"
        return Figure(value=None, n=0 if billed.is_empty() else len(billed), why=why)
    return _mean(billed.to_numpy(), np.ones(len(billed)))


def _usd_of(target: TargetConfig, said: str, book: PriceBook) -> pl.Expr:
    """What an attempt cost; null where there is no price."""
    prompt_usd, completion_usd = target.usd_per_1k_prompt, target.usd_per_1k_completion
    if prompt_usd is None or completion_usd is None:
        listed = book.token_price(target.model or said)
        if listed is None:
            return pl.lit(None, pl.Float64)
        prompt_usd, completion_usd = listed.input_usd_per_1k, listed.output_usd_per_1k
    return (pl.col("prompt_tokens") * prompt_usd + pl.col("completion_tokens") * completion_usd) / 1_000


def _mean(totals: Numbers, counts: Numbers) -> Figure:
    """Of all values of some requests, in the order these came due: the total of each and how many it had."""
    n = int(counts.sum())
    if n == 0:
        return Figure(value=None, n=0, why="no answer of the steady phase has it")
    value = float(totals.sum()) / n
    if len(totals) < BATCHES * FEWEST_OF_BATCH:
        return Figure(value=value, n=n)
    pairs = zip(np.array_split(totals, BATCHES), np.array_split(counts, BATCHES), strict=True)
    low, high = _interval(value, np.array([total.sum() / count.sum() for total, count in pairs]))
    return Figure(value=value, low=low, high=high, n=n)


def _interval(value: float, means: Numbers) -> tuple[float, float]:
    half = _T * float(means.std(ddof=1)) / BATCHES**0.5
    return value - half, value + half
