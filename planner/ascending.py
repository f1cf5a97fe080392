"""Values in ascending order, of which a percentile is the one at a rank: a metric's, of a record of any length."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import polars as pl


class Ascending(Protocol):
    """What percentiles are read from: `Sorted`, or `Counted`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> float: ...

    def mean(self) -> object: ...


class Sorted:
    """All values, one by one."""

    def __init__(self, values: np.ndarray) -> None:
        """`values` ascend."""
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int, /) -> float:
        return self._values[index]  # type: ignore[no-any-return]

    def mean(self) -> float | None:
        return float(self._values.mean()) if len(self._values) else None


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


def own_array(values: pl.Series, room: np.ndarray | None = None) -> np.ndarray:
    """The values, none of which is null, in memory that may be written to: in `room`, where it is given.

    `room` holds as many numbers of 8 bytes or more. Memory that is used again spares the system clearing it, which
    takes as long as sorting does.
    """
    chunks = [chunk.to_numpy() for chunk in values.get_chunks()]
    own = None if room is None else room[: len(values)].view(chunks[0].dtype)
    return np.concatenate(chunks, out=own)


def ascending(values: pl.Series, room: np.ndarray | None = None) -> Sorted:
    """Of values without nulls; in `room` they stand until it is used again. Numpy sorts faster than polars does."""
    own = own_array(values, room)
    own.sort()
    return Sorted(own)
