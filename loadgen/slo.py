"""Service-level objectives as users write them: `ttft.p95<1s`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from loadgen.errors import ConfigError

NS_PER_UNIT = {
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}
LATENCIES = ("ttft", "ttft_from_due", "ttfb", "itl", "tpot", "service_time", "response_time")
_SLO = re.compile(r"\s*(?P<metric>\w+)\.(?P<statistic>p\d{1,2}(?:\.\d+)?|mean|max)\s*<=?\s*(?P<limit>\S+)\s*", re.ASCII)
_DURATION = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)\s*", re.ASCII)


def parse_duration_ns(text: str) -> int:
    """`500ms`, `1.5s`, `2m`, `1h`; a bare number is seconds. Raises ConfigError."""
    found = _DURATION.fullmatch(text)
    unit = (found["unit"] or "s") if found else ""
    if found is None or unit not in NS_PER_UNIT:
        raise ConfigError(f"{text!r} is not a duration; write it like 500ms, 60s, 2m or 1h")
    return round(float(found["number"]) * NS_PER_UNIT[unit])


@dataclass(frozen=True, slots=True)
class Slo:
    """A latency metric, a statistic of it (`p95`, `mean`, `max`), and the limit it must stay below."""

    metric: str
    statistic: str
    limit_ns: int
    text: str

    @property
    def quantile(self) -> float | None:
        """0.95 for p95; None for mean and max."""
        return float(self.statistic[1:]) / 100 if self.statistic.startswith("p") else None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Raises ConfigError for an unknown metric or statistic, or a limit that is no duration."""
        found = _SLO.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"{text!r} is not an objective; write it like ttft.p95<1s (statistics: p50, p95, p99, mean, max)"
            )
        if found["metric"] not in LATENCIES:
            raise ConfigError(f"{text!r} names no metric of Headroom's; the latencies are {', '.join(LATENCIES)}")
        return cls(found["metric"], found["statistic"], parse_duration_ns(found["limit"]), "".join(text.split()))
