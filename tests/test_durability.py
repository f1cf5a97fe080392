"""A record survives what happens to those who write it: kills, full disks, folders in use. `headroom recover`."""

import asyncio
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest

from headroom import recovering
from loadgen.claim import claimed, hold
from loadgen.durable import publish_frame
from loadgen.errors import RunFolderError
from loadgen.samples import Manifest, Run, check_ledger, finish
from tests.commands import environment, headroom, side_by_side, start, start_of, told, wait_for_rows
from tests.kills import LoggingServer, kill, lost_s, victims, wait_until_gone
from tests.runs import answered, make_run
from tests.servers import Server

LOAD = ["--scenario", "chat", "--rate", "60/s", "--arrivals", "constant", "--kind", "managed", "--warmup", "0s"]
QUIET = ["--no-report", "--quiet"]
HEAVY = ["--scenario", "chat", "--users", "25", "--kind", "managed", "--warmup", "0s"]  # some 400/s, and no schedule
WHO = ["load", "parent", "recorder", "all"]


def killed_run(cwd, server, who, after_s, name):
    """Kill those processes of a run of 2 s so long after its load began; returns its folder and when that was, in ns."""
    folder = cwd / name
    process = start(cwd, "run", "--target", server.url, *LOAD, "--duration", "2s", *QUIET, "--out", name)
    time.sleep(max(0.0, (start_of(folder) - time.monotonic_ns()) / 1e9 + after_s))
    everyone, pids = victims(process.pid, "all"), victims(process.pid, who)
    killed_ns = time.monotonic_ns()
    kill(pids)
    _, stderr = process.communicate(timeout=180)
    wait_until_gone(everyone)
    if who in ("load", "recorder") and len(everyone) == 3 and Manifest.read(folder).state == "interrupted":
        assert process.returncode == 1 and "what was recorded until then is in" in stderr, stderr
    return folder, killed_ns


def check_killed(server, folder, killed_ns):
    """The folder opens, says what it is, lacks the last second at most; and recover closes it, once."""
    assert lost_s(folder, server.answered_ns, killed_ns) <= 1.0
    before = Run.open(folder)
    rows, state = before.samples.collect().height, before.manifest.state
    assert state in ("running", "interrupted", "complete")
    if state == "complete":
        assert before.manifest.reason is None
    found = recovering.recover(folder)
    assert (found.rows, found.was_closed) == (rows, state != "running")
    after = Run.open(folder)
    assert after.manifest.state == ("interrupted" if state == "running" else state)
    assert after.samples.collect().height == rows
    check_ledger(after.manifest.totals)
    assert (folder / "summary.json").exists() and not (folder / "parts").exists()
    bytes_before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert recovering.recover(folder).was_closed
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == bytes_before


def test_a_kill_of_any_or_all_processes_loses_a_second_at_most(tmp_path):
    with LoggingServer() as server:
        times = {"recorder": 1.6, "all": 1.8}
        ended = side_by_side(lambda each: killed_run(tmp_path, server, *each, name=each[0]), times.items())
    for folder, killed_ns in ended:
        check_killed(server, folder, killed_ns)
    assert Run.open(tmp_path / "all").manifest.reason == recovering.REASON
    assert Run.open(tmp_path / "recorder").manifest.reason == "the load process ended with 2"


@pytest.mark.long
def test_in_200_runs_killed_at_random_times_no_folder_is_unreadable(tmp_path):
    dice = random.Random(5)
    kills = [(WHO[i % 4], dice.uniform(-0.3, 2.6), f"run-{i}") for i in range(int(os.environ.get("KILLS", "200")))]
    states = []
    with LoggingServer() as server, ThreadPoolExecutor(3) as together:
        for folder, killed_ns in together.map(lambda each: killed_run(tmp_path, server, *each), kills):
            states.append(Run.open(folder).manifest.state)
            check_killed(server, folder, killed_ns)
    assert len(states) == len(kills) and {"running", "interrupted"} <= set(states)


