"""One figure of each run of two sides, and the shift between them, with all that makes it uncertain.

Runs of one session share more than runs of two: the machine's neighbours, the day, a deployment that was moved. Where
the sides were not played in turns that difference is part of what is measured, and no spread among the runs shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from statistics import fmean, variance

from planner.comparing.shifts import Shift, by_ranks, of_error, paired, paired_by_ranks, welch, widened
from planner.intervals import BLOCKS

ASSUMED_SPREAD = 0.05  # between runs, where too few of them show it
FEWEST_RUNS = 4  # a side that show their spread
SESSION_SPREAD = 0.02  # between sessions, where too few of them show it
FEWEST_SESSIONS_DF = 4  # degrees of freedom that show it: five sessions of the base, and one new


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
    base_sessions: tuple[int, ...] = ()  # which session each run is of; empty where the sides were played in turns
    new_sessions: tuple[int, ...] = ()

    @property
    def one_run(self) -> bool:
        return min(len(self.base), len(self.new)) < 2

    @property
    def few_runs(self) -> bool:
        return min(len(self.base), len(self.new)) < FEWEST_RUNS

    def less(self, log: float) -> Figures:
        """With so much taken off the new side's."""
        return replace(self, new=tuple(each - log for each in self.new)) if log else self


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
    if pairs:
        return tests[test, True](figures.base, figures.new)
    of_few = figures.few_runs and test is Test.WELCH
    shift = _of_few_runs(figures) if of_few else tests[test, False](figures.base, figures.new)
    more, df = session_variance(figures)
    return widened(shift, more, df) if more else shift


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


def _of_few_runs(figures: Figures) -> Shift:
    """Two or three runs show their spread badly, and a small one by luck: it is pooled, and never below the assumed.

    The more of it is assumed, the less is uncertain.
    """
    shown, total = pooled_variance(figures), variance_of_a_run(figures, pairs=False)
    df = (len(figures.base) + len(figures.new) - 2) * (total / shown) if shown else math.inf
    both = total * (1 / len(figures.base) + 1 / len(figures.new))
    return of_error(fmean(figures.new) - fmean(figures.base), math.sqrt(both), df)


def pooled_variance(figures: Figures) -> float:
    """Of the runs of both sides, each about its own side's mean."""
    parts = [(len(side) - 1, variance(side)) for side in (figures.base, figures.new)]
    return sum(df * each for df, each in parts) / sum(df for df, _ in parts)


def variance_of_a_run(figures: Figures, *, pairs: bool) -> float:
    """Of one run's figure, of pairs that of a difference; where runs do not show it, by what is assumed of them."""
    if figures.one_run:
        errors = [error**2 for error in (*figures.base_errors, *figures.new_errors) if error is not None]
        return max(ASSUMED_SPREAD, spread_of(figures) or 0.0) ** 2 + (fmean(errors) if errors else 0.0)
    if pairs:
        return variance([b - a for a, b in zip(figures.base, figures.new, strict=True)])
    if figures.few_runs:
        return max(ASSUMED_SPREAD**2, pooled_variance(figures))
    return fmean([variance(figures.base), variance(figures.new)])


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


def session_variance(figures: Figures) -> tuple[float, float]:
    """What sessions add to the variance of the shift, and its degrees of freedom; 0 of sides that were in turns.

    Enough sessions are the unit themselves: the variance of their means, less what the runs' own spread explains.
    """
    if not figures.base_sessions or not figures.new_sessions or figures.one_run:
        return 0.0, math.inf
    base, new = _means(figures.base, figures.base_sessions), _means(figures.new, figures.new_sessions)
    share, df = 1 / len(base) + 1 / len(new), len(base) + len(new) - 2
    if df < FEWEST_SESSIONS_DF:
        return SESSION_SPREAD**2 * share, math.inf
    squares = sum(variance(means) * (len(means) - 1) for means in (base, new) if len(means) > 1)
    known = variance(figures.base) / len(figures.base) + variance(figures.new) / len(figures.new)
    return max(0.0, squares / df * share - known), float(df)


def _means(values: Sequence[float], sessions: Sequence[int]) -> list[float]:
    known = sorted(zip(sessions, values, strict=True))
    return [fmean(value for _, value in group) for _, group in groupby(known, key=lambda each: each[0])]
