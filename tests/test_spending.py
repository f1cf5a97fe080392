"""What a run has cost: by scenario, by the steady phase, and for nothing."""

from datetime import date

import pytest

from loadgen.samples import Outcome, Phase
from planner.assemble import plan_run
from planner.costs.spending import spending
from planner.counts import counts_of
from planner.demand import demand_of_run
from planner.prices import TokenPrice
from planner.rows import steady_stretch
from planner.traffic import traffic
from tests.runs import answered, make_run, refused

DOLLARS = TokenPrice(model="m", input_usd_per_1k=1.0, output_usd_per_1k=10.0, source="here", dated=date(2026, 1, 1))


def whole(run):
    return counts_of(run, steady_stretch(run))


@pytest.fixture
def run(tmp_path):
    wasted = {"completion_tokens": 10, "usage_source": "server"}
    return make_run(
        tmp_path,
        [
            answered(0, 1.0, phase=Phase.WARMUP, prompt_tokens=100_000),
            *(answered(seq, 6.0 + seq) for seq in (1, 2)),
            answered(3, 9.0, ttft_s=0.1, completion_tokens=150),
            refused(4, 10.0),
            answered(5, 11.0, outcome=Outcome.FILTERED, **wasted),
            answered(6, 12.0, outcome=Outcome.BROKEN_STREAM, **wasted),
            answered(7, 13.0, outcome=Outcome.BROKEN_STREAM, completion_tokens=None, usage_source="estimated"),
        ],
    )


def test_a_request_costs_what_it_does_in_the_steady_phase_not_in_the_warm_up(run):
    spent = spending(whole(run), DOLLARS)
    together, chat, streaming = spent.scenarios
    assert (together.scenario, together.attempts) == ("all", 5)
    assert together.usd == pytest.approx(5 * 0.1 + 10 * (0.05 + 0.05 + 0.15 + 0.01 + 0.01))
    assert together.per_request_usd == pytest.approx(together.usd / 5)
    assert (chat.scenario, chat.attempts, chat.usd) == ("chat", 4, pytest.approx(0.4 + 1.2))
    assert (streaming.scenario, streaming.per_request_usd) == ("streaming", pytest.approx(0.1 + 1.5))
    assert streaming.per_1m_tokens_usd == pytest.approx(1.6 / 250 * 1e6)
    flow = traffic(run, demand_of_run(run), whole(run))
    assert flow.billed_requests == 5
    assert (flow.billed_prompt_tokens, flow.billed_completion_tokens) == (100.0, pytest.approx(270 / 5))


def test_the_run_has_cost_its_warm_up_too(run):
    assert spending(whole(run), DOLLARS).usd == pytest.approx(
        spending(whole(run), DOLLARS).scenarios[0].usd + 100.0 + 0.5
    )


def test_what_failed_and_is_billed_is_waste_and_what_was_refused_is_not(run):
    spent = spending(whole(run), DOLLARS)
    assert [(each.outcome, each.attempts) for each in spent.failed_but_billed] == [
        ("broken_stream", 1),
        ("filtered", 1),
    ]
    assert [each.usd for each in spent.failed_but_billed] == [pytest.approx(0.2), pytest.approx(0.2)]
    assert spent.failed_share == pytest.approx(0.4 / spent.usd)


def test_a_run_in_which_nothing_is_billed_has_cost_nothing(tmp_path):
    spent = spending(whole(make_run(tmp_path, [refused(0, 6.0)])), DOLLARS)
    assert (spent.usd, spent.scenarios, spent.failed_but_billed, spent.failed_share) == (0.0, (), (), 0.0)


def test_what_is_planned_costs_what_requests_do_after_the_warm_up(tmp_path):
    cold = [answered(seq, 1.0 + seq / 10, phase=Phase.WARMUP, prompt_tokens=4_000) for seq in range(20)]
    run = make_run(tmp_path, [*cold, *(answered(seq, 5.0 + (seq - 20) / 10) for seq in range(20, 620))])
    costs = plan_run(run).serverless
    assert costs.per_request_usd == pytest.approx(0.1 * 0.00013 + 0.05 * 0.00052)
    assert costs.so_far_usd == pytest.approx(620 * costs.per_request_usd + 20 * 3.9 * 0.00013)


def test_a_plan_says_what_its_run_spent_by_scenario_and_for_nothing(run):
    plan = plan_run(run)
    spent = plan.ahead.spending
    assert [each.scenario for each in spent.scenarios] == ["all", "chat", "streaming"]
    assert spent.usd == pytest.approx(plan.serverless.so_far_usd)
    assert spent.failed_but_billed
