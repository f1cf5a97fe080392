"""A user's own scenario: tasks of Locust's, classes that are called the same, answers gone on from, and how it fails."""

import asyncio
import subprocess
import sys

import polars as pl
import pytest

from loadgen.samples import Run, check_ledger
from planner.assemble import plan_run
from tests.commands import deployment, headroom, side_by_side
from tests.runs import answered, make_run
from tests.servers import Server

BUSY = ["--duration", "1.5s", "--warmup", "0s", "--rpm", 99_999, "--tpm", 9_999_999, "--no-report"]
HEAD = "from locust import task\nfrom loadgen.users import DeploymentUser\nfrom loadgen.requests import chat\n"
ASKED = '[{"role": "user", "content": "x"}]'
TASKS = f"""{HEAD}
from beside import ASKED

class Mine(DeploymentUser):
    @task
    def twice(self):
        arrival = self.next_arrival()
        self.send(arrival, chat(self.scenario, ASKED, max_tokens=5, keep_answer=True))
        assert self.answer.content == "hi", self.answer
        self.send(self.follow_up(arrival, 0.05), chat(self.scenario, ASKED, max_tokens=6))
"""
PLAIN = f"""{HEAD}
class Mine(DeploymentUser):
    def request(self, arrival):
        return chat(self.scenario, {ASKED}, max_tokens=7, check=lambda answer: "too_short")
"""
FAILING = f"""{HEAD}
class Mine(DeploymentUser):
    @task
    def sometimes(self):
        arrival = self.next_arrival()
        assert arrival.seq % 4, "cannot"
        self.send(arrival, chat(self.scenario, {ASKED}, max_tokens=5))
"""
BROKEN = {
    "module.py": "import loadgen\n\nx = 1 / 0\n",
    "syntax.py": "class Mine(\n",
    "request.py": HEAD + "class Mine(DeploymentUser):\n    def request(self, arrival):\n        return self.nothing\n",
    "empty.py": "\n",
}
COMPLAINTS = {
    "module.py": "module.py cannot be loaded: ZeroDivisionError: division by zero (module.py, line 3)",
    "syntax.py": "syntax.py cannot be loaded: ",
    "request.py": "request() raised AttributeError: 'request.py:Mine' object has no attribute 'nothing' (request.py, line 6)",
    "empty.py": "empty.py has no class Mine that is a DeploymentUser",
}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """An open loop and a closed one of two classes called Mine, one of them with tasks and no `request`."""
    cwd = tmp_path_factory.mktemp("own")
    (cwd / "one").mkdir()
    (cwd / "one" / "mine.py").write_text(TASKS)
    (cwd / "one" / "beside.py").write_text(f"ASKED = {ASKED}\n")
    (cwd / "mine.py").write_text(PLAIN)
    (cwd / "failing.py").write_text(FAILING)
    both = ["--scenario", "one/mine.py:Mine", "--scenario", "mine.py:Mine"]
    loads = {
        "rate": ["--rate", "40/s", *both],
        "users": ["--users", "3", "--throttle", "off", *both],
        "failing": ["--rate", "20/s", "--arrivals", "constant", "--scenario", "failing.py:Mine"],
    }

    def play(name):
        return headroom(cwd, "run", "--target", server.url, *loads[name], *BUSY, "--out", name)

    async def unhurried(call, writer):  # planning for what the closed loop would ask of a quick one takes a minute
        await asyncio.sleep(0.03)
        await deployment(call, writer)

    with Server(unhurried) as server:
        ended = side_by_side(play, loads)
    for done in ended:
        assert done.returncode in (0, 4), done.stderr
    return {shape: (done, Run.open(cwd / shape)) for shape, done in zip(loads, ended, strict=True)}


