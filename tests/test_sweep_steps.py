"""What a step showed: objectives counted over offered requests, saturation told from failures, the quota's rate."""

import random

import pytest

from loadgen.config import RunConfig
from loadgen.quota import Admission, Quota
from loadgen.samples import Outcome, Phase, WorkerHealth
from loadgen.slo import Slo
from planner.rows import steady_stretch
from planner.steps import count_of, is_saturated, quota_rate, step_of
from planner.sweep import Verdict
from tests.runs import answered, dropped, make_run, refused

STEADY = {"phase": Phase.STEADY}
MANAGED = {"target": {"kind": "managed"}}


def run_of(tmp_path, samples, gaps=(), *, seconds=30, name="run", workers=(), **sections):
    config = RunConfig.model_validate(
        {"load": {"rate": 10, "duration": seconds, "warmup": 0, "throttle": "off"}, **sections}
    )
    return make_run(tmp_path, samples, gaps, config=config, name=name, workers=workers)


def streams(n, ttft_s=0.2, first=0, **fields):
    return [answered(first + i, 0.05 * i, ttft_s=ttft_s, service_s=1.0, **STEADY, **fields) for i in range(n)]


def test_an_objective_counts_offered_requests_of_the_scenarios_that_have_its_metric(tmp_path):
    samples = [
        *streams(10),
        *streams(3, ttft_s=1.5, first=10),
        answered(13, 1, outcome=Outcome.TIMEOUT, scenario="streaming", **STEADY),
        refused(14, 1, scenario="streaming", **STEADY),
        dropped(15, 1, scenario="streaming", **STEADY),
        answered(16, 1, scenario="chat", **STEADY),  # a plain answer has no first token: it is not counted
        answered(17, 1, outcome=Outcome.TIMEOUT, scenario="chat", **STEADY),
        answered(18, 0, ttft_s=9.0, service_s=10.0, phase=Phase.WARMUP),
    ]
    run = run_of(tmp_path, samples)
    count = count_of(run, Slo.parse("ttft.p95<1s"))
    assert (count.n, count.beyond, count.allowed) == (16, 6, 0.05)
    response = count_of(run, Slo.parse("response_time.p95<1s"))  # all scenarios; a second is not below a second
    assert (response.n, response.beyond) == (18, 17)
    assert count_of(run, Slo.parse("response_time.p95<=1s")).beyond == 4
    assert count_of(run, Slo.parse("ttft.max<1s")).verdict is Verdict.MISSED


def test_a_retried_arrival_is_one_request(tmp_path):
    first = refused(0, 0, scenario="streaming", **STEADY)
    again = answered(0, 0, attempt=1, ttft_s=0.2, wait_s=2.0, **STEADY)
    count = count_of(run_of(tmp_path, [first, again]), Slo.parse("ttft.p95<1s"))
    assert (count.n, count.beyond) == (1, 0)


def test_an_objective_that_no_request_has_is_none_and_one_that_nothing_answered_is_missed(tmp_path):
    slo = Slo.parse("ttft.p95<1s")
    assert count_of(run_of(tmp_path, [answered(i, 1, **STEADY) for i in range(3)]), slo) is None
    dead = [answered(i, 1, outcome=Outcome.NETWORK, **STEADY) for i in range(100)]
    assert count_of(run_of(tmp_path, dead, name="dead"), slo).verdict is Verdict.MISSED


def test_gaps_of_one_stream_are_no_independent_witnesses(tmp_path):
    slo = Slo.parse("itl.p95<50ms")
    slow_streams = [(i, 0, [80_000 if i < 2 else 10_000] * 50) for i in range(40)]  # 2 of 40 streams, all their gaps
    dice = random.Random(1)
    slow_gaps = [(i, 0, [80_000 if dice.random() < 0.05 else 10_000 for _ in range(50)]) for i in range(40)]
    clustered = count_of(run_of(tmp_path, streams(40), slow_streams), slo)
    spread = count_of(run_of(tmp_path, streams(40), slow_gaps, name="spread"), slo)
    assert clustered.n == pytest.approx(39, abs=2)  # as many as streams
    assert clustered.beyond / clustered.n == pytest.approx(0.05)
    assert spread.n > 1_000
    assert count_of(run_of(tmp_path, streams(40), [(i, 0, [9_000] * 50) for i in range(40)], name="none"), slo).n == 40


