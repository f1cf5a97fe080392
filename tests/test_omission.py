"""Coordinated omission: a server that stops answering for a while is seen as its users would have seen it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from loadgen.samples import Run
from planner.assemble import plan_run
from tests.commands import headroom, start_of

SERVICE_S = 0.05
UNTHROTTLED = ["--rpm", "10000", "--tpm", "10000000"]
SERVING = f"""
import asyncio, sys
from tests.servers import Server, response

async def slowly(call, writer):
    await asyncio.sleep({SERVICE_S})
    writer.write(response())

with Server(slowly) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def play(tmp_path, *, freeze_s, at_s, flags):
    """Stop the server's process for that long; what `headroom run` said, and its plan."""
    serving = subprocess.Popen(
        [sys.executable, "-c", SERVING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    folder = tmp_path / "run"

    def freeze():
        time.sleep(max(0.0, start_of(folder) / 1e9 + at_s - time.monotonic()))
        os.kill(serving.pid, signal.SIGSTOP)
        time.sleep(freeze_s)
        os.kill(serving.pid, signal.SIGCONT)

    try:
        url = serving.stdout.readline().strip()
        freezing = threading.Thread(target=freeze)
        freezing.start()
        done = headroom(tmp_path, "run", "--target", url, "--scenario", "chat", *flags, "--out", "run", "--no-report")
        freezing.join()
    finally:
        serving.communicate("")
    run = Run.open(folder)
    return done, {row.metric: row for row in plan_run(run).latency if row.scenario == "all"}, run


def closed_form_s(quantile, *, steady_s, freeze_s):
    """What the freeze makes of a percentile, whatever the rate.

    An arrival y into the freeze waits for its end, freeze - y, and is then served; those in service when it began, as
    many as came in the service time before it, are done at its end. So longer than t are (freeze + service - t) and
    (service) seconds' worth of arrivals, which the (1 - quantile) longest of steady_s seconds' worth must be.
    """
    return freeze_s + 2 * SERVICE_S - (1 - quantile) * steady_s


@pytest.mark.long
def test_a_freeze_of_six_seconds_shows_in_the_response_time_as_the_closed_form_has_it(tmp_path):
    flags = ["--rate", "20/s", "--arrivals", "constant", "--duration", "60s", "--warmup", "5s", *UNTHROTTLED]
    done, latency, _ = play(tmp_path, freeze_s=6.0, at_s=25.0, flags=flags)
    expected_ms = 1e3 * closed_form_s(0.99, steady_s=55, freeze_s=6.0)
    assert abs(latency["response_time"].p99.value_ms - expected_ms) <= 0.03 * expected_ms
    assert latency["lag"].p99.value_ms < 5, "requests left on time although the server stood still"
    assert latency["service_time"].n == latency["response_time"].n
    assert "Service" in done.stdout and "Response" in done.stdout
    assert headroom(tmp_path, "report", "run", "--out", "report.html").returncode == 0
    report = (tmp_path / "report.html").read_text("utf-8")
    for words in ("sending to the end of the answer", "due to the end of the answer: what a user waits"):
        assert words in report


@pytest.mark.long
def test_a_short_freeze_shows_likewise(tmp_path):
    flags = ["--rate", "100/s", "--arrivals", "constant", "--duration", "5s", "--warmup", "1s", *UNTHROTTLED]
    _, latency, _ = play(tmp_path, freeze_s=1.3, at_s=2.5, flags=flags)
    expected_ms = 1e3 * closed_form_s(0.95, steady_s=4, freeze_s=1.3)
    assert abs(latency["response_time"].p95.value_ms - expected_ms) <= 0.03 * expected_ms


@pytest.mark.long
def test_a_closed_loop_that_sees_less_of_it_is_labelled(tmp_path):
    flags = ["--users", "2", "--duration", "4.5s", "--warmup", "0.5s", *UNTHROTTLED]
    done, latency, run = play(tmp_path, freeze_s=1.5, at_s=1.5, flags=flags)
    assert latency["response_time"].max_ms > 1_400
    assert latency["response_time"].p95.value_ms < 500, "two of many requests met the freeze"
    assert "closed loop of 2 users" in done.stdout.replace("\n", " ")
    assert not plan_run(run).open_loop
