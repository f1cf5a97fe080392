"""What a fitted model says of a rate: figures, each with its interval and how far they reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from loadgen.errors import CapacityError
from planner.serving.closure import Latency, Response
from planner.serving.curves import MS_PER_S, Shape
from planner.serving.fitted import Fitted, Spot
from planner.serving.places import LIKELY_CV2, LONG_CV2, SHORT_CV2, Queueing
from planner.serving.spread import Interval, combined, load_pad
from planner.serving.steps_met import neighbours
from planner.serving.usable import SAME_SHAPE

INTERPOLATED, NEXT_STEP, EXTRAPOLATED = "interpolated", "one step beyond", "extrapolated"
ITL, E2E = Latency("itl", None), Latency("e2e", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a rate comes to at one instance. An interval holds 90 %; an infinite end means that it may saturate."""

    rate_per_s: float
    concurrency: Interval
    itl_mean_ms: Interval
    itl_p95_ms: Interval | None  # None where the steps do not have it
    ttft_p50_ms: Interval | None
    ttft_p95_ms: Interval | None
    e2e_mean_s: Interval
    grade: str  # interpolated | one step beyond | extrapolated
    horizon: float  # the rate over the highest steady step's


def predict(fitted: Fitted, shape: Shape, rate_per_s: float) -> Prediction:
    """Raises CapacityError above capacity, and beyond what the steps can say."""
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise CapacityError(f"a rate of {rate_per_s} requests/s cannot be predicted; ask for one above 0")
    rate_per_s = float(rate_per_s)
    _check_reach(fitted, shape, rate_per_s)
    grade, horizon = grade_of(fitted, shape, rate_per_s)
    at = _Spots.at(fitted, shape, rate_per_s, math.hypot(load_pad(horizon), fitted.widths[ITL]))
    quantiles = fitted.response.itl_quantiles, fitted.response.ttft_quantiles
    e2e = at.interval(E2E).divided(MS_PER_S)
    return Prediction(
        rate_per_s=rate_per_s,
        concurrency=at.concurrency(),
        itl_mean_ms=at.interval(ITL),
        itl_p95_ms=at.interval(Latency("itl", 0.95)) if 0.95 in quantiles[0] else None,
        ttft_p50_ms=at.interval(Latency("ttft", 0.5)) if 0.5 in quantiles[1] else None,
        ttft_p95_ms=at.interval(Latency("ttft", 0.95)) if 0.95 in quantiles[1] else None,
        e2e_mean_s=e2e,
        grade=grade,
        horizon=horizon,
    )


def unknown_statistic(fitted: Fitted, latency: Latency) -> CapacityError:
    response = fitted.response
    known = {
        "ttft": sorted(response.ttft_quantiles),
        "itl": sorted(response.itl_quantiles),
        "e2e": sorted(response.e2e_ratios),
    }[latency.metric]
    names = [*(f"p{100 * each:g}" for each in known), *(["mean"] if latency.metric != "ttft" else [])]
    asked = "the mean" if latency.quantile is None else f"p{100 * latency.quantile:g}"
    return CapacityError(f"the steps do not hold {asked} of {latency.metric}; they hold {', '.join(names) or 'none'}")


def grade_of(fitted: Fitted, shape: Shape, rate_per_s: float) -> tuple[str, float]:
    horizon = rate_per_s / fitted.steady_rate(shape)
    if fitted.shaped and not fitted.reaches(shape, 1 + SAME_SHAPE):
        return EXTRAPOLATED, horizon
    if horizon <= 1 + 1e-9:
        return INTERPOLATED, horizon
    return (NEXT_STEP if rate_per_s <= fitted.next_rate(shape) else EXTRAPOLATED), horizon


def _check_reach(fitted: Fitted, shape: Shape, rate_per_s: float) -> None:
    ceiling, reach = fitted.capacity(shape), fitted.next_rate(shape)
    if ceiling is not None and rate_per_s > ceiling.high:
        raise CapacityError(
            f"{rate_per_s:.3g} requests/s are more than an instance serves ({ceiling.value:.3g}, at most "
            f"{ceiling.high:.3g}): requests would arrive faster than they leave, and no latency is steady"
        )
    if ceiling is None and rate_per_s > reach:
        raise CapacityError(
            f"{rate_per_s:.3g} requests/s are {rate_per_s / fitted.steady_rate(shape):.2f} times the highest steady "
            "step, and no step shows where the deployment saturates: measure one that does, or give the concurrency cap"
        )


