"""Scale rules over a demand: as the simulated deployment scales, and what that costs."""

import math

import numpy as np
import pytest

from loadgen.errors import ConfigError
from loadgen.simulator.autoscale import parse_rule
from loadgen.simulator.batching import BatchingModel
from loadgen.simulator.endpoint import EndpointSettings
from loadgen.simulator.virtual import replay
from loadgen.slo import Slo
from planner.fleets.autoscaling import ScalePolicy, autoscale
from planner.fleets.sharing import ServiceCurve, Work
from tests.serving_models import Straight

PLACES, GAPS = 8, 400  # of 10 ms: 2 requests a second and instance
MODEL = Straight(concurrency_cap=PLACES, ttft_base_ms=10.0)
RULES = ("utilization_percent>70:+1", "utilization_percent<30:-1/600s")
SLOS = [Slo.parse("ttft.p95<1s")]


def wave(hours, from_per_s, to_per_s, *, seed=1):
    """Poisson arrivals whose rate goes up and down once."""
    rng = np.random.default_rng(seed)
    span_s = hours * 3_600
    at_s = np.sort(rng.uniform(0, span_s, rng.poisson(span_s * to_per_s)))
    rate = from_per_s + (to_per_s - from_per_s) * (1 - np.cos(2 * math.pi * at_s / span_s)) / 2
    return at_s[rng.uniform(0, to_per_s, len(at_s)) < rate], span_s


def work_of(at_s):
    count = len(at_s)
    return Work.of(np.round(at_s, 9), np.full(count, 100.0), np.full(count, GAPS + 1.0), 100.0, seed=1)


def policy(rules=RULES, **changes):
    stated = {"min_instances": 1, "max_instances": 6, "start_instances": 1, "boot_s": 900.0}
    return ScalePolicy(rules=rules, places_per_instance=PLACES, **stated | changes)


def scaled(at_s, span_s, stated):
    return autoscale(work_of(at_s), ServiceCurve(MODEL, 100.0, GAPS + 1, cap=PLACES), stated, SLOS, span_s=span_s)


@pytest.mark.parametrize(
    ("rules", "boot_s"),
    [
        pytest.param(RULES, 900.0, id="utilisation, 15 min of boot"),
        pytest.param(RULES, 0.0, id="no boot"),
        pytest.param(("pending>11:+2/600s", "pending<5:-1"), 300.0, id="requests in flight, two at a time"),
        pytest.param(("request_latency_ms>4500:+1", "requests_per_minute<90:-1"), 600.0, id="latency out, rate in"),
    ],
)
def test_the_fleet_scales_refuses_and_is_billed_as_the_simulated_deployment_is(rules, boot_s):
    at_s, span_s = wave(2, 0.2, 7.0)
    mine = scaled(at_s, span_s, policy(rules, boot_s=boot_s))
    settings = EndpointSettings(
        instances=1,
        min_instances=1,
        max_instances=6,
        max_concurrent_per_instance=PLACES,
        request_timeout_ms=1e9,
        boot_s=boot_s,
        rules=tuple(parse_rule(rule) for rule in rules),
    )
    batching = BatchingModel(
        iteration_base_ms=10, iteration_per_sequence_ms=0, prefill_per_token_ms=0, max_running=64, kv_tokens=10**9
    )
    arrivals = [(round(at * 1e9), 100, GAPS + 1) for at in np.round(at_s, 9)]
    theirs = replay(arrivals, batching, settings, until_ns=round(span_s * 1e9))
    assert [(event.at_s, event.before, event.after) for event in mine.events] == [
        (event.at_ns / 1e9, event.before, event.after) for event in theirs.scale_events
    ]
    assert len(mine.events) >= 4
    assert mine.refused == pytest.approx(theirs.status.count(429), rel=0.02, abs=2)
    assert mine.instance_hours * 3_600e9 == pytest.approx(theirs.billed_ns, rel=2e-3)


def test_without_a_rule_that_fires_the_bill_is_the_start_and_all_is_kept():
    at_s, span_s = wave(1, 0.2, 1.0)
    result = scaled(at_s, span_s, policy(start_instances=2, rules=("utilization_percent>90:+1",)))
    assert (result.events, result.refused, result.most_instances) == ((), 0, 2)
    assert result.instance_hours == pytest.approx(2.0)
    assert result.mean_instances == pytest.approx(2.0)
    assert result.attainment.met
    assert result.attainment.minutes_missed == 0
    assert [row.at_s for row in result.timeline] == [60.0 * minute for minute in range(1, 61)]


def test_what_the_boot_costs_is_said_in_refusals_and_in_minutes_missed():
    at_s, span_s = wave(2, 0.2, 7.0)
    slow, quick = scaled(at_s, span_s, policy()), scaled(at_s, span_s, policy(boot_s=0.0))
    assert slow.refused > 10 * max(1, quick.refused)
    assert slow.refused == sum(row.refused for row in slow.timeline)
    assert slow.attainment.minutes_missed > quick.attainment.minutes_missed
    assert slow.refused_share == slow.refused / slow.requests
    assert not slow.attainment.met
    assert max(row.billed for row in slow.timeline) == slow.most_instances
    assert all(row.ready <= row.billed for row in slow.timeline)


def test_refusals_are_those_above_twice_the_places():
    at_s = np.full(40, 10.0) + np.arange(40) * 1e-6
    result = scaled(at_s, 60.0, policy(start_instances=2))
    assert result.refused == 40 - 2 * PLACES * 2


def test_a_timeline_of_a_week_has_no_more_rows_than_a_day_has_minutes():
    result = scaled(np.arange(0, 7 * 86_400, 600.0), 7 * 86_400.0, policy())
    assert 1_000 < len(result.timeline) <= 1_440


def test_a_rule_amiss_is_named():
    with pytest.raises(ConfigError, match="scale rule 'cpu>70:"):
        scaled(np.array([1.0]), 60.0, policy(rules=("cpu>70:+1",)))
