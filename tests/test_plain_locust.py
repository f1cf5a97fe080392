"""Scenarios are Locust users: they run under plain Locust too, which keeps to the same rails."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.commands import deployment, environment, side_by_side
from tests.servers import Server
from tests.simulators import eventually

ROOT = Path(__file__).parent.parent
LOCUST = [sys.executable, "-m", "locust", "-f"]


def headless(file, host, *flags):
    command = [*LOCUST, file, "--host", host, "--headless", "--run-time", "30s", *map(str, flags)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe, text=True)


SCENARIOS = ("chat", "streaming", "vision")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The scenarios played under plain Locust, and one of them against a host that is not this machine."""
    folder = tmp_path_factory.mktemp("stats")

    def play(name):
        if name == "elsewhere":
            locust = headless("scenarios/chat.py", "http://example.com", "--users", 1, "--run-time", "3s")
            _, stderr = locust.communicate(timeout=60)
            return locust.returncode, stderr
        with Server(deployment) as server:
            locust = headless(f"scenarios/{name}.py", server.url, "--users", 3, "--json-file", folder / name)
            eventually(lambda: len(server.calls) > 20)
            locust.terminate()
            _, stderr = locust.communicate(timeout=60)
        assert locust.returncode == 0, stderr
        return json.loads((folder / f"{name}.json").read_text())

    names = [*SCENARIOS, "elsewhere"]
    return dict(zip(names, side_by_side(play, names), strict=True))


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_run_under_plain_locust(ended, name):
    (stats,) = ended[name]
    assert stats["name"] == name and stats["num_requests"] > 10 and stats["num_failures"] == 0


def test_a_scenario_runs_from_locusts_own_web_page(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Server(deployment) as server:
        command = [*LOCUST, "scenarios/chat.py", "--web-host", "127.0.0.1", "--web-port", str(port)]
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        locust = subprocess.Popen(command, cwd=ROOT, env=environment(), **nowhere)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as page:
                for _ in range(100):
                    try:
                        page.get("/")
                        break
                    except httpx.ConnectError:
                        time.sleep(0.1)
                page.post("/swarm", data={"user_count": 2, "spawn_rate": 2, "host": server.url})
                for _ in range(100):
                    stats = page.get("/stats/requests").json()
                    if stats["stats"][0]["num_requests"] > 5:
                        break
                    time.sleep(0.1)
                page.post("/stop")
                time.sleep(0.5)
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


def test_plain_locust_keeps_to_the_rails(ended):
    code, stderr = ended["elsewhere"]
    assert "example.com is not this machine" in stderr and code != 0


def test_scenarios_are_short():
    for path in (ROOT / "scenarios").glob("*.py"):
        assert len(path.read_text().splitlines()) < 80, path
