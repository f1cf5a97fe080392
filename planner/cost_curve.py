"""What a steady rate costs serverless, and managed by as many instances as it takes: the picture of a break-even."""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from planner.cost import HOURS_PER_MONTH, S_PER_HOUR
from planner.costs.options import AROUND_THE_CLOCK, SERVERLESS
from planner.plan import Plan

BEYOND = 1.6  # times the demand, the break-even and what one instance serves
MOST_STEPS = 200
COLUMNS = {"way": pl.String, "rate_per_s": pl.Float64, "instances": pl.Int64, "usd_per_month": pl.Float64}


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCurve:
    """Money is US dollars a month of 730 h. Serverless costs rise with the rate, managed ones by the instance."""

    demand_per_s: float  # the planned demand, on average
    usd_per_request: float  # serverless
    instance_usd: float  # per month
    served_per_s: float  # by one instance within the objectives; the low end, by which instances are counted
    assumed: bool  # nobody measured what an instance serves
    break_even_per_s: float | None  # the lowest rate at which both cost the same; None: an instance cannot serve it

    @property
    def highest_per_s(self) -> float:
        """Up to where it is worth drawing."""
        return BEYOND * max(self.demand_per_s, self.served_per_s, self.break_even_per_s or 0.0)

    def serverless_usd(self, rate_per_s: float) -> float:
        return self.usd_per_request * rate_per_s * S_PER_HOUR * HOURS_PER_MONTH

    def managed_usd(self, rate_per_s: float) -> float:
        return self.instances(rate_per_s) * self.instance_usd

    def instances(self, rate_per_s: float) -> int:
        return max(1, math.ceil(rate_per_s / self.served_per_s - 1e-9))


def cost_curve(plan: Plan) -> CostCurve | None:
    """None where either way has no price, or nothing at all is known of what an instance serves."""
    serverless, usd_per_hour, served = _serverless(plan), _instance_usd_per_hour(plan), _served_per_s(plan)
    if serverless is None or usd_per_hour is None or served is None or not served[0]:
        return None
    (demand_per_s, usd_per_request), (served_per_s, assumed) = serverless, served
    if not usd_per_request:
        return None
    even_per_s = usd_per_hour / S_PER_HOUR / usd_per_request
    return CostCurve(
        demand_per_s=demand_per_s,
        usd_per_request=usd_per_request,
        instance_usd=usd_per_hour * HOURS_PER_MONTH,
        served_per_s=served_per_s,
        assumed=assumed,
        break_even_per_s=even_per_s if even_per_s <= served_per_s else None,
    )


def cost_by_rate(curve: CostCurve) -> pl.DataFrame:
    """Both ways over the rate. Columns COLUMNS; a managed row is where the k-th instance begins to be needed."""
    top = curve.highest_per_s
    every = max(1, math.ceil(top / curve.served_per_s / MOST_STEPS))
    starts = [number * curve.served_per_s for number in range(0, curve.instances(top), every)]
    managed = [
        ("managed", start, 1 + number * every, (1 + number * every) * curve.instance_usd)
        for number, start in enumerate(starts)
    ]
    managed.append(("managed", top, curve.instances(top), curve.managed_usd(top)))
    serverless = [("serverless", rate, 0, curve.serverless_usd(rate)) for rate in (0.0, top)]
    return pl.DataFrame([*serverless, *managed], schema=COLUMNS, orient="row")


def _serverless(plan: Plan) -> tuple[float, float] | None:
    """Mean requests a second, and US dollars of one."""
    costs = None if plan.ahead is None else plan.ahead.costs
    for option in () if costs is None else costs.options:
        if option.name == SERVERLESS and option.per_request_usd:
            return option.per_hour_usd / S_PER_HOUR / option.per_request_usd, option.per_request_usd
    if plan.serverless is None or not plan.serverless.per_request_usd:
        return None
    each = plan.serverless
    return each.per_hour_usd / S_PER_HOUR / each.per_request_usd, each.per_request_usd


def _instance_usd_per_hour(plan: Plan) -> float | None:
    costs = None if plan.ahead is None else plan.ahead.costs
    for option in () if costs is None else costs.options:
        if option.name == AROUND_THE_CLOCK and option.instances:
            return option.per_hour_usd / option.instances
    return plan.managed[0].usd_per_hour if plan.managed else None


def _served_per_s(plan: Plan) -> tuple[float, bool] | None:
    """By one instance, and whether that is a guess: measured, else by Little's law from what it holds at once."""
    if plan.ahead is not None and plan.ahead.capacity is not None:
        return plan.ahead.capacity.low, False
    each = plan.instances
    if each is None or not each.time_in_system_s:
        return None
    return each.concurrency_per_instance / each.time_in_system_s, each.assumed
