"""What a quota would do to a demand: replayed through the rules that the simulator enforces and the client keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from loadgen.quota import NS_PER_S, Limiter, Quota, WindowKind, enforcing
from planner.demand import MINUTE_S, Demand, admission_tokens
from planner.plan import QuotaUse, Traffic, WhatIf
from planner.quantiles import nearest_rank

REFUSED_SHARE = 0.01  # of the requests: a number of deployments that refuses at most this much is enough
MOST_ROWS = 12  # numbers of deployments that are tried
MOST_REPLAYED = 60_000  # arrivals; of more, those of some of the deployments


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a demand. Shares are of what can fit at all; `never_fit` counts the requests that cannot."""

    requests: int
    tokens: int
    never_fit: int
    rejected_requests: int
    rejected_tokens: int
    delays_ns: tuple[int, ...]  # of each admitted request, in the order of arrival; zeros where none may wait

    @property
    def rejected_requests_share(self) -> float:
        return self.rejected_requests / self.requests if self.requests else 0.0

    @property
    def rejected_tokens_share(self) -> float:
        return self.rejected_tokens / self.tokens if self.tokens else 0.0

    def delay_s(self, q: float) -> float | None:
        """A percentile of the delays; None where nothing was admitted."""
        if not self.delays_ns:
            return None
        return sorted(self.delays_ns)[nearest_rank(len(self.delays_ns), q) - 1] / NS_PER_S


def what_if(
    arrivals: pl.DataFrame, quota: Quota, deployments: int, *, mode: Literal["reject", "queue"] = "reject"
) -> Replay:
    """Deal the arrivals (columns: demand.ARRIVALS) round-robin to so many deployments, each with the whole quota.

    `reject`: a request that does not fit when it comes is refused, and not tried again. `queue`: it waits behind all
    earlier ones of its deployment. A fixed minute counts from the first arrival; buckets start full; a request takes
    its tokens and its one request together, or neither; nothing is given back after the answer.
    """
    first_s = arrivals["at_s"].first()
    at_ns = ((arrivals["at_s"] - first_s) * NS_PER_S).round().cast(pl.Int64).to_list() if arrivals.height else []
    costs = arrivals.select(admission_tokens(quota.admission)).to_series().to_list()
    limiters = [enforcing(quota, origin_ns=0) for _ in range(deployments)]
    largest = limiters[0].largest
    requests = tokens = never_fit = rejected_requests = rejected_tokens = 0
    delays_ns = []
    for i, (now_ns, cost) in enumerate(zip(at_ns, costs, strict=True)):
        if cost > largest:
            never_fit += 1
            continue
        requests += 1
        tokens += cost
        admitted_ns = _admitted_ns(limiters[i % deployments], now_ns, cost, mode)
        if admitted_ns is None:
            rejected_requests += 1
            rejected_tokens += cost
        else:
            delays_ns.append(admitted_ns - now_ns)
    return Replay(requests, tokens, never_fit, rejected_requests, rejected_tokens, tuple(delays_ns))


def _admitted_ns(limiter: Limiter, now_ns: int, cost: int, mode: Literal["reject", "queue"]) -> int | None:
    grant = limiter.try_take(now_ns, cost) if mode == "reject" else limiter.reserve(now_ns, cost)
    return None if grant is None else grant.at_ns


def windows(quota: Quota) -> dict[str, Quota]:
    """The ways in which the limits may be enforced, by name: what Azure's serverless endpoints do is not documented."""
    return {
        "minute": replace(quota, window=WindowKind.MINUTE),
        "bucket 60 s": replace(quota, window=WindowKind.BUCKET, burst_s=60.0),
        "bucket 10 s": replace(quota, window=WindowKind.BUCKET, burst_s=10.0),
        "sliding": replace(quota, window=WindowKind.SLIDING),
    }


def what_if_table(demand: Demand, quota: Quota) -> tuple[WhatIf, ...]:
    """For 1, 2, ... deployments and each way of enforcing, until every way refuses at most 1 % of the requests.

    Where the demand fills many deployments on average, the table starts near that number. At most MOST_ROWS numbers are
    tried. Empty for a demand that has no arrivals, or no duration.
    """
    if demand.arrivals.is_empty() or demand.span_s <= 0:
        return ()
    filled = math.ceil(_mean_load(demand, quota))
    first = 1 if filled <= MOST_ROWS // 2 else filled - 1
    rows: list[WhatIf] = []
    for deployments in range(first, first + MOST_ROWS):
        tried = [_row(demand, window, name, deployments) for name, window in windows(quota).items()]
        rows += tried
        if all(row.rejected_requests_share <= REFUSED_SHARE for row in tried):
            break
    return tuple(rows)


def _mean_load(demand: Demand, quota: Quota) -> float:
    """The deployments' quota that the demand takes up on average, by the limit that it fills more."""
    minutes = demand.span_s / MINUTE_S
    tokens: int = demand.arrivals.select(admission_tokens(quota.admission).sum()).item()
    return max(tokens / quota.tokens_per_minute, demand.arrivals.height / quota.requests_per_minute) / minutes


def _some_of(arrivals: pl.DataFrame, deployments: int) -> tuple[pl.DataFrame, int]:
    """The arrivals of as many of the deployments as can be replayed in seconds, and how many those are.

    Arrivals are dealt out in turn, so that each deployment sees the same load, and some of them stand for all.
    """
    if arrivals.height <= MOST_REPLAYED:
        return arrivals, deployments
    some = max(1, deployments * MOST_REPLAYED // arrivals.height)
    return arrivals.filter(pl.int_range(pl.len()) % deployments < some), some


def _row(demand: Demand, quota: Quota, window: str, deployments: int) -> WhatIf:
    arrivals, replayed = _some_of(demand.arrivals, deployments)
    refusing = what_if(arrivals, quota, replayed, mode="reject")
    # Where none is refused, none would wait.
    queueing = what_if(arrivals, quota, replayed, mode="queue") if refusing.rejected_requests else refusing
    return WhatIf(
        deployments=deployments,
        window=window,
        admission=quota.admission.value,
        rejected_requests_share=refusing.rejected_requests_share,
        rejected_tokens_share=refusing.rejected_tokens_share,
        delay_p50_s=queueing.delay_s(0.50),
        delay_p99_s=queueing.delay_s(0.99),
        never_fit=refusing.never_fit,
    )


def deployments_needed(table: tuple[WhatIf, ...]) -> int | None:
    """The smallest number that refuses at most 1 % of the requests, however the quota is enforced.

    None where the table holds no such number.
    """
    refused = {row.deployments: 0.0 for row in table}
    for row in table:
        refused[row.deployments] = max(refused[row.deployments], row.rejected_requests_share)
    return min((number for number, share in refused.items() if share <= REFUSED_SHARE), default=None)


def quota_use(traffic: Traffic, quota: Quota, throttled_share: float, mean_wait_ms: float | None) -> QuotaUse | None:
    """How much of one deployment's quota the measured load takes in its busiest minute. None without load."""
    tokens_share = traffic.peak_tokens_per_minute / quota.tokens_per_minute
    requests_share = traffic.peak_requests_per_minute / quota.requests_per_minute
    fullest = max(tokens_share, requests_share)
    if fullest == 0:
        return None
    return QuotaUse(
        tokens_per_minute=quota.tokens_per_minute,
        requests_per_minute=quota.requests_per_minute,
        tokens_share=tokens_share,
        requests_share=requests_share,
        binds="tokens" if tokens_share >= requests_share else "requests",
        headroom=1 / fullest,
        throttled_share=throttled_share,
        mean_throttle_wait_ms=mean_wait_ms,
    )
