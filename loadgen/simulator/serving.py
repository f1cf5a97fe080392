"""How long a simulated deployment takes and how much it writes: a stated model, so that results can be checked by it.

With P prompt tokens and n requests running (this one included):

    time to first token = (ttft_base + ttft_per_prompt_token * P + ttft_per_running * n) * J(ttft_sigma)
    each later gap      = (itl_base + itl_per_running * n) * J(itl_sigma)
    completion tokens   = completion_mean * J(completion_sigma), rounded, at least 1

J(s) is lognormal with mean 1, exp(s Z - s^2 / 2) for a standard normal Z: the formulas above are the means, and the
quantile q lies at mean * exp(s z_q - s^2 / 2).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields

from loadgen.simulator.units import NS_PER_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingModel:
    """The defaults are a small model on one large GPU: some 80 tokens a second alone, 24 each with 250 running."""

    ttft_base_ms: float = 60.0
    ttft_per_prompt_token_ms: float = 0.06
    ttft_per_running_ms: float = 0.4
    ttft_sigma: float = 0.15
    itl_base_ms: float = 12.0
    itl_per_running_ms: float = 0.12
    itl_sigma: float = 0.1

    def __post_init__(self) -> None:
        _check_parameters(self)

    def ttft_ns(self, rng: random.Random, *, prompt_tokens: int, running: int) -> int:
        """From the request's admission to its first token. `running` counts this request too."""
        prefill_ms = self.ttft_per_prompt_token_ms * prompt_tokens
        mean_ms = self.ttft_base_ms + prefill_ms + self.ttft_per_running_ms * running
        return round(mean_ms * jitter(rng, self.ttft_sigma) * NS_PER_MS)

    def gap_ns(self, rng: random.Random, running: int) -> int:
        """From one token to the next. `running` counts this request too."""
        mean_ms = self.itl_base_ms + self.itl_per_running_ms * running
        return round(mean_ms * jitter(rng, self.itl_sigma) * NS_PER_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How much is written, whatever it is written on."""

    completion_mean_tokens: float = 90.0
    completion_sigma: float = 0.6

    def __post_init__(self) -> None:
        _check_parameters(self)

    def completion_tokens(self, rng: random.Random) -> int:
        """The length of an answer that nothing cuts."""
        return max(1, round(self.completion_mean_tokens * jitter(rng, self.completion_sigma)))


def _check_parameters(stated: ServingModel | Lengths) -> None:
    for field in fields(stated):
        if not 0 <= getattr(stated, field.name) < math.inf:
            raise ValueError(f"{field.name} must be zero or above, not {getattr(stated, field.name)}")


def jitter(rng: random.Random, sigma: float) -> float:
    """A lognormal factor with mean 1."""
    return math.exp(sigma * rng.gauss(0.0, 1.0) - sigma * sigma / 2)


def rng_of(seed: int, number: int) -> random.Random:
    """The randomness of one request: it depends on the seed and the request's number, never on its neighbours."""
    return random.Random((seed << 64) | number)
