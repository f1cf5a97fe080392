"""Managed deployments whose parameters nobody tells the planner, swept and measured in virtual time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from loadgen.simulator.batching import BatchingModel
from loadgen.simulator.endpoint import EndpointSettings
from loadgen.simulator.virtual import replay
from loadgen.slo import Slo
from planner.sweep import Count, Measurement, Search, Trial, next_step

WARMUP_S = 20.0


@dataclass(frozen=True)
class Hidden:
    """A deployment, what is asked of it, and the objective."""

    batching: BatchingModel
    prompt_mean: float
    completion_mean: float
    sigma: float  # of both log-normal lengths
    limit_ms: float  # of the 95th percentile of TTFT

    @property
    def slo(self) -> Slo:
        return Slo.parse(f"ttft.p95<{self.limit_ms:.0f}ms")

    @property
    def saturated_per_s(self) -> float:
        """About the most that it completes: all places taken, by Little's law."""
        model, n = self.batching, self.batching.max_running
        prefill_ms = model.prefill_per_token_ms * self.prompt_mean
        return n * 1e3 / (self.completion_mean * (model.base_ns(n) / 1e6 + prefill_ms * n / self.completion_mean))


def drawn(seed: int) -> Hidden:
    dice = random.Random(seed)
    batching = BatchingModel(
        iteration_base_ms=dice.uniform(5, 25),
        iteration_per_sequence_ms=dice.uniform(0.1, 1.0),
        iteration_exponent=dice.uniform(0.65, 1.0),
        prefill_per_token_ms=dice.uniform(0.01, 0.06),
        max_running=dice.choice([8, 12, 16, 24, 32, 48]),
        kv_tokens=10**7,
    )
    hidden = Hidden(batching, dice.uniform(80, 900), dice.uniform(40, 250), dice.uniform(0.2, 0.7), 0.0)
    alone_ms = batching.base_ns(1) / 1e6 + batching.prefill_per_token_ms * hidden.prompt_mean
    return replace(hidden, limit_ms=round(alone_ms * dice.uniform(4, 12), -1) + 20)


@dataclass(frozen=True)
class Measured:
    """Requests that arrived after the warm-up, in ms; infinite or NaN where they were refused."""

    ttft_ms: np.ndarray
    gap_ms: np.ndarray
    gaps: np.ndarray
    e2e_ms: np.ndarray
    step: dict[str, float]

    def beyond(self, limit_ms: float) -> int:
        return int((self.ttft_ms >= limit_ms).sum())


def arrivals_of(hidden: Hidden, rate_per_s: float, seconds: float, seed: str) -> list[tuple[int, int, int]]:
    dice, at_s, arrivals, sigma = random.Random(seed), 0.0, [], hidden.sigma
    while (at_s := at_s + dice.expovariate(rate_per_s)) < seconds:
        prompt = hidden.prompt_mean * dice.lognormvariate(-(sigma**2) / 2, sigma)
        completion = hidden.completion_mean * dice.lognormvariate(-(sigma**2) / 2, sigma)
        arrivals.append((round(at_s * 1e9), max(1, round(prompt)), max(1, round(completion))))
    return arrivals


def measured(hidden: Hidden, arrivals, *, instances: int = 1) -> Measured:
    cap = hidden.batching.max_running
    settings = EndpointSettings(
        instances=instances, max_concurrent_per_instance=cap, request_timeout_ms=1e9, requests_per_second=10**5
    )
    served = replay(arrivals, hidden.batching, settings)
    at, first, done = (
        np.array(column, dtype=float) / 1e6 for column in (served.at_ns, served.first_token_ns, served.done_ns)
    )
    kept = at >= WARMUP_S * 1e3
    refused = np.array(served.status)[kept] != 200
    at, first, done = at[kept], first[kept], done[kept]
    gaps = np.array([max(0, tokens - 1) for _, _, tokens in arrivals], dtype=float)[kept]
    prompt = np.array([tokens for _, tokens, _ in arrivals], dtype=float)[kept]
    ttft = np.where(refused, math.inf, first - at)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.where(refused | (gaps == 0), math.nan, (done - first) / gaps)
    ok = ~refused
    seconds = (at[-1] - WARMUP_S * 1e3) / 1e3
    step = {
        "rate_per_s": len(at) / seconds,  # what came, not what was asked for: of some 100 arrivals a tenth may differ
        "prompt_tokens": float(prompt[ok].mean()),
        "completion_tokens": float(gaps[ok].mean() + 1),
        "itl_mean_ms": float((done - first)[ok].sum() / gaps[ok].sum()),
        "itl_p95_ms": float(np.nanquantile(gap[ok], 0.95)),
        "ttft_p50_ms": float(np.quantile(ttft[ok], 0.5)),
        "ttft_p95_ms": float(np.quantile(ttft[ok], 0.95)),
        "e2e_mean_s": float((done - at)[ok].mean() / 1e3),
        "concurrency": float((done - at)[ok].sum() / 1e3 / seconds),
        "requests": float(len(at)),
    }
    return Measured(ttft, gap, gaps, done - at, step)


def true_rate(hidden: Hidden, requests: int = 20_000, rounds: int = 9) -> float:
    """At which 5 % are beyond the limit, in the long run."""
    low, high = 0.02 * hidden.saturated_per_s, 1.2 * hidden.saturated_per_s
    for _ in range(rounds):
        middle = math.sqrt(low * high)
        run = measured(hidden, arrivals_of(hidden, middle, WARMUP_S + requests / middle, "truth"))
        met = run.beyond(hidden.limit_ms) <= 0.05 * len(run.ttft_ms)
        low, high = (middle, high) if met else (low, middle)
    return math.sqrt(low * high)


def swept(hidden: Hidden, step_s: float = 120.0, seed: int = 0):
    """A sweep as `headroom sweep` searches, in virtual time: its steps, and what it found."""
    top = 1.3 * hidden.saturated_per_s
    search = Search(from_per_s=top / 20, to_per_s=top, steps=8, tolerance=0.05)
    measurements, steps = [], []
    while isinstance(trial := next_step(search, measurements, None), Trial):
        rate = trial.rate_per_s
        seconds = WARMUP_S + step_s * trial.times_as_long
        run = measured(hidden, arrivals_of(hidden, rate, seconds, f"{seed} {len(steps)}"))
        count = Count(text=hidden.slo.text, allowed=0.05, n=len(run.ttft_ms), beyond=run.beyond(hidden.limit_ms))
        measurements.append(Measurement(rate_per_s=rate, counts=(count,)))
        steps.append(run.step)
    return pl.DataFrame(steps), trial
