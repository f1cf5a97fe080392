"""Makes the plan: what the run showed, what its demand would need, and what that would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import orjson

from loadgen.samples import Run
from loadgen.slo import Slo
from planner.calibration import Calibration
from planner.capacity import SweptCapacity, concurrency_of_instance, instance_estimate
from planner.cost import Tokens, managed_costs, serverless_cost
from planner.demand import MINUTE_S, REQUESTS, Demand, demand_of_run, grown, peak_per_minute
from planner.metrics import ALL, latency_rows
from planner.objectives import goodput, slo_results
from planner.plan import BudgetUse, InstanceEstimate, ManagedCost, Plan, ServerlessCost, Traffic, WhatIf
from planner.prices import PriceBook, read_prices
from planner.quota import deployments_needed, quota_use, what_if_table
from planner.rows import NS_PER_MS, NS_PER_S, config_of, steady_stretch
from planner.scope import Scope, day_of, watched_part
from planner.traffic import billed_request, throttled_share, traffic
from planner.validity import Evidence, validity
from planner.words import assumptions, headline

FORMAT = 1


def plan_run(
    run: Run,
    *,
    slos: Sequence[Slo] | None = None,
    growth: float | None = None,
    region: str | None = None,
    price_book: PriceBook | None = None,
    demand: Demand | None = None,
    today: date | None = None,
    swept: SweptCapacity | None = None,
) -> Plan:
    """The plan from one run; what is None comes from the run's own config, and `today` from its start.

    `demand` replaces the run's own steady phase as what is planned for (see planner.demand); `growth` multiplies its
    rates; `swept` is what the sweep that this run is a step of says of an instance. A run that is interrupted, killed
    or empty gives a plan too, with None where it says nothing. Raises RunFolderError for a record that cannot be read
    and ConfigError for a price book that cannot.
    """
    config, measured = config_of(run), demand_of_run(run)
    growth = config.plan.growth if growth is None else growth
    scope = Scope(
        run=run,
        config=config,
        slos=config.slos if slos is None else slos,
        growth=growth,
        region=config.plan.region if region is None else region,
        book=read_prices(config.plan.prices) if price_book is None else price_book,
        measured=measured,
        planned=grown(measured if demand is None else demand, growth),
        of_own_mix=demand is None,
        today=day_of(run) if today is None else today,
        swept=swept,
    )
    draft = _draft(scope)
    return replace(draft, headline=headline(draft, scope), assumptions=assumptions(draft, scope))


def to_json(plan: Plan | Calibration | Sequence[WhatIf]) -> bytes:
    """A plan, a quota's table or a calibration as indented JSON in the layout of its class, ending in a newline."""
    return orjson.dumps(plan, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _draft(scope: Scope) -> Plan:
    """The plan's figures, without its words."""
    run, config = scope.run, scope.config
    latency, slos = latency_rows(run), slo_results(run, scope.slos)
    overall = {row.metric: row for row in latency if row.scenario == ALL}
    flow = traffic(run, scope.measured, steady_stretch(run))
    use = quota_use(flow, config.quota, throttled_share(run), overall["throttle_wait"].mean_ms)
    sold_per_token = scope.book.token_price(scope.model) is not None
    table = what_if_table(watched_part(scope.planned), config.quota) if sold_per_token or not scope.managed else ()
    objectives_met = bool(slos) and all(slo.met for slo in slos)
    instances = _instances(scope, overall["service_time"].mean_ms, objectives_met=objectives_met)
    serverless = _serverless(scope, flow, table)
    managed = _managed(scope, instances, serverless)
    evidence = Evidence(
        run=run,
        config=config,
        traffic=flow,
        latency=overall,
        growth=scope.growth,
        prices_dated=[date.fromisoformat(cost.dated) for cost in (serverless, *managed) if cost is not None],
        today=scope.today,
    )
    return Plan(
        format=FORMAT,
        run_ids=(run.manifest.run_id,),
        started_utc=run.manifest.started_utc,
        target=config.target.url or "",
        model=scope.model,
        kind=config.target.kind.value,
        open_loop=config.load.open_loop,
        headline="",
        validity=validity(evidence),
        workers=tuple(run.manifest.workers),
        slos=slos,
        goodput=goodput(run, scope.slos),
        latency=latency,
        traffic=flow,
        quota=None if scope.managed else use,
        what_if=table,
        serverless=serverless,
        managed=managed,
        instances=instances,
        budget=tuple(BudgetUse(resource=name, **use) for name, use in run.manifest.budget.items()),
    )


def _instances(scope: Scope, service_time_ms: float | None, *, objectives_met: bool) -> InstanceEstimate | None:
    time_in_system_s = None if service_time_ms is None else service_time_ms * NS_PER_MS / NS_PER_S
    concurrency, source = concurrency_of_instance(
        configured=scope.config.plan.concurrency_per_instance,
        swept=scope.swept,
        managed=scope.managed,
        objectives_met=objectives_met,
        held=peak_per_minute(scope.measured, REQUESTS) / MINUTE_S * (time_in_system_s or 0.0),
    )
    return instance_estimate(
        peak_requests_per_s=peak_per_minute(scope.planned, REQUESTS) / MINUTE_S,
        time_in_system_s=time_in_system_s,
        concurrency=concurrency,
        concurrency_source=source,
    )


def _serverless(scope: Scope, flow: Traffic, table: tuple[WhatIf, ...]) -> ServerlessCost | None:
    """None where the model is not sold per token, no request was billed, or none is planned for."""
    price, billed = scope.book.token_price(scope.model), billed_request(scope.run)
    if price is None or billed is None or not table:
        return None
    of_a_request = Tokens(*billed)
    if not scope.of_own_mix:
        planned = scope.planned
        of_a_request = Tokens(planned.mean_tokens("prompt_tokens"), planned.mean_tokens("completion_tokens"))
    needed = deployments_needed(table)
    return serverless_cost(
        price,
        so_far=Tokens(flow.prompt_tokens, flow.completion_tokens),
        of_a_request=of_a_request,
        requests_per_s=scope.planned.requests_per_s,
        deployments=table[-1].deployments if needed is None else needed,
    )


def _managed(
    scope: Scope, instances: InstanceEstimate | None, serverless: ServerlessCost | None
) -> tuple[ManagedCost, ...]:
    if instances is None:
        return ()
    return managed_costs(
        scope.book.skus_for(scope.model),
        region=scope.region,
        instances=instances.instances,
        usd_per_request=None if serverless is None else serverless.per_request_usd,
        most_requests_per_s=instances.instances * instances.concurrency_per_instance / instances.time_in_system_s,
    )
