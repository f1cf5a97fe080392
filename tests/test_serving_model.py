"""The serving model: exact on what it describes, refuses what the steps cannot say, and says how sure it is."""

import math
import random
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from loadgen.errors import ConfigError, HeadroomError
from loadgen.slo import Slo
from planner.capacity import CapacityError, Interval, MaxRate, Prediction, fit
from planner.serving.curves import EXPONENTS, nonnegative
from tests.queueing_model import Queueing

PROMPT, COMPLETION = 512.0, 128.0


def linear(n):
    return 10 + 0.2 * n


def power(n):
    return 8 + 1.5 * n**0.6


def quadratic(n):
    return 12 + 0.05 * n + 0.002 * n * n


def row(n, itl=linear, *, prompt=PROMPT, completion=COMPLETION, **changes):
    """A step with n in flight, of a server whose TTFT is 30 ms and two iterations. Exact."""
    ttft_ms = 30 + 2 * itl(n)
    e2e_s = (ttft_ms + (completion - 1) * itl(n)) / 1e3
    step = {
        "rate_per_s": n / e2e_s,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "itl_mean_ms": itl(n),
        "itl_p95_ms": 1.1 * itl(n),
        "ttft_p50_ms": ttft_ms,
        "ttft_p95_ms": 1.2 * ttft_ms,
        "e2e_mean_s": e2e_s,
    }
    return step | changes


LEVELS = (2, 5, 10, 20, 40)


def steps(levels=LEVELS, itl=linear, **fields):
    return pl.DataFrame([row(n, itl, **fields) for n in levels])


def waiting(n, seconds, itl=linear, **fields):
    """A step that asks for more than the n slots serve: requests wait for so long first."""
    full = row(n, itl, **fields)
    late = {name: full[name] + 1e3 * seconds for name in ("ttft_p50_ms", "ttft_p95_ms")}
    return full | late | {"e2e_mean_s": full["e2e_mean_s"] + seconds}


@pytest.mark.parametrize("itl", [linear, power, quadratic])
def test_a_noiseless_sweep_gives_its_parameters_and_its_next_step(itl):
    model = fit(steps(itl=itl), concurrency_cap=200)
    assert model.form == itl.__name__
    assert dict(model.forms)[model.form] < 1e-6
    following = row(48, itl)
    said = model.predict(following["rate_per_s"])
    assert float(said.concurrency) == pytest.approx(48, rel=1e-3)
    for name in ("itl_mean_ms", "itl_p95_ms", "ttft_p50_ms", "ttft_p95_ms", "e2e_mean_s"):
        assert float(getattr(said, name)) == pytest.approx(following[name], rel=2e-3), name
    assert model.itl_ms(30) == pytest.approx(itl(30), rel=1e-3)
    assert model.ttft_ms(30, quantile=0.95) == pytest.approx(1.2 * (30 + 2 * itl(30)), rel=1e-3)


def test_a_prediction_obeys_littles_law():
    said = fit(steps()).predict(6.0)
    assert float(said.concurrency) == pytest.approx(6.0 * float(said.e2e_mean_s), rel=1e-9)


@pytest.mark.parametrize("itl", [linear, power, quadratic])
def test_the_highest_rate_is_that_at_which_the_objective_is_at_its_limit(itl):
    model = fit(steps(itl=itl), concurrency_cap=200)
    at = row(44, itl)
    for text, figure in (("itl.mean", "itl_mean_ms"), ("ttft.p95", "ttft_p95_ms"), ("itl.p95", "itl_p95_ms")):
        found = model.max_rate(f"{text}<{at[figure]:.9f}ms")
        assert float(found.rate_per_s) == pytest.approx(at["rate_per_s"], rel=2e-3), text
        assert found.binds.startswith(text)


def test_of_several_objectives_the_tightest_binds():
    model = fit(steps())
    loose, tight = f"itl.mean<{linear(38)}ms", f"ttft.p95<{1.2 * (30 + 2 * linear(25))}ms"
    found = model.max_rate([Slo.parse(loose), tight])
    assert found.binds == tight
    assert float(found.rate_per_s) == pytest.approx(row(25)["rate_per_s"], rel=1e-3)
    assert isinstance(found, MaxRate)


def test_beyond_the_objectives_the_cap_binds_at_its_rate_by_littles_law():
    found = fit(steps(), concurrency_cap=64).max_rate("ttft.p95<1h")
    assert found.binds == "concurrency cap"
    assert float(found.rate_per_s) == pytest.approx(row(64)["rate_per_s"], rel=1e-3)


