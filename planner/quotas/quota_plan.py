"""The plan of a demand against a quota, without any run: what is refused, what is needed, and how retries fare."""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.quota import Quota
from planner.demand import Demand, busiest
from planner.plan import WhatIf
from planner.quota import what_if_table
from planner.quotas.admitted import as_recorded
from planner.quotas.clients import ClientOutcome, clients_table
from planner.quotas.deployments import QuotaNeed, quota_need
from planner.quotas.doors import windows

UNMEASURED = (
    "no latency was measured at this load, nor what an instance serves: this says what a quota lets in; for the rest "
    "plan from a run (headroom run --rate or --trace, then headroom plan RUN)"
)
OF_A_RUN = (
    "this takes of the run only what it asked for: its latencies, and what an instance serves, are in its own plan "
    "(headroom plan RUN, with --growth or --demand for other loads)"
)
OF_A_TRACE = (  # which does not record what was asked for
    "max_tokens is taken to be what each request of the trace got: where requests ask for more, a quota that counts "
    "max_tokens lets fewer in"
)
MOST_IN_ROWS = 300_000  # arrivals: those that wait are replayed one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaPlan:
    """The layout of `headroom plan --demand TRACE --json`."""

    demand: str  # in words
    tokens_per_minute: int  # of each deployment
    requests_per_minute: int
    admission: str
    need: QuotaNeed | None  # None: the demand has no arrivals
    rows: tuple[WhatIf, ...]
    rows_of: int | None  # arrivals, the busiest, that the rows are of; None: of all
    clients: tuple[ClientOutcome, ...]  # at one deployment fewer than needed, and at those
    doubts: tuple[str, ...]


def quota_plan(demand: Demand, quota: Quota, doubts: tuple[str, ...] = (UNMEASURED,)) -> QuotaPlan:
    """`doubts`: of the demand, and of what is known of it. Raises ConfigError for arrivals that cannot be replayed."""
    need = as_recorded(quota_need(demand, quota), demand)
    clients: tuple[ClientOutcome, ...] = ()
    if need is not None:
        strictest = max(need.by_policy[: len(windows(quota))], key=lambda policy: policy.deployments)
        numbers = [number for number in (need.deployments - 1, need.deployments) if number > 0]
        clients = clients_table(demand, quota, numbers, strictest.window)
    return QuotaPlan(
        demand=demand.source,
        tokens_per_minute=quota.tokens_per_minute,
        requests_per_minute=quota.requests_per_minute,
        admission=quota.admission.value,
        need=need,
        rows=what_if_table(busiest(demand, MOST_IN_ROWS), quota),
        rows_of=MOST_IN_ROWS if demand.arrivals.height > MOST_IN_ROWS else None,
        clients=clients,
        doubts=doubts,
    )