FINISH = """
import sys
from pathlib import Path
from loadgen.samples import finish
sys.stdout.write("go\\n"); sys.stdout.flush()
sys.stdin.readline()
finish(Path(sys.argv[1]), state="complete", planned=int(sys.argv[2]))
sys.stdout.write("done\\n"); sys.stdout.flush()
"""
ROWS = 20_000


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A folder of parts, as a load process leaves it; and how long it takes to finish it, in seconds."""
    tmp_path = tmp_path_factory.mktemp("unfinished")
    samples = [answered(seq, seq / 50, ttft_s=0.1) for seq in range(ROWS)]
    make_run(tmp_path, samples, [(seq, 0, [10, 20]) for seq in range(ROWS)], state="running")
    began = time.monotonic()
    finish_and_kill(shutil.copytree(tmp_path / "run", tmp_path / "timed"), None)
    return tmp_path / "run", time.monotonic() - began


def finish_and_kill(folder, after_s):
    """Finish the folder in a process of its own, killed so long after it began."""
    command = [sys.executable, "-c", FINISH, str(folder), str(ROWS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "go\n"
        process.stdin.write("\n")
        process.stdin.flush()
        if after_s is None:
            assert process.stdout.readline() == "done\n"
        else:
            time.sleep(after_s)
            process.kill()


def check_compaction(folder):
    """Old or new: all rows are there, whatever stands on the disk, and finishing it goes on from there."""
    run = Run.open(folder)
    assert run.manifest.state in ("running", "complete")
    if run.manifest.state == "complete":
        assert run.manifest.files["samples.parquet"]["rows"] == ROWS
    assert run.samples.collect()["seq"].sort().to_list() == list(range(ROWS))
    assert run.chunks.collect().height == 2 * ROWS
    finish(folder, state="interrupted")  # what recover does
    run = Run.open(folder)
    assert run.samples.collect()["seq"].to_list() == list(range(ROWS))
    assert {name: file["rows"] for name, file in run.manifest.files.items()} == {
        "samples.parquet": ROWS,
        "chunks.parquet": 2 * ROWS,
    }
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".draft")]


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.long)])
def test_a_kill_while_the_parts_are_compacted_leaves_the_old_or_the_new(unfinished, tmp_path, kills):
    source, takes_s = unfinished
    dice = random.Random(kills)
    for number in range(kills):
        folder = shutil.copytree(source, tmp_path / f"{number}")
        finish_and_kill(folder, dice.uniform(0, 0.5 * takes_s))
        check_compaction(folder)
        shutil.rmtree(folder)


@contextmanager
def small_disk(place, size):
    """A file system of its own, which only root may mount."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_fills_anywhere_in_a_file_is_called_full_and_gets_its_room_back(tmp_path):
    frame = pl.DataFrame({f"column_{n}": np.random.default_rng(n).integers(0, 1 << 40, 2_000) for n in range(8)})
    frame.write_parquet(tmp_path / "whole.parquet", compression="zstd")
    size = (tmp_path / "whole.parquet").stat().st_size
    with small_disk(tmp_path / "disk", "256k"):
        for room in range(4096, size, 4096):  # the last of them are short of the footer alone
            filler = tmp_path / "disk" / "filler"
            filler.write_bytes(bytes((256 << 10) - room))
            with pytest.raises(RunFolderError, match="No space left"):
                publish_frame(tmp_path / "disk" / "part.parquet", frame)
            assert [path.name for path in (tmp_path / "disk").iterdir()] == ["filler"]
            filler.unlink()
        publish_frame(tmp_path / "disk" / "part.parquet", frame)


def limited(cwd, most_bytes, *arguments):
    """A command none of whose files may grow above so many bytes."""
    return subprocess.run(
        [sys.executable, "-m", "headroom", *map(str, arguments)],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )  # fmt: skip


