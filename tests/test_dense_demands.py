"""A demand that is short and dense is repeated no longer than its answer takes: ten minutes of it are gigabytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from loadgen.quota import Quota
from planner.demand import ARRIVALS, Demand
from planner.quotas import admitted
from planner.quotas import deployments as needs
from planner.quotas.deployments import fewest_deployments, quota_need

QUOTA = Quota(tokens_per_minute=2_000_000, requests_per_minute=60_000)


@pytest.fixture(scope="module")
def demand():
    """Three hundred requests a second for five seconds, of which three are larger than any bucket of ten seconds."""
    draw = np.random.default_rng(3)
    tokens = {name: draw.integers(1, 200, 1_500) for name in ARRIVALS if name != "at_s"}
    tokens["prompt_tokens"][[7, 700, 1_400]] = 400_000
    arrivals = pl.DataFrame({"at_s": np.sort(draw.uniform(0, 5, 1_500)), **tokens}).select(ARRIVALS)
    return Demand(arrivals, 5.0, "five seconds")


@pytest.mark.parametrize("minutes", [1, 2, 5])
def test_fewer_minutes_of_a_demand_that_is_refused_need_as_many_deployments(demand, monkeypatch, minutes):
    ten = admitted.as_recorded(quota_need(demand, QUOTA), demand)
    monkeypatch.setattr(needs, "MOST_REPEATED", 1_000)
    for module in (needs, admitted):
        monkeypatch.setattr(module, "MOST_HELD", minutes * 60 * 300)
    read = []
    monkeypatch.setattr(needs, "door_of", lambda arrivals, way: read.append(arrivals.height) or door_of(arrivals, way))
    few = admitted.as_recorded(quota_need(demand, QUOTA), demand)
    assert max(read) == minutes * 60 * 300
    assert few.deployments == ten.deployments > 1
    assert [each.never_fit for each in few.by_policy] == [each.never_fit for each in ten.by_policy]
    assert {each.never_fit for each in few.by_policy} == {0, 3}


door_of = needs.door_of


def test_a_number_alone_is_that_of_the_whole_plan(demand, monkeypatch):
    whole = quota_need(demand, replace(QUOTA, request_slice_s=10), target_share=0.01).deployments
    monkeypatch.setattr(needs, "MOST_REPEATED", 3 * 60 * 300)
    assert fewest_deployments(demand, replace(QUOTA, request_slice_s=10), target_share=0.01) == whole
