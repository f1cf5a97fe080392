"""Of many arrivals some are replayed: they stand for all, and each phase of the minute is replayed as if it were alone."""

import math
from dataclasses import replace
from io import StringIO

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from dashboards.quota_told import need_in_words, print_quota_plan
from loadgen.errors import ConfigError
from loadgen.quota import MINUTE_NS, Quota
from planner.demand import ARRIVALS, Demand
from planner.quota import replayed, what_if
from planner.quotas import deployments as needs
from planner.quotas import parts
from planner.quotas.admitted import TooLarge
from planner.quotas.asked import Asked
from planner.quotas.deployments import quota_need
from planner.quotas.doors import windows
from planner.quotas.parts import MOST_OF_ONE, Part
from planner.quotas.quota_plan import quota_plan
from planner.quotas.replay import Door

QUOTA = Quota(tokens_per_minute=20_000, requests_per_minute=300)


def swaying(hours, per_minute, seed=1):
    """Poisson arrivals that sway from hour to hour and from minute to minute, with a burst of eight minutes."""
    draw = np.random.default_rng(seed)
    minutes = np.arange(60 * hours)
    level = np.exp(0.4 * np.sin(minutes / 60 * 2 * math.pi / 8) + 0.3 * draw.standard_normal(len(minutes)))
    level[len(level) // 3 : len(level) // 3 + 8] *= 3
    counts = draw.poisson(per_minute * level)
    at_ns = np.sort(np.repeat(minutes, counts) * MINUTE_NS + draw.integers(0, MINUTE_NS, counts.sum()))
    tokens = np.rint(draw.lognormal(5, 0.8, len(at_ns))).astype(np.int64)
    return Asked(at_ns - at_ns[0], tokens)


@pytest.mark.parametrize("slice_s", [60, 10, 1])
def test_each_phase_of_the_minute_is_refused_what_it_is_alone(slice_s):
    door = Door(swaying(1, 400), replace(windows(QUOTA)["minute"], request_slice_s=slice_s))
    phases_ns = (0, 7 * 10**9 + 1, 59 * 10**9)
    for deployments in (1, 3, 4):
        together = list(door.refusals_in(deployments, phases_ns))
        alone = [replace(door, phase_ns=phase_ns).refusals(deployments) for phase_ns in phases_ns]
        assert [codes.tolist() for codes in together] == [codes.tolist() for codes in alone]
        assert any(codes.any() for codes in alone)


@pytest.mark.parametrize("window", ["minute", "bucket 60 s", "bucket 10 s", "sliding"])
def test_some_stretches_refuse_the_share_that_all_of_them_do(monkeypatch, window):
    door = Door(swaying(100, 200), windows(QUOTA)[window])  # 1.3 million
    for deployments in (2, 3):
        ((asked, lost),) = Part.of_deployments(door, deployments).in_phases((0,))
        monkeypatch.setattr(parts, "MOST_OF_ONE", 120_000)
        ((asked_of_some, lost_of_some),) = Part.of(door, deployments).in_phases((0,))
        monkeypatch.undo()
        assert len(lost_of_some) == len(lost) and asked_of_some.sum() == door.fits.sum()
        assert lost_of_some.sum() / asked_of_some.sum() == pytest.approx(lost.sum() / asked.sum(), rel=0.1, abs=0.001)


def test_minutes_that_are_replayed_are_told_as_they_were_and_those_with_room_refuse_nothing(monkeypatch):
    door = Door(swaying(100, 200), windows(QUOTA)["minute"])
    monkeypatch.setattr(parts, "MOST_OF_ONE", 120_000)
    some = Part.of(door, 2)
    ((asked, lost),) = some.in_phases((0,))
    refused = (some.door.refusals(some.deployments) != 0) & some.door.fits
    own_asked, own_lost = (
        np.bincount(some.door.asked.minutes[which], minlength=len(asked))[some.replayed]
        for which in (some.door.fits, refused)
    )
    assert lost[some.replayed] / asked[some.replayed] == pytest.approx(own_lost / own_asked)
    room = np.maximum(*door.loads) < 1.5
    assert room.sum() > 200 and not lost[room].any()


def test_no_more_is_replayed_than_a_few_seconds_allow_and_of_less_all_is(monkeypatch):
    asked = swaying(100, 200)
    door = Door(asked, windows(QUOTA)["sliding"])
    assert Part.of(door, 1).replayed is None or len(asked.at_ns) > MOST_OF_ONE
    monkeypatch.setattr(parts, "MOST_OF_ONE", 100_000)
    some = Part.of(door, 2)
    assert some.replayed is not None and len(some.door.at_ns) <= 1.3 * 100_000  # a fifth leads in
    assert Part.of(door, 100).replayed is None


@pytest.mark.parametrize("slice_s", [60, 10, 1])
@pytest.mark.parametrize("window", ["minute", "bucket 60 s", "bucket 10 s", "sliding"])
def test_no_replay_refuses_fewer_than_what_is_known_without_one(window, slice_s):
    known = 0
    for seed, per_minute in enumerate((20, 150, 400, 900)):
        door = Door(swaying(0.2, per_minute, seed), replace(windows(QUOTA)[window], request_slice_s=slice_s))
        for phase_ns in (0, 23 * 10**9):
            door = replace(door, phase_ns=phase_ns)
            for deployments in (1, 2, 3, 5):
                least = door.least_refused(deployments)
                refused = (door.refusals(deployments) != 0) & door.fits
                assert 0 <= least <= refused.sum()
                known += least > 0.5 * refused.sum() > 0
    assert known > 4


@pytest.mark.parametrize("slice_s", [60, 10, 1])
@pytest.mark.parametrize("window", ["minute", "bucket 60 s", "bucket 10 s", "sliding"])
def test_who_is_never_full_refuses_nobody(window, slice_s):
    known = 0
    for seed, per_minute in enumerate((2, 10, 40, 150)):
        asked = swaying(0.2, per_minute, seed)
        tokens, requests = asked.busiest_second
        for more_tokens, more_requests in ((0, 0), (-1, 0), (0, -1)):
            quota = Quota(
                tokens_per_minute=60 * (tokens + more_tokens), requests_per_minute=60 * (requests + more_requests)
            )
            if not quota.requests_per_minute:
                continue
            door = Door(asked, replace(windows(quota)[window], request_slice_s=slice_s), 23 * 10**9)
            assert door.is_never_full is (more_tokens == more_requests == 0)
            assert not (door.is_never_full and door.refusals(1).any())
            known += door.is_never_full
    assert known == 4


def test_a_dense_demand_that_is_never_refused_needs_no_ten_minutes_of_it(monkeypatch):
    draw = np.random.default_rng(3)
    tokens = {name: draw.integers(1, 200, 1_500) for name in ARRIVALS if name != "at_s"}
    arrivals = pl.DataFrame({"at_s": np.sort(draw.uniform(0, 5, 1_500)), **tokens}).select(ARRIVALS)
    demand, roomy = (
        Demand(arrivals, 5.0, "five seconds"),
        Quota(tokens_per_minute=10_000_000, requests_per_minute=60_000),
    )
    whole = quota_need(demand, roomy, target_share=0.01)
    monkeypatch.setattr(needs, "MOST_REPEATED", 1_000)
    assert quota_need(demand, roomy, target_share=0.01) == whole and whole.deployments == 1
    tight = replace(roomy, tokens_per_minute=2_000_000)
    few = quota_need(demand, tight, target_share=0.01)
    assert few.deployments > 1
    monkeypatch.undo()
    assert quota_need(demand, tight, target_share=0.01) == few


ROWS = pl.DataFrame({"at_s": [0, 1, 2], "prompt_tokens": [10, 20, 30], "max_tokens": [5, 5, 5]})


@pytest.mark.parametrize("numbers", [np.int64(3), [3], (3,), range(3, 4), np.arange(3, 4), pl.Series([3]), {3}])
def test_numbers_of_deployments_are_whatever_counts_in_whole_numbers(numbers):
    assert what_if(ROWS, Quota(), numbers)["deployments"].to_list() == [3]


@pytest.mark.parametrize("numbers", [2.0, True, 0, -1, [1, 2.5], "3", np.array([1.0]), None, 1_000_001])
def test_what_is_no_number_of_deployments_is_a_mistake_that_is_named(numbers):
    with pytest.raises(ConfigError, match="deployments must be whole numbers from 1 to 1,000,000, not"):
        what_if(ROWS, Quota(), numbers)


def test_a_lazy_frame_is_read_and_what_is_no_frame_is_a_mistake_that_is_named():
    assert what_if(ROWS.lazy(), Quota(), 2).equals(what_if(ROWS, Quota(), 2))
    assert replayed(ROWS.lazy(), Quota(), 2).equals(replayed(ROWS, Quota(), 2))
    with pytest.raises(ConfigError, match="arrivals must be a polars frame, not dict"):
        what_if(ROWS.to_dict(), Quota(), 2)


def test_the_table_of_a_long_demand_is_of_its_busiest_arrivals_and_says_so(monkeypatch):
    monkeypatch.setattr("planner.quotas.quota_plan.MOST_IN_ROWS", 50)
    arrivals = pl.DataFrame({"at_s": np.arange(100) * 10.0, **dict.fromkeys(ARRIVALS[1:], 100)})
    plan = quota_plan(Demand(arrivals, 1_000.0, "steady"), Quota())
    console = Console(file=StringIO(), width=80)
    print_quota_plan(plan, console)
    assert plan.rows_of == 50 and "Of the busiest 50 arrivals:" in console.file.getvalue()


def test_as_many_may_be_too_large_as_may_be_refused():
    one = TooLarge(requests=1, of=100, largest_tokens=300_000, tokens_per_minute=200_000)
    assert (one.beyond(0.01), one.beyond(0.009)) == (False, True)


def test_of_a_demand_that_was_repeated_each_request_that_never_fits_counts_once():
    sizes = [300_000, *[100] * 59]
    arrivals = pl.DataFrame({"at_s": np.arange(60) * 1.0, "prompt_tokens": sizes, **dict.fromkeys(ARRIVALS[2:], 100)})
    demand = Demand(arrivals, 60.0, "x")
    assert max(each.never_fit for each in quota_need(demand, Quota()).by_policy) == 1


def test_a_demand_that_was_repeated_does_not_say_when_it_was_busiest():
    arrivals = pl.DataFrame({"at_s": np.arange(60) * 1.0, **dict.fromkeys(ARRIVALS[1:], 100)})
    busiest = [" ".join(need_in_words(quota_need(Demand(arrivals, span_s, "x"), Quota()))) for span_s in (60.0, 700.0)]
    assert "The busiest minute fills 0.1" in busiest[0] and "The busiest minute, at the start, fills" in busiest[1]
