"""Makes the plan: what the run showed, what its demand would need, and what that would cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime

import orjson

from loadgen.config import Kind, RunConfig
from loadgen.samples import Run
from loadgen.slo import Slo
from planner.capacity import concurrency_of_instance, instance_estimate
from planner.cost import Tokens, managed_costs, serverless_cost
from planner.demand import REQUESTS, Demand, busiest, demand_of_run, grown, peak_per_minute, repeated
from planner.metrics import ALL, latency_rows
from planner.objectives import goodput, slo_results
from planner.plan import InstanceEstimate, LatencyRow, ManagedCost, Plan, ServerlessCost, SloResult, Traffic, WhatIf
from planner.prices import PriceBook, read_prices
from planner.quota import deployments_needed, quota_use, what_if_table
from planner.rows import config_of, steady_stretch
from planner.traffic import billed_request, throttled_share, traffic
from planner.validity import Evidence, validity
from planner.words import Basis, assumptions, headline

FORMAT = 1
WATCHED_S = 600.0  # a quota is watched for ten minutes,
LEAST_WATCHED_S = 180.0  # or three of its minutes where ten hold too many arrivals to replay
MOST_ARRIVALS = 30_000


def plan_run(
    run: Run,
    *,
    slos: Sequence[Slo] | None = None,
    growth: float | None = None,
    region: str | None = None,
    price_book: PriceBook | None = None,
    demand: Demand | None = None,
    today: date | None = None,
) -> Plan:
    """The plan from one run; what is None comes from the run's own config, and `today` from its start.

    `demand` replaces the run's own steady phase as what is planned for (see planner.demand); `growth` multiplies its
    rates. A run that is interrupted, killed or empty gives a plan too, with None where it says nothing. Raises
    RunFolderError for a record that cannot be read and ConfigError for a price book that cannot.
    """
    config = config_of(run)
    slos = config.slos if slos is None else slos
    growth = config.plan.growth if growth is None else growth
    region = config.plan.region if region is None else region
    book = read_prices(config.plan.prices) if price_book is None else price_book
    own = demand_of_run(run)
    planned = grown(own if demand is None else demand, growth)
    model = model_of(run, config)
    managed_kind = config.target.kind is Kind.MANAGED

    latency, results = latency_rows(run), slo_results(run, slos)
    overall = {row.metric: row for row in latency if row.scenario == ALL}
    flow = traffic(run, own, steady_stretch(run))
    sold_per_token = book.token_price(model) is not None
    watched = watched_part(planned)
    table = what_if_table(watched, config.quota) if sold_per_token or not managed_kind else ()
    serverless = _serverless(run, book, model, planned, table, of_own_mix=demand is None)
    instances = _instances(config, flow, overall["service_time"], results, planned)
    managed = _managed(book, model, region, instances, serverless)
    draft = Plan(
        format=FORMAT,
        run_ids=(run.manifest.run_id,),
        started_utc=run.manifest.started_utc,
        target=config.target.url or "",
        model=model,
        kind=config.target.kind.value,
        open_loop=config.load.open_loop,
        headline="",
        validity=validity(
            Evidence(
                run=run,
                config=config,
                traffic=flow,
                latency=overall,
                growth=growth,
                prices_dated=[date.fromisoformat(cost.dated) for cost in (serverless, *managed) if cost is not None],
                today=_day_of(run) if today is None else today,
            )
        ),
        slos=results,
        goodput=goodput(run, slos),
        latency=latency,
        traffic=flow,
        quota=None
        if managed_kind
        else quota_use(flow, config.quota, throttled_share(run), overall["throttle_wait"].mean_ms),
        what_if=table,
        serverless=serverless,
        managed=managed,
        instances=instances,
    )
    basis = Basis(config=config, region=region, growth=growth, planned=planned, watched=watched)
    return replace(draft, headline=headline(draft, growth), assumptions=assumptions(draft, basis))


def to_json(plan: Plan) -> bytes:
    """The plan as indented JSON, in the layout of planner.plan, with a newline at its end."""
    return orjson.dumps(plan, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def model_of(run: Run, config: RunConfig) -> str:
    """The configured name, else what /info said, else "unknown"."""
    return config.target.model or str(run.manifest.deployment.get("model_name") or "unknown")


def watched_part(demand: Demand) -> Demand:
    """What is replayed against a quota: long enough to fill its windows again and again, short enough to replay often."""
    arrivals_in = demand.requests_per_s * LEAST_WATCHED_S
    most = max(MOST_ARRIVALS, math.ceil(arrivals_in))
    seconds = WATCHED_S if not arrivals_in else max(LEAST_WATCHED_S, min(WATCHED_S, most / demand.requests_per_s))
    return busiest(repeated(demand, seconds), most)
