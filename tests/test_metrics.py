"""metrics.py and what it is made of: who counts, what each latency is, and how sure a percentile is."""

from fractions import Fraction
from itertools import accumulate
from math import comb

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.config import RunConfig
from loadgen.samples import Outcome, Phase, Sample
from loadgen.slo import Slo
from planner.counts import counts_of
from planner.demand import demand_of_run
from planner.metrics import (
    METRICS,
    latency_distribution,
    latency_over_time,
    latency_rows,
    load_over_time,
    outcomes_over_time,
    quantile,
    values,
    values_of,
)
from planner.objectives import goodput, slo_results
from planner.quantiles import as_fraction, interval_ranks, nearest_rank, needed_samples, wilson
from planner.rows import steady_stretch
from planner.traffic import traffic
from tests.runs import answered, dropped, make_run, ns, refused, synthetic_run

QS = (0.01, 0.07, 0.29, 0.5, 0.57, 0.9, 0.95, 0.99, 0.999, 99.9 / 100)
MINUTE = RunConfig.model_validate({"load": {"duration": 60, "warmup": 0, "rate": 1}})


def rows_of(run, metric):
    return {row.scenario: row for row in latency_rows(run) if row.metric == metric}


def values_ms(run, metric):
    return [value / 1e6 for value in values_of(run, metric)]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=300), st.sampled_from(QS))
def test_a_percentile_is_the_smallest_value_that_enough_values_do_not_exceed(numbers, q):
    ascending = sorted(numbers)
    share = Fraction(str(round(q, 6)))
    expected = next(v for v in ascending if sum(other <= v for other in ascending) >= share * len(ascending))
    assert ascending[nearest_rank(len(ascending), q) - 1] == expected


@given(st.lists(st.integers(0, 10**12), min_size=7, max_size=600), st.sampled_from((0.5, 0.9, 0.95, 0.99)))
def test_a_quantile_of_a_series_equals_the_sorted_reference_or_is_withheld(numbers, q):
    ascending = sorted(numbers)
    found = quantile(pl.Series(ascending, dtype=pl.Int64), q)
    if len(numbers) < needed_samples(q):
        assert (found.value_ms, found.low_ms, found.high_ms) == (None, None, None)
        return
    assert found.value_ms == ascending[nearest_rank(len(numbers), q) - 1] / 1e6
    assert found.low_ms <= found.value_ms <= found.high_ms


@pytest.mark.parametrize(("q", "n"), [(0.5, 7), (0.9, 44), (0.95, 90), (0.99, 459), (0.999, 4603), (0.1, 44)])
def test_a_percentile_is_supported_from_the_n_that_misses_its_tail_once_in_a_hundred(q, n):
    side = max(as_fraction(q), 1 - as_fraction(q))
    assert side**n <= Fraction(1, 100) < side ** (n - 1)
    assert needed_samples(q) == n
    assert quantile(pl.Series([1] * (n - 1)), q).value_ms is None
    assert quantile(pl.Series([10**6] * n), q).value_ms == 1.0


@pytest.mark.parametrize(
    ("n", "q", "ranks"),
    [
        pytest.param(1_000, 0.99, (983, 997), id="the published p99 of a thousand"),
        pytest.param(10_000, 0.99, (9_880, 9_920), id="the published p99 of ten thousand"),
        pytest.param(6, 0.5, (1, 6), id="the median of six lies between least and largest, with 0.96875"),
        pytest.param(5, 0.5, (None, None), id="five values bound no median: 1 in 16 all lie on one side"),
        pytest.param(367, 0.99, (359, None), id="367 values bound no p99 from above"),
        pytest.param(368, 0.99, (360, 368), id="368 do"),
        pytest.param(10_000_000, 0.5, (4_996_901, 5_003_100), id="ten million"),
    ],
)
def test_interval_ranks(n, q, ranks):
    assert interval_ranks(n, q) == ranks


