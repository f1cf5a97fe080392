"""The command line, end to end: real processes, a real deployment on loopback, and every way a run can end."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
from itertools import pairwise
from pathlib import Path

import httpx
import polars as pl
import pytest

from headroom.targets import simulated_model
from loadgen.samples import Run
from loadgen.simulator.models import Images, Kind, model_of
from tests.commands import SHORT, deployment, environment, headroom, side_by_side, start, wait_for_rows
from tests.servers import Server, always, response, stream

CANARY = "canary-7f3a9c1e5b2d4860canary"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """One short run of the main job, for all tests that only read it."""
    cwd = tmp_path_factory.mktemp("simulated")
    done = headroom(
        cwd,
        "run",
        "--duration",
        "8s",
        "--warmup",
        "1s",
        "--rate",
        "12/s",
        "--tpm",
        600_000,
        "--slo",
        "ttft.p50<5s",
        "--out",
        "run",
    )
    assert done.returncode == 0, done.stderr
    return done, cwd / "run"


def test_the_main_job_leaves_a_whole_run_folder(simulated):
    _, folder = simulated
    names = {path.name for path in folder.iterdir()}
    assert names == {"notes.jsonl", "manifest.json", "samples.parquet", "chunks.parquet", "summary.json", "report.html"}
    run = Run.open(folder)
    assert run.manifest.state == "complete"
    samples = run.samples.collect()
    assert samples["seq"].to_list() == list(range(samples.height))
    assert set(samples["scenario"]) == {"chat", "streaming", "vision"}
    assert samples["outcome"].unique().to_list() == ["ok"]
    assert samples["usage_source"].unique().to_list() == ["server"]
    assert run.manifest.totals["planned"] == samples.height > 60
    assert set(samples.filter(pl.col("due_ns") < 1_000_000_000)["phase"]) == {"warmup"}
    assert run.manifest.deployment["model_name"] == "Phi-3.5-vision-instruct"  # the mix has pictures


def test_the_simulated_model_reads_pictures_where_the_mix_sends_them_and_is_sold_in_both_ways():
    for kind in Kind:
        assert model_of(simulated_model(["chat", "vision"]), kind).images is not Images.NONE
        assert model_of(simulated_model(["chat", "streaming"]), kind).images is Images.NONE


def test_every_instant_of_a_row_follows_the_one_before(simulated):
    samples = Run.open(simulated[1]).samples.collect()
    order = ["due_ns", "admitted_ns", "sent_ns", "first_byte_ns", "done_ns"]
    for earlier, later in pairwise(order):
        assert (samples[later] >= samples[earlier]).all(), (earlier, later)
    streams = samples.filter(pl.col("scenario") == "streaming")
    assert (streams["first_token_ns"] >= streams["first_byte_ns"]).all()
    assert samples.filter(pl.col("scenario") == "chat")["first_token_ns"].is_null().all()


def test_each_stream_has_one_gap_less_than_chunks(simulated):
    run = Run.open(simulated[1])
    gaps = run.chunks.group_by("seq").agg(pl.len().alias("gaps"), pl.col("gap_us").sum().alias("sum_us")).collect()
    joined = run.samples.filter(pl.col("chunks") > 1).collect().join(gaps, on="seq")
    assert joined.height > 40
    assert (joined["gaps"] == joined["chunks"] - 1).all()
    spans_us = (joined["last_token_ns"] - joined["first_token_ns"]) / 1_000
    assert ((spans_us - joined["sum_us"]).abs() <= joined["gaps"] + 1).all()
    assert (joined["chunks"] == joined["completion_tokens"]).all()  # the simulator sends a token a chunk


def test_the_end_of_a_run_says_what_matters(simulated):
    done, folder = simulated
    for word in (
        "VALID",
        "ttft.p50<5s",
        "TTFT",
        "ITL",
        "TPOT",
        "Service",
        "Response",
        "tokens",
        "binds first",
        "serverless",
        "instance",
    ):
        assert word in done.stdout, word
    assert str(folder.name) + "/report.html" in done.stdout
    assert "of 8 s:" in done.stderr  # progress goes to standard error, a line at a time where there is no terminal


def test_plan_prints_the_same_numbers_as_the_summary(simulated):
    _, folder = simulated
    done = headroom(folder.parent, "plan", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "summary.json").read_bytes())


def test_plan_takes_other_objectives_growth_and_demand(simulated):
    _, folder = simulated
    done = headroom(folder.parent, "plan", "run", "--json", "--slo", "ttft.p50<1us", "--growth", "3x")
    plan = json.loads(done.stdout)
    before = json.loads((folder / "summary.json").read_bytes())
    assert [(slo["text"], slo["met"]) for slo in plan["slos"]] == [("ttft.p50<1us", False)]
    assert plan["serverless"]["per_month_usd"] == pytest.approx(3 * before["serverless"]["per_month_usd"])
    rated = json.loads(headroom(folder.parent, "plan", "run", "--json", "--demand", "100/s").stdout)
    assert rated["serverless"]["deployments"] > before["serverless"]["deployments"]


def test_report_draws_a_run_again(simulated):
    _, folder = simulated
    done = headroom(folder.parent, "report", "run", "--out", "again.html")
    assert done.returncode == 0, done.stderr
    assert (folder.parent / "again.html").read_bytes()[:15].lower() == b"<!doctype html>"


def test_the_same_seed_sends_the_same_bytes_and_another_does_not(tmp_path):
    def bodies_of(numbered):
        number, seed = numbered
        with Server(deployment) as server:
            done = headroom(
                tmp_path,
                "run",
                "--target",
                server.url,
                *SHORT,
                "--rate",
                "10/s",
                "--seed",
                seed,
                "--out",
                f"run{number}",
                "--quiet",
                "--no-report",
            )
            assert done.returncode in (0, 4), done.stderr
            return {call.header("x-ms-client-request-id").partition("-")[2]: call.body for call in server.calls}

    bodies = side_by_side(bodies_of, enumerate((5, 5, 6)))
    assert len(bodies[0]) > 10
    assert bodies[0] == bodies[1]
    assert bodies[0] != bodies[2]


def test_rows_join_with_a_servers_log_by_id_and_clock(tmp_path):
    received = {}

    async def logging(call, writer):
        received[call.header("x-ms-client-request-id")] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        await deployment(call, writer)

    with Server(logging) as server:
        headroom(
            tmp_path, "run", "--target", server.url, *SHORT, "--rate", "10/s", "--out", "run", "--quiet", "--no-report"
        )
    run = Run.open(tmp_path / "run")
    rows = run.samples.collect()
    assert rows.height == len(received) > 10
    for row in rows.iter_rows(named=True):
        at_ns = received[f"{run.manifest.run_id[:8]}-{row['seq']}-{row['attempt']}"] - run.manifest.monotonic_start_ns
        assert row["sent_ns"] < at_ns < row["done_ns"]


def test_a_trace_is_replayed_at_its_instants_with_its_token_counts(tmp_path):
    rows = [(0, 100, 5), (0.5, 40, 7), (1.25, 900, 3), (2, 4_000, 2)]
    (tmp_path / "trace.csv").write_text(
        "at_s,prompt_tokens,completion_tokens\n" + "\n".join(",".join(map(str, row)) for row in rows)
    )
    done = headroom(
        tmp_path,
        "run",
        "--trace",
        "trace.csv",
        "--duration",
        "3s",
        "--warmup",
        "0s",
        "--out",
        "run",
        "--quiet",
        "--throttle",
        "off",
    )
    assert done.returncode == 0, done.stderr
    samples = Run.open(tmp_path / "run").samples.collect()
    assert samples["due_ns"].to_list() == [round(at_s * 1e9) for at_s, _, _ in rows]
    assert samples["prompt_tokens"].to_list() == [prompt for _, prompt, _ in rows]
    assert samples["completion_tokens"].to_list() == [completion for _, _, completion in rows]
    assert (samples["reserved_tokens"] == samples["prompt_tokens"] + samples["completion_tokens"]).all()


def test_a_closed_loop_is_labelled_and_waits_for_answers(tmp_path):
    done = headroom(
        tmp_path,
        "run",
        *SHORT,
        "--users",
        4,
        "--scenario",
        "streaming",
        "--out",
        "run",
        "--throttle",
        "off",
        "--tpm",
        10_000_000,
        "--rpm",
        100_000,
    )
    assert done.returncode in (0, 4), done.stderr
    assert "closed loop" in done.stdout
    samples = Run.open(tmp_path / "run").samples.collect()
    starts, ends = samples["sent_ns"].to_list(), samples["done_ns"].to_list()
    most = max(sum(begin <= at < end for begin, end in zip(starts, ends, strict=True)) for at in starts)
    assert most == 4


def test_the_openai_dialect_runs_against_the_simulated_deployment_too(tmp_path):
    done = headroom(
        tmp_path, "run", *SHORT, "--dialect", "openai", "--rate", "10/s", "--out", "run", "--no-report", "--quiet"
    )
    assert done.returncode in (0, 4), done.stderr
    samples = Run.open(tmp_path / "run").samples.collect()
    assert set(samples["outcome"]) == {"ok"} and set(samples["usage_source"]) == {"server"}


async def half_dead(call, writer):
    await (deployment if call.number % 2 else always(response(b"{}", "500 Oops")))(call, writer)


def test_a_run_that_half_failed_is_invalid_whatever_its_objectives(tmp_path):
    with Server(half_dead) as server:
        done = headroom(
            tmp_path,
            "run",
            "--target",
            server.url,
            *SHORT,
            "--rate",
            "20/s",
            "--slo",
            "ttft.p50<5s",
            "--out",
            "run",
            "--quiet",
        )
    assert done.returncode == 4
    assert "of the attempts failed, so the rest is no fair sample" in (tmp_path / "run" / "summary.json").read_text()
    assert "Invalid" in done.stderr


async def silent_at_times(call, writer):
    if call.number % 5 == 4:
        await asyncio.sleep(60)
    await deployment(call, writer)


def test_requests_that_are_never_answered_are_failures_and_not_forgotten(tmp_path):
    (tmp_path / "brief.toml").write_text("[load]\ndrain = 1\n")
    with Server(silent_at_times) as server:
        done = headroom(
            tmp_path,
            "run",
            "brief.toml",
            "--target",
            server.url,
            *SHORT,
            "--rate",
            "20/s",
            "--out",
            "run",
            "--quiet",
            "--no-report",
        )
    assert done.returncode == 4, done.stderr
    samples = Run.open(tmp_path / "run").samples.collect()
    unanswered = samples.filter(pl.col("error") == "drain_timeout")
    assert unanswered.height >= 5 and set(unanswered["outcome"]) == {"timeout"}


def test_a_scenario_that_prints_disturbs_nothing(tmp_path):
    (tmp_path / "loud.py").write_text(
        "from loadgen.users import DeploymentUser\nfrom loadgen.requests import chat\n"
        "class Loud(DeploymentUser):\n    def request(self, arrival):\n        print('hello', arrival.seq, flush=True)\n"
        "        return chat(self.scenario, [{'role': 'user', 'content': 'x'}], max_tokens=5)\n"
    )
    done = headroom(
        tmp_path, "run", *SHORT, "--rate", "10/s", "--scenario", "loud.py:Loud", "--out", "run", "--no-report"
    )
    assert done.returncode in (0, 4), done.stderr
    assert "hello 1" in done.stderr


def test_rows_lost_after_the_generator_counted_them_make_every_later_plan_invalid(simulated, tmp_path):
    import shutil

    shutil.copytree(simulated[1], tmp_path / "run")
    whole = pl.read_parquet(tmp_path / "run" / "samples.parquet")
    whole.head(whole.height - 3).write_parquet(tmp_path / "run" / "samples.parquet")
    plan = json.loads(headroom(tmp_path, "plan", "run", "--json").stdout)
    assert not plan["validity"]["valid"] and "the ledger does not add up" in plan["validity"]["reasons"][0]


def test_a_closed_loop_that_was_refused_is_no_measure_of_demand(tmp_path):
    async def mostly_refusing(call, writer):
        if call.number > 5:
            await asyncio.sleep(0.02)
            await always(response(b"{}", "429 Too Many", retry_after="60"))(call, writer)
        else:
            await deployment(call, writer)

    with Server(mostly_refusing) as server:
        load = ("--users", 2, "--throttle", "off", "--scenario", "streaming", *SHORT)
        done = headroom(tmp_path, "run", "--target", server.url, *load, "--out", "run", "--no-report")
    assert done.returncode == 4
    assert "asked again at once" in " ".join(done.stdout.split())


def test_a_managed_deployment_has_no_quota_and_is_planned_by_the_hour(tmp_path):
    done = headroom(
        tmp_path, "run", *SHORT, "--kind", "managed", "--rate", "20/s", "--tpm", 1_000, "--out", "run", "--no-report"
    )
    assert done.returncode in (0, 4), done.stderr
    plan = json.loads((tmp_path / "run" / "summary.json").read_bytes())
    assert plan["quota"] is None and plan["managed"]
    assert plan["traffic"]["outcomes"]["ok"] == plan["traffic"]["planned"] > 30


def test_without_a_throttle_the_endpoint_refuses_and_with_one_it_does_not(tmp_path):
    load = [
        "--rate",
        "8/s",
        "--duration",
        "4s",
        "--warmup",
        "0s",
        "--scenario",
        "streaming",
        "--tpm",
        60_000,
        "--rpm",
        60,
        "--quiet",
        "--no-report",
    ]
    (tmp_path / "burst.toml").write_text("[quota]\nburst_s = 5\n[load]\ndrain = 3\n")

    def outcomes_of(mode):
        done = headroom(tmp_path, "run", "burst.toml", *load, "--throttle", mode, "--out", mode)
        assert done.returncode in (0, 4), done.stderr
        return dict(Run.open(tmp_path / mode).samples.collect().group_by("outcome").len().iter_rows())

    modes = ("off", "pace", "feedback")
    outcomes = dict(zip(modes, side_by_side(outcomes_of, modes), strict=True))
    refused = Run.open(tmp_path / "off").samples.filter(pl.col("outcome") == "throttled").collect()
    assert (refused["retry_after_ms"] > 0).all() and (refused["status"] == 429).all()
    assert outcomes["off"]["throttled"] > 10
    assert "throttled" not in outcomes["pace"] and "throttled" not in outcomes["feedback"]
    assert outcomes["pace"]["dropped"] > 5  # still waiting when the patience ended: never sent, and recorded


def test_ctrl_c_completes_the_partial_results(tmp_path):
    process = start(tmp_path, "run", "--duration", "60s", "--warmup", "0s", "--rate", "10/s", "--out", "run")
    wait_for_rows(tmp_path / "run", 10)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 105, stderr
    run = Run.open(tmp_path / "run")
    assert (run.manifest.state, run.manifest.reason) == ("interrupted", "stopped by hand")
    assert run.manifest.totals["planned"] == run.manifest.totals["sent"] + run.manifest.totals["dropped"] >= 10
    assert (tmp_path / "run" / "report.html").exists()
    assert "interrupted" in stdout and "stopped by hand" in stdout


def test_ctrl_c_before_anything_was_sent_leaves_nothing(tmp_path):
    class Silent(Server):
        async def _serve(self, reader, writer):
            await asyncio.sleep(30)

    with Silent(deployment) as server:
        process = start(tmp_path, "run", "--target", server.url)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 105 and "interrupted" in stderr and "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


def test_ctrl_c_twice_does_not_wait_for_answers(tmp_path):
    async def never(call, writer):
        await asyncio.sleep(60)

    with Server(never) as server:
        process = start(
            tmp_path,
            "run",
            "--target",
            server.url,
            "--duration",
            "60s",
            "--rate",
            "10/s",
            "--out",
            "run",
            "--no-report",
        )
        deadline = time.monotonic() + 20
        while len(server.calls) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=30)
    assert process.returncode == 105
    assert time.monotonic() - began < 8
    assert Run.open(tmp_path / "run").samples.collect()["outcome"].unique().to_list() == ["cancelled"]


def children_of(pid):
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status, line = (path / "status").read_text(), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"PPid:\t{pid}\n" in status:
            found[int(path.name)] = line
    return found


def test_a_killed_load_process_leaves_what_it_had_sent_and_says_so(tmp_path):
    process = start(tmp_path, "run", "--duration", "60s", "--rate", "10/s", "--out", "run")
    wait_for_rows(tmp_path / "run", 10)
    load = next(pid for pid, line in children_of(process.pid).items() if "-m loadgen " in line)
    os.kill(load, signal.SIGKILL)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the load process ended with -9; what was recorded until then is in run" in stderr
    run = Run.open(tmp_path / "run")
    assert run.manifest.state == "interrupted" and run.manifest.totals["planned"] >= 10


def test_a_killed_command_takes_its_processes_with_it_and_the_folder_opens(tmp_path):
    process = start(tmp_path, "run", "--duration", "60s", "--rate", "10/s", "--out", "run")
    wait_for_rows(tmp_path / "run", 10)
    children = list(children_of(process.pid))
    assert len(children) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    run = Run.open(tmp_path / "run")
    assert run.manifest.state == "running"
    assert run.samples.collect().height >= 10
    done = headroom(tmp_path, "plan", "run")
    assert done.returncode == 0 and "INVALID" in done.stdout


REFUSALS = [
    pytest.param(
        ["--target", "https://example.com"],
        112,
        "example.com is not this machine.* --yes-target example.com",
        id="a host that was not allowed",
    ),
    pytest.param(["--target", "nonsense"], 2, "'nonsense' is no address", id="no address"),
    pytest.param(
        ["--target", "http://127.0.0.1:9"], 2, "cannot reach 127.0.0.1:9: nothing listens there", id="nothing listening"
    ),
    pytest.param(["--rate", "fast"], 2, "--rate: 'fast' is not a rate", id="no rate"),
    pytest.param(["--users", "3", "--rate", "5/s"], 2, "users and rate exclude each other", id="two shapes"),
    pytest.param(["--scenario", "chta"], 2, "scenario 'chta' is not known; did you mean 'chat'", id="unknown scenario"),
    pytest.param(["--scenario", "chat=x"], 2, "--scenario chat=x: 'x' is no weight", id="no weight"),
    pytest.param(
        ["--scenario", "none.py:Class"], 2, "scenario none.py:Class: none.py cannot be loaded", id="no scenario file"
    ),
    pytest.param(
        ["--tpm", "100", "--max-tokens", "200"],
        2,
        "every request counts 201 tokens .* never admit more than 100",
        id="never fits",
    ),
    pytest.param(
        ["--scenario", "vision", "--tpm", "2000"],
        2,
        "a request of scenario vision counts 2,.* never admit more than 2,000",
        id="a picture never fits",
    ),
    pytest.param(
        ["deep.toml", "--max-tokens", "1500"],
        2,
        "every request counts 1,501 tokens .* never admit more than 1,000",
        id="never fits our own throttle",
    ),
    pytest.param(["--trace", "trace.csv"], 2, "trace.csv, line 3: prompt_tokens is -1", id="bad trace"),
    pytest.param(
        ["--trace", "large.csv"], 2, "large.csv, line 2, counts 300,005 tokens", id="a row of a trace never fits"
    ),
    pytest.param(["none.toml"], 2, "none.toml does not exist", id="no config"),
    pytest.param(["bad.toml"], 2, "bad.toml: load.rat: unknown key; did you mean 'rate'", id="unknown key"),
    pytest.param(["--out", "taken"], 2, "taken exists already; a run never overwrites another", id="existing folder"),
    pytest.param(["--out", "trace.csv/run"], 2, "cannot write the run folder trace.csv/run", id="unwritable folder"),
    pytest.param(
        ["--key", "env:NOT_SET", "--target", "http://127.0.0.1:9"],
        2,
        "environment variable NOT_SET, which is not set",
        id="no key",
    ),
    pytest.param(["--no-such-flag"], 2, "(?i)no such option", id="unknown flag"),
]


@pytest.mark.parametrize(("arguments", "code", "complaint"), REFUSALS)
def test_a_mistake_is_told_in_one_sentence_and_leaves_nothing_behind(tmp_path, arguments, code, complaint):
    import re

    (tmp_path / "trace.csv").write_text("at_s,prompt_tokens,completion_tokens\n0,5,5\n1,-1,5\n")
    (tmp_path / "large.csv").write_text("at_s,prompt_tokens,completion_tokens\n0,300000,5\n")
    (tmp_path / "bad.toml").write_text("[load]\nrat = 5\n")
    (tmp_path / "deep.toml").write_text("[quota]\ntokens_per_minute = 1000\nburst_s = 120\n")
    (tmp_path / "taken").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = headroom(tmp_path, "run", *arguments)
    assert done.returncode == code, done.stderr
    assert re.search(complaint, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs"] == before


def test_a_refused_target_gets_not_one_byte(tmp_path):
    """127.0.0.1 is free, so the name it goes by here is one that the rails do not know."""
    with Server(deployment) as server:
        url = server.url.replace("localhost", "0.0.0.0")
        assert headroom(tmp_path, "run", "--target", url, *SHORT).returncode == 112
        assert server.connections == 0
        done = headroom(
            tmp_path,
            "run",
            "--target",
            url,
            "--yes-target",
            "0.0.0.0",
            "--budget-requests",
            1_000,
            *SHORT,
            "--out",
            "run",
            "--quiet",
            "--no-report",
        )
        assert done.returncode in (0, 4), done.stderr
        assert server.calls


def test_check_prints_the_config_and_sends_nothing(tmp_path):
    (tmp_path / "loadtest.toml").write_text('[load]\nrate = "5/s"\n')
    done = headroom(tmp_path, "run", "--check", "loadtest.toml", "--seed", "9")
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    assert (config["load"]["rate"], config["load"]["seed"], config["target"]["url"]) == (5.0, 9, "sim")
    assert [path.name for path in tmp_path.iterdir()] == ["loadtest.toml"]


def test_exit_codes_tell_an_invalid_run_and_a_missed_objective(tmp_path):
    (tmp_path / "narrow.toml").write_text("[load]\nmax_in_flight = 1\nrate = 20\n")
    quick = [*SHORT, "--no-report", "--tpm", 10_000_000, "--scenario", "streaming"]
    invalid = headroom(tmp_path, "run", "narrow.toml", *quick, "--out", "invalid")
    assert invalid.returncode == 4 and "INVALID" in invalid.stdout, invalid.stdout
    samples = Run.open(tmp_path / "invalid").samples.collect()
    dropped = samples.filter(pl.col("outcome") == "dropped")
    assert dropped.height > 5 and set(dropped["error"]) == {"max_in_flight"} and dropped["sent_ns"].is_null().all()
    missed = headroom(tmp_path, "run", *quick, "--rate", "20/s", "--slo", "ttft.p50<1us", "--out", "missed")
    assert missed.returncode == 99, missed.stdout


def test_a_scenario_of_the_users_own_runs_and_its_mistakes_are_counted(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from loadgen.users import DeploymentUser\n"
        "from loadgen.requests import chat\n"
        "class Mine(DeploymentUser):\n"
        "    def request(self, arrival):\n"
        "        if arrival.seq > 64 and arrival.seq % 2:\n"
        "            raise KeyError('mine')\n"
        "        return chat(self.scenario, [{'role': 'user', 'content': 'hello'}], max_tokens=5)\n"
    )
    done = headroom(
        tmp_path,
        "run",
        *SHORT,
        "--rate",
        "60/s",
        "--rpm",
        "100000",
        "--scenario",
        "mine.py:Mine",
        "--out",
        "run",
        "--no-report",
    )
    assert done.returncode == 4, done.stderr
    samples = Run.open(tmp_path / "run").samples.collect()
    failed = samples.filter(pl.col("error") == "scenario_failed")
    assert failed.height > 20 and set(failed["outcome"]) == {"dropped"}
    assert samples.height == samples["seq"].max() + 1
    assert "the scenario raised an error for them" in done.stdout
    assert "scenario mine.py:Mine raised KeyError: 'mine'" in {
        note["text"] for note in Run.open(tmp_path / "run").notes
    }


def test_progress_that_nobody_reads_does_not_stop_the_load():
    script = (
        "from loadgen.__main__ import Voice; voice = Voice()\n"
        "for _ in range(500): voice.say('progress', text='x' * 1_000)\n"
        "import sys; sys.stderr.write('done')"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr.read() == b"done"  # while standard output is full
    lines = process.stdout.read().splitlines()
    assert process.wait() == 0
    assert 10 < len(lines) < 500
    assert {json.loads(line)["event"] for line in lines} == {"progress"}


CANARY_FORMS = [
    CANARY,
    base64.b64encode(CANARY.encode()).decode(),
    urllib.parse.quote(f"Bearer {CANARY}"),
    CANARY[:12],
    CANARY[-12:],
]


async def echo_the_key(call, writer):
    body = json.dumps(
        {"error": {"code": f"bad {call.header('api-key')}", "message": f"{call.header('authorization')} is wrong"}}
    )
    status = "401 Unauthorized" if call.number % 2 else "400 Bad Request"
    writer.write(response(body.encode(), status, x_ms_error_code=call.header("api-key")))


async def cut_short(call, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + (call.header("api-key") or "").encode())
    await writer.drain()
    writer.close()


async def error_in_stream(call, writer):
    await stream({"error": {"code": call.header("api-key"), "message": call.header("authorization")}})(call, writer)


async def odd_type(call, writer):
    writer.write(response(b"x", content_type=call.header("api-key")))


SOME = (
    "answers that repeat the key",
    "refusals by quota",
    "timeouts",
    "redirects",
    "good answers",
    "a failing scenario",
)
FAILURES = {
    "answers that repeat the key": (echo_the_key, []),
    "answers that are cut": (cut_short, []),
    "errors within streams": (error_in_stream, []),
    "a content type that is the key": (odd_type, []),
    "server errors": (always(response(b"{}", "500 Oops")), []),
    "refusals by quota": (always(response(b"{}", "429 Too Many", retry_after="0")), ["--throttle", "feedback"]),
    "timeouts": (always(b""), ["timeouts.toml"]),
    "no HTTP": (always(b"garbage\r\n\r\n"), []),
    "redirects": (always(response(b"", "302 Found", location="http://127.0.0.1:1/")), []),
    "good answers": (deployment, []),
    "a failing scenario": (deployment, ["--scenario", "leaky.py:Leaky"]),
}


@pytest.fixture(
    scope="module", params=[SOME, pytest.param(FAILURES.keys() - SOME, marks=pytest.mark.long)], ids=["some", "others"]
)
def failed_with_a_key(request, tmp_path_factory):
    """By failure: the folder of a run that carried the key into it, and what the command said."""

    def run_into(failure):
        script, extra = FAILURES[failure]
        cwd = tmp_path_factory.mktemp("key")
        (cwd / "timeouts.toml").write_text("[timeouts]\nfirst_byte = 0.3\n")
        (cwd / "leaky.py").write_text(
            "from loadgen.users import DeploymentUser\nfrom loadgen.requests import chat\n"
            "class Leaky(DeploymentUser):\n    def request(self, arrival):\n        if arrival.seq > 63: raise ValueError(self.player.lane.credential, vars(self.player.lane.credential).keys())\n"
            "        return chat(self.scenario, [], max_tokens=1)\n"
        )
        with Server(script) as server:
            done = headroom(
                cwd, "run", *extra, "--target", server.url, "--duration", "1.5s", "--warmup", "0s", "--rate", "60/s", "--rpm", "99999",
                "--tpm", 9_999_999, "--out", "run", AZURE_INFERENCE_CREDENTIAL=CANARY,
            )  # fmt: skip
            assert any(call.header("authorization") == f"Bearer {CANARY}" for call in server.calls), done.stderr
        return cwd, done

    failures = sorted(request.param)
    return dict(zip(failures, side_by_side(run_into, failures), strict=True))


def test_the_key_is_in_no_file_and_on_no_screen(failed_with_a_key):
    for failure, (folder, done) in failed_with_a_key.items():
        assert_no_canary(folder, done)
        rows = Run.open(folder / "run").samples.collect().write_csv()
        assert not any(form in rows for form in CANARY_FORMS), failure


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Oops", "200 OK"])
def test_the_key_is_not_in_what_the_probe_says(tmp_path, status):
    with Server(deployment) as server:
        server.info = response(CANARY.encode(), status, location=f"http://127.0.0.1:1/{CANARY}")
        done = headroom(tmp_path, "run", "--target", server.url, AZUREAI_ENDPOINT_KEY=CANARY)
        assert done.returncode == 2 and not server.calls
    assert_no_canary(tmp_path, done)


@pytest.mark.parametrize(
    "arguments",
    [["--key", CANARY], ["--target", f"http://u:{CANARY}@localhost"], ["--target", f"http://localhost/?k={CANARY}"]],
)
def test_a_key_given_in_the_wrong_place_is_not_repeated(tmp_path, arguments):
    done = headroom(tmp_path, "run", *arguments)
    assert done.returncode == 2
    assert_no_canary(tmp_path, done)


def assert_no_canary(folder, done):
    texts = {"stdout": done.stdout, "stderr": done.stderr}
    for path in folder.rglob("*"):
        if path.is_file():
            texts[path.name] = path.read_bytes().decode("latin-1")
    for name, text in texts.items():
        assert not any(form in text for form in CANARY_FORMS), name


@pytest.mark.parametrize("name", ["chat", "streaming", "vision"])
def test_scenarios_run_under_plain_locust(tmp_path, name):
    with Server(deployment) as server:
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "scenarios" / f"{name}.py"), "--host", server.url]
        command += ["--headless", "--users", "3", "--run-time", "3s", "--json-file", str(tmp_path / "stats")]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (stats,) = json.loads((tmp_path / "stats.json").read_text())
    assert stats["name"] == name and stats["num_requests"] > 10 and stats["num_failures"] == 0


def test_a_scenario_runs_from_locusts_own_web_page(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Server(deployment) as server:
        command = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            "scenarios/chat.py",
            "--web-host",
            "127.0.0.1",
            "--web-port",
            str(port),
        ]
        locust = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as page:
                for _ in range(100):
                    try:
                        page.get("/")
                        break
                    except httpx.ConnectError:
                        time.sleep(0.1)
                page.post("/swarm", data={"user_count": 2, "spawn_rate": 2, "host": server.url})
                time.sleep(2)
                stats = page.get("/stats/requests").json()
                page.post("/stop")
                time.sleep(1)
                served = len(server.calls)
                page.post("/swarm", data={"user_count": 1, "spawn_rate": 1, "host": "http://example.com"})
                time.sleep(1)
                page.post("/stop")
        finally:
            locust.terminate()
            locust.wait(10)
    assert stats["stats"][0]["name"] == "chat" and stats["stats"][0]["num_requests"] > 5
    assert stats["stats"][0]["num_failures"] == 0
    assert len(server.calls) == served  # the second host needs a yes of its own, and the first is not loaded instead


def test_plain_locust_keeps_to_the_rails(tmp_path):
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "scenarios/chat.py",
        "--headless",
        "--users",
        "1",
        "--run-time",
        "2s",
    ]
    command += ["--host", "http://example.com"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert "example.com is not this machine" in done.stderr and done.returncode != 0


def test_scenarios_are_short():
    for path in (ROOT / "scenarios").glob("*.py"):
        assert len(path.read_text().splitlines()) < 80, path
