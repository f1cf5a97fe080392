"""Whether the objectives were met: by the statistic they name, and request by request (goodput)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from loadgen.samples import Run
from loadgen.slo import FILTERS, Slo, Threshold
from planner.ascending import Ascending
from planner.metrics import METRICS, OF_STREAMS, max_ms, mean_ms, quantile, values, values_of
from planner.plan import Goodput, LatencyRow, SloResult
from planner.quantiles import wilson
from planner.rows import NS_PER_MS, OK, PAST_BUDGET, STEADY, count_arrivals

_EVERY = pl.lit(value=True)


def slo_results(run: Run, slos: Sequence[Slo], known: Mapping[str, LatencyRow] | None = None) -> tuple[SloResult, ...]:
    """The measured statistic against the limit; `met` is None where too few samples support a percentile, or none came.

    Only percentiles have an interval here. `known`: rows of all scenarios by metric, which need not be read again.
    """
    return tuple(_of_row(slo, known or {}) or _result(slo, sorted_of(run, slo)) for slo in slos)


def _of_row(slo: Slo, known: Mapping[str, LatencyRow]) -> SloResult | None:
    """None where no row has the statistic."""
    row = known.get(slo.metric)
    if row is None or any(getattr(slo, name) is not None for name in FILTERS):
        return None
    found = {0.5: row.p50, 0.9: row.p90, 0.95: row.p95, 0.99: row.p99}.get(slo.quantile or 0.0)
    if found is None:
        return None
    measured_ms = found.value_ms
    return SloResult(
        text=slo.text,
        n=row.n,
        measured_ms=measured_ms,
        low_ms=found.low_ms,
        high_ms=found.high_ms,
        met=None if measured_ms is None else _keeps(slo, measured_ms),
    )


def part(rule: Slo | Threshold) -> pl.Expr:
    """The rows of the scenario and the target that it is about."""
    about = pl.lit(value=True)
    for name in FILTERS:
        value = getattr(rule, name)
        about = about if value is None else about & (pl.col(name) == value)
    return about


def sorted_of(run: Run, rule: Slo | Threshold) -> Ascending:
    """All values of its metric, in ns, ascending."""
    return values_of(run, rule.metric, STEADY & part(rule))


def judged_by_sweep(results: Sequence[SloResult], swept: Sequence[Slo]) -> tuple[SloResult, ...]:
    """Of the step that a sweep found to meet its objectives `swept`: where its own percentile cannot say, that holds.

    The sweep judges the share of requests beyond the limit (see planner.sweep), which takes fewer of them than the
    percentile's own interval, and may pool several measurements of a rate.
    """
    met = {slo.text for slo in swept}
    return tuple(replace(each, met=True) if each.met is None and each.text in met else each for each in results)


def _result(slo: Slo, ascending: Ascending) -> SloResult:
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
    return bool(slo.keeps(measured_ms * NS_PER_MS))


def goodput(run: Run, slos: Sequence[Slo], offered: int | None = None) -> Goodput | None:
    """Share of the steady phase's arrivals of which an attempt was answered within the limit of every objective.

    Each limit is applied to the request itself, whatever statistic the objective names; that of itl to each of its
    gaps. A metric that a request does not have (a plain answer has no ttft) does not count against it, and
    `without` says of how many good ones that holds. None without objectives or arrivals. An objective of one scenario
    or target is asked of its requests alone. `offered`: arrivals, where they were counted before.
    """
    if offered is None:
        (offered,) = count_arrivals(run.samples.filter(STEADY & ~PAST_BUDGET), _EVERY)
    if not slos or not offered:
        return None
    good, without = count_arrivals(good_attempts(run, slos), _EVERY, _lacking(slos))
    share = wilson(good, offered)
    return Goodput(share=share.value, low=share.low, high=share.high, good=good, offered=offered, without=without)


def good_attempts(run: Run, slos: Sequence[Slo], of: pl.Expr = STEADY) -> pl.LazyFrame:
    """The answered attempts that kept every limit."""
    kept = run.samples.filter(of & OK)
    for slo in slos:
        definition = METRICS[slo.metric]
        if definition is None:
            missed = _missed(run, slo).lazy()
            kept = kept.join(missed, on=["seq", "attempt"], how="anti", maintain_order="left")
        else:
            kept = kept.filter(~(part(slo) & beyond(slo, definition)).fill_null(value=False))
    return kept


def _lacking(slos: Sequence[Slo]) -> pl.Expr:
    """The answers that came without what an objective is about: no stream, so no first token and no gap."""
    about_streams = [part(slo) for slo in slos if slo.metric in OF_STREAMS]
    return pl.col("first_token_ns").is_null() & pl.any_horizontal(pl.lit(value=False), *about_streams)


def _missed(run: Run, slo: Slo) -> pl.DataFrame:
    """The answered attempts that did not keep the limit. Columns seq, attempt."""
    missed = values(run, slo.metric, STEADY & part(slo)).filter(beyond(slo))
    return missed.select("seq", "attempt").unique().collect(engine="streaming")


def beyond(slo: Slo, value: pl.Expr = pl.col("value_ns")) -> pl.Expr:  # noqa: B008 - an expression is a value
    """Whether a value in ns does not keep the limit."""
    beyond_it: pl.Expr = ~slo.keeps(value)
    return beyond_it
