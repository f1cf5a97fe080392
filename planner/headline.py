"""The headline: how much headroom there is, on what condition, and what to run; as one would say it in a meeting."""

from __future__ import annotations

from collections.abc import Iterator

from loadgen.config import Split
from planner.limits_ahead import reached_by_growth
from planner.plan import Plan, SloResult
from planner.quota import REFUSED_SHARE, deployments_needed
from planner.room import Room
from planner.scope import Scope

LEAST_FACTOR = 1.005  # that is written as more than 1


def three_digits(value: float) -> str:
    """5.65, 106, 11,273: at least three digits, and no exponent."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def headline(plan: Plan, scope: Scope) -> str:
    """How many times the load fits until which limit, whether the objectives were met, what to run at what cost.

    What to run is the recommendation, word for word, wherever there is one. Of an invalid run only why it is.
    """
    if not plan.validity.valid:
        more = len(plan.validity.reasons) - 1
        others = f" (and {more} more reason{'s' if more > 1 else ''})" if more else ""
        return f"Invalid run, do not plan from it: {plan.validity.reasons[0]}{others}."
    measured = _sentence(*_headroom(plan, scope))
    if plan.ahead is not None:
        return f"{measured} {plan.ahead.recommendation}"
    return _sentence(measured.removesuffix("."), _cost(plan))


def _sentence(*clauses: str) -> str:
    """With a capital, unless it begins with the name of a metric."""
    said = "; ".join(clause for clause in clauses if clause)
    return f"{said[:1].upper() if said.partition(' ')[0].isalpha() else said[:1]}{said[1:]}."


def _headroom(plan: Plan, scope: Scope) -> Iterator[str]:
    """The clauses; that which ends the headroom first."""
    load, missed = _load(plan, scope), [slo for slo in plan.slos if slo.met is False]
    fits = "" if plan.quota is None else _quota(plan, "" if missed else load)
    room = None if plan.ahead is None else plan.ahead.room
    if missed:
        others = f", and {len(missed) - 1} more" if len(missed) > 1 else ""
        yield f"no headroom: {_missed(missed[0])} at {load}{others}"
        yield _missed_by(plan)
    if fits:
        yield fits
    elif room is not None and not missed:
        yield _instances(room, load)
    yield _refused(plan)
    yield _planned(plan, scope)
    yield _growing(plan)
    if not missed and (fits or room is not None):
        yield _objectives(plan) or "no objective was set"
    elif not missed:
        yield f"{_objectives(plan)} at {load}" if plan.slos else f"{load} were offered, with no objective to meet"
        yield _unknown(plan)


def _load(plan: Plan, scope: Scope) -> str:
    """`10 requests/s`, and to how many targets."""
    rate_per_s, several = plan.traffic.requests_per_s, len(plan.targets)
    if several and scope.config.load.split is Split.EACH:
        return f"{three_digits(rate_per_s / several)} requests/s to each of {several} targets"
    return f"{three_digits(rate_per_s)} requests/s{f' to {several} targets' if several else ''}"


def _objectives(plan: Plan) -> str:
    """Where none was missed; empty where there is none."""
    unknown = [slo for slo in plan.slos if slo.met is None]
    if not plan.slos:
        return ""
    if unknown:
        return f"too few samples to judge {unknown[0].text}"
    if len(plan.slos) == 1:
        return f"{plan.slos[0].text} was met"
    return f"{'both' if len(plan.slos) == 2 else f'all {len(plan.slos)}'} objectives were met"


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


def _quota(plan: Plan, load: str) -> str:
    """How many times the load fits into the quota; the `load` is named unless it has been."""
    quota = plan.quota
    if quota is None:
        return ""
    whose = "one deployment's" if not plan.targets else "the targets'" if quota.target is None else f"{quota.target}'s"
    limit = f"{whose} {quota.binds} per minute"
    if quota.headroom < 1:
        first = f"no headroom: at {load} " if load else ""
        return f"{first}the busiest minute asked for {_over(quota.headroom)} {limit}"
    return f"{_times(quota.headroom, f'this load of {load}' if load else 'this load')} into {limit}"


def _instances(room: Room, load: str) -> str:
    """Likewise into managed instances."""
    its, serve = ("one instance", "serves") if room.instances == 1 else (f"{room.instances} instances", "serve")
    if room.planned:
        busiest = f"the busiest minute of {three_digits(room.busiest_per_s)} requests/s"
        return f"{_times(room.factor, busiest)} into the {its} planned"
    if room.factor < 1:
        return f"no headroom: at {load} the busiest minute asked for {_over(room.factor)} what the {its} {serve}"
    return f"{_times(room.factor, f'this load of {load}')} into the {its} measured"


def _times(factor: float, load: str) -> str:
    return f"{load} just fits" if factor < LEAST_FACTOR else f"{three_digits(factor)} times {load} fits"


def _over(factor: float) -> str:
    return "more than" if 1 / factor < LEAST_FACTOR else f"{three_digits(1 / factor)} times"


def _unknown(plan: Plan) -> str:
    """Why nobody knows how much more fits into instances; what to run for it is told with them."""
    why = None if plan.ahead is None else plan.ahead.capacity_unknown
    return "" if why is None else f"how much more fits is not known: {why.partition(':')[0]}"


def _growing(plan: Plan) -> str:
    """When the growth that is planned with reaches the first limit; nothing where the load is there already."""
    reached = next((each for each in reached_by_growth(plan) if each.months is not None), None)
    if reached is None or reached.months == 0:
        return ""
    months = f"{reached.months} month{'' if reached.months == 1 else 's'}"
    return f"growing by {100 * reached.growth_per_month:.3g}% each month it reaches the {reached.limit} in {months}"


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
