"""Levers: what the plan's costs and numbers become when one of the things that they rest on is moved.

A page moves them by the formulas below, each of which is one line of its script too. What no formula gives, the
deployments and the load at another growth or max_tokens, is replayed here at the lever's positions, by what `plan_run`
plans with; where that would be too much, the busiest stretch is, or a position has None, and a plan of its own says it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from loadgen.errors import ConfigError
from planner.ahead import fleet_ahead, is_cut, most_replayed, replayed_ahead
from planner.cost import HOURS_PER_MONTH, region_priced
from planner.costs.options import SERVERLESS
from planner.demand import MINUTE_S, Demand, asking_at_most, busiest, grown
from planner.plan import Plan
from planner.quantiles import nearest_rank
from planner.quotas.deployments import fewest_deployments
from planner.scope import Scope, peak_per_s

GROWTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # times the demand as it was measured
TRIMMED_TO = (0.5, 0.95)  # percentiles of the completions, at which max_tokens cuts some
RAISED = 2  # times what is asked for
MOST_REPLAYED = 100_000  # arrivals, of all positions together that are replayed as a plan does
MOST_OF_ONE, FEW_PHASES = 30_000, 4  # of a position beyond that, at which one lever alone is moved: a fifth of a second
MOST_A_MINUTE = 4_000_000  # arrivals: a demand that has more is replayed by a plan of its own
MOST_FLEETS = 2  # simulated at other growths, a second each
SURE = 1e-9
FORMULAS = (
    (
        "serverless, a month",
        "as planned x growth x price per token x (prompt tokens x their price + completion tokens x theirs), each over "
        "what it is as planned",
    ),
    ("completion tokens", "of a request: prompt tokens x output share / (1 - output share)"),
    ("time of a request", "as measured + completion tokens beyond those planned x time per output token"),
    (
        "instances",
        "load in instances at that growth x time of a request over that as planned / utilisation, rounded up, + spare",
    ),
    ("managed, a month", "instances x price of an hour x 730"),
    (
        "break-even",
        "as planned x price of an hour / (price per token x tokens' cost of a request as above); never beyond what one "
        "instance serves x utilisation / time of a request over that as planned",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Levers:
    """The plan at rest, and what is replayed at other positions. None: the plan cannot say."""

    growths: tuple[float, ...]  # times the demand as it was measured; rising
    own_growth: int  # the plan's own, of those
    limits: tuple[int, ...]  # max_tokens of every request; rising
    own_limit: int  # of those: as the requests ask, where it stands for the most that one asks for
    deployments: tuple[tuple[int | None, ...], ...]  # by growth, then limit
    loads: tuple[float | None, ...]  # by growth: how many instances' worth, before rounding and spare
    prompt_tokens: float  # mean of a request
    completion_tokens: tuple[float, ...]  # by limit
    mix_matters: bool  # the quota counts what is answered: longer answers may need more deployments
    input_usd_per_1k: float | None
    output_usd_per_1k: float | None
    serverless_usd: float | None  # a month
    usd_per_hour: float | None  # of an instance
    sku: str | None
    spare: int
    min_instances: int
    time_in_system_s: float | None  # mean of a request
    time_per_token_s: float | None
    break_even_requests_per_s: float | None  # of one instance
    served_per_s: float | None  # by one instance, as measured or as it is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where each lever stands; at rest, where the plan does."""

    growth: int  # index of Levers.growths
    limit: int  # index of Levers.limits
    output_share: float | None = None  # of all tokens; None: as measured
    token_price: float = 1.0  # times the book's
    instance_price: float = 1.0
    utilisation: float = 1.0  # of what an instance can serve, that it is given


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What the formulas come to. None: they cannot say."""

    completion_tokens: float
    output_share: float
    serverless_usd: float | None  # a month
    deployments: int | None
    instances: int | None
    managed_usd: float | None  # a month, around the clock
    break_even_requests_per_s: float | None  # of one instance; also None beyond what it serves


def moved(levers: Levers, at: Position) -> Moved:
    """What the plan becomes at a position; at rest it is the plan's own."""
    completion = _completion_tokens(levers, at)
    tokens_usd = _tokens_usd(levers, completion)
    growth = levers.growths[at.growth] / levers.growths[levers.own_growth]
    instances = _instances(levers, at, completion)
    fits = at.output_share is None or (not levers.mix_matters and completion <= levers.limits[at.limit])
    usd_per_month = None if levers.usd_per_hour is None else levers.usd_per_hour * HOURS_PER_MONTH
    serverless = levers.serverless_usd
    return Moved(
        completion_tokens=completion,
        output_share=completion / (levers.prompt_tokens + completion) if completion else 0.0,
        serverless_usd=None if serverless is None else serverless * growth * at.token_price * tokens_usd,
        deployments=levers.deployments[at.growth][at.limit] if fits else None,
        instances=instances,
        managed_usd=None
        if instances is None or usd_per_month is None
        else instances * usd_per_month * at.instance_price,
        break_even_requests_per_s=_break_even(levers, at, completion),
    )


