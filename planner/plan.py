"""Plan: what a run showed, what it would cost, and how sure that is.

These dataclasses are the layout of summary.json and of `headroom plan --json`; the report draws them and computes
nothing. Latencies are milliseconds, money is US dollars, shares run from 0 to 1. None means: the data cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadgen.samples import WorkerHealth

if TYPE_CHECKING:  # made of parts that this file's classes are made into
    from planner.ahead import Ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """An exact percentile (nearest rank) with its 95 % order-statistic interval."""

    value_ms: float | None  # None where n cannot support it
    low_ms: float | None
    high_ms: float | None
    needs_n: int  # samples from which on it is supported


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    metric: str  # ttft, ttft_from_due, ttfb, itl, tpot, service_time, response_time, throttle_wait, lag
    scenario: str  # a scenario's name, or "all"
    n: int
    mean_ms: float | None
    max_ms: float | None
    p50: Quantile
    p90: Quantile
    p95: Quantile
    p99: Quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class SloResult:
    text: str
    n: int
    measured_ms: float | None
    low_ms: float | None
    high_ms: float | None
    met: bool | None  # None: the data cannot say


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """Share of the steady phase's offered arrivals that met every objective; failed and dropped count against it."""

    share: float
    low: float  # 95 % Wilson interval
    high: float
    good: int
    offered: int
    without: int = 0  # of the good, those that lack the metric of an objective, as a plain answer lacks ttft


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    valid: bool
    reasons: tuple[str, ...]  # why it is not
    doubts: tuple[str, ...]  # what to bear in mind although it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Attempts that ended so, or arrivals dropped for that, in the whole run; `ok` where an answer came and its
    scenario has found fault with it."""

    outcome: str
    error: str  # the code, without what a server adds to it; of a page of HTML with its title
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Steady phase, except the counts of the ledger, which are of the whole run."""

    planned: int
    sent: int
    dropped: int
    attempts: int
    outcomes: dict[str, int]
    steady_s: float
    requests_per_s: float  # offered
    completed_per_s: float  # ok
    prompt_tokens: int  # of the whole run, billed: usage of answers, estimated where the server sent none
    completion_tokens: int
    estimated_usage_share: float  # of the answers without usage from the server
    mean_prompt_tokens: float | None
    mean_completion_tokens: float | None
    output_tokens_per_s: float
    peak_requests_per_minute: float  # the busiest sliding minute (scaled up if the run is shorter)
    peak_tokens_per_minute: float  # admission cost, likewise
    mean_in_flight: float
    peak_in_flight: int
    failures: tuple[Failure, ...] = ()  # the commonest first
    billed_requests: int = 0  # attempts of the steady phase that cost money
    billed_prompt_tokens: float | None = None  # mean of one of those
    billed_completion_tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The prompt tokens that were estimated before sending, against the server's usage, over all attempts with both."""

    estimator: str  # the rule's name
    n: int
    error_share: float  # of all tokens together; positive: the estimate is above
    p95_error_share: float  # 95 of 100 attempts are off by at most so much, above or below


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    tokens_per_minute: int
    requests_per_minute: int
    tokens_share: float  # busiest minute over the limit
    requests_share: float
    binds: str  # "tokens" | "requests": the limit that is reached first as the load grows
    headroom: float  # how many times this load fits before that limit
    throttled_share: float  # attempts answered 429
    mean_throttle_wait_ms: float | None
    target: str | None = None  # of several, the one whose limit is reached first; `binds` and `headroom` are of it


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """Replay of the demand against so many deployments under one way of enforcing the quota."""

    deployments: int
    window: str  # "minute" | "bucket 60 s" | "bucket 10 s" | "sliding"
    admission: str
    rejected_requests_share: float  # clients that do not wait
    rejected_tokens_share: float
    delay_p50_s: float | None  # clients that queue
    delay_p99_s: float | None
    never_fit: int  # requests too large to be admitted at all


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerlessCost:
    model: str
    input_usd_per_1k: float | None  # None where several targets differ
    output_usd_per_1k: float | None
    source: str
    dated: str
    so_far_usd: float
    per_request_usd: float
    per_hour_usd: float
    per_month_usd: float  # 730 h at the steady rate
    deployments: int  # needed so that at most 1 % of requests are refused


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedCost:
    sku: str
    gpus: int
    usd_per_hour: float  # of one instance
    region: str
    source: str
    dated: str
    instances: int
    per_hour_usd: float
    per_month_usd: float
    cores_of_quota: int  # with the 20 % reservation where the SKU is not exempt
    break_even_requests_per_s: float | None  # serverless costs the same; None: more than they can serve


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEstimate:
    """instances = ceil(peak rate x time in system / concurrency of one instance)."""

    peak_requests_per_s: float
    time_in_system_s: float
    concurrency_per_instance: int
    concurrency_source: str
    instances: int
    assumed: bool = False  # the concurrency is a guess: nobody gave or measured it


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFigures:
    """What one of several targets was asked and did. An arrival that was tried at two is counted at both."""

    name: str
    url: str
    model: str
    kind: str
    slos: tuple[SloResult, ...]
    goodput: Goodput | None
    latency: tuple[LatencyRow, ...]
    traffic: Traffic
    quota: QuotaUse | None
    serverless: ServerlessCost | None  # planned for what came to it
    managed: tuple[ManagedCost, ...]
    instances: InstanceEstimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """What a run used of one limit, what was in flight at its estimate where its usage never became known."""

    resource: str  # requests, tokens, usd or wall_s
    used: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All fields but `targets` are of all targets together."""

    format: int
    run_ids: tuple[str, ...]
    started_utc: str
    target: str
    model: str
    kind: str
    open_loop: bool
    headline: str  # one sentence for a manager
    validity: Validity
    workers: tuple[WorkerHealth, ...]  # what each load process measured of itself
    slos: tuple[SloResult, ...]
    goodput: Goodput | None  # None without objectives
    latency: tuple[LatencyRow, ...]
    traffic: Traffic
    quota: QuotaUse | None  # None for managed deployments, which have none
    what_if: tuple[WhatIf, ...]
    serverless: ServerlessCost | None
    managed: tuple[ManagedCost, ...]  # cheapest first
    instances: InstanceEstimate | None
    assumptions: tuple[str, ...] = field(default=())
    estimate: Estimate | None = None  # None where the server sends no usage
    budget: tuple[BudgetUse, ...] = field(default=())  # of what the run was limited to
    targets: tuple[TargetFigures, ...] = ()  # in the order of the file; empty where there is only one
    ahead: Ahead | None = None  # what the demand needs and costs, each way; None where there is no demand
