"""Reduction of long series for a picture: as few points as its pixels can tell apart, every extreme among them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
COLUMNS_OF_PIXELS = 600  # that the widest figure has, or so
PER_COLUMN = 4  # points
PER_DECADE = 40  # points of a tail
WITHIN = 120  # further ones, evenly spaced between both tails


def reduced(frame: pl.DataFrame, x: str, *columns: str, pixels: int = COLUMNS_OF_PIXELS) -> pl.DataFrame:
    """Rows of `frame` whose line looks as that of all of them does, in their order.

    By M4 (Jugel, Jerzak, Hackenbroich, Markl: "M4: a visualization-oriented time series data aggregation", VLDB 2014):
    of each column of pixels the first, the last, the smallest and the largest value, so no extreme is lost. At most
    four rows a column of pixels, for each of `columns`; all of them where there are no more than that. `x` ascends;
    rows in which a column is null are not kept for it.
    """
    if frame.height <= PER_COLUMN * pixels:
        return frame
    kept = {0, frame.height - 1}
    at = frame[x].to_numpy()
    for name in columns:
        known = np.flatnonzero(frame[name].is_not_null().to_numpy())
        values = frame[name].gather(known).to_numpy()
        kept.update(known[_of_each_column(at[known], values, pixels)].tolist())
    return frame[sorted(kept)]


def _of_each_column(at: Floats, values: Floats, pixels: int) -> list[int]:
    """Where the first, smallest, largest and last of each column of pixels stand."""
    if not len(at):
        return []
    beyond = np.searchsorted(at, np.linspace(at[0], at[-1], pixels + 1)[1:-1])
    kept = []
    for begin, end in pairwise([0, *beyond.tolist(), len(at)]):
        if begin < end:
            column = values[begin:end]
            kept += [begin, begin + int(column.argmin()), begin + int(column.argmax()), end - 1]
    return kept


def tail_ranks(n: int) -> list[int]:
    """Ranks, from 1, of `n` ascending values that an ECDF with logarithmic tails is drawn by; the ends among them.

    Each decade of either tail (from 10 to 1 %, from 1 to 0.1 %, ...) has as many points, down to the single values.
    """
    if n <= 2 * PER_DECADE + WITHIN:
        return list(range(1, n + 1))
    decades = math.log10(n)
    from_end = np.unique(np.rint(np.logspace(0, decades, round(decades * PER_DECADE))).astype(np.int64))
    from_end = from_end[from_end <= n // 2]
    between = np.linspace(1, n, WITHIN).round().astype(np.int64)
    return [int(rank) for rank in np.unique(np.concatenate([from_end, n + 1 - from_end, between]))]


def tail_place(share: float) -> float:
    """Where a share between 0 and 1 stands on an axis with a logarithmic tail at both ends: 0 in the middle.

    1 further for each tenth part: 0.9 stands at 0.7, 0.99 at 1.7, 0.999 at 2.7, and 0.1 at -0.7.
    """
    return math.log10(0.5 / (1 - share)) if share >= 0.5 else -math.log10(0.5 / share)
