"""Serving models whose answers are known in closed form, in place of fitted ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    rate_per_s: Range
    binds: str = "ttft.p95<1s"


@dataclass(frozen=True)
class Straight:
    """ITL and TTFT go up in straight lines; the rate is stated."""

    concurrency_cap: int | None = None
    itl_base_ms: float = 10.0
    itl_slope_ms: float = 0.0
    ttft_base_ms: float = 0.0
    ttft_slope_ms: float = 0.0
    ttft_per_prompt_token_ms: float = 0.0
    tail: float = 1.0  # p95 of TTFT over its median
    rate: Range = Range(10.0, 9.0, 11.0)

    def itl_ms(self, concurrency, prompt_tokens=None, completion_tokens=None):
        return self.itl_base_ms + self.itl_slope_ms * concurrency

    def ttft_ms(self, concurrency, prompt_tokens=None, completion_tokens=None, quantile=0.5):
        median = self.ttft_base_ms + self.ttft_slope_ms * concurrency
        return (median + self.ttft_per_prompt_token_ms * (prompt_tokens or 0)) * (self.tail if quantile > 0.5 else 1)

    def max_rate(self, slo, prompt_tokens=None, completion_tokens=None):
        return Rate(self.rate)

    def predict(self, rate_per_s, prompt_tokens=None, completion_tokens=None):
        raise AssertionError("a fleet is planned without predictions")
