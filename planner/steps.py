"""What one step of a sweep showed: its row, how many of its requests kept each objective, and what limited it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from loadgen.config import Kind
from loadgen.quota import Quota
from loadgen.samples import Outcome, Run
from loadgen.slo import Slo
from planner.counts import counts_of
from planner.demand import admission_tokens, demand_of_run
from planner.generator import generator_reasons
from planner.in_flight import in_flight_within
from planner.metrics import ALL, latency_rows, values
from planner.objectives import beyond, slo_results
from planner.rows import OK, STEADY, Stretch, config_of, steady_stretch
from planner.serving.usable import KEPT_UP_SHARE
from planner.sweep import Count, Measurement, Verdict, times_to_tell
from planner.traffic import completed_within, traffic

LIMITED_SHARE = 0.01  # of the attempts refused, or of the arrivals held back until the end, by the quota
HELD_BACK = ("stopped_while_throttled", "never_fits_quota")
SURE = 2.0  # standard deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What an objective names, as it was measured."""

    metric: str
    statistic: str
    value_ms: float | None  # None where too few samples support it, or none came


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A measurement: one run folder. The fields down to `client_limited` are the columns of steps.parquet."""

    number: int
    folder: str  # within the sweep's
    rate_per_s: float  # asked for
    offered_per_s: float  # what came due in the steady phase
    completed_per_s: float
    prompt_tokens: float | None  # means of the answers
    completion_tokens: float | None
    itl_mean_ms: float | None
    itl_p95_ms: float | None  # None where too few samples support it
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    response_p95_ms: float | None
    e2e_mean_s: float | None  # from sending to the end of the answer
    concurrency: float  # mean in flight
    requests: int  # offered in the steady phase
    steady_s: float
    verdict: Verdict  # of its rate, by all measurements up to this one
    saturated: bool
    quota_limited: bool
    client_limited: bool
    admission_tokens: float  # mean of a request, as the quota counts it at the door
    reasons: tuple[str, ...]  # why the load generator spoiled it
    counts: tuple[Count, ...]
    named: tuple[Named, ...] = ()  # by each objective; earlier versions kept none

    @property
    def measurement(self) -> Measurement:
        return Measurement(
            rate_per_s=self.rate_per_s, counts=self.counts, saturated=self.saturated, spoiled=self.client_limited
        )


def step_of(run: Run, slos: Sequence[Slo], *, number: int, folder: str, rate_per_s: float) -> Step:
    """What the run of a step showed. Its verdict is INVALID until it is judged together with what came before."""
    stretch, demand, latency = steady_stretch(run), demand_of_run(run), latency_rows(run)
    overall = {row.metric: row for row in latency if row.scenario == ALL}
    counts = counts_of(run, stretch)
    flow = traffic(run, demand, counts)
    reasons = generator_reasons(run, overall)
    tokens = admission_tokens(config_of(run).quota.admission)
    mean_ms = overall["service_time"].mean_ms
    return Step(
        number=number,
        folder=folder,
        rate_per_s=rate_per_s,
        offered_per_s=flow.requests_per_s,
        completed_per_s=flow.completed_per_s,
        prompt_tokens=flow.mean_prompt_tokens,
        completion_tokens=flow.mean_completion_tokens,
        itl_mean_ms=overall["itl"].mean_ms,
        itl_p95_ms=overall["itl"].p95.value_ms,
        ttft_p50_ms=overall["ttft"].p50.value_ms,
        ttft_p95_ms=overall["ttft"].p95.value_ms,
        response_p95_ms=overall["response_time"].p95.value_ms,
        e2e_mean_s=None if mean_ms is None else mean_ms / 1e3,
        concurrency=flow.mean_in_flight,
        requests=demand.arrivals.height,
        steady_s=stretch.seconds,
        verdict=Verdict.INVALID,
        saturated=is_saturated(run, stretch),
        quota_limited=_is_quota_limited(run, counts.throttled_share),
        client_limited=bool(reasons),
        admission_tokens=float(demand.arrivals.select(tokens.mean()).item() or 0.0),
        reasons=tuple(reasons),
        counts=tuple(count for slo in slos if (count := count_of(run, slo)) is not None),
        named=tuple(
            Named(metric=slo.metric, statistic=slo.statistic, value_ms=result.measured_ms)
            for slo, result in zip(slos, slo_results(run, slos, overall), strict=True)
        ),
    )


def too_few(steps: Sequence[Step]) -> str:
    """That these steps of one rate do not tell together, and how many requests would; "" where they do.

    "", too, where a hundred times as many would not tell either.
    """
    times = times_to_tell([step.measurement for step in steps])
    had = sum(step.requests for step in steps if not step.client_limited)
    return "" if times is None else f"{had:,} requests do not tell, some {math.ceil(times * had):,} would"


def is_saturated(run: Run, stretch: Stretch) -> bool:
    """Whether the deployment fell behind for good.

    In the last two thirds of the steady phase (in the first the system may still fill up) fewer than 97 % of what was
    sent was completed, and more was in flight in the last third than in the one before, by more than chance does:
    requests in flight of a steady system are about Poisson, so the difference of two instants has twice their variance.
    What is sent and not completed is in flight or has failed; without the second part failures would count.
    """
    third_s = stretch.seconds / 3
    middle = Stretch(stretch.start_s + third_s, stretch.end_s - third_s)
    last = Stretch(stretch.end_s - third_s, stretch.end_s)
    both = Stretch(middle.start_s, last.end_s)
    within = pl.col("sent_ns").is_between(both.start_ns, both.end_ns, closed="left")
    sent: int = run.samples.filter(within).select(pl.len()).collect().item()
    completed = completed_within(run, both)
    before, after = (in_flight_within(run, third)[0] for third in (middle, last))
    return completed < KEPT_UP_SHARE * sent and after - before > SURE * math.sqrt(2 * max(1.0, before))


def _is_quota_limited(run: Run, throttled_share: float) -> bool:
    """Whether it was the quota that was measured: 429s, or arrivals that our own throttle held back to the end."""
    if config_of(run).target.kind is Kind.MANAGED:
        return False
    held_back = pl.col("error").is_in(HELD_BACK) & (pl.col("outcome") == Outcome.DROPPED)
    share = run.samples.filter(STEADY).select(held_back.mean()).collect().item() or 0.0
    return throttled_share > LIMITED_SHARE or share > LIMITED_SHARE


def count_of(run: Run, slo: Slo) -> Count | None:
    """How many of the steady phase's arrivals kept the objective's limit; None where none of them has the metric.

    An arrival of a scenario that has the metric and was not answered (failed, throttled, dropped) is beyond the limit.
    """
    arrivals = run.samples.filter(STEADY).group_by("seq", "scenario").agg(ok=OK.any())
    measured = (
        values(run, slo.metric)
        .group_by("seq")
        .agg(
            n=pl.len(),
            beyond=beyond(slo).sum(),
            total=(pl.col("value_ns") / slo.limit_ns).sum(),
            squares=((pl.col("value_ns") / slo.limit_ns) ** 2).sum(),
        )
    )
    rows = arrivals.join(measured, on="seq", how="left").collect()
    having = rows.filter(pl.col("n").is_not_null()).select("scenario").unique()
    if having.is_empty() and rows["ok"].any():
        return None
    counted = rows if having.is_empty() else rows.join(having, on="scenario", how="semi")
    failed = counted.filter(~pl.col("ok")).height
    answered = counted.drop_nulls("n")
    allowed = None if slo.statistic == "mean" else 0.0 if slo.quantile is None else round(1 - slo.quantile, 9)
    n, far = _independent(answered, failed)
    per_request = pl.col("total") / pl.col("n")
    total, squares = answered.select(a=per_request.sum(), b=(per_request**2).sum()).row(0)
    return Count(
        text=slo.text, allowed=allowed, n=n, beyond=failed if allowed is None else far, total=total, squares=squares
    )


def _independent(answered: pl.DataFrame, failed: int) -> tuple[float, float]:
    """Trials and how many of them were beyond: requests; of a metric with many values a request, fewer than values.

    Gaps of one stream resemble each other. Their share is a ratio over requests, whose variance (linearised, the usual
    estimator of cluster sampling) says how many independent gaps would know as much. A request that failed counts as
    one of the mean length.
    """
    values_n, far, most = answered.select(
        pl.col("n").sum(), pl.col("beyond").sum(), pl.col("n").max().alias("most")
    ).row(0)
    if not values_n or most == 1:
        return float(values_n + failed), float(far + failed)
    requests, mean_n = answered.height + failed, values_n / answered.height
    all_n, all_far = values_n + failed * mean_n, far + failed * mean_n
    share = all_far / all_n
    residual = pl.col("beyond").cast(pl.Float64) - share * pl.col("n")
    squares = float(answered.select((residual**2).sum()).item()) + failed * (mean_n * (1 - share)) ** 2
    variance = squares / all_n**2 * requests / max(1, requests - 1)
    n = float(requests) if variance <= 0 else min(all_n, max(1.0, share * (1 - share) / variance))
    return n, share * n


def quota_rate(steps: Sequence[Step], quota: Quota) -> tuple[float, str] | None:
    """Requests a second at which the quota is used up by requests such as were measured, and which limit that is.

    None before anything was measured.
    """
    requests = sum(step.requests for step in steps)
    if not requests:
        return None
    tokens = sum(step.admission_tokens * step.requests for step in steps) / requests
    by_requests = quota.requests_per_minute / 60
    by_tokens = quota.tokens_per_minute / 60 / tokens if tokens > 0 else math.inf
    return (by_tokens, "tokens") if by_tokens < by_requests else (by_requests, "requests")
