"""The simulated deployment: how much one core of it serves, and how late its tokens leave.

    python benchmarks/simulator.py [--only streams|plain] [--quick] [--no-peers] [--guidellm PATH]

The server has one core to itself; the load process and its recorder share another. The load is our own, played by way
of `python -m loadgen` as in wire.py. Rates are per second of the wall: what one core of the server brought forth.

How late a token is: without jitter and load terms, token k (from 0) of a stream is due (k + 1) x ITL after the request
was admitted. The client cannot see that instant, but it stamps the request right before it sends it, which is earlier.
So stamp + (k + 1) x ITL is the earliest at which the token can be due: what its arrival is later than that holds the
way of the request, the server's lateness, the way back and the client's own delay. It is an upper bound, and a token
that is early would be a defect. Arrivals are Poisson, so that the tokens of the streams fall at independent instants.

Beside it stand a limit (bare.py: the same bytes without anything simulated) and, where it is installed, guidellm's
mock server, which does the same work.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from peers import PATH, body_of
from wire import (
    CONSOLE,
    DISTURBED,
    END_S,
    HERE,
    STREAM_WARMUP_S,
    Cores,
    Load,
    Mark,
    Row,
    Unmeasurable,
    measure,
    ms,
    on_core,
    parser_of,
    row_of,
    start,
)

from headroom.processes import core_seconds
from loadgen.samples import Run, check_ledger, finish
from planner.ascending import ascending
from planner.rows import OK

STREAMS = 500
TOKENS = 100  # of each answer, as the scenarios of fixed.py limit it
USERS = 64
EVENTS_PER_S = (25_000, 30_000, 35_000, 40_000, 45_000)
LATE_MS = 5.0
TRIES = 3
EARLY_NS = 1_000  # the record keeps gaps in whole microseconds
START_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Setting:
    """Where and how long all is measured. `guidellm` is its program; None where there is none."""

    cores: Cores
    folder: Path
    seconds: float
    peers: bool
    guidellm: str | None


@dataclass(frozen=True)
class Server:
    """Who answers: its process, and how it is spoken to."""

    pid: int
    url: str
    dialect: str = "azure"


@dataclass(frozen=True)
class Played:
    """A load that has been played; `begin` and `end` are the measured part, with the server's core seconds."""

    run: Run
    begin: Mark
    end: Mark
    server_s: tuple[float, float]  # that the server ran, and that it waited for its core

    @property
    def seconds(self) -> float:
        return (self.end.at_ns - self.begin.at_ns) / 1e9

    def within(self, at_ns: str) -> pl.Expr:
        return pl.col(at_ns).is_between(self.begin.at_ns, self.end.at_ns)

    def check(self) -> None:
        """Raises Unmeasurable unless all that was sent was answered."""
        failed = self.run.samples.filter(~OK).select(pl.col("outcome").value_counts()).collect().to_series()
        if len(failed):
            raise Unmeasurable(f"not all was answered: {failed.to_list()}")

    def per_core(self, per_s: float) -> str:
        """A rate, and what it would be if the server had had its core to itself all the time."""
        return f"{per_s:,.0f}/s ({per_s * self.seconds / self.server_s[0]:,.0f} per CPU-second of the server)"

    @property
    def aside(self) -> str:
        load = (self.end.load_s - self.begin.load_s) / self.seconds
        recorder = (self.end.recorder_s - self.begin.recorder_s) / self.seconds
        waits = (self.server_s[1] / self.seconds, (self.end.waited_s - self.begin.waited_s) / self.seconds)
        others = f"; SERVER AND LOAD WAITED {waits[0]:.0%} AND {waits[1]:.0%}" if max(waits) > DISTURBED else ""
        return (
            f"server {self.server_s[0] / self.seconds:.0%}, load {load:.0%} + recorder {recorder:.0%} of a core{others}"
        )


# The servers.


