"""What is to be served, under which rules, and what that takes: what every way of serving it is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loadgen.quota import Admission
from planner.costs.demand_path import HOURS_PER_WEEK, DemandPath, Floats
from planner.costs.following import Reservation, follow, instances_needed, reserve
from planner.costs.hybrid import LoadDuration, base_instances, load_duration, serverless_usd_per_s, worth_of_instances
from planner.costs.uncertainty import AS_PLANNED, Worlds
from planner.prices import TokenPrice

Capacity = tuple[float, float, float]  # the low end of its 90 % interval, the value, the high end


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRules:
    """How managed instances are run, and how far prices may move."""

    region: str = "eastus"
    boot_minutes: float = 15.0  # an instance is billed while it boots; GPU instances take 10 to 20 minutes
    min_instances: int = 1
    spare_instances: int = 0
    hours_on_per_week: float = HOURS_PER_WEEK  # in which the demand is as measured
    off_hours_load_share: float = 0.0  # of its mean rate, in the other hours
    starts_per_week: int = 5  # after the hours off
    instances: int | None = None  # that run around the clock, as counted elsewhere; None: by the busiest minute
    price_range_share: float = 0.1  # prices may be so much lower or higher
    growth: float = 1.0  # times the demand
    growth_per_month: float = 0.0  # from then on; 0.05: 5 % more each month
    admission: Admission = Admission.PROMPT_AND_MAX  # what a request costs of the quota
    tokens_per_minute: int | None = None  # quota of one serverless deployment
    requests_per_minute: int | None = None
    deployments: int | None = None  # that the demand takes
    draws: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """What is to be served, and what tokens, instance hours and instances are worth; None: not known."""

    path: DemandPath
    rules: CostRules
    price: TokenPrice | None
    usd_per_hour: float | None  # of an instance
    reserved_usd_per_hour: dict[str, float]  # by term
    capacity: Capacity | None  # requests/s that one instance serves within the objectives

    @property
    def counted_per_s(self) -> float | None:
        """By which instances are counted: the lower end, so that as many as are planned are enough."""
        return None if self.capacity is None else self.capacity[0]

    @property
    def served_per_s(self) -> float | None:
        """What an instance that runs serves, as far as is known."""
        return None if self.capacity is None else self.capacity[1]

    @cached_property
    def usd_per_s(self) -> Floats:
        """Of each bin's tokens, serverless; zero where they have no price."""
        price = self.price
        usd = (0.0, 0.0) if price is None else (price.input_usd_per_1k, price.output_usd_per_1k)
        return serverless_usd_per_s(self.path, *usd)

    @cached_property
    def instances(self) -> int | None:
        """That run around the clock."""
        return self.rules.instances if self.counted_per_s is None else int(self.instances_in(AS_PLANNED)[0])

    def instances_in(self, worlds: Worlds) -> Floats:
        """Had the demand turned out so, the plan would have come to so many; it does not await the capacity."""
        rules = self.rules
        if self.counted_per_s is None:
            return np.full(worlds.demand.shape, float(rules.instances or 0))
        peak = np.array([self.path.peak_requests_per_s / self.counted_per_s])
        spare = rules.spare_instances
        if rules.instances is not None:  # another rule than ours counted them: what it adds stays
            spare = rules.instances - int(instances_needed(peak, 1.0, least=0, spare=0)[0])
        needed: Floats = instances_needed(peak * worlds.demand, 1.0, least=rules.min_instances, spare=spare).astype(
            np.float64
        )
        return needed

    @cached_property
    def following(self) -> Floats | None:
        """In which share of the measured demand the k-th instance is billed, each rise known a boot ahead.

        None without a capacity or a price.
        """
        if self.counted_per_s is None or self.usd_per_hour is None:
            return None
        path, rules = self.path, self.rules
        needed = instances_needed(
            path.requests_per_s[: path.measured],
            self.counted_per_s,
            least=rules.min_instances,
            spare=rules.spare_instances,
        )
        return follow(needed, boot_bins=rules.boot_minutes * 60 / path.bin_s)

    @cached_property
    def share_of_hours(self) -> Floats:
        """In which share of a month's hours the k-th instance is billed, where instances follow the demand."""
        path, rules = self.path, self.rules
        if self.following is None or self.counted_per_s is None:
            return np.ones(self.instances or 0)
        shares, measured_share = self.following, float(path.share[: path.measured].sum())
        rest = instances_needed(
            path.requests_per_s[path.measured :], self.counted_per_s, least=rules.min_instances, spare=0
        )
        on = np.array([float(rest[0] > level) if len(rest) else 0.0 for level in range(len(shares))])
        return shares * measured_share + on * (1 - measured_share)

    @cached_property
    def reservations(self) -> tuple[Reservation, ...]:
        if self.usd_per_hour is None or not len(self.share_of_hours):
            return ()
        return reserve(self.share_of_hours, self.usd_per_hour, self.reserved_usd_per_hour)

    @cached_property
    def curve(self) -> LoadDuration:
        """Of what tokens cost serverless."""
        return load_duration(self.path, self.usd_per_s)

    @cached_property
    def worth_usd_per_hour(self) -> Floats | None:
        """Of the 1st, 2nd, ... instance; None where a price or the capacity is not known."""
        if self.price is None or self.usd_per_hour is None or self.counted_per_s is None:
            return None
        return worth_of_instances(self.curve, self.counted_per_s)

    @cached_property
    def base(self) -> int:
        """Instances of a hybrid that pay for themselves."""
        if self.worth_usd_per_hour is None or self.usd_per_hour is None:
            return 0
        return base_instances(self.worth_usd_per_hour, self.usd_per_hour)

    @cached_property
    def served_by_base(self) -> float:
        """The share of the requests."""
        mean = self.path.mean_requests_per_s
        by_number = load_duration(self.path, self.path.requests_per_s)
        beyond = by_number.excess(np.array([self.base * (self.served_per_s or 0.0)]))
        return 1 - float(beyond[0]) / mean if mean else 0.0
