"""How many managed instances a demand needs over time, from what one instance can do at the objectives.

Static: N = ceil(peak load / rate of one instance) + spare, with the lower end of that rate's interval. A request counts
by its share of an instance, which its tokens decide: its time in the system over that of the mix's mean request. Over
time, with L = detection + cooldown + boot: N_t = ceil(the most load within [t, t + L] / that rate), since what is
needed at t + L must have been asked for at t. Every answer is checked by sending the demand's busiest hour to so many
simulated instances (planner.sharing), and raised until these keep the objectives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loadgen.errors import ConfigError, HeadroomError
from loadgen.slo import Slo
from planner.attainment import Attainment, Outcomes, attainment
from planner.autoscaling import AutoscaleResult, ScalePolicy, autoscale
from planner.cost import cores_of_quota
from planner.demand import Demand, busiest, repeated
from planner.load_path import MINUTE_S, HourOfFleet, busiest_stretch, headroom_for, needed_by_hour, path_of
from planner.sharing import Floats, Routing, ServiceCurve, Timing, Work, simulate
from planner.simulated_rate import simulated_rate
from planner.waiting import erlang_c

AZURE_UTILIZATION = 0.7  # of the formula in Azure's documentation of managed online endpoints
CHECKED_S = 3_600.0  # the demand's busiest stretch of so many seconds is simulated
LEAST_CHECKED_S = 600.0  # a shorter demand is repeated until it spans so much
MOST_RAISED = 10  # instances that the check may add
SCALE_OUT_AT, SCALE_IN_AT = 0.7, 0.3  # of the concurrency at the objectives, for rules that nobody stated
SURE = 1e-9


class Range(Protocol):
    """A figure with its 90 % interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class MaxRate(Protocol):
    @property
    def rate_per_s(self) -> Range: ...
    @property
    def binds(self) -> str: ...


class Serving(Timing, Protocol):
    """A calibrated serving model of one instance: planner.capacity.ServingModel."""

    def max_rate(
        self, slo: Sequence[Slo], prompt_tokens: float | None = None, completion_tokens: float | None = None
    ) -> MaxRate: ...


def plan_fleet(demand: Demand, model: Serving, slos: Sequence[Slo | str], rules: FleetRules | None = None) -> FleetPlan:
    """Instances for the demand. Raises ConfigError where there is no demand or no rate keeps the objectives, and what
    the model raises where it cannot say."""
    return _Planning(demand, model, slos, rules or FleetRules()).plan()


