"""Where the level of a series changed: the E-divisive method, by energy statistics and permutations.

Matteson and James, A nonparametric approach for multiple change point analysis (JASA, 2014), with alpha = 1: the split
that maximises the energy distance between its two sides is tested by how often a permuted series splits as far apart;
where it is significant each side is searched in turn. Neighbouring points of a history resemble each other, and then a
permuted series wanders less than a true one: so what is permuted is what each point adds to the one before, by the
autocorrelation of the series about its levels (of order one, its bias corrected as by Kendall, 1954).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 5  # points on either side
MOST_POINTS = 500
PERMUTATIONS = 999  # at least; so many more that alpha can be reached ten times over
MOST_PHI = 0.9
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    at: int  # the first point of the new level
    p: float


def changes(series: Sequence[float], *, alpha: float, seed: int) -> list[Change]:
    """In the order of the series. Of a series without a change there is one with a chance of at most alpha."""
    values = np.asarray(series, dtype=np.float64)
    dice, found, open_parts = np.random.default_rng(seed), [], [(0, len(values))]
    while open_parts:
        start, end = open_parts.pop()
        if end - start < 2 * FEWEST:
            continue
        at, p = _tested(values[start:end], dice, alpha)
        if p <= alpha:
            found.append(Change(at=start + at, p=p))
            open_parts += [(start, start + at), (start + at, end)]
    return sorted(found, key=lambda change: change.at)


def _tested(values: Floats, dice: np.random.Generator, alpha: float) -> tuple[int, float]:
    """The best split, and how often chance splits as well; looked for no longer than until that is surely too often."""
    at, seen = _best_split(_distances(values))
    permutations = max(PERMUTATIONS, math.ceil(10 / alpha) - 1)
    phi, as_far = _autocorrelation(values, at), 1
    about = values - values.mean()
    news = np.append(about[:1] * math.sqrt(1 - phi * phi), about[1:] - phi * about[:-1])
    enough = alpha * (permutations + 1)
    for tried in range(permutations):
        if as_far > enough:
            return at, as_far / (tried + 1)
        as_far += _best_split(_distances(_wandering(dice.permutation(news), phi)))[1] >= seen
    return at, as_far / (permutations + 1)


def _autocorrelation(values: Floats, at: int) -> float:
    """Of neighbouring points about the levels that the series may have: two, or three, since a change that is not
    taken out would look like a long memory. 0 where it is negative.
    """
    parts = [part for half in (values[:at], values[at:]) for part in _halves(half)]
    left = np.concatenate([part - part.mean() for part in parts])
    square, n = float((left**2).sum()), len(values)
    found = float((left[1:] * left[:-1]).sum()) / square if square else 0.0
    return min(MOST_PHI, max(0.0, (found * n + len(parts)) / (n - len(parts) - 2)))


def _halves(values: Floats) -> list[Floats]:
    if len(values) < 2 * FEWEST:
        return [values]
    at, _ = _best_split(_distances(values))
    return [values[:at], values[at:]]


def _wandering(news: Floats, phi: float) -> Floats:
    """A series in which each point keeps so much of the one before."""
    if not phi:
        return news
    series = news.copy()
    series[0] /= math.sqrt(1 - phi * phi)
    for place in range(1, len(series)):
        series[place] += phi * series[place - 1]
    return series


def _distances(values: Floats) -> Floats:
    return np.abs(values[:, None] - values[None, :])


def _best_split(distances: Floats) -> tuple[int, float]:
    """Where the scaled energy distance between what comes before and what comes after is largest, and how large."""
    n = len(distances)
    sums = np.zeros((n + 1, n + 1))
    sums[1:, 1:] = distances.cumsum(0).cumsum(1)
    at = np.arange(FEWEST, n - FEWEST + 1)
    before, total = sums[at, at], sums[n, n]
    across = sums[at, n] - before
    after = total - before - 2 * across
    left, right = at.astype(np.float64), (n - at).astype(np.float64)
    energy = 2 * across / (left * right) - before / (left * (left - 1)) - after / (right * (right - 1))
    scaled = left * right / n * energy
    best = int(scaled.argmax())
    return int(at[best]), float(scaled[best])
