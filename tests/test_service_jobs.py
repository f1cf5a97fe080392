"""Jobs as real processes: run to their end, cancelled, survived by a killed service, and never run twice."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from headroom.service import claims
from headroom.service.job_process import claim_path
from loadgen.samples import Manifest, Run, check_ledger
from tests.commands import environment, told
from tests.kills import descendants
from tests.runs import synthetic_run
from tests.servers import Server
from tests.services import SHORT, end, end_jobs, job_of, serving, started, submit, wait_for

pytestmark = pytest.mark.aside

LONG = {**SHORT, "load": {"rate": 10, "duration": "60s", "warmup": "0s", "max_tokens": 5}}
REFUSED = {"kind": "plan", "config": {"runs": ["run"], "growth": "none"}}  # as soon as it has begun


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One for all tests that do not kill it: a start takes a second of a core."""
    runs = tmp_path_factory.mktemp("service") / "runs"
    with serving(runs) as service:
        service.runs = runs
        yield service


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


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


def test_a_job_that_runs_is_cancelled_within_seconds_and_its_record_is_whole(service, tmp_path):
    job, waiting = submit(service.client, LONG), submit(service.client, LONG)
    while service.client.get(f"/api/jobs/{job}").json()["progress"] is None:
        time.sleep(0.1)
    assert job_of(service.client, waiting)["state"] == "queued", "one at a time"
    assert told(tmp_path, "cancel", waiting, "--server", service.url).stdout == "cancelled\n"
    pid = claims.read(claim_of(service.runs, job)).pid
    addresses = listening([pid, *descendants(pid)])
    assert len(addresses) == 1 and addresses[0].startswith("0100007F:"), "the simulated deployment, on loopback alone"
    page = httpx.get(f"http://127.0.0.1:{int(addresses[0].partition(':')[2], 16)}/", trust_env=False)
    assert page.status_code == 404 and "locust" not in page.text.lower(), "no page of Locust's"
    assert f"{job}: running" in told(tmp_path, "jobs", job, "--server", service.url).stdout
    asked_s = time.monotonic()
    assert told(tmp_path, "cancel", job, "--server", service.url).stdout == "it is told to end\n"
    ended = wait_for(service.client, job, seconds=40)
    assert time.monotonic() - asked_s < 25  # ten seconds, and what a machine that is busy makes of them
    assert (ended["state"], ended["exit_code"], ended["run"]) == ("cancelled", 105, job)
    assert Manifest.read(service.runs / job).state == "interrupted"
    assert service.client.get(f"/api/runs/{job}/summary").json()["run_ids"]
    listed = told(tmp_path, "jobs", "--server", service.url).stdout
    assert listed.count("  cancelled\n") == 2


def test_what_cannot_be_answered_is_said_by_the_commands(service, tmp_path):
    (tmp_path / "bad.toml").write_text("[load]\nrat = 5\n")
    refused = told(tmp_path, "submit", "bad.toml", "--server", service.url)
    assert refused.returncode == 2
    assert refused.stderr == "headroom: bad.toml: load.rat: unknown key; did you mean 'rate'?\n"
    gone = told(tmp_path, "cancel", "nothing", "--server", service.url)
    assert (gone.returncode, gone.stderr) == (2, "headroom: there is no job 'nothing'\n")
    away = told(tmp_path, "jobs", "--server", "http://127.0.0.1:9")
    assert away.returncode == 1 and "is `headroom serve` running?" in away.stderr
    (tmp_path / "good.toml").write_text('[load]\nrate = 5\nduration = "10s"\n')
    scheduled = told(tmp_path, "submit", "good.toml", "--server", service.url, "--schedule", "0 2 29 2 *")
    schedule = scheduled.stdout.strip()
    assert "scheduled; next at 2028-02-29T02:00" in scheduled.stderr
    assert f"{schedule}: good, scheduled 0 2 29 2 *" in told(tmp_path, "jobs", "--server", service.url).stdout
    assert told(tmp_path, "cancel", schedule, "--server", service.url).stdout == "deleted\n"
    assert schedule not in told(tmp_path, "jobs", "--server", service.url).stdout
    (tmp_path / "plan.toml").write_text('runs = ["gone"]\ngrowth = "3x"\n')
    no_run = told(tmp_path, "submit", "plan.toml", "--server", service.url)
    assert (no_run.returncode, no_run.stderr) == (2, "headroom: there is no run 'gone'\n")
    nowhere = told(tmp_path, "jobs", "--server", "somewhere")
    assert nowhere.returncode == 2 and "--server" in nowhere.stderr


def test_a_head_without_end_is_refused(service):
    place = urlsplit(service.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + b"a: " + b"x" * 40_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_a_second_service_on_the_same_runs_is_refused(service, tmp_path):
    second = told(tmp_path, "serve", "--runs", service.runs, "--port", "0")
    assert second.returncode == 2 and "another service works on" in second.stderr


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--host", "0.0.0.0"), "needs a token"),
        (("--host", "0.0.0.0", "--token-file", "none"), "--token-file none cannot be read"),
        (("--allow-target", "https://a.example,secret"), "where the key is"),
        (("--allow-target", "a.example"), "is no address"),
        (("--allow-target", "https://a.example,env:NOT_SET"), "on the service's machine, the key is to come from"),
        (("--allow-target", "https://a.example,file:none"), "none, which cannot be read"),
        (("--data", "none"), "--data none is no folder"),
        (("--max-duration", "long"), "--max-duration: 'long'"),
        (("--port", "1", "--host", "192.0.2.1", "--token-file", "token"), "cannot be had"),
    ],
)
def test_a_service_that_cannot_be_as_asked_does_not_start(tmp_path, flags, fault):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    refused = told(tmp_path, "serve", *flags)
    assert refused.returncode == 2 and fault in refused.stderr, refused


