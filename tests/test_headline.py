"""The headline is a sentence that one would say in a meeting: headroom first, then on what condition."""

import pytest

from loadgen.config import PlanConfig
from loadgen.slo import Slo
from planner.assemble import plan_run
from planner.limits_ahead import reached_by_growth
from planner.together import together
from tests.runs import answered, refused
from tests.test_one_answer import MET
from tests.test_page import managed_run
from tests.test_plan_of_targets import run_of
from tests.test_planner import config, steady_run

pytestmark = pytest.mark.aside

TOKENS = "one deployment's tokens per minute"
SMALL = {"quota": {"tokens_per_minute": 50_000, "requests_per_minute": 1_000}}


def measured(plan):
    """Without what to run."""
    return plan.headline.removesuffix("" if plan.ahead is None else plan.ahead.recommendation).rstrip()


OF_ONE = {  # the objectives, the quota, what is planned, and the sentence
    "within the quota": (
        [],
        {},
        {},
        f"1.46 times this load of 10 requests/s fits into {TOKENS}; no objective was set.",
    ),
    "just within it": (
        [],
        {"tokens_per_minute": 136_801},
        {},
        f"This load of 10 requests/s just fits into {TOKENS}; no objective was set.",
    ),
    "over it": (
        [],
        {"tokens_per_minute": 100_000},
        {},
        f"No headroom: at 10 requests/s the busiest minute asked for 1.37 times {TOKENS}; 2 deployments would serve "
        "the planned 10 requests/s; no objective was set.",
    ),
    "an objective met": (
        ["ttft.p95<1s"],
        {},
        {},
        f"1.46 times this load of 10 requests/s fits into {TOKENS}; ttft.p95<1s was met.",
    ),
    "one missed of two": (
        ["ttft.p95<100ms", "ttfb.max<1s"],
        {},
        {},
        f"No headroom: ttft.p95<100ms was missed (200 ms) at 10 requests/s; 1.46 times this load fits into {TOKENS}.",
    ),
    "growth": (
        [],
        {},
        {"growth": 3},
        f"1.46 times this load of 10 requests/s fits into {TOKENS}; 3 deployments would serve the planned 30 "
        "requests/s; no objective was set.",
    ),
    "growth each month": (
        [],
        {},
        {"settings": PlanConfig(growth_per_month=0.05)},
        f"1.46 times this load of 10 requests/s fits into {TOKENS}; growing by 5% each month it reaches the tokens "
        "per minute of 1 deployment in 8 months; no objective was set.",
    ),
}


@pytest.mark.parametrize("case", OF_ONE)
def test_of_one_deployment_it_begins_with_the_headroom(tmp_path, case):
    slos, quota, asked, sentence = OF_ONE[case]
    run = steady_run(tmp_path, config=config(slo=slos, quota=quota))
    assert measured(plan_run(run, **asked)) == sentence


def test_what_was_refused_is_said_after_it(tmp_path):
    run = steady_run(tmp_path, sample=lambda i, t: answered(i, t) if i % 10 else refused(i, t))
    assert f"fits into {TOKENS}; 10% of the attempts were refused (429); no objective was set." in measured(
        plan_run(run)
    )


def test_an_invalid_run_says_nothing_but_why(tmp_path):
    plan = plan_run(steady_run(tmp_path, state="running"))
    assert measured(plan).startswith("Invalid run, do not plan from it: the run never finished")


OF_SEVERAL = {  # the targets, how they share the load, and how the sentence begins
    "by turns": (({}, SMALL), "round_robin", "1.83 times this load of 4 requests/s to 2 targets fits into t1's tokens"),
    "each all of it": (({}, {}), "each", "7.31 times this load of 2 requests/s to each of 2 targets fits into t0's"),
    "of two kinds": (
        ({}, {"kind": "managed"}),
        "round_robin",
        "4 requests/s to 2 targets were offered, with no objective to meet.",
    ),
}


@pytest.mark.parametrize("case", OF_SEVERAL)
def test_of_several_targets_it_is_that_of_the_first_that_is_full(tmp_path, case):
    targets, split, sentence = OF_SEVERAL[case]
    assert measured(plan_run(run_of(tmp_path, *targets, split=split), slos=[])).startswith(sentence)


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    return managed_run(tmp_path_factory.mktemp("managed"), 8)


