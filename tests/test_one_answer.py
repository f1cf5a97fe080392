"""A plan does not contradict itself: one recommendation, of what was measured, and nothing taken for known that is not."""

import json
from dataclasses import replace

import pytest

from dashboards.drawings import draw
from dashboards.report import render
from loadgen.config import PlanConfig, RunConfig
from loadgen.quota import Quota
from loadgen.slo import Slo
from planner.assemble import plan_run
from planner.demand import as_recorded, at_rate, demand_of_run, grown
from planner.instances import SweptCapacity
from planner.objectives import goodput
from planner.prices import read_prices
from planner.quotas.quota_plan import quota_plan
from planner.together import together
from tests.commands import told
from tests.runs import answered, make_run, synthetic_run
from tests.test_page import managed_run

pytestmark = pytest.mark.aside

MET = SweptCapacity(rate_per_s=8, concurrency=5.57, instances=1, stated=True, missed_per_s=10)


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    return managed_run(tmp_path_factory.mktemp("managed"), 8)


@pytest.fixture(scope="module")
def serverless(tmp_path_factory):
    return synthetic_run(tmp_path_factory.mktemp("serverless"), n=300)


@pytest.mark.parametrize(
    ("target", "quota", "said"),
    [
        ({"dialect": "openai"}, Quota(), True),
        ({"dialect": "openai"}, Quota(tokens_per_minute=60_000), False),
        ({"dialect": "openai", "kind": "managed"}, Quota(), False),
        ({}, Quota(), False),  # which is Azure's
    ],
)
def test_a_quota_that_nobody_gave_is_said_to_be_taken(tmp_path, target, quota, said):
    run = synthetic_run(tmp_path, n=60, target={"url": "http://127.0.0.1:1", **target}, quota=quota)
    taken = "the quota is taken to be Azure's 200,000 tokens and 1,000 requests a minute"
    assert any(each.startswith(taken) for each in plan_run(run).ahead.doubts) is said
    given = plan_run(run, quota=Quota(tokens_per_minute=50_000))
    assert not any("is taken to be" in each for each in given.ahead.doubts)


def longer(run):
    """The run's demand, with prompts and answers eight times as long."""
    demand = demand_of_run(run)
    tokens = ("prompt_tokens", "completion_tokens", "max_tokens")
    return replace(demand, arrivals=demand.arrivals.with_columns(*(demand.arrivals[name] * 8 for name in tokens)))


@pytest.mark.parametrize("asked", [{}, {"growth": 4.0}, {"settings": PlanConfig(spare=2)}, {"swept": MET}])
def test_the_headline_ends_in_the_recommendation_word_for_word(managed, asked):
    plan = plan_run(managed, **asked)
    assert plan.headline.endswith(plan.ahead.recommendation)
    assert "in eastus" in plan.headline
    assert plan.headline.count("a month") == plan.ahead.recommendation.count("a month")


