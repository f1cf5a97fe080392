"""Asked: what came when and how large it was, whatever quota it meets; counted once for all ways of enforcing one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from loadgen.quota import MINUTE_NS, NS_PER_S

Whole = npt.NDArray[np.int64]
Counts = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fitting:
    """Of what came, the requests of at most so many tokens; the others are never admitted, and count as nothing."""

    minutes: Whole
    fits: Flags
    tokens: Whole  # zero for those that never fit

    @cached_property
    def requests_by_minute(self) -> Counts:
        return np.bincount(self.minutes, None if self.fits.all() else self.fits).astype(np.float64)

    @cached_property
    def tokens_by_minute(self) -> Counts:
        return np.bincount(self.minutes, self.tokens).astype(np.float64, copy=False)

    @cached_property
    def largest_together(self) -> Whole:
        """Tokens of the largest, of the two largest, and so on."""
        return np.cumsum(np.sort(self.tokens)[::-1])


@dataclass(frozen=True, eq=False)
class Asked:
    """Instants in ns that never fall, from 0 on, and what each arrival counts; shape (arrivals,)."""

    at_ns: Whole
    tokens: Whole
    _up_to: dict[int, Fitting] = field(default_factory=dict)

    @cached_property
    def minutes(self) -> Whole:
        minutes: Whole = self.at_ns // MINUTE_NS
        return minutes

    @cached_property
    def most_tokens(self) -> int:
        return int(self.tokens.max(initial=0))

    @cached_property
    def busiest_second(self) -> tuple[int, int]:
        """The most tokens and the most requests of any second."""
        first, after = np.searchsorted(self.at_ns, self.at_ns - NS_PER_S), np.arange(1, len(self.at_ns) + 1)
        until = np.concatenate(([0], np.cumsum(self.tokens)))
        return int((until[after] - until[first]).max(initial=0)), int((after - first).max(initial=0))

    def counting(self, tokens: Whole) -> Asked:
        """The same arrivals, each counting otherwise."""
        other = Asked(self.at_ns, tokens)
        other.__dict__["minutes"] = self.minutes  # which are as large as all else
        return other

    def up_to(self, most_tokens: int) -> Fitting:
        most_tokens = min(most_tokens, self.most_tokens)
        if most_tokens not in self._up_to:
            fits = self.tokens <= most_tokens
            counted = self.tokens if most_tokens == self.most_tokens else np.where(fits, self.tokens, 0)
            self._up_to[most_tokens] = Fitting(self.minutes, fits, counted)
        return self._up_to[most_tokens]
