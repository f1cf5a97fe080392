"""A threshold that may end a run does, once it is missed beyond doubt, and not before its delay."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from headroom.aborting import Watch
from loadgen.config import RunConfig
from loadgen.samples import Outcome, Run
from tests.commands import PLENTY, deployment, headroom, told
from tests.runs import answered, make_run
from tests.servers import Server, always, response

FILE = """
[load]
rate = "40/s"
duration = "60s"
warmup = "0s"
auto_stop = false
processes = {processes}
[scenarios]
chat = 1
[[threshold]]
expr = "failed<5%"
abort_on_fail = true
delay = "2s"
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_that_fails_is_ended_with_99_after_the_delay(tmp_path: Path, processes: int) -> None:
    (tmp_path / "loadtest.toml").write_text(FILE.format(processes=processes))
    began = time.monotonic()
    with Server(always(response(b"{}", "500 Internal Server Error"))) as server:
        where = ["--target", server.url, *PLENTY, "--out", "run", "--no-report", "--json", "g.json"]
        done = headroom(tmp_path, "run", "loadtest.toml", *where)
    assert done.returncode == 99, done.stderr
    assert time.monotonic() - began < 40
    assert "headroom: threshold missed: failed<5%: 100 %" in done.stderr
    run = Run.open(tmp_path / "run")
    assert run.manifest.state == "interrupted" and (run.manifest.reason or "").startswith("threshold missed: failed<5%")
    last_s = run.samples.collect()["due_ns"].max() / 1e9  # type: ignore[operator]
    assert 1.9 < last_s < 30
    totals = run.manifest.totals
    assert totals["planned"] == totals["sent"] + totals["dropped"] > 100
    gate = json.loads((tmp_path / "g.json").read_bytes())
    assert (gate["verdict"], gate["exit_code"]) == ("fail", 99)
    assert gate["judgements"][0]["reasons"][0].startswith("threshold missed: failed<5%")


def test_nothing_is_looked_at_where_no_threshold_may_end_the_run(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"threshold": {"expr": "failed<5%"}})
    assert Watch(tmp_path / "there is no run", config).look() is None


@pytest.mark.parametrize(
    ("failed", "delay", "ends"),
    [
        pytest.param(100, "0s", True, id="all of a hundred failed"),
        pytest.param(100, "1h", False, id="the delay is not over"),
        pytest.param(6, "0s", False, id="6 of 100 may be chance"),
        pytest.param(0, "0s", False, id="none failed"),
    ],
)
def test_a_look_at_the_record_so_far(tmp_path: Path, failed: int, delay: str, ends: bool) -> None:
    load = {"warmup": 0, "duration": "2h"}
    sections = {"threshold": {"expr": "failed<5%", "abort_on_fail": True, "delay": delay}, "load": load}
    config = RunConfig.model_validate(sections)
    samples = [answered(seq, seq / 10, phase="steady") for seq in range(100)]
    for sample in samples[:failed]:
        sample.outcome = Outcome.SERVER_ERROR
    run = make_run(tmp_path, samples, config=config, state="running")
    reason = Watch(run.folder, config).look()
    assert (reason is not None) is ends, reason


def test_a_threshold_that_would_be_looked_at_too_late_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loadtest.toml").write_text(FILE.format(processes=1))
    for arguments in (["run"], ["run", "--check"], ["run", "--repeat", "2"], ["ab", "--a", "sim", "--b", "sim"]):
        done = told(tmp_path, arguments[0], "loadtest.toml", "--duration", "2s", *arguments[1:])
        assert done.returncode == 2, done.stderr
        assert "'failed<5%' waits 2 s after the warm-up, and the load is over after 2 s" in done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param(["run", "--repeat", "3"], "run/01", id="repeated", marks=pytest.mark.long),
        pytest.param(["ab", "--pairs", "2"], "run/a/01", id="in turns", marks=pytest.mark.long),
    ],
)
def test_a_threshold_ends_a_run_of_several_and_with_it_all_of_them(
    tmp_path: Path, command: list[str], said: str
) -> None:
    """What is told of them is as much a miss as the exit code."""
    (tmp_path / "loadtest.toml").write_text(FILE.format(processes=1).replace('delay = "2s"', ""))
    outputs = ["--junit", "j.xml", *(["--json", "g.json"] if command[0] == "run" else [])]
    with Server(always(response(b"{}", "500 Internal Server Error"))) as server:
        where = ["--target", server.url] if command[0] == "run" else ["--a", server.url, "--b", server.url]
        done = headroom(tmp_path, *command, "loadtest.toml", *where, *PLENTY, "--out", "run", *outputs)
    assert done.returncode == 99, done.stderr
    assert "headroom: threshold missed: failed<5%: 100 %" in done.stderr
    assert len(list(tmp_path.glob("run/**/manifest.json"))) == 1
    assert Run.open(tmp_path / said).manifest.state == "interrupted"
    if command[0] == "run":
        gate = json.loads((tmp_path / "g.json").read_bytes())
        assert (gate["verdict"], gate["exit_code"]) == ("fail", 99)
        assert gate["judgements"][-1]["reasons"][0].startswith("threshold missed: failed<5%")
        assert "threshold missed" in (tmp_path / "j.xml").read_text()
    else:
        assert "a comparison judges no thresholds (failed<5%)" in done.stderr


@pytest.mark.long
def test_a_repeated_run_that_is_cut_short_is_no_pass(tmp_path: Path) -> None:
    """What its JSON and its JUnit say is what the process ends with."""
    brief = ["--scenario", "streaming", "--rate", "30/s", "--duration", "1s", "--warmup", "0s", "--max-tokens", "4"]
    with Server(deployment) as server:
        done = headroom(
            tmp_path, "run", "--target", server.url, *brief, *PLENTY, "--throttle", "off", "--out", "set", "--repeat", 3,
            "--slo", "ttft.p50<30s", "--budget-requests", 45, "--json", "g.json", "--junit", "j.xml", "--quiet"
        )  # fmt: skip
    assert done.returncode == 111, done.stderr
    gate = json.loads((tmp_path / "g.json").read_bytes())
    assert gate["exit_code"] == 111 and gate["verdict"] != "pass"
    assert "budget" in gate["judgements"][-1]["reasons"][0]
    assert "budget" in (tmp_path / "j.xml").read_text() and "<error" in (tmp_path / "j.xml").read_text()
