"""The plan of costs: the published anchors, each way by hand, and how sure it is."""

import json
import math
import re
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost import region_priced
from planner.cost_plan import plan_costs
from planner.costs.cost_case import Case, CostRules
from planner.costs.demand_path import demand_path
from planner.costs.options import ways
from planner.costs.uncertainty import Worlds
from planner.demand import at_rate
from planner.prices import Origin, Sku, read_prices
from tests.test_cost_parts import demand_of, hourly

pytestmark = pytest.mark.aside

BOOK = read_prices()
PHI_3_MINI = BOOK.token_price("Phi-3-mini-4k-Instruct")
A100 = BOOK.skus["Standard_NC24ads_A100_v4"]
V100 = BOOK.skus["Standard_NC6s_v3"]
SURE = CostRules(price_range_share=0.0)
PROMPT, COMPLETION = 845, 155  # the mix of the conversation trace: 15.5 % of a request's 1,000 tokens


def conversations(requests_per_s, span_s=60.0):
    n = round(requests_per_s * span_s)
    return demand_of(np.arange(n) * span_s / n, span_s, PROMPT, COMPLETION)


def option(plan, name):
    return next(each for each in plan.options if name in each.name)


# --- anchors: Azure's prices of 2026-11-20 and quota of 200,000 tokens a minute, worked out elsewhere ---


def test_a_full_quota_of_phi_3_mini_costs_less_an_hour_than_any_gpu():
    plan = plan_costs(conversations(200_000 / 1_000 / 60), PHI_3_MINI, A100, None, SURE)
    assert option(plan, "serverless").per_hour_usd == pytest.approx(2.285, abs=0.0005)
    assert option(plan, "serverless").per_month_usd == pytest.approx(2.2854 * 730, rel=1e-3)
    assert option(plan, "serverless").per_1m_tokens_usd == pytest.approx(0.19045)
    assert (V100.usd_per_hour["eastus"], A100.usd_per_hour["eastus"]) == (3.06, 3.673)


@pytest.mark.parametrize(("sku", "share"), [(V100, 0.32), (A100, 0.45)])
def test_the_share_of_completions_at_which_a_full_quota_costs_what_a_gpu_does(sku, share):
    plan = plan_costs(conversations(200_000 / 1_000 / 60), PHI_3_MINI, sku, None, SURE)
    assert round(plan.break_even.output_share, 2) == share


def test_an_a100_pays_for_itself_from_19_million_tokens_an_hour_on():
    even = plan_costs(conversations(1.0), PHI_3_MINI, A100, (6.0, 7.0, 8.0), SURE).break_even
    assert even.tokens_per_hour == pytest.approx(19.3e6, rel=0.002)
    assert even.requests_per_s == pytest.approx(19.286e6 / 3.6e6, rel=1e-3)
    assert even.utilisation == pytest.approx(even.requests_per_s / 7.0)  # of what it serves, not of the peak
    assert even.utilisation_range.low == pytest.approx(even.requests_per_s / 8.0, rel=0.01)
    assert even.utilisation_range.high == pytest.approx(even.requests_per_s / 6.0, rel=0.01)
    assert even.managed_can_win is True


def test_where_an_instance_serves_less_than_its_break_even_managed_never_wins():
    plan = plan_costs(conversations(50.0), PHI_3_MINI, A100, (4.0, 4.5, 5.0), SURE)
    assert plan.break_even.utilisation > 1
    assert plan.break_even.managed_can_win is False
    assert plan.hybrid.instances == 0
    assert plan.probability_managed_cheaper == 0.0
    assert plan.options[0].name == "serverless"


def test_sixty_hours_a_week_cost_36_percent_and_the_boots():
    rules = replace(SURE, hours_on_per_week=60.0, boot_minutes=0.0)
    plan = plan_costs(conversations(1.0), PHI_3_MINI, A100, (2.0, 2.0, 2.0), rules)
    shut = option(plan, "off outside the hours on").per_month_usd
    assert shut / option(plan, "around the clock").per_month_usd == pytest.approx(0.357, abs=0.0005)
    booted = plan_costs(conversations(1.0), PHI_3_MINI, A100, (2.0, 2.0, 2.0), replace(rules, boot_minutes=15.0))
    boots_usd = option(booted, "off outside the hours on").per_month_usd - shut
    assert boots_usd == pytest.approx(5 * 730 / 168 * 0.25 * 3.673)
    assert option(plan, "serverless").per_hour_usd == pytest.approx(0.19045 * 3.6 * 60 / 168)


