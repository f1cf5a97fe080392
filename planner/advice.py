"""Advice: one sentence that says what to run and what it costs, and what must be true for it."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.samples import Run
from loadgen.slo import Slo
from planner.costs.cost_results import CostPlan, Option
from planner.costs.options import AROUND_THE_CLOCK, SERVERLESS
from planner.metrics import METRICS
from planner.objectives import sorted_of
from planner.plan import InstanceEstimate, Plan
from planner.quotas.deployments import QuotaNeed
from planner.rows import NS_PER_MS
from planner.scope import Scope, is_unservable

REMEDY = (  # for a model without prices
    "plan with --prices FILE, a price book that has it under [serverless.models] or [managed.models] (a short one "
    "stands in the README under Cost), or give target.usd_per_1k_prompt and target.usd_per_1k_completion with the run"
)


def advice(
    plan: Plan, scope: Scope, need: QuotaNeed | None, costs: CostPlan | None, *, measured: bool, guess: str | None
) -> tuple[str, tuple[str, ...]]:
    """The sentence, and what must be true.

    `measured`: what an instance serves was; `guess`: why the number of instances is one; None: it is none.
    """
    none = _none(plan, scope)
    if none is not None:
        return f"None: {none}.", ()
    if costs is None or not costs.options:
        what = "" if need is None else f"{_deployments(need)}; "
        return (
            f"{_capital(what)}no cost, since nothing that could serve {plan.model} has a price in the book: {REMEDY}.",
            (),
        )
    known = [each for each in costs.options if guess is None or each.name == SERVERLESS]
    if not known:
        return f"None: {guess}, and {plan.model} has no price per token: {REMEDY}.", ()
    best = known[0]
    if costs.region is None:
        against = f"; whether managed compute is cheaper is not known: the book has no price of it for {plan.model}"
    else:
        against = _against(costs, best) if guess is None else _against_a_guess(costs, best, scope, guess)
    sentence = f"{_what(best, need, costs, None if measured else plan.instances)}: {_usd(best)} a month{against}"
    missed = [slo.text for slo in plan.slos if slo.met is False]
    if missed and best.name == SERVERLESS and not scope.managed:
        sentence += f"; but {missed[0]} was missed at the load measured, and more deployments do not mend that"
    too_large = scope.too_large if best.name == SERVERLESS else None
    apart = () if too_large is None else (f"the rest is served elsewhere: {too_large}",)
    return f"{sentence}.", (*apart, *_unmeasured(best, scope), *best.what_must_be_true)


def _none(plan: Plan, scope: Scope) -> str | None:
    """Why nothing can be recommended."""
    if not plan.validity.valid:
        return f"the run is invalid: {plan.validity.reasons[0]}"
    hopeless = impossible(scope.run, [slo for slo in scope.slos if not _is_met(plan, slo)])
    if hopeless:
        return hopeless[0]
    return str(scope.too_large) if is_unservable(scope) else None


def _unmeasured(option: Option, scope: Scope) -> tuple[str, ...]:
    """What was measured is of one kind of deployment, and says nothing of the other's latencies."""
    if (option.name == SERVERLESS) is not scope.managed or not scope.slos:
        return ()
    other = "serverless" if scope.managed else "managed"
    return (f"a {other} deployment keeps the objectives, too: none was measured",)


def _is_met(plan: Plan, slo: Slo) -> bool:
    """The others need a second look at every value, also where too few support a percentile."""
    return any(each.text == slo.text and each.met is True for each in plan.slos)


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
    values = sorted_of(run, slo)
    return (float(values[0]), len(values)) if len(values) else (None, 0)


def _what(option: Option, need: QuotaNeed | None, costs: CostPlan, taken: InstanceEstimate | None) -> str:
    """`Serverless with 3 deployments (2 to 4)`, `2 x Standard_NC24ads_A100_v4 in eastus, managed, around the clock`."""
    if option.name == SERVERLESS:
        return f"Serverless{'' if need is None else f' with {_deployments(need)}'}"
    sku = f"{costs.sku} in {costs.region}"
    if option.name.startswith("hybrid"):
        return f"{_capital(option.name)} ({sku})"
    kept = f"{option.instances:.3g} x {sku}, {option.name}"
    if taken is None:
        return kept
    return (
        f"{kept}, if an instance holds {taken.concurrency_per_instance} requests at once ({taken.concurrency_source})"
    )


def _deployments(need: QuotaNeed) -> str:
    plural = "" if need.deployments == 1 else "s"
    range_ = "" if need.low is None or need.low == need.high else f" ({need.low} to {need.high})"
    return f"{need.deployments:,} deployment{plural}{range_}"


def _usd(option: Option) -> str:
    if option.low_usd is None or option.high_usd is None:
        return dollars(option.per_month_usd)
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
    where = "" if other.name == SERVERLESS else f" ({costs.sku} in {costs.region})"
    against = f", against {dollars(other.per_month_usd)} {other.name}{where}"
    if chance is None:
        return against
    return f"{against}, the cheaper in {_percent(1 - chance if of_tokens else chance)} of what may come"


def _against_a_guess(costs: CostPlan, serverless: Option, scope: Scope, guess: str) -> str:
    """Whatever an instance serves, the fewest that are kept have a price."""
    fewest = max(scope.settings.min_instances, 1 + scope.settings.spare)
    cheapest = next((each for each in costs.options if each.name != SERVERLESS), None)
    planned = next((each.instances for each in costs.options if each.name == AROUND_THE_CLOCK), 0.0)
    if cheapest is not None and planned:  # those billed on average are fewer where they are off at times
        least_usd = cheapest.per_month_usd / planned * fewest
        if least_usd > (serverless.per_month_usd if serverless.high_usd is None else serverless.high_usd):
            instances = "1 instance" if fewest == 1 else f"{fewest} instances"
            return f", against {dollars(least_usd)} for {instances} of managed compute, the least ({costs.sku})"
    return f"; whether managed compute is cheaper is not known: {guess}"


def _percent(share: float) -> str:
    """Draws that all came out one way do not show that none would not."""
    return ">99 %" if share > 0.995 else "<1 %" if share < 0.005 else f"{100 * share:.0f} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
