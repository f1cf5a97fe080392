"""Load steps: the steps of run folders and of sweeps, as the rows that a serving model is fitted on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import polars as pl

from loadgen.samples import Run
from planner import swept
from planner.steps import Step, step_of

COLUMNS = {
    "folder": pl.String,
    "rate_per_s": pl.Float64,  # what came due
    "completed_per_s": pl.Float64,
    "prompt_tokens": pl.Float64,
    "completion_tokens": pl.Float64,
    "itl_mean_ms": pl.Float64,
    "itl_p95_ms": pl.Float64,
    "ttft_p50_ms": pl.Float64,
    "ttft_p95_ms": pl.Float64,
    "response_p95_ms": pl.Float64,
    "e2e_mean_s": pl.Float64,
    "concurrency": pl.Float64,
    "requests": pl.Int64,
    "saturated": pl.Boolean,
    "quota_limited": pl.Boolean,
    "client_limited": pl.Boolean,
}


def steps_of(folders: Path | str | Iterable[Path | str]) -> pl.DataFrame:
    """A row for each run folder, and for each step of each sweep. Columns COLUMNS; `folder` says which it was.

    Steps that the quota or the load generator limited are there with their flags: a fit sets them aside and says so.
    Raises RunFolderError for a folder that cannot be read.
    """
    given = [folders] if isinstance(folders, Path | str) else list(folders)
    rows = [row for folder in given for row in _rows(Path(folder))]
    return pl.DataFrame(rows, schema=COLUMNS)


def _rows(folder: Path) -> list[dict[str, object]]:
    if swept.is_sweep(folder):
        return [_row(step, str(folder / step.folder)) for step in swept.read(folder).steps]
    return [_row(step_of(Run.open(folder), (), number=1, folder=folder.name, rate_per_s=0.0), str(folder))]


def _row(step: Step, folder: str) -> dict[str, object]:
    """Nothing completed or nothing offered is not known, and the fit leaves such a step out."""
    known = {each.name: getattr(step, each.name) for each in fields(step) if each.name in COLUMNS}
    offered, completed = step.offered_per_s or None, step.completed_per_s or None
    return {**known, "folder": folder, "rate_per_s": offered, "completed_per_s": completed}
