"""The plan in words: one sentence that tells a manager the outcome, and every assumption with its number."""

from __future__ import annotations

from loadgen.config import Split
from loadgen.tokens import ESTIMATOR
from planner.advice import REMEDY
from planner.cost import HOURS_PER_MONTH
from planner.demand import MINUTE_S
from planner.plan import Plan, ServerlessCost, SloResult
from planner.quota import REFUSED_SHARE, deployments_needed
from planner.scope import Scope, watched_part


def three_digits(value: float) -> str:
    """5.65, 106, 11,273: at least three digits, and no exponent."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def headline(plan: Plan, scope: Scope) -> str:
    """Is the run valid, were the objectives met, how much more fits until which limit, and what to run at what cost?

    What to run is the recommendation, word for word, wherever there is one.
    """
    if not plan.validity.valid:
        more = len(plan.validity.reasons) - 1
        others = f" (and {more} more reason{'s' if more > 1 else ''})" if more else ""
        return f"Invalid run, do not plan from it: {plan.validity.reasons[0]}{others}."
    measured = (_objectives(plan, scope), _missed_by(plan), _refused(plan), _headroom(plan), _planned(plan, scope))
    if plan.ahead is not None:
        return f"{_sentence(*measured)} {plan.ahead.recommendation}"
    return _sentence(*measured, _cost(plan))


def _sentence(*clauses: str) -> str:
    return "; ".join(clause for clause in clauses if clause) + "."


def _objectives(plan: Plan, scope: Scope) -> str:
    at = f"at {three_digits(plan.traffic.requests_per_s)} requests/s"
    if plan.targets and scope.config.load.split is Split.EACH:
        at = f"at {three_digits(plan.traffic.requests_per_s / len(plan.targets))} requests/s to each of "
        at += f"{len(plan.targets)} targets"
    elif plan.targets:
        at += f" to {len(plan.targets)} targets"
    missed = [slo for slo in plan.slos if slo.met is False]
    unknown = [slo for slo in plan.slos if slo.met is None]
    if not plan.slos:
        return f"{at.removeprefix('at ')} were offered, with no objective to meet"
    if missed:
        return f"{_missed(missed[0])} {at}" + (f", and {len(missed) - 1} more" if len(missed) > 1 else "")
    if unknown:
        return f"Too few samples to judge {unknown[0].text} {at}"
    if len(plan.slos) == 1:
        return f"{plan.slos[0].text} was met {at}"
    return f"{'Both' if len(plan.slos) == 2 else f'All {len(plan.slos)}'} objectives were met {at}"


def _missed(slo: SloResult) -> str:
    return f"{slo.text} was missed ({slo.measured_ms or 0:,.0f} ms)"


def _missed_by(plan: Plan) -> str:
    """Of several targets."""
    names = [target.name for target in plan.targets if any(slo.met is False for slo in target.slos)]
    return f"{' and '.join(names)} missed {'it' if len(plan.slos) == 1 else 'some'}" if names else ""


def _refused(plan: Plan) -> str:
    quota = plan.quota
    if quota is None or quota.throttled_share <= REFUSED_SHARE:
        return ""
    return f"{quota.throttled_share:.0%} of the attempts were refused (429)"


def _headroom(plan: Plan) -> str:
    quota = plan.quota
    if quota is None:
        return ""
    whose = "one deployment's" if not plan.targets else "the targets'" if quota.target is None else f"{quota.target}'s"
    limit = f"{whose} {quota.binds} per minute"
    if quota.headroom < 1:
        return f"the busiest minute asked for {three_digits(1 / quota.headroom)} times {limit}"
    return f"{three_digits(quota.headroom)} times this load fits into {limit}"


def _planned(plan: Plan, scope: Scope) -> str:
    """Said where something else is planned than was measured, or where that does not fit into one deployment."""
    fits = plan.quota is None or plan.quota.headroom >= 1
    if not plan.what_if or (fits and scope.growth == 1 and scope.of_own_mix):
        return ""
    need = None if plan.ahead is None else plan.ahead.need
    if need is None and plan.ahead is not None:
        return ""
    needed = deployments_needed(plan.what_if, scope.settings.refused_share) if need is None else need.deployments
    number = f"more than {plan.what_if[-1].deployments}" if needed is None else f"{needed}"
    plural = "" if needed == 1 else "s"
    return (
        f"{number} deployment{plural} would serve the planned {three_digits(scope.planned.requests_per_s)} requests/s"
    )


def _cost(plan: Plan) -> str:
    """Of several targets, for which nothing is recommended: by the figures they share."""
    serverless = None if plan.serverless is None else plan.serverless.per_month_usd
    if not plan.managed:
        return _cheaper(serverless, None, "")
    machines = plan.managed[0]
    return _cheaper(serverless, machines.per_month_usd, f"{machines.instances} x {machines.sku}")


def _cheaper(serverless_usd: float | None, machines_usd: float | None, machines: str) -> str:
    """Dollars a month of both, and what the machines are."""
    if serverless_usd is None or machines_usd is None:
        if machines_usd is not None:
            return f"{machines} would cost {_usd(machines_usd)} a month"
        return "" if serverless_usd is None else f"serverless costs {_usd(serverless_usd)} a month"
    if serverless_usd <= machines_usd:
        return f"serverless is cheaper, at {_usd(serverless_usd)} a month against {_usd(machines_usd)} for {machines}"
    return f"{machines} would be cheaper, at {_usd(machines_usd)} a month against {_usd(serverless_usd)} serverless"


def _usd(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"


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
