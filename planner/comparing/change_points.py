"""Where the level of a series changed: the E-divisive method, by energy statistics and permutations.

Matteson and James, A nonparametric approach for multiple change point analysis (JASA, 2014), with alpha = 1: the split
that maximises the energy distance between its two sides is tested by how often a permuted series splits as far apart;
where it is significant each side is searched in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 5  # points on either side
MOST_POINTS = 500
PERMUTATIONS = 999
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
        at, p = _tested(values[start:end], dice)
        if p <= alpha:
            found.append(Change(at=start + at, p=p))
            open_parts += [(start, start + at), (start + at, end)]
    return sorted(found, key=lambda change: change.at)


def _tested(values: Floats, dice: np.random.Generator) -> tuple[int, float]:
    """The best split, and how often chance splits as well."""
    distances = np.abs(values[:, None] - values[None, :])
    at, seen = _best_split(distances)
    as_far = 1
    for _ in range(PERMUTATIONS):
        order = dice.permutation(len(values))
        as_far += _best_split(distances[np.ix_(order, order)])[1] >= seen
    return at, as_far / (PERMUTATIONS + 1)


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
