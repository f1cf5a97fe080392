"""Values in ascending order, of which a percentile is the one at a rank: a metric's, of a record of any length."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import polars as pl


class Ascending(Protocol):
    """What percentiles are read from: a sorted Series, or `Counted`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> float: ...

    def mean(self) -> object: ...


class Counted:
    """Each value once, with how often it came: the gaps of a hundred million tokens are a few thousand values."""

    def __init__(self, values: np.ndarray, times: np.ndarray) -> None:
        """`values` ascend, and each came `times` >= 1."""
        self._values, self._times = values, times
        self._up_to = np.cumsum(times)

    def __len__(self) -> int:
        return int(self._up_to[-1]) if len(self._up_to) else 0

    def __getitem__(self, index: int, /) -> float:
        """The value at an index from 0, as if all stood there one by one."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return float(self._values[np.searchsorted(self._up_to, index, side="right")])

    def mean(self) -> float | None:
        return float(np.dot(self._values.astype(np.float64), self._times)) / len(self) if len(self) else None


def ascending(values: pl.Series) -> pl.Series:
    """Numpy sorts several times as fast as polars does."""
    return pl.Series(values.name, np.sort(values.to_numpy()))