# The published law of scalability, X(N) = gamma N / (1 + alpha (N - 1) + beta N (N - 1)) with alpha = beta = .02 and
# gamma = 1, is a time in system that is quadratic in N. N, X(N):
SCALABILITY = ((1, 1.0), (2, 1.8868), (4, 3.0769), (6, 3.5294), (8, 3.5398), (10, 3.3557))


def test_the_universal_scalability_law_is_the_quadratic_form():
    table = pl.DataFrame(
        [
            {
                "rate_per_s": rate,
                "prompt_tokens": 100.0,
                "completion_tokens": 1_001.0,
                "itl_mean_ms": n / rate,
                "ttft_p50_ms": 0.001,
                "e2e_mean_s": n / rate,
            }
            for n, rate in SCALABILITY
        ]
    )
    model = fit(table, concurrency_cap=10)
    assert dict(model.forms)["quadratic"] < 0.01
    peak = model.capacity()
    assert float(peak) == pytest.approx(7 / (1 + 0.02 * 6 + 0.02 * 42), rel=0.01)  # n* = sqrt(.98 / .02) = 7


def test_the_published_queueing_model_gives_the_figures_of_its_own_example():
    at = Queueing(alpha=12, beta=0.05, gamma=0.0005, batch=48, queue=128).at(3, 128, 512)
    published = {"response": 10568.446, "wait": 28.27539, "served": 31.620514, "ttft": 75.31746, "itl": 20.534498}
    assert at == pytest.approx(published, rel=1e-4)


@given(
    a=st.floats(1, 50),
    b=st.floats(0.001, 2),
    p=st.sampled_from(EXPONENTS),
    levels=st.lists(st.integers(1, 400), min_size=5, max_size=9, unique=True),
)
@settings(max_examples=15)
def test_predictions_rise_with_the_rate_and_intervals_hold_their_value(a, b, p, levels):
    levels.sort()
    table = steps(levels, lambda n: a + b * n**p)
    try:
        model = fit(table, concurrency_cap=500)
    except CapacityError:
        return
    top = float(table["rate_per_s"].max())
    found = [model.predict(share * top) for share in (0.3, 0.6, 0.9)]
    for name in ("concurrency", "itl_mean_ms", "ttft_p50_ms", "ttft_p95_ms", "e2e_mean_s"):
        intervals = [getattr(each, name) for each in found]
        assert all(each.low <= each.value <= each.high for each in intervals), name
        assert all(low.value <= high.value * (1 + 1e-9) for low, high in pairwise(intervals)), name


@pytest.mark.parametrize("seed", range(20))
def test_non_negative_least_squares_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(size=(8, rng.integers(1, 5))), rng.normal(size=8)
    expected, residual = nnls(matrix, target)
    assert nonnegative(matrix, target) == pytest.approx(expected, abs=1e-9)
    assert np.linalg.norm(matrix @ nonnegative(matrix, target) - target) == pytest.approx(residual)


def test_intervals_widen_with_the_distance_from_the_steps():
    model = fit(steps(), concurrency_cap=400)
    top = row(LEVELS[-1])["rate_per_s"]
    said = [model.predict(horizon * top) for horizon in (0.9, 1.1, 1.9)]
    widths = [each.itl_mean_ms.high / each.itl_mean_ms.low for each in said]
    assert widths == sorted(widths)
    assert [each.grade for each in said] == ["interpolated", "one step beyond", "extrapolated"]
    assert [each.horizon for each in said] == pytest.approx([0.9, 1.1, 1.9])


def test_intervals_of_noisy_sweeps_cover_the_next_step():
    rng, within = random.Random(20), []
    for _ in range(25):
        itl = rng.choice((linear, power, quadratic))
        rows = [row(n, itl) for n in (2, 6, 12, 20, 28, 36)]
        for each in rows:
            each["itl_mean_ms"] *= math.exp(rng.gauss(0, 0.02))
        said = fit(pl.DataFrame(rows[:-1])).predict(rows[-1]["rate_per_s"]).itl_mean_ms
        within.append(said.low <= rows[-1]["itl_mean_ms"] <= said.high)
    assert sum(within) >= 0.88 * len(within)


