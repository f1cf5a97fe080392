"""The record of a run that lasts, read as it grows: each row once, soon after it was published."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from loadgen.config import RunConfig
from loadgen.samples import CHUNKS_SCHEMA, SAMPLES_SCHEMA

MASTER = 65_535  # the number under which a master publishes rows of its own
MOST_PARTS = 64  # at once, so that no look takes long; the rest is there at the next
_UNREADABLE = (OSError, pl.exceptions.PolarsError)
LEAST_PARTS = 4  # of each worker: two come each second


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What was published since the last look. Columns: of SAMPLES_SCHEMA those asked for, and all of CHUNKS_SCHEMA.

    The gaps are those of the attempts beside them.
    """

    samples: pl.DataFrame
    chunks: pl.DataFrame


class GrowingRecord:
    """The parts of a run folder, each read once and in the order of its worker."""

    def __init__(self, folder: Path, config: RunConfig, columns: Iterable[str]) -> None:
        self._parts, self._columns = folder / "parts", tuple(columns)
        load = config.load
        cores = os.cpu_count() or 1
        workers = load.workers if load.master else cores if load.processes == -1 else load.processes
        self._next = dict.fromkeys((*range(workers), MASTER), 1)
        self._unread: list[str] = []  # could not be read at the last look

    def read(self) -> Rows:
        """What has come, up to MOST_PARTS files; empty frames where nothing has."""
        again, self._unread = self._unread, []
        stems = [*again, *(stem for worker in self._next for stem in self._published(worker))]
        try:
            return self._rows(stems)
        except _UNREADABLE:
            pass
        found = [self._rows([])]
        for stem in stems:
            try:
                found.append(self._rows([stem]))
            except (
                _UNREADABLE
            ):  # whoever looks on misses some rows, if once more does not help: no reason to end a load
                self._unread += [] if stem in again else [stem]
        return Rows(
            samples=pl.concat([rows.samples for rows in found]), chunks=pl.concat([rows.chunks for rows in found])
        )

    def _rows(self, stems: list[str]) -> Rows:
        samples = [self._parts / f"samples-{stem}" for stem in stems]
        chunks = [path for stem in stems if (path := self._parts / f"chunks-{stem}").exists()]  # published first
        return Rows(
            samples=_frame(samples, {name: SAMPLES_SCHEMA[name] for name in self._columns}),
            chunks=_frame(chunks, CHUNKS_SCHEMA),
        )

    def _published(self, worker: int) -> list[str]:
        stems: list[str] = []
        while len(stems) < max(LEAST_PARTS, MOST_PARTS // len(self._next)):
            stem = f"{worker:05d}-{self._next[worker]:06d}.parquet"
            if not (self._parts / f"samples-{stem}").exists():
                break
            stems.append(stem)
            self._next[worker] += 1
        return stems


def _frame(files: list[Path], schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.read_parquet(files, columns=list(schema), glob=False) if files else pl.DataFrame(schema=schema)
