"""One run, end to end: the target is checked and probed, a load process plays, and the plan is made from its record."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from dashboards.live_panel import Progress
from dashboards.readable import readable
from headroom import gating, planning
from headroom.aborting import Watch, check_delays
from headroom.audience import NOBODY, Audience
from headroom.commands.app import AUTO_STOPPED, BUDGET_USED, INTERRUPTED, MISSED
from headroom.gating import Outputs
from headroom.processes import cpu_model
from headroom.scheduling import store_schedule
from headroom.targets import check, naming, prices_of, probed, simulated
from loadgen.claim import hold
from loadgen.config import RunConfig
from loadgen.errors import ConfigError, HeadroomError, Interrupted, RunFolderError
from loadgen.guards import StopCause
from loadgen.samples import Manifest, WorkerHealth, create, finish
from loadgen.tokens import ESTIMATOR

EXIT_CODES = {
    StopCause.THRESHOLD: MISSED,
    StopCause.HAND: INTERRUPTED,
    StopCause.BUDGET: BUDGET_USED,
    StopCause.AUTO_STOP: AUTO_STOPPED,
}
RECORDED_VERSIONS = ("headroom", "locust", "gevent", "polars", "httptools")


def run(config: RunConfig, places: Mapping[str, str], *, quiet: bool, outputs: Outputs, audience: Audience) -> int:
    """Play the load and leave a run folder; returns the exit code. Raises HeadroomError where nothing was recorded."""
    check(config)
    with ready(config) as (settled, environment, deployments):
        folder = run_folder(config)
        manifest = begin(folder, settled, deployments)
        watch = Watch(folder, settled)
        played = play(folder, manifest, places, environment, audience=audience, each_second=watch.look)
    return _conclude(folder, settled, played, quiet=quiet, outputs=outputs)


@contextmanager
def ready(
    config: RunConfig, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[RunConfig, dict[str, str], list[dict[str, Any]]]]:
    """The targets while they are there, simulated or not, and probed: the config that names them, the environment that
    holds their keys (a copy of the one given, by default of the process's own), and what each says of itself.
    """
    check_delays(config)
    environment = dict(os.environ if environment is None else environment)
    with simulated(config, environment) as started:
        deployments = []
        for target in started.targets:
            with naming(started, target):
                deployments.append({"simulated": False} | probed(started, target, environment))
        yield started, environment, deployments


def begin(folder: Path, config: RunConfig, deployments: Sequence[dict[str, Any]]) -> Manifest:
    """Make the run folder, and hold it until this process ends. Raises ConfigError and RunFolderError."""
    manifest = manifest_of(config, *deployments)
    manifest.prices = prices_of(config, deployments)
    _create_whole(folder, manifest)
    hold(folder)
    return manifest


def _create_whole(folder: Path, manifest: Manifest) -> None:
    """A folder that is interrupted before anything was sent is none."""
    try:
        with _holding_signals():
            create(folder, manifest)
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        raise


def run_folder(config: RunConfig) -> Path:
    if config.output.dir is not None:
        return config.output.dir
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    path = Path("runs") / stamp
    return path if not path.exists() else path.with_name(f"{stamp}-{uuid.uuid4().hex[:4]}")


def manifest_of(config: RunConfig, *deployments: dict[str, Any]) -> Manifest:
    """`deployments`: what each target said of itself."""
    several = len(deployments) > 1
    by_name = zip((target.name or "" for target in config.targets), deployments, strict=True)
    return Manifest(
        run_id=uuid.uuid4().hex,
        config=config.model_dump(mode="json"),
        seed=config.load.seed,
        estimator=ESTIMATOR,
        deployment=deployments[0],
        deployments=dict(by_name) if several else {},
        versions={"python": platform.python_version(), **{name: version(name) for name in RECORDED_VERSIONS}},
        host={
            "system": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
        },
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@contextmanager
def _holding_signals() -> Iterator[None]:
    """Let a record be closed whole; a Ctrl-C meanwhile counts afterwards."""
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: held.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


class Played:
    """How the load process ended."""

    def __init__(self) -> None:
        self.scheduling = False  # the schedule is being made
        self.started = False
        self.interrupted = False
        self.planned: int | None = None
        self.workers: list[WorkerHealth] = []
        self.degraded: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self.reason: str | None = None
        self.missed: str | None = None  # the threshold that ended it
        self.cause = StopCause.HAND
        self.budget: dict[str, dict[str, float]] = {}
        self.exit_code = 0
        self.last_words = ""


def _store_schedule(folder: Path, manifest: Manifest, played: Played) -> None:
    """A folder whose schedule cannot be written, or is interrupted before it is, is none."""
    try:
        played.scheduling = True
        if played.interrupted:
            raise KeyboardInterrupt
        store_schedule(folder, RunConfig.model_validate(manifest.config))
        played.scheduling = False
    except (HeadroomError, KeyboardInterrupt):
        played.scheduling = False
        shutil.rmtree(folder)
        raise


def play(
    folder: Path,
    manifest: Manifest,
    places: Mapping[str, str],
    environment: Mapping[str, str],
    *,
    audience: Audience = NOBODY,
    each_second: Callable[[], str | None] = lambda: None,
) -> Played:
    """Store the schedule and run the load process to its end, showing its progress.

    Ctrl-C goes to that process, and it decides how to end. What `each_second` says is why the run is to end.
    """
    command = [sys.executable, "-m", "loadgen", str(folder), *(f"{name}={place}" for name, place in places.items())]
    played = Played()
    with (
        _forwarding_signals(played),
        tempfile.TemporaryFile("w+") as words,
        audience.watching(folder, manifest) as watched,
    ):
        _store_schedule(folder, manifest, played)
        process = played.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, env=dict(environment),
            start_new_session=True, text=True, close_fds=False,  # it holds the simulated deployment open
        )  # fmt: skip
        if played.interrupted:  # before there was anybody to tell
            process.send_signal(signal.SIGTERM)
        assert process.stdout is not None

        def show(progress: Progress) -> None:
            watched.show(progress)
            if (missed := each_second()) is not None and played.missed is None:
                played.missed = missed
                process.terminate()

        _follow(process.stdout, folder, manifest, played, show)
        played.exit_code = process.wait()
        watched.reason = _reason(played)
        words.seek(0)
        played.last_words = words.read()[-4_000:].strip()
        assert process.stdin is not None
        process.stdin.close()
    return played


def _follow(lines: IO[str], folder: Path, manifest: Manifest, played: Played, show: Callable[[Progress], None]) -> None:
    for line in lines:
        if not line.startswith('{"event": '):
            sys.stderr.write(line)  # a scenario prints
            continue
        event = json.loads(line)
        match event.pop("event"):
            case "started":
                played.started = True
                manifest.model_copy(update=event).write(folder)
            case "progress":
                show(event)
            case "finished":
                played.planned, played.reason = event["planned"], event["reason"]
                played.cause = StopCause(event["cause"] or StopCause.HAND)
                played.budget = event["budget"]
                if played.missed is not None and played.cause is StopCause.HAND and not played.interrupted:
                    played.cause, played.reason = StopCause.THRESHOLD, played.missed
                played.workers = [WorkerHealth(**health) for health in event["workers"]]
                played.degraded = event.get("degraded", [])


@contextmanager
def _forwarding_signals(played: Played) -> Iterator[None]:
    def forward(number: int, _: Any) -> None:
        played.interrupted = True
        if played.scheduling:  # which may take minutes, and nothing has been sent
            raise KeyboardInterrupt
        if played.process is not None and played.process.poll() is None:
            played.process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(played: Played) -> str | None:
    """Why the load ended early."""
    return f"the load process ended with {played.exit_code}" if played.exit_code else played.reason


def close(folder: Path, played: Played) -> str | None:
    """Close the record; returns why it is not complete, or None.

    Raises HeadroomError and KeyboardInterrupt where nothing was sent: then the folder is gone.
    """
    if not played.started:
        shutil.rmtree(folder)  # it holds nothing but what was asked
        if played.interrupted:
            raise KeyboardInterrupt
        error = next((each for each in (ConfigError, Interrupted) if played.exit_code == each.exit_code), HeadroomError)
        raise error(played.last_words.splitlines()[-1] if played.last_words else "the load process did not start")
    reason = _reason(played)
    with _holding_signals():
        state = "interrupted" if reason else "complete"
        finish(
            folder,
            state=state,
            reason=reason,
            planned=played.planned,
            workers=played.workers,
            degraded=played.degraded,
            budget=played.budget,
        )
    return reason


def _conclude(folder: Path, config: RunConfig, played: Played, *, quiet: bool, outputs: Outputs) -> int:
    """Close the record, plan from it, and say how it went."""
    crashed = played.exit_code != 0
    try:
        reason = close(folder, played)
        plan = planning.write(folder, config) if outputs.to_stdout else planning.conclude(folder, config, quiet=quiet)
    except OSError as failure:
        raise RunFolderError(
            f"cannot write to {folder}: {failure.strerror}; all that was recorded is in it, and "
            f"`headroom plan {folder}` reads it"
        ) from None
    if crashed:
        raise HeadroomError(f"{reason}; what was recorded until then is in {folder}\n{played.last_words}")
    if reason:
        sys.stderr.write(f"headroom: {readable(reason)}\n")
    code = EXIT_CODES[played.cause] if reason else None
    return gating.conclude(folder, plan, outputs, ended=reason, code=code, quiet=quiet)
