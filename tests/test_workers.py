"""Runs of several processes: one record, one quota, one schedule, whatever their number."""

import json
import re
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from pydantic import ValidationError

from loadgen.config import LoadConfig
from loadgen.samples import Run, check_ledger
from loadgen.schedule import drawn
from tests.commands import environment, headroom, side_by_side, start, start_of
from tests.workers import LoggingServer, free_port, refusals, start_worker

RATE, RPM, SECONDS, SEED = 40, 1_200, 3, 5
LOAD = ["--scenario", "chat", "--duration", f"{SECONDS}s", "--warmup", "0s", "--seed", SEED, "--max-tokens", 4]
LONG = {"rate": 15, "duration": 8}  # a third worker comes up meanwhile, on a busy machine too
PACED = ["--rate", f"{RATE}/s", "--rpm", RPM, "--tpm", 100_000_000, "--quiet", "--no-report"]


def play_spread(cwd):
    """A run of two processes that offers twice the quota, and the server's log of it."""
    with LoggingServer() as server:
        headroom(cwd, "run", "--target", server.url, *LOAD, *PACED, "--processes", 2, "--out", "run")
    return Run.open(cwd / "run"), server


def play_budget(cwd):
    """A run of two processes many of whose requests wait for the quota when the budget is used up."""
    began = time.monotonic()
    with LoggingServer() as server:
        load = ["--scenario", "chat", "--rate", "100/s", "--duration", "20s", "--warmup", "0s", "--max-tokens", 4]
        limits = ["--rpm", 600, "--tpm", 100_000_000, "--budget-requests", 20]
        spread = ["--processes", 2, "--quiet", "--no-report", "--out", "run"]
        done = headroom(cwd, "run", "--target", server.url, *load, *limits, *spread)
    return done, Run.open(cwd / "run").manifest, server, time.monotonic() - began


def play_shipped(cwd):
    """A run of a master and two workers with folders of their own, one of which is told to end half-way."""
    port = free_port()
    for name in ("here", "there"):
        (cwd / name).mkdir()
    with LoggingServer() as server:
        master = ["--master", "--bind", f"127.0.0.1:{port}", "--workers", 2, "--out", "run"]
        load = [*LOAD, *PACED, "--rate", f"{LONG['rate']}/s", "--duration", f"{LONG['duration']}s"]
        run = start(cwd, "run", "--target", server.url, *load, *master)
        workers = [start_worker(cwd / name, port, "--out", "kept") for name in ("here", "there")]
        start_ns = start_of(cwd / "run")
        late = start_worker(cwd, port)
        time.sleep(max(0.0, start_ns / 1e9 + 1.5 - time.monotonic()))
        workers[0].send_signal(signal.SIGINT)
        told = late.communicate(timeout=60), late.returncode
        printed = run.communicate(timeout=60)
        ends = [(worker.communicate(timeout=60), worker.returncode) for worker in workers]
    return cwd, server, printed[1], ends, told


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What came of each, played side by side."""
    plays = {play: tmp_path_factory.mktemp("run") for play in (play_spread, play_budget, play_shipped)}
    return dict(zip(plays, side_by_side(lambda play: play(plays[play]), plays), strict=True))


@pytest.fixture
def spread(played):
    return played[play_spread]


@pytest.fixture
def shipped(played):
    return played[play_shipped]


def test_two_processes_play_the_schedule_of_one(spread):
    run, server = spread
    samples = run.samples.sort("seq").collect()
    schedule = list(drawn("poisson", RATE, SECONDS, {"chat": 1}, SEED))
    assert samples["seq"].to_list() == [arrival.seq for arrival in schedule]
    assert samples["due_ns"].to_list() == [arrival.due_ns for arrival in schedule]
    assert (samples["seq"] % 2 == samples["worker"]).all(), "each sends what it was dealt"
    assert sorted(server.seqs()) == [arrival.seq for arrival in schedule], "and the server saw each once"


def test_the_ledger_of_two_processes_adds_up(spread):
    run, _ = spread
    check_ledger(run.manifest.totals)
    assert run.manifest.totals["sent"] == run.manifest.totals["planned"]
    assert (run.manifest.state, run.manifest.degraded) == ("complete", [])
    assert not (run.folder / "parts").exists()


def test_two_processes_keep_to_one_quota_however_it_is_enforced(spread):
    run, server = spread
    assert refusals(server.log, RPM, 10) == {}
    waits = run.samples.select((pl.col("admitted_ns") - pl.col("due_ns")).max()).collect().item()
    assert waits > 1_000_000_000, "the quota was tried"
    first_ns, last_ns = server.log[0][0], server.log[-1][0]
    assert len(server.log) > 0.9 * RPM / 60 * (last_ns - first_ns) / 1e9, "and used"


def test_each_worker_says_how_it_fared(spread):
    run, _ = spread
    assert len(run.manifest.workers) == 2
    assert len({worker.pid for worker in run.manifest.workers}) == 2
    assert all(worker.seconds > 0 and worker.cpu_share is not None for worker in run.manifest.workers)
    assert all((worker.offset_ns, worker.uncertainty_ns) == (0, 0) for worker in run.manifest.workers)


def test_a_budget_of_two_processes_is_spent_to_the_last_request_and_ends_them_at_once(played):
    done, manifest, server, seconds = played[play_budget]
    assert (done.returncode, len(server.log)) == (111, 20), done.stderr
    assert manifest.budget == {"requests": {"used": 20, "limit": 20}}
    check_ledger(manifest.totals)
    assert seconds < manifest.config["load"]["drain"], "nobody waited for those that were sent home"


def test_what_workers_ship_is_one_record_and_their_copies_go(shipped):
    cwd, server, _, ends, _ = shipped
    run = Run.open(cwd / "run")
    check_ledger(run.manifest.totals)
    rows = run.samples.collect()
    assert sorted(rows["worker"].unique()) == [0, 1]
    sent = rows.filter(pl.col("outcome") != "dropped")["seq"].to_list()
    assert sorted(server.seqs()) == sent
    assert [code for _, code in ends] == [105, 0], ends
    assert [(cwd / name / "kept").exists() for name in ("here", "there")] == [False, False]


def test_the_schedule_is_whole_although_a_worker_left(shipped):
    cwd, _, _, _, _ = shipped
    run = Run.open(cwd / "run")
    schedule = list(drawn("poisson", LONG["rate"], LONG["duration"], {"chat": 1}, SEED))
    assert run.samples.sort("seq").collect()["seq"].to_list() == [arrival.seq for arrival in schedule]
    assert run.manifest.state == "complete"
    assert len(run.manifest.degraded) == 1 and "stopped by hand" in run.manifest.degraded[0]
    summary = json.loads((run.folder / "summary.json").read_text())
    assert run.manifest.degraded[0] in summary["validity"]["doubts"]


def test_a_worker_that_comes_late_is_refused_on_both_sides(shipped):
    _, _, printed, _, (late, code) = shipped
    assert code == 2
    looking, refusal = late[1].splitlines()
    assert re.fullmatch(r"waiting for a master at 127.0.0.1:\d+, 5 minutes at most", looking)
    assert refusal == "the master refused this worker: the load has begun: a worker must be there before it does"
    assert "was refused: the load has begun" in printed


def test_a_worker_that_waits_for_its_master_is_ended_by_a_signal(tmp_path):
    waiting = start(tmp_path, "worker", "--connect", "127.0.0.1:9")
    assert "waiting for a master" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    assert (waiting.wait(20), waiting.stderr.read()) == (105, "")


SCENARIO = """
from loadgen.users import DeploymentUser
from loadgen.requests import chat


