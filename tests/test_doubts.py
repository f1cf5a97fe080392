"""The generator measures itself: what makes a run invalid, what is a doubt, and that a clean run is neither."""

import gc
import os
import signal
import time

import pytest

from loadgen.health import LOOK_S, Health, _late_ms
from loadgen.samples import Run, WorkerHealth
from planner.assemble import plan_run
from tests.commands import PLENTY, deployment, headroom, side_by_side, start, start_of, undisturbed
from tests.runs import answered, make_run
from tests.servers import Server

BLOCKING = """
from gevent.monkey import get_original
from loadgen.users import DeploymentUser
from loadgen.requests import chat

class Mine(DeploymentUser):
    blocked = False

    def request(self, arrival):
        if arrival.due_ns > 1.5e9 and not Mine.blocked:
            Mine.blocked = True
            get_original("time", "sleep")(0.2)
        return chat(self.scenario, [{"role": "user", "content": "hello"}], max_tokens=5)
"""


def play(tmp_path, name, *flags):
    with Server(deployment) as server:
        times = ["--duration", "3s", "--warmup", "1s", *PLENTY, "--out", name, "--no-report"]
        done = headroom(tmp_path, "run", "--target", server.url, "--rate", "15/s", *times, *flags)
    return done, Run.open(tmp_path / name).manifest


def play_blocked(tmp_path, name):
    (tmp_path / "mine.py").write_text(BLOCKING)
    return play(tmp_path, name, "--scenario", "mine.py:Mine")


