"""Runs whose schedule is stored, and runs that repeat them to the byte."""

import hashlib
import json
import statistics
from itertools import pairwise

import polars as pl
import pytest

from loadgen.samples import Manifest, Run
from loadgen.schedule_file import ScheduleFile
from tests.commands import deployment, headroom, side_by_side
from tests.servers import Server

RATE_PER_S = 20
FIRST = {  # each beside the next
    "open": ["--stages", f"{RATE_PER_S}/s:2s,1/s:0s,1/s:1s", "--arrivals", "constant", "--seed", 5],
    "closed": ["--users", 6, "--spawn-rate", "4/s", "--think-time", "100ms..300ms", "--duration", "3s", "--scenario", "chat"],
}  # fmt: skip
TRACE = (
    "at_s,prompt_tokens,completion_tokens,scenario,messages\n0.1,20,30,chat,\n0.2,x,30,,\n0.3,200,3,streaming,\n"
    '0.4,,4,chat,"[{""role"": ""user"", ""content"": ""hi""}]"\n'
)
UNTHROTTLED = ["--throttle", "off", "--warmup", "0s"]


class Runs:
    """The folders of the runs, what each printed, and the requests that each sent by arrival number."""

    def __init__(self, folder, server):
        self.folder, self.server, self.done = folder, server, {}

    def play(self, named):
        name, arguments = named
        command = ["run", *arguments, "--target", self.server.url, "--out", name, *UNTHROTTLED]
        command += [] if name == "closed" else ["--no-report", "--quiet"]
        self.done[name] = headroom(self.folder, *command)
        assert self.done[name].returncode in (0, 4), self.done[name].stderr

    def samples(self, name):
        return Run.open(self.folder / name).samples.collect().sort("seq")

    def calls(self, name):
        run_id = Manifest.read(self.folder / name).run_id[:8]
        asked = {call.header("x-ms-client-request-id"): call for call in self.server.calls}
        return {int(key.split("-")[1]): call for key, call in asked.items() if key.startswith(run_id)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    (folder / "own.csv").write_text(TRACE)
    with Server(deployment) as server:
        found = Runs(folder, server)
        own = [
            "--trace",
            "own.csv",
            "--skip-bad-rows",
            "--scenario",
            "chat",
            "--scenario",
            "streaming",
            "--scale",
            "2x",
        ]
        side_by_side(found.play, {**FIRST, "own": own}.items())
        side_by_side(found.play, {f"{name} again": ["--trace", name, "--seed", 99] for name in FIRST}.items())
        yield found


@pytest.mark.parametrize("name", FIRST)
def test_a_run_folder_is_replayed_to_the_byte(runs, name):
    """Same numbers, instants, scenarios and requests, though no flag but the folder is given, and another seed."""
    first, again = runs.samples(name), runs.samples(f"{name} again")
    columns = ("seq", "due_ns", "scenario", "reserved_tokens", "bytes_out")
    assert first.select(columns).equals(again.select(columns)) and first.height > 20
    calls, repeated = ({seq: call.body for seq, call in runs.calls(each).items()} for each in (name, f"{name} again"))
    assert calls == repeated and sorted(calls) == list(range(first.height))


def test_the_schedule_of_an_open_loop_is_stored_and_played_as_it_is(runs):
    schedule = ScheduleFile(runs.folder / "open")
    samples = runs.samples("open")
    assert [(each.seq, each.due_ns, each.scenario) for each in schedule] == samples["seq", "due_ns", "scenario"].rows()
    entry = Manifest.read(runs.folder / "open").files["schedule.parquet"]
    content = (runs.folder / "open" / "schedule.parquet").read_bytes()
    assert entry == {"rows": len(schedule), "sha256": hashlib.sha256(content).hexdigest()}
    assert not (runs.folder / "closed" / "schedule.parquet").exists()


def test_constant_arrivals_are_sent_as_evenly_as_they_are_due(runs):
    """Those sent may be late by what this machine's other work takes: nine gaps of ten are within a quarter of 50 ms."""
    samples = runs.samples("open").filter(pl.col("due_ns") < 2_000_000_000)
    for column, most in (("due_ns", 0.01), ("sent_ns", 0.25)):
        gaps = [after - before for before, after in pairwise(samples[column].to_list())]
        assert statistics.median(gaps) == pytest.approx(1e9 / RATE_PER_S, rel=0.02)
        uneven = sorted(abs(gap * RATE_PER_S / 1e9 - 1) for gap in gaps)
        assert uneven[len(gaps) * 9 // 10] < most, column


def test_a_jump_of_the_stages_is_kept(runs):
    due_ns = runs.samples("open")["due_ns"]
    assert (due_ns < 2_000_000_000).sum() in (39, 40) and (due_ns >= 2_000_000_000).sum() <= 2


def test_users_join_one_by_one_and_think_after_each_answer(runs):
    samples = runs.samples("closed")
    user_of = {seq: call.connection for seq, call in runs.calls("closed").items()}
    joined_s, thoughts_s = [], []
    for user in set(user_of.values()):
        turns = samples.filter(pl.col("seq").replace_strict(user_of) == user).sort("due_ns")["due_ns", "done_ns"].rows()
        joined_s.append(turns[0][0] / 1e9)
        thoughts_s += [(due_ns - done_ns) / 1e9 for (_, done_ns), (due_ns, _) in pairwise(turns)]
    assert sorted(joined_s) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25], abs=0.1)
    assert len(thoughts_s) > 20 and 0.1 <= min(thoughts_s) < max(thoughts_s) < 0.4
    assert len({round(each, 2) for each in thoughts_s}) > 5


def test_every_output_of_a_closed_loop_says_so(runs):
    folder = runs.folder / "closed"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["open_loop"] is False
    assert "closed loop: slow answers held back" in " ".join(runs.done["closed"].stdout.split())
    assert "slow answers held back the next requests (a closed loop)" in (folder / "report.html").read_text()
    assert any("users were still joining 1.25 s after the start" in doubt for doubt in summary["validity"]["doubts"])


def test_a_trace_names_scenarios_and_says_what_was_passed_over(runs):
    samples = runs.samples("own")
    assert sorted(samples["scenario"].to_list()) == ["chat"] * 4 + ["streaming"] * 2
    asked = [(each.scenario, each.prompt_tokens, each.completion_tokens) for each in ScheduleFile(runs.folder / "own")]
    assert sorted(set(asked)) == [("chat", 5, 4), ("chat", 20, 30), ("streaming", 200, 3)]
    assert [each.messages for each in ScheduleFile(runs.folder / "own")][-1] == [{"role": "user", "content": "hi"}]
    said = "1 bad row of own.csv passed over, 3 good ones read; the first: line 3: prompt_tokens is 'x', not a whole"
    assert said in runs.done["own"].stderr
    (note,) = (each for each in Run.open(runs.folder / "own").notes if each["kind"] == "trace")
    assert note["text"].startswith(said)
    doubts = json.loads((runs.folder / "own" / "summary.json").read_text())["validity"]["doubts"]
    assert any(doubt.startswith(said) for doubt in doubts)
