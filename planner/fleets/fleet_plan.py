"""The plan of a fleet: the rules it is made by, and what it says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from loadgen.errors import ConfigError
from planner.capacity import Interval
from planner.demand import MINUTE_S
from planner.fleets.autoscaling import AutoscaleResult
from planner.fleets.fleet_checks import FleetCheck
from planner.fleets.load_path import HourOfFleet
from planner.fleets.sharing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRules:
    """How a fleet is planned. Raises ConfigError naming what cannot be used."""

    spare: int = 0  # instances beyond what the load needs: 1 is N + 1
    min_instances: int = 1
    max_instances: int = 50  # Azure's limit for one deployment
    quantile: float = 1.0  # of the load by minutes: 1 is the busiest minute
    detection_minutes: float = 5.0  # Azure Monitor's rules look at averages of five minutes
    cooldown_minutes: float = 5.0
    boot_minutes: float = 15.0  # of a GPU instance; not documented, 10 to 20
    routing: Routing = Routing.LEAST_LOADED  # Azure's is not documented; at random needs more instances
    scale_rules: tuple[str, ...] = ()  # METRIC>NUMBER:+N, METRIC<NUMBER:-N[/COOLDOWNs]; empty: from the model
    start_instances: int | None = None  # of the autoscaled fleet; None: what the first lead needs
    max_concurrency: int | None = None  # requests in flight at an instance; None: the model's
    measured_rate_per_s: float | None = None  # of one instance, that a sweep found to keep the same objectives
    missed_at_per_s: float | None = None  # and the lowest that it saw miss them
    cores_per_instance: int | None = None
    exempt_from_reservation: bool = False  # of the 20 % that Azure reserves beside the instances
    most_simulated: int = 50_000  # requests a simulation of the check, the busiest; of autoscaling, ten times as many
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least in (("spare", 0), ("min_instances", 1), ("most_simulated", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.max_instances < self.min_instances:
            raise ConfigError(
                f"max_instances ({self.max_instances}) must not be below min_instances ({self.min_instances})"
            )
        if not 0 < self.quantile <= 1:
            raise ConfigError(f"quantile must be above 0 and at most 1, not {self.quantile}")
        for name in ("detection_minutes", "cooldown_minutes", "boot_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be zero or above, not {getattr(self, name)}")

    @property
    def lead_s(self) -> float:
        """From a load that needs another instance to that instance's first request."""
        return (self.detection_minutes + self.cooldown_minutes + self.boot_minutes) * MINUTE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    instances: int  # needed + spare, within the bounds of the rules
    needed: int  # by the load and the check
    spare: int
    per_instance_rate: Interval  # requests a second that keep the objectives, 90 %
    binds: str  # what limits that rate
    concurrency_at_rate: float  # in flight at an instance that serves it
    peak_rate_per_s: float  # in requests of the mean mix: the busiest minute, or the quantile asked for
    raised_by_check: int  # of `needed`, instances that the simulation asked for beyond peak / rate
    pooled: int | None  # what the simulation needs where requests go to the least loaded instance; None: more
    at_random: int | None  # and where they go to any, which is the most cautious; None: more
    checks: tuple[FleetCheck, ...]  # of each routing, fewer instances first; `needed` and one fewer among them
    by_hour: tuple[HourOfFleet, ...]
    scheduled_instance_hours: float  # of by_hour's instances minute by minute, as a perfect forecast would have them
    static_instance_hours: float
    lead_s: float
    headroom_for_lead: float | None  # 0.5: the load grows by half within the lead, 19 times of 20 no more
    autoscale: AutoscaleResult | None  # None where the demand is shorter than the lead, or the bounds leave no room
    cores_of_quota: int | None  # None where the cores of an instance were not stated
    azure_formula_instances: int | None  # Azure's published formula; None without a cap on concurrency
    assumptions: tuple[str, ...]