def test_what_comes_in_the_hours_off_goes_to_serverless():
    rules = replace(SURE, hours_on_per_week=84.0, off_hours_load_share=0.2, boot_minutes=0.0)
    plan = plan_costs(conversations(1.0), PHI_3_MINI, A100, (2.0, 2.0, 2.0), rules)
    off_usd = 0.19045 * 3.6 * 0.2 / 2 * 730
    assert option(plan, "off outside").per_month_usd == pytest.approx(3.673 * 365 + off_usd)
    assert "serverless serves what comes then" in option(plan, "off outside").what_must_be_true[-1]
    assert all(
        "off outside" not in each.name
        for each in plan_costs(conversations(1.0), None, A100, (2.0, 2.0, 2.0), rules).options
    )


# --- each way ---


def test_instances_cover_the_busiest_minute_with_their_spare_and_their_least():
    of = {"demand": conversations(7.0), "price": PHI_3_MINI, "sku": A100, "capacity_per_instance": (2.0, 2.5, 3.0)}
    for rules, instances in [
        (SURE, 4),
        (replace(SURE, spare_instances=1), 5),
        (replace(SURE, min_instances=6), 6),
        (replace(SURE, instances=7), 7),
    ]:
        found = option(plan_costs(**of, rules=rules), "around the clock")
        assert (found.instances, found.per_month_usd) == (instances, pytest.approx(instances * 3.673 * 730))
        assert found.per_request_usd == pytest.approx(instances * 3.673 / (7 * 3_600))


def test_without_a_capacity_only_the_instances_counted_elsewhere_are_planned_and_that_is_said():
    plan = plan_costs(conversations(7.0), PHI_3_MINI, A100, None, replace(SURE, instances=3))
    assert [each.name for each in plan.options] == ["serverless", "managed, around the clock"]
    assert (plan.hybrid, plan.break_even.utilisation, plan.waste.idle_share) == (None, None, None)
    assert any("what an instance serves is not known" in doubt for doubt in plan.doubts)
    assert [each.name for each in plan_costs(conversations(7.0), PHI_3_MINI, A100, None, SURE).options] == [
        "serverless"
    ]


def test_without_prices_what_is_known_is_planned():
    managed = plan_costs(conversations(7.0), None, A100, (2.0, 2.5, 3.0), SURE)
    assert [each.name for each in managed.options] == ["managed, around the clock"]
    assert (managed.break_even, managed.probability_managed_cheaper) == (None, None)
    serverless = plan_costs(conversations(7.0), PHI_3_MINI, None, None, SURE)
    assert [each.name for each in serverless.options] == ["serverless"]
    assert plan_costs(conversations(7.0), None, None, None).options == ()


def test_nothing_asked_costs_nothing_but_the_instances_that_wait():
    plan = plan_costs(demand_of([], 60.0), PHI_3_MINI, A100, (2.0, 2.5, 3.0), SURE)
    assert option(plan, "serverless").per_month_usd == 0
    assert option(plan, "around the clock").per_month_usd == pytest.approx(3.673 * 730)
    assert option(plan, "around the clock").per_request_usd is None
    assert plan.break_even is None
    assert plan.waste.idle_share == 1


DAYS = [120] * 8 + [1_200] * 16  # requests an hour: at night 1 in 30 s, by day 10


def every_30_s(requests):
    """A capacity that is surely that."""
    return (requests / 30,) * 3


def test_instances_that_follow_are_billed_by_what_runs_and_boots():
    plan = plan_costs(hourly(DAYS), PHI_3_MINI, A100, every_30_s(5), replace(SURE, boot_minutes=30.0))
    # One all day; the second for 16 hours, half an hour held and half an hour booting.
    followed = option(plan, "autoscaled")
    assert followed.per_month_usd == pytest.approx((24 + 17) / 24 * 3.673 * 730)
    assert "known 30 minutes ahead" in followed.what_must_be_true[-1]
    assert followed.instances == pytest.approx(41 / 24)


