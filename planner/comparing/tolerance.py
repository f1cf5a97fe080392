"""How much slower is too slow: `ttft.p95:+10%`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from loadgen.errors import ConfigError
from loadgen.slo import LATENCIES

_TEXT = re.compile(r"\s*(?P<metric>\w+)\.p(?P<percentile>\d{1,2}(?:\.\d+)?)\s*:\s*\+(?P<more>\d+(?:\.\d+)?)\s*%\s*")
_WIDEST_PERCENT = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """A percentile of a latency, and the slowdown of it that a comparison must not miss."""

    metric: str
    percentile: float
    share: float  # 0.10 for +10 %

    @property
    def name(self) -> str:
        return f"{self.metric}.p{self.percentile:g}"

    @property
    def log(self) -> float:
        return math.log1p(self.share)

    @property
    def log_floor(self) -> float:
        """Less than half of it is no regression, however sure: so that what is as large as all of it is not missed."""
        return math.log1p(self.share / 2)

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """Raises ConfigError for what is no percentile of a latency, or no slowdown."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ConfigError(f"--fail-on: {text!r} is no slowdown; write it like ttft.p95:+10%")
        if found["metric"] not in LATENCIES:
            raise ConfigError(f"--fail-on: {text!r} names no latency; there are {', '.join(LATENCIES)}")
        percentile, percent = float(found["percentile"]), float(found["more"])
        if percentile == 0 or not 0 < percent <= _WIDEST_PERCENT:
            raise ConfigError(f"--fail-on: {text!r} is no slowdown; write it like ttft.p95:+10%")
        return cls(metric=found["metric"], percentile=percentile, share=percent / 100)


# The two that say most of a stream and have no length in them; what the answers' length does to the rest is not speed.
DEFAULT = tuple(Tolerance.parse(text) for text in ("ttft.p50:+10%", "ttft.p95:+15%", "tpot.p50:+10%", "tpot.p95:+15%"))
PLAIN = tuple(Tolerance.parse(text) for text in ("response_time.p50:+10%", "response_time.p95:+15%"))
