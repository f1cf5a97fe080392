"""What a plan says beyond the run: recommendation, deployments, instances, costs of each way, and all it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dashboards.quota_told import need_in_words
from dashboards.readable import readable
from dashboards.text import UNKNOWN, count, digits, percent, usd
from planner.ahead import Ahead
from planner.cost_plan import CostPlan
from planner.costs.cost_results import BreakEven
from planner.costs.spending import Spending
from planner.fleet import FleetPlan
from planner.instance_rate import MEASURED, InstanceRate
from planner.room import Room

SHOWN_OPTIONS = 6
SHOWN_DRIVERS = 3
SHOWN_SCENARIOS = 6


def recommended(ahead: Ahead) -> Iterator[RenderableType]:
    yield Text(readable(ahead.recommendation), "bold")
    for condition in ahead.must_be_true:
        yield Text(f"if {readable(condition)}")


def deployments(ahead: Ahead) -> Iterator[RenderableType]:
    if ahead.need is not None:
        yield from (Text(line) for line in need_in_words(ahead.need))


def instances(ahead: Ahead) -> Iterator[RenderableType]:
    if ahead.capacity is not None:
        yield Text(_rate(ahead.capacity))
    elif ahead.capacity_unknown is not None:
        yield Text(f"what an instance serves is not known: {readable(ahead.capacity_unknown)}")
    if ahead.room is not None:
        yield Text.assemble("headroom ", (f"{digits(ahead.room.factor)} ×", "bold"), f" {_room(ahead.room)}")  # noqa: RUF001
    if ahead.fleet is not None:
        yield from _fleet(ahead.fleet)
    elif ahead.capacity is not None and ahead.instances is not None:
        yield Text(f"{_many(ahead.instances)} for the busiest minute at that rate, those to spare included")


def _many(instances: int) -> str:
    return f"{count(instances)} instance{'' if instances == 1 else 's'}"


def _room(room: Room) -> str:
    its = f"{_many(room.instances)} {'planned' if room.planned else 'measured'}"
    return (
        f"the busiest minute's {digits(room.busiest_per_s)} requests/s: the {its} "
        f"{'serves' if room.instances == 1 else 'serve'} {digits(room.serves_per_s)} within the objectives"
    )


def _rate(rate: InstanceRate) -> str:
    if rate.grade == MEASURED:
        missed = f", and no longer {digits(rate.high)}" if rate.high > rate.rate_per_s else ""
        return (
            f"one instance serves {digits(rate.rate_per_s)} requests/s{missed}, measured by the sweep's "
            f"{count(rate.steps_used)} steps with {readable(rate.binds)}; too few for a curve"
        )
    cap = "no cap known" if rate.concurrency_cap is None else f"{rate.concurrency_cap} at once ({rate.cap_source})"
    return (
        f"one instance serves {digits(rate.rate_per_s)} requests/s ({digits(rate.low)} to {digits(rate.high)}, 90 %), "
        f"bound by {readable(rate.binds)}; {rate.grade}, {digits(rate.horizon)} times the highest steady step; "
        f"{rate.form} fit of {count(rate.steps_used)} steps, {cap}"
    )


def _fleet(fleet: FleetPlan) -> Iterator[RenderableType]:
    spare = "" if not fleet.spare else f" + {fleet.spare} spare"
    spread = "more" if fleet.at_random is None else f"up to {count(fleet.at_random + fleet.spare)}"
    at_random = "" if fleet.at_random == fleet.needed else f", {spread} if Azure spreads requests at random"
    yield Text(
        f"{_instances(fleet.instances)} = {count(fleet.needed)} needed{spare}{at_random}, for "
        f"{digits(fleet.peak_rate_per_s)} requests/s in the busiest minute; by Azure's formula "
        f"{_number(fleet.azure_formula_instances)}"
    )
    for check in fleet.checks:
        meet, miss = ("meets", "misses") if check.instances == 1 else ("meet", "miss")
        met = meet if check.attainment.met else miss
        yield Text(
            f"simulated: {_instances(check.instances)}, routed by {check.routing.replace('_', ' ')}, {met} the "
            "objectives", "dim"
        )  # fmt: skip


def _instances(number: int) -> str:
    return f"{count(number)} instance{'' if number == 1 else 's'}"


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else count(value)


def costs(plan: CostPlan, *, valid: bool = True) -> Iterator[RenderableType]:
    """Each way to serve the demand, the cheapest first; the break-even; what moves the difference most.

    Of an invalid run no cost stands out.
    """
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("per month", "90 % range", "1M tokens", "cheaper"):
        table.add_column(name, justify="right", no_wrap=True)
    for option in plan.options[:SHOWN_OPTIONS]:
        chance = UNKNOWN if option.probability_cheaper is None else percent(option.probability_cheaper)
        within = UNKNOWN if option.low_usd is None else f"{usd(option.low_usd)} to {usd(option.high_usd)}"
        tokens = UNKNOWN if option.per_1m_tokens_usd is None else usd(option.per_1m_tokens_usd)
        table.add_row(
            Text(readable(option.name)),
            Text(usd(option.per_month_usd), "bold" if valid else "dim"),
            within,
            tokens,
            chance,
        )
    yield table
    if any(option.instances == 1 for option in plan.options):
        yield Text("1 instance has no redundancy: production should have three or more (--min-instances 3)", "yellow")
    if plan.sku is not None:
        yield Text(
            f"cheaper: the probability that it costs less than serverless; instances are {readable(plan.sku)}", "dim"
        )
    if plan.break_even is not None:
        yield Text(_break_even(plan.break_even))
    against = "" if plan.probability_managed_cheaper is None else f"{_cheapest_managed(plan)} costs "
    for driver in plan.sensitivity[:SHOWN_DRIVERS]:
        ends = ((driver.low_factor, driver.at_low_usd), (driver.high_factor, driver.at_high_usd))
        (lower, at_low), (higher, at_high) = [(_change(factor), _amount(amount, against)) for factor, amount in ends]
        than = " than serverless" if against else ""
        yield Text(f"if the {driver.name} is {lower}, {against}{at_low}{than}; {higher}, {at_high}")
    for reached in plan.growth:
        in_months = f"in {reached.months} month{'' if reached.months == 1 else 's'}"
        when = "never" if reached.months is None else "already" if not reached.months else in_months
        yield Text(f"growth reaches {readable(reached.limit)} {when}")


def _break_even(even: BreakEven) -> str:
    """Where an instance costs what tokens do, and whether it serves so many at all."""
    said = (
        f"break-even: an instance costs what {digits(even.tokens_per_hour / 1e6)}M tokens an hour do, "
        f"{digits(even.requests_per_s)} requests/s"
    )
    if even.served_per_s is None:
        return said
    known = "serves", " within the objectives"
    serves, within = ("is taken to serve", "") if even.utilisation is None else known  # a guess knows of no objective
    if even.out_of_reach:
        return f"{said}: never, as it {serves} {digits(even.served_per_s)}/s{within}"
    return f"{said}, {percent(even.requests_per_s / even.served_per_s)} of what it {serves}"


def spent(spending: Spending) -> Iterator[RenderableType]:
    """What a request of each scenario cost in the run, where there are several, and what bought nothing."""
    scenarios = spending.scenarios[1:]
    if len(scenarios) > 1:
        each = (f"{readable(one.scenario)} {usd(one.per_request_usd)}" for one in scenarios[:SHOWN_SCENARIOS])
        more = len(scenarios) - SHOWN_SCENARIOS
        yield Text(f"a request of {', '.join(each)}{f' and {more} more scenarios' if more > 0 else ''}")
    for wasted in spending.failed_but_billed:
        yield Text(
            f"{usd(wasted.usd)} bought nothing: {count(wasted.attempts)} attempts ended as "
            f"{readable(wasted.outcome).replace('_', ' ')}, and are billed"
        )


def _cheapest_managed(plan: CostPlan) -> str:
    """The way that the drivers move."""
    name = next((each.name for each in plan.options if each.name.startswith("managed")), "managed")
    kind, comma, how = readable(name).partition(", ")
    return f"{kind} ({how})" if comma else kind


def _change(factor: float) -> str:
    return f"{100 * abs(factor - 1):.2g} % {'lower' if factor < 1 else 'higher'}"


def _amount(amount: float, against: str) -> str:
    if not against:
        return f"{usd(amount)} a month"
    return f"{usd(abs(amount))} a month {'less' if amount < 0 else 'more'}"


def details(ahead: Ahead) -> Iterator[RenderableType]:
    for name, formula in ahead.formulas:
        yield Text(f"{name}: {formula}")
