"""A baseline: what is kept of runs for later ones to be compared with, as a file for the repository under test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, RunFolderError
from planner.comparing.run_facts import RunFacts

FORMAT = 1
FOLDER = Path(".headroom")
_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    format: int
    name: str
    runs: tuple[RunFacts, ...]  # by their start


def baseline_of(name: str, runs: Sequence[RunFacts]) -> Baseline:
    """Raises ConfigError for a name that is none of a file, and RunFolderError for runs that are no measure."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: use letters, digits, dots, dashes and underscores")
    for run in runs:
        if run.reasons:
            raise RunFolderError(f"the run {run.name} is INVALID, and no baseline: {run.reasons[0]}")
    return Baseline(format=FORMAT, name=name, runs=tuple(sorted(runs, key=lambda run: (run.started_utc, run.name))))


def place_of(name: str, folder: Path) -> Path:
    return folder / f"{name}.json"


def write(baseline: Baseline, folder: Path) -> Path:
    """Replaces one of the same name. Keys are sorted, so that a new one differs where its figures do."""
    path = place_of(baseline.name, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        publish_bytes(path, to_json(baseline))
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from None
    return path


def to_json(baseline: Baseline) -> bytes:
    return orjson.dumps(baseline, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS)


def read(path: Path) -> Baseline:
    """Raises RunFolderError for a file that is no baseline, or one of another format."""
    try:
        raw = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT or "runs" not in raw:
        raise RunFolderError(f"{path} is no baseline of format {FORMAT}: `headroom baseline save` writes one")
    try:
        baseline = TypeAdapter(Baseline).validate_python(raw)
    except ValidationError as error:
        raise RunFolderError(f"{path} is damaged: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None
    if not baseline.runs:
        raise RunFolderError(f"{path} holds no run")
    return baseline


def all_in(folder: Path) -> list[Baseline]:
    return [read(path) for path in sorted(folder.glob("*.json"))]
