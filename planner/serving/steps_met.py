"""What the steps themselves say: a latency as it was measured, between two rates, and which rates kept an objective."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from loadgen.slo import Slo
from planner.serving.closure import Latency
from planner.serving.curves import MS_PER_S, Shape
from planner.serving.fitted import Fitted
from planner.serving.usable import UsableStep, is_same_shape

SAME_RATE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """The highest steady step that kept an objective, and the lowest step, steady or not, that missed it."""

    met_per_s: float | None
    missed_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The measured steps that a rate lies between, or beyond, and what these measured."""

    below_per_s: float
    below_ms: float
    above_per_s: float
    above_ms: float
    waited: bool  # in one of them some requests waited for a place

    def hold(self, rate_per_s: float) -> bool:
        return rate_per_s <= self.above_per_s * (1 + SAME_RATE)

    def at(self, rate_per_s: float) -> float:
        """By the logarithm; beyond the two no further than as much again."""
        share = min(2.0, (rate_per_s - self.below_per_s) / (self.above_per_s - self.below_per_s))
        return self.below_ms * math.exp(share * math.log(self.above_ms / self.below_ms))


def measured_ms(step: UsableStep, latency: Latency) -> float | None:
    """None where the step does not have it."""
    if latency.quantile is None:
        return step.itl_ms if latency.metric == "itl" else step.e2e_s * MS_PER_S
    name = f"{latency.metric}_p{100 * latency.quantile:g}_ms"
    if latency.metric == "e2e" and name not in step.quantiles:
        name = name.replace("e2e", "response")
    return step.quantiles.get(name)


def bracket(fitted: Fitted, latency: Latency, slo: Slo, shape: Shape) -> Bracket:
    """By the steps of the shape; of gaps, which the curve knows better than a step, those further off than it errs.

    Where they contradict each other, the boundary with the fewest contradictions. A step that did not keep up and still
    has the latency says nothing: it would not have had it for long.
    """
    limit_ms, seen = slo.limit_ns / 1e6, []
    for step, figure_ms in _with(fitted, latency, shape, queued=True):
        beyond = figure_ms > limit_ms
        chance = fitted.width(latency, step.concurrency, shape) if latency.metric == "itl" else 0.0
        sure = abs(math.log(figure_ms / limit_ms)) >= math.log1p(chance)
        if sure and (beyond or step not in fitted.queued):
            seen.append((step.served_per_s, beyond))
    seen.sort()
    wrong = [
        sum(beyond for _, beyond in seen[:at]) + sum(not beyond for _, beyond in seen[at:])
        for at in range(len(seen) + 1)
    ]
    at = wrong.index(min(wrong))
    return Bracket(
        met_per_s=max((rate for rate, beyond in seen[:at] if not beyond), default=None),
        missed_per_s=min((rate for rate, beyond in seen[at:] if beyond), default=None),
    )


def neighbours(fitted: Fitted, latency: Latency, rate_per_s: float, shape: Shape) -> Neighbours | None:
    """Among the steady steps of the shape that have the latency: the last two for a rate beyond; None below all."""
    steps = sorted((step.served_per_s, figure_ms, step.waited) for step, figure_ms in _with(fitted, latency, shape))
    above = next((at for at, each in enumerate(steps) if each[0] >= rate_per_s * (1 - SAME_RATE)), len(steps) - 1)
    if above < 1 or steps[above][0] <= steps[above - 1][0]:
        return None
    (below_per_s, below_ms, waited), (above_per_s, above_ms, waited_above) = steps[above - 1 : above + 1]
    return Neighbours(
        below_per_s=below_per_s,
        below_ms=below_ms,
        above_per_s=above_per_s,
        above_ms=above_ms,
        waited=waited or waited_above,
    )


def _with(
    fitted: Fitted, latency: Latency, shape: Shape, *, queued: bool = False
) -> Iterator[tuple[UsableStep, float]]:
    for step in (*fitted.steps, *(fitted.queued if queued else ())):
        figure_ms = measured_ms(step, latency)
        alike = not fitted.shaped or is_same_shape(step.tokens, shape)
        if figure_ms is not None and math.isfinite(figure_ms) and alike:
            yield step, figure_ms
