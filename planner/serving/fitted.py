"""Fitted: the forms of the curve on one set of steps, how well each does, and where the steps end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from planner.serving.closure import Latency, Response
from planner.serving.curves import Form, Shape
from planner.serving.places import IN_THE_LONG_RUN, Queueing, wait_for_place, with_wait
from planner.serving.spread import Interval
from planner.serving.usable import UsableStep, mean_shape

AT_LEAST_NEXT = 1.15  # times the highest steady rate
UNEVEN = 1.25  # one gap over another, of steps meant to be even


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a rate comes to lie on a form; the concurrency is infinite where the form has no steady state."""

    response: Response
    rate_per_s: float
    concurrency: float
    queueing: Queueing = IN_THE_LONG_RUN


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The model of one shape of requests, or of several together."""

    steps: tuple[UsableStep, ...]
    queued: tuple[UsableStep, ...]  # in which the deployment did not keep up
    responses: Mapping[Form, Response]
    left_out: Mapping[Form, float]  # root mean square of the relative error of ITL at steps left out
    form: Form  # with the smallest of them
    widths: Mapping[Latency, float]  # relative half-width of a 90 % interval at a known concurrency; not of ttft
    shaped: bool
    plateau: Interval | None  # requests/s in the steps with which the deployment did not keep up
    cap: float | None
    cap_source: str
    doubts: tuple[str, ...]

    @property
    def response(self) -> Response:
        return self.responses[self.form]

    @property
    def shape(self) -> Shape:
        """The mean over the steps' requests."""
        return mean_shape(self.steps)

    def figure_ms(self, latency: Latency, spot: Spot, shape: Shape) -> float:
        """A latency with the wait for a place; infinite where there is no steady state."""
        if math.isinf(spot.concurrency):
            return math.inf
        if self.cap is None or latency.metric == "itl":
            return float(spot.response.latency_ms(latency, np.array([spot.concurrency]), shape)[0])
        wait = wait_for_place(spot.response, shape, max(1, round(self.cap)), spot.rate_per_s, spot.queueing)
        return with_wait(wait, spot.response, latency, spot.concurrency, shape)

    def seconds(self, rate_per_s: float) -> float:
        """As long as a step at that rate would be."""
        return median(step.requests for step in self.steps) / rate_per_s

    def width(self, latency: Latency, concurrency: float, shape: Shape) -> float:
        """Relative half-width of a latency's 90 % interval at a known concurrency."""
        if latency.metric != "ttft":
            return self.widths[latency]
        itl_ms = float(self.response.itl_ms(np.array([concurrency]), shape)[0])
        lines = self.response.ttft_quantiles
        asked = [lines[latency.quantile]] if latency.quantile in lines else list(lines.values())
        return max(each.width(itl_ms, shape) for each in asked)

    def reaches(self, shape: Shape, times: float) -> bool:
        """Whether prompts and completions lie within those measured, or so many times beyond them."""
        prompts = [step.prompt_tokens for step in self.steps]
        completions = [step.completion_tokens for step in self.steps]
        return (
            min(prompts) / times <= shape.prompt_tokens <= max(prompts) * times
            and min(completions) / times <= shape.completion_tokens <= max(completions) * times
        )

    def steady_rate(self, shape: Shape) -> float:
        """The highest rate in the steps; of several shapes the rate at which iterations become as long as any were."""
        if not self.shaped:
            return max(step.served_per_s for step in self.steps)
        longest_ms = max(step.itl_ms for step in self.steps)
        reached = self.response.highest(Latency("itl", None), longest_ms, shape)
        return self.response.peak(reached, shape)[0]

    def next_rate(self, shape: Shape) -> float:
        """Where one more step would be if the steps went on as they grew; at least 15 % beyond the last."""
        last = self.steady_rate(shape)
        rates = sorted({step.served_per_s for step in self.steps})
        if self.shaped or len(rates) < 3:
            return AT_LEAST_NEXT * last
        gap, gap_before = rates[-1] - rates[-2], rates[-2] - rates[-3]
        following = max(gap_before, gap * min(2.0, max(1.0, gap / gap_before)))
        return max(AT_LEAST_NEXT * last, last + UNEVEN * following)

    def capacity(self, shape: Shape) -> Interval | None:
        """The most requests a second; None where neither a cap nor a step that saturated says so."""
        if self.plateau is not None and not self.shaped:
            return self.plateau
        if self.cap is None:
            return None
        peaks = {form: each.peak(each.top, shape)[0] for form, each in self.responses.items()}
        width = self.widths[Latency("itl", None)]
        return Interval(
            value=peaks[self.form], low=min(peaks.values()) * (1 - width), high=max(peaks.values()) * (1 + width)
        )
