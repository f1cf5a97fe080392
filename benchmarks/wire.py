"""The load process against a server that knows the truth: how much one core carries, and how true its times are.

    python benchmarks/wire.py [--only NAME] [--quick] [--no-peers]

Real Locust users play a fixed request by way of `python -m loadgen`, recording to a run folder; its rows are joined to
the log of loadgen.ground_truth, a process of its own. The load process has a core to itself and the server another; the
recorder shares the server's where there is no third. Rates are per second of CPU time of the load process over the
steady part; what the recorder used is printed beside them. Errors are our stamp minus the server's, which it takes
right before it sends. The peers do the same work, each in a process of its own on the load's core.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns
from typing import Any, TypeVar

import polars as pl
from peers import PATH, PEERS, body_of
from rich.console import Console
from rich.table import Table

from headroom.processes import core_seconds, serving
from headroom.running import manifest_of
from headroom.scheduling import store_schedule
from loadgen.config import RunConfig
from loadgen.errors import HeadroomError
from loadgen.samples import Run, WorkerHealth, check_ledger, create, finish
from planner.ascending import Ascending, ascending
from planner.metrics import latency_row, values_of
from planner.plan import LatencyRow, Quantile
from planner.rows import OK, Stretch
from planner.truth import Log, gap_errors, token_errors, ttft_errors

HERE = Path(__file__).parent
STREAM_WARMUP_S = 3.0  # longer than a stream, so that as many end at any moment as in the long run
END_S = 0.1  # before the end of the arrivals: until then nobody goes home
PLAN_PATIENCE_S = 60.0
DISTURBED = 0.02  # share of the time; above it the load process's own times are not what is measured
CONSOLE = Console(width=170, soft_wrap=True)


class Unmeasurable(HeadroomError):  # noqa: N818 - it says what stands in the way
    """What stands in the way."""


@dataclass(frozen=True)
class Cores:
    """Who runs where."""

    load: int
    server: int
    recorder: int

    @classmethod
    def choose(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if len(cores) < 2:
            raise Unmeasurable("it takes Linux and two cores: one for the load, one for the server")
        return cls(*cores[:2], cores[min(2, len(cores) - 1)])


Of = TypeVar("Of")  # the setting of a benchmark


@dataclass(frozen=True)
class Setting:
    """Where and how long all is measured."""

    cores: Cores
    folder: Path
    seconds: float
    peer_seconds: float
    recorded: int  # requests of the run whose memory is measured
    peers: bool


@dataclass
class Row:
    """One line of the table."""

    work: str
    ours: float
    floor: float
    unit: str = ""
    at_least: bool = False
    peers: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.ours >= self.floor if self.at_least else self.ours <= self.floor

    def times_better(self, peer: float) -> float:
        return self.ours / peer if self.at_least else peer / self.ours


# Processes and what they use.


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started meanwhile runs on that core; its threads and children inherit that."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def start(core: int, command: list[object], **options: Any) -> subprocess.Popen[str]:
    with on_core(core):
        return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, **options)


def peak_mb(pid: int) -> float:
    """The most memory that a process has had resident so far; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) * 1_024 / 1e6 if peak is not None else 0.0


@contextmanager
def peaks_of(pids: dict[str, int], peaks_mb: dict[str, float]) -> Iterator[None]:
    """Keep the peaks of these processes up to date while the context lasts."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            for name, pid in pids.items():
                peaks_mb[name] = max(peaks_mb.get(name, 0.0), peak_mb(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def ground_truth(folder: Path, cores: Cores) -> Iterator[str]:
    """The server's URL; its log is in `folder` afterwards."""
    folder.mkdir(parents=True)
    with ExitStack() as running:
        with on_core(cores.server):
            command = [sys.executable, "-m", "loadgen.ground_truth", str(folder)]
            url = running.enter_context(serving("the server", command))
        yield url


@dataclass(frozen=True)
class Mark:
    """An instant of a run, and the CPU seconds used until then."""

    at_ns: int
    load_s: float
    recorder_s: float
    waited_s: float  # for a core that other programs had


