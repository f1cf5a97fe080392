"""Capacity: how many managed instances a demand needs, by a stated estimate."""

from __future__ import annotations

import math

from planner.plan import InstanceEstimate

ASSUMED_CONCURRENCY = 8  # a conservative figure for a small model on one GPU


def concurrency_of_instance(
    *, configured: int | None, managed: bool, objectives_met: bool, mean_in_flight: float
) -> tuple[int, str]:
    """How many requests one instance serves at once within the objectives, and where that is known from."""
    if configured is not None:
        return configured, "as configured (plan.concurrency_per_instance)"
    if managed and objectives_met and mean_in_flight > 0:
        held = max(1, math.floor(mean_in_flight))
        return held, "mean in flight of this run, which met its objectives, taken to have run on one instance"
    return (
        ASSUMED_CONCURRENCY,
        "an assumption, not a measurement: set plan.concurrency_per_instance to what one instance holds",
    )


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
        instances=max(1, math.ceil(in_system / concurrency)),
    )
