"""The closure: which concurrency a rate comes to, by Little's law on the curves of one form.

n = rate x [TTFT(n) + (O - 1) ITL(n)]: the smallest n that satisfies it is where an open loop settles; where none does,
requests arrive faster than they leave. A cap M on the requests that an instance serves at once ends the curve at M.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from planner.serving.curves import MS_PER_S, Curve, FloatArray, Shape
from planner.serving.first_token import FirstToken

GRID = 400
HALVINGS = 32  # of a step of the grid
FAR = 100.0  # times the highest measured concurrency: where the search ends if there is no cap


@dataclass(frozen=True, slots=True)
class Latency:
    """A figure of requests: of `ttft`, `itl` or `e2e`, a quantile or (None) the mean."""

    metric: str
    quantile: float | None


@dataclass(frozen=True, kw_only=True)
class Response:
    """What one instance answers at a concurrency, by one form of the curve."""

    itl: Curve
    itl_quantiles: dict[float, Curve]
    ttft_quantiles: dict[float, FirstToken]
    ratio: float  # measured mean time of a request over TTFT(.5) + (O - 1) ITL: 1 where gaps are tokens
    e2e_ratios: dict[float, float]  # quantile of the time of a request over its mean
    top: float  # concurrency at which the curve ends: the cap, or far beyond what was measured

    @cached_property
    def _grid(self) -> FloatArray:
        return np.asarray(np.geomspace(min(0.01, self.top / 2), self.top, GRID))

    def itl_ms(self, concurrency: FloatArray, shape: Shape, quantile: float | None = None) -> FloatArray:
        curve = self.itl if quantile is None else self.itl_quantiles[quantile]
        return curve.at(concurrency, shape)

    def ttft_ms(self, concurrency: FloatArray, shape: Shape, quantile: float = 0.5) -> FloatArray:
        """Between measured quantiles as of a log-normal through them. Raises KeyError beyond them."""
        itl_ms, known = self.itl_ms(concurrency, shape), sorted(self.ttft_quantiles)
        if quantile in self.ttft_quantiles:
            return self.ttft_quantiles[quantile].at(concurrency, itl_ms, shape)
        below, above = (
            max((each for each in known if each < quantile), default=None),
            min((each for each in known if each > quantile), default=None),
        )
        if below is None or above is None:
            raise KeyError(quantile)
        low, high = (self.ttft_quantiles[each].at(concurrency, itl_ms, shape) for each in (below, above))
        z_low, z, z_high = (NormalDist().inv_cdf(each) for each in (below, quantile, above))
        return np.asarray(low * (high / low) ** ((z - z_low) / (z_high - z_low)))

    def e2e_s(self, concurrency: FloatArray, shape: Shape) -> FloatArray:
        """Mean time of a request from sending to its end."""
        ttft_ms, itl_ms = self.ttft_ms(concurrency, shape), self.itl_ms(concurrency, shape)
        return np.asarray(self.ratio * (ttft_ms + (shape.completion_tokens - 1) * itl_ms) / MS_PER_S)

    def rate_per_s(self, concurrency: FloatArray, shape: Shape) -> FloatArray:
        """Requests a second that keep so many in flight."""
        return np.asarray(concurrency / self.e2e_s(concurrency, shape))

    def concurrency(self, rate_per_s: float, shape: Shape) -> float | None:
        """The smallest concurrency that the rate comes to; None where it is more than the instance can do."""
        enough = self.rate_per_s(self._grid, shape) >= rate_per_s
        if not enough.any():
            return None
        first = int(np.argmax(enough))
        if first == 0:
            return rate_per_s * float(self.e2e_s(self._grid[:1], shape)[0])
        return self._crossing(first, lambda n: self.rate_per_s(n, shape) >= rate_per_s)

    def latency_ms(self, latency: Latency, concurrency: FloatArray, shape: Shape) -> FloatArray:
        """Raises KeyError for a quantile that was not measured."""
        if latency.metric == "itl":
            return self.itl_ms(concurrency, shape, latency.quantile)
        if latency.metric == "ttft" and latency.quantile is not None:
            return self.ttft_ms(concurrency, shape, latency.quantile)
        ratio = 1.0 if latency.quantile is None else self.e2e_ratios[latency.quantile]
        return ratio * MS_PER_S * self.e2e_s(concurrency, shape)

    def highest(self, latency: Latency, limit_ms: float, shape: Shape) -> float:
        """The highest concurrency at which a latency is still within its limit; 0 where it never is."""
        beyond = self.latency_ms(latency, self._grid, shape) > limit_ms
        if not beyond.any():
            return self.top
        first = int(np.argmax(beyond))
        return 0.0 if first == 0 else self._crossing(first, lambda n: self.latency_ms(latency, n, shape) > limit_ms)

    def peak(self, up_to: float, shape: Shape) -> tuple[float, float]:
        """The highest rate a second at a concurrency up to this, and that concurrency."""
        grid = np.append(self._grid[self._grid < up_to], up_to)
        rates = self.rate_per_s(grid, shape)
        best = int(np.argmax(rates))
        return float(rates[best]), float(grid[best])

    def _crossing(self, first: int, beyond: Callable[[FloatArray], npt.NDArray[np.bool_]]) -> float:
        low, high = float(self._grid[first - 1]), float(self._grid[first])
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if beyond(np.array([middle]))[0] else (middle, high)
        return (low + high) / 2