class Load:
    """A load process that plays a fixed request, and its recorder."""

    def __init__(
        self,
        folder: Path,
        url: str,
        scenario: str,
        cores: Cores,
        *,
        place: str | None = None,
        dialect: str = "azure",
        **load: Any,
    ) -> None:
        name = scenario.lower()
        sections = {
            "target": {"url": url, "dialect": dialect},
            "load": {"throttle": "off", "max_in_flight": 10_000, "max_tokens": 100, **load},
            "scenarios": {name: 1},
            "quota": {"tokens_per_minute": 1_000_000_000, "requests_per_minute": 100_000_000},
        }
        config = RunConfig.model_validate(sections)
        manifest = manifest_of(config, {"model_name": "Phi-3-mini-4k-instruct"})
        create(folder, manifest)
        store_schedule(folder, config)
        command = [sys.executable, "-m", "loadgen", folder, f"{name}={place or f'scenarios.fixed:{scenario}'}"]
        self.process = start(cores.load, command, stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if not first:
            raise Unmeasurable(f"the load process ended with {self.process.wait()}")
        self.start_ns = json.loads(first)["monotonic_start_ns"]
        manifest.model_copy(update={"monotonic_start_ns": self.start_ns}).write(folder)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.pids = {"load": self.process.pid, "recorder": int(children.split()[0])}
        for thread in Path(f"/proc/{self.pids['recorder']}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cores.recorder})

    def mark(self, at_s: float) -> Mark:
        """What has been used so long after the run's start."""
        time.sleep(max(0.0, at_s - (monotonic_ns() - self.start_ns) / 1e9))
        now_ns = monotonic_ns() - self.start_ns
        load, recorder = core_seconds(self.pids["load"]), core_seconds(self.pids["recorder"])
        if load is None or recorder is None:
            raise Unmeasurable("the load process or its recorder has ended, or the kernel does not count what they use")
        return Mark(now_ns, load[0], recorder[0], load[1])

    def stop_at(self, requests: int) -> None:
        """Stop the load by hand once it has sent so many."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if json.loads(line).get("sent", 0) >= requests:
                self.process.send_signal(signal.SIGINT)
                return

    def end(self) -> int:
        """Wait for the load's end; the arrivals that it says came due."""
        assert self.process.stdout is not None
        said = [json.loads(line) for line in self.process.stdout]  # its standard input stays open: closing it ends it
        if self.process.wait() != 0:
            raise Unmeasurable(f"the load process ended with {self.process.returncode}")
        self.health = WorkerHealth(**said[-1]["workers"][0])
        return int(said[-1]["planned"])


@dataclass
class Played:
    """A load that has been played, and its measured part."""

    run: Run
    begin: Mark
    end: Mark

    @property
    def measured(self) -> Stretch:
        return Stretch(self.begin.at_ns / 1e9, self.end.at_ns / 1e9)

    def within(self, at_ns: str) -> pl.Expr:
        return pl.col(at_ns).is_between(self.begin.at_ns, self.end.at_ns)

    def per_cpu_s(self, count: int) -> float:
        """So many of the measured part, per CPU second of the load process."""
        return count / (self.end.load_s - self.begin.load_s)

    @property
    def aside(self) -> str:
        seconds = self.measured.seconds
        load = (self.end.load_s - self.begin.load_s) / seconds
        recorder = (self.end.recorder_s - self.begin.recorder_s) / seconds
        waited = (self.end.waited_s - self.begin.waited_s) / seconds
        others = f"; OTHER PROGRAMS KEPT IT WAITING {waited:.0%} of the time" if waited > DISTURBED else ""
        (health,) = self.run.manifest.workers
        hub = f"hub late {health.hub_late_p99_ms:.2g} ms at p99, {health.hub_late_max_ms:.2g} ms at most"
        garbage = f"garbage collected {health.collections} times, {health.longest_collection_ms:.2g} ms at most"
        cores = f"load process {load:.1%} + recorder {recorder:.1%} = {load + recorder:.1%} of a core"
        return f"{cores}; {hub}; {garbage}{others}"


def play(setting: Setting, name: str, url: str, scenario: str, **load: Any) -> Played:
    """Play a load on the server at `url` for as long as the setting says."""
    folder, warmup_s = setting.folder / name, STREAM_WARMUP_S if scenario == "Stream" else 1.0
    duration_s = warmup_s + setting.seconds + END_S
    process = Load(folder, url, scenario, setting.cores, duration=duration_s, warmup=warmup_s, **load)
    try:
        before = process.mark(warmup_s)
        after = process.mark(warmup_s + setting.seconds)
        planned = process.end()
    finally:
        process.process.kill()
    check_ledger(finish(folder, state="complete", workers=[process.health]).totals, planned)
    played = Played(Run.open(folder), before, after)
    failed = played.run.samples.filter(~OK & played.within("sent_ns")).select(pl.col("outcome").value_counts())
    if kinds := failed.collect().to_series().to_list():
        raise Unmeasurable(f"not all was answered: {kinds}")
    return played


def peers_at(setting: Setting, kind: str, url: str, users: int) -> dict[str, dict[str, Any]]:
    """What each peer did at the same work."""
    done = {}
    for peer in PEERS if setting.peers else ():
        warmup_s = STREAM_WARMUP_S if kind == "stream" else 1.0
        command = [sys.executable, HERE / "peers.py", peer, kind, url, users, warmup_s, setting.peer_seconds]
        process = start(setting.cores.load, command, stderr=subprocess.PIPE)
        said, complaint = process.communicate(timeout=60)
        if process.returncode:
            CONSOLE.print(f"  {peer} failed: {complaint.strip().splitlines()[-1]}", markup=False)
            continue
        done[peer] = json.loads(said.splitlines()[-1])
    return done


def wrk_per_cpu_s(setting: Setting, url: str, users: int) -> float:
    """The limit: a client in C that looks at nothing."""
    script = setting.folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{body_of('plain').decode()}'\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
    )
    command = ["wrk", "-t1", f"-c{users}", f"-d{setting.peer_seconds:.0f}s", "-s", script, url + PATH]
    process = start(setting.cores.load, command)
    assert process.stdout is not None
    said = process.stdout.read()
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    requests = re.search(r"(\d+) requests in", said)
    return int(requests[1]) / (used.ru_utime + used.ru_stime) if requests is not None else 0.0


# What is measured.


def plain(setting: Setting) -> list[Row]:
    """Requests answered in one piece, as fast as they go."""
    users = 64
    log = setting.folder / "plain-truth"
    with ground_truth(log, setting.cores) as url:
        played = play(setting, "plain", url, "Plain", users=users)
        peers = {name: done["done"] / done["cpu_s"] for name, done in peers_at(setting, "plain", url, users).items()}
        if setting.peers and shutil.which("wrk"):
            peers["wrk"] = wrk_per_cpu_s(setting, url, users)
    CONSOLE.print(f"plain: {played.aside}", highlight=False)
    done = played.run.samples.filter(played.within("done_ns")).select(pl.len()).collect().item()
    ours = played.per_cpu_s(done)
    return [Row(f"plain requests per CPU-second, {users} users", ours, 40_000, at_least=True, peers=peers)]


def streams(setting: Setting) -> list[Row]:
    return _streams(setting, "streams", 200, 40_000, (0.2, 2.0))


def many(setting: Setting) -> list[Row]:
    return _streams(setting, "many", 1_000, 60_000, (0.3, 5.0))


def _streams(setting: Setting, name: str, users: int, per_cpu_s: float, errors_ms: tuple[float, float]) -> list[Row]:
    log = setting.folder / f"{name}-truth"
    with ground_truth(log, setting.cores) as url:
        played = play(setting, name, url, "Stream", users=users)
        done = peers_at(setting, "stream", url, users) if name == "streams" else {}
    truth = Log.open(log)
    tokens = token_errors(played.run, truth)
    events = tokens.filter(played.within("at_ns"))
    delay = row_of(ascending(events["error_ns"]))
    first = row_of(ttft_errors(played.run, truth, played.measured))
    CONSOLE.print(
        f"{name}: {played.aside}; {delay.n:,} events, from the server's send to our stamp p50 "
        f"{ms(delay.p50):.3f} ms, p99 {ms(delay.p99):.3f} ms; {first.n:,} first tokens",
        highlight=False,
    )
    rates = {peer: each["done"] / each["cpu_s"] for peer, each in done.items()}
    theirs = {peer: peer_errors_ms(each, truth) for peer, each in done.items()}
    ours = played.per_cpu_s(delay.n)
    rows = [Row(f"SSE events per CPU-second, {users:,} streams x 50/s", ours, per_cpu_s, at_least=True, peers=rates)]
    for share, error, floor_ms in zip((0.5, 0.99), (first.p50, first.p99), errors_ms, strict=True):
        peers = {peer: at(errors, share) for peer, errors in theirs.items()}
        work = f"TTFT error p{share * 100:.0f}, {users:,} streams"
        rows.append(Row(work, ms(error), floor_ms, "ms", peers=peers))
    if name == "streams":
        rows.append(
            Row(f"gap error p99, {users} streams", ms(row_of(gap_errors(tokens, played.measured)).p99), 2.0, "ms")
        )
    return rows


def row_of(ascending_ns: Ascending) -> LatencyRow:
    return latency_row("", "", ascending_ns)


def ms(quantile: Quantile) -> float:
    if quantile.value_ms is None:
        raise Unmeasurable(f"fewer than {quantile.needs_n} values do not support a percentile that is asked for")
    return quantile.value_ms


def peer_errors_ms(done: dict[str, Any], log: Log) -> pl.Series:
    seen = pl.DataFrame({"id": list(done["first_token_ns"]), "at_ns": list(done["first_token_ns"].values())})
    joined = seen.lazy().join(log.requests, on="id").collect()
    return (joined["at_ns"] - joined["sent_ns"]) / 1e6


def at(values: pl.Series, share: float) -> float:
    """A percentile; 0 where there are no values."""
    return float(values.quantile(share, "nearest") or 0.0)


def lag(setting: Setting) -> list[Row]:
    """An open loop: how late requests leave."""
    with ground_truth(setting.folder / "lag-truth", setting.cores) as url:
        played = play(setting, "lag", url, "Plain", rate=1_000, arrivals="poisson")
    late = row_of(values_of(played.run, "lag"))
    CONSOLE.print(f"lag: {played.aside}; {late.n:,} requests, at most {late.max_ms:.1f} ms late", highlight=False)
    name = "open-loop lag {} at 1,000 requests/s Poisson"
    return [Row(name.format("p50"), ms(late.p50), 0.1, "ms"), Row(name.format("p99"), ms(late.p99), 1.0, "ms")]


def memory(setting: Setting) -> list[Row]:
    """One run of many requests: the most that each of its processes keeps."""
    folder, peaks_mb = setting.folder / "memory", dict[str, float]()
    with ground_truth(setting.folder / "memory-truth", setting.cores) as url:
        load = Load(folder, url, "Plain", setting.cores, duration=600, warmup=1, users=64)
        try:
            with peaks_of(load.pids, peaks_mb):
                load.stop_at(setting.recorded)
                planned = load.end()
        finally:
            load.process.kill()
    close = "import sys, pathlib, loadgen.samples as s; s.finish(pathlib.Path(sys.argv[1]), state='complete')"
    finishing = start(setting.cores.recorder, [sys.executable, "-c", close, folder])
    with peaks_of({"finish": finishing.pid}, peaks_mb):
        finishing.wait()
    check_ledger(Run.open(folder).manifest.totals, planned)
    planning = start(setting.cores.recorder, [sys.executable, "-m", "headroom", "plan", folder])
    ended = True
    with peaks_of({"plan": planning.pid}, peaks_mb):
        try:
            planning.communicate(timeout=PLAN_PATIENCE_S)
        except subprocess.TimeoutExpired:
            planning.kill()
            ended = False
    each = ", ".join(f"{name} {peak:.0f} MB" for name, peak in peaks_mb.items())
    CONSOLE.print(f"memory: {each}" + ("" if ended else f" (not ended after {PLAN_PATIENCE_S:.0f} s)"), highlight=False)
    return [
        Row(f"peak memory of {name}, {planned:,} requests recorded", peak, 500, "MB") for name, peak in peaks_mb.items()
    ]


PARTS: dict[str, Callable[[Setting], list[Row]]] = {
    "plain": plain,
    "streams": streams,
    "many": many,
    "lag": lag,
    "memory": memory,
}


def table_of(rows: list[Row]) -> Table:
    """Peers stand below the work, so that a line fits into 80 columns where there is no terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("work", "ours", "must reach", "verdict, or times better than"):
        table.add_column(column, justify="right" if column in ("ours", "must reach") else "left", no_wrap=True)
    for row in rows:
        floor = f"{'>=' if row.at_least else '<='} {_number(row.floor)} {row.unit}".rstrip()
        table.add_row(row.work, f"{_number(row.ours)} {row.unit}".rstrip(), floor, "met" if row.met else "MISSED")
        for name, peer in row.peers.items():
            if peer:
                table.add_row(f"  {name}", f"{_number(peer)} {row.unit}".rstrip(), "", _number(row.times_better(peer)))
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def parser_of(doc: str | None, parts: Iterable[str], quick: str) -> argparse.ArgumentParser:
    """The flags that benchmarks of several parts share; `quick` says what that flag does."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--only", choices=list(parts), help="measure this part alone")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--no-peers", action="store_true", help="measure ours alone")
    return parser


def measure(
    parts: Mapping[str, Callable[[Of], list[Row]]], only: str | None, setting_of: Callable[[Cores, Path], Of]
) -> int:
    """Run the parts, or one alone, in a folder of their own, and print their rows; the exit code."""
    rows: list[Row] = []
    try:
        cores = Cores.choose()
        with tempfile.TemporaryDirectory(prefix="headroom-benchmark-") as folder:
            setting = setting_of(cores, Path(folder))
            for name, part in parts.items():
                if only in (None, name):
                    rows += part(setting)
    except HeadroomError as reason:
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 1
    CONSOLE.print()
    CONSOLE.print(table_of(rows))
    return 0


def main(arguments: list[str]) -> int:
    given = parser_of(__doc__, PARTS, "shorter, and a tenth of the requests for memory").parse_args(arguments)
    seconds, peer_seconds, recorded = (5.0, 2.0, 100_000) if given.quick else (6.0, 3.0, 1_000_000)

    def setting_of(cores: Cores, folder: Path) -> Setting:
        return Setting(cores, folder, seconds, peer_seconds, recorded, peers=not given.no_peers)

    return measure(PARTS, given.only, setting_of)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