@given(st.integers(1, 120), st.sampled_from((0.05, 0.5, 0.9, 0.95, 0.99)))
def test_interval_ranks_are_the_closest_that_cover_95_percent_by_exact_arithmetic(n, q):
    share = as_fraction(q)
    hit, miss = share.numerator, share.denominator - share.numerator
    weights = [comb(n, i) * hit**i * miss ** (n - i) for i in range(n + 1)]
    below = [0, *accumulate(weights)]  # [k]: fewer than k of n values lie below the true percentile
    low, high = interval_ranks(n, q)
    assert low == max((k for k in range(1, n + 1) if 40 * below[k] <= below[-1]), default=None)
    assert high == min((k for k in range(1, n + 1) if 40 * (below[-1] - below[k]) <= below[-1]), default=None)


@pytest.mark.parametrize(
    ("good", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_are_the_published_ones(good, n, low, high):
    share = wilson(good, n)
    assert (share.value, round(share.low, 4), round(share.high, 4)) == (good / n, low, high)


INSTANTS = {  # of one stream, each difference a different number of ms
    "due_ns": ns(10),
    "admitted_ns": ns(10.001),
    "sent_ns": ns(10.003),
    "first_byte_ns": ns(10.020),
    "first_token_ns": ns(10.050),
    "last_token_ns": ns(10.250),
    "done_ns": ns(10.300),
}


@pytest.mark.parametrize(
    ("metric", "expected_ms"),
    [
        ("ttft", 47.0),  # 50 - 3
        ("ttft_from_due", 50.0),
        ("ttfb", 17.0),  # 20 - 3
        ("tpot", 40.0),  # (250 - 50) / (6 - 1)
        ("service_time", 297.0),  # 300 - 3
        ("response_time", 300.0),
        ("throttle_wait", 1.0),
        ("lag", 2.0),  # 3 - 1
        ("itl", 70.0),
    ],
)
def test_each_latency_is_the_difference_it_is_defined_as(tmp_path, metric, expected_ms):
    sample = Sample(seq=0, scenario="s", target="t", completion_tokens=6, chunks=2, **INSTANTS)
    assert values_ms(make_run(tmp_path, [sample], [(0, 0, [70_000])]), metric) == [expected_ms]


@pytest.mark.parametrize(
    ("connect_s", "ready_s", "lag_ms"),
    [
        pytest.param(None, None, 300.0, id="an open connection: all of it is ours"),
        pytest.param(4.0, 4.5, 300.0, id="opened before the request was admitted"),
        pytest.param(4.8, 5.2, 100.0, id="not open yet when it was admitted: only what came after is ours"),
        pytest.param(5.1, 5.25, 150.0, id="opened late: that we began late is ours, the opening is not"),
    ],
)
def test_a_request_that_waits_for_its_connection_to_open_is_not_late(tmp_path, connect_s, ready_s, lag_ms):
    opened = {} if connect_s is None else {"connect_ns": ns(connect_s), "connected_ns": ns(ready_s - 0.01)}
    secured = {} if ready_s is None else {"secured_ns": ns(ready_s)}
    run = make_run(tmp_path, [answered(0, 5.0, lag_s=0.3, **opened, **secured)])
    assert values(run, "lag").collect()["value_ns"].to_list() == [lag_ms * 1e6]


def test_every_metric_of_the_plan_has_a_definition():
    latencies = {"ttft", "ttft_from_due", "ttfb", "itl", "tpot", "service_time", "response_time"}
    assert set(METRICS) == latencies | {"throttle_wait", "lag", "connect", "tls"}


@pytest.mark.parametrize(
    ("sample", "answers", "sent"),
    [
        pytest.param(answered(0, 6.0), 1, 1, id="an answer of the steady phase counts"),
        pytest.param(answered(0, 1.0, phase=Phase.WARMUP), 0, 0, id="one of the warm-up does not"),
        pytest.param(answered(0, 59.0, phase=Phase.COOLDOWN), 0, 0, id="nor one of the cool-down"),
        pytest.param(refused(0, 6.0), 0, 1, id="a refusal has a lag, but no latency"),
        pytest.param(answered(0, 6.0, outcome=Outcome.TIMEOUT), 0, 1, id="so has a timeout"),
        pytest.param(answered(0, 6.0, outcome=Outcome.BROKEN_STREAM), 0, 1, id="and a broken stream"),
        pytest.param(dropped(0, 6.0), 0, 0, id="a dropped arrival has neither"),
    ],
)
def test_latencies_are_of_answers_and_lag_of_all_that_was_sent_in_the_steady_phase(tmp_path, sample, answers, sent):
    run = make_run(tmp_path, [sample])
    assert rows_of(run, "service_time")["all"].n == answers
    assert rows_of(run, "lag")["all"].n == sent


def test_gaps_count_for_the_very_attempt_that_was_answered_in_the_steady_phase(tmp_path):
    samples = [
        answered(0, 6.0, ttft_s=0.1),
        answered(1, 1.0, ttft_s=0.1, phase=Phase.WARMUP),
        answered(2, 6.0, ttft_s=0.1, outcome=Outcome.BROKEN_STREAM),
        answered(2, 6.0, ttft_s=0.1, attempt=1),
    ]
    run = make_run(tmp_path, samples, [(0, 0, [5, 1, 3]), (1, 0, [100]), (2, 0, [200]), (2, 1, [7])])
    assert values_ms(run, "itl") == [0.001, 0.003, 0.005, 0.007]


def test_time_per_output_token_needs_two_of_them_and_a_plain_answer_has_no_first_token(tmp_path):
    streams = [answered(i, 6.0, ttft_s=0.1, completion_tokens=tokens) for i, tokens in enumerate((0, 1, None, 3))]
    run = make_run(tmp_path, [*streams, answered(9, 6.0)])
    assert values_ms(run, "tpot") == [200.0]  # of the last stream: (500 - 100) / 2
    assert rows_of(run, "ttft")["all"].n == 4
    assert rows_of(run, "service_time")["all"].n == 5


def test_only_a_first_attempt_waits_for_the_throttle(tmp_path):
    run = make_run(tmp_path, [refused(0, 6.0, wait_s=0.25), answered(0, 6.0, attempt=1, wait_s=3.0)])
    assert values_ms(run, "throttle_wait") == [250.0]
    assert values_ms(run, "response_time") == [3500.0]  # of the attempt that answered, from when it was due


def test_all_scenarios_come_first_then_each_that_has_values(tmp_path):
    samples = [answered(i, 6.0, scenario=name, service_s=s) for i, (name, s) in enumerate([("b", 0.2), ("a", 0.4)])]
    rows = [row for row in latency_rows(make_run(tmp_path, samples)) if row.metric == "service_time"]
    assert [(row.scenario, row.n, row.mean_ms, row.max_ms) for row in rows] == [
        ("all", 2, 300.0, 400.0),
        ("a", 1, 400.0, 400.0),
        ("b", 1, 200.0, 200.0),
    ]
    assert rows[0].p50.value_ms is None
    assert rows[0].p50.needs_n == 7


def hundred_streams(tmp_path):
    """Service times of 1..100 ms and a ttft of half of it; arrival i has gaps of i us and of 1 ms."""
    samples = [answered(i, 10.0, service_s=i / 1000, ttft_s=i / 2000) for i in range(1, 101)]
    return make_run(tmp_path, samples, [(i, 0, [i, 1_000]) for i in range(1, 101)])


@pytest.mark.parametrize(
    ("objective", "measured_ms", "met"),
    [
        pytest.param("service_time.p95<96ms", 95.0, True, id="the 95th of a hundred is the 95th in order"),
        pytest.param("service_time.p95<95ms", 95.0, False, id="to reach the limit is not to stay below it"),
        pytest.param("service_time.p95<=95ms", 95.0, True, id="unless the objective allows it"),
        pytest.param("service_time.p50<50.1ms", 50.0, True, id="the lower of the two medians"),
        pytest.param("service_time.p99<1h", None, None, id="a hundred samples say nothing of a p99"),
        pytest.param("service_time.mean<51ms", 50.5, True, id="the mean"),
        pytest.param("service_time.max<100ms", 100.0, False, id="the largest"),
        pytest.param("ttft.p90<40ms", 45.0, False, id="a missed objective"),
        pytest.param("itl.max<2ms", 1.0, True, id="gaps are us in the record"),
    ],
)
def test_objectives(tmp_path, objective, measured_ms, met):
    (result,) = slo_results(hundred_streams(tmp_path), [Slo.parse(objective)])
    assert (result.text, result.measured_ms, result.met) == (objective, measured_ms, met)


def test_an_objective_on_what_never_happened_is_neither_met_nor_missed(tmp_path):
    results = slo_results(make_run(tmp_path, [answered(0, 6.0)]), [Slo.parse("ttft.p95<1s"), Slo.parse("itl.max<1s")])
    assert [(result.n, result.measured_ms, result.met) for result in results] == [(0, None, None), (0, None, None)]


@pytest.mark.parametrize(
    ("objectives", "good"),
    [
        pytest.param(["service_time.p95<0.3s"], {0, 1, 2, 6}, id="each request by itself, whatever the statistic"),
        pytest.param(["ttft.p95<100ms"], {0, 1, 3, 6}, id="what a plain answer does not have it cannot miss"),
        pytest.param(["itl.p50<20ms"], {0, 2, 3, 6}, id="the largest gap decides"),
        pytest.param(["service_time.p95<0.3s", "ttft.max<100ms", "itl.p99<20ms"], {0, 6}, id="every objective at once"),
        pytest.param(["response_time.p95<0.3s"], {0, 1, 2}, id="a retried arrival waited from when it was due"),
    ],
)
def test_goodput_counts_arrivals_that_met_every_objective_among_all_that_were_offered(tmp_path, objectives, good):
    samples = [
        answered(0, 6.0, service_s=0.2, ttft_s=0.05),
        answered(1, 6.0, service_s=0.2, ttft_s=0.05),  # with a long gap
        answered(2, 6.0, service_s=0.2, ttft_s=0.15),
        answered(3, 6.0, service_s=0.4),
        answered(4, 6.0, service_s=0.2, outcome=Outcome.SERVER_ERROR),
        dropped(5, 6.0),
        refused(6, 6.0),
        answered(6, 6.0, attempt=1, wait_s=2.0, service_s=0.2),
        refused(7, 6.0),
        answered(8, 1.0, phase=Phase.WARMUP),
    ]
    gaps = [(0, 0, [10_000, 19_000]), (1, 0, [1_000, 21_000]), (2, 0, [1_000])]
    found = goodput(make_run(tmp_path, samples, gaps), [Slo.parse(text) for text in objectives])
    assert (found.good, found.offered) == (len(good), 8)
    assert found.share == len(good) / 8
    assert found.low < found.share < found.high


def test_no_goodput_without_objectives_or_arrivals(tmp_path):
    assert goodput(make_run(tmp_path, [answered(0, 6.0)]), []) is None
    assert goodput(make_run(tmp_path, [], name="empty"), [Slo.parse("ttft.p95<1s")]) is None


def traffic_of(run):
    return traffic(run, demand_of_run(run), counts_of(run, steady_stretch(run)))


def test_requests_in_flight_are_an_area_over_the_steady_phase_and_a_peak_within_it(tmp_path):
    samples = [
        answered(0, 0.0, service_s=30.0),  # 30 s of the minute
        answered(1, 10.0, service_s=10.0),  # 10 s
        answered(2, 20.0, service_s=10.0),  # begins as the one before ends: they are never both in flight
        answered(3, 50.0, service_s=30.0),  # 10 s, for the phase ends before it does
        refused(4, 15.0),
    ]
    flow = traffic_of(make_run(tmp_path, samples, config=MINUTE))
    assert flow.steady_s == 60
    assert flow.mean_in_flight == pytest.approx((30 + 10 + 10 + 10 + 0.005) / 60, abs=1e-9)
    assert flow.peak_in_flight == 3
    assert flow.completed_per_s == 3 / 60  # the one that ended after the phase is not of it
    assert flow.output_tokens_per_s == 150 / 60


def test_a_request_in_flight_since_before_the_steady_phase_is_in_flight_in_it(tmp_path):
    config = RunConfig.model_validate({"load": {"duration": 20, "warmup": 10}})
    samples = [answered(0, 1.0, service_s=100.0, phase=Phase.WARMUP), answered(1, 15.0, service_s=1.0)]
    flow = traffic_of(make_run(tmp_path, samples, config=config))
    assert (flow.peak_in_flight, flow.mean_in_flight) == (2, pytest.approx(1.1))


def test_what_is_billed_is_answers_and_what_the_server_reported_of_broken_and_filtered_ones(tmp_path):
    unknown = {"prompt_tokens": None, "completion_tokens": None, "usage_source": "estimated"}
    samples = [
        answered(0, 1.0, phase=Phase.WARMUP),  # 100 + 50
        answered(1, 6.0, outcome=Outcome.FILTERED, completion_tokens=0),  # 100
        answered(2, 6.0, outcome=Outcome.BROKEN_STREAM, ttft_s=0.1, **unknown),
        answered(3, 6.0, ttft_s=0.1, chunks=7, **unknown),  # reserved 228 less a limit of 128, and 7 chunks
        refused(4, 6.0),
        dropped(5, 6.0),
    ]
    flow = traffic_of(make_run(tmp_path, samples))
    assert (flow.prompt_tokens, flow.completion_tokens) == (300, 57)
    assert flow.estimated_usage_share == 0.5  # of two answers
    assert (flow.planned, flow.sent, flow.dropped, flow.attempts) == (6, 5, 1, 5)
    assert flow.outcomes["throttled"] == 1
    assert (flow.mean_prompt_tokens, flow.mean_completion_tokens) == (100, 7)  # of the answer in the steady phase


def test_the_throttled_share_is_of_attempts_sent_in_the_steady_phase(tmp_path):
    samples = [refused(0, 1.0, phase=Phase.WARMUP), refused(1, 6.0), answered(1, 6.0, attempt=1), dropped(2, 6.0)]
    run = make_run(tmp_path, samples)
    assert counts_of(run, steady_stretch(run)).throttled_share == 0.5


@pytest.mark.parametrize(
    ("state", "last_due_s", "end_s"),
    [
        pytest.param("complete", 40.0, 55.0, id="a complete run lasted as long as it was asked to, less the cool-down"),
        pytest.param("interrupted", 40.0, 40.0, id="an interrupted one until its last arrival"),
        pytest.param("running", 40.0, 40.0, id="a killed one too"),
        pytest.param("complete", 58.0, 58.0, id="no steady arrival lies outside"),
    ],
)
def test_the_steady_phase_ends(tmp_path, state, last_due_s, end_s):
    config = RunConfig.model_validate({"load": {"duration": 60, "warmup": 5, "cooldown": 5}})
    run = make_run(tmp_path, [answered(0, 6.0), answered(1, last_due_s)], config=config, state=state)
    stretch = steady_stretch(run)
    assert (stretch.start_s, stretch.end_s) == (5.0, end_s)


def test_a_run_left_in_parts_by_a_kill_gives_the_same_latencies(tmp_path):
    samples = [answered(i, 6.0 + i / 100, service_s=i / 1000) for i in range(50)]
    whole, parts = (make_run(tmp_path, samples, state=state, name=state) for state in ("complete", "running"))
    assert latency_rows(parts) == latency_rows(whole)


def test_load_over_time_is_the_minute_before_and_scaled_up_within_the_first(tmp_path):
    samples = [answered(i, i * 5.0) for i in range(20)]  # 0, 5, ... 95 s; each costs 100 + 128 tokens
    load = {row["at_s"]: row for row in load_over_time(make_run(tmp_path, samples)).to_dicts()}
    assert load[9.0]["requests_per_minute"] is None
    assert load[10.0]["requests_per_minute"] == 3 * 6  # sent at 0, 5 and 10 s
    assert load[59.0]["requests_per_minute"] == pytest.approx(12 * 60 / 59)
    assert load[60.0]["requests_per_minute"] == 12  # at 5 to 60 s: what was sent a minute ago has left
    assert load[64.0]["requests_per_minute"] == 12
    assert load[64.0]["tokens_per_minute"] == 12 * 228
    assert [load[t]["in_flight"] for t in (4.0, 5.0, 6.0)] == [0, 1, 0]


def test_latency_over_time_is_of_answers_in_bins_of_when_they_were_due(tmp_path):
    samples = [answered(i, 10 + i / 10, service_s=(i + 1) / 1000) for i in range(50)]
    samples += [answered(50, 1.0, phase=Phase.WARMUP), answered(51, 10.0, service_s=9.0, outcome=Outcome.TIMEOUT)]
    frame = latency_over_time(make_run(tmp_path, samples), 2.5)
    service = frame.filter(metric="service_time").select("at_s", "p50_ms", "p95_ms", "n").rows()
    assert service == [
        (0.0, 500.0, None, 1),  # p95 of fewer than 20 would be the largest
        (10.0, 13.0, 24.0, 25),  # 1..25 ms: ranks 13 and 24
        (12.5, 38.0, 49.0, 25),
    ]
    assert frame.columns == ["at_s", "metric", "p50_ms", "p95_ms", "n"]


@pytest.mark.parametrize("n", [1, 399, 400, 401, 5_000])
def test_a_distribution_rises_to_one_in_at_most_400_points_each_of_which_is_true(tmp_path, n):
    samples = [answered(i, 6.0, service_s=(i + 1) / 1000) for i in range(n)]
    frame = latency_distribution(make_run(tmp_path, samples)).filter(metric="service_time", scenario="all")
    points = frame.select("value_ms", "share").rows()
    assert len(points) == min(n, 400)
    assert all(share == round(value_ms) / n for value_ms, share in points)  # so many of n are no larger
    assert points[-1] == (float(n), 1.0)
    assert points == sorted(points)


def test_outcomes_over_time_count_attempts_when_they_ended_and_drops_when_they_were_due(tmp_path):
    samples = [answered(0, 0.9, service_s=0.3), refused(1, 0.5), dropped(2, 0.6), answered(3, 1.0, service_s=0.1)]
    frame = outcomes_over_time(make_run(tmp_path, samples), 1.0)
    assert frame.rows() == [(0.0, "throttled", 1), (0.0, "dropped", 1), (1.0, "ok", 2)]


@pytest.mark.parametrize(
    ("frame_of", "columns"),
    [
        (load_over_time, ["at_s", "requests_per_minute", "tokens_per_minute", "in_flight"]),
        (lambda run: latency_over_time(run, 1), ["at_s", "metric", "p50_ms", "p95_ms", "n"]),
        (latency_distribution, ["metric", "scenario", "value_ms", "share"]),
        (lambda run: outcomes_over_time(run, 1), ["at_s", "outcome", "n"]),
    ],
)
def test_an_empty_run_gives_frames_of_the_same_columns(tmp_path, frame_of, columns):
    for state in ("complete", "running"):
        assert frame_of(make_run(tmp_path, [], state=state, name=state)).columns == columns


def test_the_synthetic_run_has_what_a_report_shows(tmp_path):
    run = synthetic_run(tmp_path)
    assert set(rows_of(run, "service_time")) == {"all", "chat", "streaming", "vision"}
    assert run.manifest.totals["throttled"] > 0
    assert rows_of(run, "itl")["all"].p99.value_ms is not None