# what is wrong with the steps, and what the refusal must say
REFUSED = {
    "three steps": (steps((2, 8, 20)), "3 usable steps"),
    "one rate again and again": (steps((5, 5, 5, 5, 5)), "1 usable step at"),
    "all limited by the quota": (steps().with_columns(quota_limited=pl.lit(True)), "the quota limited it"),
    "all limited by the client": (steps().with_columns(client_limited=pl.lit(True)), "the load generator limited it"),
    "a figure that is none": (steps(ttft_p50_ms=math.nan), "ttft_p50_ms is nan"),
    "a negative p95": (steps(itl_p95_ms=-1.0), "itl_p95_ms is -1.0"),
    "a rate without end": (steps(rate_per_s=math.inf), "rate_per_s is inf"),
    "percentiles that are swapped": (steps(ttft_p95_ms=1.0), "ttft_p95_ms is below ttft_p50_ms"),
    "no time between tokens": (steps().drop("itl_mean_ms"), "no column itl_mean_ms"),
    "more in flight than Little's law has": (steps(concurrency=900.0), "Little's law does not hold"),
    "no rows": (steps().clear(), "0 usable steps"),
}


@pytest.mark.parametrize(("table", "reason"), REFUSED.values(), ids=REFUSED)
def test_steps_that_cannot_say_are_refused_with_the_reason(table, reason):
    with pytest.raises(CapacityError, match=reason) as caught:
        fit(table)
    assert isinstance(caught.value, HeadroomError)


def test_what_the_load_generator_held_back_is_no_capacity():
    """It asked for more and more, was served the same, and had no more in flight: its own limit."""
    rows = [row(n) for n in (2, 5, 10, 20)]
    held = row(32)
    rows += [held | {"rate_per_s": asked, "completed_per_s": held["rate_per_s"]} for asked in (18.0, 24.0, 30.0)]
    table = pl.DataFrame([{"completed_per_s": each["rate_per_s"], **each} for each in rows])
    model = fit(table)
    assert model.capacity() is None
    assert len(model.dropped) == 3
    assert all("held back" in reason for reason in model.dropped)


def test_few_steps_left_are_refused_with_why_the_others_were_not_used():
    table = pl.DataFrame([row(2), row(8), waiting(32, 3), waiting(32, 6)])
    with pytest.raises(CapacityError, match=r"2 usable steps.*step 3 at .* it saturated"):
        fit(table)


def test_far_beyond_the_steps_nothing_is_said_unless_saturation_or_a_cap_is_known():
    top = row(LEVELS[-1])["rate_per_s"]
    blind = fit(steps())
    assert float(blind.predict(1.14 * top).itl_mean_ms) > linear(LEVELS[-1])
    with pytest.raises(CapacityError, match="2.00 times the highest steady step"):
        blind.predict(2 * top)
    with pytest.raises(CapacityError, match="no step shows where the deployment saturates"):
        blind.max_rate("ttft.p95<10s")
    assert blind.max_rate(f"itl.mean<{linear(30)}ms").grade == "interpolated"
    assert fit(steps(), concurrency_cap=400).predict(2 * top).grade == "extrapolated"


def test_above_capacity_no_latency_is_made_up():
    with pytest.raises(CapacityError, match="more than an instance serves"):
        fit(steps(), concurrency_cap=64).predict(2 * row(64)["rate_per_s"])


@pytest.mark.parametrize("flags", [{}, {"saturated": True}])
def test_a_saturated_step_tells_the_capacity_and_the_cap_flagged_or_not(flags):
    rows = [{"saturated": False, **row(n)} for n in (2, 5, 10, 20)]
    table = pl.DataFrame(
        [*rows, {"saturated": False, **waiting(32, 4), **flags}, {"saturated": False, **waiting(32, 9), **flags}]
    )
    model = fit(table if flags else table.drop("saturated"))
    assert float(model.capacity()) == pytest.approx(row(32)["rate_per_s"], rel=0.01)
    assert (model.concurrency_cap, model.cap_source) == (32, "measured")
    assert model.steps_used == 4
    found = model.max_rate("ttft.p95<1h")
    assert found.binds == "capacity"
    assert float(found.rate_per_s) == pytest.approx(row(32)["rate_per_s"], rel=0.01)


def test_a_cap_that_saturation_contradicts_is_a_doubt():
    table = pl.DataFrame([*(row(n) for n in (2, 5, 10, 20)), waiting(32, 4)])
    assert any("not the 128 of the cap" in doubt for doubt in fit(table, concurrency_cap=128).doubts)
    assert not fit(table, concurrency_cap=32).doubts


def test_the_step_of_one_request_at_a_time_is_no_part_of_the_line_of_first_tokens():
    """An idle instance starts at once; a busy one lets the newcomer wait for an iteration."""
    idle = row(1, ttft_p50_ms=20.0, ttft_p95_ms=21.0)
    model = fit(pl.DataFrame([idle, *(row(n) for n in LEVELS[1:])]))
    assert model.ttft_ms(30) == pytest.approx(30 + 2 * linear(30), rel=1e-3)
    assert model.ttft_ms(0.9) == pytest.approx(20.0, rel=1e-3)


