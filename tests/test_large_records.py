"""What is looked for cleverly in large records is what counting one by one finds."""

import random
from bisect import bisect_right

import numpy as np
import polars as pl
import pytest

from loadgen.config import RunConfig
from loadgen.samples import Phase
from loadgen.slo import Slo
from planner import demand as demands
from planner.assemble import plan_run
from planner.counts import counts_of
from planner.demand import Demand, demand_of_run, peaks_per_minute
from planner.metrics import METRICS, values_by_scenario, values_of
from planner.rows import steady_stretch
from planner.traffic import traffic
from tests.runs import answered, dropped, make_run, refused

CONFIG = RunConfig.model_validate({"load": {"rate": 10, "duration": 65, "warmup": 5}, "slo": ["ttfb.p50<9s"]})


@pytest.mark.parametrize(
    ("claim", "at_s"),
    [
        ("one arrival is a minute's most", [3.0]),
        ("what is exactly a minute apart is in two minutes", [0.5 * i for i in range(400)]),
        ("what comes at one instant is in one minute", [7.0] * 50 + [80.0] * 60),
        ("a burst of three seconds stands out of a steady load", sorted([i / 2 for i in range(600)] + [90.1] * 300)),
        ("arrivals at random", sorted(round(random.Random(1).uniform(0, 300), 9) for _ in range(2_000))),
        ("tenths of a second have ends", [i / 10 for i in range(1_500)]),
    ],
)
@pytest.mark.parametrize("many", [1, 1_000_000])
def test_the_busiest_minute_is_that_of_trying_each(monkeypatch, claim, at_s, many):
    monkeypatch.setattr(demands, "MANY", many)
    monkeypatch.setattr(demands, "BLOCK", 64)
    rng = random.Random(2)
    tokens = [rng.randint(1, 900) for _ in at_s]
    frame = pl.DataFrame({"at_s": at_s, "prompt_tokens": tokens, "max_tokens": 128, "completion_tokens": 9})
    at_ns, up_to = [round(at * 1e9) for at in at_s], np.cumsum([0, *tokens])
    minutes = [(bisect_right(at_ns, at - 60_000_000_000), i + 1) for i, at in enumerate(at_ns)]
    expected = [max(b - a for a, b in minutes), max(int(up_to[b] - up_to[a]) for a, b in minutes)]
    expected.append(128 * expected[0])
    amounts = (demands.REQUESTS, pl.col("prompt_tokens"), pl.col("max_tokens"))
    assert peaks_per_minute(Demand(frame, 400.0, "test"), *amounts) == expected, claim


@pytest.mark.parametrize("seed", range(4))
def test_the_most_in_flight_is_that_of_looking_at_each_instant(tmp_path, seed):
    rng = random.Random(seed)
    samples = []
    for seq in range(300):
        due_s, service_s = rng.choice([rng.uniform(0, 65), rng.randint(0, 65)]), rng.choice([1.0, rng.uniform(0, 20)])
        unknown = {"done_ns": None} if rng.random() < 0.02 else {}
        phase = Phase.WARMUP if due_s < 5 else Phase.STEADY
        samples.append(answered(seq, due_s, service_s=service_s, phase=phase, **unknown))
    run = make_run(tmp_path, samples, config=CONFIG)
    stretch = steady_stretch(run)
    sent = sorted(sample.sent_ns for sample in samples)
    done = sorted(sample.done_ns for sample in samples if sample.done_ns is not None)
    instants = {stretch.start_ns, *(at for at in (*sent, *done) if stretch.start_ns < at < stretch.end_ns)}
    most = max(bisect_right(sent, at) - bisect_right(done, at) for at in instants)
    assert traffic(run, demand_of_run(run), counts_of(run, stretch)).peak_in_flight == most


def test_an_arrival_counts_once_by_the_last_attempt_that_the_server_counted(tmp_path):
    samples = [
        answered(0, 6.0, prompt_tokens=10),
        refused(1, 7.0),
        answered(1, 7.0, attempt=1, prompt_tokens=20),
        refused(1, 7.0, attempt=2),
        refused(2, 8.0, estimated_prompt_tokens=30),
        refused(2, 8.0, attempt=1, estimated_prompt_tokens=40),
        dropped(3, 9.0, estimated_prompt_tokens=50),
    ]
    found = demand_of_run(make_run(tmp_path, samples, config=CONFIG)).arrivals
    assert found["prompt_tokens"].to_list() == [10, 20, 40, 50]
    out_of_order = [answered(0, 30.0, prompt_tokens=1), answered(1, 6.0, prompt_tokens=2)]
    found = demand_of_run(make_run(tmp_path, out_of_order, config=CONFIG, name="closed")).arrivals
    assert found.select("at_s", "prompt_tokens").rows() == [(1.0, 2), (25.0, 1)]


def test_values_that_are_read_together_are_those_that_are_read_alone(tmp_path):
    samples = [answered(i, 6 + i / 9, service_s=1 + i % 7, ttft_s=0.1 + i % 5 / 9) for i in range(0, 90, 2)]
    samples += [answered(i, 6 + i / 9, service_s=2 + i % 3, lag_s=i / 1e4) for i in range(1, 90, 2)]
    samples += [refused(90, 20.0), dropped(91, 21.0)]
    run = make_run(tmp_path, sorted(samples, key=lambda sample: sample.seq), [(0, 0, [5, 6])], config=CONFIG)
    together = {
        (name, scenario): list(map(float, found)) for name, scenario, found in values_by_scenario(run, *METRICS)
    }
    for name in METRICS:
        whole = list(map(float, values_of(run, name)))
        assert together[name, "all"] == whole == sorted(whole), name
        parts = [found for (metric, scenario), found in together.items() if metric == name and scenario != "all"]
        assert sorted(value for part in parts for value in part) == whole, name


@pytest.mark.parametrize("hours", [168, 40])
def test_what_a_month_costs_is_one_figure(tmp_path, hours):
    """Though of the refused no tokens are billed, and whatever the hours."""
    samples = [answered(i, 5 + i / 10, completion_tokens=20 + i % 60) for i in range(500)]
    samples += [refused(i, 5 + i / 10, estimated_prompt_tokens=900, reserved_tokens=1_028) for i in range(500, 600)]
    settings = {"hours_on_per_week": float(hours), "concurrency_per_instance": 8}
    config = CONFIG.model_copy(update={"plan": CONFIG.plan.model_copy(update=settings)})
    plan = plan_run(make_run(tmp_path, samples, config=config), slos=[Slo.parse("ttfb.p50<9s")])
    options = {option.name: option.per_month_usd for option in plan.ahead.costs.options}
    cheapest = f"${min(options.values()):,.0f}"
    assert plan.validity.valid, plan.validity.reasons
    assert f": {cheapest} (" in plan.ahead.recommendation
    assert plan.headline.endswith(plan.ahead.recommendation)
    if hours == 168:
        assert plan.serverless.per_month_usd == pytest.approx(options["serverless"])
