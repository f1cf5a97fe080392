"""Advice: one sentence that says what to run and what it costs, and what must be true for it."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.samples import Run
from loadgen.slo import Slo
from planner.costs.cost_results import CostPlan, Option
from planner.costs.options import SERVERLESS
from planner.fleet import FleetPlan
from planner.metrics import METRICS, values_of
from planner.plan import Plan
from planner.quotas.deployments import QuotaNeed
from planner.rows import NS_PER_MS
from planner.scope import Scope

REMEDY = (  # for a model without prices
    "give target.usd_per_1k_prompt and target.usd_per_1k_completion, or add it to a copy of the price book, under "
    "[serverless.models] or [managed.models], and plan with --prices FILE"
)


def advice(
    plan: Plan, scope: Scope, need: QuotaNeed | None, fleet: FleetPlan | None, costs: CostPlan | None
) -> tuple[str, tuple[str, ...]]:
    """The sentence, and what must be true."""
    if not plan.validity.valid:
        return f"None: the run is invalid: {plan.validity.reasons[0]}.", ()
    hopeless = impossible(scope.run, [slo for slo in scope.slos if _is_missed(plan, slo)])
    if hopeless:
        return f"None: {hopeless[0]}.", ()
    if costs is None or not costs.options:
        what = "" if need is None else f"{_deployments(need)}; "
        return (
            f"{_capital(what)}no cost, since nothing that could serve {plan.model} has a price in the book: {REMEDY}.",
            (),
        )
    cheapest = costs.options[0]
    must = (*_unmeasured(cheapest, scope), *cheapest.what_must_be_true)
    sentence = f"{_what(cheapest, need, fleet, costs, plan)}: {_usd(cheapest)} a month{_against(costs, cheapest)}"
    missed = [slo.text for slo in plan.slos if slo.met is False]
    if missed and cheapest.name == SERVERLESS and not scope.managed:
        return (
            f"{sentence}; but {missed[0]} was missed at the load measured, and more deployments do not mend that.",
            must,
        )
    return f"{sentence}.", must


def _unmeasured(option: Option, scope: Scope) -> tuple[str, ...]:
    """What was measured is of one kind of deployment, and says nothing of the other's latencies."""
    if (option.name == SERVERLESS) is not scope.managed or not scope.slos:
        return ()
    other = "serverless" if scope.managed else "managed"
    return (f"a {other} deployment keeps the objectives, too: none was measured",)


def _is_missed(plan: Plan, slo: Slo) -> bool:
    """Only those need a second look at every value."""
    return any(each.text == slo.text and each.met is False for each in plan.slos)


def impossible(run: Run, slos: Sequence[Slo]) -> list[str]:
    """Objectives below what was ever measured: no number of instances or deployments brings them about."""
    found = []
    for slo in slos:
        fastest_ns, n = _fastest_ns(run, slo)
        if fastest_ns is not None and slo.limit_ns <= fastest_ns:
            found.append(
                f"{slo.text} is impossible here: the fastest of {n:,} took {fastest_ns / NS_PER_MS:,.3g} ms, whatever "
                "the load"
            )
    return found


def _fastest_ns(run: Run, slo: Slo) -> tuple[float | None, int]:
    if slo.metric not in METRICS:
        return None, 0
    values = values_of(run, slo.metric)
    return (float(values[0]), len(values)) if len(values) else (None, 0)


def _what(option: Option, need: QuotaNeed | None, fleet: FleetPlan | None, costs: CostPlan, plan: Plan) -> str:
    """`Serverless with 3 deployments (2 to 4)`, `2 x Standard_NC24ads_A100_v4, managed, around the clock`."""
    if option.name == SERVERLESS:
        return f"Serverless{'' if need is None else f' with {_deployments(need)}'}"
    if option.name.startswith("hybrid"):
        return f"{_capital(option.name)} ({costs.sku})"
    number = option.instances if fleet is None else fleet.instances
    kept = f"{number:.3g} x {costs.sku}, {option.name}"
    if fleet is None and plan.instances is not None:
        held = plan.instances.concurrency_per_instance
        return f"{kept}, if an instance holds {held} requests at once, as it is taken to"
    return kept


def _deployments(need: QuotaNeed) -> str:
    plural = "" if need.deployments == 1 else "s"
    range_ = "" if need.low is None or need.low == need.high else f" ({need.low} to {need.high})"
    return f"{need.deployments:,} deployment{plural}{range_}"


def _usd(option: Option) -> str:
    return f"{dollars(option.per_month_usd)} ({dollars(option.low_usd)} to {dollars(option.high_usd)})"


def dollars(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"


def of_other_kind(costs: CostPlan) -> Option | None:
    """The cheapest with instances where serverless is the cheapest of all, else serverless."""
    of_tokens = costs.options[0].name == SERVERLESS
    return next((each for each in costs.options if (each.name == SERVERLESS) is not of_tokens), None)


def _against(costs: CostPlan, cheapest: Option) -> str:
    """The cheapest of the other kind, and how likely it is that it is cheaper after all."""
    other, of_tokens = of_other_kind(costs), cheapest.name == SERVERLESS
    if other is None:
        return ""
    chance = other.probability_cheaper if of_tokens else cheapest.probability_cheaper
    likely = "" if chance is None else f", the cheaper in {1 - chance if of_tokens else chance:.0%} of what may come"
    return f", against {dollars(other.per_month_usd)} {other.name}{likely}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
