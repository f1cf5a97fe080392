"""What it costs to spread a load over processes, and what a hundred workers would cost their master.

    python benchmarks/distributed.py [--quick]

Plain requests of a closed loop of 256 users, as fast as they go, by one process and by a master with two and four
workers: per second of CPU time of all Headroom processes together, recorders and master included, all of them on one
core and the server on another, from when each of them has started. Then a real master with a hundred workers that only
talk: they beat, tell their progress, take what they are dealt, and ask for and settle the quota of each arrival, as
real ones do. Counted are the bytes on the wire and the master's CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from heapq import heappop, heappush
from pathlib import Path
from time import monotonic_ns
from typing import Any

import polars as pl
import zmq
from locust import __version__ as locust_version
from locust.rpc import Message
from wire import CONSOLE, Cores, Unmeasurable, ground_truth, on_core

from headroom.processes import core_seconds
from headroom.running import manifest_of
from headroom.scheduling import store_schedule
from loadgen.config import RunConfig
from loadgen.samples import create
from loadgen.spread.channel import VERSIONS
from loadgen.spread.dealing import unpacked
from loadgen.spread.roster import BEAT_S

USERS = 256  # of the load, however many processes play it
LEAST_RATIO = 0.85
WARMUP_S = 4.0  # the recorders' first files among it, for which each loads what writes them
FAKES = 100
RATE_PER_WORKER = 20
LEAD_NS, ANSWER_NS = 250_000_000, 500_000_000  # before it is due a worker asks; so long after its answer is in
PLAIN = "plain=scenarios.fixed:Plain"


def folder_of(path: Path, url: str, **load: Any) -> Path:
    sections = {
        "target": {"url": url},
        "load": {"max_in_flight": 10_000, "max_tokens": 100, **load},
        "scenarios": {"plain": 1},
        "quota": {"tokens_per_minute": 1_000_000_000, "requests_per_minute": 10_000_000},
    }
    config = RunConfig.model_validate(sections)
    create(path, manifest_of(config, {"model_name": "Phi-3-mini-4k-instruct"}))
    store_schedule(path, config)
    return path


def start_load(folder: Path, core: int) -> subprocess.Popen[str]:
    with on_core(core):
        command = [sys.executable, "-m", "loadgen", str(folder), PLAIN]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def tree(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            yield from tree(int(child))


def used_s(pid: int) -> float:
    return sum(used[0] for each in tree(pid) if (used := core_seconds(each)) is not None)


def per_cpu_s(path: Path, url: str, cores: Cores, processes: int, seconds: float) -> float:
    """Plain requests per CPU-second of all processes of a load."""
    duration_s = WARMUP_S + seconds + 0.5
    load = {
        "users": USERS,
        "duration": duration_s,
        "warmup": WARMUP_S,
        "throttle": "off",
        "processes": processes,
    }
    folder = folder_of(path, url, **load)
    process = start_load(folder, cores.load)
    assert process.stdout is not None
    started = json.loads(process.stdout.readline())
    marks = []
    for at_s in (WARMUP_S, WARMUP_S + seconds):
        time.sleep(max(0.0, at_s - (monotonic_ns() - started["monotonic_start_ns"]) / 1e9))
        marks.append((monotonic_ns() - started["monotonic_start_ns"], used_s(process.pid)))
    for _ in process.stdout:
        pass
    if process.wait() != 0:
        raise Unmeasurable(f"the load process ended with {process.returncode}")
    (first_ns, first_s), (last_ns, last_s) = marks
    rows = pl.scan_parquet(sorted((folder / "parts").glob("samples-*.parquet")), glob=False)
    done = rows.filter(pl.col("done_ns").is_between(first_ns, last_ns) & (pl.col("outcome") == "ok"))
    return float(done.select(pl.len()).collect().item() / (last_s - first_s))


def spread(path: Path, cores: Cores, seconds: float, rounds: int) -> bool:
    """One process, two and four, in turn; whether spreading costs as little as it should."""
    found: dict[int, list[float]] = {1: [], 2: [], 4: []}
    with ground_truth(path / "truth", cores) as url:
        for turn in range(rounds):
            for processes, rates in found.items():
                rates.append(per_cpu_s(path / f"run-{processes}-{turn}", url, cores, processes, seconds))
    cheap = True
    for processes, rates in found.items():
        ratios = [rate / one for rate, one in zip(rates, found[1], strict=True)]  # of a round: the speed varies
        ratio = statistics.median(ratios)
        cheap = cheap and ratio >= LEAST_RATIO
        CONSOLE.print(
            f"{processes} workers: {statistics.median(rates):,.0f} plain requests per CPU-second of all processes, "
            f"{ratio:.2f} of one process's (rounds: {', '.join(f'{each:.2f}' for each in ratios)})"
        )
    return cheap


class Fake:
    """A worker that only talks."""

    def __init__(self, context: zmq.Context[Any], port: int, number: int) -> None:
        self.name = f"fake-{number}"
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, self.name.encode())
        self.socket.connect(f"tcp://127.0.0.1:{port}")
        self.sent_bytes = self.got_bytes = self.messages = 0
        self.ask: list[int] = []
        self.settle: list[int] = []
        self.due: list[tuple[int, str, int]] = []  # when (since the start), ask or settle, which
        self.beat_ns = self.tell_ns = 0
        self.say("client_ready", locust_version)
        self.say("headroom.hello", {"versions": VERSIONS, "host": self.name, "pid": number, "key": None})

    def say(self, kind: str, data: Any) -> None:
        content = Message(kind, data, self.name).serialize()
        self.sent_bytes += len(content)
        self.messages += 1
        self.socket.send(content)

    def read(self) -> int | None:
        """What has come; the run's start where it was told."""
        start_ns = None
        while self.socket.poll(0):
            content = self.socket.recv()
            self.got_bytes += len(content)
            message = Message.unserialize(content)
            if message.type == "headroom.welcome":
                self.say("headroom.ready", {"clock": {"offset_ns": 0, "uncertainty_ns": 0}})
            elif message.type == "headroom.start":
                start_ns = message.data["start_ns"]
            elif message.type == "headroom.deal" and message.data is not None:
                for arrival in unpacked(message.data):
                    heappush(self.due, (arrival.due_ns - LEAD_NS, "ask", arrival.seq))
        return start_ns

    def act(self, now_ns: int) -> None:
        """Beat, tell, ask and settle as a worker does; `now_ns` counts from the run's start."""
        if now_ns >= self.beat_ns:
            self.beat_ns = now_ns + round(BEAT_S * 1e9)
            self.say("headroom.beat", {"sent_ns": now_ns})
        if now_ns >= self.tell_ns:
            self.tell_ns = now_ns + 1_000_000_000
            told = dict.fromkeys(("sent", "in_flight", "waiting", "ok", "failed", "throttled", "dropped"), 12_345)
            told |= dict.fromkeys(("tokens", "tokens_per_minute", "requests_per_minute"), 1_234_567)
            outcomes = {"outcomes": {"ok": 12_345}, "t_s": 12.345, "duration_s": 60.0, "ttft_p50_ms": 123.4}
            self.say("headroom.progress", told | outcomes)
            self.say("heartbeat", {"state": "ready", "current_cpu_usage": 12.3, "current_memory_usage": 123_456_789})
        while self.due and self.due[0][0] <= now_ns:
            due_ns, what, number = heappop(self.due)
            if what == "ask":
                self.ask += (number, due_ns + LEAD_NS, 200)
                heappush(self.due, (due_ns + LEAD_NS + ANSWER_NS, "settle", number))
            else:
                self.settle += (number, 150)
        if self.ask or self.settle:
            letter = {"ask": self.ask, "settle": self.settle, "release": len(self.settle) // 2}
            self.say("headroom.desk", {"target": 0, "letter": {key: value for key, value in letter.items() if value}})
            self.ask, self.settle = [], []


def control(path: Path, cores: Cores, seconds: float) -> None:
    """A master with workers that only talk: bytes and CPU of the master, by worker."""
    port = 15_557
    load = {"rate": FAKES * RATE_PER_WORKER, "duration": seconds + 4, "warmup": 0.5}
    load |= {"master": True, "workers": FAKES, "bind": f"127.0.0.1:{port}"}
    process = start_load(folder_of(path, "http://127.0.0.1:9", **load), cores.load)
    try:
        context: zmq.Context[Any] = zmq.Context()
        fakes = [Fake(context, port, number) for number in range(FAKES)]
        start_ns = None
        begin: tuple[int, float, int, int, int] | None = None
        while True:
            starts = [fake.read() for fake in fakes]
            start_ns = start_ns or next(filter(None, starts), None)
            now_ns = monotonic_ns() - (start_ns or monotonic_ns())
            if start_ns is not None:
                for fake in fakes:
                    fake.act(now_ns)
            used = core_seconds(process.pid)
            if used is None:
                raise Unmeasurable(f"the master ended with {process.wait()}")
            sums = [sum(getattr(fake, name) for fake in fakes) for name in ("sent_bytes", "got_bytes", "messages")]
            mark = (now_ns, used[0], *sums)
            if begin is None and now_ns > 2e9:
                begin = mark
            if begin is not None and now_ns > 2e9 + seconds * 1e9:
                break
            time.sleep(0.005)
    finally:
        process.kill()
    lasted_s = (mark[0] - begin[0]) / 1e9
    cpu = (mark[1] - begin[1]) / lasted_s
    up, down, messages = ((mark[i] - begin[i]) / lasted_s / FAKES for i in (2, 3, 4))
    CONSOLE.print(
        f"{FAKES} workers at {RATE_PER_WORKER} requests/s each: a worker sends {up:,.0f} bytes/s in {messages:.0f} "
        f"messages/s and gets {down:,.0f} bytes/s; the master takes {cpu:.1%} of a core, {cpu / FAKES:.2%} a worker"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args(arguments)
    seconds, rounds = (3.0, 1) if asked.quick else (8.0, 5)
    cores = Cores.choose()
    with tempfile.TemporaryDirectory() as folder:
        cheap = spread(Path(folder), cores, seconds, rounds)
        control(Path(folder) / "control", cores, seconds)
    return 0 if cheap else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
