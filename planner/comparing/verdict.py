"""The rule: when a figure of several runs has regressed, when it has not, and when nobody can say.

A figure has regressed where the slowdown is above half of its tolerance, and less than once in a hundred comparisons
would any of them be so much slower if nothing had changed (Holm over all that is compared). It is equivalent where even
the upper 95 % bound is within the tolerance. Anything else is inconclusive, and says how many runs would settle it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from enum import StrEnum

from planner.comparing.shifts import SURE, Shift
from planner.comparing.student import t_quantile
from planner.comparing.tolerance import Tolerance

ALPHA = 0.01  # of a whole comparison
POWER = 0.95
MOST_RUNS = 1_000


class Verdict(StrEnum):
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"
    EQUIVALENT = "equivalent"
    IMPROVED = "improved"


def floor_of(shift: Shift, tolerance: Tolerance, *, one_run: bool) -> float:
    """No smaller slowdown, as a logarithm, is a regression.

    One run a side regresses only where the slowdown's lower bound is above all of the tolerance: what it cannot know,
    the spread between runs, is assumed, and a guess must not ring an alarm by a narrow margin.
    """
    return tolerance.log + t_quantile(SURE, shift.df) * shift.standard_error if one_run else tolerance.log_floor


def judge(
    shift: Shift,
    tolerance: Tolerance,
    *,
    p_slower: float,
    p_faster: float,
    one_run: bool,
    at_most: Shift | None = None,
) -> Verdict:
    """The chances are corrected for how many figures there are.

    `at_most` is the shift where what was measured may hide a slowdown, as shorter answers do: none is faster, or
    within the tolerance, unless that is.
    """
    most, floor = at_most or shift, floor_of(shift, tolerance, one_run=one_run)
    if p_slower < ALPHA and shift.value > floor:
        return Verdict.REGRESSED
    if p_faster < ALPHA and most.value < -floor:
        return Verdict.IMPROVED
    return Verdict.EQUIVALENT if most.most < tolerance.log else Verdict.INCONCLUSIVE


def detectable(
    variance_of_a_run: float, runs: float, tolerance: Tolerance, figures: int, *, pairs: bool, sessions: float = 0.0
) -> float:
    """The slowdown, as a logarithm, that so many runs a side find 95 times in 100.

    `variance_of_a_run` is that of one run's figure, of pairs that of a difference; `figures` are compared at once;
    `sessions` is what they add to the variance of the shift, however many runs there are.
    """
    error, df = _error(variance_of_a_run, runs, pairs=pairs, sessions=sessions)
    rings_at = max(tolerance.log_floor, t_quantile(1 - ALPHA / figures, df) * error)
    return rings_at + t_quantile(POWER, df) * error


def runs_needed(
    variance_of_a_run: float,
    value: float,
    tolerance: Tolerance,
    figures: int,
    *,
    more_than: int,
    pairs: bool,
) -> int | None:
    """The runs a side, in turns, that find a slowdown as large as the tolerance, and prove that there is none if so.

    Where those are there already and chance was against them: what would settle a shift of the size that was measured.
    None where MOST_RUNS are not enough.
    """

    def error_of(runs: int) -> tuple[float, float]:
        return _error(variance_of_a_run, runs, pairs=pairs)

    def finds_and_proves(runs: int) -> bool:
        error, df = error_of(runs)
        proves = (t_quantile(SURE, df) + t_quantile(POWER, df)) * error <= tolerance.log
        return proves and detectable(variance_of_a_run, runs, tolerance, figures, pairs=pairs) <= tolerance.log

    def settles(runs: int) -> bool:
        error, df = error_of(runs)
        if value > tolerance.log_floor:
            return t_quantile(1 - ALPHA / figures, df) * error < value
        return value + t_quantile(SURE, df) * error < tolerance.log

    fewest = _fewest(finds_and_proves, 2)
    return fewest if fewest is None or fewest > more_than else _fewest(settles, more_than + 1)


def _fewest(enough: Callable[[int], bool], least: int) -> int | None:
    """`enough` holds of all numbers from some one on."""
    runs = least + bisect_left(range(least, MOST_RUNS + 1), True, key=enough)
    return runs if runs <= MOST_RUNS else None


def _error(variance_of_a_run: float, runs: float, *, pairs: bool, sessions: float = 0.0) -> tuple[float, float]:
    """The standard error of a shift, and its degrees of freedom (Welch and Satterthwaite)."""
    sides = 1 if pairs else 2
    of_runs, df = sides * variance_of_a_run / runs, sides * (runs - 1)
    return math.sqrt(of_runs + sessions), df * ((of_runs + sessions) / of_runs) ** 2 if of_runs else math.inf
