"""What a demand costs in each way it may be served, where one overtakes the other, and how sure that is."""

from __future__ import annotations

import numpy as np

from planner.cost import (
    HOURS_PER_MONTH,
    S_PER_HOUR,
    break_even_output_share,
    break_even_tokens_per_hour,
    region_priced,
)
from planner.costs.cost_case import Capacity, Case, CostRules
from planner.costs.cost_results import BreakEven, CostPlan, Hybrid, Option, Waste
from planner.costs.cost_words import assumptions, doubts
from planner.costs.demand_path import DemandPath, Floats, demand_path
from planner.costs.growth import LimitReached, limits_reached, week_profile
from planner.costs.options import SERVERLESS, Way, ways
from planner.costs.uncertainty import AS_PLANNED, Driver, Worlds, draw_worlds, range_90, tornado
from planner.demand import Demand, admission_tokens, peak_per_minute
from planner.prices import Sku, TokenPrice

__all__ = ["CostPlan", "CostRules", "plan_costs"]
MANY_WORTHS = 12
BREAK_EVEN = "tokens per hour at which one instance costs what they do serverless"


def plan_costs(
    demand: Demand,
    price: TokenPrice | None,
    sku: Sku | None,
    capacity_per_instance: Capacity | None,
    rules: CostRules | None = None,
) -> CostPlan:
    """Everything there is to say about what the demand costs; `rules.growth` multiplies it here, and keeps its hours.

    `capacity_per_instance` is requests/s that one instance of the SKU serves within the objectives: the low end of its
    90 % interval, the value, the high end; None where it was not measured. Managed ways then need `rules.instances`,
    and hybrid is not planned. Without a price there is no serverless, without a SKU no managed way. Raises ValueError
    for a capacity whose ends are not in order.
    """
    rules = CostRules() if rules is None else rules
    path = demand_path(
        demand,
        growth=rules.growth,
        hours_on_per_week=rules.hours_on_per_week,
        off_hours_load_share=rules.off_hours_load_share,
    )
    region = None if sku is None else region_priced(sku, rules.region)
    case = Case(
        path=path,
        rules=rules,
        price=price,
        usd_per_hour=None if sku is None or region is None else sku.usd_per_hour[region],
        reserved_usd_per_hour={} if sku is None or region is None else dict(sku.reserved_usd_per_hour.get(region, {})),
        capacity=capacity_per_instance,
    )
    worlds = draw_worlds(
        path,
        case.usd_per_s if price is not None else path.requests_per_s,
        capacity=capacity_per_instance,
        price_range_share=rules.price_range_share,
        draws=rules.draws,
        rng=np.random.default_rng(rules.seed),
    )
    found = list(ways(case))
    managed, even = _cheapest_managed(found), _break_even(case, worlds)
    serverless = next((way for way in found if way.name == SERVERLESS), None)
    return CostPlan(
        model=None if price is None else price.model,
        sku=None if sku is None else sku.name,
        region=region,
        options=_options(found, serverless, worlds, path),
        break_even=even,
        waste=_waste(case),
        hybrid=_hybrid(case),
        reservations=case.reservations,
        growth=_growth(case, demand, even),
        profile=week_profile(demand),
        sensitivity=_sensitivity(serverless, managed, worlds),
        probability_managed_cheaper=_share_cheaper(managed, serverless, worlds),
        assumptions=assumptions(case),
        doubts=doubts(case, sku, region),
    )


def _cheapest_managed(found: list[Way]) -> Way | None:
    """Of the ways that are managed altogether."""
    managed = [way for way in found if way.name.startswith("managed")]
    return min(managed, key=lambda way: float(way.per_month_usd(AS_PLANNED)[0]), default=None)


def _options(found: list[Way], serverless: Way | None, worlds: Worlds, path: DemandPath) -> tuple[Option, ...]:
    hour_tokens, hour_requests = path.mean_tokens_per_s * S_PER_HOUR, path.mean_requests_per_s * S_PER_HOUR
    options = []
    for way in found:
        per_month_usd, ends = float(way.per_month_usd(AS_PLANNED)[0]), range_90(way.per_month_usd(worlds))
        per_hour_usd = per_month_usd / HOURS_PER_MONTH
        options.append(
            Option(
                name=way.name,
                per_month_usd=per_month_usd,
                low_usd=ends.low,
                high_usd=ends.high,
                per_hour_usd=per_hour_usd,
                per_1m_tokens_usd=per_hour_usd / hour_tokens * 1e6 if hour_tokens else None,
                per_request_usd=per_hour_usd / hour_requests if hour_requests else None,
                instances=way.instances,
                probability_cheaper=_share_cheaper(way, serverless, worlds),
                what_must_be_true=way.what_must_be_true,
            )
        )
    return tuple(sorted(options, key=lambda option: option.per_month_usd))


