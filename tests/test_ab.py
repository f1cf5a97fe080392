"""headroom run --repeat and headroom ab: several runs that are played alike, and what they are compared by."""

import json

import pytest

from benchmarks.alike import alike
from headroom import run_sets
from loadgen.samples import Manifest
from planner.comparing.verdict import Verdict
from tests.commands import deployment, headroom, told
from tests.servers import Server

STREAMS = ["--scenario", "streaming", "--throttle", "off", "--warmup", "0s", "--max-tokens", "4"]
BRIEF = [*STREAMS, "--rate", "30/s", "--duration", "1s"]


def test_two_deployments_are_played_in_turns_and_compared(tmp_path):
    with Server(deployment) as a, Server(deployment) as b:
        done = headroom(tmp_path, "ab", "--a", a.url, "--b", b.url, "--pairs", 1, *BRIEF, "--out", "both", "--fail-on", "ttft.p50:+500%", "--json", "-")  # fmt: skip
        comparison = json.loads(done.stdout)
        assert done.returncode == {"regressed": 98, "inconclusive": 3}.get(comparison["verdict"], 0), done.stderr
        sent = comparison["outcomes"]["base"]["ok"]
        assert [call.body for call in a.calls[-sent:]] == [call.body for call in b.calls[-sent:]], "the same requests"
    left, right = (run_sets.read(tmp_path / "both" / arm) for arm in "ab")
    assert (left.state, left.asked, len(left.runs), left.arm) == ("complete", 1, 1, "a")
    assert run_sets.paired(left, right)
    assert (tmp_path / "both" / "a" / left.runs[0] / "summary.json").exists()
    again = told(tmp_path, "compare", "both/a", "both/b", "--fail-on", "ttft.p50:+500%", "--json", "-")
    assert json.loads(again.stdout) == comparison


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "--repeat", "0"], "--repeat 0 is not between 1 and 100"),
        (["run", "--repeat", "101"], "--repeat 101 is not between 1 and 100"),
        (["run", "--repeat", "2", "--master", "--target", "http://127.0.0.1:1"], "workers come for one run"),
        (["ab"], "ab needs --a URL and --b URL"),
        (["ab", "--a", "sim"], "ab needs --a URL and --b URL"),
        (["ab", "--a", "sim", "--b", "sim", "--pairs", "0"], "--pairs 0 is not between"),
        (["ab", "--a", "sim", "--b", "sim", "--fail-on", "slow"], "is no slowdown"),
        (["ab", "--a", "sim", "--b", "sim", "--out", "."], "exists already"),
        (["ab", "two.toml", "--a", "sim", "--b", "sim"], "leave [[target]] out of the file"),
    ],
)
def test_what_cannot_be_played_is_refused_before_anything_is_sent(tmp_path, arguments, complaint):
    (tmp_path / "two.toml").write_text('[[target]]\nurl = "sim"\nname = "x"\n[[target]]\nurl = "sim"\nname = "y"\n')
    done = told(tmp_path, *arguments)
    assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr


def test_a_host_that_was_not_allowed_gets_nothing_from_either_side(tmp_path):
    done = told(tmp_path, "ab", "--a", "sim", "--b", "https://example.com", "--budget-requests", "5", "--out", "both")
    assert done.returncode == 112
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"state": "interrupted", "reason": "stopped by hand"}, "is not complete: 1 of 3 runs (stopped by hand)"),
        ({"format": 9}, "has format 9"),
        ({"runs": ["../../elsewhere"]}, "names a run outside its folder"),
        ({"asked": "many"}, "is damaged"),
    ],
)
def test_a_set_that_is_not_whole_is_not_compared(tmp_path, change, complaint):
    whole = {"format": 1, "series": "s", "arm": None, "state": "complete", "reason": None, "asked": 3}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.json").write_text(json.dumps({**whole, "runs": ["01"], "spoiled": [], **change}))
    done = told(tmp_path, "compare", "set", "set")
    assert (done.returncode, complaint in done.stderr) == (2, True)


@pytest.mark.long
def test_a_repeated_run_is_a_set_of_fresh_runs_that_a_baseline_is_made_of(tmp_path):
    done = headroom(tmp_path, "run", "--target", "sim", "--tpm", "9000000", "--rpm", "90000", *BRIEF, "--repeat", 3, "--out", "set", "--quiet")  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "set\n")
    played = run_sets.read(tmp_path / "set")
    manifests = [Manifest.read(tmp_path / "set" / name) for name in played.runs]
    assert played.state == "complete"
    assert len({manifest.run_id for manifest in manifests}) == 3
    assert len({json.dumps(manifest.config["load"]) for manifest in manifests}) == 1, "the same load, the same seed"
    assert told(tmp_path, "baseline", "save", "set", "--name", "main").returncode == 0
    assert told(tmp_path, "compare", "main", "set").returncode == 2, "the same runs"


@pytest.mark.long
def test_a_slower_deployment_regresses_twice_and_the_pairs_change_who_goes_first(tmp_path):
    from tests.simulators import FAST, simulated

    load = [*STREAMS, "--rate", "60/s", "--duration", "2s"]
    with simulated(serving=FAST | {"ttft_base_ms": 40}) as a, simulated(serving=FAST | {"ttft_base_ms": 80}) as b:
        done = headroom(tmp_path, "ab", "--a", a.url, "--b", b.url, "--pairs", 3, *load, "--tpm", "9000000", "--rpm", "90000", "--out", "both", "--confirm")  # fmt: skip
    assert done.returncode == 98, done.stdout + done.stderr
    started = {
        arm: [Manifest.read(tmp_path / "both" / arm / name).monotonic_start_ns for name in run_sets.read(tmp_path / "both" / arm).runs]
        for arm in "ab"
    }  # fmt: skip
    (a1, a2, a3), (b1, b2, b3) = started["a"], started["b"]
    assert a1 < b1 < b2 < a2 < a3 < b3
    assert run_sets.read(tmp_path / "both" / "confirm" / "b").state == "complete"


@pytest.mark.long
def test_a_budget_is_of_all_runs_together_and_ends_the_set(tmp_path):
    done = headroom(tmp_path, "run", "--target", "sim", "--tpm", "9000000", "--rpm", "90000", *BRIEF, "--repeat", 4, "--out", "set", "--budget-requests", 45)  # fmt: skip
    assert done.returncode == 111, done.stderr
    played = run_sets.read(tmp_path / "set")
    assert (played.state, len(played.runs)) == ("interrupted", 1)
    assert told(tmp_path, "compare", "set", "set").returncode == 2


@pytest.mark.long
def test_two_hundred_real_pairs_of_runs_that_are_alike_ring_four_alarms_at_most():
    found = alike(200)
    assert found.pairs.total() == 200
    assert found.pairs[Verdict.REGRESSED] <= 4
    assert found.sets[Verdict.REGRESSED] <= 1
