"""Places: how long requests wait for one where an instance serves at most so many at once, under Poisson arrivals.

A birth-death chain as of the queueing model of llm-d's workload variant autoscaler: n requests in service leave at the
rate n / R(n), M at the most, and others wait first come first served. The wait of those that do is exponential,
P(W > t) = C exp(-2 (M / R(M) - rate) t / (Ca^2 + Cs^2)) (Kimura), with Ca = 1; how much requests differ in
length, and so Cs, is not in the steps: a middling value is taken, and others for the ends of an interval. Of a short
step the wait is less: the queue is empty at first, and of a full instance grows with the root of time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from planner.serving.closure import Latency, Response
from planner.serving.curves import MS_PER_S, Shape

LEAST_IN_FLIGHT = 0.01
MOST_LOAD = 0.995  # of the places: beyond it no wait is steady
SHORT_CV2, LIKELY_CV2, LONG_CV2 = 0.0, 0.5, 1.5  # all requests alike; in between; more than exponential
DRAWS = 64  # of a latency without waiting, for its sum with the wait
LEAST_RATE = 1e-9
HALVINGS = 40
NORMAL = NormalDist()
_Z = np.array([NORMAL.inv_cdf((at + 0.5) / DRAWS) for at in range(DRAWS)])


@dataclass(frozen=True, slots=True)
class Queueing:
    """What is taken of requests and of the stretch they are watched in."""

    cv2: float  # squared coefficient of variation of the time in service
    seconds: float  # from an empty instance on


IN_THE_LONG_RUN = Queueing(LIKELY_CV2, math.inf)


@dataclass(frozen=True, slots=True)
class Wait:
    """Before a place is free: the share of requests that wait, and how fast those get one."""

    share: float
    ends_per_ms: float

    @property
    def mean_ms(self) -> float:
        return self.share / self.ends_per_ms

    def joined(self, latency_ms: float, quantile: float, sigma: float) -> float:
        """The quantile of the wait and, after it, of a log-normal latency whose own quantile is `latency_ms`."""
        z = NORMAL.inv_cdf(quantile)
        draws_ms = latency_ms * np.exp(sigma * (_Z - z))

        def beyond(at_ms: float) -> float:
            slower = (
                float(at_ms < latency_ms) if sigma == 0 else 1 - NORMAL.cdf(math.log(at_ms / latency_ms) / sigma + z)
            )
            left_ms = at_ms - draws_ms[draws_ms < at_ms]
            return slower + self.share * float(np.exp(-self.ends_per_ms * left_ms).sum()) / DRAWS

        low, high = latency_ms, 2 * latency_ms
        while beyond(high) > 1 - quantile:
            low, high = high, 2 * high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if beyond(middle) > 1 - quantile else (low, middle)
        return high


def wait_for_place(response: Response, shape: Shape, places: int, rate_per_s: float, queueing: Queueing) -> Wait:
    """Of requests of one shape at one instance. An arrival sees the mean in flight, beside itself: R(n) is at n - 1."""
    running = np.arange(1, places + 1)
    service_s = response.e2e_s(np.maximum(running - 1.0, LEAST_IN_FLIGHT), shape)
    most_per_s = places / float(service_s[-1])
    rate_per_s = min(max(rate_per_s, LEAST_RATE), MOST_LOAD * most_per_s)
    logs = np.concatenate([[0.0], np.cumsum(np.log(rate_per_s * service_s / running))])
    chances = np.exp(logs - logs.max())
    full = float(chances[-1]) / (1 - rate_per_s / most_per_s)
    # Of a full instance the queue grows with the root of time, as a walk does: two thirds of its end in the mean.
    walked_s = 2 / 3 * math.sqrt(2 * (1 + queueing.cv2) * queueing.seconds / (math.pi * most_per_s))
    ends_per_s = 2 * (most_per_s - rate_per_s) / (1 + queueing.cv2) + 1 / walked_s
    return Wait(full / (float(chances[:-1].sum()) + full), ends_per_s / MS_PER_S)


def with_wait(wait: Wait, response: Response, latency: Latency, concurrency: float, shape: Shape) -> float:
    """A latency of `response` at a concurrency, in ms, after the wait for a place; of gaps, which have none, itself."""
    plain_ms = float(response.latency_ms(latency, np.array([concurrency]), shape)[0])
    if latency.metric == "itl":
        return plain_ms
    if latency.quantile is None:
        return plain_ms + wait.mean_ms
    return wait.joined(plain_ms, latency.quantile, _sigma(response, latency, concurrency, shape))


def _sigma(response: Response, latency: Latency, concurrency: float, shape: Shape) -> float:
    """Of a log-normal through what is known of the latency; 0 where that is one figure."""
    assert latency.quantile is not None
    if latency.metric == "e2e":
        spread, z = response.e2e_ratios[latency.quantile], NORMAL.inv_cdf(latency.quantile)
    elif {0.5, 0.95} <= response.ttft_quantiles.keys():
        n = np.array([concurrency])
        p50, p95 = (float(response.ttft_ms(n, shape, quantile)[0]) for quantile in (0.5, 0.95))
        spread, z = p95 / p50, NORMAL.inv_cdf(0.95)
    else:
        return 0.0
    return math.log(spread) / z if spread > 1 and z > 0 else 0.0