@pytest.mark.long
def test_a_record_that_cannot_be_written_is_said_and_what_was_written_is_kept(tmp_path):
    with LoggingServer() as server:
        done = limited(
            tmp_path,
            12_000,
            "run",
            "--target",
            server.url,
            *HEAVY,
            "--duration",
            "30s",
            *QUIET,
            "--out",
            "run",
        )
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    assert "cannot be written" in done.stderr or "cannot write" in done.stderr, done.stderr
    run = Run.open(tmp_path / "run")
    assert run.manifest.state in ("running", "interrupted")
    assert len(server.calls) < 30 * 500 / 2  # it was ended, not played to its end
    run.samples.collect()


@pytest.mark.long
@pytest.mark.parametrize("kilobytes", [150, 400, 1_000])
def test_a_full_disk_ends_the_run_and_what_was_recorded_is_read(tmp_path, kilobytes):
    with small_disk(tmp_path / "disk", f"{kilobytes}k"), LoggingServer() as server:
        done = headroom(
            tmp_path,
            "run",
            "--target",
            server.url,
            *HEAVY,
            "--duration",
            "40s",
            *QUIET,
            "--out",
            "disk/run",
        )
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
        assert "disk/run" in done.stderr and "No space left" in done.stderr, done.stderr
        folder = shutil.copytree(tmp_path / "disk" / "run", tmp_path / "rescued")
        rows = Run.open(folder).samples.collect().height
        assert 0 < rows <= len(server.calls)
        recovering.recover(folder)
        assert Run.open(folder).samples.collect().height == rows


@pytest.mark.long
def test_a_folder_that_becomes_read_only_ends_the_run(tmp_path):
    with small_disk(tmp_path / "disk", "50m"), LoggingServer() as server:
        process = start(
            tmp_path, "run", "--target", server.url, *LOAD, "--duration", "40s", *QUIET, "--out", "disk/run"
        )
        wait_for_rows(tmp_path / "disk" / "run", 10)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode in (1, 2) and "Read-only" in stderr and "Traceback" not in stderr, stderr
        assert Run.open(tmp_path / "disk" / "run").samples.collect().height >= 10


@pytest.mark.long
def test_of_two_runs_in_one_folder_one_is_refused_and_the_other_is_whole(tmp_path):
    with LoggingServer() as server:
        command = ["run", "--target", server.url, *LOAD, "--duration", "1s", *QUIET, "--out", "run"]
        ended = side_by_side(lambda _: headroom(tmp_path, *command), range(2))
    first, second = sorted(ended, key=lambda done: done.returncode == 2)
    assert first.returncode in (0, 4), first.stderr
    assert second.returncode == 2 and "run exists already; a run never overwrites another" in second.stderr
    totals = Run.open(tmp_path / "run").manifest.totals
    assert totals["ok"] == totals["planned"] == len(server.calls)


# headroom recover


def test_recover_finishes_a_killed_run_says_what_it_found_and_changes_nothing_twice(tmp_path):
    run = make_run(tmp_path, [answered(seq, seq / 10) for seq in range(100)], [(1, 0, [5])], state="running")
    with (run.folder / "notes.jsonl").open("a") as notes:
        notes.write('{"at_s": 1.0, "kind": "cpu", "text": "busy"}\n{"at_s": 2.0, "ki')  # torn by the kill
    before = told(tmp_path, "plan", "run")
    assert before.returncode == 4 and "`headroom recover run`" in " ".join(before.stdout.split())
    done = told(tmp_path, "recover", "run", "nowhere")
    assert done.returncode == 2  # of the second
    assert done.stdout.startswith("run: 100 rows; the last attempt ended 10.400 s after the start. Not known are what")
    assert "nowhere is not a run folder" in done.stderr
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"notes.jsonl", "manifest.json", "samples.parquet", "chunks.parquet", "summary.json", "report.html"}
    manifest = Manifest.read(run.folder)
    assert (manifest.state, manifest.reason) == ("interrupted", "recovered: the load process was killed")
    assert len(Run.open(run.folder).notes) == 1
    again = recovering.recover(run.folder)
    assert again.sentence(run.folder) == f"{run.folder}: nothing to recover, its record is closed, with 100 rows"
    assert Manifest.read(run.folder) == manifest


