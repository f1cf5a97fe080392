"""Workers that are killed, frozen or left alone: nothing shipped is lost, nothing is counted twice, no quota exceeded."""

import os
import random
import signal
import time

import polars as pl
import pytest

from loadgen.samples import Run, check_ledger
from tests.commands import headroom, start, start_of
from tests.workers import NS_PER_S, LoggingServer, free_port, processes_of, refusals, start_worker

RATE, RPM = 60, 2_400


def begin(cwd, server, workers, seconds, *more):
    """A run that offers half as much again as its quota."""
    load = ["--scenario", "chat", "--rate", f"{RATE}/s", "--duration", f"{seconds}s", "--warmup", "0s"]
    quota = ["--rpm", RPM, "--tpm", 100_000_000, "--max-tokens", 4]
    spread = more or ["--processes", workers]
    return start(cwd, "run", "--target", server.url, *load, *quota, *spread, "--out", "run", "--quiet", "--no-report")


def begin_remote(cwd, server, names):
    """Likewise, of a master and workers with folders of these names: its process, and theirs."""
    port = free_port()
    run = begin(cwd, server, None, 20, "--master", "--bind", f"127.0.0.1:{port}", "--workers", len(names))
    for name in names:
        (cwd / name).mkdir()
    return run, [start_worker(cwd / name, port, "--out", "kept") for name in names]


def wait_until(at_ns):
    time.sleep(max(0.0, (at_ns - time.monotonic_ns()) / NS_PER_S))


def check_whole(run, server):
    """The ledger adds up; what the server never saw is dropped, and what is dropped was sent at most by the lost one."""
    check_ledger(run.manifest.totals)
    rows = run.samples.collect()
    dropped = rows.filter(pl.col("outcome") == "dropped")
    recorded = set(rows.filter(pl.col("outcome") != "dropped")["seq"].to_list())
    seen = server.seqs()
    assert len(seen) == len(set(seen)), "no arrival was sent twice"
    assert recorded <= set(seen)
    assert set(seen) - recorded <= set(dropped.filter(pl.col("error") == "worker_lost")["seq"].to_list())
    return len(set(seen) - recorded)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_a_killed_worker_costs_at_most_its_last_second(tmp_path, seed):
    killed_s = random.Random(seed).uniform(1.0, 6.0)
    with LoggingServer() as server:
        run = begin(tmp_path, server, 4, 12)
        start_ns = start_of(tmp_path / "run")
        wait_until(start_ns + round(killed_s * NS_PER_S))
        os.kill(random.Random(seed).choice(processes_of(run.pid, "loadgen.spread.worker")), signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        run.communicate(timeout=120)
    opened = Run.open(tmp_path / "run")
    assert opened.manifest.state == "complete"
    assert len(opened.manifest.degraded) == 1 and "its process ended with -9" in opened.manifest.degraded[0]
    unrecorded = check_whole(opened, server)
    assert unrecorded <= 1.25 * RPM / 60 / 4 + 2, "its recorder outlives it"
    share = server.between(killed_ns + 5 * NS_PER_S, killed_ns + 7 * NS_PER_S) / (2 * RPM / 60)
    assert share > 0.9, "the others use the quota again"
    assert refusals(server.log, RPM, 10) == {}


@pytest.mark.long
@pytest.mark.parametrize("remote", [False, True])
def test_a_frozen_worker_sends_nothing_when_it_wakes(tmp_path, remote):
    with LoggingServer() as server:
        run, workers = begin_remote(tmp_path, server, "abc") if remote else (begin(tmp_path, server, 3, 20), [])
        start_ns = start_of(tmp_path / "run", seconds=60)
        wait_until(start_ns + 3 * NS_PER_S)
        frozen = workers[0].pid if remote else processes_of(run.pid, "loadgen.spread.worker")[0]
        os.kill(frozen, signal.SIGSTOP)
        time.sleep(10)
        os.kill(frozen, signal.SIGCONT)
        woken_ns = time.monotonic_ns()
        run.communicate(timeout=120)
        told = [worker.communicate(timeout=60)[1] for worker in workers]
    opened = Run.open(tmp_path / "run")
    assert "no sign of life" in opened.manifest.degraded[0]
    check_whole(opened, server)
    assert refusals(server.log, RPM, 10) == {}
    index = int(opened.manifest.degraded[0].split()[1])
    sent = opened.samples.filter((pl.col("worker") == index) & pl.col("sent_ns").is_not_null())
    last_ns = sent.select(pl.col("sent_ns").max()).collect().item() + start_ns
    assert last_ns < woken_ns - 9 * NS_PER_S, "it sent nothing more"
    assert not told or "this worker has stopped" in told[0]


@pytest.mark.long
@pytest.mark.parametrize("remote", [False, True])
def test_without_their_master_workers_fall_silent_and_keep_what_they_have(tmp_path, remote):
    with LoggingServer() as server:
        run, workers = begin_remote(tmp_path, server, "ab") if remote else (begin(tmp_path, server, 2, 20), [])
        start_ns = start_of(tmp_path / "run", seconds=60)
        wait_until(start_ns + 4 * NS_PER_S)
        os.kill(processes_of(run.pid, "loadgen")[0], signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        run.communicate(timeout=120)
        told = [worker.communicate(timeout=60) for worker in workers]
        time.sleep(1)
    assert server.log[-1][0] < killed_ns + 5 * NS_PER_S
    assert run.returncode == 1
    folders = [tmp_path / "run", *(tmp_path / name / "kept" for name in ("ab" if remote else ""))]
    rows = pl.concat([Run.open(folder).samples.select("seq", "attempt") for folder in folders]).unique().collect()
    assert set(rows["seq"].to_list()) >= set(server.seqs()), "each that the server saw is on disk"
    if remote:
        assert all("what the master has not got is in" in words for _, words in told)
        recovered = headroom(tmp_path / "a", "recover", "kept")
        assert recovered.returncode == 0, recovered.stderr


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_arrivals_of_any_number_of_workers_are_as_even_as_a_poisson_process_is(tmp_path, workers):
    """The index of dispersion of counts: their variance over their mean, 1 of a Poisson process.

    A machine that stands still bunches what is sent: of three runs one must be free of that.
    """
    sent = []
    for number in range(3):
        with LoggingServer() as server:
            load = ["--scenario", "chat", "--rate", "300/s", "--duration", "40s", "--warmup", "0s", "--max-tokens", 1]
            quota = ["--throttle", "off", "--rpm", 100_000, "--tpm", 100_000_000, "--quiet", "--no-report"]
            spread = ["--processes", workers, "--out", f"run-{number}"]
            done = headroom(tmp_path, "run", "--target", server.url, *load, *quota, *spread)
        samples = Run.open(tmp_path / f"run-{number}").samples.collect()
        assert samples["worker"].n_unique() == workers, done.stderr
        assert abs(dispersion(samples["due_ns"]) - 1) < 0.1
        sent.append(dispersion(samples["sent_ns"]))
        if abs(sent[-1] - 1) < 0.1:
            return
    raise AssertionError(sent)


def dispersion(instants_ns):
    """Of the counts in 2,000 bins of 20 ms."""
    bins = (instants_ns // 20_000_000).value_counts()["count"].to_list()
    counts = bins + [0] * (2_000 - len(bins))
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 for count in counts) / len(counts) / mean
