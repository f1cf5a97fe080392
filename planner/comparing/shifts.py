"""How much slower the new runs are than the base's: one figure a run, and never one a request.

Requests of one run share its machine, its neighbours and its hour, so ten thousand of them are no ten thousand trials:
a test of pooled requests rings falsely wherever runs differ among themselves. Each run is one observation here.
Figures are differences of natural logarithms: 0.0953 is 10 % more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from statistics import fmean, median, variance

from planner.comparing.exact import (
    mann_whitney_above,
    pair_shift_orders,
    shift_orders,
    signed_rank_above,
)
from planner.comparing.student import t_above, t_quantile

SURE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Of the logarithm of a figure, from the base to the new runs."""

    value: float
    low: float  # 95 % interval, two-sided
    high: float
    most: float  # 95 % bound from above, one-sided
    p_slower: float  # how likely so much more is if nothing changed
    p_faster: float
    standard_error: float
    df: float  # degrees of freedom of it


def welch(base: Sequence[float], new: Sequence[float]) -> Shift:
    """Of two or more runs a side, whose spreads may differ (Welch, 1947)."""
    of_base, of_new = variance(base) / len(base), variance(new) / len(new)
    both = of_base + of_new
    parts = of_base**2 / (len(base) - 1) + of_new**2 / (len(new) - 1)
    df = both**2 / parts if parts else float(len(base) + len(new) - 2)
    return of_error(fmean(new) - fmean(base), math.sqrt(both), df)


def paired(base: Sequence[float], new: Sequence[float]) -> Shift:
    """Of two or more pairs of runs, each played one after the other: what drifts meanwhile falls out."""
    differences = [b - a for a, b in zip(base, new, strict=True)]
    return of_error(fmean(differences), math.sqrt(variance(differences) / len(differences)), len(differences) - 1.0)


def of_error(value: float, standard_error: float, df: float) -> Shift:
    t = value / standard_error if standard_error else math.copysign(math.inf, value) if value else 0.0
    half, above = (t_quantile(p, df) * standard_error for p in ((1 + SURE) / 2, SURE))
    return Shift(
        value=value,
        low=value - half,
        high=value + half,
        most=value + above,
        p_slower=t_above(t, df),
        p_faster=t_above(-t, df),
        standard_error=standard_error,
        df=df,
    )


def widened(shift: Shift, more: float, df: float) -> Shift:
    """With so much more variance, of so many degrees of freedom, in it; never surer than it was."""
    own = shift.standard_error**2
    if not math.isfinite(own):
        return shift
    both = own + more
    wider = of_error(shift.value, math.sqrt(both), both**2 / (own**2 / shift.df + more**2 / df))
    return replace(
        wider,
        low=min(shift.low, wider.low),
        high=max(shift.high, wider.high),
        most=max(shift.most, wider.most),
        p_slower=max(shift.p_slower, wider.p_slower),
        p_faster=max(shift.p_faster, wider.p_faster),
    )


def by_ranks(base: Sequence[float], new: Sequence[float]) -> Shift:
    """As `welch`, but by ranks: a run that started cold counts no more than any other that was slow.

    The shift is that of Hodges and Lehmann (1963), its interval the matching order statistics, and the chances are
    exact whatever the distribution (Mann and Whitney, 1947).
    """
    ascending = sorted(b - a for a in base for b in new)
    return _of_orders(
        ascending,
        orders=lambda sure: shift_orders(len(base), len(new), sure),
        chances=(mann_whitney_above(base, new), mann_whitney_above(new, base)),
        df=len(base) + len(new) - 2.0,
    )


def paired_by_ranks(base: Sequence[float], new: Sequence[float]) -> Shift:
    """As `paired`, by Wilcoxon's signed ranks."""
    differences = [b - a for a, b in zip(base, new, strict=True)]
    ascending = sorted((a + b) / 2 for a, b in combinations_with_replacement(differences, 2))
    return _of_orders(
        ascending,
        orders=lambda sure: pair_shift_orders(len(differences), sure),
        chances=(signed_rank_above(differences), signed_rank_above([-each for each in differences])),
        df=len(differences) - 1.0,
    )


def _of_orders(
    ascending: Sequence[float], *, orders: Callable[[float], int], chances: tuple[float, float], df: float
) -> Shift:
    cut, cut_above = orders(SURE), orders(2 * SURE - 1)
    low, high = (ascending[cut - 1], ascending[-cut]) if cut else (-math.inf, math.inf)
    return Shift(
        value=median(ascending),
        low=low,
        high=high,
        most=ascending[-cut_above] if cut_above else math.inf,
        p_slower=chances[0],
        p_faster=chances[1],
        standard_error=(high - low) / 2 / t_quantile((1 + SURE) / 2, df),
        df=df,
    )


def holm(chances: Sequence[float]) -> list[float]:
    """Each chance corrected for how many there are (Holm, 1979): below alpha together falsely at most alpha often."""
    corrected, highest = [0.0] * len(chances), 0.0
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = highest
    return corrected
