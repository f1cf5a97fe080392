"""The arrivals have the statistics that their names promise, whole and dealt to several processes."""

import heapq
import math
from itertools import pairwise
from random import Random

import pytest

from loadgen.config import LoadConfig
from loadgen.schedule import Arrival, shaped
from loadgen.schedule_file import ScheduleFile, write_schedule

MIX = {"chat": 1.0}
SIGMAS = 4.0  # by chance a figure is farther off once in 16,000 times


def due_s(kind, *, seed=1, gamma_shape=0.5, **load):
    shape = LoadConfig.model_validate({"warmup": 0, **load}).shape
    return [each.due_ns / 1e9 for each in shaped(kind, shape, MIX, seed, gamma_shape=gamma_shape)]


def gaps_of(instants):
    return [after - before for before, after in pairwise(instants)]


def cv(values):
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)) / mean


def ks_statistic(values, distribution):
    """The largest distance between the values' empirical distribution and the stated one."""
    n = len(values)
    at = [distribution(value) for value in sorted(values)]
    return max(max((i + 1) / n - p, p - i / n) for i, p in enumerate(at))


def ks_p_value(statistic, n):
    """P(D > statistic): Kolmogorov's series, with Stephens' correction for finite n (1970; Numerical Recipes 14.3)."""
    x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * statistic
    return min(1.0, 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101)))


def exponential(rate_per_s):
    return lambda gap_s: 1 - math.exp(-rate_per_s * gap_s)


def dispersion(instants, seconds, width_s=1.0):
    """Variance of the counts in windows over their mean: 1 for a Poisson process, with standard error sqrt(2 / n)."""
    counts = [0] * round(seconds / width_s)
    for at_s in instants:
        counts[min(len(counts) - 1, int(at_s / width_s))] += 1
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 for count in counts) / (len(counts) - 1) / mean


@pytest.mark.parametrize(
    ("x", "p"),
    [(1.0727, 0.2), (1.2238, 0.1), (1.3581, 0.05), (1.4802, 0.025), (1.6276, 0.01), (1.9495, 0.001)],
)
def test_the_ks_p_value_is_that_of_the_tables(x, p):
    """Critical values of Kolmogorov's distribution: Smirnov (1948), table 1."""
    n = 10**8
    assert ks_p_value(x / math.sqrt(n), n) == pytest.approx(p, rel=0.01)


@pytest.mark.parametrize(("n", "critical"), [(10, 0.409), (20, 0.294), (35, 0.224), (50, 0.188)])
def test_the_ks_p_value_holds_for_few_values(n, critical):
    """Critical values at 5 %: Massey (1951), table 1; that of 50 by Miller (1956)."""
    assert ks_p_value(critical, n) == pytest.approx(0.05, rel=0.1)


def test_the_ks_test_refuses_gaps_that_are_not_exponential():
    assert ks_p_value(ks_statistic(gaps_of(due_s("gamma", rate=50, duration=100)), exponential(50)), 5_000) < 1e-6
    ten_bunches = [round(at_s, 1) for at_s in due_s("poisson", rate=50, duration=100)]
    assert ks_p_value(ks_statistic(gaps_of(ten_bunches), exponential(50)), 5_000) < 1e-6


@pytest.mark.parametrize("rate", [0.7, 6, 333, 5_000])
def test_constant_gaps_do_not_vary(rate):
    assert cv(gaps_of(due_s("constant", rate=rate, duration=max(2, 200 / rate)))) < 1e-3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [2, 60])
def test_poisson_gaps_pass_kolmogorov_smirnov(rate, seed):
    gaps = gaps_of(due_s("poisson", rate=rate, duration=3_000 / rate, seed=seed))
    assert ks_p_value(ks_statistic(gaps, exponential(rate)), len(gaps)) > 0.005
    assert cv(gaps) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", [0.1, 0.5, 1, 4])
def test_gamma_gaps_vary_as_their_shape_says(shape):
    gaps = gaps_of(due_s("gamma", rate=100, duration=300, gamma_shape=shape))
    assert cv(gaps) == pytest.approx(1 / math.sqrt(shape), rel=0.06)
    assert math.fsum(gaps) / len(gaps) == pytest.approx(0.01, rel=SIGMAS / math.sqrt(shape * len(gaps)))


def test_poisson_counts_vary_as_much_as_their_mean():
    assert dispersion(due_s("poisson", rate=5, duration=3_000), 3_000) == pytest.approx(1, abs=0.1)


