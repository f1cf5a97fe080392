"""How much slower is too slow: `ttft.p95:+10%`, or of some requests `response_time{scenario=chat}.p95:+10%`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from loadgen.errors import ConfigError
from loadgen.slo import LATENCIES

_TEXT = re.compile(
    r"\s*(?P<metric>\w+)\s*(?:\{\s*(?P<key>\w+)\s*=(?P<value>[^{}]+)\})?"
    r"\.p(?P<percentile>\d{1,2}(?:\.\d+)?)\s*:\s*\+(?P<more>\d+(?:\.\d+)?)\s*%\s*"
)
_WIDEST_PERCENT = 1_000
NO_STREAM = "stream=no"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """A percentile of a latency, and the slowdown of it that a comparison must not miss."""

    metric: str
    percentile: float
    share: float  # 0.10 for +10 %
    of: str = ""  # which requests: all that have the latency, scenario=NAME, or stream=no

    @property
    def name(self) -> str:
        return f"{self.metric}{self.of and '{' + self.of + '}'}.p{self.percentile:g}"

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
        return cls(metric=found["metric"], percentile=percentile, share=percent / 100, of=_filter(text, found))


def _filter(text: str, found: re.Match[str]) -> str:
    if found["key"] is None:
        return ""
    value = found["value"].strip()
    if not (found["key"] == "scenario" and value) and (found["key"], value) != ("stream", "no"):
        raise ConfigError(f"--fail-on: {text!r}: requests are chosen by {{scenario=NAME}} or {{{NO_STREAM}}}")
    return f"{found['key']}={value}"


# The two that say most of a stream and have no length in them; what the answers' length does to the rest is not speed.
DEFAULT = tuple(Tolerance.parse(text) for text in ("ttft.p50:+10%", "ttft.p95:+15%", "tpot.p50:+10%", "tpot.p95:+15%"))
PLAIN = tuple(Tolerance.parse(text) for text in ("response_time.p50:+10%", "response_time.p95:+15%"))
PLAIN_BESIDE = tuple(replace(each, of=NO_STREAM) for each in PLAIN)  # streams: what of a mix does not stream
