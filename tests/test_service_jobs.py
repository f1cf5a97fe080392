"""Jobs as real processes: run to their end, cancelled, survived by a killed service, and never run twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headroom.service import claims
from headroom.service.job_process import claim_path
from loadgen.samples import Manifest, Run, check_ledger
from tests.commands import environment, headroom
from tests.kills import descendants
from tests.services import SHORT, end, end_jobs, job_of, serving, started, submit, wait_for

LONG = {**SHORT, "load": {"rate": 10, "duration": "60s", "warmup": "0s", "max_tokens": 5}}
SLOW_ANSWERS = {**LONG, "load": {**LONG["load"], "drain": "60s"}}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One for all tests that do not kill it: a start takes a second of a core."""
    runs = tmp_path_factory.mktemp("service") / "runs"
    with serving(runs) as service:
        service.runs = runs
        yield service


def claim_of(runs, job_id, launch=1):
    return claim_path(runs / ".service" / "jobs" / job_id, launch)


def listening(pids):
    """`address:port` in hexadecimal, of sockets that processes listen on."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]


def test_a_job_runs_to_its_end_and_the_next_waits_for_it_and_can_be_cancelled(service, tmp_path):
    """One story, since each run takes seconds: two jobs, the second waits, is cancelled while it runs."""
    (tmp_path / "loadtest.toml").write_text('[load]\nrate = 10\nduration = "1s"\nwarmup = "0s"\nmax_tokens = 5\n')
    flags = ("--server", service.url, "--wait", "--tag", "nightly", "--name", "first")
    command = [sys.executable, "-m", "headroom", "submit", "loadtest.toml", *flags]
    waiting = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = waiting.stdout.readline().strip()
    second = submit(service.client, LONG)
    wait_for(service.client, first, "running")
    assert job_of(service.client, second)["state"] == "queued"
    _, words = waiting.communicate(timeout=60)
    done = wait_for(service.client, first)
    assert (done["state"], done["run"], done["tags"]) == ("done", first, ["nightly"])
    assert waiting.returncode == done["exit_code"], words
    check_ledger(Manifest.read(service.runs / first).totals)
    assert service.client.get(f"/api/runs/{first}/summary").json()["run_ids"]

    wait_for(service.client, second, "running")
    while service.client.get(f"/api/jobs/{second}").json()["progress"] is None:
        time.sleep(0.1)
    pid = claims.read(claim_of(service.runs, second)).pid
    addresses = listening([pid, *descendants(pid)])
    assert len(addresses) == 1 and addresses[0].startswith("0100007F:"), "the simulated deployment, on loopback alone"
    shown = headroom(tmp_path, "jobs", second, "--server", service.url)
    assert f"{second}: running" in shown.stdout
    asked_s = time.monotonic()
    assert headroom(tmp_path, "cancel", second, "--server", service.url).stdout == "it is told to end\n"
    assert wait_for(service.client, second, seconds=30)["state"] == "cancelled"
    assert time.monotonic() - asked_s < 20  # ten seconds, and what a machine that is busy makes of them
    assert Manifest.read(service.runs / second).state == "interrupted"
    assert (service.runs / second / "summary.json").exists()


def test_a_plan_is_a_job_too(service):
    runs = [run["id"] for run in service.client.get("/api/runs").json()["runs"]]
    if not runs:
        runs = [wait_for(service.client, submit(service.client))["run"]]
    job = submit(service.client, {"runs": runs[-1:], "growth": "2x"}, kind="plan")
    assert wait_for(service.client, job)["state"] == "done"
    assert service.client.get(f"/api/jobs/{job}/plan").json()["run_ids"]


def test_what_cannot_be_answered_is_said_by_the_commands(service, tmp_path):
    (tmp_path / "bad.toml").write_text("[load]\nrat = 5\n")
    refused = headroom(tmp_path, "submit", "bad.toml", "--server", service.url)
    assert refused.returncode == 2
    assert refused.stderr == "headroom: loadtest.toml: load.rat: unknown key; did you mean 'rate'?\n"
    gone = headroom(tmp_path, "cancel", "nothing", "--server", service.url)
    assert (gone.returncode, gone.stderr) == (2, "headroom: there is no such job\n")
    away = headroom(tmp_path, "jobs", "--server", "http://127.0.0.1:9")
    assert away.returncode == 1 and "is `headroom serve` running?" in away.stderr


def test_a_second_service_on_the_same_runs_is_refused(service, tmp_path):
    second = headroom(tmp_path, "serve", "--runs", service.runs, "--port", "0")
    assert second.returncode == 2 and "another service works on" in second.stderr


def kill_and_restart(runs, kills, seed):
    """Submit jobs, and kill the service at random moments, `kills` times; what each job has come to."""
    dice, asked = random.Random(seed), []
    service = started(runs)
    import httpx

    for _ in range(kills):
        with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
            asked += [submit(client) for _ in range(dice.choice((0, 1, 1, 2)) or not asked)]
            if dice.random() < 0.2:
                client.delete(f"/api/jobs/{asked[-1]}")
        time.sleep(dice.choice((0.0, dice.uniform(0, 0.4), dice.uniform(0, 3.0))))
        end(service)
        service = started(runs)
    with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
        ended = [wait_for(client, job_id, seconds=600) for job_id in asked]
        listed = client.get("/api/jobs", params={"limit": 1000}).json()["jobs"]
    end(service, signal.SIGTERM)
    assert service.process.returncode == 0
    end_jobs(runs)
    assert sorted(job["id"] for job in listed) == sorted(asked), "no job is lost"
    return ended


def check_ended(runs, ended):
    """None was run twice, and each folder is whole."""
    for job in ended:
        folder = runs / ".service" / "jobs" / job["id"]
        begun = [claim for claim in folder.glob("claim-*") if claims.read(claim) is not None]
        assert len(begun) <= 1, f"{job} began {len(begun)} times"
        assert job["state"] in ("done", "cancelled"), job
        assert bool(begun) == (job["run"] is not None) or job["state"] == "cancelled", job
        if job["run"] is not None:
            run = Run.open(runs / job["run"])
            check_ledger(run.manifest.totals)
            assert run.manifest.state == ("complete" if job["state"] == "done" else "interrupted"), job
            assert run.samples.collect().height == run.manifest.files["samples.parquet"]["rows"]
            assert (run.folder / "summary.json").exists()
            assert not (run.folder / "parts").exists()
    assert {path.name for path in runs.iterdir()} - {".service"} == {job["run"] for job in ended} - {None}


def test_a_service_that_is_killed_loses_no_job_and_runs_none_twice(tmp_path):
    runs = tmp_path / "runs"
    check_ended(runs, kill_and_restart(runs, kills=3, seed=1))


@pytest.mark.long
def test_a_service_that_is_killed_fifty_times_loses_no_job_and_runs_none_twice(tmp_path):
    runs = tmp_path / "runs"
    check_ended(runs, kill_and_restart(runs, kills=50, seed=2))


@pytest.mark.long
def test_a_job_whose_own_process_is_killed_is_interrupted_and_recovered(tmp_path):
    runs = tmp_path / "runs"
    with serving(runs) as service:
        job = submit(service.client, LONG)
        while (service.client.get(f"/api/jobs/{job}").json()["progress"] or {}).get("sent", 0) < 10:
            time.sleep(0.1)
        os.kill(claims.read(claim_of(runs, job)).pid, signal.SIGKILL)
        ended = wait_for(service.client, job)
        assert (ended["state"], ended["exit_code"]) == ("interrupted", None)
        manifest = Manifest.read(runs / job)
        assert manifest.state == "interrupted" and manifest.totals["sent"] >= 5
        assert (runs / job / "summary.json").exists()
        assert wait_for(service.client, submit(service.client))["state"] == "done", "the next one runs"