SHAPES = [
    ("stages", {"stages": "0/s:0s,40/s:100s,40/s:50s,5/s:0s,10/s:50s"}),
    ("spike", {"rate": 10, "spike": "200/s:10s@40s", "duration": 200}),
    ("diurnal", {"rate": 20, "diurnal": [*range(12), *range(12, 0, -1)], "duration": 200, "day": "96s"}),
]


@pytest.mark.parametrize("kind", ["constant", "poisson", "gamma"])
@pytest.mark.parametrize(("name", "load"), SHAPES, ids=[name for name, _ in SHAPES])
def test_counts_follow_the_integral_of_the_rate(name, load, kind):
    """In windows of 10 s: a constant count to one arrival, a drawn one to four standard deviations."""
    shape = LoadConfig.model_validate({"warmup": 0, **load}).shape
    instants = due_s(kind, **load)
    for start_s in range(0, 200, 10):
        expected = shape.area_until(start_s + 10) - shape.area_until(start_s)
        found = sum(start_s <= at_s < start_s + 10 for at_s in instants)
        spread = {"constant": 0, "poisson": 1, "gamma": 2}[kind]  # variance of a count over its mean
        assert abs(found - expected) <= 1 + SIGMAS * math.sqrt(spread * expected) + spread, (start_s, expected, found)
    assert len(instants) == pytest.approx(shape.area, rel=SIGMAS * math.sqrt(2 / shape.area))


@pytest.mark.parametrize(("name", "load"), SHAPES, ids=[name for name, _ in SHAPES])
def test_poisson_arrivals_of_a_shape_are_poisson_in_its_own_time(name, load):
    """Areas under the rate between arrivals are exponential of mean one, as those of an inhomogeneous process are."""
    shape = LoadConfig.model_validate({"warmup": 0, **load}).shape
    areas = gaps_of([shape.area_until(at_s) for at_s in due_s("poisson", **load)])
    assert ks_p_value(ks_statistic(areas, exponential(1)), len(areas)) > 0.005


def dealt(arrivals, shares):
    """To each process the arrivals whose number leaves its own as the remainder."""
    return [[each for each in arrivals if each.seq % shares == share] for share in range(shares)]


@pytest.fixture(scope="module")
def schedule(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schedule")
    write_schedule(folder, shaped("poisson", LoadConfig(rate=5, duration=3_000).shape, {"chat": 2, "vision": 1}, 7))
    return list(ScheduleFile(folder))


@pytest.mark.parametrize("shares", [1, 2, 4])
def test_a_dealt_schedule_is_whole_and_its_union_is_poisson(schedule, shares):
    """A share of a Poisson process by turns has gaps that are sums: gamma of as many as there are shares."""
    hands = dealt(schedule, shares)
    union = list(heapq.merge(*hands, key=lambda each: each.due_ns))
    assert union == schedule
    instants = [each.due_ns / 1e9 for each in union]
    assert dispersion(instants, 3_000) == pytest.approx(1, abs=0.1)
    sample = gaps_of(instants[:4_000])
    assert ks_p_value(ks_statistic(sample, exponential(5)), len(sample)) > 0.005
    for hand in hands:
        gaps = gaps_of([each.due_ns / 1e9 for each in hand])
        assert cv(gaps) == pytest.approx(1 / math.sqrt(shares), rel=0.05)


def test_constant_gaps_stay_constant_in_each_share():
    arrivals = list(shaped("constant", LoadConfig(rate=50, duration=60).shape, MIX, 1))
    for shares in (2, 4):
        assert all(cv(gaps_of([each.due_ns for each in hand])) < 1e-6 for hand in dealt(arrivals, shares))


def test_what_an_arrival_is_does_not_depend_on_who_sends_it():
    first, again = (Arrival(5, 0, "chat", 3).random, Arrival(5, 9, "vision", 3).random)
    assert first.random() == again.random() != Random("3/6").random()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(40))
def test_many_seeds_of_many_rates_are_poisson(seed):
    """Forty tests at 0.1 %: one in twenty-five such suites would fail one by chance, and no seed is drawn anew."""
    rate = (1, 7, 50, 900)[seed % 4]
    instants = due_s("poisson", rate=rate, duration=60_000 / rate, seed=seed)
    gaps = gaps_of(instants)
    assert ks_p_value(ks_statistic(gaps, exponential(rate)), len(gaps)) > 0.001
    windows = 3_000
    width_s = 60_000 / rate / windows
    assert dispersion(instants, 60_000 / rate, width_s) == pytest.approx(1, abs=0.11)