class Mine(DeploymentUser):
    def request(self, arrival):
        return chat(self.scenario, [{"role": "user", "content": "hello"}], max_tokens=4)
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param("none of it", "mine.py is not on", marks=pytest.mark.long),
        pytest.param("another", "mine.py on", marks=pytest.mark.long),
        ("no key", "environment variable THE_KEY"),
    ],
)
def test_what_a_worker_lacks_ends_the_run_before_anything_is_sent(tmp_path, change, words):
    port = free_port()
    for name in ("master", "worker"):
        (tmp_path / name).mkdir()
    (tmp_path / "master" / "mine.py").write_text(SCENARIO)
    if change != "none of it":
        (tmp_path / "worker" / "mine.py").write_text(SCENARIO + ("# edited\n" if change == "another" else ""))
    with LoggingServer() as server:
        command = ["run", "--target", server.url, "--scenario", "mine.py:Mine", "--rate", "5/s", "--duration", "6s"]
        command += ["--key", "env:THE_KEY", "--master", "--bind", f"127.0.0.1:{port}", "--out", "run"]
        run = subprocess.Popen(
            [sys.executable, "-m", "headroom", *command], cwd=tmp_path / "master", text=True,
            env=environment(THE_KEY="k" * 32), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        worker = start_worker(tmp_path / "worker", port, **({} if change == "no key" else {"THE_KEY": "k" * 32}))
        told, said = worker.communicate(timeout=60)[1], run.communicate(timeout=60)[1]
    assert (run.returncode, worker.returncode) == (2, 2), (said, told)
    assert words in said and words in told
    assert server.log == []
    assert not (tmp_path / "master" / "run").exists() and not list(tmp_path.glob("worker/runs/*"))


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({"processes": 0}, "processes must be 1 or more"),
        ({"master": True, "processes": 2}, "a master starts no processes of its own"),
        ({"master": True, "bind": "5557"}, "is not HOST:PORT"),
    ],
)
def test_keys_that_make_no_sense_together_are_refused(load, words):
    with pytest.raises(ValidationError, match=words):
        LoadConfig(**load)


def test_an_address_that_is_not_this_machines_ends_the_run_before_it_begins(tmp_path):
    with LoggingServer() as server:
        load = ["--target", server.url, "--rate", "1/s", "--duration", "6s"]
        done = headroom(tmp_path, "run", *load, "--master", "--bind", "192.0.2.1:5557")
    assert (done.returncode, "cannot be listened at" in done.stderr) == (2, True), done.stderr