def test_a_sweep_is_planned_from_by_its_rates_where_they_are_too_few_for_a_curve(managed):
    ahead = plan_run(managed, swept=MET, growth=3.0).ahead
    assert (ahead.capacity.rate_per_s, ahead.capacity.low, ahead.capacity.high) == (8, 8, 10)
    assert (ahead.capacity.grade, ahead.capacity_unknown) == ("measured", None)
    assert ahead.instances == -(-plan_run(managed, growth=3.0).instances.peak_requests_per_s // 8)
    spared = plan_run(managed, swept=MET, growth=3.0, settings=PlanConfig(spare=1)).ahead
    assert spared.instances == ahead.instances + 1
    static = next(each for each in spared.costs.options if each.name == "managed, around the clock")
    assert static.instances == spared.instances
    assert plan_run(managed, swept=MET).instances.concurrency_per_instance == 6  # 5.57 held; it has just served this


def test_the_rate_of_a_sweep_holds_for_its_own_objectives_alone(managed):
    ahead = plan_run(managed, swept=MET, slos=[Slo.parse("ttft.p95<2s")]).ahead
    assert ahead.capacity is None and "the sweep was of other objectives" in ahead.capacity_unknown


def test_what_short_requests_showed_is_not_applied_to_long_ones(managed, tmp_path):
    plan = plan_run(managed, swept=MET, demand=longer(managed))
    assert plan.ahead.capacity is None
    for said in (plan.ahead.capacity_unknown, *[each for each in plan.ahead.doubts if "s a request" in each]):
        assert "400 prompt and 20 completion tokens" in said and "3,200 prompt and 160 completion tokens" in said
    assert any("s a request" in each for each in plan.ahead.doubts)
    assert "whether managed compute is cheaper is not known" in plan.ahead.recommendation


def test_a_curve_of_short_requests_says_nothing_of_long_ones(tmp_path):
    folders = [managed_run(tmp_path, rate).folder for rate in (2, 8, 16, 24, 32)]
    found = together(folders)
    known = {"steps": found.steps, "settings": PlanConfig(max_concurrency=64)}
    assert plan_run(found.lead, **known).ahead.capacity is not None
    assert plan_run(found.lead, **known, demand=longer(found.lead)).ahead.capacity is None


def test_a_guess_wins_nothing_and_has_no_probability(serverless):
    ahead = plan_run(serverless).ahead
    assert "a guess, 8 requests at once (--concurrency-per-instance" in ahead.instances_guessed
    assert ", against $2,681 for 1 instance of managed compute, the least" in ahead.recommendation
    three = plan_run(serverless, settings=PlanConfig(min_instances=3)).ahead
    assert ", against $8,044 for 3 instances of managed compute, the least" in three.recommendation
    usual = plan_run(serverless, settings=PlanConfig(hours_on_per_week=40)).ahead
    assert usual.instances == 2 and usual.costs.options[1].per_month_usd == pytest.approx(2 * 658, abs=2)
    assert ", against $658 for 1 instance of managed compute, the least" in usual.recommendation
    assert ahead.costs.probability_managed_cheaper is None and ahead.costs.sensitivity == ()
    assert all(each.probability_cheaper is None for each in ahead.costs.options)
    given = plan_run(serverless, settings=PlanConfig(concurrency_per_instance=12))
    assert given.ahead.instances_guessed is None and "guess" not in given.headline
    assert given.instances.concurrency_per_instance == 12


@pytest.mark.parametrize("held", [None, 12], ids=["guessed", "given"])
def test_without_a_price_of_instances_no_flag_says_whether_they_are_cheaper(serverless, held):
    of_tokens_alone = replace(read_prices(), hosts={})
    settings = PlanConfig(concurrency_per_instance=held)
    said = plan_run(serverless, price_book=of_tokens_alone, settings=settings).ahead.recommendation
    assert "cheaper is not known: the book has no price of it for Phi-3" in said
    assert "--concurrency-per-instance" not in said and said.startswith("Serverless with ")


def test_what_a_flag_does_not_change_is_said(managed):
    cap = plan_run(managed, settings=PlanConfig(max_concurrency=64)).ahead
    assert any("--max-concurrency" in each and "changes nothing here" in each for each in cap.doubts)
    held = plan_run(managed, swept=MET, settings=PlanConfig(concurrency_per_instance=3)).ahead
    assert any("--concurrency-per-instance" in each and "changes nothing here" in each for each in held.doubts)


def test_requests_that_never_fit_are_counted_once_and_nothing_is_recommended(serverless, tmp_path):
    n = demand_of_run(serverless).arrivals.height
    done = told(tmp_path, "plan", serverless.folder, "--tpm", "100", "--json")
    plan = json.loads(done.stdout)
    assert done.returncode == 2 and f"{n} of {n} requests are larger than a quota of 100 tokens a minute" in done.stderr
    assert plan["ahead"]["recommendation"].startswith(f"None: {n} of {n} requests")
    assert plan["ahead"]["need"] is None and plan["serverless"] is None
    assert {row["never_fit"] for row in plan["what_if"]} == {n}
    assert "deployment would" not in plan["headline"] and "deployments would" not in plan["headline"]


def test_a_demand_without_a_run_that_never_fits_ends_with_2(tmp_path):
    asked = ("--prompt-tokens", "fixed:300", "--completion-tokens", "fixed:100", "--tpm", "100")
    done = told(tmp_path, "plan", "--demand", "20/s", *asked)
    assert done.returncode == 2 and "the largest counts 428, so it takes --tpm 428 or more" in done.stderr


def test_times_are_those_of_the_record_whatever_the_growth(serverless):
    demand = at_rate(demand_of_run(serverless), 600)
    assert demand.span_s < 1 and demand.recorded_s == pytest.approx(demand_of_run(serverless).span_s)
    assert as_recorded(demand).span_s == pytest.approx(demand.recorded_s)
    ahead = plan_run(serverless, demand=demand).ahead
    assert ahead.need.binds_when.busiest_minute_s == 0  # it is all of a minute, however often it is repeated
    assert any("spans 47.5 s" in each for each in ahead.doubts) and not any("0.4" in each for each in ahead.doubts)


def test_the_busiest_minute_of_a_trace_played_faster_is_where_it_was_recorded(tmp_path):
    bursts = [t / 2 for t in range(2_400)] + [900 + t / 10 for t in range(600)]  # twenty minutes, the sixteenth full
    run = make_run(tmp_path, [answered(i, at) for i, at in enumerate(sorted(bursts))])
    demand = grown(demand_of_run(run), 2)
    when = quota_plan(demand, RunConfig().quota).need.binds_when
    assert when.busiest_minute_s == pytest.approx(15 * 60, abs=120)


@pytest.mark.parametrize("n", [3, 600])
def test_an_impossible_objective_is_impossible_whatever_n(tmp_path, n):
    run = make_run(tmp_path, [answered(i, 5 + i / 10, ttft_s=0.1) for i in range(n)])
    ahead = plan_run(run, slos=[Slo.parse("ttft.p95<50ms")]).ahead
    assert ahead.recommendation.startswith("None: ttft.p95<50ms is impossible here")


def test_goodput_says_how_many_good_requests_have_no_ttft_to_be_good_by(tmp_path):
    samples = [answered(i, 5 + i / 10, ttft_s=0.1 if i % 4 else None) for i in range(40)]
    run = make_run(tmp_path, samples)
    assert goodput(run, [Slo.parse("ttft.p95<1s")]).without == 10
    assert goodput(run, [Slo.parse("response_time.p95<1s")]).without == 0
    assert "of these without a stream" in told(tmp_path, "plan", run.folder, "--slo", "ttft.p95<1s").stdout


def test_ways_that_save_nothing_over_the_same_instances_are_left_out(managed):
    names = [each.name for each in plan_run(managed, swept=MET).ahead.costs.options]
    assert sorted(names) == ["managed, around the clock", "serverless"]
    usual = plan_run(managed, swept=MET, settings=PlanConfig(hours_on_per_week=40)).ahead.costs.options
    assert "managed, off outside the hours on" in [each.name for each in usual]


def test_the_sweep_that_is_advised_is_of_ones_own_objectives(serverless):
    ahead = plan_run(serverless, slos=[Slo.parse("itl.p95<70ms")]).ahead
    assert "--slo 'itl.p95<70ms'" in ahead.capacity_unknown


@pytest.mark.parametrize("flag", [("--spare", "1"), ("--region", "eastus"), ("--slo", "ttft.p95<1s")])
def test_a_flag_that_does_nothing_without_a_run_is_refused(tmp_path, flag):
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0,5,9\n")
    done = told(tmp_path, "plan", "--demand", "trace.csv", *flag)
    assert done.returncode == 2 and f"{flag[0]}: without a RUN" in done.stderr


def test_the_page_says_what_to_run_before_what_may_be_doubted(serverless, tmp_path):
    lines = told(tmp_path, "plan", serverless.folder, COLUMNS="80").stdout.splitlines()
    assert lines[0].lstrip().startswith("VALID")
    places = [next(at for at, line in enumerate(lines) if line.startswith(word)) for word in ("Recomm", "  doubt")]
    assert places == sorted(places)
    assert not [line for line in lines if line != line.rstrip()]
    assert sum("Serverless with" in line for line in lines) == 1


def test_the_tables_of_a_demand_without_a_run_fit_80_columns_with_whole_headings(tmp_path):
    asked = ("--prompt-tokens", "fixed:300", "--completion-tokens", "fixed:100")
    lines = told(tmp_path, "plan", "--demand", "20/s", *asked, COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80 and not [line for line in lines if "…" in line or line != line.rstrip()]
    assert not [line for line in lines if "With max_tokens at most 100" in line]  # which would save no deployment


def test_the_report_counts_instances_as_the_recommendation_does(managed):
    plan = plan_run(managed, swept=MET, growth=4.0)
    page = render(plan, managed.manifest, draw(managed, plan))
    assert "Each way to serve it" in page and "time in system" not in page
    assert f"{plan.ahead.instances} instances" in page
