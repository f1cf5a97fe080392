"""How many managed instances a demand needs over time, from what one instance can do at the objectives.

Static: N = ceil(peak load / rate of one instance) + spare, with the lower end of that rate's interval. A request counts
by its share of an instance, which its tokens decide: its time in the system over that of the mix's mean request. Over
time, with L = detection + cooldown + boot: N_t = ceil(the most load within [t, t + L] / that rate), since what is
needed at t + L must have been asked for at t. The answer is checked by sending the demand's busiest hour to so many
simulated instances (planner.fleets.sharing), and raised until these keep the objectives. Where requests go to the
least loaded instance, as is taken for granted, instances share the peaks of all, and the simulation alone decides; how
many it takes where they go to any is said beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadgen.errors import ConfigError
from loadgen.slo import Slo
from planner.cost import cores_of_quota
from planner.demand import MINUTE_S, Demand, busiest
from planner.fleets.autoscaling import AutoscaleResult, ScalePolicy, autoscale
from planner.fleets.fleet_checks import MOST_RAISED, FleetChecks
from planner.fleets.fleet_plan import FleetPlan, FleetRules
from planner.fleets.load_path import HourOfFleet, LoadPath, headroom_for, needed_by_hour, path_of
from planner.fleets.one_instance import OneInstance, Serving, objectives, one_instance
from planner.fleets.sharing import Routing

__all__ = ["FleetPlan", "FleetRules", "plan_fleet"]

AZURE_UTILIZATION = 0.7  # of the formula in Azure's documentation of managed online endpoints
SCALE_OUT_AT, SCALE_IN_AT = 0.7, 0.3  # of the concurrency at the objectives, for rules that nobody stated
SCALED_TIMES = 10  # requests that autoscaling is simulated with, over those of a check
SURE = 1e-9


def plan_fleet(demand: Demand, model: Serving, slos: Sequence[Slo | str], rules: FleetRules | None = None) -> FleetPlan:
    """Instances for the demand.

    Raises ConfigError where there is no demand, no objective or a scale rule amiss, CapacityError where no rate keeps
    the objectives, and what the model raises where it cannot say.
    """
    if demand.arrivals.is_empty() or demand.span_s <= 0:
        raise ConfigError(f"{demand.source} holds no arrival: there is nothing to plan instances for")
    rules = rules or FleetRules()
    instance = one_instance(
        demand,
        model,
        objectives(slos),
        max_concurrency=rules.max_concurrency,
        measured_rate_per_s=rules.measured_rate_per_s,
        missed_at_per_s=rules.missed_at_per_s,
    )
    path = path_of(demand, instance.weights(demand), rules.quantile)
    checks = FleetChecks(demand, instance, most_simulated=rules.most_simulated, seed=rules.seed)
    by_load = max(1, math.ceil(path.peak_per_s / instance.rate.low - SURE))
    by_routing = _by_routing(by_load, checks, rules.routing, trusted=instance.curve_holds)
    needed = by_routing[rules.routing] or by_load + MOST_RAISED
    instances = min(rules.max_instances, max(rules.min_instances, needed + rules.spare))
    hours, scheduled_h = needed_by_hour(
        path, instance.rate.low, lead_s=rules.lead_s, least=rules.min_instances, spare=rules.spare
    )
    return FleetPlan(
        instances=instances,
        needed=needed,
        spare=rules.spare,
        per_instance_rate=instance.rate,
        binds=instance.binds,
        concurrency_at_rate=instance.concurrency,
        peak_rate_per_s=path.peak_per_s,
        raised_by_check=max(0, needed - by_load),
        pooled=by_routing[Routing.LEAST_LOADED],
        at_random=by_routing[Routing.RANDOM],
        checks=checks.done,
        by_hour=hours,
        scheduled_instance_hours=scheduled_h,
        static_instance_hours=instances * demand.span_s / 3_600,
        lead_s=rules.lead_s,
        headroom_for_lead=headroom_for(path, rules.lead_s),
        autoscale=_autoscaled(demand, instance, rules, hours),
        cores_of_quota=_cores(instances, rules),
        azure_formula_instances=_azure_formula(instance, path),
        assumptions=_assumptions(demand, instance, rules, checks, needed, by_random=by_routing[Routing.RANDOM]),
    )


def _by_routing(by_load: int, checks: FleetChecks, routing: Routing, *, trusted: bool) -> dict[Routing, int | None]:
    """What each routing needs: by the load, raised where the check asks for more; None where it asks for too many.

    Fewer than by the load only where the least loaded instance is chosen and the curve is trusted.
    """
    found = {routed: checks.enough_from(by_load, routed) for routed in {Routing.RANDOM, routing}}
    enough = found[Routing.RANDOM] or by_load + MOST_RAISED
    pooled = checks.enough_from(enough, Routing.LEAST_LOADED)
    if pooled == enough:
        pooled = checks.fewest(enough, Routing.LEAST_LOADED, least=1 if trusted else by_load)
    found[Routing.LEAST_LOADED] = pooled
    needed = found[routing] or by_load + MOST_RAISED
    if needed > 1:
        checks.met(needed - 1, routing)
    return found


def _cores(instances: int, rules: FleetRules) -> int | None:
    if rules.cores_per_instance is None:
        return None
    return cores_of_quota(instances, rules.cores_per_instance, exempt=rules.exempt_from_reservation)


def _azure_formula(instance: OneInstance, path: LoadPath) -> int | None:
    """ceil(requests/s x time of a request / 0.7 / max_concurrent_requests_per_instance)."""
    if instance.cap is None:
        return None
    service_s = instance.curve().service_s(instance.concurrency)
    concurrent = path.peak_requests_per_s * service_s / AZURE_UTILIZATION
    return max(1, math.ceil(concurrent / instance.cap - SURE))


def _autoscaled(
    demand: Demand, instance: OneInstance, rules: FleetRules, hours: Sequence[HourOfFleet]
) -> AutoscaleResult | None:
    if demand.span_s <= rules.lead_s or rules.max_instances == rules.min_instances:
        return None
    stretch = busiest(demand, SCALED_TIMES * rules.most_simulated)
    start = hours[0].instances if rules.start_instances is None else rules.start_instances
    policy = ScalePolicy(
        min_instances=rules.min_instances,
        max_instances=rules.max_instances,
        start_instances=min(rules.max_instances, max(rules.min_instances, start)),
        rules=rules.scale_rules or _derived_rules(instance, rules),
        boot_s=rules.boot_minutes * MINUTE_S,
        places_per_instance=_places(instance),
    )
    return autoscale(
        instance.work(stretch, seed=rules.seed),
        instance.curve(),
        policy,
        instance.slos,
        span_s=stretch.span_s,
        routing=rules.routing,
        gap_spread=instance.gap_spread,
        seed=rules.seed,
    )


def _places(instance: OneInstance) -> int:
    """Requests in flight that an instance takes: its cap, else as many as the objectives allow."""
    return max(1, math.ceil(instance.concurrency)) if instance.cap is None else instance.cap


def _derived_rules(instance: OneInstance, rules: FleetRules) -> tuple[str, ...]:
    """One more above 70 % of the concurrency at the objectives, one fewer below 30 %."""
    share = 100 * min(1.0, instance.concurrency / _places(instance))
    cooldown_s = rules.cooldown_minutes * MINUTE_S
    return (
        f"utilization_percent>{SCALE_OUT_AT * share:.3g}:+1/{cooldown_s:g}s",
        f"utilization_percent<{SCALE_IN_AT * share:.3g}:-1/{cooldown_s:g}s",
    )


def _assumptions(
    demand: Demand, instance: OneInstance, rules: FleetRules, checks: FleetChecks, needed: int, *, by_random: int | None
) -> tuple[str, ...]:
    rate, lead_minutes = instance.rate, rules.lead_s / MINUTE_S
    said = [
        f"one instance serves {rate.low:.3g} requests/s, the lower end of {rate.value:.3g} "
        f"({rate.low:.3g} to {rate.high:.3g})",
        f"checked by simulating {checks.stretch.source}, from empty instances as slow as that lower end",
        f"requests are routed to instances by the rule {rules.routing.replace('_', ' ')}",
        f"a new instance takes {lead_minutes:.3g} min: {rules.detection_minutes:g} to see the load, "
        f"{rules.cooldown_minutes:g} of cooldown, {rules.boot_minutes:g} to boot",
    ]
    if needed + rules.spare <= rules.max_instances and needed != by_random:
        most = "more" if by_random is None else f"up to {by_random}"
        said.append(
            f"{most} instances are needed if Azure spreads requests over them at random, which is not documented"
        )
    if not checks.met(needed, rules.routing):
        said.append(f"even {needed} simulated instances do not keep the objectives")
    if needed + rules.spare > rules.max_instances:
        said.append(f"{needed + rules.spare} instances are more than the {rules.max_instances} allowed")
    if demand.span_s <= rules.lead_s:
        said.append(
            f"autoscaling is not judged: the demand was recorded for {demand.recorded_s / MINUTE_S:.3g} min, and a new "
            f"instance takes {lead_minutes:.3g} min"
        )
    if instance.prompt_slope_s == 0:
        said.append("a longer prompt is taken not to delay its first token: one shape was measured")
    if instance.cap is None:
        said.append("an instance runs all that comes at once: no cap on its concurrency is known")
    return tuple(said)
