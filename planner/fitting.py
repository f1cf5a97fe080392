"""Fitting: a serving model of the steps of one shape of requests, or of several together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from loadgen.errors import CapacityError
from planner.closure import FAR, MS_PER_S, Latency, Response
from planner.curves import (
    Curve,
    FloatArray,
    Form,
    Levels,
    condition,
    fit_curve,
    left_out_errors,
)
from planner.first_token import FirstToken, fit_first_token
from planner.fitted import Fitted
from planner.spread import Interval, half_width
from planner.usable import UsableStep, explained_ttft_ms, is_waiting

FEWEST_STEPS = 4
SINGULAR, ILL_CONDITIONED = 1_000.0, 100.0
FEWEST_SHAPES_LEFT_OUT = 4
MOST_OFF = 0.05  # of time against its parts, and of rates of one plateau against each other
MOST_OFF_CAP = 0.1
_QUANTILE_COLUMN = re.compile(r"(ttft|itl|e2e|response)_p(\d+(?:\.\d+)?)_ms")


def fit_steps(steps: Sequence[UsableStep], queued: Sequence[UsableStep], cap: int | None) -> Fitted:
    """Raises CapacityError where the steps are too few, or too alike, to tell the parameters apart."""
    shapes = len({step.shape for step in steps})
    _check_count(steps, shapes)
    curves, errors, doubts = _curves(steps, shapes)
    left_out = {each: float(np.sqrt((found**2).mean())) for each, found in errors.items()}
    form = min(curves, key=lambda each: (round(left_out[each], 6), list(Form).index(each)))
    shaped = shapes > 1
    parts = _parts(steps, shaped, doubts)
    found, source = _cap(parts, steps, queued, cap)
    top = found or FAR * max(step.concurrency for step in steps)
    levels = _levels(steps, shaped)
    responses = {
        each: Response(
            itl=curve,
            itl_quantiles=_itl_quantiles(steps, levels, curve),
            ttft_quantiles=parts.first,
            ratio=parts.ratio,
            e2e_ratios=parts.e2e_ratios,
            top=top,
        )
        for each, curve in curves.items()
    }
    itl_width = half_width(errors[form].tolist())
    widths = {**parts.widths, Latency("itl", None): itl_width, Latency("e2e", None): itl_width}
    widths |= _itl_quantile_widths(steps, levels, form)
    fitted = Fitted(
        steps=tuple(steps),
        responses=responses,
        left_out=left_out,
        form=form,
        widths=widths,
        shaped=shaped,
        plateau=_plateau(steps, queued, doubts) if not shaped else None,
        cap=found,
        cap_source=source,
        doubts=(),
    )
    return replace(fitted, doubts=(*doubts, *_doubt_of_cap(fitted)))


def _check_count(steps: Sequence[UsableStep], shapes: int) -> None:
    rates_n = len({(step.shape, round(math.log(step.served_per_s), 2)) for step in steps})
    fewest = FEWEST_STEPS + shapes - 1
    if rates_n < fewest:
        raise CapacityError(
            f"{rates_n} usable step{'s' * (rates_n != 1)} at different rates; a serving model needs {fewest}: measure "
            "one light, one at half and one at three quarters of what the deployment holds, and one beyond that"
        )


def _curves(steps: Sequence[UsableStep], shapes: int) -> tuple[dict[Form, Curve], dict[Form, FloatArray], list[str]]:
    """The forms that the steps can tell, each with its error at what is left out: a step, or of many shapes a shape."""
    levels, itl_ms = _levels(steps, shapes > 1), _array(step.itl_ms for step in steps)
    curves = {form: fit_curve(form, levels, itl_ms) for form in Form}
    conditions = {form: condition(curve, levels) for form, curve in curves.items()}
    best = min(conditions.values())
    if best > SINGULAR:
        raise CapacityError(
            "the steps had much the same number of requests in flight, so that how latency grows with it cannot be "
            f"told (condition number {best:.3g}); measure rates further apart"
        )
    curves = {form: curve for form, curve in curves.items() if conditions[form] <= SINGULAR}
    by_shape = shapes >= FEWEST_SHAPES_LEFT_OUT
    groups = np.array([step.shape if by_shape else at for at, step in enumerate(steps)])
    left_out = {form: left_out_errors(form, levels, itl_ms, groups) for form in curves}
    doubts = []
    if best > ILL_CONDITIONED:
        doubts.append(f"the steps tell the parameters of the curve poorly apart (condition number {best:.0f})")
    if 1 < shapes < FEWEST_SHAPES_LEFT_OUT:
        doubts.append(f"what the shape of requests does is known from {shapes} shapes only")
    return curves, left_out, doubts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is the same in every form."""

    first: dict[float, FirstToken]
    ratio: float
    e2e_ratios: dict[float, float]
    widths: Mapping[Latency, float]


