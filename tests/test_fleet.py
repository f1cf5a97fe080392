"""Instances for a demand: the peak, the lead, the tokens, the check by simulation, the autoscaled fleet."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import orjson
import polars as pl
import pytest

from loadgen.errors import ConfigError, HeadroomError
from planner.demand import Demand
from planner.fleet import FleetRules, plan_fleet
from planner.fleets.load_path import busiest_stretch, headroom_for, most_ahead, path_of
from planner.fleets.sharing import Routing
from tests.serving_models import Range, Straight
from tests.waiting_formulas import waiting_beyond

SLOS = ["ttft.p95<1s"]


def demand_of(at_s, span_s, *, prompt=100, completion=51):
    count = len(at_s)
    frame = pl.DataFrame({"at_s": np.asarray(at_s, dtype=float)}).with_columns(
        prompt_tokens=pl.Series(np.broadcast_to(prompt, count)).cast(pl.Int64),
        max_tokens=pl.Series(np.broadcast_to(completion, count)).cast(pl.Int64),
        completion_tokens=pl.Series(np.broadcast_to(completion, count)).cast(pl.Int64),
    )
    return Demand(frame, span_s, "a demand")


def steady(rate_per_s, minutes):
    return demand_of(np.arange(round(rate_per_s * minutes * 60)) / rate_per_s, minutes * 60.0)


def minutes_at(*rates_per_s):
    """Constant arrivals, another rate each minute."""
    at_s = [60 * minute + k / rate for minute, rate in enumerate(rates_per_s) for k in range(round(60 * rate))]
    return demand_of(at_s, 60.0 * len(rates_per_s))


def planned(demand, model, slos=SLOS, **rules):
    return plan_fleet(demand, model, slos, FleetRules(**{"most_simulated": 4_000} | rules))


EASY = Straight(ttft_base_ms=100.0, rate=Range(10.0, 9.0, 11.0))  # keeps the objective at any load


@pytest.mark.parametrize(
    ("rate", "spare", "bounds", "instances"),
    [
        pytest.param(9.0, 0, (1, 50), 1, id="the lower end of the interval is one instance"),
        pytest.param(9.1, 0, (1, 50), 2, id="above it are two, although the middle would hold"),
        pytest.param(27.0, 0, (1, 50), 3, id="three times the lower end"),
        pytest.param(27.0, 1, (1, 50), 4, id="N + 1"),
        pytest.param(0.5, 0, (2, 50), 2, id="no fewer than the least"),
        pytest.param(90.0, 0, (1, 8), 8, id="no more than the most, which is said"),
    ],
)
def test_instances_are_the_peak_over_the_lower_end_and_the_spare(rate, spare, bounds, instances):
    plan = planned(steady(rate, 12), EASY, SLOS, spare=spare, min_instances=bounds[0], max_instances=bounds[1])
    assert (plan.instances, plan.spare, plan.raised_by_check) == (instances, spare, 0)
    assert plan.peak_rate_per_s == pytest.approx(rate, rel=0.01)
    assert plan.static_instance_hours == pytest.approx(instances * 0.2)
    assert any("more than the 8 allowed" in line for line in plan.assumptions) is (rate == 90.0)


def test_the_peak_is_the_busiest_minute_or_a_quantile_of_the_minutes():
    rates = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 20.0)
    assert planned(minutes_at(*rates), EASY, SLOS, quantile=0.9).peak_rate_per_s == pytest.approx(9.0)
    assert planned(minutes_at(*rates), EASY, SLOS).peak_rate_per_s == pytest.approx(20.0)


def test_a_demand_below_a_minute_is_taken_at_its_rate():
    assert planned(steady(20.0, 0.25), EASY, SLOS).instances == 3


def test_a_request_counts_by_its_tokens():
    """Half of the requests write 21 times as much; all of those come in the second half."""
    half = np.arange(0, 1_200, 0.5)
    completion = np.where(half < 600, 11, 211)
    plan = planned(demand_of(half, 1_200.0, completion=completion), Straight(rate=Range(2.0, 2.0, 2.0)), SLOS)
    assert plan.peak_rate_per_s == pytest.approx(2 * 210 / 110, rel=0.02)  # not 2: a mean request has 110 gaps
    assert plan.needed == 2
    prompts = np.where(half < 600, 100, 300)
    slow_prompts = Straight(ttft_per_prompt_token_ms=5.0, itl_base_ms=0.0, rate=Range(2.0, 2.0, 2.0))
    by_prompt = planned(demand_of(half, 1_200.0, prompt=prompts), slow_prompts, ["ttft.p95<9s"])
    assert by_prompt.peak_rate_per_s == pytest.approx(2 * 300 / 200, rel=0.02)


def test_what_is_needed_a_lead_later_is_ready_now():
    demand = minutes_at(*[1.0] * 120, *[25.0] * 30, *[1.0] * 60)
    plan = planned(demand, EASY, detection_minutes=5, cooldown_minutes=5, boot_minutes=20)
    assert plan.lead_s == 1_800.0
    assert [hour.instances for hour in plan.by_hour] == [1, 3, 3, 1]  # the second hour for the burst at its end
    assert [hour.requests for hour in plan.by_hour] == [3_600, 3_600, 46_800, 1_800]
    assert plan.scheduled_instance_hours == pytest.approx((90 * 1 + 60 * 3 + 60 * 1) / 60)
    assert (
        planned(demand, EASY, SLOS, boot_minutes=0, detection_minutes=0, cooldown_minutes=0).by_hour[1].instances == 1
    )
    assert plan.headroom_for_lead == pytest.approx(24.0)


def test_the_most_ahead_and_the_headroom_by_hand():
    load = np.array([1.0, 2.0, 5.0, 1.0, 1.0])
    assert most_ahead(load, 60.0).tolist() == [2.0, 5.0, 5.0, 1.0, 1.0]
    assert most_ahead(load, 0.0).tolist() == load.tolist()
    path = path_of(minutes_at(1.0, 2.0, 5.0, 1.0, 1.0), np.ones(600))
    assert headroom_for(path, 60.0) == pytest.approx(1.5)  # from 2 to 5
    assert headroom_for(path, 300.0) is None


def test_the_check_says_what_one_fewer_would_come_to_and_asks_for_more_where_the_peak_deceives():
    """A minute's mean hides a burst of a second: 60 requests at once on places for 2 each."""
    at_s = np.sort([*np.arange(0, 600, 2.0), *(300 + np.arange(60) * 0.001)])
    model = Straight(concurrency_cap=2, rate=Range(1.5, 1.4, 1.6))
    plan = planned(demand_of(at_s, 600.0), model, ["ttft.p95<2s"])
    assert plan.raised_by_check > 0
    assert plan.needed == math.ceil(90 / 60 / 1.4) + plan.raised_by_check
    checks = [check for check in plan.checks if check.routing == "random"]
    assert [check.instances for check in checks] == list(range(2, plan.needed + 1))
    assert [check.attainment.met for check in checks] == [False] * (plan.needed - 2) + [True]
    assert all(check.requests == 360 for check in checks)
    assert checks[0].attainment.good_share < checks[-1].attainment.good_share
    assert checks[0].waited_share > checks[-1].waited_share > 0


