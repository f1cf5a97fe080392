"""Scale rules on a virtual clock: which rule acts, and when."""

import pytest

from loadgen.errors import ConfigError
from loadgen.simulator.autoscale import Autoscaler, Meter, Metric, ScaleRule, parse_rule

MINUTE_NS = 60 * 10**9
UTILIZATION, LATENCY = Metric.UTILIZATION_PERCENT, Metric.REQUEST_LATENCY_MS
OUT, IN = "utilization_percent>70:+1", "utilization_percent<30:-1"


def decisions(rules, grains, *, instances=3, bounds=(1, 9), metric=UTILIZATION):
    """[(minute, instances after)] for one value of the metric a minute; values may be dicts of several metrics."""
    scaler = Autoscaler([parse_rule(rule) for rule in rules], min_instances=bounds[0], max_instances=bounds[1])
    done = []
    for minute, value in enumerate(grains, 1):
        grain = dict.fromkeys(Metric) | (value if isinstance(value, dict) else {metric: value})
        event = scaler.decide(minute * MINUTE_NS, instances, grain)
        if event is not None:
            assert (event.before, event.at_ns) == (instances, minute * MINUTE_NS)
            instances = event.after
            done.append((minute, instances))
    return done


@pytest.mark.parametrize(
    ("what", "rules", "grains", "expected"),
    [
        ("nothing before the first window is full", [OUT], [100] * 4, []),
        ("a full window above the threshold", [OUT], [100] * 5, [(5, 4)]),
        ("at the threshold nothing fires", [OUT], [70] * 9, []),
        ("the average of the window decides: 4 x 100 / 5 > 70", [OUT], [0] * 5 + [100] * 4, [(9, 4)]),
        ("one action in each cooldown of 300 s", [OUT], [100] * 12, [(5, 4), (10, 5)]),
        ("a cooldown of its own", [OUT + "/120s"], [100] * 9, [(5, 4), (7, 5), (9, 6)]),
        ("fewer", [IN], [10] * 11, [(5, 2), (10, 1)]),
        ("of two that scale out the larger change wins", [OUT, "utilization_percent>90:+3"], [95] * 5, [(5, 6)]),
        ("of two that scale in the smaller change wins", [IN, "utilization_percent<20:-2"], [10] * 5, [(5, 2)]),
        ("all that scale in must fire", [IN, "utilization_percent<20:-1"], [25] * 9, []),
        ("scaling out forbids scaling in", ["utilization_percent>5:+1", IN], [10] * 5, [(5, 4)]),
        ("even in its cooldown", ["utilization_percent>5:+1/900s", IN + "/60s"], [10] * 14, [(5, 4)]),
        ("a cooldown counts from any action", [OUT, IN + "/600s"], [100] * 5 + [0] * 11, [(5, 4), (15, 3)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rules_act(what, rules, grains, expected):
    assert decisions(rules, grains) == expected, what


def test_the_bounds_of_the_profile_hold():
    assert decisions([OUT + "/60s"], [100] * 9, instances=3, bounds=(1, 4)) == [(5, 4)]
    assert decisions([IN + "/60s"], [0] * 9, instances=3, bounds=(2, 4)) == [(5, 2)]
    assert decisions(["utilization_percent>70:+5"], [100] * 5, instances=3, bounds=(1, 4)) == [(5, 4)]


def test_a_metric_without_values_fires_nothing_and_gaps_are_left_out():
    rules = ["request_latency_ms<1000:-1"]
    assert decisions(rules, [None] * 9, metric=LATENCY) == []
    assert decisions(["request_latency_ms>900:+1"], [None, None, 1000, None, 900], metric=LATENCY) == [(5, 4)]


def test_rules_on_different_metrics_must_agree_to_scale_in():
    rules = [IN, "request_latency_ms<100:-1"]
    assert decisions(rules, [{UTILIZATION: 10.0, LATENCY: 200.0}] * 6) == []
    assert decisions(rules, [{UTILIZATION: 10.0, LATENCY: 50.0}] * 6) == [(5, 2)]


def test_an_event_says_why():
    scaler = Autoscaler([parse_rule(OUT)], min_instances=1, max_instances=5)
    grain = dict.fromkeys(Metric) | {UTILIZATION: 82.5}
    events = [scaler.decide(minute * MINUTE_NS, 2, grain) for minute in range(1, 6)]
    assert events[-1].why == "utilization_percent was 82.5 over the window (utilization_percent>70:+1)"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("utilization_percent>70:+1", ScaleRule(metric=UTILIZATION, operator=">", threshold=70, change=1)),
        (
            " request_latency_ms < 99.5 : -2 / 60s ",
            ScaleRule(metric=LATENCY, operator="<", threshold=99.5, change=-2, cooldown_s=60),
        ),
    ],
)
def test_a_rule_is_read_as_it_is_written(text, rule):
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "METRIC>NUMBER"),
        ("utilization_percent=70:+1", "METRIC>NUMBER"),
        ("utilization_percent>70", "METRIC>NUMBER"),
        ("utilization_percent>70:1", "METRIC>NUMBER"),
        ("cpu>70:+1", "there is no metric cpu; there are utilization_percent, request_latency_ms"),
        ("pending>1.2.3:+1", "1.2.3"),
        ("pending>1:+0", "change"),
    ],
)
def test_a_rule_that_cannot_be_read_is_shown_with_the_form(text, complaint):
    with pytest.raises(ConfigError) as caught:
        parse_rule(text)
    assert complaint in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_grain_averages_levels_over_time_and_latencies_over_requests():
    meter = Meter()
    for at_ns in (0, 0, MINUTE_NS // 2):
        meter.arrived += 1
        meter.begin(at_ns)
    meter.end(0, MINUTE_NS // 4)
    meter.end(0, MINUTE_NS // 2)
    meter.busy_ns, meter.places_ns = MINUTE_NS, 4 * MINUTE_NS
    averages = meter.close_grain(MINUTE_NS)
    assert averages[UTILIZATION] == 25
    assert averages[LATENCY] == 22_500  # of the two that ended
    assert averages[Metric.REQUESTS_PER_MINUTE] == 3
    assert averages[Metric.PENDING] == 0.25 + 0.5 + 0.5
    quiet = meter.close_grain(3 * MINUTE_NS)
    assert (quiet[UTILIZATION], quiet[LATENCY]) == (None, None)
    assert (quiet[Metric.REQUESTS_PER_MINUTE], quiet[Metric.PENDING]) == (0, 1)
