"""Waits for a place: what they do to a highest rate and a prediction, and what the steps themselves say of it."""

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from loadgen.slo import Slo
from planner.capacity import CapacityError, fit
from planner.fleets.sharing import ServiceCurve
from planner.fleets.simulated_rate import simulated_rate
from planner.fleets.waiting import erlang_c
from planner.instance_rate import measured_rate_per_s, missed_rate_per_s
from planner.instances import SweptCapacity
from planner.serving.closure import Latency
from planner.serving.curves import Form
from planner.serving.places import IN_THE_LONG_RUN, LEAST_IN_FLIGHT, Queueing, wait_for_place
from planner.serving.steps_met import Neighbours, bracket
from tests.test_serving_model import COMPLETION, PROMPT, linear, row, steps, waiting
from tests.waiting_formulas import waiting_beyond

FEW = (0.5, 1, 2, 4, 6)  # in flight, of eight places


class Constant:
    """Every request takes two seconds, however many there are."""

    def e2e_s(self, concurrency, shape):
        return np.full(len(concurrency), 2.0)


def test_waits_of_constant_service_are_those_of_erlang_and_kimura():
    for rate_per_s in (1.0, 2.5, 3.6):
        wait = wait_for_place(Constant(), None, 8, rate_per_s, Queueing(cv2=1.0, seconds=math.inf))
        assert wait.share == pytest.approx(erlang_c(8, 2 * rate_per_s))
        beyond = wait.share * math.exp(-wait.ends_per_ms * 300)
        assert beyond == pytest.approx(waiting_beyond(0.3, 8, rate_per_s, 2.0))


def test_a_short_step_waits_less_and_ever_more_the_nearer_it_comes_to_the_places():
    short, long = Queueing(0.5, 60.0), Queueing(0.5, math.inf)
    means = [wait_for_place(Constant(), None, 8, rate, short).mean_ms for rate in (3.0, 3.6, 3.9, 4.0, 4.4)]
    assert means == sorted(means)
    assert means[2] < 0.7 * wait_for_place(Constant(), None, 8, 3.9, long).mean_ms


@pytest.mark.parametrize("limit_ms", [200, 500, 2_000])
def test_with_a_cap_the_highest_rate_is_the_one_at_which_a_simulated_instance_keeps_the_objective(limit_ms):
    model, slo = fit(steps(FEW), concurrency_cap=8), Slo.parse(f"ttft.p95<{limit_ms}ms")
    found = model.max_rate(slo)
    lengths = np.full(50, PROMPT), np.random.default_rng(3).gamma(2, COMPLETION / 2, 5_000) + 1
    truth = simulated_rate(ServiceCurve(model, PROMPT, COMPLETION, cap=8), [slo], lengths, most_per_s=5.0)
    assert found.rate_per_s.value == pytest.approx(truth, rel=0.06)
    assert found.binds == slo.text
    assert model.predict(found.rate_per_s.value).ttft_p95_ms.value <= limit_ms * 1.01


def test_an_objective_of_gaps_waits_for_no_place():
    objective = f"itl.mean<{linear(7)}ms"
    by_cap, blind = fit(steps(FEW), concurrency_cap=8).max_rate(objective), fit(steps(FEW)).max_rate(objective)
    assert by_cap.rate_per_s.value == pytest.approx(blind.rate_per_s.value, rel=1e-6)


def missing(n, ttft_p95_ms):
    return row(n) | {"ttft_p95_ms": ttft_p95_ms}


# the last step, in which it misses ttft.p95<500ms, and how
MISSED = {
    "a steady one of which some requests waited": missing(60, 4_000.0),
    "one that saturated": waiting(60, 15),
    "one that misses by a little": missing(60, 501.0),
}


@pytest.mark.parametrize("last", MISSED.values(), ids=MISSED)
def test_no_rate_is_promised_at_which_a_step_missed_and_what_the_steps_enclose_is_not_refused(last):
    table = pl.DataFrame([*(row(n) for n in (2, 5, 10, 20, 40)), last])
    found = fit(table).max_rate("ttft.p95<500ms")
    assert row(40)["rate_per_s"] <= found.rate_per_s.value < last["rate_per_s"]
    assert found.binds == "ttft.p95<500ms"


def test_where_the_lightest_step_misses_lighter_ones_are_asked_for():
    table = pl.DataFrame([row(n) | {"ttft_p95_ms": 400.0} for n in (2, 5, 10, 20, 40)])
    with pytest.raises(CapacityError, match=r"lightest step already; measure lighter|at no rate"):
        fit(table, concurrency_cap=64).max_rate("ttft.p95<300ms")


def test_first_tokens_that_waited_tell_no_curve_but_their_gaps_do():
    clean = fit(steps((2, 5, 10, 20)))
    table = pl.DataFrame([*(row(n) for n in (2, 5, 10, 20)), missing(30, 900.0), missing(40, 3_000.0)])
    model = fit(table)
    assert model.ttft_ms(10, quantile=0.95) == pytest.approx(clean.ttft_ms(10, quantile=0.95), rel=1e-3)
    assert model.itl_ms(40) == pytest.approx(linear(40), rel=0.01)
    assert sum("some requests waited" in doubt for doubt in model.doubts) == 2
    between = (row(30)["rate_per_s"] * row(40)["rate_per_s"]) ** 0.5
    said = model.predict(between).ttft_p95_ms
    assert 900 < said.value < 3_000
    assert said.low < 900 and 3_000 <= said.high < math.inf


