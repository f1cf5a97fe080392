"""The search for the highest rate, against systems whose highest rate is known. No clock, no socket."""

import math
import random

import pytest

from planner.sweep import Count, Measurement, Search, Stop, Trial, Verdict, next_step, pooled_verdict

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


def good(trial):
    return of(trial.rate_per_s, 1_000, 0)


def good_up_to(rate, **fields):
    return lambda trial: (
        of(trial.rate_per_s, 1_000, 0) if trial.rate_per_s <= rate else of(trial.rate_per_s, 1_000, 500, **fields)
    )


def test_steps_are_geometric_and_end_where_they_were_asked_to():
    assert SEARCH.ladder[0] == 1
    assert SEARCH.ladder[-1] == pytest.approx(50)
    ratios = [after / before for before, after in zip(SEARCH.ladder, SEARCH.ladder[1:], strict=False)]
    assert ratios == pytest.approx([50**0.2] * 5)


@pytest.mark.parametrize(
    ("measure", "ceiling", "stop", "met", "trials"),
    [
        pytest.param(good, None, Stop.TOP, 50, 6, id="all steps met: the limit lies above them"),
        pytest.param(good, 7.0, Stop.QUOTA, 7.0, 4, id="the quota's rate is measured in place of the first step above it"),
        pytest.param(good, 0.5, Stop.QUOTA, 1, 1, id="a quota below the lowest rate: nothing more is offered"),
        pytest.param(good_up_to(0.1), None, Stop.LOWEST, None, 1, id="not even the lowest rate met: nothing more is offered"),
        pytest.param(lambda trial: of(trial.rate_per_s, 1_000, 50), None, Stop.LOWEST, None, 18, id="unclear for good is not met, at whatever rate"),
        pytest.param(lambda trial: of(trial.rate_per_s, 9, 0, spoiled=True), None, Stop.GENERATOR, None, 3, id="the generator was the limit, three times"),
    ],
)  # fmt: skip
def test_each_search_ends_for_its_reason(measure, ceiling, stop, met, trials):
    finding, tried = searched(measure, ceiling=ceiling)
    assert finding.stop is stop
    assert finding.met_at_per_s == (None if met is None else pytest.approx(met))
    assert len(tried) == trials
    assert all(trial.rate_per_s <= (ceiling or 50) * 1.000001 or trial.rate_per_s == 1 for trial in tried)


@pytest.mark.parametrize(("times", "met"), [(1, 16.5), (2, 16.5), (3, 9.5)])
def test_a_rate_that_did_not_keep_up_although_a_higher_one_did_is_measured_again(times, met):
    """10/s misses its objective and keeps up; a rate between seems not to, so many times by chance."""
    lengths = []

    def measure(trial):
        rate = trial.rate_per_s
        if 9.5 < rate < 9.7:
            lengths.append(trial.times_as_long)
            return of(rate, 1_000, 0, saturated=len(lengths) <= times)
        return of(rate, 1_000, 500 if rate > 16.5 else 0)

    finding, _ = searched(measure, Search(from_per_s=5, to_per_s=18.5, steps=2, tolerance=0.05))
    assert lengths == [1, 2, 4][: min(times + 1, 3)]
    assert finding.met_at_per_s == pytest.approx(met, rel=0.05)


def test_a_saturated_step_ends_the_way_up_although_its_latencies_were_fine_so_far():
    saturated_above_9 = lambda trial: of(trial.rate_per_s, 1_000, 0, saturated=trial.rate_per_s > 9)  # noqa: E731
    finding, trials = searched(saturated_above_9)
    assert finding.missed_as is Verdict.SATURATED
    assert finding.met_at_per_s <= 9 < finding.missed_at_per_s <= finding.met_at_per_s * 1.05
    assert max(trial.rate_per_s for trial in trials) == pytest.approx(SEARCH.ladder[3])  # 10.5/s, the first above 9