def test_a_hybrid_keeps_what_pays_and_sends_the_rest_elsewhere():
    dear = replace(PHI_3_MINI, input_usd_per_1k=0.03, output_usd_per_1k=0.03)  # 150 tokens: $0.0045 a request
    plan = plan_costs(hourly(DAYS), dear, A100, every_30_s(8), SURE)
    # In 30 s the first serves 1 by night and 8 by day, worth $3.06 an hour; a second would serve 2 by day, for $0.72.
    assert plan.hybrid.worth_usd_per_hour[0] == pytest.approx(120 * 0.0045 * (8 * 1 + 16 * 8) / 24)
    assert plan.hybrid.instances == 0
    cheap = replace(A100, usd_per_hour={"eastus": 3.0})
    plan = plan_costs(hourly(DAYS), dear, cheap, every_30_s(8), SURE)
    assert plan.hybrid.instances == 1
    assert plan.hybrid.worth_usd_per_hour[1] == pytest.approx(120 * 0.0045 * 16 * 2 / 24)
    assert plan.hybrid.managed_share == pytest.approx((8 + 16 * 8) / (8 + 160))
    assert plan.options[0].name == "hybrid: 1 managed, serverless beyond"
    assert plan.options[0].per_month_usd == pytest.approx((3.0 + 120 * 0.0045 * 16 * 2 / 24) * 730)
    assert "19.0% of the requests" in plan.options[0].what_must_be_true[-1]


def test_reservations_take_the_instances_that_run_long_enough():
    sku = replace(A100, reserved_usd_per_hour={"eastus": {"1 Year": 2.75, "3 Years": 1.5}})  # 75 %, 41 % of $3.673
    plan = plan_costs(hourly(DAYS), PHI_3_MINI, sku, every_30_s(5), replace(SURE, boot_minutes=15.0))
    year, three = plan.reservations
    assert (year.instances, three.instances) == (1, 2)  # the second runs 16.5 of 24 hours: 69 %
    assert year.per_month_usd == pytest.approx((2.75 + 3.673 * 16.5 / 24) * 730)
    assert option(plan, "reserved for 1 year").per_month_usd == pytest.approx(year.per_month_usd)
    assert option(plan, "reserved for 3 years").per_month_usd == pytest.approx(2 * 1.5 * 730)
    assert "$78,840 are committed" in option(plan, "3 years").what_must_be_true[-1]


def test_waste_is_what_instances_idle_and_the_quota_that_nobody_uses():
    rules = replace(SURE, tokens_per_minute=200_000, requests_per_minute=1_000, deployments=2)
    waste = plan_costs(conversations(3.0), PHI_3_MINI, A100, (4.0, 4.0, 4.0), rules).waste
    assert waste.idle_share == pytest.approx(0.25)
    assert waste.idle_instance_hours == pytest.approx(0.25 * 730)
    assert waste.idle_usd == pytest.approx(0.25 * 730 * 3.673)
    assert waste.unused_tokens_share == pytest.approx(1 - 180_000 / 400_000)
    assert waste.unused_requests_share == pytest.approx(1 - 180 / 2_000)


def test_growth_says_which_limit_comes_when():
    rules = replace(SURE, growth_per_month=0.1, tokens_per_minute=200_000, requests_per_minute=1_000)
    rows = plan_costs(conversations(3.0), PHI_3_MINI, A100, (4.0, 4.0, 4.0), rules).growth
    assert [(row.limit.split()[0], row.months) for row in rows] == [
        ("tokens", 3),
        ("requests/s", 4),
        ("tokens", 7),
        ("requests", 18),
    ]
    assert rows[0].now == pytest.approx(180 * (845 + 64))  # as the quota counts: prompt and limit
    assert plan_costs(conversations(3.0), PHI_3_MINI, A100, (4.0, 4.0, 4.0), SURE).growth == ()


