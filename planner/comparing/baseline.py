"""A baseline: what is kept of runs for later ones to be compared with, as a file for the repository under test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
from pydantic import TypeAdapter, ValidationError

from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, RunFolderError
from planner.comparing.comparable import check_alike, check_distinct
from planner.comparing.damage import damage_of
from planner.comparing.run_facts import RunFacts, settings_that_were_not_yet

FORMAT = 1
FOLDER = Path(".headroom")
_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    format: int
    name: str
    runs: tuple[RunFacts, ...]  # by their start


def baseline_of(name: str, runs: Sequence[RunFacts]) -> Baseline:
    """Raises ConfigError for a name that is none of a file, and RunFolderError for runs that are no measure, or not of
    the same.
    """
    check_name(name)
    for run in runs:
        if run.reasons:
            raise RunFolderError(f"the run {run.name} is INVALID, and no baseline: {run.reasons[0]}")
    check_distinct(runs, "what is to be kept")
    check_alike(runs, "these runs cannot be one baseline")
    return Baseline(format=FORMAT, name=name, runs=tuple(sorted(runs, key=lambda run: (run.started_utc, run.name))))


def is_name(name: str) -> bool:
    """Whether it stays within its folder."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raises ConfigError."""
    if not is_name(name):
        raise ConfigError(f"the name {name!r} is none of a baseline: use letters, digits, dots, dashes and underscores")


def place_of(name: str, folder: Path) -> Path:
    """Raises ConfigError for a name that would lead out of the folder."""
    check_name(name)
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
    """Raises RunFolderError for a file that is no baseline, one of another format, or one that is damaged.

    What settings an older version did not know of are those that it kept to.
    """
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
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise RunFolderError(f"{path} is damaged: {place}: {error.errors()[0]['msg']}") from None
    if not baseline.runs:
        raise RunFolderError(f"{path} holds no run")
    for number, run in enumerate(baseline.runs):
        damage = damage_of(run)
        if damage is not None:
            raise RunFolderError(f"{path} is damaged: runs.{number}.{damage}")
    usual = settings_that_were_not_yet()
    return replace(baseline, runs=tuple(replace(run, settings=usual | run.settings) for run in baseline.runs))


def all_in(folder: Path) -> list[Baseline]:
    return [read(path) for path in sorted(folder.glob("*.json"))]
