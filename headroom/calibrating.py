"""What this machine's own error is: two short loads against a server that knows the truth, and their record beside its
log.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from dashboards.calibration import print_calibration
from headroom.audience import Audience
from headroom.commands.app import INVALID
from headroom.processes import OthersMeter, serving
from headroom.running import manifest_of, play
from loadgen.config import Kind, RunConfig
from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, HeadroomError, RunFolderError
from loadgen.ground_truth import GAP_NS, TOKENS, timer_of
from loadgen.samples import Run, check_ledger, create, finish
from loadgen.slo import parse_duration_ns
from loadgen.target import KEY_VARIABLES
from planner.assemble import to_json
from planner.calibration import Calibration, Part, calibrated
from planner.rows import steady_stretch
from planner.truth import Log

SHORTEST_S, LONGEST_S = 8.0, 600.0
STREAMS_SHARE = 2 / 3  # of the time; the rest is the open loop's
STREAMS_WARMUP_S = 2.5  # longer than a stream, so that as many begin and end at any moment as in the long run
OPEN_LOOP_WARMUP_S = 0.5
OPEN_LOOP_PER_S = 1_000


def calibrate(*, duration: str, streams: int, out: Path | None, as_json: bool, quiet: bool) -> int:
    """Measure, print, and return the exit code. Raises HeadroomError, and KeyboardInterrupt where it was stopped."""
    seconds = _seconds(duration)
    os.close(timer_of(GAP_NS))  # there is one: said before anything is started
    with _folder(out) as folder:
        found = _measured(folder, streams, seconds, quiet=quiet)
        publish_bytes(folder / "calibration.json", to_json(found))
    if as_json:
        sys.stdout.buffer.write(to_json(found))
    elif quiet:
        sys.stdout.write(f"{found.for_report or found.headline}\n")
    else:
        print_calibration(found, Console())
    return 0 if found.validity.valid else INVALID


def _seconds(duration: str) -> float:
    try:
        seconds = parse_duration_ns(duration) / 1e9
    except ConfigError as error:
        raise ConfigError(f"--duration: {error}") from None
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise ConfigError(f"--duration: {duration} is not between {SHORTEST_S:g} s and {LONGEST_S:g} s")
    return seconds


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Where to measure: `out`, which is left only with a whole calibration in it, or one that is gone afterwards."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="headroom-calibrate-") as folder:
            yield Path(folder)
        return
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise RunFolderError(f"{out} exists already, and is not overwritten: choose a new --out") from None
    except OSError as error:
        raise RunFolderError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    try:
        yield out
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _measured(folder: Path, streams: int, seconds: float, *, quiet: bool) -> Calibration:
    """Play both loads and join their record to the server's log."""
    log = folder / "log"
    log.mkdir()
    streams_s = seconds * STREAMS_SHARE
    closed = {"users": streams, "duration": streams_s, "warmup": STREAMS_WARMUP_S}
    opened = {"rate": OPEN_LOOP_PER_S, "duration": seconds - streams_s, "warmup": OPEN_LOOP_WARMUP_S}
    with serving("the ground-truth server", [sys.executable, "-m", "loadgen.ground_truth", str(log)]) as url:
        streamed = _played(folder / "streams", url, "Stream", closed, quiet=quiet)
        answered = _played(folder / "open-loop", url, "Plain", opened, quiet=quiet)
    return calibrated(streamed, answered, Log.open(log), tokens_per_s=1e9 / GAP_NS)


def _played(folder: Path, url: str, scenario: str, load: dict[str, Any], *, quiet: bool) -> Part:
    """Play one load to its end. Raises KeyboardInterrupt where it was stopped, HeadroomError where it failed."""
    name = scenario.lower()
    sections = {
        "target": {"url": url, "kind": Kind.MANAGED},  # it has no quota
        "load": {"max_tokens": TOKENS, **load},
        "scenarios": {name: 1},
    }
    config = RunConfig.model_validate(sections)
    manifest = manifest_of(config, {"model_name": "ground truth", "simulated": True})
    create(folder, manifest)
    meter = OthersMeter()
    keyless = {name: value for name, value in os.environ.items() if name not in KEY_VARIABLES}
    places = {name: f"scenarios.fixed:{scenario}"}
    played = play(folder, manifest, places, keyless, audience=Audience(panel=not quiet), each_second=meter.read)
    if played.interrupted:
        raise KeyboardInterrupt
    if played.exit_code or played.reason:
        raise HeadroomError(f"the load process ended with {played.exit_code}: {played.last_words or played.reason}")
    closed = finish(folder, state="complete", planned=played.planned, workers=played.workers)
    check_ledger(closed.totals, played.planned)
    run = Run.open(folder)
    start_ns, steady = run.manifest.monotonic_start_ns or 0, steady_stretch(run)
    return Part(run, meter.cores_between(start_ns + steady.start_ns, start_ns + steady.end_ns))
