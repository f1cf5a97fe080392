"""The schedule of an open loop, stored in its run folder before it is played: schedule.parquet, one row an arrival.

What is played is what the file says, so that it can be dealt out, counted and replayed without being drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from loadgen.durable import publish_frame
from loadgen.errors import Interrupted, RunFolderError
from loadgen.guards import STOP_FILE, STOPPED_BY_FILE
from loadgen.schedule import Arrival

FILE_NAME = "schedule.parquet"
WRITTEN_AT_ONCE = 65_536
READ_AT_ONCE = 2_048  # takes less than a millisecond, in which a load process's hub does nothing else
MADE_AT_ONCE = 128
SCHEMA: dict[str, Any] = {
    "seq": pl.UInt64,
    "due_ns": pl.Int64,
    "scenario": pl.String,
    "seed": pl.Int64,
    "prompt_tokens": pl.UInt32,
    "completion_tokens": pl.UInt32,
    "messages": pl.String,  # JSON
    "images": pl.String,  # JSON: [[width, height], ...] in pixels
}


def write_schedule(folder: Path, arrivals: Iterable[Arrival]) -> None:
    """Store the arrivals of the run in `folder`, in their order; they are never all in memory as objects.

    Millions of them take minutes. Raises Interrupted where there is a file STOP meanwhile.
    """
    stream = iter(arrivals)
    frames = [pl.DataFrame(schema=SCHEMA)]
    while slice_ := list(islice(stream, WRITTEN_AT_ONCE)):
        frames.append(_frame(slice_))
        if (folder / STOP_FILE).exists():
            raise Interrupted(STOPPED_BY_FILE)
    publish_frame(folder / FILE_NAME, pl.concat(frames), row_group_size=READ_AT_ONCE)


class ScheduleFile:
    """A stored schedule, read slice by slice."""

    def __init__(self, folder: Path) -> None:
        """Raises RunFolderError where the run has none, or one that is damaged."""
        self._path = folder / FILE_NAME
        try:
            self._rows = pl.scan_parquet(self._path, glob=False).select(*SCHEMA)
            self._length = int(self._rows.select(pl.len()).collect().item())
        except (OSError, pl.exceptions.PolarsError) as error:
            raise RunFolderError(f"{self._path} cannot be read: {str(error).splitlines()[0]}") from None

    def __len__(self) -> int:
        """Arrivals in all."""
        return self._length

    @property
    def first_free(self) -> int:
        """The least number above those of all arrivals; those of a replayed run need not be without gaps."""
        last: int | None = self._rows.select(pl.col("seq").max()).collect().item()
        return 0 if last is None else last + 1

    def __iter__(self) -> Iterator[Arrival]:
        for slice_ in self.slices():
            yield from slice_

    def slices(self, size: int = MADE_AT_ONCE) -> Iterator[list[Arrival]]:
        """All arrivals in their order, at most `size` at a time."""
        for first in range(0, self._length, READ_AT_ONCE):
            read = self._rows.slice(first, READ_AT_ONCE).collect()
            for start in range(0, read.height, size):
                yield [_arrival(row) for row in read.slice(start, size).rows()]


def _frame(arrivals: list[Arrival]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {name: [getattr(each, name) for each in arrivals] for name in SCHEMA}
    for name in ("messages", "images"):
        columns[name] = [None if value is None else json.dumps(value) for value in columns[name]]
    return pl.DataFrame(columns, schema=SCHEMA)


def _arrival(row: tuple[Any, ...]) -> Arrival:
    *known, messages, images = row
    arrival = Arrival(*known)
    if messages is not None:
        arrival.messages = json.loads(messages)
    if images is not None:
        arrival.images = [(width_px, height_px) for width_px, height_px in json.loads(images)]
    return arrival
