"""A plan of several targets: what is said of each, what of all together, and what cannot be."""

import io
import re

import pytest
from rich.console import Console

from dashboards.report import write_report
from dashboards.terminal import print_plan
from loadgen.config import RunConfig
from planner.assemble import plan_run
from planner.demand import at_rate, demand_of_run
from tests.runs import answered, make_run, refused

pytestmark = pytest.mark.aside

OWN_PRICE = {"usd_per_1k_prompt": 1.0, "usd_per_1k_completion": 2.0}
SLOW_S, FAST_S = 2.0, 0.5


def run_of(tmp_path, *targets, split="round_robin", quota=None, n=240, **load):
    """A minute of requests, dealt in turn; the second target takes four times as long as the others."""
    tables = [{"name": f"t{place}", "url": f"https://t{place}", **table} for place, table in enumerate(targets)]
    sections = {
        "target": tables,
        "load": {"rate": 4.0, "duration": 60.0, "warmup": 0.0, "split": split, **load},
        "quota": quota or {},
        "slo": ["response_time.p95<1s"],
    }
    samples = [
        answered(seq, seq / 4, service_s=SLOW_S if seq % len(tables) == 1 else FAST_S, target=f"t{seq % len(tables)}")
        for seq in range(n)
    ]
    return make_run(tmp_path, samples, config=RunConfig.model_validate(sections))


def printed(plan, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_plan(plan, console)
    return console.file.getvalue()


def test_one_target_has_no_table_of_targets_and_its_own_quota_counts(tmp_path):
    plan = plan_run(run_of(tmp_path, {"quota": {"tokens_per_minute": 60_000}, **OWN_PRICE}))
    assert plan.targets == ()
    assert (plan.quota.tokens_per_minute, plan.quota.target, plan.target) == (60_000, None, "https://t0")
    assert plan.serverless.per_request_usd == pytest.approx(0.1 * 1.0 + 0.05 * 2.0)
    assert "Targets" not in printed(plan)


def test_of_equal_targets_the_demand_is_replayed_against_more_such_deployments(tmp_path):
    plan = plan_run(run_of(tmp_path, {}, {}, quota={"tokens_per_minute": 40_000}))
    assert plan.quota.tokens_per_minute == 80_000
    assert plan.what_if and plan.serverless.deployments == 2
    assert {row.deployments for row in plan.what_if} >= {1, 2}


def test_who_misses_the_objective_is_named(tmp_path):
    plan = plan_run(run_of(tmp_path, {}, {}))
    assert [target.slos[0].met for target in plan.targets] == [True, False]
    assert "t1 missed it" in plan.headline
    p50 = {t.name: row.p50.value_ms for t in plan.targets for row in t.latency if row.metric == "service_time"}
    assert p50 == {"t0": 500.0, "t1": 2_000.0}


def test_the_first_target_at_its_limit_ends_the_headroom_unless_arrivals_go_to_where_there_is_room(tmp_path):
    small = {"quota": {"tokens_per_minute": 50_000, "requests_per_minute": 1_000}}
    of_each = plan_run(run_of(tmp_path / "turn", {}, small))
    assert (of_each.quota.target, of_each.quota.binds) == ("t1", "tokens")
    assert of_each.quota.headroom == of_each.targets[1].quota.headroom < of_each.targets[0].quota.headroom
    shared = plan_run(run_of(tmp_path / "least", {}, small, split="least_throttled"))
    assert shared.quota.target is None and shared.quota.headroom > of_each.quota.headroom
    assert "fits into the targets' tokens per minute" in shared.headline
    assert "fits into t1's tokens per minute" in of_each.headline


UNSAID = [  # the targets, how they share the load, what is not said of them together, and why
    (({}, {"kind": "managed"}), "weight", {"quota", "what_if", "serverless", "instances"}, "Serverless and managed"),
    (({}, {"quota": {"admission": "usage"}}), "weight", {"quota", "what_if"}, "count tokens differently"),
    (({}, {"quota": {"tokens_per_minute": 9_000}}), "weight", {"what_if"}, "quotas differ"),
    (({"model": "Phi-3-mini-4k-instruct"}, {"model": "Phi-4"}), "weight", {"instances"}, "different models"),
    (({}, {}), "each", {"what_if", "serverless", "instances"}, "given the whole load"),
    (({}, {"model": "no such"}), "weight", {"serverless", "instances"}, "no price per token for no such"),
]


@pytest.mark.parametrize(("tables", "split", "unsaid", "why"), UNSAID)
def test_what_targets_have_not_in_common_is_left_out_and_why_is_said(tmp_path, tables, split, unsaid, why):
    plan = plan_run(run_of(tmp_path, *tables, split=split))
    figures = {"quota": plan.quota, "what_if": plan.what_if, "serverless": plan.serverless, "instances": plan.instances}
    assert {name for name, figure in figures.items() if not figure} == unsaid
    assert any(why in assumption for assumption in plan.assumptions)
    assert len(plan.targets) == 2 and plan.targets[0].serverless is not None
    assert (plan.targets[1].quota is None) is (tables[1].get("kind") == "managed")


def test_of_a_demand_that_was_not_measured_no_target_gets_a_share(tmp_path):
    run = run_of(tmp_path, {}, OWN_PRICE)
    plan = plan_run(run, demand=at_rate(demand_of_run(run), 20))
    assert plan.serverless is None and plan.what_if
    assert any("share the demand is not known" in line for line in plan.assumptions)


def test_a_target_that_got_nothing_says_nothing(tmp_path):
    run = run_of(tmp_path, {}, {}, {}, n=1)
    plan = plan_run(run)
    assert [target.traffic.planned for target in plan.targets] == [1, 0, 0]
    assert [target.quota for target in plan.targets[1:]] == [None, None]
    assert "t2" in printed(plan)


def test_a_refusal_is_a_doubt_of_the_target_that_refused(tmp_path):
    config = {"target": [{"name": "t0", "url": "https://t0"}, {"name": "t1", "url": "https://t1"}]}
    samples = [*(answered(seq, 6 + seq / 4, target="t0") for seq in range(200)), refused(900, 20.0, target="t1")]
    plan = plan_run(make_run(tmp_path, samples, config=RunConfig.model_validate(config)))
    (first, second) = (doubt for doubt in plan.validity.doubts if "429" in doubt)
    assert first.startswith("1 of 1 attempts were answered 429 by t1") and second.startswith("429 came by t1 although")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_tables_hold_every_target_whatever_its_name(tmp_path, width):
    names = ("<script>[red]\x1b[31m", "{{ 1 }}")
    samples = [answered(seq, 6 + seq / 4, ttft_s=0.1, target=names[seq % 2]) for seq in range(100)]
    tables = [{"name": name, "url": "https://x"} for name in names]
    run = make_run(tmp_path, samples, config=RunConfig.model_validate({"target": tables}))
    plan = plan_run(run)
    text = printed(plan, width)
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= width
    assert "[red][31m" in re.sub(r"\s", "", text)
    write_report(run, plan, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text().partition("<script>")
    assert "&lt;script&gt;[red][31m" in page[0] and "\x1b" not in page[0] + page[2]
