"""headroom calibrate: its figures are those of the record and the server's log, and it says when not to believe them."""

import io
import json
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from dashboards.calibration import print_calibration
from headroom import processes
from headroom.processes import OthersMeter, cpu_model
from loadgen import ground_truth
from loadgen.config import RunConfig
from loadgen.errors import ConfigError, RunFolderError
from loadgen.samples import Outcome, Phase, Run, WorkerHealth
from planner.calibration import CoreUse, Part, calibrated
from planner.quantiles import interval_ranks
from planner.rows import Stretch
from planner.truth import Log, gap_errors, token_errors, ttft_errors
from tests.commands import headroom, start, told
from tests.runs import answered, dropped, make_run, ns

START_NS = 7_000_000_000_000  # of the runs here, on CLOCK_MONOTONIC
GAP_MS = 20
MS = 1_000_000
QUIET = CoreUse(ran=0.15, waited=0.04, others=0.1)
SILENT = CoreUse(ran=None, waited=None, others=None)  # a system that does not tell
ALL_TIME = Stretch(0, 1_000)


def record(tmp_path, ours_ms, *, name="streams1", warmup_s=0, **fields):
    """A run of streams, one each 100 ms; `ours_ms` says of each how late each of its tokens was stamped."""
    samples, gaps = [], []
    for seq, late_ms in enumerate(ours_ms):
        sent_s = seq / 10
        at_ms = [GAP_MS * (number + 1) + late for number, late in enumerate(late_ms)]
        phase = Phase.STEADY if sent_s >= warmup_s else Phase.WARMUP
        service_s = at_ms[-1] / 1e3
        known = {"ttft_s": at_ms[0] / 1e3, "service_s": service_s, "chunks": len(at_ms), "phase": phase.value, **fields}
        samples.append(answered(seq, sent_s, **known))
        gaps.append((seq, 0, [round((b - a) * 1e3) for a, b in pairwise(at_ms)]))
    load = {"users": 200, "duration": max(10.0, len(ours_ms) / 10 + 1), "warmup": warmup_s}
    return started(make_run(tmp_path, samples, gaps, config=RunConfig.model_validate({"load": load}), name=name))


def started(run):
    run.manifest.model_copy(
        update={
            "monotonic_start_ns": START_NS,
            "host": {"cpu": "Abacus 3000", "cores": 2, "system": "Linux 6.1"},
            "versions": {"python": "3.11.7", "headroom": "0.1.0"},
        }
    ).write(run.folder)
    return Run.open(run.folder)


def truth(tmp_path, run, tokens=3, *, without_requests=(), unsent=(), without_tokens=(), extra_tokens=()):
    """The log of a server that sent the tokens of each stream exactly each 20 ms."""
    folder = tmp_path / "log"
    folder.mkdir(exist_ok=True)
    prefix = run.manifest.run_id[:8]
    sent_ns = {row["seq"]: START_NS + row["sent_ns"] for row in run.samples.collect().iter_rows(named=True)}
    requests = [
        {"id": f"{prefix}-{seq}-0", "received_ns": at, "sent_ns": 0 if seq in unsent else at + GAP_MS * MS}
        for seq, at in sent_ns.items()
        if seq not in without_requests
    ]
    requests.append({"id": "cut-short", "received_ns": START_NS, "sent_ns": 0})
    rows = [
        {"id": f"{prefix}-{seq}-0", "sent_ns": at + GAP_MS * (number + 1) * MS}
        for seq, at in sent_ns.items()
        for number in range(tokens + (seq in extra_tokens))
        if (seq, number) not in without_tokens
    ]
    rows.append({"id": "of-another-client", "sent_ns": START_NS})
    pl.DataFrame(requests).write_parquet(folder / "requests.parquet")
    pl.DataFrame(rows).write_parquet(folder / "tokens.parquet")
    return Log.open(folder)


def in_ms(errors_ns):
    return [round(error / MS, 6) for error in errors_ns]


def test_stamps_that_are_all_3_ms_late_are_an_error_of_3_ms_and_leave_the_gaps_right(tmp_path):
    run = record(tmp_path, [[3, 3, 3]] * 5)
    log = truth(tmp_path, run)
    assert in_ms(ttft_errors(run, log, ALL_TIME)) == [3.0] * 5
    tokens = token_errors(run, log)
    assert in_ms(tokens["error_ns"]) == [3.0] * 15
    assert in_ms(gap_errors(tokens, ALL_TIME)) == [0.0] * 10


