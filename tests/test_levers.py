"""The levers of the report: at rest they are the plan, at other positions what the planner says of the same inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from loadgen.config import PlanConfig
from loadgen.errors import ConfigError
from loadgen.samples import Run
from planner.assemble import plan_run, scoped_plan
from planner.demand import Demand, asking_at_most, demand_of_run, repeated
from planner.levers import Levers, Position, levers_of, moved
from planner.limits_ahead import limits_ahead
from planner.plan import Plan
from planner.prices import read_prices
from tests.plans import example_plan
from tests.runs import make_run, synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs"), 240)


@pytest.fixture(scope="module")
def levers(run: Run) -> Levers:
    return found(run)


def found(run: Run, **asked) -> Levers:
    levers = levers_of(*scoped_plan(run, **asked))
    assert levers is not None
    return levers


def at_rest(levers: Levers) -> Position:
    return Position(growth=levers.own_growth, limit=levers.own_limit)


def told(plan: Plan) -> tuple[float, int, int, float]:
    """Of a plan: serverless and managed dollars a month, deployments, instances."""
    assert plan.ahead is not None and plan.ahead.costs is not None and plan.ahead.need is not None
    usd = {each.name: each.per_month_usd for each in plan.ahead.costs.options}
    return usd["serverless"], plan.ahead.need.deployments, plan.ahead.instances or 0, usd["managed, around the clock"]


def assert_same(levers: Levers, at: Position, plan: Plan) -> None:
    serverless, deployments, instances, managed = told(plan)
    now = moved(levers, at)
    assert (now.deployments, now.instances) == (deployments, instances)
    assert now.serverless_usd == pytest.approx(serverless, rel=1e-12)
    assert now.managed_usd == pytest.approx(managed, rel=1e-12)


@pytest.mark.parametrize("growth", [None, 2.5])
def test_at_rest_the_levers_are_the_plan_to_the_last_digit(run: Run, growth: float | None) -> None:
    scope, plan = scoped_plan(run, growth=growth)
    levers = levers_of(scope, plan)
    assert levers is not None
    now = moved(levers, at_rest(levers))
    assert (now.serverless_usd, now.deployments, now.instances, now.managed_usd) == told(plan)
    assert plan.ahead is not None and plan.ahead.costs is not None and plan.ahead.costs.break_even is not None
    even = plan.ahead.costs.break_even
    assert even.out_of_reach and now.break_even_requests_per_s is None  # an instance is taken to serve less
    freely = replace(levers, served_per_s=None)
    assert moved(freely, at_rest(levers)).break_even_requests_per_s == even.requests_per_s


@pytest.mark.parametrize("growth", [0.5, 3.0, 10.0])
def test_another_growth_is_the_plan_with_that_growth(run: Run, levers: Levers, growth: float) -> None:
    at = replace(at_rest(levers), growth=levers.growths.index(growth))
    assert_same(levers, at, plan_run(run, growth=growth))


def test_spare_and_least_instances_are_those_of_the_plan_at_every_growth(run: Run) -> None:
    settings = PlanConfig(spare=2, min_instances=5)
    levers = found(run, settings=settings)
    for growth in (1.0, 5.0):
        at = replace(at_rest(levers), growth=levers.growths.index(growth))
        assert_same(levers, at, plan_run(run, growth=growth, settings=settings))


def test_every_other_max_tokens_is_the_plan_of_requests_that_ask_for_no_more(run: Run, levers: Levers) -> None:
    assert len(levers.limits) >= 3
    for place, limit in enumerate(levers.limits):
        now = moved(levers, replace(at_rest(levers), limit=place))
        plan = plan_run(run, demand=asking_at_most(demand_of_run(run), limit))
        serverless, deployments, _, _ = told(plan)
        assert now.deployments == deployments
        assert now.serverless_usd == pytest.approx(serverless, rel=1e-12)
    assert levers.completion_tokens[0] < levers.completion_tokens[levers.own_limit] == levers.completion_tokens[-1]


def test_other_prices_are_the_plan_of_a_book_with_those_prices(run: Run, levers: Levers) -> None:
    book = read_prices(None)
    price, sku = book.token_price("phi-3-mini-4k-instruct"), book.skus[levers.sku or ""]
    assert price is not None
    dearer = {name: 1.5 * usd for name, usd in sku.usd_per_hour.items()}
    book.skus[sku.name] = replace(sku, usd_per_hour=dearer)
    target = {"kind": "serverless", "usd_per_1k_prompt": 2 * price.input_usd_per_1k}
    target |= {"usd_per_1k_completion": 2 * price.output_usd_per_1k}
    configured = run.manifest.config | {"target": {**run.manifest.config.get("target", {}), **target}}
    config = {key: value for key, value in configured.items() if key != "targets"}
    run.manifest.model_copy(update={"config": config}).write(run.folder)
    plan = plan_run(Run.open(run.folder), price_book=book)
    run.manifest.write(run.folder)
    at = replace(at_rest(levers), token_price=2.0, instance_price=1.5)
    assert_same(levers, at, plan)
    assert plan.ahead is not None and plan.ahead.costs is not None and plan.ahead.costs.break_even is not None
    even = plan.ahead.costs.break_even.requests_per_s
    assert moved(replace(levers, served_per_s=None), at).break_even_requests_per_s == pytest.approx(even, rel=1e-12)


def test_an_output_share_costs_its_tokens_at_their_prices_and_takes_their_time(levers: Levers) -> None:
    share = 0.5  # as many completion as prompt tokens
    now = moved(levers, replace(at_rest(levers), output_share=share, limit=len(levers.limits) - 1))
    assert now.completion_tokens == pytest.approx(levers.prompt_tokens)
    per_request = levers.prompt_tokens * ((levers.input_usd_per_1k or 0) + (levers.output_usd_per_1k or 0))
    planned = levers.prompt_tokens * (levers.input_usd_per_1k or 0)
    planned += levers.completion_tokens[levers.own_limit] * (levers.output_usd_per_1k or 0)
    assert now.serverless_usd == pytest.approx((levers.serverless_usd or 0) * per_request / planned)
    assert (now.instances or 0) > (moved(levers, at_rest(levers)).instances or 0)
    assert now.deployments is None  # such answers are longer than max_tokens lets them be
    roomy = replace(levers, limits=(*levers.limits[:-1], 4_096))
    at = replace(at_rest(levers), output_share=share, limit=len(levers.limits) - 1)
    assert moved(roomy, at).deployments == levers.deployments[levers.own_growth][-1]
    assert moved(replace(roomy, mix_matters=True), at).deployments is None  # the quota would count them
    assert moved(replace(roomy, time_per_token_s=None), at).instances is None


@pytest.mark.parametrize(
    ("utilisation", "instances"),
    [(1.0, 7), (0.875, 8), (0.7, 10), (0.699, 11), (0.5, 14)],
)
def test_instances_that_are_filled_less_are_more(levers: Levers, utilisation: float, instances: int) -> None:
    loads = tuple(7.0 for _ in levers.growths)
    levers = replace(levers, loads=loads, spare=0, min_instances=1)
    assert moved(levers, replace(at_rest(levers), utilisation=utilisation)).instances == instances
    tenths = replace(levers, loads=tuple(3 * 0.1 for _ in levers.growths))  # which is a little above three tenths
    assert moved(tenths, replace(at_rest(levers), utilisation=0.1)).instances == 3


def test_an_instance_that_is_filled_less_reaches_its_break_even_less_often(levers: Levers) -> None:
    levers = replace(levers, break_even_requests_per_s=6.0, served_per_s=10.0)
    even = [moved(levers, replace(at_rest(levers), utilisation=share)) for share in (0.7, 0.5)]
    assert [each.break_even_requests_per_s for each in even] == [6.0, None]


def test_what_was_not_replayed_is_no_number(tmp_path: Path) -> None:
    levers = found(synthetic_run(tmp_path, 1_500))
    cells = [cell for row in levers.deployments for cell in row]
    assert None in cells and levers.deployments[levers.own_growth][levers.own_limit] is not None
    columns = [column for row in levers.deployments for column, cell in enumerate(row) if cell is not None]
    assert columns.count(levers.own_limit) == max(columns.count(column) for column in set(columns))


def test_of_a_large_demand_the_busiest_stretch_is_replayed_where_one_lever_is_moved(run: Run, levers: Levers) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner.levers.MOST_REPLAYED", 0)
        rough = found(run)
    own = rough.deployments[rough.own_growth]
    assert [row[rough.own_limit] for row in rough.deployments] == [row[levers.own_limit] for row in levers.deployments]
    assert None not in own and rough.deployments[0][0] is None


def test_a_position_that_cannot_be_replayed_costs_no_report(run: Run) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise ConfigError("arrivals: at_s goes back in time")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner.levers.fewest_deployments", refuse)
        levers = found(run)
    assert [cell for row in levers.deployments for cell in row if cell is not None] == [1]  # the plan's own


def test_a_sequence_repeated_never_goes_back_in_time() -> None:
    columns = {name: [1, 1] for name in ("prompt_tokens", "max_tokens", "completion_tokens")}
    for part in range(50):  # of some spans the multiples round down, and their sums with the last arrival up
        span_s = 38.2713 + part / 7
        demand = Demand(pl.DataFrame({"at_s": [0.0, span_s]} | columns), span_s, "")
        assert repeated(demand, 600).arrivals["at_s"].is_sorted()


def test_tokens_that_cost_nothing_have_no_break_even(tmp_path: Path) -> None:
    free = {"kind": "serverless", "url": "http://127.0.0.1:1", "usd_per_1k_prompt": 0.0, "usd_per_1k_completion": 0.0}
    scope, plan = scoped_plan(synthetic_run(tmp_path, 30, target=free), settings=PlanConfig(growth_per_month=0.1))
    levers = levers_of(scope, plan)
    assert levers is not None and plan.ahead is not None and plan.ahead.costs is not None
    assert plan.ahead.costs.break_even is None and moved(levers, at_rest(levers)).break_even_requests_per_s is None
    assert not any("one instance costs" in each.limit for each in plan.ahead.costs.growth)


def test_while_what_an_instance_serves_is_a_guess_its_cost_has_no_range(run: Run) -> None:
    for settings, known in ((PlanConfig(), False), (PlanConfig(concurrency_per_instance=12), True)):
        plan = plan_run(run, settings=settings)
        assert plan.ahead is not None and plan.ahead.costs is not None
        ranges = {each.name: each.low_usd is not None for each in plan.ahead.costs.options}
        assert ranges == {"serverless": True, "managed, around the clock": known}


def test_without_costs_there_is_nothing_to_move(tmp_path: Path) -> None:
    assert levers_of(*scoped_plan(make_run(tmp_path, []))) is None


def test_the_limits_ahead_come_in_the_order_in_which_they_are_reached(run: Run) -> None:
    quota = limits_ahead(example_plan())
    assert [(each.limit, each.months) for each in quota] == [("tokens per minute", None), ("requests per minute", None)]
    assert quota[0].factor == pytest.approx(1 / 0.75625)
    plan = plan_run(run, settings=PlanConfig(growth_per_month=0.1))
    dated = limits_ahead(plan)
    assert plan.ahead is not None and plan.ahead.costs is not None
    growth = [each for each in plan.ahead.costs.growth if "costs what" not in each.limit]  # a choice is no limit
    assert [each.months for each in dated] == [each.months for each in growth]
    months = {"2026-11": 0, "2026-12": 1, "2027-01": 2, "2027-11": 12}
    assert all(months[each.month or ""] == each.months for each in dated if each.month in months)
    assert limits_ahead(replace(plan, started_utc="whenever"))[0].month is None
