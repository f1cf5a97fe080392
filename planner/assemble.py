"""Makes the plan: what the run showed, what its demand would need, and what that would cost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from typing import TypedDict, TypeVar, Unpack

import orjson
import polars as pl

from loadgen.config import PlanConfig, Split
from loadgen.quota import Quota
from loadgen.samples import Run
from loadgen.slo import Slo
from planner.ahead import look_ahead, need_ahead
from planner.calibration import Calibration
from planner.cost import HOURS_PER_MONTH, S_PER_HOUR, Tokens, managed_costs, serverless_cost
from planner.counts import counts_of
from planner.demand import MINUTE_S, Demand, attempts_with_tokens, demand_of_run, grown
from planner.estimate import estimate
from planner.evidence import Evidence
from planner.headline import headline
from planner.instances import SweptCapacity, concurrency_of_instance, instance_estimate
from planner.metrics import ALL, latency_rows
from planner.objectives import goodput, judged_by_sweep, slo_results
from planner.plan import (
    BudgetUse,
    InstanceEstimate,
    LatencyRow,
    ManagedCost,
    Plan,
    QuotaUse,
    ServerlessCost,
    TargetFigures,
    Traffic,
    WhatIf,
)
from planner.prices import PriceBook, read_prices
from planner.quota import deployments_needed, quota_use, what_if_table
from planner.quotas.doors import door_of, windows
from planner.quotas.quota_plan import QuotaPlan
from planner.rows import NS_PER_MS, NS_PER_S, PartOfRun, config_of, steady_stretch
from planner.scope import Scope, day_of, is_unservable, peak_per_s, watched_part
from planner.traffic import peaks, traffic
from planner.validity import validity
from planner.words import assumptions

FORMAT = 1
Part = tuple[Scope, TargetFigures]  # one of several targets
Given = TypeVar("Given")
Latency = Future[tuple[LatencyRow, ...]]


class Asked(TypedDict, total=False):
    """What a plan is asked for; what is missing or None comes from the run's own config, and `today` from its start.

    `demand` replaces the run's own steady phase as what is planned for (see planner.demand); `growth` multiplies its
    rates; `swept` is what the sweep that this run is a step of says of an instance; `steps` are several loads of the
    deployment (see serving/load_steps.py), `of_runs` the ids of all runs planned from; `quota` stands in for the
    run's own.
    """

    slos: Sequence[Slo] | None
    growth: float | None
    region: str | None
    price_book: PriceBook | None
    demand: Demand | None
    today: date | None
    swept: SweptCapacity | None
    settings: PlanConfig | None
    quota: Quota | None
    steps: pl.DataFrame | None
    of_runs: Sequence[str]


def plan_run(run: Run, **asked: Unpack[Asked]) -> Plan:
    """The plan from one run.

    A run that is interrupted, killed or empty gives a plan too, with None where it says nothing. Raises RunFolderError
    for a record that cannot be read and ConfigError for a price book that cannot.
    """
    return scoped_plan(run, **asked)[1]


def scoped_plan(run: Run, **asked: Unpack[Asked]) -> tuple[Scope, Plan]:
    """The same, with what it is for."""
    with ThreadPoolExecutor(1) as beside:  # it reads, sorts and replays whole columns without Python's lock
        latency = beside.submit(latency_rows, run)
        config, stretch = config_of(run), steady_stretch(run)
        rows = attempts_with_tokens(run)
        measured = demand_of_run(run, stretch, rows)
        demand, quota, today = asked.get("demand"), asked.get("quota"), asked.get("today")
        if quota is not None:
            targets = [each.model_copy(update={"quota": quota}) for each in config.targets]
            config = config.model_copy(update={"quota": quota, "targets": tuple(targets)})
        growth = _or(asked.get("growth"), config.plan.growth)
        planned = grown(measured if demand is None else demand, growth)
        most = peaks(run, measured)
        scope = Scope(
            run=run,
            config=config,
            slos=_or(asked.get("slos"), config.slos),
            growth=growth,
            region=_or(asked.get("region"), config.plan.region),
            book=asked.get("price_book") or read_prices(config.plan.prices),
            stretch=stretch,
            measured=measured,
            planned=planned,
            counts=counts_of(run, stretch, rows),
            peaks=most,
            peak_per_s=most[0] / MINUTE_S if planned is measured else peak_per_s(planned),
            of_own_mix=demand is None,
            today=day_of(run) if today is None else today,
            swept=asked.get("swept"),
            settings=_or(asked.get("settings"), config.plan),
            steps=asked.get("steps"),
            of_runs=tuple(asked.get("of_runs", ())),
        )
        need = beside.submit(need_ahead, scope)
        draft = _draft(scope, latency)
        draft = replace(draft, ahead=look_ahead(scope, draft, need.result()))
        return scope, replace(draft, headline=headline(draft, scope), assumptions=assumptions(draft, scope))


def _or(given: Given | None, own: Given) -> Given:
    return own if given is None else given


def to_json(plan: Plan | Calibration | QuotaPlan) -> bytes:
    """A plan, a quota's plan or a calibration as indented JSON in the layout of its class, ending in a newline."""
    return orjson.dumps(plan, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _draft(scope: Scope, latency: Latency) -> Plan:
    """The plan's figures, without its words."""
    run, config = scope.run, scope.config
    parts = [(part, _figures(part)[0]) for part in scope.parts]
    together, table = _figures(scope, parts, latency)
    targets = tuple(figures for _, figures in parts)
    dated = [cost.dated for figures in (together, *targets) for cost in (figures.serverless, *figures.managed) if cost]
    evidence = Evidence(
        run=run,
        config=config_of(run),
        counts=scope.counts,
        traffic=together.traffic,
        latency={row.metric: row for row in together.latency if row.scenario == ALL},
        targets=targets,
        times_measured=scope.times_measured,
        prices_dated=[date.fromisoformat(day) for day in dated],
        today=scope.today,
    )
    return Plan(
        format=FORMAT,
        run_ids=scope.of_runs or (run.manifest.run_id,),
        started_utc=run.manifest.started_utc,
        target=scope.where,
        model=together.model,
        kind=together.kind,
        open_loop=config.load.open_loop,
        headline="",
        validity=validity(evidence),
        workers=tuple(run.manifest.workers),
        slos=together.slos,
        goodput=together.goodput,
        latency=together.latency,
        traffic=together.traffic,
        quota=together.quota,
        what_if=table,
        serverless=together.serverless,
        managed=together.managed,
        instances=together.instances,
        budget=tuple(BudgetUse(resource=name, **use) for name, use in run.manifest.budget.items()),
        estimate=estimate(run),
        targets=targets,
    )


def _figures(
    scope: Scope, parts: Sequence[Part] = (), latency: Latency | None = None
) -> tuple[TargetFigures, tuple[WhatIf, ...]]:
    """Of a target, or of several together, which are `parts` then; and what-if of the quota.

    `latency`: where it is read already.
    """
    run, config, unsaid = scope.run, scope.config, scope.unsaid
    flow = traffic(run, scope.measured, scope.counts, scope.peaks)
    if isinstance(run, PartOfRun):
        flow = replace(flow, sent=flow.planned - flow.dropped)  # here, though some of them elsewhere first
    table: tuple[WhatIf, ...] = ()
    if "what_if" not in unsaid and (not scope.managed or scope.price is not None):
        table = _table(scope)
    serverless = _serverless_together(scope, parts, table) if parts else _serverless(scope, flow, table)
    good = goodput(run, scope.slos, offered=scope.measured.arrivals.height)
    latencies = latency_rows(run) if latency is None else latency.result()
    overall = {row.metric: row for row in latencies if row.scenario == ALL}
    slos = slo_results(run, scope.slos, overall)
    if scope.swept is not None:
        slos = judged_by_sweep(slos, config.slos)
    objectives_met = bool(slos) and all(slo.met for slo in slos)
    instances = None
    if "instances" not in unsaid:
        peak = flow.peak_requests_per_minute / MINUTE_S
        instances = _instances(scope, overall["service_time"].mean_ms, peak, objectives_met=objectives_met)
    figures = TargetFigures(
        name=config.target.name or "",
        url=config.target.url or "",
        model=scope.model,
        kind=scope.kind,
        slos=slos,
        goodput=good,
        latency=latencies,
        traffic=flow,
        quota=_quota_use(scope, flow, overall["throttle_wait"].mean_ms, parts),
        serverless=serverless,
        managed=_managed(scope, instances, serverless),
        instances=instances,
    )
    return figures, table


def _table(scope: Scope) -> tuple[WhatIf, ...]:
    """Of a demand that is short, and so repeated to fill the windows, what never fits is counted once."""
    watched, quota = watched_part(scope.planned), scope.config.quota
    rows = what_if_table(watched, quota, scope.settings.refused_share)
    if watched.arrivals.height <= scope.planned.arrivals.height:
        return rows
    once = {name: int((~door_of(scope.planned.arrivals, way).fits).sum()) for name, way in windows(quota).items()}
    return tuple(replace(row, never_fit=once[row.window]) for row in rows)


def _quota_use(scope: Scope, flow: Traffic, mean_wait_ms: float | None, parts: Sequence[Part]) -> QuotaUse | None:
    """Of several targets, the first at its limit ends the headroom, unless arrivals go to where there is room."""
    if scope.managed or "quota" in scope.unsaid:
        return None
    use = quota_use(flow, scope.quota, scope.counts.throttled_share, mean_wait_ms)
    used = [(each.quota.headroom, each.name, each.quota.binds) for _, each in parts if each.quota is not None]
    if use is None or not used or scope.config.load.split is Split.LEAST_THROTTLED:
        return use
    headroom, name, binds = min(used)
    return replace(use, headroom=headroom, binds=binds, target=name)


def _instances(
    scope: Scope, service_time_ms: float | None, peak_measured_per_s: float, *, objectives_met: bool
) -> InstanceEstimate | None:
    time_in_system_s = None if service_time_ms is None else service_time_ms * NS_PER_MS / NS_PER_S
    concurrency, source = concurrency_of_instance(
        configured=scope.settings.concurrency_per_instance,
        swept=scope.swept,
        managed=scope.managed,
        objectives_met=objectives_met,
        instances=scope.config.target.instances,
        held=peak_measured_per_s * (time_in_system_s or 0.0),
    )
    return instance_estimate(
        peak_requests_per_s=scope.peak_per_s,
        time_in_system_s=time_in_system_s,
        concurrency=concurrency,
        concurrency_source=source,
    )


def _serverless(scope: Scope, flow: Traffic, table: tuple[WhatIf, ...]) -> ServerlessCost | None:
    """None where the model is not sold per token, no request was billed, or none is planned for."""
    price, planned = scope.price, scope.planned
    if price is None or not flow.billed_requests or planned.arrivals.is_empty() or not table or is_unservable(scope):
        return None
    needed = deployments_needed(table, scope.settings.refused_share)
    return serverless_cost(
        price,
        so_far=Tokens(flow.prompt_tokens, flow.completion_tokens),
        of_a_request=Tokens(planned.mean_tokens("prompt_tokens"), planned.mean_tokens("completion_tokens")),
        requests_per_s=planned.requests_per_s,
        deployments=table[-1].deployments if needed is None else needed,
    )


def _serverless_together(scope: Scope, parts: Sequence[Part], table: tuple[WhatIf, ...]) -> ServerlessCost | None:
    """What the targets cost together, each at its own price; None where one has none."""
    known = [part.price for part, _ in parts if part.price is not None]
    each = [(figures.traffic.billed_requests, figures.serverless) for _, figures in parts]
    spent = [(requests, cost) for requests, cost in each if cost is not None]
    if not spent or len(known) < len(parts) or "serverless" in scope.unsaid:
        return None
    per_request_usd = sum(n * cost.per_request_usd for n, cost in spent) / sum(n for n, _ in spent)
    per_hour_usd = per_request_usd * scope.planned.requests_per_s * S_PER_HOUR
    inputs, outputs = ({getattr(price, name) for price in known} for name in ("input_usd_per_1k", "output_usd_per_1k"))
    return ServerlessCost(
        model=scope.model,
        input_usd_per_1k=inputs.pop() if len(inputs) == 1 else None,
        output_usd_per_1k=outputs.pop() if len(outputs) == 1 else None,
        source="; ".join(dict.fromkeys(price.source for price in known)),
        dated=min(price.dated for price in known).isoformat(),
        so_far_usd=sum(cost.so_far_usd for _, cost in spent),
        per_request_usd=per_request_usd,
        per_hour_usd=per_hour_usd,
        per_month_usd=per_hour_usd * HOURS_PER_MONTH,
        deployments=deployments_needed(table, scope.settings.refused_share)
        or sum(cost.deployments for _, cost in spent),
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
