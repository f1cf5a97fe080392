"""A set of runs that were played alike, one after the other: a folder, and set.json in it that names them in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson

from loadgen.durable import publish_bytes
from loadgen.errors import RunFolderError
from planner.documents import read_document

FORMAT = 1
FILE = "set.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSet:
    format: int
    series: str  # the same in both arms of an A/B series, whose n-th runs are a pair
    arm: str | None  # "a" | "b" of such a series
    state: str  # running | complete | interrupted
    reason: str | None  # of an interruption
    asked: int  # so many runs
    runs: tuple[str, ...]  # folders that have ended, in the order of play
    spoiled: tuple[str, ...]  # by the load generator, and played again under the next number


def write(folder: Path, run_set: RunSet) -> None:
    try:
        publish_bytes(folder / FILE, orjson.dumps(run_set, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise RunFolderError(f"cannot write to {folder}: {error.strerror}") from None


def is_set(folder: Path) -> bool:
    return (folder / FILE).is_file()


def read(folder: Path) -> RunSet:
    """Raises RunFolderError for a set.json that cannot be read, or is of another format."""
    path = folder / FILE
    run_set = read_document(path, RunSet, FORMAT)
    if any(Path(name).name != name for name in run_set.runs):
        raise RunFolderError(f"{path} is damaged: it names a run outside its folder")
    return run_set


def paired(base: RunSet | None, new: RunSet | None) -> bool:
    """Whether the n-th runs of both were played one after the other."""
    return base is not None and new is not None and base.series == new.series and base.arm != new.arm
