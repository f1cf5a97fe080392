"""A plan for a load that nobody measured says so, however the load was asked for."""

from __future__ import annotations

import json

import polars as pl
import pytest

from loadgen.config import RunConfig
from planner.assemble import plan_run
from planner.demand import Demand, at_rate, demand_of_run
from tests.commands import told
from tests.runs import answered, make_run

NOT_MEASURED = "times the measured load; latency at that load was not measured"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Ten requests a second for a minute, of which a tenth were ended by max_tokens."""
    samples = [answered(i, i / 10, finish_reason="length" if i % 10 == 0 else "stop") for i in range(600)]
    config = RunConfig.model_validate({"load": {"rate": 10, "duration": 60, "warmup": 0, "cooldown": 0}})
    return make_run(tmp_path_factory.mktemp("doubts"), samples, config=config)


def test_a_rate_is_doubted_as_the_growth_that_it_comes_to(run):
    grown, rated = plan_run(run, growth=3.0), plan_run(run, demand=at_rate(demand_of_run(run), 30))
    assert rated.validity.doubts == grown.validity.doubts and rated.ahead.doubts == grown.ahead.doubts
    assert any(f"3 {NOT_MEASURED}" in each for each in rated.validity.doubts)
    assert any("max_tokens ended 10 % of the answers" in each for each in rated.ahead.doubts)


@pytest.mark.parametrize(
    ("why", "every_s", "times"),
    [
        ("a third of the rate was measured", 0.3, None),
        ("twice the rate was not", 0.05, 2),
        ("nor a busiest minute twice as full, in ten minutes that ask for less on average", (0.05, 600.0), 2),
    ],
)
def test_a_trace_is_doubted_where_its_mean_or_its_busiest_minute_was_not_measured(run, why, every_s, times):
    every_s, span_s = every_s if isinstance(every_s, tuple) else (every_s, 1_200 * every_s)
    once = demand_of_run(run).arrivals.with_columns(prompt_tokens=pl.lit(700, pl.Int64))
    arrivals = pl.concat([once, once]).with_columns(at_s=pl.int_range(1_200) * every_s)
    found = plan_run(run, demand=Demand(arrivals, span_s, "a trace")).validity.doubts
    told_times = [each for each in found if NOT_MEASURED in each]
    assert [f"the plan is for {times} {NOT_MEASURED}"] * (times is not None) == told_times, why


@pytest.mark.parametrize(
    ("per_s", "times"),
    [
        pytest.param(10.7, None, id="more than was measured by what may be chance"),
        pytest.param(11.0, 1.1, id="by more than that"),
    ],
)
def test_what_chance_adds_to_a_rate_is_no_other_load(run, per_s, times):
    found = plan_run(run, demand=at_rate(demand_of_run(run), per_s)).validity.doubts
    assert any(f"for {times} {NOT_MEASURED}" in each for each in found) == (times is not None)
    assert any(NOT_MEASURED in each for each in found) == (times is not None)


def test_a_trace_of_the_runs_own_requests_is_doubted_by_how_fast_they_come(run):
    own = demand_of_run(run)
    faster = Demand(own.arrivals.with_columns(pl.col("at_s") / 4), own.span_s / 4, "the trace that was played slowly")
    for growth, times in ((1.0, 4), (2.0, 8)):
        found = plan_run(run, demand=faster, growth=growth).validity.doubts
        assert any(f"for {times} {NOT_MEASURED}" in each for each in found), found


def test_what_a_step_of_a_sweep_measured_is_no_unmeasured_load(run):
    steps = pl.DataFrame({"rate_per_s": [5.0, 10.0, 30.0]})
    beyond = {
        per_s: plan_run(run, demand=at_rate(demand_of_run(run), per_s), steps=steps).validity.doubts
        for per_s in (30, 60)
    }
    assert [any(NOT_MEASURED in each for each in found) for found in beyond.values()] == [False, True]
    assert any(f"for 2 {NOT_MEASURED}" in each for each in beyond[60])


TAKEN = "max_tokens is taken to be 128 in each request"


@pytest.mark.parametrize(
    ("flags", "says", "not_says"),
    [
        ((), f"{TAKEN}, and 100% of the answers end there: give --max-tokens", "of the trace"),
        (("--completion-tokens", "fixed:100"), f"{TAKEN}: give --max-tokens", "end there"),
        (("--max-tokens", "150"), "max_tokens is 150 in each request, and 100% of the answers end there", "taken"),
        (("--max-tokens", "400"), "no latency was measured at this load", "max_tokens is"),
    ],
)
def test_without_a_run_what_the_limit_was_taken_to_be_is_a_doubt(tmp_path, flags, says, not_says):
    asked = ("--demand", "1/s", "--prompt-tokens", "fixed:300", "--completion-tokens", "fixed:200", *flags)
    done = told(tmp_path, "plan", *asked, "--json")
    found = " | ".join(json.loads(done.stdout)["doubts"])
    assert says in found and not_says not in found and "no latency was measured at this load" in found


def test_what_a_run_folder_asked_for_is_planned_without_its_latencies_and_says_where_they_are(run, tmp_path):
    doubts = json.loads(told(tmp_path, "plan", "--demand", run.folder, "--json").stdout)["doubts"]
    assert [each.partition(":")[0] for each in doubts] == ["this takes of the run only what it asked for"]


def test_the_doubts_of_a_trace_are_printed(tmp_path):
    (tmp_path / "trace.csv").write_text(
        "at_s,prompt_tokens,completion_tokens\n" + "".join(f"{t},9,9\n" for t in range(90))
    )
    text = " ".join(told(tmp_path, "plan", "--demand", "trace.csv").stdout.split())
    assert "doubt no latency was measured at this load" in text
    assert "doubt max_tokens is taken to be what each request of the trace got" in text


@pytest.mark.parametrize("asked", [("RUN",), ("--demand", "trace.csv")])
def test_a_limit_that_would_change_nothing_is_refused(tmp_path, asked):
    done = told(tmp_path, "plan", *asked, "--max-tokens", "400")
    assert done.returncode == 2 and "--max-tokens" in done.stderr
