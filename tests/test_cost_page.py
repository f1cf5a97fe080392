"""What a plan says of money: one rounding, drivers as sentences, and what was billed for nothing."""

from dataclasses import replace

import pytest

from dashboards import ahead
from dashboards.text import usd
from planner.cost_plan import plan_costs
from planner.costs.cost_case import CostRules
from planner.costs.spending import ScenarioCost, Spending, Wasted
from planner.costs.uncertainty import Driver
from tests.test_cost_plan import A100, PHI_3_MINI, conversations


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(12_345.6, "$12,346"), (699.36, "$699"), (99.999, "$100"), (99.99, "$99.99"), (12.3, "$12.30"), (0.0, "$0.00"), (0.00021, "$0.00021")],
)  # fmt: skip
def test_money_has_cents_below_a_hundred_dollars_and_none_above(amount, shown):
    assert usd(amount) == shown


def said(plan):
    return [str(line) for line in ahead.costs(plan) if hasattr(line, "plain")]


def driven(**changes):
    driver = Driver(name="demand", low_factor=0.79, high_factor=1.2, at_low_usd=1_394.2, at_high_usd=-699.36)
    of = (conversations(7.0), PHI_3_MINI, changes.get("sku"), changes.get("capacity"))
    return replace(plan_costs(*of, CostRules()), sensitivity=(driver,))


def test_a_driver_is_a_sentence_that_says_which_way_costs_more():
    line = said(driven(sku=A100, capacity=(2.0, 2.5, 3.0)))[-1]
    assert line == (
        "if the demand is 21 % lower, managed (around the clock) costs $1,394 a month more than serverless; "
        "20 % higher, $699 a month less"
    )


def test_with_one_way_to_serve_alone_a_driver_moves_its_cost():
    assert said(driven())[-1] == "if the demand is 21 % lower, $1,394 a month; 20 % higher, $-699 a month"


@pytest.mark.parametrize(
    ("capacity", "end"),
    [
        pytest.param((0.2, 0.25, 0.3), "never, as it serves 0.250/s within the objectives", id="measured at them"),
        pytest.param(None, "never, as it is taken to serve 0.500/s", id="a guess, that knows of none"),
    ],
)
def test_objectives_are_named_only_where_what_an_instance_serves_was_found_by_them(capacity, end):
    rules = CostRules(instances=3)
    plan = plan_costs(conversations(1.0), PHI_3_MINI, A100, capacity, rules)
    if capacity is None:
        plan = replace(plan, break_even=replace(plan.break_even, served_per_s=0.5))
        assert not [line for line in (*plan.doubts, *plan.options[1].what_must_be_true) if "objectives" in line]
    assert next(line for line in said(plan) if line.startswith("break-even")).endswith(end)


def test_what_each_scenario_cost_and_what_was_billed_for_nothing_is_said():
    of = {"attempts": 10, "usd": 0.1, "per_1m_tokens_usd": None}
    each = [ScenarioCost(scenario=name, per_request_usd=usd, **of) for name, usd in [("all", 0.02), ("chat", 0.01)]]
    one = Spending(usd=1.0, scenarios=tuple(each), failed_but_billed=(), failed_share=0.0)
    assert list(ahead.spent(one)) == []
    each.append(ScenarioCost(scenario="vision", per_request_usd=0.03, **of))
    wasted = (Wasted(outcome="broken_stream", attempts=7, usd=0.5),)
    lines = [str(line) for line in ahead.spent(replace(one, scenarios=tuple(each), failed_but_billed=wasted))]
    assert lines[0] == "a request of chat $0.010, vision $0.030"
    assert lines[1] == "$0.50 bought nothing: 7 attempts ended as broken stream, and are billed"
