"""Finishing the record of a run that was killed: what `headroom run` would have done at its end."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from headroom import planning
from loadgen.claim import claimed
from loadgen.config import RunConfig
from loadgen.damage import naming_damage
from loadgen.errors import RunFolderError
from loadgen.samples import Manifest, Run, finish, last_done_ns

REASON = "recovered: the load process was killed"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What of a killed run is in its record."""

    rows: int
    last_done_s: float | None  # since the run's start; None where nothing had ended
    was_closed: bool  # there was nothing to recover but, at most, the summary and the report

    def sentence(self, folder: Path) -> str:
        if self.was_closed:
            return f"{folder}: nothing to recover, its record is closed, with {self.rows:,} rows"
        if self.last_done_s is None:
            return f"{folder}: no rows: the run was killed before the first attempt had ended and was recorded"
        return (
            f"{folder}: {self.rows:,} rows; the last attempt ended {self.last_done_s:.3f} s after the start. Not known "
            "are what ended in the second before the kill, what was then in flight, how many arrivals had come due, "
            "and how the load generator itself fared"
        )


def recover(folder: Path) -> Recovered:
    """Close the record, and write summary.json and report.html as `headroom run` would. Doing it again changes nothing.

    Raises RunFolderError where there is no run, it is still going on, or the folder cannot be written.
    """
    manifest = Manifest.read(folder)
    try:
        with claimed(folder), naming_damage(folder):
            manifest = Manifest.read(folder)  # it may have ended since
            was_closed = manifest.state != "running"
            if not was_closed:
                finish(folder, state="interrupted", reason=REASON)
            shutil.rmtree(folder / "parts", ignore_errors=True)
            _tell(folder, RunConfig.model_validate(manifest.config), anew=not was_closed)
            run = Run.open(folder)
            done_ns = last_done_ns(run.samples)
    except OSError as error:
        raise RunFolderError(f"cannot write to {folder}: {error.strerror}; nothing that was recorded is lost") from None
    rows = run.manifest.files["samples.parquet"]["rows"]
    return Recovered(rows, None if done_ns is None else done_ns / 1e9, was_closed)


def _tell(folder: Path, config: RunConfig, *, anew: bool) -> None:
    wanted = ["summary.json", *(["report.html"] if config.output.report else [])]
    if anew or not all((folder / name).exists() for name in wanted):
        planning.write(folder, config)