def test_instances_that_share_their_peaks_are_fewer_and_are_what_is_needed_where_that_is_the_routing():
    rng = np.random.default_rng(4)
    demand = demand_of(np.sort(rng.uniform(0, 300, 6_000)), 300.0)
    model = Straight(concurrency_cap=2, rate=Range(3.6, 3.5, 3.7))  # 4 a second with all places taken
    unknown = planned(demand, model, ["ttft.p95<250ms"], routing=Routing.RANDOM)
    known = planned(demand, model, ["ttft.p95<250ms"])
    assert known.needed == known.pooled == unknown.pooled < unknown.needed == unknown.at_random == known.at_random
    assert any(f"up to {known.at_random} instances" in line for line in known.assumptions)
    assert not any("at random, which" in line for line in unknown.assumptions)
    assert 5 < known.needed <= 9  # 20 a second fill 5 of them
    pooled = {check.instances: check.attainment.met for check in known.checks}
    assert pooled[known.needed] and not pooled[known.needed - 1]


def test_what_no_number_of_instances_mends_is_said():
    at_s = np.sort([*np.arange(0, 600, 2.0), *(300 + np.arange(600) * 1e-4)])  # 600 at once, and places for 11
    plan = planned(demand_of(at_s, 600.0), Straight(concurrency_cap=1, rate=Range(20.0, 20.0, 20.0)), SLOS)
    assert plan.raised_by_check == 10
    assert any("do not keep the objectives" in line for line in plan.assumptions)


