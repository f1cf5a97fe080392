"""Ahead: what a demand needs and costs beyond what its run showed, and what to do.

Deployments by replay (planner.quotas.deployments), an instance's highest rate by the serving model (planner.capacity),
instances by that rate and simulation (planner.fleet), costs of each way to serve (planner.cost_plan).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from loadgen.config import Dialect
from loadgen.errors import CapacityError, ConfigError
from loadgen.quota import Quota
from planner.capacity import ServingModel
from planner.cost_plan import CostPlan, CostRules, plan_costs
from planner.costs.cost_results import Option
from planner.costs.cost_words import FORMULAS as COST_FORMULAS
from planner.costs.options import AROUND_THE_CLOCK, SERVERLESS
from planner.costs.spending import Spending, spending
from planner.demand import Demand, as_recorded, busiest
from planner.fleet import FleetPlan, FleetRules, plan_fleet
from planner.instance_rate import (
    InstanceRate,
    guessed,
    instance_rate,
    measured_rate_per_s,
    missed_rate_per_s,
    other_shape,
)
from planner.plan import Plan
from planner.prices import Sku
from planner.quotas.admitted import as_recorded as need_as_recorded
from planner.quotas.deployments import PHASES, QuotaNeed, quota_need
from planner.room import Room, room_of
from planner.scope import WATCHED_S, Scope, is_unservable
from planner.traffic import CUT_SHARE, cut_share

SAVES = 0.995  # of a cost: what saves less is no way of its own
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
class Ahead:
    recommendation: str  # one sentence
    must_be_true: tuple[str, ...]
    need: QuotaNeed | None  # None: no quota, no arrivals, or requests that no quota such as this admits
    too_large: str | None  # requests that no deployment ever admits, where they are too many to plan without
    capacity: InstanceRate | None
    capacity_unknown: str | None  # why, and what to run
    instances: int | None  # that run around the clock: needed, and spare; None: nothing says how many
    instances_guessed: str | None  # why that number is a guess; None: it was measured, or given
    fleet: FleetPlan | None
    room: Room | None  # in managed instances; None of a quota, and where `capacity` is
    costs: CostPlan | None  # None: no arrivals, or nothing has a price
    spending: Spending | None  # what the run itself cost; None: tokens have no price
    doubts: tuple[str, ...]
    assumptions: tuple[str, ...]
    formulas: tuple[tuple[str, str], ...]  # name and formula of all that was computed


def look_ahead(scope: Scope, plan: Plan, need: QuotaNeed | None) -> Ahead | None:
    """None where the run holds no arrival to plan from, or several targets that share nothing."""
    if _nothing_to_plan(scope):
        return None
    model, rate, unknown = instance_rate(scope)
    sku = _sku(scope)
    fleet, unfit = _fleet(scope, model, rate, sku)
    guess = None if rate is not None else guessed(scope, plan.instances)
    instances = _instances(scope, plan, rate, fleet)
    costs = _costs(scope, sku, rate, instances, None if need is None else need.deployments)
    if costs is not None and rate is None:
        costs = _unsure(costs, _taken_per_s(plan), guessed=guess is not None)
    from planner.advice import advice  # noqa: PLC0415 - it is about what is defined here

    sentence, must = advice(plan, scope, need, costs, measured=rate is not None, guess=guess)
    return Ahead(
        recommendation=sentence,
        must_be_true=must,
        need=need,
        too_large=str(scope.too_large) if is_unservable(scope) else None,
        capacity=rate,
        capacity_unknown=unknown or unfit,
        instances=instances,
        instances_guessed=guess,
        fleet=fleet,
        room=room_of(
            scope, rate, instances, met=all(slo.met is True for slo in plan.slos), simulated=fleet is not None
        ),
        costs=costs,
        spending=None if scope.price is None else spending(scope.counts, scope.price),
        doubts=(
            *_doubts(scope, plan, model, rate),
            *(() if model is None else model.doubts),
            *(() if costs is None else costs.doubts),
        ),
        assumptions=(*(() if fleet is None else fleet.assumptions), *(() if costs is None else costs.assumptions)),
        formulas=FORMULAS,
    )


def _nothing_to_plan(scope: Scope) -> bool:
    return scope.planned.arrivals.is_empty() or scope.planned.span_s <= 0 or len(scope.config.targets) > 1


def need_ahead(scope: Scope) -> QuotaNeed | None:
    """None as in `Ahead`."""
    replayed = replayed_ahead(scope)
    if replayed is None:
        return None
    demand, phases = replayed
    need = quota_need(demand, scope.quota, target_share=scope.settings.refused_share, phases=phases)
    return need_as_recorded(need, demand)


def replayed_ahead(scope: Scope) -> tuple[Demand, int] | None:
    """What is replayed, in how many phases of the minute: of a demand of many arrivals the busiest, in fewer phases."""
    if _nothing_to_plan(scope) or (scope.managed and scope.price is None) or is_unservable(scope):
        return None
    demand = busiest(scope.planned, MOST_ARRIVALS)
    return demand, max(1, min(PHASES, MOST_IN_PHASES // most_replayed(demand)))


def most_replayed(demand: Demand) -> int:
    """Arrivals, with those of a short demand again."""
    return max(demand.arrivals.height, round(demand.requests_per_s * WATCHED_S))


def fleet_ahead(scope: Scope) -> FleetPlan | None:
    """By simulation, where there is a serving model."""
    model, rate, _ = instance_rate(scope)
    return _fleet(scope, model, rate, _sku(scope))[0]


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
        measured_rate_per_s=measured_rate_per_s(scope),
        missed_at_per_s=missed_rate_per_s(scope),
        cores_per_instance=None if sku is None else sku.cores,
        exempt_from_reservation=sku is not None and sku.exempt_from_reservation,
        most_simulated=20_000,
    )
    try:
        return plan_fleet(busiest(scope.planned, MOST_ARRIVALS), model, scope.slos, rules), None
    except (CapacityError, ConfigError) as error:
        return None, str(error)


def _instances(scope: Scope, plan: Plan, rate: InstanceRate | None, fleet: FleetPlan | None) -> int | None:
    """By the simulated fleet, else by what an instance serves, else by what it holds at once."""
    settings = scope.settings
    if fleet is not None:
        return fleet.instances
    if rate is not None:
        needed = max(1, math.ceil(scope.peak_per_s / rate.low - 1e-9))
    elif plan.instances is not None:
        needed = plan.instances.instances
    else:
        return None
    return max(settings.min_instances, needed + settings.spare)


def _doubts(scope: Scope, plan: Plan, model: ServingModel | None, rate: InstanceRate | None) -> Iterator[str]:
    other, timed, settings = other_shape(scope), plan.instances, scope.settings
    if rate is None and timed is not None and other is not None:
        yield f"instances are counted with {timed.time_in_system_s:.3g} s a request, and are a guess: {other}"
    if scope.config.target.dialect is Dialect.OPENAI and scope.quota == Quota() and not scope.managed:
        yield (
            f"the quota is taken to be Azure's {scope.quota.tokens_per_minute:,} tokens and "
            f"{scope.quota.requests_per_minute:,} requests a minute: where the endpoint has others, or none, give "
            "--tpm and --rpm, or --kind managed"
        )
    if is_cut(scope):
        yield (
            f"max_tokens ended {100 * cut_share(scope.run):.0f} % of the answers: with a higher one they would be "
            "longer and cost more, by how much is not known"
        )
    if settings.max_concurrency is not None and model is None:
        yield (
            "--max-concurrency (plan.max_concurrency) changes nothing here: it is part of a serving model, and there "
            "is none"
        )
    if settings.concurrency_per_instance is not None and rate is not None:
        yield (
            "--concurrency-per-instance (plan.concurrency_per_instance) changes nothing here: what an instance serves "
            "was measured"
        )


def is_cut(scope: Scope) -> bool:
    """Whether so many of the run's own answers were ended by max_tokens that their lengths are no lengths."""
    return scope.of_own_requests and scope.config.load.trace is None and cut_share(scope.run) > CUT_SHARE


