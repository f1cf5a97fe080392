"""What users of a closed loop do besides waiting for answers: they come one after the other, and they think."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random

from loadgen.errors import ConfigError
from loadgen.slo import parse_duration_ns

NS_PER_S = 1_000_000_000


def joining_s(users: Mapping[str, int], spawn_rate_per_s: float | None) -> Iterator[tuple[float, str]]:
    """When each user comes, in seconds, and to which scenario. The scenarios' shares are kept at any time.

    Without a rate all come at once.
    """
    order = sorted(
        ((number + 0.5) / count, place, name)
        for place, (name, count) in enumerate(users.items())
        for number in range(count)
    )
    for number, (_, _, name) in enumerate(order):
        yield (0.0 if spawn_rate_per_s is None else number / spawn_rate_per_s), name


def shares(weights: Mapping[str, float], users: int) -> dict[str, int]:
    """So many users dealt out by weight: largest remainders, and the first named wins a tie."""
    total = sum(weights.values())
    exact = {name: users * weight / total for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: users - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True, slots=True)
class ThinkTime:
    """How long a user thinks between an answer and its next request: a fixed time, an even draw, or an exponential."""

    shortest_s: float
    longest_s: float  # of an exponential draw: its mean
    exponential: bool = False

    @classmethod
    def parse(cls, text: str) -> ThinkTime:
        """`2s`, `1s..3s` or `exp:2s`. Raises ConfigError."""
        mean = text.strip().removeprefix("exp:")
        if mean != text.strip():
            return cls(0.0, _seconds(mean, text), exponential=True)
        shortest, dots, longest = text.partition("..")
        found = cls(_seconds(shortest, text), _seconds(longest if dots else shortest, text))
        if found.shortest_s > found.longest_s:
            raise ConfigError(f"{text!r}: the shorter time comes first")
        return found

    def draw_ns(self, seed: int, seq: int) -> int:
        """After the answer to the arrival `seq`, whoever sent it."""
        if not self.exponential and self.shortest_s == self.longest_s:
            return round(self.shortest_s * NS_PER_S)
        if self.longest_s == 0:
            return 0
        random = Random(f"{seed}/{seq}/think")
        think_s = (
            random.expovariate(1 / self.longest_s)
            if self.exponential
            else random.uniform(self.shortest_s, self.longest_s)
        )
        return round(think_s * NS_PER_S)


def _seconds(duration: str, text: str) -> float:
    try:
        return parse_duration_ns(duration) / NS_PER_S
    except ConfigError:
        raise ConfigError(f"{text!r} is not a think time; write it like 2s, 1s..3s or exp:2s") from None