def test_growth_triples_tokens_and_follows_the_same_hours():
    of = (hourly(DAYS), PHI_3_MINI, A100, every_30_s(5))
    once, thrice = plan_costs(*of, SURE), plan_costs(*of, replace(SURE, growth=3.0))
    assert option(thrice, "serverless").per_month_usd == pytest.approx(3 * option(once, "serverless").per_month_usd)
    assert option(thrice, "around the clock").instances == 6
    # One by night, six by day, each of the five held and booted for a quarter of an hour.
    assert option(thrice, "autoscaled").instances == pytest.approx((24 + 5 * 16.5) / 24)


# --- how sure ---


def test_the_probability_is_the_share_of_worlds_in_which_managed_is_cheaper():
    sure = plan_costs(conversations(8.0), PHI_3_MINI, A100, (12.0, 12.0, 12.0), SURE)
    assert sure.probability_managed_cheaper == 1.0  # $5.48 an hour serverless
    even = conversations(3.673 / 0.19045 / 3.6)  # costs what an instance does
    doubtful = plan_costs(at_rate(even, even.requests_per_s), PHI_3_MINI, A100, (9.0, 9.0, 9.0), CostRules())
    assert 0.4 < doubtful.probability_managed_cheaper < 0.6
    assert {each.name for each in doubtful.sensitivity} == {"demand", "token price", "instance price"}


def test_ranges_hold_the_figure_and_come_from_what_is_uncertain():
    # 3.5 instances' worth of load: a tenth more or less of capacity takes no other number of them.
    plan = plan_costs(conversations(7.0), PHI_3_MINI, A100, (2.0, 2.0, 2.0), CostRules(price_range_share=0.2))
    for each in plan.options:
        assert each.low_usd < each.per_month_usd < each.high_usd
    fixed = option(plan, "around the clock")
    assert fixed.low_usd == pytest.approx(0.82 * fixed.per_month_usd, rel=0.01)  # uniform within 20 %
    assert fixed.high_usd == pytest.approx(1.18 * fixed.per_month_usd, rel=0.01)


def test_what_is_planned_costs_the_same_however_much_it_turns_out_to_serve():
    """Two instances of 5 requests/s at least, of 10 probably: $4,380 a month in every world, $5,466 serverless."""
    flat = demand_of(np.arange(600 * 60) / 10, 3_600.0, 800, 200)
    of = {"demand": flat, "price": PHI_3_MINI, "rules": SURE}
    plan = plan_costs(**of, sku=at_usd_per_hour(3.0), capacity_per_instance=(5.0, 10.0, 20.0))
    fixed = option(plan, "around the clock")
    assert (fixed.low_usd, fixed.per_month_usd, fixed.high_usd) == pytest.approx((4_380, 4_380, 4_380))
    assert plan.probability_managed_cheaper == 1.0
    even = plan.break_even
    assert even.utilisation_range.low < even.utilisation < even.utilisation_range.high


@pytest.mark.parametrize(
    ("ends", "low_usd", "high_usd"), [((5.5, 10.0, 20.0), 1_752, 1_752), ((9.0, 10.0, 11.0), 876, 1_422)]
)
def test_a_hybrid_pays_for_what_its_base_turns_out_not_to_serve(ends, low_usd, high_usd):
    """Two that serve 5.5 at least leave nothing of 10; one that serves 9 at least leaves 1 at most, $546 a month."""
    flat = demand_of(np.arange(600 * 60) / 10, 3_600.0, 800, 200)
    hybrid = option(plan_costs(flat, PHI_3_MINI, at_usd_per_hour(1.2), ends, SURE), "hybrid")
    assert (hybrid.low_usd, hybrid.high_usd) == pytest.approx((low_usd, high_usd), rel=0.01)
    assert hybrid.low_usd <= hybrid.per_month_usd <= hybrid.high_usd


def at_usd_per_hour(usd):
    return replace(A100, usd_per_hour={"eastus": usd}, reserved_usd_per_hour={})


def worlds_of(**factors):
    ones = {name: np.ones(1) for name in ("demand", "capacity", "token_price", "instance_price")}
    return Worlds(**{**ones, **{name: np.array([factor]) for name, factor in factors.items()}})


A_REQUEST_USD = 150 * 0.03 / 1_000
BY_DAY = 16 / 24