@dataclass(frozen=True, slots=True)
class _Spots:
    """A rate on each form; and on one of them a little lower and a little higher."""

    fitted: Fitted
    shape: Shape
    about: tuple[Spot, Spot, Spot]  # at the rate less its uncertainty, at the rate, at the rate and that
    forms: tuple[Spot, ...]

    @classmethod
    def at(cls, fitted: Fitted, shape: Shape, rate_per_s: float, pad: float) -> _Spots:
        """By the form that errs least; if it saturates before, by the one that comes nearest of those that do not.

        Where the capacity is known and hardly exceeded, by the former, with all places taken.
        """

        def spot(response: Response, factor: float = 1.0) -> Spot:
            n = response.concurrency(rate_per_s * factor, shape)
            return Spot(response, rate_per_s * factor, math.inf if n is None else n)

        forms = tuple(spot(each) for each in fitted.responses.values())
        middle = spot(fitted.response)
        ceiling = fitted.capacity(shape)
        if math.isinf(middle.concurrency) and ceiling is not None and rate_per_s <= ceiling.high:
            middle = replace(middle, concurrency=middle.response.peak(middle.response.top, shape)[1])
        if math.isinf(middle.concurrency):
            settled = [each for each in forms if math.isfinite(each.concurrency)]
            middle = max(settled, key=lambda each: each.concurrency, default=middle)
        if math.isinf(middle.concurrency):
            raise CapacityError(f"{rate_per_s:.3g} requests/s would saturate an instance, by each form")
        lower, higher = (spot(middle.response, factor) for factor in (max(0.0, 1 - pad), 1 + pad))
        n, seen_s = min(lower.concurrency, middle.concurrency), fitted.seconds(rate_per_s)
        lower = replace(lower, concurrency=n, queueing=Queueing(SHORT_CV2, seen_s))
        middle = replace(middle, queueing=Queueing(LIKELY_CV2, seen_s))
        higher = replace(higher, queueing=Queueing(LONG_CV2, math.inf))
        return cls(fitted, shape, (lower, middle, higher), forms)

    def concurrency(self) -> Interval:
        """In flight: those in service, and by Little's law those that wait for a place."""

        def figure(spot: Spot) -> float:
            waiting_ms = self._figure_ms(spot, E2E) - self._plain_ms(spot, E2E)
            return spot.concurrency + spot.rate_per_s * waiting_ms / MS_PER_S if waiting_ms > 0 else spot.concurrency

        found = self._interval(0.0, figure)
        beside = neighbours(self.fitted, E2E, found_per_s := self.about[1].rate_per_s, self.shape)
        if beside is None or math.isfinite(found.high) or not beside.hold(found_per_s):
            return found
        return replace(found, high=max(found.value, beside.above_per_s * beside.above_ms / MS_PER_S))

    def interval(self, latency: Latency) -> Interval:
        """By the curve; between steps in which waits were measured, and beyond them without a cap, by these steps."""
        rate_per_s, n = self.about[1].rate_per_s, self.about[1].concurrency
        width = self.fitted.width(latency, n, self.shape)
        found = self._interval(width, lambda spot: self._figure_ms(spot, latency))
        beside = neighbours(self.fitted, latency, rate_per_s, self.shape)
        if beside is None:
            return found
        inside, most_ms = beside.hold(rate_per_s), max(beside.below_ms, beside.above_ms) * (1 + width)
        high = found.high if math.isfinite(found.high) or not inside else max(found.value, most_ms)
        waited = beside.waited and latency.metric != "itl"
        if waited and (inside or self.fitted.cap is None):
            value = beside.at(rate_per_s)
            low = min(found.low, beside.below_ms * (1 - width))
            return Interval(value=value, low=low, high=max(high, most_ms) if inside else math.inf)
        return replace(found, high=high)

    def _figure_ms(self, spot: Spot, latency: Latency) -> float:
        return self.fitted.figure_ms(latency, spot, self.shape)

    def _plain_ms(self, spot: Spot, latency: Latency) -> float:
        if math.isinf(spot.concurrency):
            return math.inf
        return float(spot.response.latency_ms(latency, np.array([spot.concurrency]), self.shape)[0])

    def _interval(self, width: float, figure: Callable[[Spot], float]) -> Interval:
        lower, value, higher = (figure(spot) for spot in self.about)
        by_form = [figure(spot) for spot in self.forms]
        ends = (lower, higher), (min(by_form), max(by_form)), (value * (1 - width), value * (1 + width))
        return combined(value, *ends)
