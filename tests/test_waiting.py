"""Waiting formulas against textbook values, exact sums, and the limits that they must have."""

import math

import pytest
from scipy.stats import poisson

from planner.fleets.waiting import erlang_b, erlang_c
from tests.waiting_formulas import mean_wait_s, waiting_beyond


@pytest.mark.parametrize(
    ("places", "load", "waiting"),
    [
        pytest.param(3, 2, 0.444444, id="textbook"),
        pytest.param(5, 2.5, 0.130371, id="textbook"),
        pytest.param(10, 6, 0.101299, id="printed as about .10"),
        pytest.param(3, 2.5, 0.702, id="one web page prints 60 %"),
        pytest.param(4, 2.5, 0.320, id="and 27 % for this"),
        pytest.param(1, 0.8, 0.8, id="one place is taken rho of the time"),
        pytest.param(3, 3, 1.0, id="the load is the places: all wait, longer and longer"),
        pytest.param(3, 0, 0.0, id="nobody comes"),
    ],
)
def test_erlang_c(places, load, waiting):
    assert erlang_c(places, load) == pytest.approx(waiting, abs=5e-4 if waiting in (0.702, 0.320) else 1e-6)


@pytest.mark.parametrize(("places", "load"), [(1, 0.5), (7, 5.0), (400, 390.0), (3_000, 2_900.0)])
def test_erlang_b_is_the_truncated_poisson_distribution(places, load):
    assert erlang_b(places, load) == pytest.approx(poisson.pmf(places, load) / poisson.cdf(places, load), rel=1e-9)


def test_one_server_waits_by_pollaczek_and_khinchine():
    assert mean_wait_s(1, 1.0, 0.8) == pytest.approx(3.2)  # M/M/1
    assert mean_wait_s(1, 1.0, 0.8, cv2=0) == pytest.approx(1.6)  # M/D/1: half of it
    assert mean_wait_s(1, 1.0, 0.8, cv2=4) == pytest.approx(1.0 * 0.8**2 * 5 / (2 * 0.2))
    assert mean_wait_s(2, 2.0, 1.0) == math.inf


def test_the_tail_of_the_wait_has_the_mean_of_the_wait():
    tail = [waiting_beyond(step / 1_000, 4, 3.5, 1.0, cv2=2.5) for step in range(200_000)]
    assert math.fsum(tail) / 1_000 == pytest.approx(mean_wait_s(4, 3.5, 1.0, cv2=2.5), rel=1e-3)
    assert tail[0] == erlang_c(4, 3.5)
    assert waiting_beyond(9.0, 4, 4.0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("beta", "limit", "of_a_hundred"),
    [(0.5, 0.5045, 0.5157), (1, 0.2234, 0.2370), (1.5, 0.0847, 0.0954), (2, 0.0269, 0.0332)],
)
def test_many_places_come_to_what_halfin_and_whitt_say(beta, limit, of_a_hundred):
    places = round(100 + 10 * beta)
    assert erlang_c(places, 100.0) == pytest.approx(of_a_hundred, abs=6e-5)
    assert erlang_c(round(1e6 + 1e3 * beta), 1e6) == pytest.approx(limit, rel=0.01)