def test_a_spoiled_step_is_measured_again_and_not_used():
    spoiled_once = set()

    def measure(trial):
        if trial.rate_per_s in spoiled_once:
            return of(trial.rate_per_s, 1_000, 0)
        spoiled_once.add(trial.rate_per_s)
        return of(trial.rate_per_s, 1_000, 1_000, spoiled=True)

    finding, trials = searched(measure)
    assert finding.stop is Stop.TOP
    assert len(trials) == 12


def test_the_generators_limit_leaves_what_met_below_it():
    finding, _ = searched(lambda trial: of(trial.rate_per_s, 1_000, 0, spoiled=trial.rate_per_s > 20))
    assert finding.stop is Stop.GENERATOR
    assert finding.met_at_per_s == pytest.approx(SEARCH.ladder[3])
    assert finding.missed_at_per_s is None


def test_what_is_unclear_is_asked_again_longer_only_where_the_answer_depends_on_it():
    lengths = {}

    def measure(trial):  # few requests at low rates: 20 without a miss are no proof of 95 %
        lengths.setdefault(round(trial.rate_per_s, 3), []).append(trial.times_as_long)
        n = round(20 * trial.rate_per_s * trial.times_as_long)
        return of(trial.rate_per_s, n, 0 if trial.rate_per_s < 30 else n)

    finding, _ = searched(measure)
    assert finding.met_at_per_s < 30 <= finding.missed_at_per_s
    assert lengths[1.0] == [1]  # a higher rate met, so this one has
    below_all = lambda trial: of(trial.rate_per_s, 20 * trial.times_as_long, 0)  # noqa: E731
    assert [trial.times_as_long for trial in searched(below_all)[1]] == [1, 1, 1, 1, 1, 1, 2, 4]  # 140 are one


@pytest.mark.parametrize(
    ("n", "beyond", "allowed", "verdict"),
    [
        pytest.param(72, 0, 0.05, Verdict.UNCLEAR, id="72 without a miss do not show that 95 % are within"),
        pytest.param(73, 0, 0.05, Verdict.MET, id="73 do"),
        pytest.param(600, 21, 0.05, Verdict.UNCLEAR, id="3.5 % of 600 may still be 5.3 %"),
        pytest.param(600, 19, 0.05, Verdict.MET, id="3.2 % are at most 4.9 %"),
        pytest.param(600, 43, 0.05, Verdict.MISSED, id="7.2 % are at least 5.4 %"),
        pytest.param(3, 1, 0.0, Verdict.MISSED, id="a maximum is missed by one"),
        pytest.param(3, 0, 0.0, Verdict.MET, id="and met by none"),
        pytest.param(0, 0, 0.05, Verdict.UNCLEAR, id="nothing came"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(n, beyond, allowed, verdict):
    assert Count(text="x", allowed=allowed, n=n, beyond=beyond).verdict is verdict


@pytest.mark.parametrize(
    ("values", "failed", "verdict"),
    [
        pytest.param([0.5, 0.6] * 20, 0, Verdict.MET, id="surely below the limit"),
        pytest.param([1.5, 1.6] * 20, 0, Verdict.MISSED, id="surely above"),
        pytest.param([0.2, 1.9] * 5, 0, Verdict.UNCLEAR, id="the interval holds the limit"),
        pytest.param([0.5, 0.6] * 20, 5, Verdict.MISSED, id="a mean of the answered says nothing of many that failed"),
    ],
)
def test_a_mean_is_judged_by_its_interval(values, failed, verdict):
    squares = sum(value**2 for value in values)
    n = len(values) + failed
    assert Count(text="x", allowed=None, n=n, beyond=failed, total=sum(values), squares=squares).verdict is verdict


def test_measurements_of_one_rate_are_judged_together_without_the_spoiled():
    halves = [of(5, 40, 0), of(5, 40, 0)]
    assert [pooled_verdict(halves[:1]), pooled_verdict(halves)] == [Verdict.UNCLEAR, Verdict.MET]
    assert pooled_verdict([of(5, 900, 900, spoiled=True), *halves]) is Verdict.MET
    assert pooled_verdict([of(5, 900, 900, spoiled=True)]) is Verdict.INVALID
