"""Change points: found where a series has them, and not where it has none."""

import random

import pytest

from planner.comparing import change_points
from planner.comparing.change_points import FEWEST, changes


def steady(seed, n=30, spread=0.02):
    dice = random.Random(seed)
    return [dice.gauss(0, spread) for _ in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_a_step_of_5_percent_in_thirty_points_is_found_where_it_is(seed):
    series = [value + (0.0488 if place >= 15 else 0) for place, value in enumerate(steady(seed))]
    (found,) = changes(series, alpha=0.01, seed=1)
    assert abs(found.at - 15) <= 2
    assert found.p <= 0.01


def test_two_steps_are_found():
    series = [value + (0.1 if 12 <= place < 26 else 0) for place, value in enumerate(steady(3, 40))]
    assert [
        abs(found.at - true) <= 2 for found, true in zip(changes(series, alpha=0.01, seed=1), (12, 26), strict=True)
    ] == [True, True]


def test_the_matteson_and_james_series_of_three_levels_is_taken_apart():
    """As in their package's first example: 100 points each of N(0, 1), N(0, 3) and N(2, 1), in small."""
    dice = random.Random(3)
    series = [dice.gauss(mean, sd) for mean, sd in [(0, 1)] * 40 + [(0, 6)] * 40 + [(8, 1)] * 40]
    assert all(
        abs(found.at - true) <= 8 for found, true in zip(changes(series, alpha=0.01, seed=1), (40, 80), strict=True)
    )


def test_a_series_too_short_for_two_levels_has_none():
    assert changes([0.0] * FEWEST + [9.0] * (FEWEST - 1), alpha=0.05, seed=1) == []
    assert changes([], alpha=0.05, seed=1) == []


def test_the_same_series_has_the_same_changes():
    series = steady(4, 60) + [value + 0.05 for value in steady(5, 20)]
    assert changes(series, alpha=0.05, seed=1) == changes(series, alpha=0.05, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("n", [20, 40])
def test_steady_series_have_changes_no_more_often_than_alpha(n):
    rung = sum(bool(changes(steady(seed, n), alpha=0.05, seed=seed)) for seed in range(400))
    assert rung <= 400 * 0.05 + 2 * (400 * 0.05 * 0.95) ** 0.5


def test_a_series_that_wanders_has_changes_far_more_seldom_than_its_values_shuffled_would_say(monkeypatch):
    def wandering(seed, n=40):
        dice, series = random.Random(seed), [0.0]
        for _ in range(n - 1):
            series.append(0.6 * series[-1] + dice.gauss(0, 0.02))
        return series

    def found():
        return sum(bool(changes(wandering(seed), alpha=0.0025, seed=1)) for seed in range(20))

    with_memory = found()
    monkeypatch.setattr(change_points, "_autocorrelation", lambda values, at: 0.0)
    assert with_memory <= 2
    assert found() >= 2 * with_memory + 2


def test_permutations_suffice_for_a_small_alpha():
    series = [value + (0.2 if place >= 12 else 0) for place, value in enumerate(steady(7, 24))]
    assert changes(series, alpha=0.01 / 20, seed=1), "999 permutations would come to 0.001 at the least"
