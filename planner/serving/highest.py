"""The highest rate that keeps objectives, by the curve, by the wait for a place, and by what the steps measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.errors import CapacityError, ConfigError
from loadgen.slo import Slo
from planner.serving.closure import Latency, Response
from planner.serving.curves import Shape
from planner.serving.fitted import Fitted, Spot
from planner.serving.outlook import grade_of, unknown_statistic
from planner.serving.spread import Interval, combined, load_pad
from planner.serving.steps_met import Bracket, bracket

CAPACITY, CAP = "capacity", "concurrency cap"
OVERSHOOT = 1.15  # of the next step: what a highest rate may come out beyond it
GIVEN = "given"  # the cap; one that was measured is less sure than the step that kept an objective
HALVINGS = 24
METRICS = {
    "ttft": "ttft",
    "ttft_from_due": "ttft",  # what is due is sent at once, while the load generator keeps up
    "itl": "itl",
    "tpot": "itl",
    "service_time": "e2e",
    "response_time": "e2e",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRate:
    """The highest rate at which one instance keeps the objectives."""

    rate_per_s: Interval
    binds: str  # the objective's text, "capacity" or "concurrency cap"
    grade: str
    horizon: float


def max_rate(fitted: Fitted, shape: Shape, slos: Sequence[Slo]) -> MaxRate:
    """Raises CapacityError where none keeps them, where the steps do not hold the statistic, or reach so far."""
    if not slos:
        raise ConfigError("no objective was given; write one like ttft.p95<1s")
    ceiling = fitted.capacity(shape)
    limits = [(_rate_at(fitted, shape, each), each.text) for each in slos]
    found = [(each, text) for each, text in limits if each is not None]
    if ceiling is not None:
        measured = fitted.plateau is not None and not fitted.shaped
        found.append((ceiling, CAPACITY if measured else CAP))
    least, binds = min(found, key=lambda each: each[0].value)
    if ceiling is None and least.value > OVERSHOOT * fitted.next_rate(shape):
        raise CapacityError(
            f"{' and '.join(each.text for each in slos)}: kept at {fitted.steady_rate(shape):.3g} requests/s, the "
            f"highest steady step, and by the curve up to {least.value:.3g}; but no step shows where the deployment "
            "saturates: measure one that does, or give the concurrency cap"
        )
    grade, horizon = grade_of(fitted, shape, least.value)
    pad = load_pad(horizon) * least.value
    spread = min(each.low for each, _ in found), max(least.value, min(each.high for each, _ in found))
    rate = combined(least.value, spread, (least.value - pad, least.value + pad))
    return MaxRate(rate_per_s=rate, binds=binds, grade=grade, horizon=horizon)


def _rate_at(fitted: Fitted, shape: Shape, slo: Slo) -> Interval | None:
    """The rate at which an objective is at its limit; None where it is kept beyond a known capacity."""
    latency = _latency(fitted, slo)
    rate = _by_curve(fitted, shape, latency, slo)
    if latency.metric != "itl":
        rate = _after_waits(fitted, shape, latency, slo, rate)
    waits_known = fitted.cap_source == GIVEN and latency.metric != "itl"
    return _within(bracket(fitted, latency, slo, shape), rate, slo, raised=not waits_known)


def _by_curve(fitted: Fitted, shape: Shape, latency: Latency, slo: Slo) -> Interval | None:
    """By every form, and as sure as the latency is."""
    limit_ms = slo.limit_ns / 1e6

    def rate(response: Response, limit_ms: float) -> float:
        highest = response.highest(latency, limit_ms, shape)
        return response.peak(highest, shape)[0] if highest else 0.0

    highest = fitted.response.highest(latency, limit_ms, shape)
    if highest >= fitted.response.top and fitted.capacity(shape) is not None:
        return None
    width = fitted.width(latency, highest, shape)
    by_form = [rate(each, limit_ms) for each in fitted.responses.values()]
    by_latency = rate(fitted.response, limit_ms / (1 + width)), rate(fitted.response, limit_ms * (1 + width))
    return combined(rate(fitted.response, limit_ms), (min(by_form), max(by_form)), by_latency)


def _after_waits(fitted: Fitted, shape: Shape, latency: Latency, slo: Slo, free: Interval | None) -> Interval | None:
    """No more than keeps the objective with the wait for a place, where a cap says that there is one.

    Where none is known and the highest step shows that some requests waited, no more than that step.
    """
    if fitted.cap is None:
        last = max(fitted.steps, key=lambda step: step.served_per_s)
        if free is None or fitted.shaped or not last.waited:
            return free
        value = min(free.value, last.served_per_s)
        return Interval(value=value, low=min(free.low, value), high=free.high)
    most, response = free or fitted.capacity(shape), fitted.response
    assert most is not None

    def keeps(rate_per_s: float) -> bool:
        n = response.concurrency(rate_per_s, shape)
        n = response.peak(response.top, shape)[1] if n is None else n
        return fitted.figure_ms(latency, Spot(response, rate_per_s, n), shape) <= slo.limit_ns / 1e6 * (1 + 1e-6)

    low, high = 0.0, most.value
    if high == 0 or keeps(high):
        return free
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    share = low / most.value
    return Interval(value=low, low=share * most.low, high=share * most.high)


def _within(steps: Bracket, rate: Interval | None, slo: Slo, *, raised: bool) -> Interval | None:
    """Less than a step that missed the objective, and no less than one that kept it.

    The latter only where `raised`: waits that are known are not seen in steps at even intervals. The interval holds it.
    """
    met, missed = steps.met_per_s, steps.missed_per_s
    if missed is not None and (rate is None or rate.value >= missed):
        if met is None:
            raise CapacityError(
                f"{slo.text}: missed at {missed:.3g} requests/s, the lightest step already; measure lighter ones"
            )
        return Interval(value=math.sqrt(met * missed), low=met, high=missed)
    if rate is None:
        return None
    if rate.value == 0 and met is None:
        raise CapacityError(f"{slo.text} is kept at no rate: an instance without load takes longer")
    value, low, high = rate.value, rate.low, rate.high
    if met is not None and met > value:
        value, low, high = met if raised or value == 0 else value, max(low, met) if raised else low, max(high, met)
    elif met is not None and raised:
        low = max(low, met)
    high = high if missed is None else min(high, missed)
    return Interval(value=value, low=min(low, value), high=max(high, value))


def _latency(fitted: Fitted, slo: Slo) -> Latency:
    metric = METRICS.get(slo.metric)
    if metric is None or slo.statistic == "max" or (slo.metric == "tpot" and slo.quantile is not None):
        raise CapacityError(f"{slo.text}: a serving model has no {slo.statistic} of {slo.metric}")
    latency = Latency(metric, slo.quantile)
    if latency == Latency("ttft", None):
        raise unknown_statistic(fitted, latency)
    try:
        fitted.response.latency_ms(latency, np.array([1.0]), fitted.shape)
    except KeyError:
        raise unknown_statistic(fitted, latency) from None
    return latency
