"""The record: what is written is what is read, and what a crash leaves opens."""

import json
import marshal
import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from loadgen.errors import RunFolderError
from loadgen.recorder import RecorderPipe
from loadgen.samples import (
    COLUMNS,
    SAMPLES_SCHEMA,
    Manifest,
    Outcome,
    Recorder,
    Run,
    Sample,
    check_ledger,
    create,
    finish,
    row_of,
    samples_frame,
)


def sample(seq, outcome=Outcome.OK, **changes):
    return row_of(Sample(seq=seq, scenario="chat", target="t", due_ns=seq * 1_000, outcome=outcome.value, **changes))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    create(path, Manifest(run_id="r" * 32, config={}, seed=1, started_utc="2026-01-01T00:00:00+00:00"))
    return path


def test_the_columns_are_those_of_the_schema():
    assert tuple(SAMPLES_SCHEMA) == COLUMNS


def test_what_is_recorded_is_read_back_in_order_and_exactly(folder):
    recorder = Recorder(folder, worker=3)
    recorder.add([sample(2, status=200, error="é", sent_ns=-5), sample(0)], [(2, 0, [10, 0, 4_000_000_000])])
    recorder.publish()
    recorder.add([sample(1, Outcome.DROPPED)], [])
    recorder.publish()
    recorder.publish()  # nothing new: nothing written
    assert len(list((folder / "parts").iterdir())) == 3
    running = Run.open(folder)
    assert running.manifest.state == "running"
    assert sorted(running.samples.collect()["seq"]) == [0, 1, 2]

    manifest = finish(folder, state="complete")
    run = Run.open(folder)
    samples = run.samples.collect()
    assert samples.schema == pl.Schema(SAMPLES_SCHEMA)
    assert samples["seq"].to_list() == [0, 1, 2]
    assert samples.row(2, named=True)["error"] == "é" and samples.row(2, named=True)["sent_ns"] == -5
    assert run.chunks.collect().rows() == [(2, 0, 10), (2, 0, 0), (2, 0, 4_000_000_000)]
    assert manifest.totals["planned"] == 3 and manifest.totals["sent"] == 2 and manifest.totals["dropped"] == 1
    assert {name: file["rows"] for name, file in manifest.files.items()} == {"samples.parquet": 3, "chunks.parquet": 3}
    assert not (folder / "parts").exists()


def test_finishing_twice_changes_nothing(folder):
    recorder = Recorder(folder, 0)
    recorder.add([sample(0)], [(0, 0, [5])])
    recorder.publish()
    assert finish(folder, state="complete") == finish(folder, state="complete")


def test_a_run_without_a_single_row_opens(folder):
    assert finish(folder, state="interrupted", reason="nothing came").totals["planned"] == 0
    assert Run.open(folder).samples.collect().is_empty()


LEDGER = {
    "planned": 3,
    "sent": 2,
    "dropped": 1,
    "attempts": 2,
    "distinct": 3,
    **{outcome.value: 0 for outcome in Outcome},
}
LEDGER |= {"ok": 2, "dropped": 1}


@pytest.mark.parametrize(
    "change",
    [{"planned": 4}, {"sent": 1}, {"dropped": 2}, {"attempts": 3}, {"distinct": 2}, {"ok": 1}],
    ids=lambda change: next(iter(change)),
)
def test_a_ledger_that_does_not_add_up_is_said_so(change):
    check_ledger(LEDGER, 3)
    with pytest.raises(RunFolderError, match="the ledger does not add up"):
        check_ledger({**LEDGER, **change}, 3)


def test_a_row_that_the_generator_counted_and_the_record_lacks_is_missed():
    with pytest.raises(RunFolderError, match="4 arrivals came due, the record holds 3"):
        check_ledger(LEDGER, 4)


def test_a_folder_is_never_overwritten_and_an_unwritable_one_is_named(folder, tmp_path):
    manifest = Manifest.read(folder)
    with pytest.raises(RunFolderError, match="exists already; a run never overwrites"):
        create(folder, manifest)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write the run folder"):
        create(tmp_path / "file" / "run", manifest)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "is not a run folder"),
        ("{torn", "cannot be read"),
        ('{"format": 99}', "format 99; this version of Headroom reads format 1"),
        ('{"format": 1}', "is damaged"),
        ("[]", "format None"),
    ],
)
def test_a_folder_that_cannot_be_trusted_is_refused(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunFolderError, match=complaint):
        Run.open(tmp_path)


