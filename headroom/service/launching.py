"""A job's files and its process, as the service starts, follows and tells it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from headroom.service.jobs import Job, Kind
from headroom.service.plan_request import plan_of
from headroom.service.settings import Settings
from headroom.service.toml import to_toml
from loadgen.durable import publish_bytes
from loadgen.errors import HeadroomError
from loadgen.guards import STOP_FILE
from loadgen.loadtest import ENDPOINT_VARIABLES
from loadgen.samples import Manifest
from loadgen.target import KEY_VARIABLES

TOKEN_VARIABLE = "HEADROOM_TOKEN"  # noqa: S105 - its name
TAIL_BYTES, LAST_WORDS = 32 << 10, 2_000
NICENESS = 10  # of all that is not a load test: one that runs is measuring
STARTED, PROGRESS = (f'{{"event": "{event}"'.encode() for event in ("started", "progress"))


def job_folder(settings: Settings, job_id: str) -> Path:
    """Its configuration, its claim, its exit code, and what it said."""
    return settings.state / "jobs" / job_id


def environment_for(settings: Settings, keys: Collection[str | None] = ()) -> dict[str, str]:
    """The service's, with those of its secrets that `keys` name (`env:NAME`) and no other: what one deployment is
    loaded with is kept from all others, which would find it in a variable that is looked at where none is named.
    """
    offered = {name for target in settings.targets if (name := _variable_of(target.key)) is not None}
    hidden = {TOKEN_VARIABLE, *ENDPOINT_VARIABLES, *KEY_VARIABLES, *offered} - {_variable_of(key) for key in keys}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"PYTHONSAFEPATH": "1"}  # they work among the runs, which are no packages, whatever they are called


def _variable_of(key: str | None) -> str | None:
    return key.removeprefix("env:") if key is not None and key.startswith("env:") else None


def _keys_of(config: Mapping[str, Any]) -> list[str | None]:
    """That the targets of a load test name; a plan has none."""
    given = config.get("target", {})
    return [target.get("key") for target in (given if isinstance(given, list) else [given])]


def launch(settings: Settings, job: Job, config: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start the process of a job whose start is written down. Raises OSError, ValueError and HeadroomError."""
    folder = job_folder(settings, job.id)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(job, config, folder)
    with (folder / "log").open("ab") as log, (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "headroom.service.job_process", str(folder.absolute()), str(job.launch), *arguments],
            cwd=settings.runs, env=environment_for(settings, _keys_of(config)), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=log,
        )  # fmt: skip
    if job.kind is Kind.PLAN:
        make_way(process)
    return process


def _arguments(job: Job, config: Mapping[str, Any], folder: Path) -> list[str]:
    if job.kind is Kind.PLAN:
        return plan_of(dict(config)).arguments()
    file = folder / "loadtest.toml"
    publish_bytes(file, to_toml(config).encode())
    return ["run", str(file.absolute()), "--out", job.id, "--progress", "json", "--quiet"]


def make_way(process: subprocess.Popen[bytes]) -> None:
    """A load test that runs goes first."""
    try:
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    except OSError:  # it has ended
        return


def recovering(settings: Settings, run: str) -> subprocess.Popen[bytes]:
    """`headroom recover` at work on a run."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headroom", "recover", run],
        cwd=settings.runs, env=environment_for(settings), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    make_way(process)
    return process


def _tail(path: Path) -> list[bytes]:
    """Its last whole lines."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    return lines[1:] if size > TAIL_BYTES else lines


def progress_of(settings: Settings, job_id: str) -> dict[str, Any] | None:
    """The newest, as the process told it; None where it has not yet."""
    for line in reversed(_tail(job_folder(settings, job_id) / "log")):
        if line.startswith(PROGRESS):
            try:
                found: dict[str, Any] = json.loads(line)
            except ValueError:  # half written
                continue
            found.pop("event")
            return found
    return None


def about(settings: Settings, job_id: str) -> dict[str, Any] | None:
    """What the process told of its run as it began, a dashboards.live_panel.About; None before."""
    try:
        with (job_folder(settings, job_id) / "log").open("rb") as file:
            lines = file.read(TAIL_BYTES).split(b"\n")
        line = next(line for line in lines if line.startswith(STARTED))
        found: dict[str, Any] = json.loads(line)
    except (OSError, StopIteration, ValueError):
        return None
    found.pop("event")
    return found


def words_of(settings: Settings, job_id: str) -> str:
    """What else it said on standard error, the last of it: inert only as long as it is shown as text."""
    lines = [line for line in _tail(job_folder(settings, job_id) / "log") if not line.startswith(b'{"event": ')]
    return b"\n".join(lines).decode(errors="replace").strip()[-LAST_WORDS:]


def cut(settings: Settings, job: Job) -> None:
    """Let a load test wait for no answers; it takes no harm where it waits for none."""
    if job.kind is Kind.LOADTEST and state_of_run(settings, job) == "running":
        (settings.runs / job.id / STOP_FILE).touch()


def state_of_run(settings: Settings, job: Job) -> str | None:
    """As its manifest has it: running, complete or interrupted; None where there is no run folder."""
    try:
        return Manifest.read(settings.runs / job.id).state
    except HeadroomError:
        return None


def is_cut_short(settings: Settings, job: Job) -> bool:
    """Whether the record is there and not closed, or not told."""
    state, folder = state_of_run(settings, job), settings.runs / job.id
    return state == "running" or (state is not None and not (folder / "summary.json").exists())