@pytest.mark.parametrize("shape", ["rate", "users"])
def test_classes_called_the_same_play_side_by_side_with_tasks_and_without(played, shape):
    _, run = played[shape]
    rows = run.samples.collect()
    assert set(rows["scenario"]) == {"one/mine.py:Mine", "mine.py:Mine"}
    assert set(rows["outcome"]) <= {"ok", "cancelled"}
    assert [note for note in run.notes if note["kind"] == "scenario_failed"] == []
    limits = rows.select("scenario", asked=pl.col("reserved_tokens") - pl.col("estimated_prompt_tokens")).unique()
    assert set(limits.rows()) == {("one/mine.py:Mine", 5), ("one/mine.py:Mine", 6), ("mine.py:Mine", 7)}


@pytest.mark.parametrize("shape", ["rate", "users"])
def test_no_two_requests_have_one_number_and_the_ledger_adds_up(played, shape):
    _, run = played[shape]
    rows = run.samples.sort("seq").collect()
    assert rows["seq"].n_unique() == rows.height > 20
    check_ledger(run.manifest.totals, rows.height)
    asked = rows["reserved_tokens"] - rows["estimated_prompt_tokens"]
    first, later = rows.filter(asked != 6), rows.filter(asked == 6)
    assert later.height > 5
    if shape == "rate":
        assert later["seq"].min() > first["seq"].max()
    assert later["due_ns"].max() < 1.5e9 <= 1e9 + later["due_ns"].max()


def test_an_arrival_whose_task_failed_before_it_was_sent_is_dropped_and_said(played):
    _, run = played["failing"]
    rows = run.samples.sort("seq").collect()
    check_ledger(run.manifest.totals, rows.height)
    assert rows["seq"].to_list() == list(range(rows.height)) and rows.height >= 28
    unsent = rows.filter(pl.col("outcome") == "dropped")
    assert unsent["seq"].to_list() == list(range(0, rows.height, 4)) and set(unsent["error"]) == {"scenario_failed"}
    assert any(
        "cannot (mine.py" not in note["text"] and "cannot (failing.py, line 9)" in note["text"] for note in run.notes
    )


def test_what_a_check_says_is_counted_and_the_answer_stays_ok(played):
    done, run = played["rate"]
    checked = run.samples.filter(pl.col("scenario") == "mine.py:Mine").collect()
    assert set(checked["error"]) == {"too_short"} and set(checked["outcome"]) == {"ok"}
    assert f"answered, and faulty: too_short {checked.height}" in " ".join(done.stdout.split())


def test_a_scenario_that_cannot_be_played_is_named_with_its_file_and_line(tmp_path):
    for name, text in BROKEN.items():
        (tmp_path / name).write_text(text)
    load = "import sys; from loadgen.users import load_scenario; from loadgen.errors import ConfigError\n"
    load += (
        "for name in sys.argv[1:]:\n    try: load_scenario(name, name)\n    except ConfigError as error: print(error)"
    )
    places = [f"{name}:Mine" for name in BROKEN if name != "request.py"]
    done = subprocess.run(
        [sys.executable, "-c", load, *places], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    for place, said in zip(places, done.stdout.splitlines(), strict=True):
        assert said.startswith(f"scenario {place}: {COMPLAINTS[place.partition(':')[0]]}")
    run = headroom(tmp_path, "run", "--scenario", "request.py:Mine")
    assert run.returncode == 2 and f"scenario request.py:Mine: {COMPLAINTS['request.py']}" in run.stderr


def test_a_scenario_that_is_wholly_rejected_is_named_with_the_servers_reason(tmp_path):
    why = {"outcome": "rejected", "status": 422, "error": "bad_image: no such picture", "scenario": "vision"}
    rows = [answered(seq, seq / 10, **({} if seq % 2 else why)) for seq in range(40)]
    rows.append(
        answered(40, 4.0, outcome="rejected", status=400, error="oops")
    )  # one of chat, whose others are answered
    found = plan_run(make_run(tmp_path, rows)).validity
    (said,) = (each for each in (*found.reasons, *found.doubts) if "every request" in each)
    assert said == "every request of the scenario vision was rejected (20), with 422: bad_image: no such picture"
