"""A demand that is short and dense is repeated no longer than its answer takes: ten minutes of it are gigabytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from loadgen.quota import NS_PER_S, Quota
from planner.assemble import plan_run
from planner.demand import ARRIVALS, Demand
from planner.quotas import deployments as needs
from planner.quotas.deployments import fewest_deployments, quota_need
from tests.runs import synthetic_run

QUOTA = Quota(tokens_per_minute=700_000, requests_per_minute=20_000)


@pytest.fixture(scope="module")
def demand():
    """A hundred requests a second for five seconds, of which three are larger than any bucket of ten seconds."""
    draw = np.random.default_rng(3)
    tokens = {name: draw.integers(1, 200, 500) for name in ARRIVALS if name != "at_s"}
    tokens["prompt_tokens"][[7, 200, 400]] = 150_000
    arrivals = pl.DataFrame({"at_s": np.sort(draw.uniform(0, 5, 500)), **tokens}).select(ARRIVALS)
    return Demand(arrivals, 5.0, "five seconds")


def in_fewer_minutes(monkeypatch, per_s, minutes):
    """Holds so many of a demand of that rate, though it is small; returns what is read."""
    monkeypatch.setattr(needs, "MOST_REPEATED", 1_000)
    monkeypatch.setattr(needs, "MOST_HELD", minutes * 60 * per_s)
    read = []
    monkeypatch.setattr(needs, "door_of", lambda arrivals, way: read.append(arrivals.height) or door_of(arrivals, way))
    return read


door_of = needs.door_of


@pytest.fixture(scope="module")
def ten(demand):
    """The need of ten minutes of it."""
    return quota_need(demand, QUOTA, phases=2)


@pytest.mark.parametrize("minutes", [1, 2, 5])
def test_fewer_minutes_of_a_demand_that_is_refused_need_as_many_in_every_way(demand, ten, monkeypatch, minutes):
    read = in_fewer_minutes(monkeypatch, 100, minutes)
    few = quota_need(demand, QUOTA, phases=2)
    assert max(read) == minutes * 60 * 100
    assert [each.deployments for each in few.by_policy] == [each.deployments for each in ten.by_policy]
    assert [each.never_fit for each in few.by_policy] == [each.never_fit for each in ten.by_policy]
    assert few.by_policy[0].deployments > few.by_policy[1].deployments > 1
    assert {each.never_fit for each in few.by_policy} == {0, 3}


def bursty(span_s, per_s):
    """Half of all come in the first second."""
    draw = np.random.default_rng(3)
    count = int(span_s * per_s)
    at_s = np.concatenate((draw.uniform(0, 1, count // 2), draw.uniform(0, span_s, count - count // 2)))
    tokens = {name: draw.integers(1, 200, count) for name in ARRIVALS if name != "at_s"}
    return Demand(pl.DataFrame({"at_s": np.sort(at_s), **tokens}).select(ARRIVALS), span_s, "a burst")


@pytest.mark.parametrize("span_s", [23.0, 59.0])
@pytest.mark.parametrize("minutes", [1, 3])
def test_a_bucket_sees_the_bursts_of_a_dense_demand_as_far_apart_as_they_are(monkeypatch, span_s, minutes):
    demand, quota = bursty(span_s, 40), Quota(tokens_per_minute=80_000, requests_per_minute=3_000)
    ten = quota_need(demand, quota, phases=1)
    in_fewer_minutes(monkeypatch, 40, minutes)
    few = quota_need(demand, quota, phases=1)
    for found, whole in zip(few.by_policy, ten.by_policy, strict=True):
        if found.window.startswith("bucket"):
            assert abs(found.deployments - whole.deployments) <= 1, found


@pytest.mark.parametrize("tokens_per_minute", [60_000, 59_999_999], ids=["exact", "one by one"])
def test_buckets_that_are_carried_on_refuse_whom_they_would_at_a_stretch(tokens_per_minute):
    arrivals = bursty(45.0, 40).arrivals
    scaled = arrivals.with_columns(pl.col("prompt_tokens") * (tokens_per_minute // 60_000))
    way = replace(Quota(tokens_per_minute=tokens_per_minute, requests_per_minute=700), burst_s=10.0)
    again = door_of(scaled, way)
    times = pl.concat([scaled.with_columns(pl.col("at_s") + 45.0 * turn) for turn in range(4)])
    for deployments in (1, 3, 6, 20):  # whole rounds of the deal
        carried = np.concatenate(list(again.refusals_again(deployments, 4, 45 * NS_PER_S)))
        assert np.array_equal(carried, door_of(times, way).refusals(deployments)), deployments
        assert carried.any() == (deployments < 20), deployments


def with_large_ones_at_its_end(demand, count):
    late = pl.int_range(pl.len()) >= demand.arrivals.height - count
    tokens = pl.when(late).then(5_000_000).otherwise(pl.col("prompt_tokens")).alias("prompt_tokens")
    return replace(demand, arrivals=demand.arrivals.with_columns(tokens))


@pytest.mark.parametrize("held", [8, 10])
def test_what_never_fits_is_counted_once_though_the_minutes_hold_no_whole_number_of_repetitions(monkeypatch, held):
    in_fewer_minutes(monkeypatch, 100, held)
    demand, quota = bursty(45.0, 100), Quota(tokens_per_minute=4_000_000, requests_per_minute=60_000)
    need = quota_need(with_large_ones_at_its_end(demand, 9), quota, phases=1)
    assert {each.never_fit for each in need.by_policy if each.admission == "prompt+max_tokens"} == {9}


def test_so_it_is_in_the_table_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("planner.scope.MOST_ARRIVALS", 1_000)
    demand = with_large_ones_at_its_end(bursty(50.0, 10), 40)
    assert {row.never_fit for row in plan_run(synthetic_run(tmp_path, n=60), demand=demand).what_if} == {40}


def test_a_number_alone_is_that_of_the_whole_plan(demand, monkeypatch):
    whole = quota_need(demand, replace(QUOTA, request_slice_s=10), target_share=0.01).deployments
    monkeypatch.setattr(needs, "MOST_REPEATED", 3 * 60 * 100)
    assert fewest_deployments(demand, replace(QUOTA, request_slice_s=10), target_share=0.01) == whole
