"""Saturation: what the steps tell with which the deployment did not keep up.

Their latencies are those of a queue and depend on how long the step ran. But the rate they served is the capacity, and
what was in service then, at most the cap, had its tokens at the pace of a full instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from planner.serving.curves import MS_PER_S
from planner.serving.spread import Interval
from planner.serving.usable import UsableStep, is_waiting, service_ms

ONE_PLATEAU = 0.1  # that rates of one plateau differ by
FULL_WEIGHT = 0.3  # of what was in service: it shares its iterations with the prompts of a queue, steady steps do not
RERUN = 0.03  # that a plateau may differ by in another run


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    plateau: Interval | None  # requests/s
    full: tuple[UsableStep, ...]  # what was in service while others waited: a point of the curve, one of each shape
    doubts: tuple[str, ...]


def saturation(
    steps: Sequence[UsableStep], queued: Sequence[UsableStep], *, ratio: float, cap: int | None
) -> Saturation:
    """`ratio` is that of the time of a request to the sum of its parts; `cap` is how many it serves, if known."""
    full = [
        found
        for shape in sorted({step.shape for step in queued})
        if (found := _full(shape, steps, queued, ratio, cap)) is not None
    ]
    doubts = [
        f"{step.concurrency:.0f} requests were in service while others waited, not the {cap} of the cap: another limit "
        "binds, or the cap is another"
        for step in full
        if cap is not None and abs(step.concurrency / cap - 1) > ONE_PLATEAU
    ]
    rates = [step.served_per_s for step in (*queued, *(step for step in steps if step.plateau))]
    if not rates or len({step.shape for step in steps}) > 1:  # of several shapes each has a plateau of its own
        return Saturation(plateau=None, full=tuple(full), doubts=tuple(doubts))
    value = median(rates)
    if not _is_one_plateau(rates):
        doubts.append(
            f"the saturated steps served {min(rates):.3g} to {max(rates):.3g} requests/s, which is no plateau "
            "(give completed_per_s, if rate_per_s is what was asked for)"
        )
        if full:  # what was in service tells the capacity
            return Saturation(plateau=None, full=tuple(full), doubts=tuple(doubts))
        value = min(rates)
    value = max(value, *(step.served_per_s for step in steps))
    plateau = Interval(value=value, low=min(value, *rates) * (1 - RERUN), high=max(value, *rates) * (1 + RERUN))
    return Saturation(plateau=plateau, full=tuple(full), doubts=tuple(doubts))


def _full(
    shape: int, steps: Sequence[UsableStep], queued: Sequence[UsableStep], ratio: float, cap: int | None
) -> UsableStep | None:
    """The step that stands for those of a shape in which requests waited, with what was in service as concurrency."""
    below = [step for step in steps if step.shape == shape]
    waiting = [step for step in queued if step.shape == shape and is_waiting(step, below)]
    if not waiting:
        return None
    in_service: float | None = cap
    if _is_one_plateau([step.served_per_s for step in waiting]):
        in_service = median(_in_service(step, below, ratio) for step in waiting)
    if in_service is None:
        return None
    middle = sorted(waiting, key=lambda step: step.itl_ms)[len(waiting) // 2]
    concurrency = max(in_service, *(step.concurrency for step in below))
    return replace(middle, concurrency=concurrency, weight=FULL_WEIGHT)


def _is_one_plateau(rates: Sequence[float]) -> bool:
    return max(rates) - min(rates) <= ONE_PLATEAU * max(rates)


def _in_service(step: UsableStep, below: Sequence[UsableStep], ratio: float) -> float:
    """Of those in flight the ones that did not wait, by Little's law: rate x (explained TTFT + the other tokens)."""
    return step.served_per_s * ratio * service_ms(step, below) / MS_PER_S
