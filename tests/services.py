"""The batch service as tests use it: its app without a process, and real processes that are killed."""

import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
from starlette.testclient import TestClient

from headroom.service.app import create_app
from headroom.service.settings import Settings
from tests.commands import environment

URL = "http://127.0.0.1:8089"
SHORT = {"load": {"rate": 10, "duration": "1s", "warmup": "0s", "max_tokens": 5}, "output": {"report": False}}
SHORT |= {"quota": {"tokens_per_minute": 10_000_000, "requests_per_minute": 100_000}}


def app_on(runs, **settings):
    """A client of a service that starts no jobs."""
    runs.mkdir(exist_ok=True)
    app = create_app(Settings(runs=runs, **settings))
    return TestClient(app, base_url=URL, raise_server_exceptions=False)


def started(runs, *flags, **extra):
    """The process of a service, once it listens: its `url` and `process`."""
    port = () if "--port" in flags else ("--port", "0")
    command = [sys.executable, "-m", "headroom", "serve", "--runs", str(runs), *port, *flags]
    process = subprocess.Popen(
        command, env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    url = process.stdout.readline().strip()
    if not url:
        raise AssertionError(process.communicate()[1])
    return SimpleNamespace(process=process, url=url)


@contextmanager
def serving(runs, *flags, **extra):
    """With an HTTP client of it; killed at the end, with the jobs that it still runs."""
    service = started(runs, *flags, **extra)
    try:
        with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
            yield SimpleNamespace(client=client, **vars(service))
    finally:
        end(service)
        end_jobs(runs)


@contextmanager
def standing_in(handler):
    """A server that answers as `handler` says where a service would; in a thread of its own."""
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def say(handler, status, body):
    handler.send_response(status)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def end(service, number=signal.SIGKILL):
    service.process.send_signal(number)
    service.process.communicate(timeout=20)


def end_jobs(runs):
    """No process of a test outlives it."""
    for claim in (runs / ".service" / "jobs").glob("*/claim-*"):
        for pid in re.findall(r'"pid": (\d+)', claim.read_text()):
            if f"{claim.parent.absolute()}" in line_of(int(pid)):
                os.kill(int(pid), signal.SIGKILL)


def line_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def submit(client, config=SHORT, **fields):
    answer = client.post("/api/jobs", json={"config": config, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()["job"]["id"]


def job_of(client, job_id):
    return client.get(f"/api/jobs/{job_id}").json()["job"]


def wait_for(client, job_id, *states, seconds=60):
    """The job, as soon as it is in one of the states; by default in one that it ends in."""
    states = states or ("done", "failed", "cancelled", "interrupted")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = job_of(client, job_id)
        if job["state"] in states:
            return job
        time.sleep(0.1)
    raise AssertionError(f"{job}: never {states}")
