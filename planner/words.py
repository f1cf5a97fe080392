"""The plan in words: every assumption with its number."""

from __future__ import annotations

from loadgen.tokens import ESTIMATOR
from planner.advice import REMEDY
from planner.cost import HOURS_PER_MONTH
from planner.demand import MINUTE_S
from planner.headline import three_digits
from planner.plan import Plan, ServerlessCost
from planner.quota import deployments_needed
from planner.scope import Scope, watched_part


def assumptions(plan: Plan, scope: Scope) -> tuple[str, ...]:
    """Everything the plan takes for granted, with the numbers it takes."""
    figures = (*_of_quota(plan, scope), *_of_serverless(plan, scope), *_of_managed(plan, scope))
    return (*_of_demand(scope), *_of_sweep(plan), *_of_targets(plan, scope), *figures)


def _of_sweep(plan: Plan) -> list[str]:
    """Where the sweep's verdict stands in for a percentile that the step itself has too few samples for."""
    return [
        f"{slo.text} is met by the sweep's verdict: the 95 % interval (Wilson) of the share of requests beyond the "
        f"limit lies within what it allows. The percentile itself takes more samples than this step's {slo.n:,}."
        for slo in plan.slos
        if slo.met and slo.measured_ms is None
    ]


def _of_targets(plan: Plan, scope: Scope) -> list[str]:
    if not plan.targets:
        return []
    split = scope.config.load.split.replace("_", " ")
    return [
        f"{len(plan.targets)} targets, split: {split}. A target's figures are of what came to it, and an arrival that "
        "was tried at two is counted at both.",
        *dict.fromkeys(scope.unsaid.values()),
    ]


def _of_demand(scope: Scope) -> list[str]:
    planned = scope.planned
    if planned.arrivals.is_empty():
        return []
    lines = [
        f"Planned for {planned.source}: {three_digits(planned.requests_per_s)} requests/s on average, "
        f"{scope.peak_per_s * MINUTE_S:,.0f} in the busiest minute, with a mean of "
        f"{planned.mean_tokens('prompt_tokens'):,.0f} prompt and {planned.mean_tokens('completion_tokens'):,.0f} "
        "completion tokens a request."
    ]
    if scope.growth != 1:
        lines.append(f"Growth multiplies every rate by {scope.growth:g}; the mix and the latencies stay as measured.")
    if scope.config.quota.concurrency is not None:
        lines.append(f"The limit of {scope.config.quota.concurrency:,} requests at once is not part of the replay.")
    return lines


def _of_quota(plan: Plan, scope: Scope) -> list[str]:
    if not plan.what_if:
        return []
    quota = scope.config.quota
    lines = [
        f"A deployment admits {quota.tokens_per_minute:,} tokens and {quota.requests_per_minute:,} requests a minute, "
        f"and counts {quota.admission} for each request. How Azure enforces that is not documented, so four ways are "
        "replayed.",
        f"Replayed: {watched_part(scope.planned).source}, dealt in turn to the deployments; a refused request is not "
        f"tried again. Enough is where each of the four ways refuses at most "
        f"{scope.settings.refused_share:.0%} of the requests.",
    ]
    too_large = {row.window: row.never_fit for row in plan.what_if if row.never_fit}
    for window, requests in too_large.items():
        lines.append(
            f"{requests:,} requests are larger than a {window} ever admits: enforced so, "
            "no number of deployments would serve them; they are not counted among those refused."
        )
    if not too_large and deployments_needed(plan.what_if, scope.settings.refused_share) is None:
        lines.append(f"{plan.what_if[-1].deployments} deployments are the most that were tried, and not enough.")
    return lines


def _of_serverless(plan: Plan, scope: Scope) -> list[str]:
    cost = plan.serverless
    parts = scope.parts or (scope,)
    unpriced = [
        f"The price book has no price per token for {part.model}: serverless cost is left out. To have it, {REMEDY}."
        for part in parts
        if part.price is None
    ]
    if unpriced or cost is None:
        return list(dict.fromkeys(unpriced))
    return [
        *dict.fromkeys(_price(each.serverless) for each in plan.targets or (plan,) if each.serverless is not None),
        "So far, answers were billed, and filtered or broken ones as far as the server reported usage; refused "
        "requests were not.",
        f"A month is {HOURS_PER_MONTH} hours at {three_digits(scope.planned.requests_per_s)} requests/s around the "
        "clock, all of them answered.",
        f"Tokens that the server did not report are estimated: prompts by {ESTIMATOR} or their scenario's mean, "
        "completions by the chunks of the stream or their scenario's mean.",
    ]


def _price(cost: ServerlessCost) -> str:
    return (
        f"{cost.model} costs ${cost.input_usd_per_1k:g} per 1,000 prompt and ${cost.output_usd_per_1k:g} per 1,000 "
        f"completion tokens ({cost.source}, {cost.dated})."
    )


def _of_managed(plan: Plan, scope: Scope) -> list[str]:
    estimate = plan.instances
    if "instances" in scope.unsaid:
        return []
    if not scope.book.skus_for(scope.model):
        return [f"The price book names no instance type for {scope.model}: managed cost is left out."]
    if estimate is None or (plan.ahead is not None and plan.ahead.capacity is not None):
        return []
    lines = [
        f"{estimate.instances} instance{'' if estimate.instances == 1 else 's'}: "
        f"{three_digits(estimate.peak_requests_per_s)} requests/s in the busiest minute, "
        f"{three_digits(estimate.time_in_system_s)} s each, {estimate.concurrency_per_instance} at once on an instance "
        f"({estimate.concurrency_source}).",
        "What other instance types than the one planned hold at once, and how fast they answer, is not known: their "
        f"costs are of as many instances. Instances run {HOURS_PER_MONTH} hours a month; production should have three "
        "or more.",
    ]
    if plan.managed and plan.managed[0].region != scope.region:
        lines.append(f"The price book has no price for {scope.region}: those of {plan.managed[0].region} stand in.")
    elif not plan.managed:
        lines.append(f"The price book has no price of an instance in {scope.region}: managed cost is left out.")
    return lines