def test_little_in_doubt_is_said():
    table = steps().with_columns(concurrency=1.1 * pl.col("rate_per_s") * pl.col("e2e_mean_s"))
    model = fit(table)
    assert len([doubt for doubt in model.doubts if "by Little's law" in doubt]) == len(LEVELS)


def test_order_further_columns_and_missing_p95s_do_not_matter():
    plain = fit(steps(), concurrency_cap=100)
    odd = (
        steps()
        .sample(fraction=1.0, shuffle=True, seed=3)
        .with_columns(note=pl.lit("x"), itl_p95_ms=None, ttft_p95_ms=None)
    )
    said = fit(odd, concurrency_cap=100).predict(7.0)
    assert (said.itl_p95_ms, said.ttft_p95_ms) == (None, None)
    assert float(said.itl_mean_ms) == pytest.approx(float(plain.predict(7.0).itl_mean_ms))
    assert isinstance(said, Prediction)
    assert isinstance(said.itl_mean_ms, Interval)


def test_what_several_instances_served_is_divided_among_them():
    table = steps().with_columns(pl.col("rate_per_s") * 3)
    assert float(fit(table, instances=3).predict(7.0).itl_mean_ms) == pytest.approx(
        float(fit(steps()).predict(7.0).itl_mean_ms)
    )


# what is asked, and what the refusal must say
UNANSWERABLE = {
    "a quantile that the steps do not hold": ("ttft.p99<1s", "they hold p50, p95"),
    "the worst case": ("itl.max<1s", "no max of itl"),
    "a metric that is not modelled": ("ttfb.p95<1s", "no p95 of ttfb"),
    "less than an idle instance takes": ("ttft.p95<1ms", "at no rate"),
}


@pytest.mark.parametrize(("slo", "reason"), UNANSWERABLE.values(), ids=UNANSWERABLE)
def test_objectives_that_the_steps_cannot_answer_are_refused_with_the_reason(slo, reason):
    with pytest.raises(CapacityError, match=reason):
        fit(steps()).max_rate(slo)


def test_a_text_that_is_no_objective_is_an_error_of_configuration():
    for wrong in ("fast", []):
        with pytest.raises(ConfigError):
            fit(steps()).max_rate(wrong)


def test_quantiles_between_those_measured_are_those_of_a_log_normal():
    model = fit(steps())
    p50, p90, p95 = (model.ttft_ms(20, quantile=q) for q in (0.5, 0.9, 0.95))
    assert math.log(p90 / p50) == pytest.approx(math.log(p95 / p50) * 1.28155 / 1.64485, rel=1e-4)


# several shapes at one server: each request in the batch costs 0.05 ms, its share of prefill, and its context
def shaped(n, prompt, completion):
    return 9 + n * (0.05 + 0.03 * prompt / completion + 1e-4 * (prompt + completion / 2))


SHAPES = [(prompt, completion) for prompt in (64.0, 512.0, 2_048.0) for completion in (64.0, 256.0)]


def of_shapes(shapes, levels=(2, 6, 12, 24)):
    return pl.DataFrame(
        [row(n, lambda m, i=i, o=o: shaped(m, i, o), prompt=i, completion=o) for i, o in shapes for n in levels]
    )


def test_a_shape_that_was_not_measured_follows_from_several_that_were():
    left = (512.0, 256.0)
    model = fit(of_shapes([each for each in SHAPES if each != left]))
    expected = row(20, lambda n: shaped(n, *left), prompt=left[0], completion=left[1])
    said = model.predict(expected["rate_per_s"], *left)
    assert float(said.itl_mean_ms) == pytest.approx(expected["itl_mean_ms"], rel=0.01)
    assert float(said.ttft_p50_ms) == pytest.approx(expected["ttft_p50_ms"], rel=0.03)


def test_a_shape_that_was_measured_keeps_its_own_curve():
    model = fit(of_shapes(SHAPES))
    assert model.itl_ms(15, *SHAPES[0]) == pytest.approx(shaped(15, *SHAPES[0]), rel=1e-6)


def test_a_shape_far_from_all_that_was_measured_is_refused():
    with pytest.raises(CapacityError, match="cannot say: measure steps of another shape"):
        fit(steps()).predict(5.0, 2 * PROMPT, COMPLETION)
    with pytest.raises(CapacityError, match="more than 2 times beyond"):
        fit(of_shapes(SHAPES)).predict(1.0, 20_000, 256)
    near = fit(steps()).predict(5.0, 1.1 * PROMPT, 1.1 * COMPLETION)
    assert float(near.e2e_mean_s) > float(fit(steps()).predict(5.0).e2e_mean_s)
