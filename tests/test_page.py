"""The one page: what to run and what it costs; several runs; and plain words where nothing can be said."""

import json
import random

import pytest

from loadgen.config import RunConfig
from loadgen.errors import ConfigError, RunFolderError
from loadgen.slo import Slo
from planner.advice import impossible
from planner.assemble import plan_run
from planner.together import together
from tests.commands import told
from tests.runs import answered, make_run, synthetic_run

pytestmark = pytest.mark.aside

SLOS = ("ttft.p95<1s", "itl.p95<60ms")


def managed_run(tmp_path, rate_per_s, *, seconds=40, model="Phi-3-mini-4k-instruct", name=None, **target):
    """Requests of 400 and 20 tokens at one instance whose tokens take 10 ms and 0.5 ms for each request in flight."""
    in_flight = 1.0
    for _ in range(200):
        in_flight = rate_per_s * (0.06 + 19 * (0.010 + 0.0005 * in_flight))
    itl_s, dice = 0.010 + 0.0005 * in_flight, random.Random(rate_per_s)
    samples, gaps = [], []
    for seq in range(round(rate_per_s * seconds)):
        first_s = (0.03 + 2 * itl_s) * dice.lognormvariate(0, 0.1)
        known = {"prompt_tokens": 400, "completion_tokens": 20, "chunks": 20}
        samples.append(answered(seq, 5 + seq / rate_per_s, ttft_s=first_s, service_s=first_s + 19 * itl_s, **known))
        gaps.append((seq, 0, [round(itl_s * 1e6)] * 19))
    config = RunConfig.model_validate(
        {
            "load": {"rate": rate_per_s, "duration": seconds + 5, "warmup": 5},
            "slo": SLOS,
            "target": {"kind": "managed", "model": model, **target},
        }
    )
    return make_run(tmp_path, samples, gaps, config=config, name=name or f"run-{rate_per_s}")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    return [managed_run(folder, rate).folder for rate in (2, 8, 16, 24, 32)]


@pytest.fixture(scope="module")
def serverless(tmp_path_factory):
    return synthetic_run(tmp_path_factory.mktemp("serverless"), n=300)


def test_runs_of_one_deployment_are_planned_together_from_the_busiest(several, tmp_path):
    done = told(tmp_path, "plan", *several, "--max-concurrency", "64", "--spare", "1", "--json")
    plan = json.loads(done.stdout)
    assert plan["run_ids"][0] == "run-32-0001" and len(plan["run_ids"]) == 5
    assert plan["traffic"]["requests_per_s"] == pytest.approx(32, rel=0.05)
    capacity, fleet = plan["ahead"]["capacity"], plan["ahead"]["fleet"]
    assert capacity["low"] <= capacity["rate_per_s"] <= capacity["high"]
    assert capacity["steps_used"] == 5
    assert fleet["instances"] == fleet["needed"] + 1
    assert {option["name"] for option in plan["ahead"]["costs"]["options"]} >= {
        "serverless",
        "managed, around the clock",
    }


def test_one_load_says_nothing_of_another(several, tmp_path):
    ahead = json.loads(told(tmp_path, "plan", several[0], "--json").stdout)["ahead"]
    assert ahead["capacity"] is None and "headroom sweep" in ahead["capacity_unknown"]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"model": "Phi-3-medium-4k-instruct"}, "the model of the first is phi-3-mini-4k, of the second phi-3-medium"),
        ({"kind": "serverless"}, "the kind of the first is managed, of the second serverless"),
        ({"instances": 3}, "the instances of the first is 1, of the second 3"),
        ({"url": "http://127.0.0.1:9"}, "the deployment of the first is"),
    ],
)
def test_runs_of_different_deployments_are_refused_naming_what_differs(several, tmp_path, changes, differs):
    other = managed_run(tmp_path, 2, seconds=5, name="other", **changes)
    with pytest.raises(ConfigError, match="are not of one deployment") as caught:
        together([several[0], other.folder])
    assert differs in str(caught.value)


def test_runs_without_any_arrival_are_refused(tmp_path):
    empty = [make_run(tmp_path, [], name=name).folder for name in ("one", "two")]
    with pytest.raises(RunFolderError, match="nothing to plan from"):
        together(empty)


def test_an_impossible_objective_is_named_with_the_fastest_answer(serverless, tmp_path):
    done = told(tmp_path, "plan", serverless.folder, "--slo", "ttft.p95<1ms", "--json")
    assert done.returncode == 2
    assert "--slo: ttft.p95<1ms is impossible here: the fastest of" in done.stderr
    assert json.loads(done.stdout)["ahead"]["recommendation"].startswith("None: ttft.p95<1ms is impossible here")
    assert impossible(serverless, [Slo.parse("ttft.p95<1s")]) == []


