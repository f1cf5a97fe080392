"""Instances that share themselves, against queueing theory and against small steps of time."""

import math
import random

import numpy as np
import pytest
from scipy.stats import poisson

from planner.fleets.sharing import Routing, ServiceCurve, Work, simulate
from planner.fleets.waiting import erlang_c
from tests.serving_models import Straight
from tests.waiting_formulas import mean_wait_s

BATCHES = 25
GAP_S = 0.01  # of Straight() at any concurrency


def requests(count, rate_per_s, gaps, *, seed=1, prompt=100.0):
    """Poisson arrivals of so many gaps each: a number, or geometric with a mean."""
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1 / rate_per_s, count))
    tokens = (rng.geometric(1 / gaps[0], count) if isinstance(gaps, tuple) else np.full(count, gaps)) + 1
    return Work.of(at_s, np.full(count, prompt), tokens.astype(float), prompt, seed=seed)


def sent_to(work, model, instances=1, routing=Routing.LEAST_LOADED):
    fleet = simulate(work, ServiceCurve(model, 100.0, 50.0, cap=model.concurrency_cap), instances, routing=routing)
    done_s = np.array(fleet.served.done_s)
    assert fleet.in_flight == 0
    assert not np.isnan(done_s).any()
    return fleet, np.array(work.at_s), np.array(fleet.served.admitted_s), done_s


def assert_mean(values, expected, most=0.06):
    means = [part.mean() for part in np.array_split(np.asarray(values, dtype=float), BATCHES)]
    error = np.std(means, ddof=1) / math.sqrt(BATCHES)
    assert error < most * expected
    assert np.mean(means) == pytest.approx(expected, abs=4 * error)


def test_a_constant_gap_without_a_cap_serves_everybody_at_once():
    work = requests(20_000, 40.0, (50,))  # load 40 x 50 x 10 ms = 20 in flight
    _, at_s, admitted_s, done_s = sent_to(work, Straight())
    assert (admitted_s == at_s).all()
    assert done_s - at_s == pytest.approx(np.array(work.gaps) * GAP_S, abs=1e-9)
    # M/G/infinity: in flight at an instant is Poisson
    instants = np.arange(50.0, at_s[-1], 2.0)
    counts = np.searchsorted(at_s, instants) - np.searchsorted(np.sort(done_s), instants)
    assert_mean(counts, 20.0)
    assert_mean(counts > 25, poisson.sf(25, 20.0), most=0.3)


@pytest.mark.parametrize(
    ("gaps", "cv2"), [pytest.param((50,), 1 - 1 / 50, id="M/M/1"), pytest.param(50, 0.0, id="M/D/1")]
)
def test_one_place_waits_by_pollaczek_and_khinchine(gaps, cv2):
    work = requests(40_000, 1.4, gaps)  # rho .7
    _, at_s, admitted_s, done_s = sent_to(work, Straight(concurrency_cap=1))
    assert_mean(admitted_s - at_s, mean_wait_s(1, 1.4, 0.5, cv2=cv2), most=0.12)
    free_s = 0.0
    for row, gap in enumerate(work.gaps[:5_000]):  # and to the last digit, by Lindley's recursion
        free_s = max(free_s, at_s[row]) + gap * GAP_S
        assert done_s[row] == pytest.approx(free_s, abs=1e-9)


def test_a_cap_with_a_constant_gap_is_erlang_c():
    work = requests(40_000, 7.0, (50,))  # load 3.5
    _, at_s, admitted_s, _ = sent_to(work, Straight(concurrency_cap=5))
    assert_mean(admitted_s > at_s, erlang_c(5, 3.5), most=0.12)
    assert_mean(admitted_s - at_s, mean_wait_s(5, 7.0, 0.5, cv2=1 - 1 / 50), most=0.2)