def _break_even(levers: Levers, at: Position, completion: float) -> float | None:
    even, price = levers.break_even_requests_per_s, at.token_price * _tokens_usd(levers, completion)
    if even is None or not price:
        return None
    even *= at.instance_price / price
    served, longer = levers.served_per_s, _longer(levers, completion)
    if served is not None and longer is not None and even > served * at.utilisation / longer:
        return None
    return even


def _completion_tokens(levers: Levers, at: Position) -> float:
    if at.output_share is None:
        return levers.completion_tokens[at.limit]
    return levers.prompt_tokens * at.output_share / (1 - at.output_share)


def _tokens_usd(levers: Levers, completion: float) -> float:
    """What the tokens of a request cost, over what they do as planned."""
    input_usd, output_usd = levers.input_usd_per_1k or 0.0, levers.output_usd_per_1k or 0.0
    planned = levers.prompt_tokens * input_usd + levers.completion_tokens[levers.own_limit] * output_usd
    return (levers.prompt_tokens * input_usd + completion * output_usd) / planned if planned else 1.0


def _instances(levers: Levers, at: Position, completion: float) -> int | None:
    load, longer = levers.loads[at.growth], _longer(levers, completion)
    if load is None or longer is None:
        return None
    needed = max(1, math.ceil(load * longer / at.utilisation - SURE))
    return max(levers.min_instances, needed + levers.spare)


def _longer(levers: Levers, completion: float) -> float | None:
    """How many times as long a request takes as planned; None where that is not known, or nonsense."""
    more = completion - levers.completion_tokens[levers.own_limit]
    if not more:
        return 1.0
    if not levers.time_in_system_s or levers.time_per_token_s is None:
        return None
    longer = 1 + more * levers.time_per_token_s / levers.time_in_system_s
    return longer if longer > 0 else None


def levers_of(scope: Scope, plan: Plan) -> Levers | None:
    """The levers of a plan of this scope; None where it has no costs to move, or is of an invalid run."""
    ahead, demand = plan.ahead, scope.planned
    if not plan.validity.valid or ahead is None or ahead.costs is None or not demand.arrivals.height:
        return None
    growths = tuple(sorted({*GROWTHS, scope.growth}))
    limits = _limits(demand, may_raise=not is_cut(scope))
    own_growth, own_limit = growths.index(scope.growth), limits.index(_most_asked(demand))
    asking = [demand if each == limits[own_limit] else asking_at_most(demand, each) for each in limits]
    serverless = next((each.per_month_usd for each in ahead.costs.options if each.name == SERVERLESS), None)
    price, even = scope.price, ahead.costs.break_even
    tpot = next((row for row in plan.latency if (row.metric, row.scenario) == ("tpot", "all")), None)
    return Levers(
        growths=growths,
        own_growth=own_growth,
        limits=limits,
        own_limit=own_limit,
        deployments=_deployments(scope, plan, growths, asking, own_limit),
        loads=tuple(_loads(scope, plan, growths)),
        prompt_tokens=demand.mean_tokens("prompt_tokens"),
        completion_tokens=tuple(each.mean_tokens("completion_tokens") for each in asking),
        mix_matters=scope.quota.admission.value == "usage",
        input_usd_per_1k=None if price is None else price.input_usd_per_1k,
        output_usd_per_1k=None if price is None else price.output_usd_per_1k,
        serverless_usd=serverless,
        usd_per_hour=_usd_per_hour(scope, plan),
        sku=ahead.costs.sku,
        spare=scope.settings.spare,
        min_instances=scope.settings.min_instances,
        time_in_system_s=None if plan.instances is None else plan.instances.time_in_system_s,
        time_per_token_s=None if tpot is None or tpot.mean_ms is None else tpot.mean_ms / 1_000,
        break_even_requests_per_s=None if even is None else even.requests_per_s,
        served_per_s=None if even is None else even.served_per_s,
    )


