"""Time to the first token, by the time between tokens: c0 + cI I + c1 ITL, for each quantile.

A busy instance lets a newcomer wait for the iteration that runs, and then reads its prompt in iterations of its own. An
idle one starts at once: steps of one request at a time say what it does, and are no part of the line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np
import numpy.typing as npt

from planner.serving.curves import FloatArray, Shape, relative_fit
from planner.serving.spread import half_width
from planner.serving.usable import UsableStep, groups_of

BETWEEN_RUNS = 0.016  # relative half-width at 90 % of the difference of two runs whose TTFT varies by .7 %
_NORMAL = NormalDist()
IDLE_CONCURRENCY = 1.25  # up to here a request mostly finds the instance idle


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    constant_ms: float
    per_itl: float
    per_prompt_token_ms: float  # 0 where all steps had prompts of one length: they are in the constant
    idle_ms: float | None  # None where no step ran one request at a time
    idle_concurrency: float
    residual: float  # relative half-width of the line's own error, at 90 %
    chance: float  # and of the quantile of the next step's requests: what a rerun may differ by
    spread: tuple[tuple[float, ...], ...]  # (X'X)^-1 of the rows (1, ITL, I) / TTFT

    def at(self, concurrency: FloatArray, itl_ms: FloatArray, shape: Shape) -> FloatArray:
        """Milliseconds, at each concurrency and the time between tokens there."""
        busy = self._busy(itl_ms, shape)
        if self.idle_ms is None:
            return busy
        share_busy = np.clip(concurrency - self.idle_concurrency, 0.0, 1.0)
        return np.asarray(busy - (1 - share_busy) * np.maximum(0.0, busy - self.idle_ms))

    def width(self, itl_ms: float, shape: Shape) -> float:
        """Relative half-width of a 90 % interval: residual x sqrt(1 + leverage), as of a line, plus chance."""
        columns = [1.0, itl_ms, shape.prompt_tokens][: len(self.spread)]
        row = np.array(columns) / float(self._busy(np.array([itl_ms]), shape)[0])
        return math.hypot(self.residual * math.sqrt(1 + float(row @ np.array(self.spread) @ row)), self.chance)

    def _busy(self, itl_ms: FloatArray, shape: Shape) -> FloatArray:
        return self.constant_ms + self.per_prompt_token_ms * shape.prompt_tokens + self.per_itl * itl_ms


def fit_first_token(steps: Sequence[UsableStep], column: str, *, shaped: bool) -> FirstToken:
    """The line of one quantile, over steps that have its column; of several shapes with the prompt's share."""
    busy = [step for step in steps if step.concurrency > IDLE_CONCURRENCY]
    idle = [step for step in steps if step.concurrency <= IDLE_CONCURRENCY]
    if len(busy) < 2:
        busy, idle = list(steps), []
    measured = np.array([step.quantiles[column] for step in busy])
    columns = [np.ones(len(busy)), np.array([step.itl_ms for step in busy])]
    if shaped:
        columns.append(np.array([step.prompt_tokens for step in busy]))
    found = relative_fit(columns, measured)
    rows = np.stack(columns, axis=1) / measured[:, None]
    spread = np.linalg.pinv(rows.T @ rows)
    leverages = np.clip(np.einsum("ij,jk,ik->i", rows, spread, rows), 0.0, 1.0)
    errors = [
        error * float(np.sqrt(1 - leverage))
        for error, leverage in zip(_left_out_errors(columns, measured, groups_of(busy)), leverages, strict=True)
    ]
    return FirstToken(
        constant_ms=float(found[0]),
        per_itl=float(found[1]),
        per_prompt_token_ms=float(found[2]) if shaped else 0.0,
        idle_ms=median(step.quantiles[column] for step in idle) if idle and not shaped else None,
        idle_concurrency=max((step.concurrency for step in idle), default=0.0),
        residual=half_width(errors),
        chance=_chance(busy, column),
        spread=tuple(tuple(float(value) for value in row) for row in spread),
    )


def _chance(steps: Sequence[UsableStep], column: str) -> float:
    """How far a quantile of as many requests lies from that of all, relative, with 90 %; at least between two runs.

    For log-normal TTFT the variance of a quantile q is q (1 - q) / phi(z)^2 x sigma^2 / n; sigma is from p95 over p50.
    """
    spreads = [
        math.log(step.quantiles["ttft_p95_ms"] / step.ttft_p50_ms) / _NORMAL.inv_cdf(0.95)
        for step in steps
        if "ttft_p95_ms" in step.quantiles
    ]
    quantile = float(column.removeprefix("ttft_p").removesuffix("_ms")) / 100
    density = _NORMAL.pdf(_NORMAL.inv_cdf(quantile))
    requests_n = median(step.requests for step in steps)
    deviation = math.sqrt(quantile * (1 - quantile) / requests_n) / density * (median(spreads) if spreads else 0.0)
    return math.hypot(BETWEEN_RUNS, _NORMAL.inv_cdf(0.95) * deviation)


def _left_out_errors(columns: Sequence[FloatArray], measured: FloatArray, groups: npt.NDArray[np.int64]) -> list[float]:
    """Relative error at each step of the line fitted without its group."""
    errors = np.zeros(len(measured))
    for group in np.unique(groups):
        out = groups == group
        without = relative_fit([column[~out] for column in columns], measured[~out])
        errors[out] = np.stack(columns, axis=1)[out] @ without / measured[out] - 1
    return [float(error) for error in errors]