def test_one_instance_is_held_to_what_keeps_the_objectives_when_arrivals_are_chance():
    """Four places of half a second each: 8 requests a second in the mean, but not with waits below 100 ms."""
    rng = np.random.default_rng(4)
    demand = demand_of(np.sort(rng.uniform(0, 900, 9_000)), 900.0, completion=rng.geometric(1 / 50, 9_000) + 1)
    model = Straight(concurrency_cap=4, rate=Range(8.0, 7.6, 8.4))
    plan = planned(demand, model, ["ttft.p95<100ms"])
    rate = plan.per_instance_rate
    beyond = [waiting_beyond(0.1, 4, per_s, 0.5) for per_s in (0.95 * rate.value, 1.05 * rate.value)]
    assert beyond[0] < 0.05 < beyond[1]
    assert (rate.low / rate.value, rate.high / rate.value) == pytest.approx((0.95, 1.05))
    assert plan.binds == "ttft.p95<1s, by arrivals that come at once"
    assert planned(demand, model, ["ttft.p95<60s"]).per_instance_rate.value > 0.95 * 8


def test_the_check_measures_concurrency_and_compares_the_wait_with_theory():
    rng = np.random.default_rng(2)
    at_s = np.sort(rng.uniform(0, 3_600, 9 * 3_600))
    model = Straight(concurrency_cap=4, rate=Range(6.6, 6.5, 6.7))  # 50 gaps of 10 ms: 8 places a second each
    plan = planned(demand_of(at_s, 3_600.0), model, ["ttft.p95<2s"])
    check = next(each for each in plan.checks if each.routing == "least_loaded" and each.instances == 2)
    slower = plan.per_instance_rate.value / plan.per_instance_rate.low
    assert check.mean_concurrency == pytest.approx(check.requests / check.span_s * 0.5 * slower / 2, rel=0.02)
    assert check.erlang_c_share == pytest.approx(check.waited_share, abs=0.15)


def test_azures_formula_and_the_core_quota():
    model = Straight(concurrency_cap=4, ttft_base_ms=500.0, rate=Range(3.0, 3.0, 3.0))  # 1 s a request
    plan = planned(steady(20.0, 12), model, ["ttft.p95<2s"], cores_per_instance=24, routing=Routing.RANDOM)
    assert plan.azure_formula_instances == math.ceil(20 * 1.0 / 0.7 / 4)
    assert plan.instances == 7
    assert plan.cores_of_quota == math.ceil(7 * 1.2) * 24
    exempt = {"cores_per_instance": 24, "routing": Routing.RANDOM, "exempt_from_reservation": True}
    assert planned(steady(20.0, 12), model, ["ttft.p95<2s"], **exempt).cores_of_quota == 7 * 24
    assert planned(steady(20.0, 12), EASY, SLOS).azure_formula_instances is None
    assert planned(steady(20.0, 12), EASY, SLOS).cores_of_quota is None


def test_an_autoscaled_fleet_is_part_of_the_plan_where_the_demand_outlasts_the_lead():
    model = Straight(concurrency_cap=8, rate=Range(14.0, 13.0, 15.0))
    demand = minutes_at(*[4.0] * 30, *np.linspace(4.0, 30.0, 40), *[4.0] * 60)
    plan = planned(demand, model, ["ttft.p95<1s"], max_instances=5, boot_minutes=10)
    result = plan.autoscale
    assert result.rules == ("utilization_percent>61.2:+1/300s", "utilization_percent<26.2:-1/300s")
    assert {event.after > event.before for event in result.events} == {True, False}
    assert result.start_instances == plan.by_hour[0].instances
    assert result.instance_hours < plan.static_instance_hours
    short = planned(steady(5.0, 20), model, SLOS)
    assert short.autoscale is None
    assert any("autoscaling is not judged" in line for line in short.assumptions)
    assert planned(demand, model, SLOS, max_instances=1).autoscale is None


