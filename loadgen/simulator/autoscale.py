"""When a deployment gets more or fewer instances: rules after those of Azure Monitor, with time as an argument.

Each grain (a minute) gives one average of each metric; a rule compares the average of the grains of its window (five
minutes) with its threshold. As documented for Azure: any scale-out rule that fires is enough and the largest change
wins; instances are taken away only where every scale-in rule fires, and then as few as any of them says; a rule that
fires acts only when its cooldown has passed since the deployment was last scaled; the profile's bounds hold always.

Not documented, and decided here: nothing is decided before the first window is full; a metric without a value in the
whole window (the latency of no requests) fires no rule; a scale-out rule that fires in its cooldown still keeps
instances from being taken away.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadgen.errors import ConfigError
from loadgen.simulator.units import NEVER_NS, NS_PER_S

GRAIN_S = 60.0
WINDOW_S = 300.0
_RULE = re.compile(r"(\w+)\s*([<>])\s*([0-9.]+)\s*:\s*([+-]\d+)(?:\s*/\s*([0-9.]+)\s*s)?")


class Metric(StrEnum):
    """What a rule looks at. The first and the last are levels: their averages are over time."""

    UTILIZATION_PERCENT = "utilization_percent"  # running / places of the ready instances
    REQUEST_LATENCY_MS = "request_latency_ms"  # mean over the requests that ended, from their arrival
    REQUESTS_PER_MINUTE = "requests_per_minute"  # that arrived, refused ones too
    PENDING = "pending"  # requests in flight, running or queued


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRule:
    """Where `metric operator threshold` holds, `change` instances more or fewer. Raises ValueError."""

    metric: Metric
    operator: str  # > or <
    threshold: float
    change: int
    cooldown_s: float = 300.0

    def __post_init__(self) -> None:
        if self.operator not in (">", "<"):
            raise ValueError(f"operator must be > or <, not {self.operator}")
        if self.change == 0:
            raise ValueError("change must be above or below zero, not 0")
        for name in ("threshold", "cooldown_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be zero or above, not {getattr(self, name)}")

    def fires(self, value: float | None) -> bool:
        if value is None:
            return False
        return value > self.threshold if self.operator == ">" else value < self.threshold

    def __str__(self) -> str:
        return f"{self.metric}{self.operator}{self.threshold:g}:{self.change:+d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleEvent:
    """One change of the number of instances."""

    at_ns: int
    before: int
    after: int
    why: str


def parse_rule(text: str) -> ScaleRule:
    """`utilization_percent>70:+1`, or with a cooldown of its own `utilization_percent<30:-1/600s`.

    Raises ConfigError.
    """
    form = "write it as METRIC>NUMBER:+N or METRIC<NUMBER:-N, with /SECONDSs behind it for another cooldown"
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"scale rule {text!r}: {form}")
    name, operator, threshold, change, cooldown = match.groups()
    if (operator == ">") != change.startswith("+"):
        raise ConfigError(f"scale rule {text!r} would make what it sees worse: {form}")
    if name not in list(Metric):
        raise ConfigError(f"scale rule {text!r}: there is no metric {name}; there are {', '.join(Metric)}")
    try:
        given = {} if cooldown is None else {"cooldown_s": float(cooldown)}
        return ScaleRule(
            metric=Metric(name), operator=operator, threshold=float(threshold), change=int(change), **given
        )
    except ValueError as error:
        raise ConfigError(f"scale rule {text!r}: {error}; {form}") from None


class Autoscaler:
    """Remembers the grains of one window and the last action of one deployment."""

    def __init__(
        self, rules: Sequence[ScaleRule], *, min_instances: int, max_instances: int, window_grains: int = 5
    ) -> None:
        self._rules = tuple(rules)
        self._bounds = (min_instances, max_instances)
        self._window_grains = window_grains
        self._grains: deque[Mapping[Metric, float | None]] = deque(maxlen=window_grains)
        self._scaled_ns = -NEVER_NS

    def decide(self, now_ns: int, instances: int, grain: Mapping[Metric, float | None]) -> ScaleEvent | None:
        """Take in the averages of the grain that ends now; what to do about `instances` (those that stay)."""
        self._grains.append(grain)
        if len(self._grains) < self._window_grains:
            return None
        averages = {rule.metric: self._average(rule.metric) for rule in self._rules}
        rule = self._acting(now_ns, averages)
        if rule is None:
            return None
        least, most = self._bounds
        after = max(least, min(most, instances + rule.change))
        if after == instances or (after > instances) != (rule.change > 0):
            return None
        self._scaled_ns = now_ns
        why = f"{rule.metric} was {averages[rule.metric]:.4g} over the window ({rule})"
        return ScaleEvent(at_ns=now_ns, before=instances, after=after, why=why)

    def _average(self, metric: Metric) -> float | None:
        values = [value for grain in self._grains if (value := grain[metric]) is not None]
        return sum(values) / len(values) if values else None

    def _acting(self, now_ns: int, averages: Mapping[Metric, float | None]) -> ScaleRule | None:
        """The rule that decides, if any does."""
        outs = [rule for rule in self._rules if rule.change > 0]
        ins = [rule for rule in self._rules if rule.change < 0]
        if firing := [rule for rule in outs if rule.fires(averages[rule.metric])]:
            ready = [rule for rule in firing if self._cooled_down(now_ns, rule)]
            return max(ready, key=lambda rule: rule.change, default=None)
        if all(rule.fires(averages[rule.metric]) for rule in ins):
            least = max(ins, key=lambda rule: rule.change, default=None)
            return least if least is not None and self._cooled_down(now_ns, least) else None
        return None

    def _cooled_down(self, now_ns: int, rule: ScaleRule) -> bool:
        return now_ns - self._scaled_ns >= round(rule.cooldown_s * NS_PER_S)


class Meter:
    """What happened in the grain that runs. Levels come in as integrals: value x ns."""

    def __init__(self, now_ns: int = 0) -> None:
        self.arrived = 0
        self.busy_ns = 0  # places taken x ns, of ready instances
        self.places_ns = 0  # places there were x ns
        self._ended = 0
        self._latency_ns = 0
        self._in_flight = 0
        self._in_flight_ns = 0  # its integral up to now_ns is this + _in_flight * now_ns
        self._pending_before_ns = 0
        self._since_ns = now_ns

    def begin(self, now_ns: int) -> None:
        """A request was admitted."""
        self._in_flight += 1
        self._in_flight_ns -= now_ns

    def end(self, arrived_ns: int, done_ns: int) -> None:
        """It was answered, or nobody waits for it any more."""
        self._in_flight -= 1
        self._in_flight_ns += done_ns
        self._ended += 1
        self._latency_ns += done_ns - arrived_ns

    def close_grain(self, now_ns: int) -> dict[Metric, float | None]:
        """The averages since the last call, and begin anew."""
        grain_ns = now_ns - self._since_ns
        pending_ns = self._in_flight_ns + self._in_flight * now_ns
        averages: dict[Metric, float | None] = {
            Metric.UTILIZATION_PERCENT: 100 * self.busy_ns / self.places_ns if self.places_ns else None,
            Metric.REQUEST_LATENCY_MS: self._latency_ns / self._ended / 1e6 if self._ended else None,
            Metric.REQUESTS_PER_MINUTE: self.arrived * 60 * NS_PER_S / grain_ns,
            Metric.PENDING: (pending_ns - self._pending_before_ns) / grain_ns,
        }
        self._pending_before_ns, self._since_ns = pending_ns, now_ns
        self.arrived = self.busy_ns = self.places_ns = self._ended = self._latency_ns = 0
        return averages
