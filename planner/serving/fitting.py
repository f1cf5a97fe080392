"""Fitting: a serving model of the steps of one shape of requests, or of several together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from loadgen.errors import CapacityError
from planner.serving.closure import FAR, Latency, Response
from planner.serving.curves import (
    MS_PER_S,
    Curve,
    FloatArray,
    Form,
    Levels,
    condition,
    fit_curve,
    left_out_errors,
)
from planner.serving.first_token import FirstToken, fit_first_token
from planner.serving.fitted import Fitted
from planner.serving.saturation import Saturation, saturation
from planner.serving.spread import half_width
from planner.serving.usable import FEWEST_LEFT_OUT, UsableStep, groups_of, time_ratio

FEWEST_STEPS = 4
MOST_TERMS = 3
Z_90 = 1.645  # standard deviations on either side
SINGULAR, ILL_CONDITIONED = 1_000.0, 100.0
SIMPLEST = (Form.LINEAR, Form.QUADRATIC, Form.POWER)  # of forms that err alike
BLIND = (
    "no step shows where requests begin to wait for a place, and no concurrency cap was given: beyond the steps the "
    "tail of the time to first token may be far longer"
)
MUCH_WORSE, ALIKE = 2.0, 0.002  # left-out error over the best form's; error up to which forms are as good
MOST_OFF = 0.05  # of time against its parts
MOST_OFF_CAP = 0.1
_QUANTILE_COLUMN = re.compile(r"(ttft|itl|e2e|response)_p(\d+(?:\.\d+)?)_ms")


def fit_steps(steps: Sequence[UsableStep], queued: Sequence[UsableStep], cap: int | None) -> Fitted:
    """Raises CapacityError where the steps are too few, or too alike, to tell the parameters apart."""
    shapes = len({step.shape for step in steps})
    shaped = shapes > 1
    _check_count(steps, shapes, at_saturation=bool(queued))
    parts = _parts(steps, shaped)
    full = saturation(steps, queued, ratio=parts.ratio, cap=cap)
    _check_count(steps, shapes, at_saturation=full.plateau is not None or bool(full.full))
    on_curve = [*steps, *full.full]
    curves, errors, doubts = _curves(on_curve, shapes)
    left_out = {each: float(np.sqrt((found**2).mean())) for each, found in errors.items()}
    form = min(curves, key=lambda each: (round(left_out[each], 5), SIMPLEST.index(each)))
    found, source = _cap(full, cap, shaped)
    top = found or FAR * max(step.concurrency for step in on_curve)
    near = max(MUCH_WORSE * left_out[form], ALIKE)
    responses = {
        each: _response(curve, on_curve, parts, top) for each, curve in curves.items() if left_out[each] <= near
    }
    # The form was chosen for its small errors, which therefore flatter it: the middle form's are nearer the truth.
    itl_width = median(half_width(each.tolist()) for each in errors.values())
    e2e_width = math.hypot(itl_width, _length_width(steps))
    widths = {**parts.widths, Latency("itl", None): itl_width, Latency("e2e", None): e2e_width}
    fitted = Fitted(
        steps=tuple(steps),
        queued=tuple(queued),
        responses=responses,
        left_out=left_out,
        form=form,
        widths=widths | _itl_quantile_widths(on_curve, form, curves[form].load_terms),
        shaped=shaped,
        plateau=None if shaped else full.plateau,
        cap=found,
        cap_source=source,
        doubts=(),
    )
    blind = [] if found is not None or full.plateau is not None else [BLIND]
    return replace(fitted, doubts=(*doubts, *parts.doubts, *full.doubts, *_doubt_of_cap(fitted), *blind))


def _response(curve: Curve, steps: Sequence[UsableStep], parts: _Parts, top: float) -> Response:
    """A form with its quantiles: curves of the same form and exponent."""
    quantiles = {}
    for quantile, name, having in _quantiles(steps, "itl"):
        measured = _array(step.quantiles[name] for step in having)
        quantiles[quantile] = fit_curve(curve.form, _levels(having, curve.load_terms), measured, curve.exponent)
    return Response(
        itl=curve,
        itl_quantiles=quantiles,
        ttft_quantiles=parts.first,
        ratio=parts.ratio,
        e2e_ratios=parts.e2e_ratios,
        top=top,
    )


def _cap(full: Saturation, given: int | None, shaped: bool) -> tuple[float | None, str]:
    """How many requests an instance serves at once; a measured one need not hold for other shapes (their caches)."""
    if given is not None:
        return float(given), "given"
    if shaped or not full.full:
        return None, "unknown"
    return max(step.concurrency for step in full.full), "measured"


def _check_count(steps: Sequence[UsableStep], shapes: int, *, at_saturation: bool) -> None:
    """A step that saturated counts as one of those needed."""
    rates_n = len({(step.shape, round(math.log(step.served_per_s), 2)) for step in steps})
    fewest = FEWEST_STEPS + max(1, shapes) - 1
    if rates_n + at_saturation < fewest:
        raise CapacityError(
            f"{rates_n} usable step{'s' * (rates_n != 1)} at different rates; a serving model needs {fewest}, of which "
            "one may saturate: measure one light, one at half and one at three quarters of what the deployment holds, "
            "and one beyond that"
        )


def _curves(steps: Sequence[UsableStep], shapes: int) -> tuple[dict[Form, Curve], dict[Form, FloatArray], list[str]]:
    """The forms that the steps can tell, each with its error at what is left out: a step, or of many shapes a shape.

    Of several shapes with as many terms as can be told apart.
    """
    itl_ms = _array(step.itl_ms for step in steps)
    for terms in range(min(MOST_TERMS, shapes), 0, -1):
        levels = _levels(steps, terms)
        curves = {form: fit_curve(form, levels, itl_ms) for form in Form}
        conditions = {form: condition(curve, levels) for form, curve in curves.items()}
        best = min(conditions.values())
        if best <= SINGULAR:
            break
    if best > SINGULAR:
        raise CapacityError(
            "the steps had much the same number of requests in flight, so that how latency grows with it cannot be "
            f"told (condition number {best:.3g}); measure rates further apart"
        )
    curves = {form: curve for form, curve in curves.items() if conditions[form] <= SINGULAR}
    left_out = {form: left_out_errors(form, levels, itl_ms, groups_of(steps)) for form in curves}
    doubts = []
    if best > ILL_CONDITIONED:
        doubts.append(f"the steps tell the parameters of the curve poorly apart (condition number {best:.0f})")
    if 1 < shapes < FEWEST_LEFT_OUT:
        doubts.append(f"what the shape of requests does is known from {shapes} shapes only")
    elif terms < min(MOST_TERMS, shapes):
        doubts.append(f"the shapes tell {terms} of the {MOST_TERMS} terms of the load coefficient apart")
    return curves, left_out, doubts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What is the same in every form."""

    first: dict[float, FirstToken]
    ratio: float
    e2e_ratios: dict[float, float]
    widths: Mapping[Latency, float]
    doubts: tuple[str, ...]