def test_a_plan_is_plain_values():
    plan = planned(steady(5.0, 40), Straight(concurrency_cap=8, rate=Range(9.0, 8.0, 10.0)), SLOS)
    written = orjson.loads(orjson.dumps(plan))
    assert written["instances"] == 1
    assert written["autoscale"]["timeline"][0]["at_s"] == 60.0
    assert set(written) == {field.name for field in dataclasses.fields(plan)}


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        pytest.param({"spare": -1}, "spare must be at least 0", id="spare"),
        pytest.param({"min_instances": 0}, "min_instances must be at least 1", id="nobody there"),
        pytest.param({"max_instances": 0}, r"max_instances \(0\) must not be below", id="bounds crossed"),
        pytest.param({"quantile": 0.0}, "quantile must be above 0", id="quantile"),
        pytest.param({"boot_minutes": math.inf}, "boot_minutes must be zero or above", id="for ever"),
    ],
)
def test_rules_that_cannot_be_used_are_named(mistake, said):
    with pytest.raises(ConfigError, match=said):
        FleetRules(**mistake)


def test_no_rate_and_no_demand_are_refused_with_the_reason():
    with pytest.raises(HeadroomError, match=r"ttft\.p95<1s at one instance .* no number of instances"):
        planned(steady(5.0, 12), Straight(rate=Range(0.0, 0.0, 1.0)), SLOS)
    with pytest.raises(ConfigError, match="holds no arrival"):
        planned(demand_of([], 60.0), EASY, SLOS)


def test_the_busiest_stretch_is_the_one_with_the_most_arrivals():
    demand = minutes_at(1.0, 1.0, 9.0, 8.0, 1.0, 2.0)
    stretch = busiest_stretch(demand, 120.0)
    assert (stretch.arrivals.height, stretch.span_s) == (17 * 60, 120.0)
    assert stretch.arrivals["at_s"][0] == 0.0
    assert busiest_stretch(demand, 3_600.0) is demand


def test_what_a_sweep_measured_bounds_the_interval_from_below():
    wide = Straight(ttft_base_ms=100.0, rate=Range(10.0, 5.0, 12.0))
    assert planned(steady(18.0, 12), wide).needed == 4
    assert planned(steady(18.0, 12), wide, measured_rate_per_s=9.0).needed == 2
    assert planned(steady(18.0, 12), wide, measured_rate_per_s=30.0).per_instance_rate.low == 10.0


def test_an_objective_of_gaps_is_simulated_with_their_spread_about_the_mean():
    class Spread(Straight):
        def predict(self, rate_per_s, prompt_tokens=None, completion_tokens=None):
            ms = [SimpleNamespace(value=value, low=value, high=value) for value in (10.0, 15.0)]
            return SimpleNamespace(itl_mean_ms=ms[0], itl_p95_ms=ms[1])

    growing = Spread(itl_slope_ms=1.0, concurrency_cap=32, rate=Range(40.0, 40.0, 40.0))
    demand = steady(4.0, 12)
    by_mean, by_p95 = (planned(demand, growing, [slo]) for slo in ("itl.mean<18ms", "itl.p95<27ms"))
    assert by_p95.per_instance_rate.value == pytest.approx(by_mean.per_instance_rate.value)  # 27 ms is 1.5 x 18 ms
    assert planned(demand, growing, ["itl.p95<18ms"]).per_instance_rate.value < 0.7 * by_mean.per_instance_rate.value


def test_what_a_sweep_saw_miss_the_objectives_bounds_the_rate_from_above():
    hopeful = Straight(ttft_base_ms=100.0, rate=Range(10.0, 9.5, 12.0))
    plan = planned(steady(18.0, 12), hopeful, measured_rate_per_s=6.0, missed_at_per_s=7.0)
    assert plan.per_instance_rate.value == pytest.approx(42**0.5)
    assert plan.per_instance_rate.high == 7.0
    assert plan.needed == 3


def test_a_burst_over_the_end_of_a_calendar_minute_is_one_peak():
    demand = demand_of(30 + np.arange(60) * 1.0, 300.0)
    path = path_of(demand, np.ones(60))
    assert path.peak_per_s == path.peak_requests_per_s == pytest.approx(1.0)
    assert path.load_per_s.max() == pytest.approx(0.5)


def test_a_last_minute_that_is_not_whole_is_not_taken_for_one():
    at_s = np.concatenate([np.arange(0, 60, 2.0), np.arange(60, 66, 0.1)])
    path = path_of(demand_of(at_s, 66.0), np.ones(len(at_s)))
    assert path.load_per_s.tolist() == pytest.approx([len(at_s) / 66])
    assert path.peak_per_s == pytest.approx(87 / 60, rel=0.03)
