"""What is to be seen in a figure, with the planner's numbers, in a sentence for who cannot see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from dashboards.figure_parts import ALL
from dashboards.text import count, digits, metric_name, percent, readable, usd, whole
from planner.cost_curve import CostCurve
from planner.costs.cost_results import Option
from planner.costs.growth import LimitReached
from planner.load_curve import LoadCurve
from planner.plan import LatencyRow, ManagedCost, Plan, QuotaUse, ServerlessCost, Traffic


def headroom(quota: QuotaUse) -> str:
    whose = "" if quota.target is None else f" of {readable(quota.target)}"
    return f"{quota.binds}{whose} reach the limit at {digits(quota.headroom)} times this load"


def share_of_limits(plan: Plan) -> str:
    """For a title."""
    if plan.quota is None or not plan.validity.valid:
        return "Demand of the minute before, share of each limit"
    if plan.quota.target is not None:
        return "Demand of the minute before, share of what all targets admit together"
    return f"Share of each limit: {headroom(plan.quota)}"


def busiest(quota: QuotaUse) -> str:
    return (
        f"In the busiest minute tokens take {percent(quota.tokens_share)} of {count(quota.tokens_per_minute)} and "
        f"requests {percent(quota.requests_share)} of {count(quota.requests_per_minute)}: {headroom(quota)}."
    )


def growth(rows: Iterable[LimitReached]) -> str:
    said = [f"{row.limit}: {_when(row)}" for row in rows]
    return f"{'; '.join(said)}."


def _when(row: LimitReached) -> str:
    if row.months is None:
        return "not reached"
    return "reached already" if row.months == 0 else f"reached in month {row.months}"


def latency(plan: Plan, metric: str) -> str:
    row = next((each for each in plan.latency if (each.metric, each.scenario) == (metric, ALL)), None)
    return _latency(metric_name(metric), row)


def _latency(name: str, row: LatencyRow | None) -> str:
    if row is None or row.n == 0:
        return f"{name}: nothing was measured in the steady phase."
    known = [("p50", row.p50.value_ms), ("p95", row.p95.value_ms), ("p99", row.p99.value_ms), ("longest", row.max_ms)]
    said = ", ".join(f"{word} {digits(value)} ms" for word, value in known if value is not None)
    return f"{name} in the steady phase: {said}, n = {count(row.n)}."


def latency_by_target(plan: Plan, metric: str) -> str:
    return " ".join(
        _latency(f"{metric_name(metric)} of {readable(target.name)}", row)
        for target in plan.targets
        for row in target.latency
        if (row.metric, row.scenario) == (metric, ALL)
    )


def load_by_target(plan: Plan) -> str:
    said = (f"{readable(each.name)} {whole(each.traffic.peak_tokens_per_minute)}" for each in plan.targets)
    return f"Tokens in the busiest minute: {', '.join(said)}."


def troubles(plan: Plan) -> str:
    counted = {name.replace("_", " "): n for name, n in plan.traffic.outcomes.items() if n}
    said = ", ".join(f"{count(n)} {name}" for name, n in counted.items())
    return f"Attempts and drops of the whole run: {said or 'none'}."


def level(what: str, most: float, limit: int | None) -> str:
    against = "" if limit is None else f", of a limit of {count(limit)}"
    return f"{whole(most)} {what} came due in the steady phase's busiest minute{against}."


def in_flight(traffic: Traffic) -> str:
    return (
        f"In the steady phase {digits(traffic.mean_in_flight)} requests were in flight on average, and "
        f"{count(traffic.peak_in_flight)} at most."
    )


def lengths(frame: pl.DataFrame) -> str:
    """Of the fullest cell: prompt_low, prompt_high, completion_low, completion_high, n."""
    fullest = frame.sort("n", descending=True).row(0, named=True)
    return (
        f"Most answers, {count(fullest['n'])}, had {fullest['prompt_low']} to below {fullest['prompt_high']} prompt "
        f"tokens and {fullest['completion_low']} to below {fullest['completion_high']} completion tokens."
    )


def curve(found: LoadCurve, metric: str) -> str:
    points = found.measured.filter(pl.col("metric") == metric).sort("rate_per_s")
    first, last = points.row(0, named=True), points.row(-1, named=True)
    said = (
        f"{metric_name(metric)}: {first['statistic']} {digits(first['value_ms'])} ms at {digits(first['rate_per_s'])} "
        f"requests/s, {last['statistic']} {digits(last['value_ms'])} ms at {digits(last['rate_per_s'])}"
    )
    limits = [readable(text) for _, text, _ in found.limits_ms]
    asked = f"; objectives: {', '.join(limits)}" if limits else ""
    modelled = metric in set(found.modelled["metric"])
    return f"{said}{asked}{f'; the fitted model is {found.form}' if modelled else ''}."


def options(found: Sequence[Option]) -> str:
    return f"A month costs: {'; '.join(map(_option, found))}."


def _option(each: Option) -> str:
    within = "" if each.low_usd is None else f" ({usd(each.low_usd)} to {usd(each.high_usd)})"
    return f"{each.name} {usd(each.per_month_usd)}{within}"


def costs(serverless: ServerlessCost | None, managed: Iterable[ManagedCost]) -> str:
    said = [] if serverless is None else [f"serverless {usd(serverless.per_month_usd)}"]
    said += [f"{each.instances} of {readable(each.sku)} {usd(each.per_month_usd)}" for each in managed]
    return f"A month costs: {'; '.join(said)}."


def break_even(found: CostCurve) -> str:
    even = (
        "an instance serves too little to cost less than serverless at any load"
        f"{', as far as the guess of what it serves holds' if found.assumed else ''}"
        if found.break_even_per_s is None
        else f"one instance costs what serverless does at {digits(found.break_even_per_s)} requests/s"
    )
    return (
        f"At this demand of {digits(found.demand_per_s)} requests/s a month costs "
        f"{usd(found.serverless_usd(found.demand_per_s))} serverless and {usd(found.managed_usd(found.demand_per_s))} "
        f"on {count(found.instances(found.demand_per_s))} instances; {even}."
    )