def test_whoever_ends_the_service_is_told_what_goes_on_without_it(tmp_path):
    service = started(tmp_path / "runs")
    try:
        with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
            job = submit(client, LONG)
            while not claims.lives(claim_of(tmp_path / "runs", job)):
                time.sleep(0.05)
        service.process.send_signal(signal.SIGINT)
        _, words = service.process.communicate(timeout=20)
        assert service.process.returncode == 0
        assert f"1 job is still running ({job})" in words
        assert f"to stop it: touch {tmp_path / 'runs' / job / 'STOP'}" in words
    finally:
        service.process.kill()
        end_jobs(tmp_path / "runs")


def test_the_unit_of_systemd_leaves_running_jobs_alone_and_starts_the_service_with_flags_it_has(tmp_path):
    unit = (Path(__file__).parent.parent / "deploy" / "headroom.service").read_text()
    (command,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    help_text = told(tmp_path, "serve", "--help").stdout
    assert "KillMode=process" in unit.splitlines()
    assert all(word in help_text for word in command.split() if word.startswith("--"))


@pytest.mark.long
def test_a_command_waits_for_its_job_over_a_restart_and_ends_as_it_does(tmp_path):
    runs, port = tmp_path / "runs", str(free_port())
    (tmp_path / "loadtest.toml").write_text('[load]\nrate = 10\nduration = "1s"\nwarmup = "0s"\nmax_tokens = 5\n')
    service = started(runs, "--port", port)
    flags = ("--server", service.url, "--wait", "--tag", "nightly", "--name", "first")
    command = [sys.executable, "-m", "headroom", "submit", "loadtest.toml", *flags]
    waiting = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    job_id = waiting.stdout.readline().strip()
    with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
        wait_for(client, job_id, "running")
    end(service, signal.SIGTERM)
    assert service.process.returncode == 0
    assert claims.lives(claim_of(runs, job_id)), "what runs is left to end by itself"
    time.sleep(2)
    with serving(runs, "--port", port) as service:
        _, words = waiting.communicate(timeout=100)
        done = job_of(service.client, job_id)
        assert (done["state"], done["run"], done["tags"], done["name"]) == ("done", job_id, ["nightly"], "first")
        assert waiting.returncode == done["exit_code"], words


def kill_and_restart(runs, kills, seed, job):
    """Submit jobs, and kill the service at random moments, `kills` times; what each job has come to."""
    dice, asked = random.Random(seed), []
    service = started(runs)
    for _ in range(kills):
        with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
            asked += [submit(client, **job) for _ in range(dice.choice((0, 0, 1, 2)) or not asked)]
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


def begun_of(folder):
    """How many processes have begun to work at a job."""
    return sum(claims.read(claim) is not None for claim in folder.glob("claim-*"))


def check_ended(runs, ended):
    """None was run twice, and each folder is whole."""
    for job in ended:
        begun = begun_of(runs / ".service" / "jobs" / job["id"])
        assert begun <= 1, f"{job} began {begun} times"
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
    """Of jobs that end as soon as they have begun; the long ones are of load tests."""
    runs = tmp_path / "runs"
    runs.mkdir()
    synthetic_run(runs, 60)
    for job in kill_and_restart(runs, kills=3, seed=1, job=REFUSED):
        assert (job["state"], job["exit_code"]) == ("failed", 2) and "--growth" in job["error"], job
        assert begun_of(runs / ".service" / "jobs" / job["id"]) == 1, job


@pytest.mark.long
def test_a_service_that_is_killed_fifty_times_loses_no_job_and_runs_none_twice(tmp_path):
    runs = tmp_path / "runs"
    check_ended(runs, kill_and_restart(runs, kills=50, seed=2, job={"config": SHORT}))


@pytest.mark.long
def test_a_service_that_is_killed_while_it_starts_a_job_starts_it_once(tmp_path):
    """Between the start that is written down, the process, and its claim; every second time as the folder comes."""
    runs, dice, launches = tmp_path / "runs", random.Random(5), []
    runs.mkdir()
    synthetic_run(runs, 60)
    service = started(runs)
    for number in range(30):
        with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
            job = submit(client, **REFUSED)
        folder, until_s = (
            runs / ".service" / "jobs" / job,
            time.monotonic() + (5 if number % 2 else dice.uniform(0, 0.2)),
        )
        while time.monotonic() < until_s and not (number % 2 and folder.exists()):
            time.sleep(0.0002)
        end(service)
        service = started(runs)
        with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
            launches.append(wait_for(client, job)["launch"])
        assert begun_of(folder) == 1
    end(service)
    assert set(launches) == {1, 2}, f"{launches}: some starts were taken back, and some were not"


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


async def never(call, writer):
    await asyncio.sleep(60)


@pytest.mark.long
def test_a_cancelled_job_waits_for_no_answer_that_does_not_come(tmp_path):
    runs = tmp_path / "runs"
    with Server(never) as server, serving(runs, "--allow-target", server.url) as service:
        job = submit(service.client, {**LONG, "target": {"url": server.url}})
        while (service.client.get(f"/api/jobs/{job}").json()["progress"] or {}).get("in_flight", 0) < 5:
            time.sleep(0.1)
        service.client.delete(f"/api/jobs/{job}")
        asked_s = time.monotonic()
        assert wait_for(service.client, job)["state"] == "cancelled"
        assert time.monotonic() - asked_s < 20  # ten seconds, and what a machine that is busy makes of them
        assert set(Run.open(runs / job).samples.collect()["outcome"]) == {"cancelled"}