def play_stopped(tmp_path, name):
    """Stop the load process for 0.3 s of its steady phase; what `headroom run` said, and its exit code."""
    with Server(deployment) as server:
        times = ["--duration", "3s", "--warmup", "1s", *PLENTY, "--out", name, "--no-report"]
        process = start(tmp_path, "run", "--target", server.url, "--rate", "30/s", *times)
        start_of(tmp_path / name)
        time.sleep(1.7)
        children = f"/proc/{process.pid}/task/{process.pid}/children"
        load = int(open(children).read().split()[-1])  # noqa: SIM115, PTH123
        os.kill(load, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(load, signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
    return said, process.returncode


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """What came of a run whose hub was blocked, and of one that was stopped: side by side, for neither is to be valid."""
    cwd = tmp_path_factory.mktemp("disturbed")
    return side_by_side(lambda disturb: disturb(cwd, disturb.__name__), [play_blocked, play_stopped])


def test_a_hub_that_was_blocked_for_200_ms_makes_the_run_invalid(disturbed):
    done, manifest = disturbed[0]
    assert done.returncode == 4
    assert "INVALID" in done.stdout
    assert "the load generator stood still for" in done.stdout
    (worker,) = manifest.workers
    assert 180 - LOOK_S * 1e3 < worker.hub_late_max_ms < 1_000


@pytest.mark.long
def test_it_does_ten_times_out_of_ten(tmp_path):
    codes = [play_blocked(tmp_path, f"run-{number}")[0].returncode for number in range(10)]
    assert codes == [4] * 10


def test_a_clean_run_is_valid_and_says_what_its_generator_used(tmp_path):
    done, manifest = undisturbed(lambda name: play(tmp_path, name))
    assert done.returncode == 0, done.stdout
    (worker,) = manifest.workers
    assert 1.9 < worker.seconds < 3
    assert 0 < worker.cpu_share < 0.9
    assert 0 <= worker.hub_late_p99_ms <= worker.hub_late_max_ms < 100
    assert abs(worker.clock_step_ms) < 50


@pytest.mark.long
def test_twenty_clean_runs_are_twenty_times_valid(tmp_path):
    for number in range(20):
        play(tmp_path, f"run-{number}")
    verdicts = [plan_run(Run.open(tmp_path / f"run-{number}")).validity for number in range(20)]
    assert [verdict.reasons for verdict in verdicts] == [()] * 20


def test_a_generator_that_is_stopped_for_a_while_is_invalid_too(disturbed):
    """Other programs, a suspended machine: what stops the process is seen, not only what runs in it."""
    said, code = disturbed[1]
    assert code == 4
    assert "stood still for" in said


def validity_of(tmp_path, workers):
    samples = [answered(number, 5 + number / 10, ttft_s=0.2) for number in range(500)]
    return plan_run(make_run(tmp_path, samples, workers=workers)).validity


WORKER = {"seconds": 60.0, "cpu_share": 0.2, "busiest_cpu_share": 0.3, "hub_late_p99_ms": 1.0, "hub_late_max_ms": 3.0}


@pytest.mark.parametrize(
    ("figures", "reason", "doubt"),
    [
        ({}, None, None),
        ({"hub_late_max_ms": 51.0}, None, "stood still for 51 ms at most"),
        (
            {"hub_late_max_ms": 100.0},
            "stood still for 100 ms, and what came meanwhile is stamped late: offer less",
            None,
        ),
        (
            {"hub_late_max_ms": 100.0, "without_core_share": 0.07},
            "code quicker, or stop other programs, which had its core 7% of the time",
            None,
        ),
        ({"hub_late_p99_ms": 10.5}, "was 10 ms late or more to one event in a hundred", None),
        ({"hub_late_p99_ms": 10.0}, None, None),
        ({"cpu_share": 0.91, "busiest_cpu_share": 0.95}, "used 91% of its core", None),
        ({"busiest_cpu_share": 0.95}, None, "used 95% of its core in its busiest second"),
        ({"longest_collection_ms": 30.0}, None, "collected garbage for 30 ms at once"),
        ({"clock_step_ms": -3_600_000.0}, None, "the time of day was set by -3600000 ms during the run"),
        ({"without_core_share": 0.2}, None, "other programs had the load generator's core 20% of the time"),
        (
            {"without_core_share": 0.2, "hub_late_max_ms": 300.0},
            "other programs had its core 20% of the time: close other programs and run again",
            None,  # the reason says it
        ),
    ],
)
def test_each_figure_of_the_generator_has_its_bound(tmp_path, figures, reason, doubt):
    verdict = validity_of(tmp_path, workers=[WorkerHealth(**{**WORKER, **figures})])
    assert verdict.valid == (reason is None)
    assert len(verdict.reasons) == (reason is not None)
    for sentences, expected in ((verdict.reasons, reason), (verdict.doubts, doubt)):
        if expected is not None:
            assert any(expected in sentence for sentence in sentences), sentences
        else:
            assert not any("load generator" in sentence or "time of day" in sentence for sentence in sentences)


def test_of_several_workers_the_one_at_fault_is_named(tmp_path):
    workers = [WorkerHealth(**WORKER), WorkerHealth(**{**WORKER, "cpu_share": 0.97})]
    assert validity_of(tmp_path, workers=workers).reasons == (
        "load worker 1 used 97% of its core, so its own limit is what was measured: offer less",
    )


def test_health_sees_standstills_collections_and_the_clock(monkeypatch):
    notes = []
    health = Health(lambda kind, text: notes.append((kind, text)))
    health.begin()
    for in_flight in range(5):
        time.sleep(LOOK_S)
        health.look(in_flight)
    time.sleep(0.15)
    health.look(3)
    gc.collect()
    ahead_ns = time.time_ns() + 5 * 10**9
    monkeypatch.setattr("loadgen.health.time_ns", lambda: ahead_ns)
    health.tick()
    assert "clock" not in {kind for kind, _ in notes}, "a fifth of a second is no second"
    time.sleep(0.4)
    health.tick()
    figures = WorkerHealth(**health.end())
    assert 0.1e3 < figures.hub_late_max_ms < 1e3
    assert figures.collections >= 1 and figures.longest_collection_ms > 0
    assert 4_000 < figures.clock_step_ms < 5_500
    assert figures.most_in_flight == 4
    assert {kind for kind, _ in notes} >= {"hub_blocked", "clock"}


def test_waiting_for_the_last_answers_does_not_hide_that_the_load_took_the_core():
    health = Health(lambda kind, text: None)
    health.begin()
    began_s, until = time.monotonic(), time.process_time() + 0.3
    while time.process_time() < until:
        health.look(1)
    health.rest()
    loaded_s = time.monotonic() - began_s
    time.sleep(0.5)
    health.look(1)
    figures = WorkerHealth(**health.end())
    assert figures.cpu_share == pytest.approx(0.3 / loaded_s, rel=0.2)
    assert figures.seconds == pytest.approx(loaded_s, abs=0.2), "not the half second of waiting"
    assert figures.hub_late_max_ms > 400, "a standstill spoils the last answers too"


@pytest.mark.parametrize(
    ("late_ms", "p99_ms"),
    [
        ([0] * 1_000, 0),
        ([0] * 990 + [100] * 10, 94.1),  # 6,000 ms, of which 60 late: ten stretches of 94.1 to 100 ms
        ([0] * 199 + [1_000], 980),  # 2,000 ms: the last 20 of 1,000
        ([0] * 461 + [95], 71),  # 2,405 ms: the last 24 of 95
        ([1] * 1_000, 0.94),  # 6,000 ms: 60 of 1,000
    ],
)
def test_the_p99_of_a_late_hub_is_of_events_that_come_evenly_over_time(late_ms, p99_ms):
    assert _late_ms([LOOK_S * 1e3 + late for late in late_ms], 0.99) == pytest.approx(p99_ms, rel=0.01, abs=0.001)


def test_a_generator_that_never_came_to_measure_says_nothing():
    figures = Health(lambda kind, text: None).end()
    assert (figures["cpu_share"], figures["hub_late_p99_ms"]) == (None, None)
