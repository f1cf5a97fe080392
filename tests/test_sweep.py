"""headroom sweep, end to end: real steps against simulated deployments whose limit is known."""

import inspect
import json
import math
import random
import re
import signal
import time

import polars as pl
import pytest

from dashboards.sweep_report import render
from headroom import planning
from headroom.commands.load import run as run_command
from headroom.commands.sweep import sweep as sweep_command
from loadgen.samples import Run
from loadgen.simulator.endpoint import EndpointSettings
from loadgen.simulator.hardware import batching_of
from loadgen.simulator.virtual import replay
from planner import swept
from planner.sweep import Verdict
from tests.commands import headroom, start
from tests.simulators import simulated
from tests.test_sweep_search import of, searched

# Four sequences at once, 20 tokens each of 5 ms an iteration: no more than 40 requests a second.
FOUR_SLOTS = {"iteration_base_ms": 5, "iteration_per_sequence_ms": 0, "prefill_per_token_ms": 0, "max_running": 4}
MANAGED = ["--kind", "managed", "--scenario", "streaming", "--max-tokens", 20, "--arrivals", "constant"]
QUICK = ["--step-duration", "2s", "--from-rate", "25/s", "--to-rate", "60/s", "--steps", 2, "--tolerance", "200%"]
FIT = (
    "rate_per_s", "prompt_tokens", "completion_tokens", "itl_mean_ms", "itl_p95_ms", "ttft_p50_ms", "ttft_p95_ms",
    "e2e_mean_s", "concurrency",
)  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Two steps, on either side of what the deployment can do."""
    cwd = tmp_path_factory.mktemp("sweep")
    with simulated("--kind", "managed", serving=FOUR_SLOTS) as server:
        target = ["--target", server.url, *MANAGED, "--slo", "ttft.p90<300ms", "--instances", 1]
        done = headroom(cwd, "sweep", *target, *QUICK, "--out", "sw")
    return done, cwd / "sw"


def test_a_sweep_ends_between_what_met_and_what_did_not(quick):
    done, folder = quick
    assert done.returncode == 0, done.stderr + done.stdout
    sweep = swept.read(folder)
    assert sweep.state == "complete"
    assert (sweep.result.met_at_per_s, sweep.result.missed_at_per_s) == (25, pytest.approx(60))
    assert sweep.result.missed_as in (Verdict.MISSED, Verdict.SATURATED)
    words = " ".join(done.stdout.split())
    assert "ttft.p90<300ms is met at 25 requests/s, " in words
    assert re.search(r"25\.0/s +met ", done.stdout)
    assert "FOUND" in words


def test_a_sweep_is_one_folder_of_whole_runs_and_a_table_to_fit_from(quick):
    _, folder = quick
    steps = pl.read_parquet(folder / "steps.parquet")
    assert set(FIT) <= set(steps.columns)
    assert {"offered_per_s", "completed_per_s", "verdict", "quota_limited", "client_limited"} <= set(steps.columns)
    assert steps.select(pl.col(FIT).is_null().any()).sum_horizontal().item() <= 2  # p95s of a step that was cut short
    for step in steps.iter_rows(named=True):
        run = Run.open(folder / step["folder"])
        assert run.manifest.state == "complete"
        assert run.manifest.config["load"]["rate"] == step["rate_per_s"]
        assert (folder / step["folder"] / "summary.json").exists()
    seeds = [Run.open(folder / name).manifest.seed for name in steps["folder"]]
    assert len(set(seeds)) == len(seeds)  # no step sends what another has sent
    best = steps.filter(pl.col("rate_per_s") == 25).row(-1, named=True)
    assert best["concurrency"] == pytest.approx(best["completed_per_s"] * best["e2e_mean_s"], rel=0.25)  # Little


def test_plan_takes_what_an_instance_holds_from_the_best_step(quick, capsys):
    _, folder = quick
    planning.plan_from_runs([folder], planning.Options(), as_json=True)
    estimate = json.loads(capsys.readouterr().out)["instances"]
    assert "held by one instance, at 25 requests/s" in estimate["concurrency_source"]
    best = swept.best_step(swept.read(folder))
    assert estimate["concurrency_per_instance"] == pytest.approx(best.concurrency, abs=1)
    assert estimate["instances"] == 1  # it has just served this


def test_the_report_of_a_sweep_draws_latency_over_load(quick):
    _, folder = quick
    page = (folder / "report.html").read_text()
    assert "versus-load-ttft" in page
    assert "met at 25 requests/s" in page
    assert render(swept.read(folder)) == page


def test_the_record_of_a_sweep_reads_back_as_it_was(quick):
    _, folder = quick
    sweep = swept.read(folder)
    assert swept.to_json(sweep) == (folder / "sweep.json").read_bytes()
    assert swept.steps_frame(sweep).equals(pl.read_parquet(folder / "steps.parquet"))


def test_sweep_takes_the_flags_of_run_but_those_of_its_shape():
    theirs, ours = (inspect.signature(each).parameters for each in (run_command, sweep_command))
    assert set(theirs) - set(ours) == {
        "users", "spawn_rate", "think_time", "rate", "spike", "diurnal", "stages", "duration",
        "trace", "speed", "from_", "scale", "skip_bad_rows", "master", "bind", "workers", "repeat",
        "junit", "markdown", "github", "json_",  # a sweep is no gate
    }  # fmt: skip
    shared = set(theirs) & set(ours) - {"file", "out"}
    assert {name: theirs[name].default for name in shared} == {name: ours[name].default for name in shared}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--from-rate", "5/s", "--to-rate", "5/s"], "--to-rate 5/s is not above", id="no way up"),
        pytest.param(["--from-rate", "fast"], "--from-rate: 'fast' is not a rate", id="no rate"),
        pytest.param(["--steps", "1"], "--steps: 1 is not between 2 and 50", id="one step"),
        pytest.param(["--tolerance", "wide"], "--tolerance: 'wide' is no share", id="no share"),
        pytest.param(["--step-duration", "2s", "--warmup", "3s"], "warmup 3 s", id="nothing but warm-up"),
    ],
)
def test_a_mistake_is_named_before_anything_is_sent(arguments, complaint, capsys, monkeypatch):
    from headroom.cli import main

    monkeypatch.setattr("sys.argv", ["headroom", "sweep", *arguments])
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert complaint in capsys.readouterr().err


def test_no_step_waits_for_workers_elsewhere(tmp_path, capsys, monkeypatch):
    from headroom.cli import main

    (tmp_path / "spread.toml").write_text('[target]\nurl = "http://127.0.0.1:9"\n[load]\nmaster = true\n')
    monkeypatch.setattr("sys.argv", ["headroom", "sweep", str(tmp_path / "spread.toml")])
    assert main() == 2
    assert "load.master: each step" in capsys.readouterr().err


@pytest.mark.long
def test_ctrl_c_keeps_the_steps_that_were_finished(tmp_path):
    with simulated("--kind", "managed", serving=FOUR_SLOTS) as server:
        target = ["--target", server.url, *MANAGED, "--slo", "ttft.p90<300ms"]
        process = start(tmp_path, "sweep", *target, *QUICK, "--no-report", "--out", "sw")
        deadline = time.monotonic() + 40
        while not (tmp_path / "sw" / "steps" / "02" / "parts").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
    assert process.returncode == 105, err
    sweep = swept.read(tmp_path / "sw")
    assert (sweep.state, len(sweep.steps), sweep.result) == ("interrupted", 1, None)
    assert "The sweep did not end" in " ".join(out.split())


def first_token_waits(rate, seconds, deployment, seed, warmup_s=0.0):
    """Of Poisson arrivals, by the simulator's own model, in virtual time; ns."""
    iteration_ms, slots, tokens = deployment
    serving = {"iteration_base_ms": iteration_ms, "max_running": slots, "iteration_per_sequence_ms": 0}
    model = batching_of("Phi-3-mini-4k-instruct", "Standard_NC24ads_A100_v4", serving | {"prefill_per_token_ms": 0})
    dice, at_s, arrivals = random.Random(seed), 0.0, []
    while (at_s := at_s + dice.expovariate(rate)) < seconds:
        arrivals.append((round(at_s * 1e9), 120, tokens))
    served = replay(arrivals, model, EndpointSettings(max_concurrent_per_instance=10_000, request_timeout_ms=180_000))
    return [first - at for first, at in zip(served.first_token_ns, served.at_ns, strict=True) if at >= warmup_s * 1e9]


