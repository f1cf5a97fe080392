"""Curves of the serving model: how the time between tokens grows with the requests in flight, by least squares.

Three forms: a + b n (linear: dense models), a + b n^p (power: mixtures of experts, which flatten
as a batch comes to touch them all), a + b n + c n^2 (quadratic, the universal scalability law's shape). Where steps of
several shapes of requests are fitted together, b stands for b0 + b1 I/O + b2 (I + O/2): each request in the batch
costs something by itself, for its share of prefill (I/O tokens for each it decodes), and for the context it attends to,
I + O/2 tokens in the mean (the terms of the queueing model of llm-d's workload variant autoscaler). Terms
that the shapes do not tell apart are left out, b2 first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Number = TypeVar("Number", float, FloatArray)
MS_PER_S = 1e3
NEGLIGIBLE = 0.01  # share of a prediction
EXPONENTS = tuple(round(0.1 * tenth, 1) for tenth in range(3, 21))


class Form(StrEnum):
    LINEAR = "linear"
    POWER = "power"
    QUADRATIC = "quadratic"


@dataclass(frozen=True, slots=True)
class Shape:
    """Mean tokens of a request."""

    prompt_tokens: float
    completion_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Where the curve was measured: requests in flight, the shape of the requests, and what it counts. Equally long."""

    concurrency: FloatArray
    prompt_tokens: FloatArray
    completion_tokens: FloatArray
    weight: FloatArray  # of the relative error; 1 for a steady step
    load_terms: int  # of the load coefficient: b0, b1 and b2; of one shape b0 alone

    def __len__(self) -> int:
        return len(self.concurrency)

    def take(self, which: npt.NDArray[np.bool_]) -> Levels:
        return replace(
            self,
            concurrency=self.concurrency[which],
            prompt_tokens=self.prompt_tokens[which],
            completion_tokens=self.completion_tokens[which],
            weight=self.weight[which],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    form: Form
    exponent: float
    coefficients: tuple[float, ...]  # ms, ms per request in flight, and so on
    load_terms: int

    def at(self, concurrency: FloatArray, shape: Shape) -> FloatArray:
        """Milliseconds at each concurrency, for requests of one shape."""
        constant, slope, bend = self.terms(shape)
        curved = 0.0 if bend == 0 else bend * concurrency**2
        return np.asarray(constant + slope * concurrency**self.exponent + curved)

    def terms(self, shape: Shape) -> tuple[float, float, float]:
        """The constant, the load coefficient and the square's, for requests of one shape."""
        constant, *rest = self.coefficients
        bend = rest.pop() if self.form is Form.QUADRATIC else 0.0
        works = _works(shape.prompt_tokens, shape.completion_tokens)[: self.load_terms]
        return constant, sum(each * work for each, work in zip(rest, works, strict=True)), bend


def nonnegative(matrix: FloatArray, target: FloatArray) -> FloatArray:
    """argmin |matrix x - target| over x >= 0, exactly: the best of the least squares over all sets of columns.

    The optimum is the unconstrained one of its own support, so with few columns all supports can be tried; that of all
    columns, if it is not negative, is no worse than any other. Columns are scaled to one, so that tokens and ratios do
    not make the system look singular.
    """
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    scaled = matrix / scale
    columns = matrix.shape[1]
    best, best_square = np.zeros(columns), float(target @ target)
    for size in range(columns, 0, -1):
        for support in itertools.combinations(range(columns), size):
            part = scaled[:, support]
            found = np.linalg.lstsq(part, target, rcond=None)[0]
            if (found < 0).any():
                continue
            residual = part @ found - target
            square = float(residual @ residual)
            if square < best_square - 1e-15:
                best, best_square = np.zeros(columns), square
                best[list(support)] = found
                if size == columns:
                    return np.asarray(best / scale)
    return np.asarray(best / scale)


def relative_fit(columns: Sequence[FloatArray], measured: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """Non-negative coefficients with the smallest sum of squared relative errors: rows (columns / measured) -> 1."""
    target = np.ones(len(measured)) if weight is None else weight
    return nonnegative(np.stack(columns, axis=1) * (target / measured)[:, None], target)


def fit_curve(form: Form, levels: Levels, measured_ms: FloatArray, exponent: float | None = None) -> Curve:
    """The curve of the form with the smallest relative error; of a given exponent, or of the best on the grid."""
    grid: Sequence[float] = (1.0,)
    if form is Form.POWER:
        distinct = len(np.unique(levels.concurrency.round(9)))
        grid = EXPONENTS if exponent is None and distinct >= 4 else (exponent or 1.0,)
    best: tuple[float, Curve] | None = None
    for each in grid:
        columns = _columns(form, levels, each)
        found = relative_fit(columns, measured_ms, levels.weight)
        errors = levels.weight * (np.stack(columns, axis=1) @ found / measured_ms - 1)
        square = float((errors**2).sum())
        if best is None or square < best[0]:
            coefficients = tuple(float(value) for value in found)
            best = square, Curve(form=form, exponent=each, coefficients=coefficients, load_terms=levels.load_terms)
    assert best is not None
    return best[1]


def values(curve: Curve, levels: Levels) -> FloatArray:
    """The curve at the levels themselves, each with its own shape."""
    columns = np.stack(_columns(curve.form, levels, curve.exponent), axis=1)
    return np.asarray(columns @ np.array(curve.coefficients))


def left_out_errors(form: Form, levels: Levels, measured_ms: FloatArray, groups: npt.NDArray[np.int64]) -> FloatArray:
    """Relative error, times its weight, at each level of the curve fitted without its group: a step, or a shape."""
    errors = np.zeros(len(levels))
    for group in np.unique(groups):
        out = groups == group
        curve = fit_curve(form, levels.take(~out), measured_ms[~out])
        errors[out] = levels.weight[out] * (values(curve, levels.take(out)) / measured_ms[out] - 1)
    return errors


def condition(curve: Curve, levels: Levels) -> float:
    """Condition number of d log prediction / d log parameter, of the parameters that matter.

    Above 1,000 the levels do not tell the parameters apart; below 100 they do well (the guard of llm-inferno's tuner).
    """
    columns = np.stack(_columns(curve.form, levels, curve.exponent), axis=1) * np.array(curve.coefficients)
    predicted = columns.sum(axis=1)
    jacobian = [share for column in columns.T if (share := column / predicted).max() > NEGLIGIBLE]
    slopes = columns[:, 1:].sum(axis=1)
    if curve.form is Form.POWER and slopes.any():
        jacobian.append(curve.exponent * np.log(levels.concurrency) * slopes / predicted)
    found = np.linalg.cond(np.stack(jacobian, axis=1))
    return float(found) if math.isfinite(found) else math.inf


def _columns(form: Form, levels: Levels, exponent: float) -> list[FloatArray]:
    n = levels.concurrency
    works = _works(levels.prompt_tokens, levels.completion_tokens)[: levels.load_terms]
    columns = [np.ones(len(levels)), *(np.asarray(n**exponent * work) for work in works)]
    return [*columns, n**2] if form is Form.QUADRATIC else columns


def _works(prompt_tokens: Number, completion_tokens: Number) -> tuple[float, Number, Number]:
    return 1.0, prompt_tokens / completion_tokens, prompt_tokens + completion_tokens / 2
