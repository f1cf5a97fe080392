"""The queue of the batch service: what SQLite keeps, what a claim proves, when a schedule is due."""

import fcntl
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headroom.service import claims, launching
from headroom.service.job_process import claim_path, exit_path
from headroom.service.jobs import ENDED, Asked, Jobs, Kind, State
from headroom.service.refusals import Refusal
from headroom.service.runner import Runner
from headroom.service.schedules import next_after
from headroom.service.settings import AllowedTarget, Settings
from headroom.service.toml import to_toml
from loadgen.errors import ConfigError, RunFolderError
from loadgen.target import address_of
from tests.runs import synthetic_run

pytestmark = pytest.mark.aside

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ASKED = Asked(kind=Kind.LOADTEST, name="nightly", tags=("east", "v2"), config={"load": {"rate": 5}})


@pytest.fixture
def queue(tmp_path):
    jobs = Jobs(tmp_path / "jobs.sqlite", clock=lambda: NOON)
    yield jobs
    jobs.close()


def test_a_job_is_kept_as_it_was_asked_for_and_after_a_restart(queue, tmp_path):
    job = queue.add(ASKED, most_queued=10)
    again = Jobs(tmp_path / "jobs.sqlite")
    assert again.get(job.id) == job
    assert again.config_of(job.id) == {"load": {"rate": 5}}
    assert (job.state, job.tags, job.created_utc) == ("queued", ("east", "v2"), "2026-11-20T12:00:00.000Z")
    again.close()


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 50, None])
def test_a_queue_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "jobs.sqlite"
    if content is None:
        sqlite3.connect(path).execute("PRAGMA user_version = 2")
    else:
        path.write_bytes(content)
    with pytest.raises(RunFolderError, match="jobs.sqlite"):
        Jobs(path)


def test_jobs_start_in_the_order_of_submission_and_only_once(queue):
    first, second = queue.add(ASKED, most_queued=10), queue.add(ASKED, most_queued=10)
    assert queue.next_queued().id == first.id
    assert (queue.start(first.id).launch, queue.start(first.id)) == (1, None)
    assert queue.next_queued().id == second.id


def test_many_threads_start_a_job_once(queue):
    job, started = queue.add(ASKED, most_queued=10), []
    threads = [threading.Thread(target=lambda: started.append(queue.start(job.id))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in started if each is not None]) == 1


def test_a_launch_that_never_began_gives_the_job_its_place_back(queue):
    first, _ = queue.add(ASKED, most_queued=10), queue.add(ASKED, most_queued=10)
    queue.start(first.id)
    queue.requeue(first.id, launch=2)
    assert queue.get(first.id).state == "running", "of another launch"
    queue.requeue(first.id, launch=1)
    assert queue.next_queued().id == first.id
    assert queue.start(first.id).launch == 2


def test_a_job_that_was_cancelled_while_it_started_does_not_come_back(queue):
    job = queue.add(ASKED, most_queued=10)
    queue.start(job.id)
    assert queue.ask_cancel(job.id).state == "running"
    queue.requeue(job.id, launch=1)
    assert queue.get(job.id).state == "cancelled"


def test_an_end_is_final(queue):
    job = queue.add(ASKED, most_queued=10)
    queue.start(job.id)
    queue.end(job.id, State.DONE, exit_code=99, error=None)
    queue.end(job.id, State.INTERRUPTED, exit_code=None, error="late")
    ended = queue.get(job.id)
    assert (ended.state, ended.exit_code, ended.meaning) == ("done", 99, "threshold missed")
    with pytest.raises(Refusal, match="ended already"):
        queue.ask_cancel(job.id)


def test_only_so_many_jobs_wait(queue):
    queue.add(ASKED, most_queued=1)
    with pytest.raises(Refusal, match="1 jobs wait already") as refusal:
        queue.add(ASKED, most_queued=1)
    assert refusal.value.status == 429


def test_pages_of_jobs_are_cut_by_number(queue):
    numbers = [queue.add(ASKED, most_queued=10).number for _ in range(5)]
    assert [job.number for job in queue.all(limit=2)] == numbers[:2:-1]
    assert [job.number for job in queue.all(limit=9, before=numbers[2])] == numbers[1::-1]


