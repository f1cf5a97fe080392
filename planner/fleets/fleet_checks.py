"""Answers about a fleet, checked: the demand's busiest stretch at so many simulated instances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.demand import Demand, busiest, repeated
from planner.fleets.attainment import Attainment, Outcomes, attainment
from planner.fleets.load_path import busiest_stretch
from planner.fleets.one_instance import OneInstance
from planner.fleets.sharing import Routing, simulate
from planner.fleets.waiting import erlang_c

CHECKED_S = 3_600.0  # the demand's busiest stretch of so many seconds is simulated
LEAST_CHECKED_S = 600.0  # a shorter demand is repeated until it spans so much
MOST_RAISED = 10  # instances that the check may add


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCheck:
    """The demand's busiest stretch at so many simulated instances."""

    instances: int
    routing: str
    requests: int
    span_s: float
    attainment: Attainment
    mean_concurrency: float  # running at an instance, over the stretch
    waited_share: float  # of the requests, for a place within the cap
    erlang_c_share: float | None  # by theory, of Poisson arrivals at one queue for all places; None without a cap


class FleetChecks:
    """Simulates from empty instances, as slow as the lower end of their rate's interval; each case once."""

    def __init__(self, demand: Demand, instance: OneInstance, *, most_simulated: int, seed: int) -> None:
        whole = repeated(demand, LEAST_CHECKED_S)
        self.stretch = busiest(busiest_stretch(whole, CHECKED_S), most_simulated)
        self._instance, self._curve, self._seed = instance, instance.slow_curve(), seed
        self._work = instance.work(self.stretch, seed=seed)
        self._done: dict[tuple[Routing, int], FleetCheck] = {}

    @property
    def done(self) -> tuple[FleetCheck, ...]:
        """By routing, fewer instances first."""
        return tuple(self._done[case] for case in sorted(self._done))

    def met(self, instances: int, routing: Routing) -> bool:
        case = routing, instances
        if case not in self._done:
            self._done[case] = self._check(instances, routing)
        return self._done[case].attainment.met

    def enough_from(self, instances: int, routing: Routing) -> int | None:
        """The fewest from that number on; None where MOST_RAISED more do not keep the objectives."""
        tried = range(instances, instances + MOST_RAISED + 1)
        return next((number for number in tried if self.met(number, routing)), None)

    def fewest(self, enough: int, routing: Routing, *, least: int = 1) -> int:
        """The fewest that do, where `enough` do, by bisection; first the two below, which are likely."""
        low, high = least - 1, enough  # more than `low` are needed, `high` do
        trial = enough - 1
        while low < trial < high:
            low, high = (low, trial) if self.met(trial, routing) else (trial, high)
            trial = max((low + high) // 2, high - 2) if high - low <= 4 else (low + high) // 2
        return high

    def _check(self, instances: int, routing: Routing) -> FleetCheck:
        one, work = self._instance, self._work
        served = simulate(work, self._curve, instances, routing=routing, seed=self._seed).served
        admitted_s, done_s = np.asarray(served.admitted_s), np.asarray(served.done_s)
        ends_s = max(self.stretch.span_s, float(done_s.max()))
        return FleetCheck(
            instances=instances,
            routing=routing.value,
            requests=len(work.at_s),
            span_s=self.stretch.span_s,
            attainment=attainment(Outcomes(work, served, gap_spread=one.gap_spread), one.slos),
            mean_concurrency=float((done_s - admitted_s).sum()) / ends_s / instances,
            waited_share=float((admitted_s > np.asarray(work.at_s)).mean()),
            erlang_c_share=self._erlang_c(instances),
        )

    def _erlang_c(self, instances: int) -> float | None:
        cap = self._instance.cap
        if cap is None:
            return None
        return erlang_c(instances * cap, self.stretch.requests_per_s * self._curve.service_s(cap))
