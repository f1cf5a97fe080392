"""The parts of a cost plan, each against figures worked out by hand, brute force or simulation."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.costs.demand_path import DAY_S, demand_path, unsaid_by
from planner.costs.following import follow, instances_needed, reserve
from planner.costs.growth import limits_reached, months_until, week_profile
from planner.costs.hybrid import base_instances, load_duration, serverless_usd_per_s, worth_of_instances
from planner.costs.uncertainty import (
    AS_PLANNED,
    Worlds,
    bootstrapped_mean,
    draw_worlds,
    log_normal,
    range_90,
    tornado,
)
from planner.demand import ARRIVALS, HOUR_S, Demand


def demand_of(at_s, span_s, prompt=100, completion=50):
    n = len(at_s)
    columns = zip(
        ARRIVALS, (np.sort(np.array(at_s, float)), *([each] * n for each in (prompt, 64, completion))), strict=True
    )
    schema = {name: pl.Float64 if name == "at_s" else pl.Int64 for name in ARRIVALS}
    return Demand(pl.DataFrame(dict(columns), schema=schema), span_s, "a test")


def hourly(counts, hour_s=HOUR_S):
    """Counts an hour, evenly through each."""
    at_s = [hour * hour_s + (i + 0.5) * hour_s / n for hour, n in enumerate(counts) for i in range(n)]
    return demand_of(at_s, len(counts) * hour_s)


# --- the path ---


def test_a_path_keeps_every_request_and_token():
    path = demand_path(demand_of([0, 10, 70, 100, 199.9], 200.0))
    assert (path.measured, path.bin_s) == (3, pytest.approx(200 / 3))
    assert path.requests_per_s * path.bin_s == pytest.approx([2, 2, 1])
    assert path.mean_requests_per_s == pytest.approx(5 / 200)
    assert path.mean_tokens_per_s == pytest.approx(5 * 150 / 200)
    assert path.output_share == pytest.approx(1 / 3)
    assert path.on_share == 1


@pytest.mark.parametrize(("span_s", "at_s"), [(0.0, []), (10.0, [1, 2]), (60.0, [60.0])])
def test_a_path_of_less_than_a_minute_or_nothing_is_one_bin(span_s, at_s):
    path = demand_path(demand_of(at_s, span_s))
    assert path.measured == 1
    assert path.mean_requests_per_s == pytest.approx(len(at_s) / (span_s or 60.0))


def test_the_hours_off_of_a_short_demand_are_added_with_their_share_of_the_load():
    path = demand_path(hourly([60, 120]), hours_on_per_week=42, off_hours_load_share=0.1)
    assert path.share.sum() == pytest.approx(1)
    assert path.on_share == pytest.approx(0.25)
    assert path.mean_requests_per_s == pytest.approx(0.025 * (0.25 + 0.75 * 0.1))


def test_the_hours_off_of_a_week_are_its_quietest():
    path = demand_path(hourly([60] * 60 + [3] * 108), hours_on_per_week=60)
    assert path.on.sum() == 60 * 60
    assert path.on[: 60 * 60].all()
    assert len(path.share) == path.measured == 168 * 60


@pytest.mark.parametrize(
    ("span_s", "words"),
    [
        (55, "spans 55 s"),
        (3 * HOUR_S, "nights and weekends"),
        (3 * DAY_S, "of weekends and other days"),
        (8 * DAY_S, "of other weeks"),
    ],
)
def test_what_a_demand_is_too_short_to_say_is_said(span_s, words):
    assert words in unsaid_by(demand_path(demand_of([1], span_s)))


def test_four_weeks_say_what_a_month_is():
    assert unsaid_by(demand_path(demand_of([1], 28 * DAY_S))) is None


def test_growth_multiplies_the_rates_and_leaves_the_hours():
    once, thrice = (demand_path(hourly([60, 120]), growth=growth) for growth in (1, 3))
    assert (thrice.span_s, thrice.arrivals) == (once.span_s, once.arrivals) == (7_200, 180)
    assert thrice.requests_per_s == pytest.approx(3 * once.requests_per_s)
    assert thrice.mean_tokens_per_s == pytest.approx(3 * once.mean_tokens_per_s)
    assert thrice.peak_requests_per_s == pytest.approx(3 * once.peak_requests_per_s)


@pytest.mark.parametrize("hours", [0, -1, 169])
def test_a_week_has_168_hours(hours):
    with pytest.raises(ValueError, match="h on a week"):
        demand_path(demand_of([1], 60.0), hours_on_per_week=hours)


# --- instances that follow ---


def test_instances_are_the_ceiling_and_rounding_makes_no_more():
    needed = instances_needed(np.array([0, 0.1, 0.3, 0.31, 3 * 0.1]), 0.1, least=1, spare=0)
    assert needed.tolist() == [1, 1, 3, 4, 3]
    assert instances_needed(np.array([0.0, 1.0]), 1.0, least=2, spare=2).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("claim", "needed", "hours"),
    [
        ("what is always needed boots never", [2, 2, 2], 6.0),
        ("a gap no longer than the hold is kept through", [1, 0, 1, 1], 4.0),
        ("a longer one costs the hold and a boot", [1, 0, 0, 0, 1, 1], 3 + 1 + 1),
        ("hold and boot are no longer than the gap", [1, 0, 0, 1], 2 + 2),
        ("the gap may lie over the end", [0, 1, 1, 1, 0, 0], 3 + 1 + 1),
        ("each instance has its own gaps", [2, 1, 1, 1, 2], 5 + 2 + 2),
        ("one that is needed once comes back the next time round", [0, 1, 0, 0, 0], 1 + 2),
        ("none needed, none billed", [0, 0], 0.0),
    ],
)
def test_following_bills_use_hold_and_boot(claim, needed, hours):
    shares = follow(np.array(needed), boot_bins=1.0)
    assert shares.sum() * len(needed) == pytest.approx(hours), claim


def test_an_instance_is_billed_for_no_more_than_the_whole_of_a_gap():
    assert follow(np.array([1, 0, 0, 1]), boot_bins=1.5).sum() == 1


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.floats(0.1, 6.0))
def test_holding_for_a_boot_costs_at_most_twice_what_foresight_does(needed, boot_bins):
    """Foresight keeps an instance through a gap or lets it go at once, whichever is cheaper."""
    hours = follow(np.array(needed), boot_bins=boot_bins).sum() * len(needed)
    best_h = 0.0
    for level in range(1, max(needed) + 1):
        places = [i for i, n in enumerate(needed) if n >= level]
        gaps = [after - before - 1 for before, after in itertools.pairwise([*places, places[0] + len(needed)])]
        best_h += len(places) + sum(min(gap, boot_bins) for gap in gaps)
    assert best_h - 1e-9 <= hours <= 2 * best_h + 1e-9


# --- reservations ---


@pytest.mark.parametrize(
    ("reserved_usd", "instances"),
    [(0.9, 1), (0.6, 2), (0.5, 2), (0.2, 3), (0.05, 4), (1.0, 0), (1.2, 0)],
)
def test_the_kth_instance_is_reserved_iff_its_hours_pay_for_it(reserved_usd, instances):
    shares = np.array([1.0, 0.7, 0.3, 0.1])
    (found,) = reserve(shares, 1.0, {"1 Year": reserved_usd})
    totals = [(k * reserved_usd + shares[k:].sum()) * 730 for k in range(5)]
    assert found.instances == instances
    assert found.per_month_usd == pytest.approx(min(totals))
    assert found.saves_per_month_usd == pytest.approx(totals[0] - min(totals))
    assert found.committed_usd == pytest.approx(instances * reserved_usd * 8_760)


# --- hybrid ---


def priced(path):
    return serverless_usd_per_s(path, 0.5, 2.0)


def base_of(path, capacity_per_s, usd_per_hour):
    return base_instances(worth_of_instances(load_duration(path, priced(path)), capacity_per_s), usd_per_hour)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=12), st.floats(0.002, 0.1), st.floats(0.1, 20.0))
def test_no_other_base_of_a_hybrid_costs_less(counts, capacity_per_s, usd_per_hour):
    path = demand_path(hourly(counts))
    rates, usd_per_s = path.requests_per_s, priced(path)

    def total_usd(instances):
        beyond = [max(0, rate - instances * capacity_per_s) / rate if rate else 0 for rate in rates]
        return instances * usd_per_hour + float((path.share * usd_per_s * beyond).sum()) * 3_600

    most = math.ceil(float(rates.max()) / capacity_per_s)
    best_usd = min(total_usd(k) for k in range(most + 2))
    assert total_usd(base_of(path, capacity_per_s, usd_per_hour)) <= best_usd + 1e-6


def test_an_instance_is_worth_the_tokens_of_its_slice_of_the_load():
    path = demand_path(hourly([360, 720, 1_080]))  # 0.1, 0.2 and 0.3 a second, of 100 + 50 tokens at $0.15
    usd = 0.05 + 0.1
    worth = worth_of_instances(load_duration(path, priced(path)), 0.1)
    assert worth == pytest.approx([360 * usd, 360 * usd * 2 / 3, 360 * usd / 3, 0], abs=1e-9)
    assert base_of(path, 0.1, worth[1] - 0.01) == 2
    assert base_of(path, 0.1, worth[1]) == 1  # what only just pays for itself is no gain


def test_dearer_minutes_are_worth_more_than_as_many_cheap_ones():
    arrivals = pl.concat([demand_of([30.0], 60, completion=10).arrivals, demand_of([90.0], 60, completion=90).arrivals])
    path = demand_path(Demand(arrivals, 120.0, "a test"))
    usd_per_s = serverless_usd_per_s(path, 0.0, 1.0)
    assert usd_per_s * 60 == pytest.approx([0.01, 0.09])
    assert worth_of_instances(load_duration(path, usd_per_s), 1.0)[0] == pytest.approx((0.01 + 0.09) / 120 * 3_600)


# --- growth ---


@pytest.mark.parametrize(
    ("now", "at", "growth", "months"),
    [(100, 200, 1.0, 1), (100, 201, 1.0, 2), (100, 400, 1.0, 2), (100, 110, 0.05, 2), (100, 100, 0.05, 0), (300, 100, 0.0, 0), (100, 110, 0.0, None), (0, 1, 0.5, None), (100, 110, -0.1, None), (100, math.inf, 0.1, None), (1, 2, 1e-9, None)],
)  # fmt: skip
def test_the_month_in_which_growth_reaches_a_limit(now, at, growth, months):
    assert months_until(now, at, growth) == months


def test_the_limit_that_is_reached_first_stands_first():
    rows = limits_reached({"far": (1, 100), "near": (1, 1.5), "never": (0, 1)}, 0.1, break_even="far")
    assert [(row.limit, row.months) for row in rows] == [("near", 5), ("far", 49), ("never", None)]
    assert [row.break_even for row in rows] == [False, True, False]


def test_a_profile_takes_two_whole_weeks():
    week = [1 + hour % 24 for hour in range(168)]
    assert week_profile(hourly([*week, *week[:-1]])) is None
    profile = week_profile(hourly([*week, *(2 * n for n in week), 99]))
    assert profile.weeks == 2
    assert profile.median_requests_per_s[5] == pytest.approx(6 * 1.5 / 3_600)
    assert profile.p95_requests_per_s[5] == pytest.approx(12 / 3_600)
    assert profile.busiest_hour == 23
    assert profile.peak_to_average == pytest.approx(24 / 12.5)


# --- uncertainty ---


def test_a_capacity_lies_within_its_interval_in_90_of_100_draws_and_half_of_them_below_its_value():
    factors = log_normal((4.0, 5.0, 8.0), 200_000, np.random.default_rng(1))
    assert range_90(factors * 5).low == pytest.approx(4.0, rel=0.01)
    assert range_90(factors * 5).high == pytest.approx(8.0, rel=0.01)
    assert np.median(factors) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    "ends", [(0.0, 1.0, 2.0), (2.0, 1.0, 3.0), (1.0, 2.0, 1.5), (1.0, math.nan, 2.0), (1.0, 2.0, math.inf)]
)
def test_ends_that_are_no_interval_are_an_error(ends):
    with pytest.raises(ValueError, match="cannot lie between"):
        log_normal(ends, 10, np.random.default_rng(1))


def test_of_100_months_90_lie_within_the_range_that_two_weeks_foretell():
    """Days vary by a third, independently; 300 histories, each with a month of its own."""
    rng = np.random.default_rng(3)
    path = demand_path(hourly([1] * 14 * 24))
    within = 0
    for _ in range(300):
        days = rng.lognormal(0.0, 0.3, 14 + 30)
        past = np.repeat(days[:14], path.measured // 14)
        ends = range_90(bootstrapped_mean(past, path, 1_000, rng))
        within += ends.low <= days[14:].mean() / days[:14].mean() <= ends.high
    assert 0.83 <= within / 300 <= 0.94


def test_the_mean_of_few_days_varies_by_what_they_do_and_by_the_month_s_own_days():
    days = np.array([1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0])
    path = demand_path(hourly([1] * 7 * 24))
    drawn = bootstrapped_mean(np.repeat(days, path.measured // 7), path, 40_000, np.random.default_rng(5))
    of_a_day = days.std(ddof=1) / days.mean()
    assert drawn.std() == pytest.approx(of_a_day * math.sqrt(1 / 7 + 24 / 730), rel=0.03)


def test_a_minute_s_mean_is_as_sure_as_a_count_of_its_arrivals():
    path = demand_path(demand_of(np.linspace(0, 59, 400), 60.0))
    drawn = bootstrapped_mean(path.requests_per_s, path, 20_000, np.random.default_rng(5))
    assert drawn.std() == pytest.approx(1 / 20, rel=0.03)


def test_nothing_is_surely_nothing():
    path = demand_path(demand_of([], 60.0))
    assert (bootstrapped_mean(path.requests_per_s, path, 5, np.random.default_rng(1)) == 1).all()


def test_the_same_seed_draws_the_same_worlds():
    path = demand_path(hourly([5, 6, 7, 8]))
    rules = {"capacity": (1.0, 2.0, 3.0), "price_range_share": 0.1, "draws": 50}
    one, same, other = (draw_worlds(path, priced(path), rng=np.random.default_rng(seed), **rules) for seed in (1, 1, 2))
    assert (one.demand == same.demand).all()
    assert (one.demand != other.demand).any()
    assert one.token_price.min() >= 0.9
    assert one.instance_price.max() <= 1.1


def test_the_driver_that_moves_a_figure_most_comes_first_and_what_moves_nothing_is_left_out():
    rng = np.random.default_rng(2)
    worlds = Worlds(demand=rng.uniform(0.9, 1.1, 5_000), capacity=rng.uniform(0.5, 2.0, 5_000), token_price=rng.uniform(0.9, 1.1, 5_000), instance_price=np.ones(5_000))  # fmt: skip
    rows = tornado(lambda drawn: 100 * drawn.demand - 40 * drawn.capacity + 500 * drawn.instance_price, worlds)
    assert [row.name for row in rows] == ["capacity", "demand"]
    assert rows[0].at_low_usd > rows[0].at_high_usd  # more capacity, less cost
    assert rows[1].at_high_usd - rows[1].at_low_usd == pytest.approx(18, rel=0.02)
    assert AS_PLANNED.demand.tolist() == [1.0]
