"""What one instance does with the requests of a demand: its rate at the objectives, and what a request takes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loadgen.errors import CapacityError, ConfigError, HeadroomError
from loadgen.slo import Slo
from planner.capacity import Interval
from planner.demand import Demand
from planner.fleets.sharing import MOST_RUNNING, Floats, ServiceCurve, Timing, Work
from planner.fleets.simulated_rate import simulated_rate

P95 = 0.95
MORE = 1.1  # times the rate: where the curve alone gives as much, something else was measured to bind


class Figure(Protocol):
    """A figure with its 90 % interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class HighestRate(Protocol):
    @property
    def rate_per_s(self) -> Figure: ...
    @property
    def binds(self) -> str: ...


class Outlook(Protocol):
    @property
    def itl_mean_ms(self) -> Figure: ...
    @property
    def itl_p95_ms(self) -> Figure | None: ...


class Serving(Timing, Protocol):
    """A calibrated serving model of one instance: planner.capacity.ServingModel."""

    def predict(
        self, rate_per_s: float, prompt_tokens: float | None = None, completion_tokens: float | None = None
    ) -> Outlook: ...
    def max_rate(
        self, slo: Sequence[Slo], prompt_tokens: float | None = None, completion_tokens: float | None = None
    ) -> HighestRate: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OneInstance:
    model: Serving
    slos: tuple[Slo, ...]
    mean_prompt_tokens: float
    mean_completion_tokens: float
    prompt_slope_s: float  # until the first token, for each prompt token above the mean
    cap: int | None  # requests that it runs at once
    rate: Interval  # requests a second that keep the objectives
    binds: str  # what limits that rate
    concurrency: float  # in flight at that rate
    curve_holds: bool  # whether the curve with its places gives that rate by itself: then it tells of many instances
    gap_spread: float  # the statistic of itl that the objectives name, over its mean

    def curve(self, *, slower: float = 1.0) -> ServiceCurve:
        shape = self.mean_prompt_tokens, self.mean_completion_tokens
        return ServiceCurve(self.model, *shape, cap=self.cap, prompt_slope_s=self.prompt_slope_s, slower=slower)

    def slow_curve(self) -> ServiceCurve:
        """As slow as the lower end of the rate's interval is below its middle."""
        return self.curve(slower=self.rate.value / self.rate.low)

    def work(self, demand: Demand, *, seed: int) -> Work:
        at_s, prompt, completion = (_column(demand, name) for name in ("at_s", "prompt_tokens", "completion_tokens"))
        return Work.of(at_s, prompt, completion, self.mean_prompt_tokens, seed=seed)

    def weights(self, demand: Demand) -> Floats:
        """Each request's share of the instance, 1 in the mean: its time in the system at the objectives' load."""
        curve, n = self.curve(), max(1, round(self.concurrency))
        curve.reach(n)
        prompt, completion = _column(demand, "prompt_tokens"), _column(demand, "completion_tokens")
        extra_s = curve.prompt_slope_s * (prompt - self.mean_prompt_tokens)
        service_s = np.maximum(curve.ttft_s[n] + extra_s + np.maximum(completion - 1, 0) * curve.itl_s[n], 0.0)
        mean_s = float(service_s.mean())
        weights: Floats = service_s / mean_s if mean_s > 0 else np.ones(len(service_s))
        return weights


