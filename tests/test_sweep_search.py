"""The search for the highest rate, against systems whose highest rate is known. No clock, no socket."""

import math
import random

import pytest

from planner.sweep import (
    Count,
    Measurement,
    Search,
    Stop,
    Trial,
    next_step,
)

SEARCH = Search(from_per_s=1, to_per_s=50, steps=6, tolerance=0.05)
STEP_S = 25


def of(rate, n, beyond, *, allowed=0.05, **fields):
    return Measurement(
        rate_per_s=rate, counts=(Count(text="ttft.p95<1s", allowed=allowed, n=n, beyond=beyond),), **fields
    )


def searched(measure, search=SEARCH, ceiling=None):
    """The finding, and all trials that it took."""
    measured, trials = [], []
    while isinstance(step := next_step(search, measured, ceiling), Trial):
        trials.append(step)
        assert len(trials) <= 60
        measured.append(measure(step))
    return step, trials


def noisy(true_rate, steepness, seed, step_s=STEP_S):
    """A deployment of which 5 % of the requests are beyond the limit at `true_rate`, and more the higher the rate."""
    dice = random.Random(seed)

    def measure(trial):
        share = min(1.0, 0.05 * (trial.rate_per_s / true_rate) ** steepness)
        n = round(trial.rate_per_s * step_s * trial.times_as_long)
        return of(trial.rate_per_s, n, sum(dice.random() < share for _ in range(n)))

    return measure


@pytest.mark.parametrize(("true_rate", "steepness"), [(17.3, 6), (9.0, 12), (30.0, 20)])
def test_the_true_rate_is_found_within_the_tolerance_in_95_of_100_seeds(true_rate, steepness):
    close, lengths = 0, []
    for seed in range(100):
        finding, trials = searched(noisy(true_rate, steepness, seed))
        assert finding.stop is Stop.FOUND
        assert finding.missed_at_per_s <= finding.met_at_per_s * (1 + SEARCH.tolerance)
        lengths.append(len(trials))
        middle = math.sqrt(finding.met_at_per_s * finding.missed_at_per_s)
        close += abs(middle / true_rate - 1) <= SEARCH.tolerance
    assert close >= 95
    assert max(lengths) <= 24