def test_a_token_that_is_late_alone_makes_the_gap_before_it_and_the_gap_after_it_wrong(tmp_path):
    run = record(tmp_path, [[0, 0, 0], [0, 2, 0], [0.25, 0.25, 0.25]])
    log = truth(tmp_path, run)
    assert in_ms(ttft_errors(run, log, ALL_TIME)) == [0, 0, 0.25]
    assert in_ms(gap_errors(token_errors(run, log), ALL_TIME)) == [0, 0, 0, 0, 2, 2]


def test_only_what_was_sent_and_came_in_the_stretch_counts(tmp_path):
    run = record(tmp_path, [[5, 9, 5], [1, 1, 3], [2, 2, 2]])  # sent at 0, 0.1 and 0.2 s
    log = truth(tmp_path, run)
    assert in_ms(ttft_errors(run, log, Stretch(0.1, 0.2))) == [1, 2]
    assert in_ms(ttft_errors(run, log, Stretch(0.1, 0.15))) == [1]
    assert in_ms(gap_errors(token_errors(run, log), Stretch(0.1, 0.15))) == [0]  # its third token came at 0.163 s


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"without_requests": [2]}, "1 of 4 streams of the record are not in the server's log"),
        ({"unsent": [2, 3]}, "2 of 4 streams of the record are not in the server's log"),
        ({"without_tokens": [(1, 2)]}, "1 tokens of the record are not in the server's log, and 0 of its"),
        ({"without_tokens": [(1, 0), (1, 1), (1, 2)]}, "3 tokens of the record are not in the server's log, and 0"),
        ({"extra_tokens": [0, 3]}, "0 tokens of the record are not in the server's log, and 2 of its"),
    ],
)
def test_a_record_and_a_log_that_do_not_match_give_no_figures(tmp_path, wrong, complaint):
    run = record(tmp_path, [[0, 0, 0]] * 4)
    open_loop = Part(plain(tmp_path, [0]), 0.0)
    log = truth(tmp_path, run, **wrong)
    with pytest.raises(RunFolderError, match=re.escape(complaint)):
        calibrated(Part(run, 0.0), open_loop, log, tokens_per_s=50)


def test_a_log_that_was_not_written_and_a_run_that_never_started_say_so(tmp_path):
    with pytest.raises(RunFolderError, match="the server ended before it wrote its log"):
        Log.open(tmp_path)
    run = record(tmp_path, [[0, 0, 0]])
    log = truth(tmp_path, run)
    run.manifest.model_copy(update={"monotonic_start_ns": None}).write(run.folder)
    with pytest.raises(RunFolderError, match="never started"):
        ttft_errors(Run.open(run.folder), log, ALL_TIME)


def plain(tmp_path, lags_ms, *, name="plain001", more=()):
    """An open loop of plain requests that left so late."""
    samples = [answered(seq, seq / 100, lag_s=lag / 1e3, service_s=0.001) for seq, lag in enumerate(lags_ms)]
    load = {"rate": 1_000, "duration": 20, "warmup": 0}
    return started(make_run(tmp_path, [*samples, *more], config=RunConfig.model_validate({"load": load}), name=name))


def calibration(tmp_path, late_ms=(0.1,) * 500, lags_ms=(0.05,) * 500, *, uses=(QUIET, QUIET), more=(), **fields):
    """Of streams of three tokens, each wholly so late."""
    run = record(tmp_path, [[late] * 3 for late in late_ms], **fields)
    open_loop = plain(tmp_path, lags_ms, more=more)
    parts = [part(each, use) for each, use in zip((run, open_loop), uses, strict=True)]
    return calibrated(*parts, truth(tmp_path, run), tokens_per_s=50)


def part(run, use):
    health = WorkerHealth(cpu_share=use.ran, without_core_share=use.waited)
    run.manifest.model_copy(update={"workers": [health]}).write(run.folder)
    return Part(Run.open(run.folder), use.others)


def test_percentiles_are_those_of_the_steady_rows_with_n_and_interval(tmp_path):
    late_ms = [50.0] * 10 + [number / 1_000 for number in range(1, 601)]  # the first second is warm-up
    found = calibration(tmp_path, late_ms, [number / 100 for number in range(500)], warmup_s=1)
    ttft = found.ttft_error
    assert (ttft.n, ttft.max_ms, ttft.p50.value_ms, ttft.p99.value_ms) == (600, 0.6, 0.3, 0.594)
    low, high = interval_ranks(600, 0.99)
    assert (ttft.p99.low_ms, ttft.p99.high_ms) == (low / 1_000, high / 1_000)
    assert (found.gap_error.n, found.gap_error.max_ms) == (1_200, 0)
    assert (found.lag.n, found.lag.p50.value_ms, found.lag.p99.value_ms, found.lag.max_ms) == (500, 2.49, 4.94, 4.99)
    assert (found.streams, found.tokens_per_s, found.requests_per_s) == (200, 50, 1_000)


