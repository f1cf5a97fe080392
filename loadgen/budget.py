"""What a run may use up: requests, tokens and US dollars, reserved before each send and settled after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from loadgen.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Price:
    """Of a deployment that is paid per token."""

    input_usd_per_1k: float
    output_usd_per_1k: float

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.input_usd_per_1k + completion_tokens * self.output_usd_per_1k) / 1_000


FREE = Price(0.0, 0.0)  # of a deployment whose price nobody asked for


class Used(TypedDict):
    """Of one resource: what was sent and settled, and what is in flight at its estimate."""

    used: float
    limit: float


class Budget:
    """One for a whole run. `reserve` before each send, `settle` when its real usage is known.

    What is in flight counts at its estimate, so the limits are passed by no more than the real usage of the requests in
    flight exceeds their estimates. The first reservation that is refused uses the budget up: nothing is sent any more,
    smaller requests neither.
    """

    def __init__(self, *, requests: int | None = None, tokens: int | None = None, usd: float | None = None) -> None:
        self._limits = {"requests": requests, "tokens": tokens, "usd": usd}
        self._requests, self._tokens, self._usd = 0, 0, 0.0
        self.used_up: str | None = None  # a sentence, once it is

    def reserve(self, tokens: int, usd: float) -> bool:
        """Take one request, its tokens and its price, or nothing at all."""
        if self.used_up is not None:
            return False
        short = self._short_of(self._requests + 1, self._tokens + tokens, self._usd + usd)
        if short is not None:
            budget = f"the budget of {self._worded(short)}"
            known = short == "requests"  # of the others a request takes its estimate, most often more than it uses
            self.used_up = f"{budget} is used up" if known else f"the next request might have passed {budget}"
            return False
        self._requests += 1
        self._tokens += tokens
        self._usd += usd
        return True

    def settle(self, tokens: int, usd: float, *, requests: int = 0) -> None:
        """Correct a reservation by what the usage was more (or, below zero, less) than it."""
        self._requests += requests
        self._tokens += tokens
        self._usd += usd

    def close(self, reason: str) -> None:
        """Admit nothing more: the time is up."""
        self.used_up = self.used_up or reason

    def check_fits(self, tokens: int, usd: float, what: str) -> None:
        """Raise ConfigError if the budget does not reach for this one request."""
        short = self._short_of(1, tokens, usd)
        if short is not None:
            asked = f"{tokens:,} tokens" if short == "tokens" else f"${usd:.6f}"
            raise ConfigError(
                f"{what} is estimated at {asked}, more than the whole budget of {self._worded(short)}: raise "
                f"--budget-{short}, or lower --max-tokens"
            )

    def use(self) -> dict[str, Used]:
        """By resource, those that are limited."""
        used = {"requests": float(self._requests), "tokens": float(self._tokens), "usd": self._usd}
        return {
            name: {"used": used[name], "limit": float(limit)}
            for name, limit in self._limits.items()
            if limit is not None
        }

    def _short_of(self, requests: int, tokens: int, usd: float) -> str | None:
        for (name, limit), wanted in zip(self._limits.items(), (requests, tokens, usd), strict=True):
            if limit is not None and wanted > limit:
                return name
        return None

    def _worded(self, name: str) -> str:
        limit = self._limits[name]
        return f"${limit:g}" if name == "usd" else f"{limit:,} {name}"
