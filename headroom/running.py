"""One run, end to end: the target is checked and probed, a load process plays, and the plan is made from its record."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from dashboards.live import LiveView, Progress
from headroom import planning
from headroom.commands.app import INTERRUPTED
from headroom.processes import cpu_model, serving
from loadgen.config import SIMULATED, Kind, RunConfig, ThrottleMode
from loadgen.errors import ConfigError, HeadroomError, RunFolderError
from loadgen.proxy import proxy_of
from loadgen.quota import admitting
from loadgen.samples import Manifest, WorkerHealth, create, finish
from loadgen.schedule import read_trace
from loadgen.target import Credential, address_of, check_allowed, check_encrypted, credential_of, probe
from planner.prices import read_prices

SIMULATED_KEY = "HEADROOM_SIMULATED_KEY"
SIMULATED_MODEL = "Phi-3-mini-4k-instruct"
SIMULATED_VISION_MODEL = "Phi-3.5-vision-instruct"  # reads pictures, and costs as much a token
ANY_CONTEXT_TOKENS = 1_000_000  # a trace of another model's traffic is answered whole
INVALID, MISSED = 4, 99
RECORDED_VERSIONS = ("headroom", "locust", "gevent", "polars", "httptools")


def check(config: RunConfig) -> None:
    """All that can be checked without sending anything. Raises ConfigError, RunFolderError or TargetRefused."""
    if config.target.url != SIMULATED:
        address = address_of(config.target.url or "")
        check_allowed(address, config.target.allow_hosts)
        check_encrypted(address, credential_of(config.target, os.environ))
        proxy_of(address, os.environ)
    if config.output.dir is not None and config.output.dir.exists():
        raise RunFolderError(f"{config.output.dir} exists already; a run never overwrites another: choose a new --out")
    rows = read_trace(config.load.trace) if config.load.trace is not None else []
    if config.target.kind is Kind.SERVERLESS:
        cost = config.quota.admission.cost
        for limiter in admitting(config.quota, paced=config.load.throttle is not ThrottleMode.OFF):
            limiter.check_fits(cost(prompt_tokens=1, max_tokens=config.load.max_tokens), "every request")
            for number, row in enumerate(rows, start=1):
                tokens = cost(prompt_tokens=row.prompt_tokens, max_tokens=max(1, row.completion_tokens))
                limiter.check_fits(tokens, f"{config.load.trace}, row {number},")
    read_prices(config.plan.prices)


def run(config: RunConfig, places: Mapping[str, str], *, quiet: bool) -> int:
    """Play the load and leave a run folder; returns the exit code. Raises HeadroomError where nothing was recorded."""
    check(config)
    environment = dict(os.environ)
    with _deployment(config, environment) as target_url:
        if target_url is not None:
            changes = {"url": target_url, "key": f"env:{SIMULATED_KEY}"}
            config = config.model_copy(update={"target": config.target.model_copy(update=changes)})
        address = address_of(config.target.url or "")
        credential = credential_of(config.target, environment)
        proxy = proxy_of(address, environment)
        deployment = _redacted(probe(config.target, address, credential, proxy), credential)
        if proxy is not None:
            deployment["proxy"] = proxy.origin
            sys.stderr.write(f"through the proxy {proxy.origin}\n")
        folder = _run_folder(config)
        manifest = manifest_of(config, {"simulated": False} | deployment)
        create(folder, manifest)
        played = play(folder, manifest, places, environment, quiet=quiet)
    return _conclude(folder, config, played, quiet=quiet)


def _redacted(deployment: dict[str, Any], credential: Credential | None) -> dict[str, Any]:
    """What a server says of itself may repeat the key, and holds what it likes."""
    return json.loads(credential.redact(json.dumps(deployment))) if credential is not None else deployment


@contextmanager
def _deployment(config: RunConfig, environment: dict[str, str]) -> Iterator[str | None]:
    """The simulated deployment's URL while it is needed; None where the target is a real one."""
    if config.target.url != SIMULATED:
        yield None
        return
    environment[SIMULATED_KEY] = secrets.token_hex(16)
    command = [sys.executable, "-m", "loadgen.simulator", *_simulator_flags(config)]
    with serving("the simulated deployment", command, environment) as url:
        yield url


