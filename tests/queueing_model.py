"""The published queueing model of llm-d's workload variant autoscaler, whose mean field the benchmark compares with."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Queueing:
    """State-dependent queue: alpha, beta, gamma in ms; up to `batch` are served, `queue` wait."""

    alpha: float
    beta: float
    gamma: float
    batch: int
    queue: int

    def service_ms(self, n: float, prompt: float, completion: float) -> tuple[float, float]:
        """Prefill and the time of one further token, n being served."""
        context = prompt + completion / 2
        iteration = self.alpha + n * (self.beta * (prompt + completion) / (completion + 1) + self.gamma * context)
        return iteration + (self.beta + self.gamma) * prompt, iteration + self.beta + self.gamma * context

    def served_per_s(self, n: int, prompt: float, completion: float) -> float:
        prefill, decode = self.service_ms(min(n, self.batch), prompt, completion)
        return 1e3 * min(n, self.batch) / (prefill + completion * decode)

    def at(self, rate_per_s: float, prompt: float, completion: float) -> dict[str, float]:
        """The stationary birth-death chain: response, wait, TTFT and ITL in ms, and how many are served."""
        logs = [0.0]
        for n in range(1, self.batch + self.queue + 1):
            logs.append(logs[-1] + math.log(rate_per_s / self.served_per_s(n, prompt, completion)))
        weights = [math.exp(each - max(logs)) for each in logs]
        p = [each / sum(weights) for each in weights]
        served = sum(min(n, self.batch) * each for n, each in enumerate(p))
        through = rate_per_s * (1 - p[-1]) / 1e3
        response, in_service = sum(n * each for n, each in enumerate(p)) / through, served / through
        prefill = self.service_ms(served, prompt, completion)[0]
        itl = (in_service - prefill) / completion
        wait = response - in_service
        return {"response": response, "wait": wait, "served": served, "ttft": wait + prefill + itl, "itl": itl}