def test_a_quiet_machine_gets_a_verdict_and_a_paragraph_for_a_report(tmp_path):
    found = calibration(tmp_path)
    assert found.validity.valid and not found.validity.doubts
    assert found.headline == (
        "On this machine Headroom's TTFT is right to within 0.1 ms for 99 of 100 requests at 200 streams."
    )
    assert found.for_report == (
        "Headroom 0.1.0's own error on the machine that made the load (Abacus 3000, 2 cores), calibrated on "
        "2026-11-20 over loopback against a server that logs when it sends: at 200 streams of 50/s TTFT is 0.1 ms "
        "(p50) and 0.1 ms (p99, 0.1 ms to 0.1 ms; n 500) late; gaps between tokens are off by 0 ms (p50) and 0 ms "
        "(p99, 0 ms to 0 ms; n 1,000); requests of an open loop at 1,000/s leave 0.05 ms (p50) and 0.05 ms (p99, 0.05 "
        "ms to 0.05 ms; n 500) late. Intervals are 95 %."
    )


@pytest.mark.parametrize(
    ("n", "claim"),
    [
        (459, "0.1 ms for 99 of 100 requests"),
        (458, "0.1 ms for 95 of 100 requests"),
        (89, "0.1 ms for 9 of 10 requests"),
        (43, "0.1 ms for half of the requests"),
        (6, "Too few streams were measured"),
    ],
)
def test_no_more_is_claimed_than_the_samples_support(tmp_path, n, claim):
    found = calibration(tmp_path, [0.1] * n)
    assert claim in found.headline
    few = [
        doubt
        for doubt in found.validity.doubts
        if f"too few samples for a p99, which needs 459: TTFT error has {n}" in doubt
    ]
    assert bool(few) == (n < 459)
    assert (found.ttft_error.p99.value_ms is None) == (n < 459)
    assert ("p99, 0.1 ms to" in (found.for_report or "").partition("gaps")[0]) == (n >= 459)


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"late_ms": [5.0] * 500}, None),
        ({"late_ms": [5.1] * 500}, "the p99 of the TTFT error is 5.1 ms, above 5 ms: calibrate again"),
        ({"late_ms": [5.1] * 100}, "the p95 of the TTFT error is 5.1 ms, above 5 ms: calibrate again"),
        ({"lags_ms": [0.1] * 490 + [7] * 10}, "the p99 of the lag is 7 ms, above 5 ms"),
        ({"uses": (replace(QUIET, ran=0.95), QUIET)}, "used 95% of a core for the streams: its limit is what was"),
        (
            {"uses": (QUIET, SILENT)},
            "this system does not say whether other programs had the cores during the open loop",
        ),
    ],
)
def test_what_makes_the_figures_doubtful_is_said_and_fails_nothing(tmp_path, changes, doubt):
    found = calibration(tmp_path, **changes)
    assert found.validity.valid and found.for_report
    assert any(doubt in each for each in found.validity.doubts) if doubt else not found.validity.doubts


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"uses": (replace(QUIET, waited=0.06, others=1.4), QUIET)},
            "during the streams other programs used 1.4 cores, and the load process was kept waiting for one 6% of",
        ),
        ({"uses": (replace(QUIET, waited=0.01, others=9), QUIET)}, None),  # others had cores of their own
        ({"uses": (replace(QUIET, waited=0.2), QUIET)}, None),  # it waited for its own server
        ({"more": [dropped(900, 1.0)]}, "1 of 501 requests of the open loop were not answered (1 dropped)"),
        (
            {"more": [answered(900, 1.0, outcome=Outcome.TIMEOUT)]},
            "1 of 501 requests of the open loop were not answered (1 timeout)",
        ),
        ({"late_ms": [-0.001, *[0.1] * 499]}, "1 first tokens were seen before they were sent"),
        ({"late_ms": [0.1] * 10, "warmup_s": 9}, "nothing was measured of the TTFT error"),
    ],
)
def test_a_calibration_that_cannot_be_trusted_gives_its_reason_and_no_paragraph(tmp_path, changes, reason):
    found = calibration(tmp_path, **changes)
    assert found.validity.valid == (reason is None)
    assert (found.for_report is None) == (reason is not None)
    if reason:
        assert found.validity.reasons[0].startswith(reason)
        assert found.headline.startswith(f"This calibration cannot be trusted: {reason}")


