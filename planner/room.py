"""Room: how many times a load fits into managed instances, by what one of them was measured to serve."""

from __future__ import annotations

from dataclasses import dataclass

from planner.demand import MINUTE_S
from planner.instance_rate import InstanceRate
from planner.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    instances: int  # that serve: those of the deployment that was measured, else those planned, without spares
    planned: bool  # so many are planned, and `busiest_per_s` is of the planned demand; else both were measured
    serves_per_s: float  # all of them, within the objectives: the lower end of what one serves, times their number, and
    # no less than `busiest_per_s` where they were seen to serve that
    busiest_per_s: float  # the load's busiest minute
    factor: float  # times that load that they serve


def room_of(
    scope: Scope, rate: InstanceRate | None, instances: int | None, *, met: bool, simulated: bool
) -> Room | None:
    """None where what an instance serves is not known, or nothing is asked of it.

    A load that kept the objectives fits once at least. `met`: the run did. `instances` are planned, and `simulated`:
    the planned demand kept them there when it was simulated.
    """
    if rate is None or not scope.managed:
        return None
    stated = scope.config.target.instances
    if stated is not None:
        serving, busiest_per_s, kept = stated, scope.peaks[0] / MINUTE_S, met
    elif instances is not None:
        serving, busiest_per_s, kept = max(1, instances - scope.settings.spare), scope.peak_per_s, simulated
    else:
        return None
    if busiest_per_s <= 0:
        return None
    serves_per_s = max(serving * rate.low, busiest_per_s if kept else 0.0)
    return Room(
        instances=serving,
        planned=stated is None,
        serves_per_s=serves_per_s,
        busiest_per_s=busiest_per_s,
        factor=serves_per_s / busiest_per_s,
    )
