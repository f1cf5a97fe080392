"""The figures that thresholds name, each with n and a 95 % interval.

No interval takes neighbouring requests to be independent. Those of percentiles and shares come from ten blocks of the
run (see intervals). Means, rates and costs have those of batch means: the requests in the order they came due (or the
steady phase) are cut into 20 batches, whose means are nearly independent where single values are not, and Student's t
holds for them (Law, Simulation Modeling and Analysis, chapter 9).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from loadgen.config import TargetConfig
from loadgen.samples import Outcome, Run
from loadgen.slo import Slo, Threshold
from planner.ascending import Ascending
from planner.comparing.student import t_quantile
from planner.demand import attempts_with_tokens
from planner.intervals import BLOCKS, reached_ranks, share_interval
from planner.metrics import METRICS, max_ms, values
from planner.objectives import good_attempts, part, sorted_of
from planner.prices import PriceBook, read_prices
from planner.quantiles import CONFIDENCE, nearest_rank, needed_samples
from planner.rows import NS_PER_MS, OK, PAST_BUDGET, SENT, STEADY, THROTTLED, config_of, steady_stretch
from planner.traffic import billed_attempts

Numbers = np.ndarray[tuple[int, ...], np.dtype[Any]]
BATCHES = 20
FEWEST_OF_MEAN = 2 * BATCHES  # requests
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


def latency_figure(run: Run, rule: Threshold, confidence: float = CONFIDENCE) -> Figure:
    """Milliseconds."""
    if rule.statistic == "mean":
        of_requests = values(run, rule.metric, STEADY & part(rule)).group_by("seq", "attempt")
        sums = of_requests.agg(due=pl.col("due_ns").first(), total=pl.col("value_ns").sum(), n=pl.len())
        in_order = sums.sort("due", "seq", "attempt").collect()
        return _mean(in_order["total"].to_numpy() / NS_PER_MS, in_order["n"].to_numpy(), confidence)
    ascending = sorted_of(run, rule)
    n = len(ascending)
    if n == 0:
        return Figure(value=None, n=0, why=f"no answer of the steady phase has {rule.metric}")
    if rule.quantile is not None:
        return _percentile(run, rule, ascending, rule.quantile, confidence)
    return Figure(value=max_ms(ascending) if rule.statistic == "max" else float(ascending[0]) / NS_PER_MS, n=n)


def _percentile(run: Run, rule: Threshold, ascending: Ascending, q: float, confidence: float) -> Figure:
    n, needs_n = len(ascending), needed_samples(q)
    if n < needs_n:
        return Figure(value=None, n=n, needs_n=needs_n)
    value_ns = float(ascending[nearest_rank(n, q) - 1])
    blocks = _in_blocks(run, rule, value_ns)
    low, high = reached_ranks(blocks["below"].to_numpy(), blocks["n"].to_numpy(), q, confidence)
    return Figure(
        value=value_ns / NS_PER_MS,
        low=None if low is None else _at_rank(ascending, low),
        high=None if high is None else _at_rank(ascending, high),
        n=n,
        needs_n=needs_n,
    )


def _in_blocks(run: Run, rule: Threshold, value_ns: float) -> pl.DataFrame:
    """Blocks of the run that have as many answers each: how many values, and how many up to this. Columns n, below."""
    definition = METRICS[rule.metric]
    having = OK & STEADY & part(rule) & (True if definition is None else definition.is_not_null())
    due_ns = np.sort(run.samples.filter(having).select("due_ns").collect(engine="streaming")["due_ns"].to_numpy())
    edges = due_ns[[len(due_ns) * number // BLOCKS for number in range(1, BLOCKS)]]
    block = pl.sum_horizontal([pl.col("due_ns") >= int(edge) for edge in edges])
    rows = values(run, rule.metric, STEADY & part(rule))
    counted = rows.group_by(block.alias("block")).agg(n=pl.len(), below=(pl.col("value_ns") <= value_ns).sum())
    return counted.select(pl.col("n", "below").cast(pl.Int64)).collect(engine="streaming")


def _at_rank(ascending: Ascending, rank: float) -> float:
    """Milliseconds, between two values where the rank, from 1, is not whole."""
    lower = ascending[math.floor(rank) - 1]
    return float(lower + (rank % 1) * (ascending[math.ceil(rank) - 1] - lower)) / NS_PER_MS


def share_figure(run: Run, rule: Threshold, slos: Sequence[Slo], confidence: float = CONFIDENCE) -> Figure:
    """0 to 1; of arrivals for goodput and dropped, of attempts for the others.

    It takes as many trials as the percentile that says the same: `failed<1%` as many as a p99.
    """
    trials = _trials(run, rule, slos).select("due_ns", "hit").collect(engine="streaming")
    return share_of(rule, trials.sort("due_ns", maintain_order=True)["hit"].to_numpy(), confidence)


def share_of(rule: Threshold, hits: Numbers, confidence: float = CONFIDENCE) -> Figure:
    """Of trials in the order they came due, those that were hits."""
    if not len(hits):
        return Figure(value=None, n=0, why="nothing came due in the steady phase")
    share = share_interval(hits, confidence)
    needs_n = needed_samples(rule.limit) if 0 < rule.limit < 1 else 1
    return Figure(value=share.value, low=share.low, high=share.high, n=len(hits), needs_n=needs_n)


def _trials(run: Run, rule: Threshold, slos: Sequence[Slo]) -> pl.LazyFrame:
    """What is counted, one row each. Columns due_ns, hit."""
    steady = run.samples.filter(STEADY & part(rule))
    arrivals = steady.filter(~PAST_BUDGET).group_by("seq")
    due_ns = pl.col("due_ns").min()
    if rule.metric == "dropped":
        return arrivals.agg(due_ns, hit=_DROPPED.any())
    if rule.metric == "goodput":
        good = good_attempts(run, slos, STEADY & part(rule)).select("seq", hit=True).unique()
        return arrivals.agg(due_ns).join(good, on="seq", how="left").with_columns(pl.col("hit").fill_null(value=False))
    if rule.metric == "throttled":
        return steady.filter(SENT).with_columns(hit=THROTTLED)
    return steady.filter(_ENDED).with_columns(hit=_FAILED if rule.metric == "failed" else ~OK)


def rate_figure(run: Run, rule: Threshold, confidence: float = CONFIDENCE) -> Figure:
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
    low, high = _interval(value, sums / (stretch.seconds / BATCHES), confidence)
    return Figure(value=value, low=max(0.0, low), high=high, n=int(rows["n"].sum()))


def count_figure(run: Run, rule: Threshold) -> Figure:
    """Attempts of the steady phase that were sent."""
    n: int = run.samples.filter(STEADY & SENT & part(rule)).select(pl.len()).collect().item()
    return Figure(value=float(n), n=n)


def cost_figure(run: Run, rule: Threshold, confidence: float = CONFIDENCE) -> Figure:
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
    return _mean(billed.to_numpy(), np.ones(len(billed)), confidence)


def _usd_of(target: TargetConfig, said: str, book: PriceBook) -> pl.Expr:
    """What an attempt cost; null where there is no price."""
    prompt_usd, completion_usd = target.usd_per_1k_prompt, target.usd_per_1k_completion
    if prompt_usd is None or completion_usd is None:
        listed = book.token_price(target.model or said)
        if listed is None:
            return pl.lit(None, pl.Float64)
        prompt_usd, completion_usd = listed.input_usd_per_1k, listed.output_usd_per_1k
    return (pl.col("prompt_tokens") * prompt_usd + pl.col("completion_tokens") * completion_usd) / 1_000


def _mean(totals: Numbers, counts: Numbers, confidence: float = CONFIDENCE) -> Figure:
    """Of all values of some requests, in the order these came due: the total of each and how many it had."""
    n = int(counts.sum())
    if n == 0:
        return Figure(value=None, n=0, why="no answer of the steady phase has it")
    if len(totals) < FEWEST_OF_MEAN:
        return Figure(value=None, n=n, why=f"it takes {FEWEST_OF_MEAN} requests")
    value = float(totals.sum()) / n
    pairs = zip(np.array_split(totals, BATCHES), np.array_split(counts, BATCHES), strict=True)
    low, high = _interval(value, np.array([total.sum() / count.sum() for total, count in pairs]), confidence)
    return Figure(value=value, low=low, high=high, n=n)


def _interval(value: float, means: Numbers, confidence: float) -> tuple[float, float]:
    half = t_quantile((1 + confidence) / 2, BATCHES - 1) * float(means.std(ddof=1)) / BATCHES**0.5
    return value - half, value + half