OF_INSTANCES = {  # what is asked, and the sentence: of instances there is headroom where their capacity is known
    "one load alone": (
        {},
        "Both objectives were met at 8 requests/s; how much more fits is not known: one load says nothing of another.",
    ),
    "one objective": (
        {"slos": [Slo.parse("ttft.p95<1s")]},
        "ttft.p95<1s was met at 8 requests/s; how much more fits is not known: one load says nothing of another.",
    ),
    "none": (
        {"slos": []},
        "8 requests/s were offered, with no objective to meet; how much more fits is not known: no objective says how "
        "slow is too slow.",
    ),
    "one that is missed": (
        {"slos": [Slo.parse("ttft.p95<1ms")]},
        "No headroom: ttft.p95<1ms was missed (62 ms) at 8 requests/s.",
    ),
    "the rate of a sweep": (
        {"swept": MET},
        "The busiest minute of 8 requests/s just fits into the one instance planned; both objectives were met.",
    ),
}


@pytest.mark.parametrize("case", OF_INSTANCES)
def test_of_instances_it_says_how_much_more_they_serve_or_why_nobody_knows(managed, case):
    asked, sentence = OF_INSTANCES[case]
    assert measured(plan_run(managed, **asked)) == sentence


def test_of_a_deployment_whose_instances_are_stated_it_is_their_headroom(tmp_path):
    """And not that of those planned, which are as few as do."""
    plan = plan_run(managed_run(tmp_path, 8, instances=3), swept=MET)
    assert (plan.ahead.instances, plan.ahead.room.instances, plan.ahead.room.planned) == (1, 3, False)
    assert plan.ahead.room.factor == pytest.approx(3 * MET.rate_per_s / 8)
    assert (
        measured(plan)
        == "3 times this load of 8 requests/s fits into the 3 instances measured; both objectives were met."
    )


def test_a_load_that_kept_the_objectives_fits_into_the_instances_that_served_it(tmp_path):
    """Though it is more than what is planned with, a step that met and went before."""
    plan = plan_run(managed_run(tmp_path, 8.2, instances=1), swept=MET)
    assert measured(plan) == (
        "This load of 8.2 requests/s just fits into the one instance measured; both objectives were met."
    )
    room = plan.ahead.room
    assert (room.factor, room.serves_per_s) == (1, room.busiest_per_s)


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    """Runs of one deployment, and what they say of an instance: 51 requests/s at the low end."""
    folder = tmp_path_factory.mktemp("curve")
    found = together([managed_run(folder, rate).folder for rate in (2, 8, 16, 24, 32)])
    return found.lead, {"steps": found.steps, "settings": PlanConfig(max_concurrency=64)}


def test_a_load_that_nobody_knows_to_have_kept_the_objectives_has_no_headroom_beyond_that(tmp_path, curve):
    few = plan_run(managed_run(tmp_path, 60, instances=1, seconds=0.2), **curve[1])
    assert few.ahead.room.factor < 1
    said = measured(few)
    assert said.startswith("No headroom: at 60 requests/s the busiest minute asked for 1.")
    assert "times what the one instance serves; too few samples to judge ttft.p95<1s" in said


def test_instances_that_a_simulation_found_enough_are_said_to_serve_the_busiest_minute(curve):
    """A little above the low end of what one serves."""
    lead, known = curve
    ahead = plan_run(lead, **known, growth=1.62).ahead
    assert ahead.fleet.instances == 1 and ahead.capacity.low < 32 * 1.62
    assert (ahead.room.factor, ahead.room.serves_per_s) == (1, ahead.room.busiest_per_s)


def test_a_limit_that_is_reached_already_is_not_passed_over_for_the_next(tmp_path):
    """The tokens are, as the headline has said; the requests would be in 11 months."""
    run = steady_run(
        tmp_path, config=config(slo=[], quota={"tokens_per_minute": 136_700, "requests_per_minute": 1_000})
    )
    plan = plan_run(run, settings=PlanConfig(growth_per_month=0.05))
    assert [row.months for row in reached_by_growth(plan)] == [0, 11]
    assert measured(plan).startswith(f"No headroom: at 10 requests/s the busiest minute asked for more than {TOKENS};")
    assert "each month" not in measured(plan)
