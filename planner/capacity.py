"""The calibrated serving model: what an instance answers at a rate, and the highest rate that keeps an objective.

Fitted on the steps of a load test of the deployment itself, with an interval for each figure and a refusal, with the
reason, where the steps cannot say. Its parts are in planner/serving: the curves, and Little's law in closure.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import polars as pl

from loadgen.errors import CapacityError
from loadgen.slo import Slo
from planner.serving.calibration_steps import steps_of
from planner.serving.closure import Latency
from planner.serving.curves import Form, Shape
from planner.serving.fitted import Fitted
from planner.serving.fitting import fit_steps
from planner.serving.highest import MaxRate, max_rate
from planner.serving.outlook import E2E, ITL, Prediction, predict, unknown_statistic
from planner.serving.spread import Interval
from planner.serving.usable import Sifted, is_same_shape, sift

__all__ = ["CapacityError", "Interval", "MaxRate", "Prediction", "ServingModel", "fit", "steps_of"]

SHAPE_REACH = 2.0  # times beyond the prompts and completions that were measured


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingModel:
    form: str  # linear | power | quadratic: the one with the smallest left-out error
    forms: tuple[tuple[str, float], ...]  # each form and its left-out error of ITL, relative
    concurrency_cap: int | None
    cap_source: str  # given | measured | unknown
    instances: int  # that the steps were measured on; all rates and concurrencies here are of one
    steps_used: int
    dropped: tuple[str, ...]  # why a step was not used
    doubts: tuple[str, ...]
    fits: tuple[Fitted, ...]  # of each shape with steps enough, then, if there are several shapes, of all together

    def itl_ms(
        self, concurrency: float, prompt_tokens: float | None = None, completion_tokens: float | None = None
    ) -> float:
        """Mean time between tokens at a concurrency."""
        return self._at(ITL, concurrency, prompt_tokens, completion_tokens)

    def ttft_ms(
        self,
        concurrency: float,
        prompt_tokens: float | None = None,
        completion_tokens: float | None = None,
        quantile: float = 0.5,
    ) -> float:
        """Raises CapacityError for a quantile outside of those measured."""
        return self._at(Latency("ttft", quantile), concurrency, prompt_tokens, completion_tokens)

    def e2e_s(
        self, concurrency: float, prompt_tokens: float | None = None, completion_tokens: float | None = None
    ) -> float:
        """Mean time of a request from sending to its end at a concurrency."""
        return self._at(E2E, concurrency, prompt_tokens, completion_tokens) / 1e3

    def capacity(self, prompt_tokens: float | None = None, completion_tokens: float | None = None) -> Interval | None:
        """The most requests a second an instance serves; None where neither a cap nor a saturated step tells."""
        fitted, shape = self._fitted(prompt_tokens, completion_tokens)
        return fitted.capacity(shape)

    def predict(
        self, rate_per_s: float, prompt_tokens: float | None = None, completion_tokens: float | None = None
    ) -> Prediction:
        """What a rate comes to. Raises CapacityError above capacity, and beyond what the steps can say."""
        fitted, shape = self._fitted(prompt_tokens, completion_tokens)
        return predict(fitted, shape, rate_per_s)

    def max_rate(
        self,
        slo: Slo | str | Sequence[Slo | str],
        prompt_tokens: float | None = None,
        completion_tokens: float | None = None,
    ) -> MaxRate:
        """The highest rate that keeps every objective.

        Raises CapacityError where none does, where the steps do not hold the statistic, and where the answer lies
        further beyond the steps than they can say; ConfigError for a text that is no objective.
        """
        given = [slo] if isinstance(slo, Slo | str) else list(slo)
        slos = [each if isinstance(each, Slo) else Slo.parse(each) for each in given]
        fitted, shape = self._fitted(prompt_tokens, completion_tokens)
        return max_rate(fitted, shape, slos)

    def _at(
        self, latency: Latency, concurrency: float, prompt_tokens: float | None, completion_tokens: float | None
    ) -> float:
        fitted, shape = self._fitted(prompt_tokens, completion_tokens)
        try:
            return float(fitted.response.latency_ms(latency, np.array([float(concurrency)]), shape)[0])
        except KeyError:
            raise unknown_statistic(fitted, latency) from None

    def _fitted(self, prompt_tokens: float | None, completion_tokens: float | None) -> tuple[Fitted, Shape]:
        """The fit that speaks for a shape: its own where it was measured, else of all shapes together."""
        *own, last = self.fits
        mean = last.shape
        shape = Shape(
            mean.prompt_tokens if prompt_tokens is None else float(prompt_tokens),
            mean.completion_tokens if completion_tokens is None else float(completion_tokens),
        )
        if not (0 <= shape.prompt_tokens < math.inf and 1 <= shape.completion_tokens < math.inf):
            raise CapacityError(f"{prompt_tokens} prompt and {completion_tokens} completion tokens are no request")
        near = [each for each in (own or [last]) if is_same_shape(each.shape, shape)]
        if near:
            return near[0], shape
        if not last.shaped:
            raise CapacityError(
                f"the steps asked for {mean.prompt_tokens:.0f} prompt and {mean.completion_tokens:.0f} completion "
                f"tokens; what requests of {shape.prompt_tokens:.0f} and {shape.completion_tokens:.0f} would see they "
                "cannot say: measure steps of another shape too"
            )
        if not last.reaches(shape, SHAPE_REACH):
            raise CapacityError(
                f"requests of {shape.prompt_tokens:.0f} prompt and {shape.completion_tokens:.0f} completion tokens lie "
                f"more than {SHAPE_REACH:g} times beyond all that were measured: measure steps of that shape"
            )
        return last, shape


def fit(
    steps: pl.DataFrame | Sequence[pl.DataFrame], *, concurrency_cap: int | None = None, instances: int = 1
) -> ServingModel:
    """The serving model of load steps, a row each.

    Columns: rate_per_s, prompt_tokens, completion_tokens (means), itl_mean_ms, ttft_p50_ms, e2e_mean_s; further
    quantiles as ttft_p95_ms, itl_p95_ms, response_p95_ms; optional concurrency, completed_per_s, and the flags
    saturated, quota_limited, client_limited. Rates and concurrency are of all `instances` together.
    `concurrency_cap` is how many requests one instance serves at once (max_num_seqs,
    max_concurrent_requests_per_instance). Raises CapacityError where no model follows.
    """
    if concurrency_cap is not None and concurrency_cap < 1:
        raise CapacityError(f"a concurrency cap of {concurrency_cap} serves nothing")
    if instances < 1:
        raise CapacityError(f"{instances} instances cannot have been measured")
    frame = steps if isinstance(steps, pl.DataFrame) else pl.concat(steps, how="diagonal_relaxed")
    sifted = sift(frame, concurrency_cap=concurrency_cap, instances=instances)
    shapes = sorted({step.shape for step in sifted.kept})
    try:
        fits = [fit_steps(sifted.kept, sifted.queued, concurrency_cap)]
    except CapacityError as error:
        if not sifted.dropped and not sifted.queued:
            raise
        raise CapacityError("; ".join([str(error), *sifted.dropped, *sifted.queue_reasons])) from None
    if len(shapes) > 1:
        fits = [*_fits_of_shapes(sifted, shapes, concurrency_cap), *fits]
    last = fits[-1]
    return ServingModel(
        form=last.form.value,
        forms=tuple((form.value, last.left_out[form]) for form in Form if form in last.left_out),
        concurrency_cap=None if last.cap is None else round(last.cap),
        cap_source=last.cap_source,
        instances=instances,
        steps_used=len(sifted.kept),
        dropped=tuple(sifted.dropped),
        doubts=(*sifted.doubts, *last.doubts),
        fits=tuple(fits),
    )


def _fits_of_shapes(sifted: Sifted, shapes: Sequence[int], concurrency_cap: int | None) -> list[Fitted]:
    """The fit of each shape that has steps enough for one of its own."""
    fits = []
    for shape in shapes:
        own = [step for step in sifted.kept if step.shape == shape]
        with suppress(CapacityError):
            fits.append(fit_steps(own, [step for step in sifted.queued if step.shape == shape], concurrency_cap))
    return fits