def _simulator_flags(config: RunConfig) -> list[str]:
    flags = {
        "--port": 0,
        "--key-env": SIMULATED_KEY,
        "--kind": config.target.kind,
        "--model": config.target.model or simulated_model(config.scenarios),
        "--seed": config.load.seed,
    }
    quota = config.quota
    if config.target.kind is Kind.SERVERLESS:
        flags |= {
            "--tpm": quota.tokens_per_minute,
            "--rpm": quota.requests_per_minute,
            "--window": quota.window,
            "--admission": quota.admission,
            "--burst-s": quota.burst_s,
            "--request-slice-s": quota.request_slice_s,
        }
        if quota.concurrency is not None:
            flags["--concurrency"] = quota.concurrency
    if config.load.trace is not None:
        flags["--context-tokens"] = ANY_CONTEXT_TOKENS
    return ["--until-eof", *(str(part) for flag in flags.items() for part in flag)]


def simulated_model(scenarios: Iterable[str]) -> str:
    """The model to simulate where none is named: one that reads pictures where the mix sends them."""
    return SIMULATED_VISION_MODEL if "vision" in scenarios else SIMULATED_MODEL


def _run_folder(config: RunConfig) -> Path:
    if config.output.dir is not None:
        return config.output.dir
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    path = Path("runs") / stamp
    return path if not path.exists() else path.with_name(f"{stamp}-{uuid.uuid4().hex[:4]}")


def manifest_of(config: RunConfig, deployment: dict[str, Any]) -> Manifest:
    return Manifest(
        run_id=uuid.uuid4().hex,
        config=config.model_dump(mode="json"),
        seed=config.load.seed,
        deployment=deployment,
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
        self.started = False
        self.interrupted = False
        self.planned: int | None = None
        self.workers: list[WorkerHealth] = []
        self.degraded: list[str] = []
        self.reason: str | None = None
        self.exit_code = 0
        self.last_words = ""


def play(
    folder: Path,
    manifest: Manifest,
    places: Mapping[str, str],
    environment: Mapping[str, str],
    *,
    quiet: bool,
    each_second: Callable[[], None] = lambda: None,
) -> Played:
    """Run the load process to its end, showing its progress; Ctrl-C goes to it, and it decides how to end."""
    command = [sys.executable, "-m", "loadgen", str(folder), *(f"{name}={place}" for name, place in places.items())]
    played = Played()
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, env=dict(environment),
            start_new_session=True, text=True,
        )  # fmt: skip
        with _forwarding_signals(process, played), _live(manifest, quiet=quiet) as live:
            assert process.stdout is not None

            def show(progress: Progress) -> None:
                live.show(progress)
                each_second()

            _follow(process.stdout, folder, manifest, played, show)
            played.exit_code = process.wait()
        words.seek(0)
        played.last_words = words.read()[-4_000:].strip()
        assert process.stdin is not None
        process.stdin.close()
    return played


def _live(manifest: Manifest, *, quiet: bool) -> LiveView:
    config = RunConfig.model_validate(manifest.config)
    limited = config.target.kind is Kind.SERVERLESS
    return LiveView(
        Console(stderr=True),
        title=f"{manifest.deployment.get('model_name', 'model')} at {config.target.url}",
        tokens_per_minute=config.quota.tokens_per_minute if limited else None,
        requests_per_minute=config.quota.requests_per_minute if limited else None,
        quiet=quiet,
    )


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
                played.workers = [WorkerHealth(**health) for health in event["workers"]]
                played.degraded = event.get("degraded", [])


@contextmanager
def _forwarding_signals(process: subprocess.Popen[str], played: Played) -> Iterator[None]:
    def forward(number: int, _: Any) -> None:
        played.interrupted = True
        if process.poll() is None:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(folder: Path, config: RunConfig, played: Played, *, quiet: bool) -> int:
    """Close the record, plan from it, and say how it went."""
    if not played.started:
        shutil.rmtree(folder)  # it holds nothing but what was asked
        if played.interrupted:
            raise KeyboardInterrupt
        error = ConfigError if played.exit_code == ConfigError.exit_code else HeadroomError
        raise error(played.last_words.splitlines()[-1] if played.last_words else "the load process did not start")
    crashed = played.exit_code != 0
    reason = f"the load process ended with {played.exit_code}" if crashed else played.reason
    try:
        with _holding_signals():
            state = "interrupted" if reason else "complete"
            finish(
                folder, state=state, reason=reason, planned=played.planned, workers=played.workers,
                degraded=played.degraded,
            )  # fmt: skip
        plan = planning.conclude(folder, config, quiet=quiet)
    except OSError as failure:
        raise RunFolderError(
            f"cannot write to {folder}: {failure.strerror}; all that was recorded is in it, and "
            f"`headroom plan {folder}` reads it"
        ) from None
    if crashed:
        raise HeadroomError(f"{reason}; what was recorded until then is in {folder}\n{played.last_words}")
    if reason:
        return INTERRUPTED
    if not plan.validity.valid:
        return INVALID
    return MISSED if any(slo.met is False for slo in plan.slos) else 0