def test_with_a_cap_predictions_hold_the_wait_and_without_one_that_is_a_doubt():
    by_cap, blind = fit(steps(FEW), concurrency_cap=8), fit(steps(FEW))
    rate_per_s = 1.1 * row(6)["rate_per_s"]
    assert by_cap.predict(rate_per_s).ttft_p95_ms.value > 3 * blind.predict(rate_per_s).ttft_p95_ms.value
    assert by_cap.predict(rate_per_s).e2e_mean_s.value > blind.predict(rate_per_s).e2e_mean_s.value
    assert any("begin to wait for a place" in doubt for doubt in blind.doubts)
    assert not any("begin to wait" in doubt for doubt in by_cap.doubts)


def test_inside_the_steps_no_interval_is_without_end():
    table = pl.DataFrame([row(n) for n in (2, 8, 16, 24, 30, 31.8)])
    said = fit(table, concurrency_cap=32).predict(row(31)["rate_per_s"])
    for name in ("concurrency", "itl_mean_ms", "ttft_p50_ms", "ttft_p95_ms", "e2e_mean_s"):
        interval = getattr(said, name)
        assert interval.low <= interval.value <= interval.high < math.inf, name


def test_a_form_that_errs_twice_as_much_as_the_best_widens_no_interval():
    curved = steps((1, 4, 10, 20, 40, 60), lambda n: 12 + 0.004 * n * n)
    model = fit(curved)
    assert dict(model.forms)["linear"] > 2 * dict(model.forms)["quadratic"]
    assert Form.LINEAR not in model.fits[0].responses


# --- what is given ---


def test_lengths_that_differ_by_chance_are_one_shape_and_two_that_cannot_be_told_apart_keep_their_own():
    prompts = (430.0, 560.0, 500.0, 590.0, 460.0)
    by_chance = [row(n, prompt=prompt) for n, prompt in zip((2, 5, 10, 20, 40), prompts, strict=True)]
    assert len(fit(pl.DataFrame(by_chance)).fits) == 1
    two = [row(n, completion=length) for n in (2, 5, 10, 20, 40) for length in (128.0, 256.0)]
    model = fit(pl.DataFrame(two))
    assert len(model.fits) == 2
    assert model.itl_ms(30, PROMPT, 256.0) == pytest.approx(linear(30), rel=1e-3)
    assert float(model.predict(2.0, PROMPT, 190.0).itl_mean_ms) > 10


def test_the_four_steps_that_a_refusal_advises_are_enough():
    with pytest.raises(CapacityError, match="of which one may saturate"):
        fit(steps((2, 16)))
    model = fit(pl.DataFrame([row(2), row(16), row(24), waiting(32, 5)]))
    assert (model.concurrency_cap, model.cap_source) == (32, "measured")


# a table that says the same in another way
SAME = {
    "NaN where a figure is missing": steps().with_columns(itl_p95_ms=pl.lit(math.nan)),
    "decimals": steps().with_columns(pl.col("completion_tokens").cast(pl.Decimal(12, 4))),
    "whole numbers": steps().with_columns(pl.col("prompt_tokens", "completion_tokens").cast(pl.Int64)),
}


@pytest.mark.parametrize("table", SAME.values(), ids=SAME)
def test_tables_that_say_the_same_give_the_same_model(table):
    said, plain = (fit(each).predict(5.0).itl_mean_ms for each in (table, steps()))
    assert said.value == pytest.approx(plain.value)
    assert type(said.value) is float


def test_a_rate_without_end_is_what_was_completed_and_else_left_out_with_the_reason():
    served = row(32)["rate_per_s"]
    endless = waiting(32, 8) | {"rate_per_s": math.inf}
    rows = [row(n) | {"completed_per_s": row(n)["rate_per_s"]} for n in (2, 5, 10, 20)]
    model = fit(pl.DataFrame([*rows, endless | {"completed_per_s": served}]))
    assert model.capacity().value == pytest.approx(served, rel=0.01)
    (reason,) = fit(pl.DataFrame([*rows, endless | {"completed_per_s": None}])).dropped
    assert "give completed_per_s" in reason


def test_no_steps_are_refused():
    with pytest.raises(CapacityError, match="no steps were given"):
        fit([])


def test_an_arrival_waits_for_what_is_in_flight_beside_itself():
    growing = SimpleNamespace(e2e_s=lambda n, shape: 1 + n)
    assert wait_for_place(growing, None, 1, 0.5, IN_THE_LONG_RUN).share == pytest.approx(0.5 * (1 + LEAST_IN_FLIGHT))


def test_beyond_its_neighbours_a_latency_goes_on_no_further_than_as_much_again():
    found = Neighbours(below_per_s=1, below_ms=100, above_per_s=2, above_ms=200, waited=False)
    assert [found.at(rate) for rate in (1, 2, 3, 30)] == pytest.approx([100, 200, 400, 400])


def test_a_step_that_did_not_keep_up_shows_what_misses_and_not_what_is_kept():
    queued = SimpleNamespace(served_per_s=5.0, quantiles={"ttft_p95_ms": 100.0}, concurrency=1.0)
    fitted = SimpleNamespace(steps=(), queued=(queued,), shaped=False)
    for limit, bounds in (("200ms", (None, None)), ("50ms", (None, 5.0))):
        seen = bracket(fitted, Latency("ttft", 0.95), Slo.parse(f"ttft.p95<{limit}"), None)
        assert (seen.met_per_s, seen.missed_per_s) == bounds


def test_what_a_sweep_of_several_instances_met_and_missed_is_each_ones_share():
    demand = SimpleNamespace(mean_tokens=lambda name: 10.0)
    scope = SimpleNamespace(
        slos=(), config=SimpleNamespace(slos=()), of_own_mix=True, measured=demand, planned=demand,
        swept=SweptCapacity(rate_per_s=12.0, concurrency=6.0, instances=3, stated=True, missed_per_s=15.0),
    )  # fmt: skip
    assert (measured_rate_per_s(scope), missed_rate_per_s(scope)) == (4.0, 5.0)
