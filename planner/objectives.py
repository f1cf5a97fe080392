"""Whether the objectives were met: by the statistic they name, and request by request (goodput)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from loadgen.samples import Run
from loadgen.slo import FILTERS, Slo, Threshold
from planner.metrics import max_ms, mean_ms, quantile, values
from planner.plan import Goodput, SloResult
from planner.quantiles import wilson
from planner.rows import NS_PER_MS, OK, PAST_BUDGET, STEADY


def slo_results(run: Run, slos: Sequence[Slo]) -> tuple[SloResult, ...]:
    """The measured statistic against the limit; `met` is None where too few samples support a percentile, or none came.

    Only percentiles have an interval here.
    """
    return tuple(_result(slo, sorted_of(run, slo)) for slo in slos)


def part(rule: Slo | Threshold) -> pl.Expr:
    """The rows of the scenario and the target that it is about."""
    about = pl.lit(value=True)
    for name in FILTERS:
        value = getattr(rule, name)
        about = about if value is None else about & (pl.col(name) == value)
    return about


def sorted_of(run: Run, rule: Slo | Threshold) -> pl.Series:
    """All values of its metric, in ns, ascending."""
    found = values(run, rule.metric, STEADY & part(rule)).select("value_ns").sort("value_ns").collect()
    return found["value_ns"]


def judged_by_sweep(results: Sequence[SloResult], swept: Sequence[Slo]) -> tuple[SloResult, ...]:
    """Of the step that a sweep found to meet its objectives `swept`: where its own percentile cannot say, that holds.

    The sweep judges the share of requests beyond the limit (see planner.sweep), which takes fewer of them than the
    percentile's own interval, and may pool several measurements of a rate.
    """
    met = {slo.text for slo in swept}
    return tuple(replace(each, met=True) if each.met is None and each.text in met else each for each in results)


def _result(slo: Slo, ascending: pl.Series) -> SloResult:
    low_ms = high_ms = None
    if slo.quantile is not None:
        percentile = quantile(ascending, slo.quantile)
        measured_ms, low_ms, high_ms = percentile.value_ms, percentile.low_ms, percentile.high_ms
    else:
        measured_ms = mean_ms(ascending) if slo.statistic == "mean" else max_ms(ascending)
    return SloResult(
        text=slo.text,
        n=len(ascending),
        measured_ms=measured_ms,
        low_ms=low_ms,
        high_ms=high_ms,
        met=None if measured_ms is None else _keeps(slo, measured_ms),
    )


def _keeps(slo: Slo, measured_ms: float) -> bool:
    limit_ms = slo.limit_ns / NS_PER_MS
    return measured_ms <= limit_ms if "<=" in slo.text else measured_ms < limit_ms


def goodput(run: Run, slos: Sequence[Slo], of: pl.Expr = STEADY) -> Goodput | None:
    """Share of the steady phase's arrivals of which an attempt was answered within the limit of every objective.

    Each limit is applied to the request itself, whatever statistic the objective names; that of itl to each of its
    gaps. A metric that a request does not have (a plain answer has no ttft) does not count against it. None without
    objectives or arrivals. An objective of one scenario or target is asked of its requests alone. `of`: rows of the
    steady phase, where not all of them are meant.
    """
    offered = run.samples.filter(of & ~PAST_BUDGET).select(pl.col("seq").n_unique()).collect().item()
    if not slos or not offered:
        return None
    good_attempts = run.samples.filter(of & OK)
    for slo in slos:
        good_attempts = good_attempts.join(_missed(run, slo), on=["seq", "attempt"], how="anti")
    good = good_attempts.select(pl.col("seq").n_unique()).collect().item()
    share = wilson(good, offered)
    return Goodput(share=share.value, low=share.low, high=share.high, good=good, offered=offered)


def _missed(run: Run, slo: Slo) -> pl.LazyFrame:
    """The answered attempts that did not keep the limit. Columns seq, attempt."""
    return values(run, slo.metric, STEADY & part(slo)).filter(beyond(slo)).select("seq", "attempt")


def beyond(slo: Slo) -> pl.Expr:
    """Whether a value_ns does not keep the limit."""
    value = pl.col("value_ns")
    return value > slo.limit_ns if "<=" in slo.text else value >= slo.limit_ns
