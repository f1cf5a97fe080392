"""The load process against a server that knows the truth: how much one core carries, and how true its times are.

    python benchmarks/wire.py [--only NAME] [--quick] [--no-peers]

Real Locust users play a fixed request by way of `python -m loadgen`, recording to a run folder; its rows are joined to
the log of ground_truth.py, a process of its own. The load process has one core to itself and the server another; the
recorder shares the server's, where there is no third. Rates are per second of CPU time of the load process over the
steady part; what the recorder used is printed beside them. Errors are our stamp minus the server's, taken right before
it sent. The peers do the same work in processes of their own on the same core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from loadgen.config import RunConfig
from loadgen.samples import Manifest, Run, check_ledger, count_totals, create, finish
from peers import PATH, PEERS

HERE = Path(__file__).parent
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PLAIN_USERS, STREAM_USERS, MANY_USERS = 64, 200, 1_000
OPEN_RATE = 1_000
STREAM_WARMUP_S = 3.0  # longer than a stream, so that as many end at any time as in the long run
RECORDED = 1_000_000
PEER_S = 3.0


class Unmeasurable(Exception):
    """What stands in the way."""


@dataclass(frozen=True)
class Cores:
    """Who runs where."""

    load: int
    server: int
    rest: int

    @classmethod
    def choose(cls) -> Cores:
        if not hasattr(os, "sched_getaffinity") or len(cores := sorted(os.sched_getaffinity(0))) < 2:
            raise Unmeasurable("this needs Linux and two cores: one for the load, one for the server")
        return cls(cores[0], cores[1], cores[2] if len(cores) > 2 else cores[1])


@dataclass
class Row:
    """One line of the table."""

    work: str
    ours: float
    floor: float
    unit: str = ""
    at_least: bool = False
    peers: dict[str, float] = field(default_factory=dict)
    aside: str = ""

    @property
    def met(self) -> bool:
        return self.ours >= self.floor if self.at_least else self.ours <= self.floor

    def ratio(self, peer: float) -> float:
        """How many times better ours is."""
        return self.ours / peer if self.at_least else peer / self.ours


def start(core: int, *command: object, **options: Any) -> subprocess.Popen[str]:
    """A Python program on one core; its threads and children inherit that."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen([sys.executable, *map(str, command)], text=True, **options)
    finally:
        os.sched_setaffinity(0, mine)


@contextmanager
def ground_truth(folder: Path, cores: Cores) -> Iterator[str]:
    """The server's URL; its log is in `folder` once it has ended."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = start(cores.server, HERE / "ground_truth.py", folder, **pipes)
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise Unmeasurable("the server did not start")
        yield json.loads(line)["url"]
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def peak_mb(pid: int) -> float:
    """The most memory a process has had resident so far; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1_024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)


@dataclass
class Played:
    """A load that has been played, and what its two processes used from `begin_ns` to `end_ns`."""

    run: Run
    start_ns: int
    begin_ns: int
    end_ns: int
    load_cpu_s: float
    recorder_cpu_s: float
    peaks_mb: dict[str, float]

    def per_cpu_s(self, instants_ns: pl.Series) -> float:
        """How many of these instants since the run's start fall into the measured part, per CPU second."""
        inside = instants_ns.is_between(self.begin_ns - self.start_ns, self.end_ns - self.start_ns, closed="left")
        return inside.sum() / self.load_cpu_s

    @property
    def aside(self) -> str:
        seconds = (self.end_ns - self.begin_ns) / 1e9
        load, recorder = self.load_cpu_s / seconds, self.recorder_cpu_s / seconds
        return f"load {load:.0%} + recorder {recorder:.0%} = {load + recorder:.0%} of a core"


def play(folder: Path, url: str, scenario: str, cores: Cores, until: Callable[[int], bool], **load: Any) -> Played:
    """Play a load and wait for its end; it is stopped by hand as soon as `until(requests sent)` holds."""
    sections = {
        "target": {"url": url},
        "load": {"throttle": "off", "max_in_flight": 10_000, "max_tokens": 100, **load},
        "scenarios": {scenario.lower(): 1},
        "quota": {"tokens_per_minute": 1_000_000_000, "requests_per_minute": 100_000_000},
    }
    config = RunConfig.model_validate(sections)
    manifest = Manifest(
        run_id=uuid.uuid4().hex,
        config=config.model_dump(mode="json"),
        seed=config.load.seed,
        deployment={"model_name": "Phi-3-mini-4k-instruct", "simulated": True},
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    create(folder, manifest)
    place = f"{scenario.lower()}={HERE / 'fixed.py'}:{scenario}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = start(cores.load, "-m", "loadgen", folder, place, **pipes)
    try:
        return _follow(process, folder, manifest, config, cores, until)
    finally:
        process.kill()
        process.wait()


def _follow(
    process: subprocess.Popen[str],
    folder: Path,
    manifest: Manifest,
    config: RunConfig,
    cores: Cores,
    until: Callable[[int], bool],
) -> Played:
    assert process.stdout is not None
    first = process.stdout.readline()
    if not first:
        raise Unmeasurable(f"the load process ended with {process.wait()}")
    start_ns = json.loads(first)["monotonic_start_ns"]
    manifest.model_copy(update={"monotonic_start_ns": start_ns}).write(folder)
    recorder = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.sched_setaffinity(recorder, {cores.rest})
    pids = {"load": process.pid, "recorder": recorder}

    def marked(at_ns: int) -> tuple[int, float, float]:
        time.sleep(max(0, at_ns - monotonic_ns()) / 1e9)
        return monotonic_ns(), cpu_s(process.pid), cpu_s(recorder)

    before = marked(start_ns + round(config.load.warmup * 1e9))
    # A little before the end, when the users begin to go home.
    after = marked(start_ns + round((config.load.duration - 0.1) * 1e9)) if config.load.duration < 100 else before
    planned, peaks = None, dict.fromkeys(pids, 0.0)
    os.set_blocking(process.stdout.fileno(), False)
    while process.poll() is None or planned is None:
        peaks = {name: max(peaks[name], peak_mb(pid)) for name, pid in pids.items()}
        for line in process.stdout.read().splitlines() if True else ():
            said = json.loads(line)
            planned = said.get("planned", planned)
        time.sleep(0.02)
    return finish
