"""The calibrated serving model: what an instance answers at a rate, and the highest rate that keeps an objective.

Fitted on the steps of a load test of the deployment itself, with an interval for each figure and a refusal, with the
reason, where the steps cannot say. Its parts are in planner/serving: the curves, and Little's law in closure.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from loadgen.errors import CapacityError
from loadgen.slo import Slo
from planner.serving.closure import Latency
from planner.serving.curves import Form, Shape
from planner.serving.fitted import Fitted
from planner.serving.fitting import fit_steps
from planner.serving.highest import MaxRate, max_rate
from planner.serving.load_steps import steps_of
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
    fits: tuple[Fitted, ...]  # of each shape with steps enough
    together: Fitted | None  # of several shapes; None of one, and where the shapes cannot be told apart

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
        mean = (self.together or max(self.fits, key=_steps_n)).shape
        shape = Shape(
            mean.prompt_tokens if prompt_tokens is None else float(prompt_tokens),
            mean.completion_tokens if completion_tokens is None else float(completion_tokens),
        )
        if not (0 <= shape.prompt_tokens < math.inf and 1 <= shape.completion_tokens < math.inf):
            raise CapacityError(f"{prompt_tokens} prompt and {completion_tokens} completion tokens are no request")
        near = [each for each in self.fits if is_same_shape(each.shape, shape)]
        if near:
            return near[0], shape
        if self.together is None:
            measured = " or ".join(_in_words(each.shape) for each in self.fits)
            raise CapacityError(
                f"the steps asked for {measured}; what requests of {_in_words(shape)} would see they cannot say: "
                "measure steps of another shape too"
            )
        if not self.together.reaches(shape, SHAPE_REACH):
            raise CapacityError(
                f"requests of {_in_words(shape)} lie more than {SHAPE_REACH:g} times beyond all that were measured: "
                "measure steps of that shape"
            )
        return self.together, shape


def _steps_n(fitted: Fitted) -> int:
    return len(fitted.steps)


def _in_words(shape: Shape) -> str:
    return f"{shape.prompt_tokens:.0f} prompt and {shape.completion_tokens:.0f} completion tokens"


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
    frames = [steps] if isinstance(steps, pl.DataFrame) else list(steps)
    if not frames:
        raise CapacityError("no steps were given: a serving model is fitted on load steps, a row each")
    frame = pl.concat(frames, how="diagonal_relaxed")
    sifted = sift(frame, concurrency_cap=concurrency_cap, instances=instances)
    fits, together = _fits(sifted, concurrency_cap)
    best = together or max(fits, key=_steps_n)
    return ServingModel(
        form=best.form.value,
        forms=tuple((form.value, best.left_out[form]) for form in Form if form in best.left_out),
        concurrency_cap=None if best.cap is None else round(best.cap),
        cap_source=best.cap_source,
        instances=instances,
        steps_used=len(sifted.kept),
        dropped=tuple(sifted.dropped),
        doubts=(*sifted.doubts, *best.doubts),
        fits=fits,
        together=together,
    )


def _fits(sifted: Sifted, concurrency_cap: int | None) -> tuple[tuple[Fitted, ...], Fitted | None]:
    """Of each shape that has steps enough for one of its own, and of all together; of one of them at least."""
    own, refusals = [], []
    for shape in sorted({step.shape for step in sifted.kept}) or [0]:
        kept, queued = ([step for step in steps if step.shape == shape] for steps in (sifted.kept, sifted.queued))
        try:
            own.append(fit_steps(kept, queued, concurrency_cap))
        except CapacityError as error:
            refusals.append(str(error))
    together = None
    if len({step.shape for step in sifted.kept}) > 1:
        try:
            together = fit_steps(sifted.kept, sifted.queued, concurrency_cap)
        except CapacityError as error:
            refusals.insert(0, str(error))
    if not own and together is None:
        raise CapacityError("; ".join([refusals[0], *sifted.dropped, *sifted.queue_reasons]))
    return tuple(own), together