def test_an_invalid_run_leads_with_that_and_ends_with_4(tmp_path):
    run = make_run(tmp_path, [answered(i, 5 + i / 10) for i in range(50)], state="running")
    done = told(tmp_path, "plan", run.folder)
    assert done.returncode == 4
    assert done.stdout.lstrip().startswith("INVALID")
    assert "no figure below, costs included, can be relied on." in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--region", "mars"), "--region: the price book knows no price in 'mars'; it knows centralus, eastus"),
        (("--growth", "many"), "--growth: 'many' is no factor"),
        (("--growth", "0x"), "--growth: '0x' is no factor"),
        (("--spare", "-1"), "--spare -1: "),
        (("--demand", "-3/s"), "--demand: '-3/s' is no rate above 0"),
        (("--growth", "0"), "--growth: '0' is no factor above 0"),
        (("--sku", "Standard_Nothing"), "the price book has no 'Standard_Nothing'; it has"),
        (("--demand", "0/s"), "--demand: '0/s' is no rate"),
        (("--prompt-tokens", "5"), "go without a run"),
    ],
)
def test_what_cannot_be_planned_is_said_and_ends_with_2(serverless, tmp_path, options, message):
    done = told(tmp_path, "plan", serverless.folder, *options)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_bad_row_of_a_trace_is_named_by_its_line(serverless, tmp_path):
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0,5,nine\n")
    done = told(tmp_path, "plan", serverless.folder, "--demand", "trace.csv")
    assert done.returncode == 2 and "line 2" in done.stderr


def test_a_quota_may_be_asked_for_instead_of_the_run_s_own(serverless, tmp_path):
    own, small = (
        json.loads(told(tmp_path, "plan", serverless.folder, *more, "--json").stdout)
        for more in ((), ("--tpm", "60000"))
    )
    assert small["quota"]["tokens_per_minute"] == 60_000
    assert small["ahead"]["need"]["deployments"] > own["ahead"]["need"]["deployments"]
    assert small["validity"] == own["validity"]  # of the run, which knew another quota


def test_a_demand_without_any_run_is_a_rate_and_lengths(tmp_path):
    asked = ("--prompt-tokens", "fixed:300", "--completion-tokens", "fixed:100", "--json")
    plan = json.loads(told(tmp_path, "plan", "--demand", "20/s", *asked).stdout)
    assert plan["need"]["deployments"] == 3  # 1,200 requests of 428 tokens a minute
    assert told(tmp_path, "plan", "--demand", "20/s").returncode == 2


def test_answers_without_any_usage_are_one_doubt_that_says_what_it_touches(tmp_path):
    unknown = {"usage_source": "estimated", "prompt_tokens": None, "completion_tokens": None}
    run = make_run(tmp_path, [answered(i, 5 + i / 10, ttft_s=0.1, **unknown) for i in range(100)])
    assert sum("no answer came with usage" in doubt for doubt in plan_run(run).validity.doubts) == 1


def test_too_few_samples_are_one_doubt(tmp_path):
    run = make_run(tmp_path, [answered(i, 5 + i / 10, ttft_s=0.1) for i in range(30)])
    (doubt,) = [each for each in plan_run(run).validity.doubts if "too few samples" in each]
    assert "for a p90, which needs 44" in doubt and "for a p99, which needs 459" in doubt


def test_what_several_instances_held_is_divided_by_them(tmp_path):
    one, three = (managed_run(tmp_path, 8, name=f"of-{n}", instances=n) for n in (1, 3))
    held = [plan_run(run).instances.concurrency_per_instance for run in (one, three)]
    assert held[1] == -(-held[0] // 3)


def test_the_page_is_readable_in_80_columns_and_plain_where_piped(serverless, tmp_path):
    done = told(tmp_path, "plan", serverless.folder, "--details", COLUMNS="80")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    for section in ("Recommendation", "Objectives", "Quota", "Cost", "Assumptions", "Formulas"):
        assert f"\n{section}\n" in done.stdout


def test_every_reading_of_gaps_counts_them_as_a_list_of_them_would(serverless):
    from planner.metrics import values, values_of

    counted = values_of(serverless, "itl")
    listed = values(serverless, "itl").collect()["value_ns"].sort().to_list()
    assert list(counted) == listed
    assert counted.mean() == pytest.approx(sum(listed) / len(listed))
    with pytest.raises(IndexError):
        counted[len(listed)]