def test_a_record_of_an_earlier_version_lacks_columns_and_reads_all_the_same(folder):
    old = samples_frame([sample(0)]).drop("connect_ns", "connected_ns", "secured_ns")
    old.write_parquet(folder / "samples.parquet")
    read = Run.open(folder).samples.collect()
    assert read.columns == list(SAMPLES_SCHEMA)
    assert read["connect_ns"].to_list() == [None]


def test_a_record_is_sorted_slice_by_slice_and_the_gaps_of_a_stream_keep_their_order(folder, monkeypatch):
    monkeypatch.setattr("loadgen.samples.SLICE", 10)
    seqs = [*range(34, -1, -2), *range(1, 35, 2)]
    for worker, part in enumerate((seqs[:20], seqs[20:])):
        recorder = Recorder(folder, worker)
        recorder.add(
            [sample(seq, attempt=attempt) for seq in part for attempt in (1, 0)],
            [(seq, 0, [9, seq, 3]) for seq in part],
        )
        recorder.publish()
    totals = finish(folder, state="complete").totals
    assert (totals["planned"], totals["attempts"]) == (35, 70)
    run = Run.open(folder)
    assert run.samples.select("seq", "attempt").collect().rows() == [(seq, n) for seq in range(35) for n in (0, 1)]
    assert run.chunks.collect()["gap_us"].to_list() == [gap for seq in range(35) for gap in (9, seq, 3)]
    assert not (folder / "parts").exists()


def test_notes_are_read_up_to_a_torn_line(folder):
    (folder / "notes.jsonl").write_text('{"at_s": 1, "kind": "cpu", "text": "busy"}\n{"at_s": 2, "ki')
    assert Run.open(folder).notes == [{"at_s": 1, "kind": "cpu", "text": "busy"}]


def test_the_recorder_process_makes_rows_durable_and_survives_its_workers_death(folder):
    script = (
        "import os, sys, time; from pathlib import Path; from loadgen.recorder import RecorderPipe, packed;"
        "from loadgen.samples import Sample;"
        f"pipe = RecorderPipe(Path({str(folder)!r}), 0, os.write);"
        "pipe.send([packed(Sample(seq=n, scenario='c', target='t', due_ns=n)) for n in range(500)], [(1, 0, [7])]);"
        "print('sent', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert worker.stdout.readline() == b"sent\n"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    deadline = time.monotonic() + 10
    while Run.open(folder).samples.collect().height < 500 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert finish(folder, state="interrupted").totals["planned"] == 500


def test_a_recorder_that_cannot_write_is_an_error_and_not_a_loss_in_silence(folder):
    pipe = RecorderPipe(folder, 0, os.write)
    (folder / "parts").rmdir()
    pipe.send([marshal.dumps(sample(0))], [])
    with pytest.raises(RunFolderError, match="the record could not be written"):
        pipe.close()


def test_a_recorder_that_is_held_up_holds_nobody_up(folder):
    pipe = RecorderPipe(folder, 0, os.write)
    os.kill(pipe._process.pid, signal.SIGSTOP)
    os.set_blocking(pipe.fd, False)
    try:
        for tenth in range(10):  # of a second, at 3,000 rows/s
            pipe.send([marshal.dumps(sample(300 * tenth + n)) for n in range(300)], [])  # BlockingIOError: no room
    finally:
        os.kill(pipe._process.pid, signal.SIGCONT)
    pipe.close()
    assert Run.open(folder).samples.collect().height == 3_000


def test_a_manifest_holds_what_a_reader_needs(folder):
    raw = json.loads((folder / "manifest.json").read_bytes())
    assert {
        "format",
        "run_id",
        "state",
        "config",
        "seed",
        "versions",
        "host",
        "started_utc",
        "clock",
        "monotonic_start_ns",
        "totals",
        "files",
    } <= set(raw)
