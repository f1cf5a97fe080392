"""What planning the costs of a demand comes to: plain values. Money is US dollars, shares run from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass

from planner.costs.following import Reservation
from planner.costs.growth import LimitReached, WeekProfile
from planner.costs.uncertainty import Driver, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    name: str
    per_month_usd: float  # as planned; 730 h
    low_usd: float | None  # of 100 draws 90 lie between low and high; None: the number of instances is a guess
    high_usd: float | None
    per_hour_usd: float
    per_1m_tokens_usd: float | None  # None: nobody asks for any
    per_request_usd: float | None
    instances: float  # billed, on average
    probability_cheaper: float | None  # than serverless; None of serverless, and where that has no price
    what_must_be_true: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Where serverless costs what one instance does, at the demand's mix of tokens."""

    tokens_per_hour: float
    tokens_per_hour_range: Range  # by the range of the prices
    requests_per_s: float
    served_per_s: float | None  # what one instance serves: beyond it, no volume reaches the break-even; a guess where
    # utilisation is None
    utilisation: float | None  # of what an instance serves within the objectives; None: that is not known
    utilisation_range: Range | None
    managed_can_win: bool | None  # utilisation <= 1
    output_share: float | None  # of the demand's volume, at which it would cost what one instance does

    @property
    def out_of_reach(self) -> bool:
        """More than an instance serves: managed never wins."""
        return self.served_per_s is not None and self.requests_per_s > self.served_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    idle_instance_hours: float | None  # a month, of instances around the clock that do nothing
    idle_share: float | None  # of their hours
    idle_usd: float | None  # a month
    unused_tokens_share: float | None  # of the deployments' tokens per minute, on average
    unused_requests_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid:
    instances: int  # that pay for themselves; 0: none does
    usd_per_hour: float  # what each costs
    worth_usd_per_hour: tuple[float, ...]  # what the 1st, 2nd, ... saves of serverless tokens, to the first too many
    managed_share: float  # of the requests that the base serves


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    model: str | None
    sku: str | None
    region: str | None  # whose price of an instance is taken
    options: tuple[Option, ...]  # the cheapest first
    break_even: BreakEven | None
    waste: Waste
    hybrid: Hybrid | None  # None: a price or the capacity is not known
    reservations: tuple[Reservation, ...]
    growth: tuple[LimitReached, ...]  # empty without growth
    profile: WeekProfile | None  # None: not identified below two weeks
    sensitivity: tuple[Driver, ...]  # of what the cheapest managed way costs more than serverless, a month
    probability_managed_cheaper: float | None  # the cheapest managed way as planned, than serverless
    assumptions: tuple[str, ...]
    doubts: tuple[str, ...]