def _parts(steps: Sequence[UsableStep], shaped: bool, doubts: list[str]) -> _Parts:
    first = {
        quantile: fit_first_token(having, name, shaped=shaped) for quantile, name, having in _quantiles(steps, "ttft")
    }
    ratio = median(
        step.e2e_s * MS_PER_S / (step.ttft_p50_ms + (step.completion_tokens - 1) * step.itl_ms) for step in steps
    )
    if abs(ratio - 1) > MOST_OFF:
        doubts.append(
            f"requests took {ratio:.2f} times what their first token and their gaps add up to: "
            "gaps of more or less than a token, or means far from medians"
        )
    e2e = [*_quantiles(steps, "response"), *_quantiles(steps, "e2e")]
    ratios = {
        quantile: median(step.quantiles[name] / (step.e2e_s * MS_PER_S) for step in having)
        for quantile, name, having in e2e
    }
    widths = {}
    for quantile, name, having in e2e:
        errors = [step.quantiles[name] / (step.e2e_s * MS_PER_S) / ratios[quantile] - 1 for step in having]
        widths[Latency("e2e", quantile)] = half_width(errors)
    return _Parts(first=first, ratio=ratio, e2e_ratios=ratios, widths=widths)


def _quantiles(steps: Sequence[UsableStep], metric: str) -> list[tuple[float, str, list[UsableStep]]]:
    """Each quantile of a metric that enough steps have: the quantile, its column and those steps."""
    names = sorted({name for step in steps for name in step.quantiles})
    known = []
    for name in names:
        found = _QUANTILE_COLUMN.fullmatch(name)
        having = [step for step in steps if name in step.quantiles]
        if found is not None and found[1] == metric and len(having) >= min(len(steps), FEWEST_STEPS):
            known.append((float(found[2]) / 100, name, having))
    return known


def _itl_quantiles(steps: Sequence[UsableStep], levels: Levels, curve: Curve) -> dict[float, Curve]:
    """A curve of the same form and exponent for each quantile that every step has."""
    fitted = {}
    for quantile, name, having in _quantiles(steps, "itl"):
        with_it = np.array([name in step.quantiles for step in steps])
        measured = _array(step.quantiles[name] for step in having)
        fitted[quantile] = fit_curve(curve.form, levels.take(with_it), measured, curve.exponent)
    return fitted


def _itl_quantile_widths(steps: Sequence[UsableStep], levels: Levels, form: Form) -> dict[Latency, float]:
    widths = {}
    for quantile, name, having in _quantiles(steps, "itl"):
        with_it = np.array([name in step.quantiles for step in steps])
        measured = _array(step.quantiles[name] for step in having)
        errors = left_out_errors(form, levels.take(with_it), measured, np.arange(len(having)))
        widths[Latency("itl", quantile)] = half_width(errors.tolist())
    return widths


def _cap(
    parts: _Parts, steps: Sequence[UsableStep], queued: Sequence[UsableStep], given: int | None
) -> tuple[float | None, str]:
    """How many requests an instance serves at once: as given, or what ran in the steps in which requests waited.

    Of those in flight there, the ones that waited are left out: rate x (explained TTFT + the time of the other tokens).
    """
    if given is not None:
        return float(given), "given"
    ran = [
        step.served_per_s
        * parts.ratio
        * (explained_ttft_ms(step, steps) + (step.completion_tokens - 1) * step.itl_ms)
        / MS_PER_S
        for step in queued
        if is_waiting(step, steps)
    ]
    if not ran:
        return None, "unknown"
    return max(median(ran), *(step.concurrency for step in steps)), "measured"


def _plateau(steps: Sequence[UsableStep], queued: Sequence[UsableStep], doubts: list[str]) -> Interval | None:
    """The rate with which the deployment kept up at most, from the steps that asked for more or got no more."""
    rates = [step.served_per_s for step in (*queued, *(step for step in steps if step.plateau))]
    if not rates:
        return None
    steady = max(step.served_per_s for step in steps)
    value = median(rates)
    if max(rates) - min(rates) > MOST_OFF_CAP * max(rates):
        value = min(rates)
        doubts.append(
            f"the saturated steps served {min(rates):.3g} to {max(rates):.3g} requests/s: the least of them counts "
            "(give completed_per_s, if rate_per_s is what was asked for)"
        )
    value = max(value, steady)
    low = max(steady, min(*rates, value)) if len(rates) > 1 else max(steady, value * (1 - MOST_OFF))
    return Interval(value=value, low=min(low, value * (1 - MOST_OFF / 2)), high=max(*rates, value * (1 + MOST_OFF)))


def _doubt_of_cap(fitted: Fitted) -> list[str]:
    if fitted.plateau is None or fitted.cap_source != "given":
        return []
    says = fitted.response.peak(fitted.response.top, fitted.shape)[0]
    off = says / fitted.plateau.value - 1
    if abs(off) <= MOST_OFF_CAP:
        return []
    return [
        f"{fitted.cap:.0f} requests at once would come to {says:.3g} requests/s, yet {fitted.plateau.value:.3g} were "
        "measured at saturation: the cap may be another, or another limit binds"
    ]


def _levels(steps: Sequence[UsableStep], shaped: bool) -> Levels:
    return Levels(
        concurrency=_array(step.concurrency for step in steps),
        prompt_tokens=_array(step.prompt_tokens for step in steps),
        completion_tokens=_array(step.completion_tokens for step in steps),
        shaped=shaped,
    )


def _array(values: Iterable[float]) -> FloatArray:
    return np.array(list(values), dtype=np.float64)