@pytest.mark.parametrize(
    ("cron", "at", "due"),
    [
        ("0 2 * * *", "2026-11-20T01:59:59", "2026-11-20T02:00:00"),
        ("0 2 * * *", "2026-11-20T02:00:00", "2026-11-21T02:00:00"),  # never twice at one instant
        ("30 6 * * 1-5", "2026-11-20T07:00:00", "2026-11-23T06:30:00"),  # a Friday: next is Monday
        ("0 0 29 2 *", "2026-11-20T00:00:00", "2028-02-29T00:00:00"),
        ("*/15 * * * *", "2026-11-20T00:07:00", "2026-11-20T00:15:00"),
    ],
)
def test_a_schedule_is_due_at_the_first_instant_that_it_names(cron, at, due):
    assert next_after(cron, datetime.fromisoformat(at).replace(tzinfo=UTC)).isoformat() == f"{due}+00:00"


@pytest.mark.parametrize("cron", ["", "@daily", "* * * *", "0 0 * * * *", "60 * * * *", "0 0 30 2 *", "a b c d e", 5])
def test_what_is_no_schedule_is_refused_by_name(cron):
    with pytest.raises(Refusal) as refusal:
        next_after(cron, NOON)
    assert (refusal.value.status, refusal.value.where) == (422, "schedule")


def test_a_due_schedule_queues_one_job_and_none_while_the_last_one_waits(queue):
    schedule = queue.add_schedule(ASKED, "0 * * * *", NOON, most=5)
    job = queue.queue_due(schedule, NOON + timedelta(hours=1))
    assert (job.name, job.tags, job.schedule_id) == ("nightly", ("east", "v2"), schedule.id)
    assert queue.queue_due(schedule, NOON + timedelta(hours=2)) is None, "two services looked at once"
    (schedule,) = queue.schedules()
    assert queue.queue_due(schedule, NOON + timedelta(hours=2)) is None, "its last job still waits"
    queue.start(job.id)
    (schedule,) = queue.schedules()
    assert schedule.next_utc == "2026-11-20T14:00:00.000Z"
    assert queue.queue_due(schedule, NOON + timedelta(hours=3)) is not None


