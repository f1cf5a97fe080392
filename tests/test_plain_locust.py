"""Scenarios are Locust users: they run from its web page too, and plain Locust keeps to the same rails."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.commands import deployment, environment
from tests.servers import Server

ROOT = Path(__file__).parent.parent
LOCUST = [sys.executable, "-m", "locust", "-f"]


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


def test_plain_locust_keeps_to_the_rails():
    command = [*LOCUST, "scenarios/chat.py", "--host", "http://example.com"]
    command += ["--headless", "--users", "1", "--run-time", "2s"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)
    assert "example.com is not this machine" in done.stderr and done.returncode != 0


def test_scenarios_are_short():
    for path in (ROOT / "scenarios").glob("*.py"):
        assert len(path.read_text().splitlines()) < 80, path
