"""The main job, end to end: real processes, a deployment on loopback, and the whole run folder."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise

import polars as pl
import pytest

from headroom.targets import simulated_model
from loadgen.samples import Run
from loadgen.simulator.models import Images, Kind, model_of
from tests.commands import headroom, told, undisturbed


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """One short run of the main job, for all tests that only read it."""
    times = ["--duration", "4s", "--warmup", "1s", "--rate", "25/s"]
    quota = ["--tpm", 1_200_000, "--rpm", 3_000]
    cwd = tmp_path_factory.mktemp("simulated")

    def play(name):
        return headroom(cwd, "run", *times, *quota, "--slo", "ttft.p50<5s", "--out", name), cwd / name

    done, folder = undisturbed(play)
    assert done.returncode == 0, done.stdout[:2_000] + done.stderr
    return done, folder


def test_the_main_job_leaves_a_whole_run_folder(simulated):
    _, folder = simulated
    names = {path.name for path in folder.iterdir()}
    parquet = {"schedule.parquet", "samples.parquet", "chunks.parquet"}
    assert names == {"notes.jsonl", "manifest.json", "summary.json", "report.html"} | parquet
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
    assert "of 4 s:" in done.stderr  # progress goes to standard error, a line at a time where there is no terminal


def test_plan_prints_the_same_numbers_as_the_summary(simulated):
    _, folder = simulated
    done = headroom(folder.parent, "plan", folder.name, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "summary.json").read_bytes())


def test_plan_takes_other_objectives_growth_and_demand(simulated):
    _, folder = simulated
    done = told(folder.parent, "plan", folder.name, "--json", "--slo", "ttft.p50<1us", "--growth", "3x")
    plan = json.loads(done.stdout)
    before = json.loads((folder / "summary.json").read_bytes())
    assert [(slo["text"], slo["met"]) for slo in plan["slos"]] == [("ttft.p50<1us", False)]
    assert plan["serverless"]["per_month_usd"] == pytest.approx(3 * before["serverless"]["per_month_usd"])
    rated = json.loads(told(folder.parent, "plan", folder.name, "--json", "--demand", "60/s").stdout)
    assert rated["serverless"]["deployments"] > before["serverless"]["deployments"]


def test_report_draws_a_run_again(simulated):
    _, folder = simulated
    done = told(folder.parent, "report", folder.name, "--out", "again.html")
    assert done.returncode == 0, done.stderr
    assert (folder.parent / "again.html").read_bytes()[:15].lower() == b"<!doctype html>"


def test_rows_lost_after_the_generator_counted_them_make_every_later_plan_invalid(simulated, tmp_path):
    shutil.copytree(simulated[1], tmp_path / "run")
    whole = pl.read_parquet(tmp_path / "run" / "samples.parquet")
    whole.head(whole.height - 3).write_parquet(tmp_path / "run" / "samples.parquet")
    plan = json.loads(told(tmp_path, "plan", "run", "--json").stdout)
    assert not plan["validity"]["valid"] and "the ledger does not add up" in plan["validity"]["reasons"][0]


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