def _most_asked(demand: Demand) -> int:
    return int(demand.arrivals["max_tokens"].to_numpy().max())


def _limits(demand: Demand, *, may_raise: bool) -> tuple[int, ...]:
    """Percentiles of the completions, what is asked for, and a multiple of it where that changes no answer."""
    asked, wanted = _most_asked(demand), demand.arrivals["completion_tokens"].sort()
    trimmed = {max(1, int(wanted[nearest_rank(len(wanted), share) - 1])) for share in TRIMMED_TO}
    raised = {max(1, asked) * RAISED} if may_raise else set()
    return tuple(sorted({*(each for each in trimmed if each < asked), asked, *raised}))


def _usd_per_hour(scope: Scope, plan: Plan) -> float | None:
    costs = None if plan.ahead is None else plan.ahead.costs
    sku = None if costs is None or costs.sku is None else scope.book.skus.get(costs.sku)
    region = None if sku is None else region_priced(sku, scope.region)
    return None if sku is None or region is None else sku.usd_per_hour[region]


def _at(scope: Scope, growth: float, demand: Demand | None = None) -> Scope:
    """The scope of a plan with that growth."""
    planned = scope.planned if demand is None else demand
    if growth != scope.growth:
        planned = grown(planned, growth / scope.growth)
    return replace(scope, planned=planned, growth=growth)


def _deployments(
    scope: Scope, plan: Plan, growths: tuple[float, ...], asking: list[Demand], own_limit: int
) -> tuple[tuple[int | None, ...], ...]:
    """The plan's own, and by replay as many of the others as may be replayed: as asked first, small growths first.

    Of many arrivals the busiest are, in fewer phases of the minute, and only where one of both levers stays.
    """
    need = None if plan.ahead is None else plan.ahead.need
    found: dict[tuple[float, int], int | None] = {(scope.growth, own_limit): None if need is None else need.deployments}
    cells = [(growth, limit) for growth in growths for limit in range(len(asking)) if (growth, limit) not in found]
    cells.sort(key=lambda cell: (cell[1] != own_limit, abs(math.log(cell[0] / scope.growth))))
    left, target = MOST_REPLAYED, scope.settings.refused_share
    for growth, limit in cells if need is not None else ():
        replayed = replayed_ahead(_at(scope, growth, asking[limit]))
        if replayed is None:
            continue
        demand, phases = replayed
        if demand.requests_per_s * MINUTE_S > MOST_A_MINUTE:
            continue
        if (size := most_replayed(demand)) <= left:
            left -= size
        elif limit == own_limit or growth == scope.growth:
            demand, phases = busiest(demand, MOST_OF_ONE), min(phases, FEW_PHASES)
        else:
            continue
        with suppress(ConfigError):  # what cannot be replayed is no number, and costs no report
            found[growth, limit] = fewest_deployments(demand, scope.quota, target_share=target, phases=phases)
    return tuple(tuple(found.get((growth, limit)) for limit in range(len(asking))) for growth in growths)


def _loads(scope: Scope, plan: Plan, growths: tuple[float, ...]) -> Iterator[float | None]:
    """In instances: by the simulated fleet, else the busiest minute's rate over what one serves or holds."""
    ahead, own = plan.ahead, plan.instances
    fleets = sorted(growths, key=lambda growth: abs(math.log(growth / scope.growth)))[: 1 + MOST_FLEETS]
    for growth in growths:
        at = _at(scope, growth)
        peak = scope.peak_per_s if growth == scope.growth else peak_per_s(at.planned)
        if ahead is None:
            yield None
        elif ahead.fleet is not None:
            fleet = ahead.fleet if growth == scope.growth else fleet_ahead(at) if growth in fleets else None
            yield None if fleet is None else float(fleet.needed)
        elif ahead.capacity is not None:
            yield peak / ahead.capacity.low
        else:
            yield None if own is None else peak * own.time_in_system_s / own.concurrency_per_instance