def _parts(steps: Sequence[UsableStep], shaped: bool) -> _Parts:
    steps = [step for step in steps if not step.waited]
    first = {
        quantile: fit_first_token(having, name, shaped=shaped) for quantile, name, having in _quantiles(steps, "ttft")
    }
    ratio = median(time_ratio(step) for step in steps)
    doubts = []
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
    return _Parts(first=first, ratio=ratio, e2e_ratios=ratios, widths=widths, doubts=tuple(doubts))


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


def _itl_quantile_widths(steps: Sequence[UsableStep], form: Form, terms: int) -> dict[Latency, float]:
    widths = {}
    for quantile, name, having in _quantiles(steps, "itl"):
        measured = _array(step.quantiles[name] for step in having)
        errors = left_out_errors(form, _levels(having, terms), measured, groups_of(having))
        widths[Latency("itl", quantile)] = half_width(errors.tolist())
    return widths


def _length_width(steps: Sequence[UsableStep]) -> float:
    """By how much completions of one step are longer than another's by chance, relative: the half-width at 90 %."""
    relative = []
    for shape in {step.shape for step in steps}:
        lengths = [step.completion_tokens for step in steps if step.shape == shape]
        relative += [length / (sum(lengths) / len(lengths)) - 1 for length in lengths]
    return Z_90 * math.sqrt(sum(each**2 for each in relative) / max(1, len(relative) - 1))


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


def _levels(steps: Sequence[UsableStep], terms: int) -> Levels:
    return Levels(
        concurrency=_array(step.concurrency for step in steps),
        prompt_tokens=_array(step.prompt_tokens for step in steps),
        completion_tokens=_array(step.completion_tokens for step in steps),
        weight=_array(step.weight for step in steps),
        load_terms=terms,
    )


def _array(values: Iterable[float]) -> FloatArray:
    return np.array(list(values), dtype=np.float64)