def _share_cheaper(way: Way | None, serverless: Way | None, worlds: Worlds) -> float | None:
    if way is None or serverless is None or way is serverless:
        return None
    return float((way.per_month_usd(worlds) < serverless.per_month_usd(worlds)).mean())


def _sensitivity(serverless: Way | None, managed: Way | None, worlds: Worlds) -> tuple[Driver, ...]:
    one = managed or serverless
    if one is None:
        return ()
    if managed is None or serverless is None:
        return tornado(one.per_month_usd, worlds)
    return tornado(lambda drawn: managed.per_month_usd(drawn) - serverless.per_month_usd(drawn), worlds)


def _break_even(case: Case, worlds: Worlds) -> BreakEven | None:
    path, price = case.path, case.price
    request_tokens = path.mean_tokens_per_s / path.mean_requests_per_s if path.mean_requests_per_s else 0.0
    if price is None or case.usd_per_hour is None or not request_tokens:
        return None
    volume = break_even_tokens_per_hour(case.usd_per_hour, price, path.output_share)
    if volume is None:
        return None
    volumes = volume * worlds.instance_price / worlds.token_price
    per_s = volume / S_PER_HOUR / request_tokens
    utilisation: float | None = None
    utilisations: Floats | None = None
    if case.served_per_s is not None:
        utilisation = per_s / case.served_per_s
        utilisations = volumes / (S_PER_HOUR * request_tokens * case.served_per_s * worlds.capacity)
    return BreakEven(
        tokens_per_hour=volume,
        tokens_per_hour_range=range_90(volumes),
        requests_per_s=per_s,
        served_per_s=case.served_per_s,
        utilisation=utilisation,
        utilisation_range=None if utilisations is None else range_90(utilisations),
        managed_can_win=None if utilisation is None else utilisation <= 1,
        output_share=break_even_output_share(case.usd_per_hour, path.mean_tokens_per_s * S_PER_HOUR, price),
    )


def _waste(case: Case) -> Waste:
    path, rules = case.path, case.rules
    idle_share = None
    if case.served_per_s is not None and case.instances and case.usd_per_hour is not None:
        served = case.instances * case.served_per_s
        idle_share = 1 - path.mean(np.minimum(path.requests_per_s, served)) / served
    idle_hours = None if idle_share is None else idle_share * (case.instances or 0) * HOURS_PER_MONTH
    deployments = rules.deployments or 1
    unused: list[float | None] = []
    for quota, per_s in (
        (rules.tokens_per_minute, path.mean_tokens_per_s),
        (rules.requests_per_minute, path.mean_requests_per_s),
    ):
        unused.append(None if quota is None else max(0.0, 1 - per_s * 60 / (quota * deployments)))
    return Waste(
        idle_instance_hours=idle_hours,
        idle_share=idle_share,
        idle_usd=None if idle_hours is None else idle_hours * (case.usd_per_hour or 0.0),
        unused_tokens_share=unused[0],
        unused_requests_share=unused[1],
    )


def _hybrid(case: Case) -> Hybrid | None:
    worth = case.worth_usd_per_hour
    if worth is None or case.usd_per_hour is None:
        return None
    return Hybrid(
        instances=case.base,
        usd_per_hour=case.usd_per_hour,
        worth_usd_per_hour=tuple(float(usd) for usd in worth[: min(case.base + 1, MANY_WORTHS)]),
        managed_share=case.served_by_base,
    )


def _growth(case: Case, demand: Demand, even: BreakEven | None) -> tuple[LimitReached, ...]:
    """When the busiest minute reaches what there is, and the volume the break-even of an instance."""
    rules, path = case.rules, case.path
    if rules.growth_per_month <= 0:
        return ()
    limits: dict[str, tuple[float, float]] = {}
    deployments = rules.deployments or 1
    several = f"{deployments} deployment{'' if deployments == 1 else 's'}"
    if rules.tokens_per_minute is not None:
        now = peak_per_minute(demand, admission_tokens(rules.admission)) * rules.growth
        limits[f"tokens per minute of {several}"] = (now, float(rules.tokens_per_minute * deployments))
    if rules.requests_per_minute is not None:
        now = path.peak_requests_per_s * 60
        limits[f"requests per minute of {several}"] = (now, float(rules.requests_per_minute * deployments))
    if case.counted_per_s is not None and case.instances:
        serving = max(1, case.instances - rules.spare_instances)
        name = f"requests/s of {serving} instance{'' if serving == 1 else 's'}"
        limits[name] = (path.peak_requests_per_s, serving * case.counted_per_s)
    if even is not None:
        limits[BREAK_EVEN] = (
            path.mean_tokens_per_s * S_PER_HOUR,
            even.tokens_per_hour,
        )
    return limits_reached(limits, rules.growth_per_month, break_even=BREAK_EVEN)