class _Planning:
    """What the parts of a plan share."""

    def __init__(self, demand: Demand, model: Serving, slos: Sequence[Slo | str], rules: FleetRules) -> None:
        if demand.arrivals.is_empty() or demand.span_s <= 0:
            raise ConfigError(f"{demand.source} holds no arrival: there is nothing to plan instances for")
        self.demand, self.model, self.rules = demand, model, rules
        self.slos = [Slo.parse(slo) if isinstance(slo, str) else slo for slo in slos]
        self.shape = demand.mean_tokens("prompt_tokens"), demand.mean_tokens("completion_tokens")
        self.assumptions: list[str] = []
        self.prompt_slope_s = self._prompt_slope_s()
        self.curve = self._curve()
        self.rate, self.binds = self._rate()
        self.slow_curve = self._curve(slower=self.rate.value / self.rate.low)
        self.concurrency = _concurrency(self.curve, self.rate.value)
        self.path = path_of(demand, self._weights(), rules.quantile)

    def plan(self) -> FleetPlan:
        rules, path = self.rules, self.path
        by_load = max(1, math.ceil(path.peak_per_s / self.rate.low - SURE))
        needed, checks = self._checked(by_load)
        instances = min(rules.max_instances, max(rules.min_instances, needed + rules.spare))
        if instances < needed + rules.spare:
            self.assumptions.append(f"{needed + rules.spare} instances are more than the {rules.max_instances} allowed")
        hours, scheduled_h = needed_by_hour(
            path, self.rate.low, lead_s=rules.lead_s, least=rules.min_instances, spare=rules.spare
        )
        scaled = self._autoscaled(hours)
        self._state_assumptions()
        return FleetPlan(
            instances=instances,
            needed=needed,
            spare=rules.spare,
            per_instance_rate=self.rate,
            binds=self.binds,
            concurrency_at_rate=self.concurrency,
            peak_rate_per_s=path.peak_per_s,
            raised_by_check=needed - by_load,
            fewest_simulated=min((each.instances for each in checks if each.attainment.met), default=None),
            checks=checks,
            by_hour=hours,
            scheduled_instance_hours=scheduled_h,
            static_instance_hours=instances * self.demand.span_s / 3_600,
            lead_s=rules.lead_s,
            headroom_for_lead=headroom_for(path, rules.lead_s),
            autoscale=scaled,
            cores_of_quota=None
            if rules.cores_per_instance is None
            else cores_of_quota(instances, rules.cores_per_instance, exempt=rules.exempt_from_reservation),
            azure_formula_instances=self._azure_formula(),
            assumptions=tuple(self.assumptions),
        )

    @property
    def places(self) -> int:
        """Requests in flight that an instance takes: stated, else the model's cap, else what the objectives allow."""
        stated = self.rules.max_concurrency or self.model.concurrency_cap
        return max(1, math.ceil(self.concurrency)) if stated is None else stated

    def _rate(self) -> tuple[Interval, str]:
        """Of one instance: the model's, and no more than keeps the objectives when simulated with Poisson arrivals.

        The model knows the mean in flight, the simulation also how often more come at once than there are places.
        """
        found = self.model.max_rate(self.slos, *self.shape)
        rate = found.rate_per_s
        simulated = 0.0
        if rate.low > 0:
            columns = (self.demand.arrivals[name].to_numpy() for name in ("prompt_tokens", "completion_tokens"))
            simulated = simulated_rate(
                self.curve, self.slos, columns, most_per_s=rate.value, gap_spread=self._gap_spread()
            )
        if simulated == 0:
            raise ConfigError(
                f"no rate above zero surely keeps {', '.join(slo.text for slo in self.slos)} at one instance "
                f"({found.binds}), so no number of instances does; relax the objectives or measure a faster deployment"
            )
        share = simulated / rate.value
        binds = found.binds if share == 1 else f"{found.binds}, by arrivals that come at once"
        return Interval(value=simulated, low=share * rate.low, high=share * rate.high), binds

    def _curve(self, slower: float = 1.0) -> ServiceCurve:
        return ServiceCurve(self.model, *self.shape, prompt_slope_s=self.prompt_slope_s, slower=slower)

    def _prompt_slope_s(self) -> float:
        """Seconds until the first token for each further prompt token; 0 where the model knows one shape only."""
        prompt, completion = self.shape
        try:
            longer_ms = self.model.ttft_ms(1, 1.1 * prompt + 1, completion)
            return max(0.0, longer_ms - self.model.ttft_ms(1, prompt, completion)) / 1e3 / (0.1 * prompt + 1)
        except HeadroomError:
            return 0.0

    def _weights(self) -> Floats:
        """Each request's share of an instance, in mean requests: its time in the system at the objectives' load."""
        arrivals, n = self.demand.arrivals, max(1.0, self.concurrency)
        ttft_ms, itl_ms = self.model.ttft_ms(n, *self.shape), self.model.itl_ms(n, *self.shape)
        prompt = arrivals["prompt_tokens"].to_numpy().astype(np.float64)
        gaps = np.maximum(arrivals["completion_tokens"].to_numpy().astype(np.float64) - 1, 0)
        service_s = (ttft_ms + gaps * itl_ms) / 1e3 + self.curve.prompt_slope_s * (prompt - self.shape[0])
        service_s = np.maximum(service_s, 0.0)
        mean_s = float(service_s.mean())
        weights: Floats = service_s / mean_s if mean_s > 0 else np.ones(len(service_s))
        return weights

    def _checked(self, by_load: int) -> tuple[int, tuple[FleetCheck, ...]]:
        """The fewest instances from `by_load` on that keep the objectives when simulated, and what was simulated.

        Below `by_load` the fewest that would do are searched too, by bisection.
        """
        whole = repeated(self.demand, LEAST_CHECKED_S)
        stretch = busiest(busiest_stretch(whole, CHECKED_S), self.rules.most_simulated)
        self.assumptions.append(
            f"checked by simulating {stretch.source}, from empty instances as slow as the interval's lower end"
        )
        checks = {by_load: self._check(stretch, by_load)}
        needed = by_load
        while not checks[needed].attainment.met and needed < by_load + MOST_RAISED:
            needed += 1
            checks[needed] = self._check(stretch, needed)
        if not checks[needed].attainment.met:
            self.assumptions.append(f"even {needed} simulated instances do not keep the objectives")
        low, high = 0, needed  # more than `low` are needed, `high` do
        trial = by_load - 1
        while needed == by_load and low < trial < high:
            checks[trial] = self._check(stretch, trial)
            low, high = (low, trial) if checks[trial].attainment.met else (trial, high)
            trial = (low + high) // 2
        return needed, tuple(checks[instances] for instances in sorted(checks))

    def _check(self, stretch: Demand, instances: int) -> FleetCheck:
        work = self._work(stretch)
        fleet = simulate(work, self.slow_curve, instances, routing=self.rules.routing, seed=self.rules.seed)
        admitted_s = np.asarray(fleet.served.admitted_s)
        running_s = float((np.asarray(fleet.served.done_s) - admitted_s).sum())
        ends_s = max([stretch.span_s, *fleet.served.done_s])
        return FleetCheck(
            instances=instances,
            requests=len(work.at_s),
            span_s=stretch.span_s,
            attainment=attainment(Outcomes(work, fleet.served, gap_spread=self._gap_spread()), self.slos),
            mean_concurrency=running_s / ends_s / instances,
            waited_share=float((admitted_s > np.asarray(work.at_s)).mean()),
            erlang_c_share=self._erlang_c(instances),
        )

    def _erlang_c(self, instances: int) -> float | None:
        cap = self.model.concurrency_cap
        if cap is None:
            return None
        return erlang_c(instances * cap, self.path.peak_per_s * self.slow_curve.service_s(cap))

    def _work(self, demand: Demand) -> Work:
        columns = (demand.arrivals[name].to_numpy() for name in ("at_s", "prompt_tokens", "completion_tokens"))
        at_s, prompt, completion = columns
        return Work.of(at_s, prompt, completion, self.shape[0], seed=self.rules.seed)

    def _gap_spread(self) -> float:
        return 1.0

    def _autoscaled(self, hours: tuple[HourOfFleet, ...]) -> AutoscaleResult | None:
        rules = self.rules
        if self.demand.span_s <= rules.lead_s:
            self.assumptions.append(
                f"autoscaling is not judged: the demand spans {self.demand.span_s / 60:.3g} min, "
                f"no more than the {rules.lead_s / 60:.3g} min that a new instance takes"
            )
            return None
        if rules.max_instances == rules.min_instances:
            return None
        demand = busiest(self.demand, rules.most_simulated)
        start = hours[0].instances if rules.start_instances is None else rules.start_instances
        policy = ScalePolicy(
            min_instances=rules.min_instances,
            max_instances=rules.max_instances,
            start_instances=min(rules.max_instances, max(rules.min_instances, start)),
            rules=rules.scale_rules or self._derived_rules(),
            boot_s=rules.boot_minutes * MINUTE_S,
            places_per_instance=self.places,
        )
        return autoscale(
            self._work(demand),
            self.curve,
            policy,
            self.slos,
            span_s=demand.span_s,
            routing=rules.routing,
            gap_spread=self._gap_spread(),
            seed=rules.seed,
        )

    def _derived_rules(self) -> tuple[str, ...]:
        """One more above 70 % of the concurrency at the objectives, one fewer below 30 %."""
        share = 100 * min(1.0, self.concurrency / self.places)
        cooldown_s = self.rules.cooldown_minutes * MINUTE_S
        return (
            f"utilization_percent>{SCALE_OUT_AT * share:.3g}:+1/{cooldown_s:g}s",
            f"utilization_percent<{SCALE_IN_AT * share:.3g}:-1/{cooldown_s:g}s",
        )

    def _azure_formula(self) -> int | None:
        """ceil(requests/s x time of a request / 0.7 / max_concurrent_requests_per_instance)."""
        places = self.rules.max_concurrency or self.model.concurrency_cap
        if places is None:
            return None
        requests_per_s = self.path.peak_requests_per_s
        concurrent = requests_per_s * self.curve.service_s(max(1.0, self.concurrency)) / AZURE_UTILIZATION
        return max(1, math.ceil(concurrent / places - SURE))

    def _state_assumptions(self) -> None:
        rules = self.rules
        self.assumptions += [
            f"one instance serves {self.rate.low:.3g} requests/s, the lower end of {self.rate.value:.3g} "
            f"({self.rate.low:.3g} to {self.rate.high:.3g})",
            f"requests are routed to instances by the rule {rules.routing.replace('_', ' ')}",
            f"a new instance takes {rules.lead_s / 60:.3g} min: {rules.detection_minutes:g} to see the load, "
            f"{rules.cooldown_minutes:g} of cooldown, {rules.boot_minutes:g} to boot",
        ]
        if self.curve.prompt_slope_s == 0:
            self.assumptions.append(
                "a longer prompt is taken to delay its first token by nothing: one shape was measured"
            )


def _concurrency(curve: ServiceCurve, rate_per_s: float) -> float:
    """In flight at one instance under that rate, by Little's law: the smallest n = rate x service time at n."""
    n, most = 0.0, float(curve.cap)
    for _ in range(1_000):
        after = min(most, rate_per_s * curve.service_s(max(1.0, n)))
        if abs(after - n) <= 1e-6 * max(1.0, n):
            return after
        n = after
    return n