@pytest.mark.parametrize(
    ("name", "factors", "usd_per_hour"),
    [
        ("serverless", {"demand": 1.5, "token_price": 2.0}, 3.0 * 120 * 7 * A_REQUEST_USD),  # 1 x 8 h and 10 x 16 h: 7
        ("around the clock", {"demand": 1.5}, 3 * 3.673),  # 15 in 30 s by day, of which one serves 5
        ("around the clock", {"capacity": 2.0, "instance_price": 1.1}, 1.1 * 2 * 3.673),  # two were planned
        ("autoscaled", {"capacity": 2.0}, 41 / 24 * 3.673),
        ("autoscaled", {"demand": 2.0}, 2 * 41 / 24 * 3.673),
        ("autoscaled", {"demand": 0.1}, 3.673),  # never below the least
        ("hybrid", {"instance_price": 2.0, "token_price": 3.0}, 2 * 1.9 + 3 * 120 * 5 * BY_DAY * A_REQUEST_USD),
        ("hybrid", {"capacity": 2.0}, 1.9),  # 10 in 30 s are what one serves
        ("hybrid", {"demand": 2.0}, 1.9 + 120 * 15 * BY_DAY * A_REQUEST_USD),
        ("hybrid", {"demand": 2.0, "capacity": 2.0}, 1.9 + 120 * 10 * BY_DAY * A_REQUEST_USD),
    ],
)
def test_each_way_costs_what_it_would_had_things_turned_out_so(name, factors, usd_per_hour):
    price = replace(PHI_3_MINI, input_usd_per_1k=0.03, output_usd_per_1k=0.03)
    rules = replace(SURE, boot_minutes=30.0)
    hour_usd = 1.9 if name == "hybrid" else 3.673  # the first instance is worth $1.98 an hour, the second $1.80
    case = Case(demand_path(hourly(DAYS)), rules, price, hour_usd, {}, every_30_s(5))
    (way,) = (way for way in ways(case) if name in way.name)
    assert way.per_month_usd(worlds_of(**factors))[0] == pytest.approx(usd_per_hour * 730)


def test_the_same_seed_plans_the_same_and_another_hardly_differs():
    of = (hourly(DAYS), PHI_3_MINI, A100, (0.16, 0.18, 0.2))
    assert plan_costs(*of) == plan_costs(*of)
    other = plan_costs(*of, CostRules(seed=1))
    assert other != plan_costs(*of)
    assert other.options[0].low_usd == pytest.approx(plan_costs(*of).options[0].low_usd, rel=0.02)


def test_ten_thousand_draws_over_a_month_of_minutes_take_well_under_a_second():
    month = demand_of(np.sort(np.random.default_rng(4).uniform(0, 30 * 86_400, 100_000)), 30 * 86_400.0)
    dear = replace(PHI_3_MINI, input_usd_per_1k=1.0)  # so that there is a hybrid too
    started_s = time.process_time()
    plan = plan_costs(month, dear, A100, (0.02, 0.03, 0.04))
    assert time.process_time() - started_s < 1.0
    assert plan.hybrid.instances > 0
    assert plan.profile.weeks == 4


@pytest.mark.parametrize("ends", [(0.0, 1.0, 2.0), (2.0, 1.0, 3.0)])
def test_a_capacity_that_is_no_interval_is_an_error(ends):
    with pytest.raises(ValueError, match="cannot lie between"):
        plan_costs(conversations(1.0), PHI_3_MINI, A100, ends)


# --- what is said ---


def test_the_plan_of_a_minute_says_that_it_knows_no_nights():
    plan = plan_costs(conversations(1.0), PHI_3_MINI, A100, (2.0, 2.5, 3.0))
    assert any("nights and weekends" in doubt for doubt in plan.doubts)
    assert plan.profile is None


@pytest.mark.parametrize(
    ("prices", "region", "used"),
    [({"westus": 1.0, "eastus": 2.0}, "westus", "westus"), ({"westus": 1.0, "eastus": 2.0}, "mars", "eastus"), ({"westus": 1.0, "centralus": 2.0}, "mars", "centralus"), ({}, "mars", None)],
)  # fmt: skip
def test_a_region_without_a_price_borrows_one_and_says_whose(prices, region, used):
    sku = replace(A100, usd_per_hour=prices)
    assert region_priced(sku, region) == used
    plan = plan_costs(conversations(1.0), PHI_3_MINI, sku, (2.0, 2.5, 3.0), CostRules(region=region))
    assert plan.region == used
    said = [doubt for doubt in plan.doubts if region in doubt and "stands in" in doubt]
    assert len(said) == (used not in (None, region))
    assert any("managed cost is left out" in doubt for doubt in plan.doubts) == (used is None)


