"""What a run must keep, as users write it: `ttft.p95<1s`, `failed<1%`, `ttft{scenario=vision}.p95<2s`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from loadgen.errors import ConfigError

NS_PER_UNIT = {
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}
LONGEST_S = 20 * 365 * 24 * 3_600  # of any duration: in ns it must be far from the end of 64 bits
LATENCIES = ("ttft", "ttft_from_due", "ttfb", "itl", "tpot", "service_time", "response_time")
SHARES = ("goodput", "failed", "throttled", "dropped", "errors")
RATES = ("requests_per_s", "output_tokens_per_s")
COUNT, COST = "requests", "cost_per_1k_requests"
KNOWN = (*LATENCIES, *SHARES, *RATES, COUNT, COST)
FILTERS = ("scenario", "target")
STATISTICS = "p50, p95, p99, mean, max, min"
_THRESHOLD = re.compile(
    r"\s*(?P<metric>\w+)\s*(?:\{(?P<filter>[^{}]*)\})?\s*(?:\.\s*(?P<statistic>[\w.]+))?\s*"
    r"(?P<relation><=|>=|<|>)\s*(?P<limit>\S.*?)\s*",
    re.ASCII | re.DOTALL,
)
RELATIONS = {"<": lt, "<=": le, ">": gt, ">=": ge}
_STATISTIC = re.compile(r"p\d{1,2}(?:\.\d{1,3})?|mean|max|min", re.ASCII)
_DURATION = re.compile(r"\s*(?P<number>\d{1,15}(?:\.\d{1,15})?)\s*(?P<unit>[a-z]*)\s*", re.ASCII)
_LIMIT = re.compile(r"(?P<dollar>\$?)(?P<number>\d{1,15}(?:\.\d{1,15})?)\s*(?P<unit>[%/a-zA-Z]*)", re.ASCII)
_PER_UNIT = {  # by what a limit may be of, what its units come to
    "share": {"": 1.0, "%": 0.01},
    "rate": {"": 1.0, "/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600},
    "count": {"": 1.0},
    "usd": {"": 1.0, "usd": 1.0},
}
_LEAST_SHARE = 1e-6  # of a limit that is not 0, and of its distance from 1: no run has attempts enough for less
_LEAST_NS, _MOST_NS = NS_PER_UNIT["us"], 24 * NS_PER_UNIT["h"]
_EXAMPLES = {"share": "1% or 0.01", "rate": "5/s or 300/min", "count": "1000", "usd": "0.40usd"}


def parse_duration_ns(text: str) -> int:
    """`500ms`, `1.5s`, `2m`, `1h`; a bare number is seconds. Raises ConfigError."""
    found = _DURATION.fullmatch(text)
    unit = (found["unit"] or "s") if found else ""
    if found is None or unit not in NS_PER_UNIT:
        raise ConfigError(f"{text!r} is not a duration; write it like 500ms, 60s, 2m or 1h")
    duration_ns = round(float(found["number"]) * NS_PER_UNIT[unit])
    if duration_ns > LONGEST_S * NS_PER_UNIT["s"]:
        raise ConfigError(f"{text!r} is longer than 20 years, which no run lasts")
    return duration_ns


def quantile_of(statistic: str | None) -> float | None:
    """0.95 for p95; None for mean, max and min."""
    return float(statistic[1:]) / 100 if statistic is not None and statistic.startswith("p") else None


@dataclass(frozen=True, slots=True)
class Slo:
    """A latency metric, a statistic of it (`p95`, `mean`, `max`), and the limit it must stay below.

    It holds for the requests of one scenario or target where that is given.
    """

    metric: str
    statistic: str
    limit_ns: int
    text: str
    scenario: str | None = None
    target: str | None = None
    relation: str = "<"  # or "<="

    @property
    def quantile(self) -> float | None:
        return quantile_of(self.statistic)

    def keeps(self, value_ns: Any) -> Any:
        """Whether a value keeps the limit; of an array or a column, which of them do."""
        return RELATIONS[self.relation](value_ns, self.limit_ns)

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Raises ConfigError for an unknown metric or statistic, a limit that is no duration, and what no single
        request can keep."""
        slo = Threshold.parse(text).slo
        if slo is None:
            raise ConfigError(
                f"{text!r} is a threshold of a whole run, and no objective that each request keeps or misses: "
                f"`headroom check` judges it; the latencies are {', '.join(LATENCIES)}"
            )
        return slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A figure of a run, and the limit that it must keep."""

    text: str
    metric: str  # one of KNOWN
    statistic: str | None  # of a latency: p95, mean, max, min
    relation: str  # "<", "<=", ">" or ">="
    limit: float  # latency: ms; share: 0 to 1; rate: per second; cost: US dollars
    scenario: str | None = None
    target: str | None = None
    abort_on_fail: bool = False
    delay_s: float = 0.0

    @property
    def quantile(self) -> float | None:
        return quantile_of(self.statistic)

    @property
    def upper(self) -> bool:
        """Whether the figure must stay below the limit."""
        return self.relation.startswith("<")

    def keeps(self, measured: float) -> bool:
        return bool(RELATIONS[self.relation](measured, self.limit))

    @property
    def slo(self) -> Slo | None:
        """The objective that each request can keep or miss; None for what only a whole run has, and for the least."""
        if self.metric not in LATENCIES or self.statistic is None or self.statistic == "min":
            return None
        limit_ns = round(self.limit * NS_PER_UNIT["ms"])
        return Slo(self.metric, self.statistic, limit_ns, self.text, self.scenario, self.target, self.relation)

    @classmethod
    def parse(cls, text: str, *, abort_on_fail: bool = False, delay_s: float = 0.0) -> Threshold:
        """Raises ConfigError naming what is not known, and what is."""
        found = _THRESHOLD.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"{text!r} is not an objective or threshold; write it like ttft.p95<1s, goodput>0.95 or failed<1%"
            )
        metric, statistic, relation = found["metric"], found["statistic"], found["relation"]
        if metric not in KNOWN:
            near = difflib.get_close_matches(metric, KNOWN, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KNOWN)}"
            raise ConfigError(f"{text!r} names no metric of Headroom's; {hint}")
        _check_statistic(text, metric, statistic, relation)
        scenario, target = _filter(text, found["filter"])
        return cls(
            text=_written(metric, scenario, target, statistic) + relation + "".join(found["limit"].split()),
            metric=metric,
            statistic=statistic,
            relation=relation,
            limit=_limit(text, metric, found["limit"], relation),
            scenario=scenario,
            target=target,
            abort_on_fail=abort_on_fail,
            delay_s=delay_s,
        )


def _written(metric: str, scenario: str | None, target: str | None, statistic: str | None) -> str:
    """One form of what may be written in several."""
    filters = [f"{name}={value}" for name, value in zip(FILTERS, (scenario, target), strict=True) if value is not None]
    return metric + (f"{{{','.join(filters)}}}" if filters else "") + (f".{statistic}" if statistic else "")


def _check_statistic(text: str, metric: str, statistic: str | None, relation: str) -> None:
    if metric not in LATENCIES:
        if statistic is not None:
            raise ConfigError(
                f"in {text!r}, {metric} is one figure and has no {statistic}; write it like {metric}<LIMIT"
            )
        return
    if statistic is None:
        raise ConfigError(f"{text!r} is not an objective: it names no statistic, like {metric}.p95 ({STATISTICS})")
    if not _STATISTIC.fullmatch(statistic) or (statistic[0] == "p" and float(statistic[1:]) == 0):
        raise ConfigError(
            f"in {text!r}, {statistic!r} is no statistic of {metric}; known are {STATISTICS} (any pN up to p99.999)"
        )
    if relation.startswith(">"):
        raise ConfigError(f"in {text!r}, a latency has an upper limit; write {metric}.{statistic}<LIMIT")


def _filter(text: str, given: str | None) -> tuple[str | None, str | None]:
    """The scenario and the target of `scenario=vision,target=east`."""
    found: dict[str, str] = {}
    for pair in () if given is None else given.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name not in FILTERS or not equals or not value or name in found:
            raise ConfigError(
                f"in {text!r}, {pair.strip()!r} is no filter; write {{scenario=NAME}}, {{target=NAME}} or both"
            )
        found[name] = value
    return found.get("scenario"), found.get("target")


def _limit(text: str, metric: str, written: str, relation: str) -> float:
    if metric in LATENCIES:
        return _latency_ms(text, written)
    kind = "share" if metric in SHARES else "rate" if metric in RATES else "usd" if metric == COST else "count"
    found = _LIMIT.fullmatch(written)
    units = _PER_UNIT[kind]
    if found is None or found["unit"].lower() not in units or (found["dollar"] and kind != "usd"):
        raise ConfigError(f"in {text!r}, {written!r} is no limit of {metric}; write it like {_EXAMPLES[kind]}")
    limit = float(found["number"]) * units[found["unit"].lower()]
    if kind == "share":
        _check_share(text, found["number"], limit, relation, bare=not found["unit"])
    if kind == "count" and limit != int(limit):
        raise ConfigError(f"in {text!r}, {written!r} is no whole number")
    if limit == 0 and relation in ("<", ">="):
        raise _pointless(text, relation)
    return limit


def _latency_ms(text: str, written: str) -> float:
    if re.fullmatch(r"[\d.]+", written, re.ASCII):
        raise ConfigError(f"in {text!r}, {written} has no unit; is {written}ms or {written}s meant?")
    limit_ns = parse_duration_ns(written)
    if not _LEAST_NS <= limit_ns <= _MOST_NS:
        raise ConfigError(f"in {text!r}, {written} is no limit of a latency; it lies between 1us and 24h")
    return limit_ns / NS_PER_UNIT["ms"]


def _check_share(text: str, number: str, limit: float, relation: str, *, bare: bool) -> None:
    if limit > 1 or (bare and limit == 1 and relation in ("<", "<=")):
        raise ConfigError(f"in {text!r}, a share lies between 0 and 1; is {number}% meant?")
    if limit == 1 and relation in (">", "<="):
        raise _pointless(text, relation)
    if 0 < limit < _LEAST_SHARE or 0 < 1 - limit < _LEAST_SHARE:
        raise ConfigError(f"in {text!r}, the limit takes more attempts than a run has; write 0%, 100% or one between")


def _pointless(text: str, relation: str) -> ConfigError:
    """Of a limit at the end of what a figure can be."""
    if relation in ("<", ">"):
        return ConfigError(f"{text!r} can never be kept; write {relation}= for the limit itself")
    return ConfigError(f"{text!r} is always kept; is {relation[0]} meant?")


def check_thresholds(thresholds: Collection[Threshold], scenarios: Collection[str], targets: Collection[str]) -> None:
    """Each filter names what there is, and goodput has objectives. Raises ConfigError."""
    for threshold in thresholds:
        for name, value, known in (
            ("scenario", threshold.scenario, scenarios),
            ("target", threshold.target, targets),
        ):
            if value is not None and value not in known:
                there = f"there are {', '.join(known)}" if known else "the only one has no name"
                raise ConfigError(f"in {threshold.text!r}, {name} {value!r} is not part of this run; {there}")
        if threshold.metric == "goodput" and not any(each.slo is not None for each in thresholds):
            raise ConfigError(
                f"{threshold.text!r} needs an objective that says which answers are good: add one like ttft.p95<1s"
            )
        if threshold.abort_on_fail and not threshold.upper and threshold.metric == COUNT:
            raise ConfigError(f"{threshold.text!r} cannot end a run early: any run begins with too few")


def check_once(thresholds: Collection[Threshold]) -> None:
    """Raises ConfigError for one that is there twice."""
    texts = [threshold.text for threshold in thresholds]
    for text in texts:
        if texts.count(text) > 1:
            raise ConfigError(f"{text!r} is given twice; leave one of them out")
