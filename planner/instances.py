"""Instances: how many managed instances a demand needs, by a stated estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.plan import InstanceEstimate

ASSUMED_CONCURRENCY = 8  # a conservative figure for a small model on one GPU
ASSUMPTION = "an assumption: give --concurrency-per-instance, what one instance holds"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptCapacity:
    """The highest step of a sweep that met its objectives."""

    rate_per_s: float
    concurrency: float  # mean in flight, of all instances together
    instances: int
    stated: bool  # by the configuration; else it is taken to be one
    missed_per_s: float | None = None  # of all instances: the lowest rate that the sweep saw miss them


def concurrency_of_instance(
    *,
    configured: int | None,
    managed: bool,
    objectives_met: bool,
    held: float,
    swept: SweptCapacity | None = None,
    instances: int | None = None,
) -> tuple[int, str]:
    """How many requests one instance serves at once within the objectives, and where that is known from.

    `held` is the mean in flight of the run's busiest minute, at so many `instances`; None: at one, it is taken.
    """
    if configured is not None:
        return configured, "as configured in plan.concurrency_per_instance"
    if managed and swept is not None:
        each = "one instance" if swept.instances == 1 else f"each of {swept.instances} instances"
        said = "" if swept.stated else ", as it is taken to have been"
        at = f"held by {each}{said}, at {swept.rate_per_s:.3g} requests/s, the highest rate of the sweep that met"
        return max(1, math.ceil(swept.concurrency / swept.instances)), at  # so that what it has just served takes one
    if managed and objectives_met and held > 0:
        by = "one instance it is taken" if instances is None else "one instance"
        by = by if (instances or 1) == 1 else f"each of {instances} instances"
        return math.ceil(held / (instances or 1)), f"held in this run's busiest minute with all objectives met, by {by}"
    return ASSUMED_CONCURRENCY, ASSUMPTION


def instance_estimate(
    *, peak_requests_per_s: float, time_in_system_s: float | None, concurrency: int, concurrency_source: str
) -> InstanceEstimate | None:
    """instances = ceil(peak rate x time in system / concurrency of one instance), by Little's law; at least one.

    None where no answer was timed, or nothing was asked. The time in system is held to stay what it was measured to be.
    """
    if time_in_system_s is None or peak_requests_per_s <= 0:
        return None
    in_system = peak_requests_per_s * time_in_system_s
    return InstanceEstimate(
        peak_requests_per_s=peak_requests_per_s,
        time_in_system_s=time_in_system_s,
        concurrency_per_instance=concurrency,
        concurrency_source=concurrency_source,
        assumed=concurrency_source == ASSUMPTION,
        instances=max(1, math.ceil(in_system / concurrency)),
    )