def test_recover_goes_on_where_it_was_interrupted_itself(tmp_path):
    run = make_run(tmp_path, [answered(seq, seq / 10) for seq in range(50)])
    recovering.recover(run.folder)
    for name in ("summary.json", "report.html"):
        whole = (run.folder / name).read_bytes()
        (run.folder / name).unlink()
        assert recovering.recover(run.folder).was_closed
        assert (run.folder / name).read_bytes() == whole


def test_recover_of_a_run_that_was_killed_before_its_first_row_says_so(tmp_path):
    run = make_run(tmp_path, [], state="running")
    found = recovering.recover(run.folder)
    assert "no rows: the run was killed before the first attempt had ended" in found.sentence(run.folder)
    assert json.loads((run.folder / "summary.json").read_text())["validity"]["valid"] is False


def test_a_workers_own_folder_without_notes_is_recovered_as_a_run(tmp_path):
    run = make_run(tmp_path, [answered(seq, seq / 10, worker=3) for seq in range(5, 50, 4)], state="running")
    (run.folder / "notes.jsonl").unlink()
    recovering.recover(run.folder)
    assert Run.open(run.folder).samples.collect()["worker"].unique().to_list() == [3]


def test_a_run_that_goes_on_is_not_recovered(tmp_path):
    run = make_run(tmp_path, [answered(0, 0)], state="running")
    at_work = hold(run.folder)
    also = hold(run.folder)
    os.close(at_work)
    with pytest.raises(RunFolderError, match="is still going on"):
        recovering.recover(run.folder)
    os.close(also)
    with claimed(run.folder), pytest.raises(RunFolderError, match="is being recovered"):
        hold(run.folder)
    recovering.recover(run.folder)


@pytest.mark.long
def test_each_process_of_a_run_holds_its_folder_until_it_ends(tmp_path):
    """So the folder of a killed command is not touched while its orphans still write to it."""
    with LoggingServer() as server:
        process = start(tmp_path, "run", "--target", server.url, *LOAD, "--duration", "20s", *QUIET, "--out", "run")
        wait_for_rows(tmp_path / "run", 1)
        killed_in_turn = [victims(process.pid, who)[0] for who in ("parent", "recorder", "load")]
        for orphan in killed_in_turn[1:]:  # stopped, they cannot end by themselves
            os.kill(orphan, signal.SIGSTOP)
        for pid in killed_in_turn:
            with pytest.raises(RunFolderError, match="is still going on"):
                recovering.recover(tmp_path / "run")
            kill([pid])
            wait_until_gone([pid])
    process.communicate()
    assert recovering.recover(tmp_path / "run").rows >= 1


def test_where_locks_do_not_work_runs_go_on_and_recover_says_what_to_do(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    run = make_run(tmp_path, [answered(0, 0)], state="running")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    os.close(hold(run.folder))
    with pytest.raises(RunFolderError, match="copy the folder to a local disk"):
        recovering.recover(run.folder)


@pytest.mark.long
def test_a_second_signal_does_not_wait(tmp_path):
    async def never(call, writer):
        await asyncio.sleep(60)

    with Server(never) as server:
        process = start(tmp_path, "run", "--target", server.url, *LOAD, "--duration", "60s", *QUIET, "--out", "run")
        while len(server.calls) < 20:
            time.sleep(0.02)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        began = time.monotonic()
        process.communicate(timeout=30)
    assert process.returncode == 105 and time.monotonic() - began < 3
    totals = Run.open(tmp_path / "run").manifest.totals
    assert totals["cancelled"] == totals["sent"] == len(server.calls)
