"""Ahead: what a demand needs and costs beyond what its run showed, and what to do.

Deployments by replay (planner.quotas.deployments), an instance's highest rate by the serving model (planner.capacity),
instances by that rate and simulation (planner.fleet), costs of each way to serve (planner.cost_plan).
"""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.errors import CapacityError, ConfigError
from planner.capacity import ServingModel, fit
from planner.cost_plan import CostPlan, CostRules, plan_costs
from planner.costs.cost_words import FORMULAS as COST_FORMULAS
from planner.costs.spending import Spending, spending
from planner.demand import busiest
from planner.fleet import FleetPlan, FleetRules, plan_fleet
from planner.instances import SweptCapacity
from planner.plan import Plan
from planner.prices import Sku
from planner.quotas.deployments import PHASES, QuotaNeed, quota_need
from planner.scope import WATCHED_S, Scope

MOST_ARRIVALS = 200_000  # of which the need is found, and instances simulated
MOST_IN_PHASES = 1_000_000  # arrivals, of all phases of the minute together
FORMULAS = (
    ("deployments", "the smallest number at which every way of enforcing refuses at most the target share, by replay"),
    ("interval of deployments", "circular block bootstrap of the demand's minutes, 95 %"),
    ("time between tokens", "ITL(n) = a + b n^p, or a + b n + c n^2, by smallest left-out relative error"),
    ("first token", "TTFT_q = c0 + c1 ITL(n)"),
    ("Little's law", "n = rate x (TTFT(n) + (completion tokens - 1) ITL(n)), the smallest root"),
    ("instances", "the fewest that keep the objectives when simulated, the busiest going to the least loaded, + spare"),
    *COST_FORMULAS.items(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRate:
    """Requests a second that one instance serves within the objectives; 90 % interval."""

    rate_per_s: float
    low: float
    high: float
    binds: str  # the objective that is missed first, or "capacity", or "concurrency cap"
    grade: str  # interpolated | one step beyond | extrapolated
    horizon: float  # the rate over the highest steady step's
    form: str  # of the curve: linear | power | quadratic
    steps_used: int
    concurrency_cap: int | None
    cap_source: str  # given | measured | unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    recommendation: str  # one sentence
    must_be_true: tuple[str, ...]
    need: QuotaNeed | None  # None: no quota, or no arrivals
    capacity: InstanceRate | None
    capacity_unknown: str | None  # why, and what to run
    fleet: FleetPlan | None
    costs: CostPlan | None  # None: no arrivals, or nothing has a price
    spending: Spending | None  # what the run itself cost; None: tokens have no price
    doubts: tuple[str, ...]
    assumptions: tuple[str, ...]
    formulas: tuple[tuple[str, str], ...]  # name and formula of all that was computed


def look_ahead(scope: Scope, plan: Plan, need: QuotaNeed | None) -> Ahead | None:
    """None where the run holds no arrival to plan from, or several targets that share nothing."""
    if _nothing_to_plan(scope):
        return None
    model, rate, unknown = _capacity(scope)
    sku = _sku(scope)
    fleet, unfit = _fleet(scope, model, rate, sku)
    counted = None if plan.instances is None else plan.instances.instances + scope.settings.spare
    instances = counted if fleet is None else fleet.instances
    costs = _costs(scope, sku, rate, instances, None if need is None else need.deployments)
    from planner.advice import advice  # noqa: PLC0415 - it is about what is defined here

    sentence, must = advice(plan, scope, need, fleet, costs)
    return Ahead(
        recommendation=sentence,
        must_be_true=must,
        need=need,
        capacity=rate,
        capacity_unknown=unknown or unfit,
        fleet=fleet,
        costs=costs,
        spending=None if scope.price is None else spending(scope.run, scope.price),
        doubts=(*(() if model is None else model.doubts), *(() if costs is None else costs.doubts)),
        assumptions=(*(() if fleet is None else fleet.assumptions), *(() if costs is None else costs.assumptions)),
        formulas=FORMULAS,
    )


def _nothing_to_plan(scope: Scope) -> bool:
    return scope.planned.arrivals.is_empty() or scope.planned.span_s <= 0 or len(scope.config.targets) > 1


def need_ahead(scope: Scope) -> QuotaNeed | None:
    """Of a demand of many arrivals, the busiest are replayed, in fewer phases of the minute. None as in `Ahead`."""
    if _nothing_to_plan(scope) or (scope.managed and scope.price is None):
        return None
    demand = busiest(scope.planned, MOST_ARRIVALS)
    replayed = max(demand.arrivals.height, round(demand.requests_per_s * WATCHED_S))
    phases = max(1, min(PHASES, MOST_IN_PHASES // replayed))
    return quota_need(demand, scope.quota, target_share=scope.settings.refused_share, phases=phases)


def _capacity(scope: Scope) -> tuple[ServingModel | None, InstanceRate | None, str | None]:
    """The model, what an instance serves, and why that is not known."""
    if not scope.managed:
        return None, None, (
            "serverless deployments hide their machines; measure a managed one of this model: headroom sweep "
            "--target URL --kind managed --slo 'ttft.p95<1s'"
        )  # fmt: skip
    if not scope.slos:
        return None, None, "no objective says how slow is too slow: give --slo"
    if scope.steps is None or scope.steps.height < 2:
        return None, None, "one load says nothing of another: measure several with headroom sweep, or plan several runs"
    instances = scope.config.target.instances or 1
    try:
        model = fit(scope.steps, concurrency_cap=scope.settings.max_concurrency, instances=instances)
        found = model.max_rate(scope.slos)
    except (CapacityError, ConfigError) as error:
        return None, None, str(error)
    rate = found.rate_per_s
    return model, InstanceRate(
        rate_per_s=rate.value,
        low=rate.low,
        high=rate.high,
        binds=found.binds,
        grade=found.grade,
        horizon=found.horizon,
        form=model.form,
        steps_used=model.steps_used,
        concurrency_cap=model.concurrency_cap,
        cap_source=model.cap_source,
    ), None  # fmt: skip


def _sku(scope: Scope) -> Sku | None:
    """The one that was asked for; else the cheapest in the region, or wherever it has a price, that is not retired."""
    hosts = scope.book.skus_for(scope.model)
    if scope.settings.sku is not None:
        found = scope.book.skus.get(scope.settings.sku)
        if found is None:
            raise ConfigError(
                f"plan.sku: the price book has no {scope.settings.sku!r}; it has {', '.join(sorted(scope.book.skus))}"
            )
        return found
    current = [sku for sku in hosts if sku.retired is None] or list(hosts)
    here = [sku for sku in current if scope.region in sku.usd_per_hour]
    return min(here or current, key=lambda sku: sku.usd_per_hour.get(scope.region, float(sku.gpus)), default=None)


def _fleet(
    scope: Scope, model: ServingModel | None, rate: InstanceRate | None, sku: Sku | None
) -> tuple[FleetPlan | None, str | None]:
    if model is None or rate is None:
        return None, None
    settings = scope.settings
    rules = FleetRules(
        spare=settings.spare,
        min_instances=settings.min_instances,
        boot_minutes=settings.boot_minutes,
        max_concurrency=settings.max_concurrency,
        measured_rate_per_s=_of_one(scope.swept, "rate_per_s"),
        missed_at_per_s=_of_one(scope.swept, "missed_per_s"),
        cores_per_instance=None if sku is None else sku.cores,
        exempt_from_reservation=sku is not None and sku.exempt_from_reservation,
        most_simulated=20_000,
    )
    try:
        return plan_fleet(busiest(scope.planned, MOST_ARRIVALS), model, scope.slos, rules), None
    except (CapacityError, ConfigError) as error:
        return None, str(error)


def _of_one(swept: SweptCapacity | None, name: str) -> float | None:
    rate_per_s = getattr(swept, name, None)
    return None if swept is None or rate_per_s is None else rate_per_s / swept.instances


def _costs(
    scope: Scope, sku: Sku | None, rate: InstanceRate | None, instances: int | None, deployments: int | None
) -> CostPlan | None:
    price, settings = scope.price, scope.settings
    if price is None and sku is None:
        return None
    quota = None if scope.managed else scope.quota
    rules = CostRules(
        region=scope.region,
        boot_minutes=settings.boot_minutes,
        min_instances=settings.min_instances,
        spare_instances=settings.spare,
        hours_on_per_week=settings.hours_on_per_week,
        instances=None if instances is None else max(settings.min_instances, instances),
        growth_per_month=settings.growth_per_month,
        admission=scope.config.quota.admission,
        tokens_per_minute=None if quota is None else quota.tokens_per_minute,
        requests_per_minute=None if quota is None else quota.requests_per_minute,
        deployments=deployments,
    )
    capacity = None if rate is None else (rate.low, rate.rate_per_s, rate.high)
    return plan_costs(scope.planned, price, sku, capacity, rules)