@contextmanager
def announced(setting: Setting, command: list[object]) -> Iterator[Server]:
    """A server that says its URL in a line of JSON and ends with its standard input."""
    with start(setting.cores.server, command, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise Unmeasurable(f"{command[1:3]} ended with {process.wait()}")
            yield Server(process.pid, json.loads(line)["url"])
        finally:
            process.stdin.close()
            process.wait(START_PATIENCE_S)


def simulated(itl_ms: float) -> list[object]:
    """The command of a deployment whose tokens are all due at known instants. Its quota refuses nothing."""
    quiet = ("ttft_per_prompt_token_ms", "ttft_per_running_ms", "ttft_sigma", "itl_per_running_ms", "itl_sigma")
    model = {"ttft_base_ms": itl_ms, "itl_base_ms": itl_ms, **dict.fromkeys(quiet, 0)}
    model |= {"completion_mean_tokens": TOKENS, "completion_sigma": 0}
    serving = [word for name, value in model.items() for word in ("--serving", f"{name}={value}")]
    quota = ["--tpm", 1_000_000_000, "--rpm", 100_000_000]
    return [sys.executable, "-m", "loadgen.simulator", "--until-eof", *quota, *serving]


def bare(setting: Setting, kind: str) -> list[object]:
    """The command of the limit, which sends what the simulated deployment has just sent."""
    file = setting.folder / f"bare-{kind}"
    with announced(setting, simulated(0)) as server:
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(server.url + PATH, body_of(kind), headers)
        with urllib.request.urlopen(request, timeout=START_PATIENCE_S) as answer:
            file.write_bytes(answer.read())
    return [sys.executable, HERE / "bare.py", file]


@contextmanager
def mocked(setting: Setting, itl_ms: float) -> Iterator[Server]:
    """guidellm's mock server, with the same answer lengths and times as `simulated`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"host": "127.0.0.1", "port": port, "workers": 1, "request-latency": 0, "ttft-ms": itl_ms}
    options |= {"itl-ms": itl_ms, "output-tokens": TOKENS, "model": "mock"}
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    # It logs each request to its standard output and has no option that would stop it: to a file, lest it waits for us.
    with (setting.folder / "guidellm.log").open("w") as log, on_core(setting.cores.server):
        command = [str(setting.guidellm), "mock-server", *map(str, flags)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, process)
        yield Server(process.pid, f"http://127.0.0.1:{port}", "openai")
    finally:
        process.terminate()
        process.wait(START_PATIENCE_S)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unmeasurable("guidellm's mock server did not start") from None
            time.sleep(0.1)


# The load.


def play(setting: Setting, server: Server, scenario: str, warmup_s: float, **load: object) -> Played:
    """Play a load on the server for as long as the setting says."""
    load |= {"duration": warmup_s + setting.seconds + END_S, "warmup": warmup_s}
    folder = Path(tempfile.mkdtemp(dir=setting.folder)) / "run"
    process = Load(folder, server.url, scenario, setting.cores, dialect=server.dialect, **load)
    try:
        begin, before = process.mark(warmup_s), core_seconds(server.pid)
        end, after = process.mark(warmup_s + setting.seconds), core_seconds(server.pid)
        planned = process.end()
    finally:
        process.process.kill()
    if before is None or after is None:
        raise Unmeasurable("the server has ended, or the kernel does not count what it uses")
    check_ledger(finish(folder, state="complete", workers=[process.health]).totals, planned)
    return Played(Run.open(folder), begin, end, (after[0] - before[0], after[1] - before[1]))


def lateness(played: Played, itl_ms: float) -> pl.DataFrame:
    """Of every token of the answered streams: at_ns, and error_ns, how far that is behind its earliest due time."""
    streams = played.run.samples.filter(OK & (pl.col("chunks") > 0))
    gaps = played.run.chunks.join(streams, on=["seq", "attempt"], maintain_order="left")
    since_first_ns = (pl.col("gap_us").cast(pl.Int64) * 1_000).cum_sum().over("seq", "attempt")
    number = pl.int_range(1, pl.len() + 1).over("seq", "attempt")
    later = gaps.select("sent_ns", number=number, at_ns=pl.col("first_token_ns") + since_first_ns)
    tokens = pl.concat([streams.select("sent_ns", number=pl.lit(0, pl.Int64), at_ns="first_token_ns"), later])
    due_ns = pl.col("sent_ns") + (pl.col("number") + 1) * round(itl_ms * 1e6)
    return tokens.select("at_ns", error_ns=pl.col("at_ns") - due_ns).collect()


def check_tokens(run: Run, tokens: pl.DataFrame) -> None:
    """Raises Unmeasurable if a stream lost a token or had one too many, or if one came before it was due."""
    wrong = run.samples.select(pl.col("chunks").cast(pl.Int64) - TOKENS).collect().to_series()
    if (wrong != 0).any():
        lost, extra = -wrong.clip(upper_bound=0).sum(), wrong.clip(lower_bound=0).sum()
        raise Unmeasurable(f"{lost:,} tokens were lost and {extra:,} were too many")
    if (earliest_ns := tokens["error_ns"].min()) < -EARLY_NS:
        raise Unmeasurable(f"a token came {-earliest_ns / 1e6:.3f} ms before it was due")


# What is measured.


def streams(setting: Setting) -> list[Row]:
    """Open-loop streams that end as fast as they begin: the most events of which 99 in 100 arrive in time."""
    best = None
    for events_per_s in EVENTS_PER_S:
        for _ in range(TRIES):
            found = _paced(setting, events_per_s)
            if found[2] <= LATE_MS:
                break  # else other programs may have been the reason
        if best is None or found[2] <= LATE_MS:
            best = found
        if found[2] > LATE_MS:
            break
    assert best is not None
    peers = _unpaced(setting) if setting.peers else {}
    work = f"SSE events/s of one core, {STREAMS} streams"
    return [
        Row(work, best[0], 0.98 * EVENTS_PER_S[0], at_least=True, peers=peers),  # arrivals are random
        Row("  how late they arrive, p50", best[1], LATE_MS, "ms"),
        Row("  how late they arrive, p99", best[2], LATE_MS, "ms"),
    ]


def _paced(setting: Setting, events_per_s: int) -> tuple[float, float, float]:
    """Events a second as served, and how late they came at p50 and p99, in ms."""
    itl_ms = STREAMS / events_per_s * 1e3
    lasts_s = TOKENS * itl_ms / 1e3
    with announced(setting, simulated(itl_ms)) as server:
        played = play(setting, server, "Stream", lasts_s + 1.0, rate=STREAMS / lasts_s, arrivals="poisson")
    played.check()
    tokens = lateness(played, itl_ms)
    check_tokens(played.run, tokens)
    late = row_of(ascending(tokens.filter(played.within("at_ns"))["error_ns"]))
    served = late.n / played.seconds
    CONSOLE.print(
        f"streams, a token each {itl_ms:.4g} ms: events {played.per_core(served)}, late by p50 {ms(late.p50):.3f} "
        f"ms, p99 {ms(late.p99):.3f} ms, at most {late.max_ms:.1f} ms; none lost, extra or early of {len(tokens):,}; "
        f"{played.aside}",
        highlight=False,
    )
    return served, ms(late.p50), ms(late.p99)


def _unpaced(setting: Setting) -> dict[str, float]:
    """Events a second of the limit, and of guidellm's mock server; as many streams, each asked for again at once."""
    found = {}
    with announced(setting, bare(setting, "stream")) as server:
        found["bare uvicorn app, unpaced"] = _streamed(setting, "bare streams", server)
    if setting.guidellm is not None:
        with mocked(setting, STREAMS / EVENTS_PER_S[0] * 1e3) as server:
            found["guidellm mock-server"] = _streamed(setting, "guidellm streams", server)
    return found


def _streamed(setting: Setting, name: str, server: Server) -> float:
    played = play(setting, server, "Stream", STREAM_WARMUP_S, users=STREAMS)
    served = lateness(played, 0).filter(played.within("at_ns")).height / played.seconds
    CONSOLE.print(f"{name}: events {played.per_core(served)}; {played.aside}", highlight=False)
    return served


def plain(setting: Setting) -> list[Row]:
    """Answers of 100 tokens in one piece, with no time to wait for: what a request costs."""
    with announced(setting, simulated(0)) as server:
        ours = _answered(setting, "plain", server)
    peers = {}
    if setting.peers:
        with announced(setting, bare(setting, "plain")) as server:
            peers["bare uvicorn app"] = _answered(setting, "bare plain", server)
    if setting.peers and setting.guidellm is not None:
        with mocked(setting, 0) as server:
            peers["guidellm mock-server"] = _answered(setting, "guidellm plain", server)
    return [Row(f"plain requests/s of one core, {USERS} users", ours, 3_000, at_least=True, peers=peers)]


def _answered(setting: Setting, name: str, server: Server) -> float:
    played = play(setting, server, "Plain", 1.0, users=USERS)
    played.check()
    done = played.run.samples.filter(played.within("done_ns")).select(pl.len()).collect().item() / played.seconds
    CONSOLE.print(f"{name}: requests {played.per_core(done)}; {played.aside}", highlight=False)
    return done


PARTS: dict[str, Callable[[Setting], list[Row]]] = {"streams": streams, "plain": plain}


def main(arguments: list[str]) -> int:
    parser = parser_of(__doc__, PARTS, "shorter")
    parser.add_argument("--guidellm", metavar="PATH", default="guidellm", help="its program, if it is not on the PATH")
    given = parser.parse_args(arguments)
    guidellm = shutil.which(given.guidellm)
    if guidellm is None and not given.no_peers:
        CONSOLE.print("guidellm: not installed, so its mock server is not measured")

    def setting_of(found: Cores, folder: Path) -> Setting:
        cores = Cores(found.load, found.server, recorder=found.load)
        return Setting(cores, folder, 3.0 if given.quick else 6.0, not given.no_peers, guidellm)

    return measure(PARTS, given.only, setting_of)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
