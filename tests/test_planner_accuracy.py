"""The serving model on load that was measured: what benchmarks/planner_accuracy.py prints stays as good."""

from statistics import mean, median

import numpy as np
import polars as pl
import pytest

from benchmarks.planner_accuracy import (
    DATA,
    Scores,
    add_guess,
    by_line,
    by_persistence,
    families,
    left_out_errors,
    saturated_rates,
    score,
    sweeps_of,
)
from planner.capacity import CapacityError, fit

measured = pytest.mark.skipif(not (DATA / "kubecon_inferenceperf.json").is_file(), reason=f"no measured load in {DATA}")


@pytest.fixture(scope="module")
def next_steps():
    """By model, its errors in predicting the next step of 16 measured sweeps from the first four to seven."""
    found = {name: Scores() for name in ("ours", "persistence", "line")}
    for rows in sweeps_of(DATA).values():
        for k in (4, 5, 6, 7):
            score(found["ours"], fit(pl.DataFrame(rows[:k])), rows[k])
            add_guess([found["persistence"]], by_persistence(rows[:k], rows[k]), rows[k])
            add_guess([found["line"]], by_line(rows[:k], rows[k]), rows[k])
    return found


@measured
def test_the_next_step_is_predicted_within_a_few_percent(next_steps):
    ours = next_steps["ours"]
    assert median(ours.errors["itl_mean_ms"]) <= 0.03
    assert median(ours.errors["ttft_p95_ms"]) <= 0.04
    assert np.quantile(ours.errors["load"], 0.9) <= 0.08


@measured
@pytest.mark.parametrize("other", ["persistence", "line"])
def test_it_is_nearer_than_what_needs_no_model(next_steps, other):
    for name in ("itl_mean_ms", "load"):
        ours, theirs = (next_steps[each].errors[name] for each in ("ours", other))
        assert median(ours) < median(theirs)
        assert np.quantile(ours, 0.9) < np.quantile(theirs, 0.9)


@measured
@pytest.mark.parametrize("name", ["itl_mean_ms", "ttft_p95_ms", "load"])
def test_what_is_measured_next_lies_within_the_90_percent_interval(next_steps, name):
    assert mean(next_steps["ours"].covered[name]) >= 0.88


@pytest.mark.long
@measured
def test_a_workload_that_was_left_out_follows_from_the_others():
    sweeps = sweeps_of(DATA)
    found = left_out_errors(sweeps)
    assert found["itl_mean_ms"] <= 0.05
    assert found["ttft_p50_ms"] <= 0.11


@measured
def test_the_saturated_rate_follows_from_the_cap_where_the_steps_can_say():
    found = {name: said for name, _, said, _ in saturated_rates(DATA)}
    refused = [name for name, said in found.items() if isinstance(said, CapacityError)]
    assert refused == ["vllm+v0_engine"]  # its third stage was beyond the cap already
    for name, _, said, served in saturated_rates(DATA):
        if name not in refused:
            assert said.value == pytest.approx(served, rel=0.06), name
            assert said.low <= served <= said.high, name


def test_servers_made_up_of_any_form_are_predicted_with_honest_intervals():
    found = Scores()
    for sweeps in families(seed=11, noise=0.01, count=4).values():
        for rows, _, _ in sweeps:
            score(found, fit(pl.DataFrame(rows[:6])), rows[6])
    assert median(found.errors["itl_mean_ms"]) <= 0.03
    assert mean(found.covered["itl_mean_ms"]) >= 0.88
    assert mean(found.covered["load"]) >= 0.8