def saturating(tmp_path, name, samples, seconds=30):
    run = run_of(tmp_path, samples, name=name, seconds=seconds, **MANAGED)
    return is_saturated(run, steady_stretch(run))


def test_saturation_is_a_backlog_that_grows_and_nothing_else(tmp_path):
    at = [i / 10 for i in range(300)]
    steady = [answered(i, due, service_s=2.0, **STEADY) for i, due in enumerate(at)]
    behind = [answered(i, due, service_s=2.0 + due * 0.3, **STEADY) for i, due in enumerate(at)]  # 3 of 13 are late
    failing = [answered(i, due, service_s=2.0, outcome=Outcome.OK if i % 2 else Outcome.SERVER_ERROR, **STEADY) for i, due in enumerate(at)]  # fmt: skip
    filling = [answered(i, due, service_s=6.0, **STEADY) for i, due in enumerate(at)]  # 60 in flight after 6 s
    assert [
        saturating(tmp_path, name, samples)
        for name, samples in {"steady": steady, "behind": behind, "failing": failing, "filling": filling}.items()
    ] == [False, True, False, False]


def test_a_step_says_whether_the_quota_or_the_generator_limited_it(tmp_path):
    slos = [Slo.parse("ttft.p95<1s")]

    def step(name, samples, workers=(), **sections):
        run = run_of(tmp_path, samples, name=name, workers=workers, **sections)
        return step_of(run, slos, number=1, folder="steps/01", rate_per_s=20.0)

    fine = step("fine", streams(200))
    assert (fine.quota_limited, fine.client_limited, fine.requests) == (False, False, 200)
    assert fine.offered_per_s == pytest.approx(200 / 30)
    assert fine.ttft_p95_ms == pytest.approx(200)
    assert fine.e2e_mean_s == pytest.approx(1.0)
    assert fine.admission_tokens == 228  # 100 of the prompt and 128 asked for
    throttled = [*streams(190), *(refused(190 + i, 1, scenario="streaming", **STEADY) for i in range(10))]
    assert step("throttled", throttled).quota_limited
    assert not step("managed", throttled, **MANAGED).quota_limited  # a managed deployment has no quota
    held = [dropped(190 + i, 1, error="stopped_while_throttled", scenario="streaming", **STEADY) for i in range(10)]
    assert step("held", [*streams(190), *held]).quota_limited
    late = step("late", streams(200), workers=[WorkerHealth(seconds=30, hub_late_max_ms=400.0)])
    assert late.client_limited
    assert "stood still" in late.reasons[0]
    assert late.verdict is Verdict.INVALID


@pytest.mark.parametrize(
    ("quota", "rate", "binds"),
    [
        pytest.param(Quota(), 200_000 / 60 / 228, "tokens", id="228 tokens a request of 200,000 a minute"),
        pytest.param(Quota(requests_per_minute=300), 5.0, "requests", id="300 a minute are 5 a second"),
        pytest.param(
            Quota(admission=Admission.MAX, requests_per_minute=9_999),
            200_000 / 60 / 128,
            "tokens",
            id="only max_tokens count",
        ),
    ],
)
def test_the_quotas_rate_follows_from_the_measured_tokens_of_a_request(tmp_path, quota, rate, binds):
    run = run_of(tmp_path, streams(50), quota=quota)
    step = step_of(run, [], number=1, folder="steps/01", rate_per_s=2.0)
    assert quota_rate([step], quota) == (pytest.approx(rate), binds)
    assert quota_rate([], quota) is None
