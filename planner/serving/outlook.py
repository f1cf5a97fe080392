"""What a fitted model says of a rate, and of an objective: figures, each with its interval and how far they reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.errors import CapacityError, ConfigError
from loadgen.slo import Slo
from planner.serving.closure import Latency, Response
from planner.serving.curves import Shape
from planner.serving.fitted import Fitted
from planner.serving.spread import Interval, combined, load_pad
from planner.serving.usable import SAME_SHAPE

INTERPOLATED, NEXT_STEP, EXTRAPOLATED = "interpolated", "one step beyond", "extrapolated"
CAPACITY, CAP = "capacity", "concurrency cap"
OVERSHOOT = 1.15  # of the next step: what a highest rate may come out beyond it
METRICS = {
    "ttft": "ttft",
    "ttft_from_due": "ttft",  # what is due is sent at once, while the load generator keeps up
    "itl": "itl",
    "tpot": "itl",
    "service_time": "e2e",
    "response_time": "e2e",
}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxRate:
    """The highest rate at which one instance keeps the objectives."""

    rate_per_s: Interval
    binds: str  # the objective's text, "capacity" or "concurrency cap"
    grade: str
    horizon: float


def predict(fitted: Fitted, shape: Shape, rate_per_s: float) -> Prediction:
    """Raises CapacityError above capacity, and beyond what the steps can say."""
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise CapacityError(f"a rate of {rate_per_s} requests/s cannot be predicted; ask for one above 0")
    _check_reach(fitted, shape, rate_per_s)
    grade, horizon = _grade(fitted, shape, rate_per_s)
    at = _Spots.at(fitted, shape, rate_per_s, math.hypot(load_pad(horizon), fitted.widths[ITL]))
    quantiles = fitted.response.itl_quantiles, fitted.response.ttft_quantiles
    e2e_ms = at.interval(E2E)
    return Prediction(
        rate_per_s=rate_per_s,
        concurrency=at.concurrency(),
        itl_mean_ms=at.interval(ITL),
        itl_p95_ms=at.interval(Latency("itl", 0.95)) if 0.95 in quantiles[0] else None,
        ttft_p50_ms=at.interval(Latency("ttft", 0.5)) if 0.5 in quantiles[1] else None,
        ttft_p95_ms=at.interval(Latency("ttft", 0.95)) if 0.95 in quantiles[1] else None,
        e2e_mean_s=Interval(value=e2e_ms.value / 1e3, low=e2e_ms.low / 1e3, high=e2e_ms.high / 1e3),
        grade=grade,
        horizon=horizon,
    )


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
    grade, horizon = _grade(fitted, shape, least.value)
    pad = load_pad(horizon) * least.value
    spread = min(each.low for each, _ in found), max(least.value, min(each.high for each, _ in found))
    rate = combined(least.value, spread, (least.value - pad, least.value + pad))
    return MaxRate(rate_per_s=rate, binds=binds, grade=grade, horizon=horizon)


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


def _grade(fitted: Fitted, shape: Shape, rate_per_s: float) -> tuple[str, float]:
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
    """Where a rate comes to lie on each form; and on one of them a little lower and a little higher.

    A concurrency is infinite where the form has no steady state.
    """

    fitted: Fitted
    shape: Shape
    response: Response
    concurrency_of: tuple[float, float, float]  # at the rate less its uncertainty, at the rate, at the rate and that
    forms: tuple[tuple[Response, float], ...]

    @classmethod
    def at(cls, fitted: Fitted, shape: Shape, rate_per_s: float, pad: float) -> _Spots:
        """By the form that errs least; if it saturates before, by the one that comes nearest of those that do not."""
        forms = tuple((each, _settles(each, rate_per_s, shape)) for each in fitted.responses.values())
        response, n = fitted.response, _settles(fitted.response, rate_per_s, shape)
        if math.isinf(n):
            response, n = max(
                ((each, n) for each, n in forms if math.isfinite(n)), key=lambda at: at[1], default=(response, n)
            )
        if math.isinf(n):
            ceiling = fitted.capacity(shape)
            if ceiling is None or rate_per_s > ceiling.high:
                raise CapacityError(f"{rate_per_s:.3g} requests/s would saturate an instance, by each form")
            n = response.peak(response.top, shape)[1]
        lower, higher = (_settles(response, rate_per_s * factor, shape) for factor in (max(0.0, 1 - pad), 1 + pad))
        return cls(fitted, shape, response, (min(lower, n), n, higher), forms)

    def concurrency(self) -> Interval:
        return self._interval(0.0, lambda _, n: n)

    def interval(self, latency: Latency) -> Interval:
        def figure(response: Response, n: float) -> float:
            return float(response.latency_ms(latency, np.array([n]), self.shape)[0]) if math.isfinite(n) else math.inf

        return self._interval(self.fitted.width(latency, self.concurrency_of[1], self.shape), figure)

    def _interval(self, width: float, figure: Callable[[Response, float], float]) -> Interval:
        lower, value, higher = (figure(self.response, n) for n in self.concurrency_of)
        by_form = [figure(*each) for each in self.forms]
        ends = (lower, higher), (min(by_form), max(by_form)), (value * (1 - width), value * (1 + width))
        return combined(value, *ends)


def _settles(response: Response, rate_per_s: float, shape: Shape) -> float:
    n = response.concurrency(rate_per_s, shape)
    return math.inf if n is None else n


def _rate_at(fitted: Fitted, shape: Shape, slo: Slo) -> Interval | None:
    """The rate at which an objective is at its limit, by every form, and as sure as the latency is.

    None where the limit is kept beyond a known capacity.
    """
    latency = _latency(fitted, slo)
    limit_ms = slo.limit_ns / 1e6

    def rate(response: Response, limit_ms: float) -> float:
        highest = response.highest(latency, limit_ms, shape)
        return response.peak(highest, shape)[0] if highest else 0.0

    highest = fitted.response.highest(latency, limit_ms, shape)
    if highest >= fitted.response.top and fitted.capacity(shape) is not None:
        return None
    value = rate(fitted.response, limit_ms)
    if value == 0:
        lightest = float(fitted.response.latency_ms(latency, np.array([0.01]), shape)[0])
        raise CapacityError(f"{slo.text} is kept at no rate: an instance without load takes {lightest:.3g} ms")
    width = fitted.width(latency, highest, shape)
    by_form = [rate(each, limit_ms) for each in fitted.responses.values()]
    by_latency = rate(fitted.response, limit_ms / (1 + width)), rate(fitted.response, limit_ms * (1 + width))
    return combined(value, (min(by_form), max(by_form)), by_latency)


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