def test_a_retired_machine_is_doubtful_and_is_recommended_to_nobody():
    plan = plan_costs(conversations(1.0), PHI_3_MINI, V100, (2.0, 2.5, 3.0))
    assert "Azure retires Standard_NC6s_v3 on 2025-09-30: plan nothing new on it" in plan.doubts
    retired = {"Standard_NC6s_v3", "Standard_NC12s_v3", "Standard_NC24s_v3"}
    assert {name for name, sku in BOOK.skus.items() if sku.retired} == retired
    assert not retired & {sku.name for model in BOOK.hosts for sku in BOOK.skus_for(model)}
    assert V100 in BOOK.skus_for("Phi-3-mini-4k-Instruct", retired=True)
    assert all(BOOK.skus_for(model) for model in BOOK.hosts)


def test_a_price_is_as_old_as_its_region_s():
    sku = Sku(name="S", cores=1, gpus=1, exempt_from_reservation=True, usd_per_hour={"a": 1.0, "b": 1.0}, source="all", dated=date(2026, 1, 1), origins={"b": Origin("b's", date(2026, 6, 1))})  # fmt: skip
    assert (sku.origin("a").source, sku.origin("b").dated) == ("all", date(2026, 6, 1))


def test_a_cost_plan_is_plain_json():
    plan = plan_costs(hourly(DAYS), PHI_3_MINI, A100, (0.16, 0.18, 0.2), CostRules(growth_per_month=0.05))
    read = json.loads(orjson.dumps(plan))
    assert read["options"][0]["name"] == plan.options[0].name
    assert read["break_even"]["tokens_per_hour_range"]["low"] == plan.break_even.tokens_per_hour_range.low


def test_the_manual_s_sample_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    manual = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    (sample,) = (block for block in re.findall(r"```python\n(.*?)```", manual, re.S) if "plan_costs(" in block)
    rows = "\n".join(f"2026-01-01 00:{minute:02}:00.0000000,{PROMPT},{COMPLETION}" for minute in range(30))
    (tmp_path / "trace.csv").write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(sample, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("serverless ")


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    capacity=st.none() | st.tuples(*[st.floats(1e-3, 2.0)] * 3).map(lambda ends: tuple(sorted(ends))),
    rules=st.builds(
        CostRules,
        min_instances=st.integers(0, 3),
        spare_instances=st.integers(0, 2),
        instances=st.none() | st.integers(0, 5),
        hours_on_per_week=st.floats(1, 168),
        off_hours_load_share=st.floats(0, 1),
        boot_minutes=st.floats(0, 120),
        growth=st.floats(0.1, 5),
        growth_per_month=st.floats(0, 1),
        tokens_per_minute=st.none() | st.just(10_000),
        deployments=st.none() | st.integers(1, 3),
        draws=st.just(50),
    ),
    priced=st.booleans(),
)
def test_whatever_is_planned_every_figure_is_finite_and_in_order(counts, capacity, rules, priced):
    sku = replace(A100, reserved_usd_per_hour={"eastus": {"1 Year": 2.0}})
    plan = plan_costs(hourly(counts), PHI_3_MINI if priced else None, sku, capacity, rules)
    assert all(math.isfinite(number) for number in numbers_of(json.loads(orjson.dumps(plan))))
    for each in plan.options:
        assert 0 <= each.low_usd <= each.high_usd
        assert each.per_month_usd >= 0
    costs = [each.per_month_usd for each in plan.options]
    assert costs == sorted(costs)
    hybrids = [each for each in plan.options if "hybrid" in each.name]
    assert all(each.per_month_usd <= option(plan, "serverless").per_month_usd for each in hybrids)
    assert all(row.saves_per_month_usd >= -1e-6 for row in plan.reservations)


def numbers_of(value):
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_of(each)
    elif isinstance(value, int | float):
        yield value
