"""The planner's distributions and exact tests, against scipy's and against published values."""

import math
import random

import pytest
from scipy import stats

from planner.comparing.exact import clopper_pearson, fisher_above, mann_whitney_above, signed_rank_above
from planner.comparing.shifts import by_ranks, holm, paired, paired_by_ranks, welch
from planner.comparing.student import incomplete_beta, t_above, t_quantile

DICE = random.Random(1)


@pytest.mark.parametrize("df", [1, 2, 3.7, 18, 50, 1_000])
def test_students_t_is_scipys(df):
    for _ in range(40):
        t, p = DICE.gauss(0, 3), DICE.uniform(1e-4, 1 - 1e-4)
        assert t_above(t, df) == pytest.approx(stats.t.sf(t, df), abs=1e-11)
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-8, abs=1e-9)


def test_students_t_of_infinitely_many_is_the_normal_distribution():
    assert t_above(1.959963984540054, math.inf) == pytest.approx(0.025)
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959963984540054)


@pytest.mark.parametrize(("a", "b", "x"), [(2, 3, 0.4), (0.5, 9, 0.01), (40, 0.5, 0.99), (300, 700, 0.31)])
def test_the_incomplete_beta_is_scipys(a, b, x):
    assert incomplete_beta(a, b, x) == pytest.approx(stats.beta.cdf(x, a, b), rel=1e-10)
    assert (incomplete_beta(a, b, 0), incomplete_beta(a, b, 1)) == (0, 1)


def test_fishers_test_is_scipys():
    for _ in range(60):
        bad, bad_new, n, n_new = (DICE.randint(*bounds) for bounds in ((0, 20), (0, 20), (20, 500), (20, 500)))
        expected = stats.fisher_exact([[bad_new, n_new - bad_new], [bad, n - bad]], alternative="greater")[1]
        assert fisher_above(bad, n, bad_new, n_new) == pytest.approx(expected, rel=1e-7)


def test_fishers_lady_tasted_tea():
    """Fisher, The Design of Experiments: all eight cups told apart is one chance in 70."""
    assert fisher_above(0, 4, 4, 4) == pytest.approx(1 / 70)
    assert fisher_above(0, 0, 4, 4) == fisher_above(0, 9, 0, 9) == 1


def test_the_interval_of_clopper_and_pearson_is_scipys():
    for good, n in ((0, 10), (10, 10), (3, 10), (20, 2_000), (1, 400)):
        expected = stats.binomtest(good, n).proportion_ci(method="exact")
        assert clopper_pearson(good, n) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_textbooks_mann_whitney():
    assert 2 * mann_whitney_above([2, 1, 3, 5], [12, 11, 13, 15]) == pytest.approx(0.0285714, abs=1e-7)


def test_tests_of_ranks_are_scipys():
    for _ in range(40):
        base = [DICE.random() for _ in range(DICE.randint(1, 12))]
        new = [DICE.random() + 0.2 for _ in range(DICE.randint(1, 12))]
        expected = stats.mannwhitneyu(new, base, alternative="greater", method="exact")[1]
        assert mann_whitney_above(base, new) == pytest.approx(expected, rel=1e-9)
        differences = [DICE.gauss(0.2, 1) for _ in range(DICE.randint(1, 14))]
        expected = stats.wilcoxon(differences, alternative="greater", method="exact")[1]
        assert signed_rank_above(differences) == pytest.approx(expected, rel=1e-9)


def test_a_tie_of_ranks_speaks_for_neither_side():
    assert mann_whitney_above([1, 2, 3], [1, 2, 3]) > 0.5
    assert signed_rank_above([]) == signed_rank_above([0, 0]) == 1


def test_welchs_shift_is_scipys():
    base, new = [1.0, 1.2, 0.9, 1.1, 1.05], [1.3, 1.1, 1.6, 1.2]
    found, expected = welch(base, new), stats.ttest_ind(new, base, equal_var=False, alternative="greater")
    two_sided = stats.ttest_ind(new, base, equal_var=False).confidence_interval(0.95)
    assert found.p_slower == pytest.approx(expected.pvalue)
    assert (found.df, found.p_faster) == pytest.approx((expected.df, 1 - expected.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(two_sided))
    assert found.most == pytest.approx(stats.ttest_ind(new, base, equal_var=False, alternative="less").confidence_interval(0.95).high)  # fmt: skip


def test_the_shift_of_pairs_is_scipys():
    base, new = [1.0, 2.0, 3.0, 4.0], [1.2, 2.1, 3.4, 4.1]
    expected = stats.ttest_rel(new, base, alternative="greater")
    assert paired(base, new).p_slower == pytest.approx(expected.pvalue)
    assert paired(base, new).df == 3


def test_runs_that_are_all_alike_give_no_chance_to_either_side():
    assert welch([1.0, 1.0], [1.0, 1.0]).p_slower == 0.5
    assert welch([1.0, 1.0], [2.0, 2.0]).p_slower == 0
    assert welch([1.0, 1.0], [2.0, 2.0]).low == 1


def test_the_shift_by_ranks_is_that_of_hodges_and_lehmann_with_its_order_statistics():
    """Of 5 and 5 the 95 % interval cuts two of the 25 differences off either end (Hollander and Wolfe, table A.6)."""
    base, new = [1.1, 2.7, 3.2, 4.9, 5.3], [2.05, 3.9, 6.1, 7.7, 8.8]
    ascending = sorted(b - a for a in base for b in new)
    found = by_ranks(base, new)
    assert (found.value, found.low, found.high) == (ascending[12], ascending[2], ascending[-3])
    assert by_ranks(base[:2], new[:2]).high == math.inf, "two and two have no 95 % interval"


def test_one_wild_run_moves_ranks_little():
    base, new = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.05, 1.15, 1.25, 1.35, 1.45, 9.0]
    assert by_ranks(base, new).value < 0.2 < welch(base, new).value
    assert paired_by_ranks(base, new).value < 0.1


def test_holm_corrects_the_smallest_most():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