def true_rate(iteration_ms, slots, tokens, limit_s):
    """At which 5 % wait longer for their first token, in the long run."""
    low, high = 1.0, 1_000 * slots / (iteration_ms * tokens)
    for _ in range(10):
        middle = (low + high) / 2
        waits = first_token_waits(middle, 20_000 / middle, (iteration_ms, slots, tokens), 7)
        beyond = sum(wait > limit_s * 1e9 for wait in waits) / len(waits)
        low, high = (middle, high) if beyond <= 0.05 else (low, middle)
    return low


@pytest.mark.long
@pytest.mark.parametrize(("deployment", "limit_s"), [((5, 4, 20), 0.2), ((12, 16, 60), 0.5)])
def test_in_virtual_time_the_rate_found_is_within_a_tenth_of_what_the_deployment_can_do(deployment, limit_s):
    known = true_rate(*deployment, limit_s)

    def measure(trial):
        waits = first_token_waits(trial.rate_per_s, 5 + 25 * trial.times_as_long, deployment, str(trial), warmup_s=5)
        return of(trial.rate_per_s, len(waits), sum(wait > limit_s * 1e9 for wait in waits))

    finding, _ = searched(measure)
    assert math.sqrt(finding.met_at_per_s * finding.missed_at_per_s) == pytest.approx(known, rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize(("iteration_ms", "slots", "tokens"), [(5, 4, 20), (4, 3, 25)])  # 19 to 24 requests/s
def test_the_rate_found_is_within_a_tenth_of_what_the_deployment_can_do(tmp_path, iteration_ms, slots, tokens):
    known = true_rate(iteration_ms, slots, tokens, 0.2)
    serving = FOUR_SLOTS | {"iteration_base_ms": iteration_ms, "max_running": slots}
    mix = ["--kind", "managed", "--scenario", "streaming", "--max-tokens", tokens]
    ask = [
        "--slo",
        "ttft.p95<200ms",
        "--from-rate",
        "2/s",
        "--to-rate",
        "100/s",
        "--steps",
        4,
        "--step-duration",
        "30s",  # 29 of 30 in virtual time; of some 10 requests/s, or of 20 s, more are off by chance
    ]
    with simulated("--kind", "managed", serving=serving) as server:
        command = ["sweep", "--target", server.url, *mix, *ask, "--no-report", "--quiet", "--out", "sw"]
        done = start(tmp_path, *command)
        _, complaints = done.communicate(timeout=1_500)
    if done.returncode == 4:
        pytest.skip(f"other programs kept this machine from measuring: {swept.read(tmp_path / 'sw').sentence}")
    assert done.returncode == 0, complaints
    result = swept.read(tmp_path / "sw").result
    assert math.sqrt(result.met_at_per_s * result.missed_at_per_s) == pytest.approx(known, rel=0.1)


@pytest.mark.long
def test_the_budget_is_the_whole_sweeps(tmp_path):
    with simulated("--kind", "managed", serving=FOUR_SLOTS) as server:
        target = ["--target", server.url, *MANAGED, "--slo", "ttft.p90<300ms", "--budget-requests", 80]
        done = headroom(tmp_path, "sweep", *target, *QUICK, "--no-report", "--out", "sw")
    assert done.returncode == 111, done.stderr
    sweep = swept.read(tmp_path / "sw")
    assert sweep.state == "interrupted"
    assert "budget" in sweep.reason
    finished = [step.folder for step in sweep.steps]
    sent = [Run.open(folder).manifest.totals["sent"] for folder in sorted((tmp_path / "sw" / "steps").iterdir())]
    assert sum(sent) == 80
    assert len(sent) == len(finished) + 1