def _costs(
    scope: Scope, sku: Sku | None, rate: InstanceRate | None, instances: int | None, deployments: int | None
) -> CostPlan | None:
    price, settings = None if is_unservable(scope) else scope.price, scope.settings
    if price is None and sku is None:
        return None
    quota = None if scope.managed else scope.quota
    rules = CostRules(
        region=scope.region,
        growth=scope.planned.speed,
        boot_minutes=settings.boot_minutes,
        min_instances=settings.min_instances,
        spare_instances=settings.spare,
        hours_on_per_week=settings.hours_on_per_week,
        instances=instances,
        growth_per_month=settings.growth_per_month,
        admission=scope.config.quota.admission,
        tokens_per_minute=None if quota is None else quota.tokens_per_minute,
        requests_per_minute=None if quota is None else quota.requests_per_minute,
        deployments=deployments,
    )
    capacity = None if rate is None else (rate.low, rate.rate_per_s, rate.high)
    costs = plan_costs(as_recorded(scope.planned), price, sku, capacity, rules)
    return replace(costs, options=_distinct(costs.options))


def _distinct(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Without those that save nothing over the same instances around the clock."""
    steady_usd = next((each.per_month_usd for each in options if each.name == AROUND_THE_CLOCK), math.inf)
    return tuple(
        each
        for each in options
        if each.name in (SERVERLESS, AROUND_THE_CLOCK) or each.per_month_usd < SAVES * steady_usd
    )


def _taken_per_s(plan: Plan) -> float | None:
    """What one instance is taken to serve where nobody measured it: by Little's law, from what it holds at once."""
    each = plan.instances
    return None if each is None or not each.time_in_system_s else each.concurrency_per_instance / each.time_in_system_s


def _unsure(costs: CostPlan, taken_per_s: float | None, *, guessed: bool) -> CostPlan:
    """How likely a way is the cheaper one is not known while nobody measured what an instance serves.

    Nor, where that is a guess, within which range the cost of instances lies.
    """
    options = tuple(
        replace(
            each,
            probability_cheaper=None,
            low_usd=None if guessed and each.name != SERVERLESS else each.low_usd,
            high_usd=None if guessed and each.name != SERVERLESS else each.high_usd,
        )
        for each in costs.options
    )
    even = None if costs.break_even is None else replace(costs.break_even, served_per_s=taken_per_s)
    return replace(costs, options=options, break_even=even, sensitivity=(), probability_managed_cheaper=None)
