"""What a plan of costs takes for granted, what there is to doubt about it, and its formulas by name."""

from __future__ import annotations

from collections.abc import Mapping

from planner.cost import HOURS_PER_MONTH, blended_usd_per_1k
from planner.costs.cost_case import Case
from planner.costs.demand_path import unsaid_by
from planner.prices import Sku

FORMULAS: Mapping[str, str] = {
    "serverless": "month = 730 h x mean over the hours of (prompt tokens x price in + completion tokens x price out)",
    "managed": "month = 730 h x instances x price an hour; instances = ceil(busiest minute / lower capacity) + spare",
    "autoscaled": "month = 730 h x mean billed instances x price an hour: use, hold for the time of a boot, and boots",
    "off hours": "managed x hours on / 168, a boot a start, and serverless for what comes in the hours off",
    "hybrid": "keep the k-th instance iff the tokens it serves in an hour would cost more, serverless, than the hour",
    "reservation": "reserve the k-th instance iff its share of the hours exceeds reserved price / price an hour",
    "break-even volume": "V = price an hour / blended price of a token",
    "break-even utilisation": "u = V / (3600 x capacity x tokens a request), capacity within the objectives",
    "growth": "months = ln(limit / now) / ln(1 + growth a month), rounded up",
    "probability": "share of draws in which the cheapest managed way costs less than serverless",
}


def assumptions(case: Case) -> tuple[str, ...]:
    rules, path = case.rules, case.path
    lines = [f"A month is {HOURS_PER_MONTH} hours; of each request all tokens are billed, and no refused request is."]
    if case.price is not None and path.mean_tokens_per_s:
        blended = blended_usd_per_1k(case.price, path.output_share) * 1_000
        lines.append(
            f"1M tokens cost ${blended:.4g} serverless, {path.output_share:.1%} of them completions "
            f"({case.price.source}, {case.price.dated.isoformat()})."
        )
    if case.capacity is not None:
        low, value, high = case.capacity
        lines.append(
            f"An instance serves {value:.3g} requests/s within the objectives, 90 % interval {low:.3g} to {high:.3g}; "
            "instances are counted by the lower end, and what runs serves the value."
        )
    if rules.growth != 1:
        lines.append(f"Every rate is {rules.growth:g} times what was measured, hour by hour.")
    if rules.hours_on_per_week < 168:
        lines.append(
            f"The demand lasts {rules.hours_on_per_week:g} h a week; in the other hours it is what was measured in its "
            "quietest."
            if path.measured == len(path.share)
            else f"The demand is as measured for {rules.hours_on_per_week:g} h a week, and "
            f"{rules.off_hours_load_share:.0%} of its mean rate in the others."
        )
    lines.append(
        f"Ranges hold 90 of 100 of {rules.draws:,} draws: the demand resampled in blocks, the capacity log-normal "
        f"through its interval, prices of tokens and of instances each within {rules.price_range_share:.0%}."
    )
    return tuple(lines)


def doubts(case: Case, sku: Sku | None, region: str | None) -> tuple[str, ...]:
    found = [unsaid_by(case.path)]
    if sku is not None:
        known = ", ".join(sorted(sku.usd_per_hour)) or "none"
        if region is None:
            found.append(f"the price book has no price of {sku.name} in any region: managed cost is left out")
        elif region != case.rules.region:
            found.append(
                f"the price book has no price of {sku.name} in {case.rules.region}: that of {region} stands in; it "
                f"knows {known}"
            )
        if sku.retired is not None:
            found.append(f"Azure retires {sku.name} on {sku.retired.isoformat()}: plan nothing new on it")
        if case.capacity is None:
            found.append(
                "what an instance serves is not known, so neither hybrid nor the break-even utilisation is planned"
            )
    return tuple(doubt for doubt in found if doubt is not None)
