"""The rule: when a figure of several runs has regressed, when it has not, and when nobody can say.

A figure has regressed where the slowdown is above half of its tolerance, and less than once in a hundred comparisons
would any of them be so much slower if nothing had changed (Holm over all that is compared). It is equivalent where even
the upper 95 % bound is within the tolerance. Anything else is inconclusive, and says how many runs would settle it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, variance

from planner.comparing.blocks import BLOCKS
from planner.comparing.shifts import SURE, Shift, by_ranks, of_error, paired, paired_by_ranks, welch
from planner.comparing.student import t_quantile
from planner.comparing.tolerance import Tolerance

ALPHA = 0.01  # of a whole comparison
POWER = 0.95
ASSUMED_SPREAD = 0.05  # between runs, where one run a side cannot show it
MOST_RUNS = 1_000


class Verdict(StrEnum):
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"
    EQUIVALENT = "equivalent"
    IMPROVED = "improved"


class Test(StrEnum):
    """How the runs of two sides are held against each other."""

    __test__ = False  # pytest would take it for one of its own

    WELCH = "welch"
    RANKS = "ranks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One figure of each run, as logarithms; the errors are those within each run, None where unknown."""

    base: tuple[float, ...]
    new: tuple[float, ...]
    base_errors: tuple[float | None, ...] = ()
    new_errors: tuple[float | None, ...] = ()

    @property
    def one_run(self) -> bool:
        return min(len(self.base), len(self.new)) < 2


def shift_of(figures: Figures, *, test: Test, pairs: bool) -> Shift | None:
    """None where it cannot be told: one run a side whose own error is unknown."""
    if figures.one_run:
        return _of_one_run(figures)
    tests: dict[tuple[Test, bool], Callable[[Sequence[float], Sequence[float]], Shift]] = {
        (Test.WELCH, False): welch,
        (Test.WELCH, True): paired,
        (Test.RANKS, False): by_ranks,
        (Test.RANKS, True): paired_by_ranks,
    }
    return tests[test, pairs](figures.base, figures.new)


def _of_one_run(figures: Figures) -> Shift | None:
    """From the error within each run, and a spread between runs that is assumed where no runs show a larger one."""
    parts: list[tuple[float, float]] = []  # variance, degrees of freedom
    spread = max(ASSUMED_SPREAD, spread_of(figures) or 0.0)
    for values, errors in ((figures.base, figures.base_errors), (figures.new, figures.new_errors)):
        if len(values) > 1:
            parts.append((max(variance(values), spread**2) / len(values), len(values) - 1.0))
            continue
        if not errors or errors[0] is None:
            return None
        parts.append((errors[0] ** 2, BLOCKS - 1.0))
        parts.append((spread**2, math.inf))
    total = sum(part for part, _ in parts)
    uncertain = sum(part**2 / df for part, df in parts)
    df = total**2 / uncertain if uncertain else math.inf
    return of_error(fmean(figures.new) - fmean(figures.base), math.sqrt(total), df)


def spread_of(figures: Figures) -> float | None:
    """The standard deviation between runs that is left when the error within them is taken off; None of single runs."""
    total, df, within = 0.0, 0, []
    for values, errors in ((figures.base, figures.base_errors), (figures.new, figures.new_errors)):
        if len(values) > 1:
            total += variance(values) * (len(values) - 1)
            df += len(values) - 1
            within += [error**2 for error in errors if error is not None]
    if not df:
        return None
    return math.sqrt(max(0.0, total / df - (fmean(within) if within else 0.0)))


def judge(shift: Shift, tolerance: Tolerance, *, p_slower: float, p_faster: float, one_run: bool) -> Verdict:
    """The chances are corrected for how many figures there are.

    One run a side regresses only where the slowdown's lower bound is above all of the tolerance: what it cannot know,
    the spread between runs, is assumed, and a guess must not ring an alarm by a narrow margin.
    """
    floor = tolerance.log_floor
    if one_run:
        floor = tolerance.log + t_quantile(SURE, shift.df) * shift.standard_error
    if p_slower < ALPHA and shift.value > floor:
        return Verdict.REGRESSED
    if p_faster < ALPHA and shift.value < -floor:
        return Verdict.IMPROVED
    return Verdict.EQUIVALENT if shift.most < tolerance.log else Verdict.INCONCLUSIVE


def detectable(variance_of_a_run: float, runs: float, tolerance: Tolerance, figures: int, *, pairs: bool) -> float:
    """The slowdown, as a logarithm, that so many runs a side find 95 times in 100.

    `variance_of_a_run` is that of one run's figure, of pairs that of a difference; `figures` are compared at once.
    """
    error, df = _error(variance_of_a_run, runs, pairs=pairs)
    rings_at = max(tolerance.log_floor, t_quantile(1 - ALPHA / figures, df) * error)
    return rings_at + t_quantile(POWER, df) * error


def runs_needed(
    variance_of_a_run: float, value: float, tolerance: Tolerance, figures: int, *, more_than: int, pairs: bool
) -> int | None:
    """The runs a side that find a slowdown as large as the tolerance, and prove that there is none if there is none.

    Where those are there already and chance was against them: what would settle a shift of the size that was measured.
    None where MOST_RUNS are not enough.
    """

    def finds_and_proves(runs: int) -> bool:
        error, df = _error(variance_of_a_run, runs, pairs=pairs)
        proves = (t_quantile(SURE, df) + t_quantile(POWER, df)) * error <= tolerance.log
        return proves and detectable(variance_of_a_run, runs, tolerance, figures, pairs=pairs) <= tolerance.log

    def settles(runs: int) -> bool:
        error, df = _error(variance_of_a_run, runs, pairs=pairs)
        if value > tolerance.log_floor:
            return t_quantile(1 - ALPHA / figures, df) * error < value
        return value + t_quantile(SURE, df) * error < tolerance.log

    fewest = _fewest(finds_and_proves, 2)
    return fewest if fewest is None or fewest > more_than else _fewest(settles, more_than + 1)


def _fewest(enough: Callable[[int], bool], least: int) -> int | None:
    """`enough` holds of all numbers from some one on."""
    runs = least + bisect_left(range(least, MOST_RUNS + 1), True, key=enough)
    return runs if runs <= MOST_RUNS else None


def _error(variance_of_a_run: float, runs: float, *, pairs: bool) -> tuple[float, float]:
    sides = 1 if pairs else 2
    return math.sqrt(sides * variance_of_a_run / runs), sides * (runs - 1)