def test_time_goes_on_while_the_model_slows_down_as_small_steps_say():
    model = Straight(itl_slope_ms=3.0, ttft_base_ms=30.0, ttft_slope_ms=5.0, concurrency_cap=4)
    dice = random.Random(5)
    at_s = sorted(round(dice.uniform(0, 2.0), 4) for _ in range(25))
    gaps = [dice.randrange(5, 60) for _ in at_s]
    work = Work(at_s, [0.0] * 25, gaps, [0.0] * 25)
    _, _, _, done_s = sent_to(work, model)
    step_s, now_s, queue, left, seen = 1e-4, 0.0, [], {}, {}
    while len(seen) < 25:
        queue += [row for row in range(25) if now_s - step_s < at_s[row] - 1e-12 <= now_s + 1e-12 and row not in queue]
        queue += [row for row in range(25) if at_s[row] == 0.0 == now_s]
        for row in [row for row, work_left in left.items() if work_left <= 1e-9]:
            seen[row] = now_s
            del left[row]
        while queue and len(left) < 4:
            row, others = queue.pop(0), len(left)
            left[row] = model.ttft_ms(others) / model.itl_ms(others) + gaps[row]
        now_s += step_s
        for row in left:
            left[row] -= step_s * 1e3 / model.itl_ms(len(left) - 1)
    assert [seen[row] for row in range(25)] == pytest.approx(list(done_s), abs=0.01)


@pytest.mark.parametrize("routing", Routing)
def test_littles_law_holds_to_the_last_digits(routing):
    model = Straight(itl_slope_ms=0.4, ttft_base_ms=40.0, tail=1.4, concurrency_cap=8)
    work = requests(5_000, 30.0, (60,), seed=3)
    fleet, _, admitted_s, done_s = sent_to(work, model, 3, routing)
    running_s = sum(instance.running_s(done_s.max()) for instance in fleet.serving)
    assert running_s == pytest.approx((done_s - admitted_s).sum(), rel=1e-9)


def test_the_first_token_takes_what_the_model_says_at_the_concurrency_and_for_the_prompt():
    model = Straight(ttft_base_ms=100.0, ttft_slope_ms=50.0, ttft_per_prompt_token_ms=0.1)
    work = Work([0.0, 1.0, 1.0], [0.0, 0.0, 200.0], [10, 10, 10], [0.0, 0.0, 0.0])
    fleet = simulate(work, ServiceCurve(model, 100.0, 11.0, prompt_slope_s=1e-4), 1)
    first_s = np.array(fleet.served.first_s) - np.array(work.at_s)
    assert first_s == pytest.approx([0.110, 0.110, 0.180])  # none beside, none, one and 200 tokens more
    assert fleet.served.done_s[0] == pytest.approx(0.210)


def test_the_spread_of_the_first_token_has_the_models_median_and_95th_percentile():
    work = requests(20_000, 1.0, 5)
    fleet = simulate(work, ServiceCurve(Straight(ttft_base_ms=100.0, tail=1.5), 100.0, 6.0), 1)
    ttft_s = np.array(fleet.served.first_s) - np.array(fleet.served.admitted_s)
    assert np.quantile(ttft_s, [0.5, 0.95]) == pytest.approx([0.1, 0.15], rel=0.02)


def test_round_robin_and_random_split_what_the_least_loaded_pools():
    work = requests(30_000, 18.0, (50,))
    model = Straight(concurrency_cap=3)  # 9 of 12 places busy
    waits = {}
    for routing in Routing:
        fleet, at_s, admitted_s, _ = sent_to(work, model, 4, routing)
        waits[routing] = (admitted_s - at_s).mean()
        assert len({instance.running_s(at_s[-1]) for instance in fleet.serving}) == 4  # each had its part
    assert waits[Routing.RANDOM] == pytest.approx(mean_wait_s(3, 4.5, 0.5), rel=0.15)  # four queues of their own
    assert waits[Routing.LEAST_LOADED] < waits[Routing.ROUND_ROBIN] < waits[Routing.RANDOM]
    assert waits[Routing.LEAST_LOADED] >= 0.9 * mean_wait_s(12, 18.0, 0.5)  # and not less than one queue for all