def printed(found, width):
    console = Console(width=width, file=io.StringIO(), legacy_windows=False)
    print_calibration(found, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_shows_every_figure_whole_at_any_width(tmp_path, width):
    late_ms = [12.5 + number / 100 for number in range(600)]
    text = printed(calibration(tmp_path, late_ms), width)
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for figure in ("600", "15.5", "18.4", "18.5", "1,200", "500", "0.050"):
        assert figure in words, text
    squeezed = " ".join(words)
    for sentence in (
        "VALID On this machine Headroom's TTFT is right to within 18.4 ms for 99 of 100 requests at 200 streams.",
        "Abacus 3000, 2 cores; python 3.11.7, headroom 0.1.0",
        "doubt the p99 of the TTFT error is 18.4 ms, above 5 ms: calibrate again, with nothing else running and more",
        "200 streams of 50/s, then 1,000 requests/s; intervals are 95 %",
        "15.0 % of a core for the streams and 15.0 % of a core for the open loop, and waited for one 4.0 % and 4.0 %",
        "For a report Headroom 0.1.0's own error",
    ):
        assert sentence in squeezed, text


def test_the_terminal_shows_why_it_is_invalid_and_what_n_lacks(tmp_path):
    text = printed(calibration(tmp_path, [-1.0] * 100, uses=(SILENT, SILENT)), 100)
    assert text.startswith(" INVALID ") and "why 100 first tokens were seen before they were" in " ".join(text.split())
    assert "n<459" in text and "For a report" not in text


def test_others_are_metered_within_the_steady_phase_alone():
    meter = OthersMeter()
    assert meter.cores_between(0, 1 << 62) is None
    meter._readings = [(ns(1), -50.0), (ns(2), -40.0), (ns(3), -39.75), (ns(4), -39.0), (ns(5), 7.0)]
    assert meter.cores_between(ns(2), ns(4)) == 0.5
    assert meter.cores_between(ns(2), ns(2.9)) is None
    meter._readings[3] = (ns(4), -40.01)  # the counts are of hundredths of a second
    assert meter.cores_between(ns(2), ns(4)) == 0


def test_others_are_neither_ourselves_nor_the_children_of_our_children(monkeypatch):
    shell = subprocess.Popen(["sh", "-c", "sleep 30 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    sleeper = int(shell.stdout.readline())
    try:
        ours = set(processes._with_descendants(os.getpid()))
        assert {os.getpid(), shell.pid, sleeper} <= ours and os.getppid() not in ours
    finally:
        os.kill(sleeper, signal.SIGTERM)
        shell.communicate()
    assert processes.core_seconds(shell.pid) is None
    ran_s, _ = processes.core_seconds(os.getpid())
    assert ran_s > 0.5  # what was imported
    others_s = processes._others_s()
    monkeypatch.setattr(processes, "_with_descendants", lambda _: [])
    assert processes._others_s() - others_s == pytest.approx(ran_s, abs=0.2)


@pytest.mark.parametrize("library", [object(), None])
def test_a_system_without_timerfd_is_told_so_before_anything_is_started(tmp_path, monkeypatch, library):
    from headroom import calibrating

    def load(*_, **__):
        if library is None:
            raise TypeError("no library")
        return library

    monkeypatch.setattr(ground_truth.ctypes, "CDLL", load)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(ConfigError, match="timerfd, which takes Linux"):
        calibrating.calibrate(duration="15s", streams=5, out=tmp_path / "out", as_json=False, quiet=True)
    assert not (tmp_path / "out").exists()


KEY = "canary" * 100


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--duration", "soon"], "--duration: 'soon' is not a duration"),
        (["--duration", "7.9s"], "--duration: 7.9s is not between 8 s and 600 s"),
        (["--duration", "11m"], "--duration: 11m is not between 8 s and 600 s"),
        (["--streams", "0"], "'--streams': Input should be greater than or equal to 1"),
        (["--streams", "2001"], "'--streams': Input should be less than or equal to 2000"),
        (["--out", "taken"], "taken exists already, and is not overwritten: choose a new --out"),
        (["--out", "file/new"], "cannot write file/new: Not a directory; choose another --out"),
    ],
)
def test_a_mistake_names_the_option_and_leaves_nothing_behind(tmp_path, arguments, complaint):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    done = told(tmp_path, "calibrate", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(complaint, done.stderr) and "Traceback" not in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "taken"]


@pytest.fixture(scope="module")
def to_be_stopped(tmp_path_factory):
    """A long calibration of few streams, begun while the short one is measured."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(folder, "calibrate", "--duration", "600s", "--streams", 5, "--out", "kept", "--quiet")
    yield process, folder
    process.kill()


@pytest.fixture(scope="module")
def measured(to_be_stopped, tmp_path_factory):
    """One short calibration, for all tests that only read it."""
    folder = tmp_path_factory.mktemp("calibrate")
    flags = ["--duration", "8s", "--streams", 40, "--json", "--out", "kept"]
    done = headroom(folder, "calibrate", *flags, AZURE_INFERENCE_CREDENTIAL=KEY)
    assert done.returncode in (0, 4), done.stderr
    return done, folder / "kept"


def test_the_json_is_what_the_kept_record_and_log_come_to(measured):
    done, folder = measured
    found = json.loads(done.stdout)
    assert found == json.loads((folder / "calibration.json").read_bytes())
    run = Run.open(folder / "streams")
    start_ns, begin_ns, end_ns = run.manifest.monotonic_start_ns, ns(2.5), ns(8 * 2 / 3)
    sent = {row["id"]: row["sent_ns"] for row in pl.read_parquet(folder / "log/requests.parquet").to_dicts()}
    samples = [row for row in run.samples.collect().to_dicts() if begin_ns <= row["sent_ns"] <= end_ns]
    ids = [f"{run.manifest.run_id[:8]}-{row['seq']}-{row['attempt']}" for row in samples]
    errors = sorted(row["first_token_ns"] + start_ns - sent[id_] for id_, row in zip(ids, samples, strict=True))
    assert found["ttft_error"]["n"] == len(errors) > 40
    assert found["ttft_error"]["p50"]["value_ms"] == errors[-(-len(errors) // 2) - 1] / MS
    assert found["ttft_error"]["max_ms"] == errors[-1] / MS
    assert errors[0] > 0  # no answer is seen before it is sent
    lags = [
        row["sent_ns"] - row["admitted_ns"]
        for row in Run.open(folder / "open-loop").samples.collect().to_dicts()
        if row["due_ns"] >= ns(0.5)
    ]
    lags.sort()
    assert found["lag"]["n"] == len(lags) > 1_500
    assert found["lag"]["p99"]["value_ms"] == lags[-(-len(lags) * 99 // 100) - 1] / MS
    gaps = found["gap_error"]
    assert gaps["n"] > 40 * 50 * 2 and 0 <= gaps["p50"]["value_ms"] <= gaps["p99"]["value_ms"] <= gaps["max_ms"]
    assert (found["streams"], found["tokens_per_s"], found["requests_per_s"]) == (40, 50, 1_000)


def test_the_exit_code_is_the_verdict_and_the_machine_is_named(measured):
    done, _ = measured
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["validity"]["valid"] else 4)
    assert bool(found["for_report"]) == found["validity"]["valid"]
    assert found["machine"]["cores"] == os.cpu_count() and found["machine"]["cpu"] == cpu_model()
    assert {"python", "headroom", "gevent"} <= set(found["versions"])
    for use in found["core_use"].values():
        assert 0 < use["ran"] < 1.1 and 0 <= use["waited"] < 1 and 0 <= use["others"] <= os.cpu_count()
    assert "of 5 s:" in done.stderr and "of 3 s:" in done.stderr  # progress, on standard error


def test_the_server_sends_a_token_each_20_ms_and_gets_no_key(measured):
    _, folder = measured
    tokens = pl.read_parquet(folder / "log/tokens.parquet")
    gap_ms = tokens.select(pl.col("sent_ns").diff().over("id") / MS).to_series().drop_nulls()
    assert 19.9 < gap_ms.median() < 20.1
    for part in ("streams", "open-loop"):
        samples = Run.open(folder / part).samples.collect()
        assert set(samples["outcome"]) == {"ok"} and samples["bytes_out"].max() < len(KEY)


def test_ctrl_c_ends_it_cleanly_and_leaves_nothing_behind(to_be_stopped):
    process, folder = to_be_stopped
    deadline = time.monotonic() + 30
    while not list(folder.glob("kept/streams/parts/samples-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    children = set(processes._with_descendants(process.pid)) - {process.pid}
    assert len(children) == 3  # the server, the load process and its recorder
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (105, "", "headroom: interrupted\n")
    assert list(folder.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