HOLDER = """
import sys, time
from pathlib import Path
from headroom.service import claims
print(claims.take(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "claim-1")], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_claim_is_held_as_long_as_its_process_lives(holder, tmp_path):
    claim = tmp_path / "claim-1"
    assert claims.lives(claim) and claims.read(claim).pid == holder.pid
    assert not claims.take(claim) and not claims.revoke(claim), "it is made once"
    holder.kill()
    holder.wait()
    assert not claims.lives(claim) and claims.read(claim).pid == holder.pid
    assert not claims.revoke(claim), "it has begun, and stays begun"


def test_a_revoked_launch_cannot_begin(tmp_path):
    assert claims.revoke(tmp_path / "claim-1")
    assert not claims.take(tmp_path / "claim-1")
    assert claims.read(tmp_path / "claim-1") is None


def test_a_signal_goes_to_the_process_of_the_claim_and_to_none_that_has_its_pid(holder, tmp_path):
    claim = tmp_path / "claim-1"
    true = json.loads(claim.read_text())
    claim.write_text(json.dumps(true | {"started_ticks": true["started_ticks"] - 1}))
    assert not claims.tell(claim, signal.SIGKILL), "another process has the pid now"
    assert holder.poll() is None
    claim.write_text(json.dumps(true))
    assert claims.tell(claim, signal.SIGKILL)
    assert holder.wait(10) == -signal.SIGKILL
    assert not claims.tell(claim, signal.SIGKILL)


@pytest.fixture
def runner(tmp_path, queue):
    """Of a service that came back: it has started no process itself."""
    (tmp_path / "runs").mkdir()
    return Runner(Settings(runs=tmp_path / "runs", parallel=0), queue)


def running(runner, queue):
    job = queue.start(queue.add(ASKED, most_queued=10).id)
    folder = launching.job_folder(runner._settings, job.id)
    folder.mkdir(parents=True)
    return job, folder


def claim_of_the_dead(folder):
    claim_path(folder, 1).write_text('{"pid": 1, "started_ticks": 0}')


def test_a_service_that_was_killed_before_the_start_takes_the_job_back(runner, queue):
    job, folder = running(runner, queue)
    runner.step()
    assert queue.get(job.id).state == "queued"
    assert not claims.take(claim_path(folder, 1)), "a process that comes late does not begin"


def test_a_service_that_was_killed_while_it_took_a_job_back_takes_it_back(runner, queue):
    job, folder = running(runner, queue)
    claims.revoke(claim_path(folder, 1))
    runner.step()
    assert queue.get(job.id).state == "queued"


@pytest.mark.parametrize(
    ("code", "asked_to_end", "state"),
    [
        (0, False, "done"),
        (4, False, "done"),  # it came to its end: that it is invalid is its result
        (99, False, "done"),
        (0, True, "done"),  # the end was nearer than the cancellation
        (2, False, "failed"),
        (112, False, "failed"),
        (1, True, "failed"),
        (105, True, "cancelled"),
        (105, False, "interrupted"),  # somebody sent its process a signal
        (None, False, "interrupted"),
        (None, True, "cancelled"),
    ],
)
def test_what_a_job_has_come_to_is_read_from_its_exit_code(runner, queue, code, asked_to_end, state):
    job, folder = running(runner, queue)
    claim_of_the_dead(folder)
    if code is not None:
        exit_path(folder, 1).write_text(json.dumps({"exit_code": code}))
    if asked_to_end:
        queue.ask_cancel(job.id)
    (folder / "log").write_text('{"event": "progress", "t_s": 1}\nheadroom: it went wrong\n')
    runner.step()
    ended = queue.get(job.id)
    assert (ended.state, ended.exit_code) == (state, code)
    assert ended.state in ENDED and ended.ended_utc is not None
    assert ended.error == ("headroom: it went wrong" if state in ("failed", "interrupted") else None)


@pytest.mark.long
def test_the_record_of_a_killed_job_is_recovered(runner, queue, tmp_path):
    job, folder = running(runner, queue)
    run = synthetic_run(tmp_path, 60, output={"report": False})
    manifest = run.manifest.model_copy(update={"state": "running"})
    manifest.write(run.folder)
    run.folder.rename(tmp_path / "runs" / job.id)
    claim_of_the_dead(folder)
    runner.step()
    assert queue.get(job.id).state == "running", "it is being recovered"
    runner._mending[job.id].wait(60)
    runner.step()
    assert queue.get(job.id).state == "interrupted"
    assert launching.state_of_run(runner._settings, job) == "interrupted"
    assert (tmp_path / "runs" / job.id / "summary.json").exists()


def test_a_job_whose_process_cannot_be_started_has_failed(runner, queue, tmp_path):
    runner._settings = replace(runner._settings, parallel=1)
    job = queue.add(ASKED, most_queued=10)
    (tmp_path / "runs" / ".service").write_text("a file where a folder is needed")
    runner.step()
    ended = queue.get(job.id)
    assert (ended.state, ended.exit_code) == ("failed", 1) and "did not start" in ended.error


@pytest.mark.parametrize(
    "values",
    [
        {"load": {"rate": 5, "warmup": 1.5, "skip_bad_rows": True}, "scenarios": {"chat": 1}},
        {"slo": ["ttft.p95<1s"], "target": [{"url": "sim", "name": 'a "b" \\ \n\x7f\u2028é'}, {"url": "sim"}]},
        {"parameters": {"stop": ["\x00", "\U0001f600"], "deep": {"a": [{"b.c": 1e-9}]}}, "empty": {}},
    ],
)
def test_values_written_as_toml_are_read_back_the_same(values):
    assert tomllib.loads(to_toml(values)) == values


def test_what_toml_has_not_is_left_out_or_refused():
    assert tomllib.loads(to_toml({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}
    with pytest.raises(ConfigError, match="surrogate"):
        to_toml({"a": "\ud800"})
    with pytest.raises(ConfigError, match="datetime"):
        to_toml({"a": NOON})


@pytest.mark.parametrize(
    ("allowed", "url", "covered"),
    [
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "https://a.example:443/", True),
        ("https://a.example", "https://A.EXAMPLE/deployments/x", True),
        ("https://a.example/x", "https://a.example/x/y", True),
        ("https://a.example/x", "https://a.example/xy", False),
        ("https://a.example/x", "https://a.example", False),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "https://a.example.evil.com", False),
        ("https://a.example", "https://b.example", False),
    ],
)
def test_an_allowed_target_is_its_scheme_host_port_and_what_is_below_its_path(allowed, url, covered):
    assert AllowedTarget.parse(allowed).covers(address_of(url)) is covered


def test_a_path_that_climbs_is_not_below():
    allowed = AllowedTarget.parse("https://a.example/x")
    assert not any(allowed.covers(address_of(f"https://a.example/x/{way}/y")) for way in ("..", ".", "%2e%2e", "a/.."))


def test_a_key_is_given_by_where_it_is():
    with pytest.raises(ConfigError, match="where the key is"):
        AllowedTarget.parse("https://a.example/x,secret")


def test_a_file_that_holds_a_key_is_that_of_where_the_service_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert AllowedTarget.parse("https://a.example,file:key").key == f"file:{tmp_path / 'key'}"


KEYS = ("AZURE_INFERENCE_CREDENTIAL", "EAST_KEY")


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ({"url": "https://a.example", "key": "env:AZURE_INFERENCE_CREDENTIAL"}, {"AZURE_INFERENCE_CREDENTIAL"}),
        ({"url": "https://b.example"}, set()),  # a client that is given no key looks for a variable of that name
        ([{"key": "env:EAST_KEY"}, {"url": "https://b.example"}], {"EAST_KEY"}),
        ({"url": "https://c.example", "key": "file:/env:EAST_KEY"}, set()),
        ({"url": "https://c.example", "key": "entra"}, set()),
        (None, set()),
    ],
)
def test_a_job_has_the_keys_of_its_own_targets_and_no_others(tmp_path, monkeypatch, queue, target, names):
    for name in ("HEADROOM_TOKEN", "AZURE_INFERENCE_ENDPOINT", *KEYS):
        monkeypatch.setitem(os.environ, name, "x")
    offered = (
        "https://a.example,env:AZURE_INFERENCE_CREDENTIAL",
        "https://east.example,env:EAST_KEY",
        "https://b.example",
    )
    settings, started = Settings(runs=tmp_path, targets=tuple(map(AllowedTarget.parse, offered))), []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **given: started.append(given["env"]))
    job = queue.add(ASKED, most_queued=10)
    launching.launch(settings, job, {} if target is None else {"target": target})
    (environment,) = started
    assert "PATH" in environment and not {"HEADROOM_TOKEN", "AZURE_INFERENCE_ENDPOINT"} & set(environment)
    assert set(KEYS) & set(environment) == names


def starting(runner, queue, config, kind=Kind.LOADTEST, **settings):
    """What a job that waited has come to as soon as a service with such settings has its turn."""
    runner._settings = replace(runner._settings, parallel=1, **settings)
    job = queue.add(replace(ASKED, kind=kind, config=config), most_queued=10)
    runner.step()
    return queue.get(job.id)


TAKEN_BACK = {"target": {"url": "https://a.example", "allow_hosts": ["a.example"], "key": "env:A_KEY"}}


@pytest.mark.parametrize(
    ("config", "kind", "end"),
    [
        (TAKEN_BACK, Kind.LOADTEST, (2, "headroom serve --allow-target URL")),
        ({"budget": {"requests": 100_001}}, Kind.LOADTEST, (2, "more than the 100,000")),
        ({"load": {"trace": "/etc/passwd"}}, Kind.LOADTEST, (2, "--data")),
        ({"target": {"url": "http://b.example"}, "budget": {}}, Kind.LOADTEST, (112, "unencrypted")),
        ({"runs": []}, Kind.PLAN, (2, "at least 1")),
        ({"runs": ["run"], "slo": ["a\u0000b"]}, Kind.PLAN, (None, "")),
        ({"runs": ["run"], "region": "\ud800"}, Kind.PLAN, (None, "")),
    ],
)
def test_a_job_that_this_service_does_not_offer_fails_at_its_start_and_the_next_one_has_its_turn(
    runner, queue, config, kind, end
):
    ended = starting(runner, queue, config, kind, targets=(AllowedTarget.parse("http://b.example,env:HOME"),))
    assert ended.state == "failed" and ended.exit_code == (end[0] or ended.exit_code) and end[1] in ended.error, ended
    queue.start(queue.add(ASKED, most_queued=10).id)
    assert queue.counts()[State.RUNNING] == 1


def test_a_job_starts_with_the_key_that_its_target_has_now(runner, queue, monkeypatch):
    monkeypatch.setitem(os.environ, "NEW_KEY", "x")
    started = []
    monkeypatch.setattr(launching, "launch", lambda settings, job, config: started.append(config))
    starting(runner, queue, TAKEN_BACK, targets=(AllowedTarget.parse("https://a.example/,env:NEW_KEY"),))
    assert started[0]["target"] == TAKEN_BACK["target"] | {"key": "env:NEW_KEY"}


def test_a_schedule_that_cannot_be_read_keeps_no_job_from_its_end(runner, queue):
    queue.add_schedule(ASKED, "no cron", NOON - timedelta(hours=1), most=5)
    job, folder = running(runner, queue)
    claim_of_the_dead(folder)
    with pytest.raises(Refusal):  # so that the service says that something is wrong
        runner.step()
    assert queue.get(job.id).state == "interrupted"


@pytest.mark.parametrize(("late_s", "queued"), [(0, 1), (59, 1), (61, 0), (86_400, 0)])
def test_times_that_passed_while_no_service_ran_are_not_made_up_for(runner, queue, late_s, queued):
    runner._clock = lambda: NOON
    runner._thread = threading.Thread(target=runner.step)
    queue.add_schedule(ASKED, "0 3 * * *", NOON - timedelta(seconds=late_s), most=5)
    runner.start()
    runner._thread.join()
    assert queue.counts()[State.QUEUED] == queued
    assert [each.next_utc for each in queue.schedules()] == ["2026-11-21T03:00:00.000Z"]


HANGING = """
import subprocess, sys, time
from pathlib import Path
from headroom.service import claims
claims.take(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_what_hangs_after_its_parents_death_is_killed_when_it_was_told_long_ago(runner, queue):
    job, folder = running(runner, queue)
    claim = claim_path(folder, 1)
    parent = subprocess.Popen([sys.executable, "-c", HANGING, str(claim)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.communicate(timeout=10)
    queue.ask_cancel(job.id)
    runner.step()
    assert claims.lives(claim), "it is given its time"
    runner._told_s[job.id] -= 31
    runner.step()
    deadline = time.monotonic() + 10
    while claims.lives(claim) and time.monotonic() < deadline:
        time.sleep(0.01)
    runner.step()
    assert queue.get(job.id).state == "cancelled"


def test_a_job_is_told_to_end_once_over_a_restart_of_the_service(runner, queue, monkeypatch):
    told, (job, folder) = [], running(runner, queue)
    with claim_path(folder, 1).open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        monkeypatch.setattr(claims, "tell", lambda path, number: told.append(number))
        queue.ask_cancel(job.id)
        runner.step()
        Runner(runner._settings, queue).step()
    assert told == [signal.SIGINT]


@pytest.mark.parametrize(
    "name", ["jobs", "shelf", "claims", "job_process", "launching", "runner", "admission", "bounds", "desk"]
)
def test_what_queues_and_runs_knows_nothing_of_http(name):
    source = (Path(launching.__file__).parent / f"{name}.py").read_text()
    assert not {"starlette", "uvicorn", "httpx"} & set(re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE))