def one_instance(
    demand: Demand,
    model: Serving,
    slos: Sequence[Slo],
    *,
    max_concurrency: int | None = None,
    measured_rate_per_s: float | None = None,
    missed_at_per_s: float | None = None,
) -> OneInstance:
    """The rate is the model's, and no more than keeps the objectives when simulated with this demand's own lengths.

    The interval's lower end is no lower than what was measured to keep them (`measured_rate_per_s`), and all of it no
    higher than what was measured to miss them (`missed_at_per_s`). Raises CapacityError where no rate keeps the
    objectives, and what the model raises where it cannot say.
    """
    shape = demand.mean_tokens("prompt_tokens"), demand.mean_tokens("completion_tokens")
    found = model.max_rate(slos, *shape)
    caps = [cap for cap in (max_concurrency, model.concurrency_cap) if cap is not None]
    slope_s, cap, rate = _prompt_slope_s(model, *shape), min(caps, default=None), found.rate_per_s
    curve = ServiceCurve(model, *shape, cap=cap, prompt_slope_s=slope_s)
    spread = _gap_spread(model, slos, rate.value, shape)
    by_curve, most = 0.0, MORE * rate.value
    if rate.low > 0:
        lengths = _column(demand, "prompt_tokens"), _column(demand, "completion_tokens")
        by_curve = simulated_rate(curve, slos, lengths, most_per_s=most, gap_spread=spread)
    if by_curve == 0:
        raise CapacityError(
            f"no rate above zero surely keeps {', '.join(slo.text for slo in slos)} at one instance ({found.binds}), "
            "so no number of instances does; relax the objectives or measure a faster deployment"
        )
    share = min(1.0, by_curve / rate.value)
    kept = _between(rate, share, measured_rate_per_s or 0.0, missed_at_per_s or math.inf)
    return OneInstance(
        model=model,
        slos=tuple(slos),
        mean_prompt_tokens=shape[0],
        mean_completion_tokens=shape[1],
        prompt_slope_s=slope_s,
        cap=cap,
        rate=kept,
        binds=found.binds if share == 1 else f"{found.binds}, by arrivals that come at once",
        concurrency=_concurrency(curve, kept.value),
        curve_holds=cap is not None and by_curve < MORE * kept.value,
        gap_spread=spread,
    )


def _between(rate: Figure, share: float, met_per_s: float, missed_per_s: float) -> Interval:
    """The rate after what the simulation took of it, between what was measured to keep the objectives and to miss."""
    value, low, high = (share * each for each in (rate.value, rate.low, rate.high))
    if value >= missed_per_s:
        value = math.sqrt(met_per_s * missed_per_s) if 0 < met_per_s < missed_per_s else missed_per_s
        low = min(low, value)
    return Interval(value=value, low=max(low, min(value, met_per_s)), high=max(value, min(high, missed_per_s)))


def objectives(slos: Sequence[Slo | str]) -> tuple[Slo, ...]:
    """Raises ConfigError for none, and for what is no objective."""
    if not slos:
        raise ConfigError("instances are planned for an objective: state one, such as ttft.p95<1s")
    return tuple(Slo.parse(slo) if isinstance(slo, str) else slo for slo in slos)


def _column(demand: Demand, name: str) -> Floats:
    values: Floats = demand.arrivals[name].to_numpy().astype(np.float64)
    return values


def _prompt_slope_s(model: Serving, prompt_tokens: float, completion_tokens: float) -> float:
    """0 where the model knows one shape only."""
    more = 0.1 * prompt_tokens + 1
    try:
        longer_ms = model.ttft_ms(1, prompt_tokens + more, completion_tokens)
        return max(0.0, longer_ms - model.ttft_ms(1, prompt_tokens, completion_tokens)) / 1e3 / more
    except HeadroomError:
        return 0.0


def _gap_spread(model: Serving, slos: Sequence[Slo], rate_per_s: float, shape: tuple[float, float]) -> float:
    if not any(slo.metric == "itl" and slo.quantile == P95 for slo in slos):
        return 1.0
    outlook = model.predict(rate_per_s, *shape)
    return 1.0 if outlook.itl_p95_ms is None else outlook.itl_p95_ms.value / outlook.itl_mean_ms.value


def _concurrency(curve: ServiceCurve, rate_per_s: float) -> float:
    """In flight at one instance under that rate, by Little's law: the smallest n = rate x service time at n."""
    n, most = 0.0, min(MOST_RUNNING, curve.cap)
    for _ in range(1_000):
        after = min(most, rate_per_s * curve.service_s(n))
        if abs(after - n) <= 1e-6 * max(1.0, n):
            return after
        n = after
    return n
