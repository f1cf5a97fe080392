"""headroom compare: what it finds between runs, what it refuses, and what it says."""

import json
import random
from dataclasses import replace

import pytest

from headroom.schemas import schema
from loadgen.samples import Manifest, Run
from planner.checks import Check
from planner.compare import checks_of, compare
from planner.comparing import baseline
from planner.comparing.figures import Test
from planner.comparing.run_facts import facts_of
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import Verdict
from tests.commands import told
from tests.compared_runs import several, streams
from tests.json_schema import complaints

pytestmark = pytest.mark.aside

KINDS = {
    "before": {"seed": 0},
    "after": {"seed": 100},
    "slow": {"seed": 200, "slower": 1.25},
    "failing": {"seed": 300, "failed": 0.07, "slower": 0.8},
    "long": {"seed": 400, "tokens": 65},
}


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    """Four runs of each kind, and their baselines, which are read sooner."""
    place = tmp_path_factory.mktemp("runs")
    for name, like in KINDS.items():
        several(place, name, range(like["seed"], like["seed"] + 4), **{**like, "seed": None})
        baseline.write(baseline.baseline_of(name, facts_in(place / name)), place)
    return place


def facts_in(folder):
    return [facts_of(Run.open(path.parent)) for path in sorted(folder.glob("*/manifest.json"))]


def facts(path):
    return list(baseline.read(path.with_suffix(".json")).runs)


def found(done):
    """Everything that is compared here is as docs/compare.schema.json says."""
    document, published = json.loads(done.stdout), schema("compare")
    assert list(complaints(document, published, published)) == []
    assert list(complaints(document | {"more": 1}, published, published))
    return document


@pytest.mark.parametrize(
    ("base", "new", "code", "verdict"),
    [
        ("before", "after", 0, "EQUIVALENT"),  # folders
        ("before.json", "slow.json", 98, "REGRESSED"),
        ("slow.json", "before.json", 0, "IMPROVED"),
        ("before.json", "failing.json", 98, "REGRESSED"),
        ("before/01", "after/01", 3, "INCONCLUSIVE"),
        ("before.json", "after/01", 3, "INCONCLUSIVE"),
    ],
)
def test_the_exit_code_is_the_verdicts(arena, base, new, code, verdict):
    done = told(arena, "compare", base, new)
    assert (done.returncode, done.stderr) == (code, "")
    assert verdict in done.stdout
    assert told(arena, "compare", base, new, "--quiet").stdout == ""


def test_a_regression_is_told_with_its_ratio_interval_spread_and_what_could_have_been_found(arena):
    comparison = found(told(arena, "compare", "before.json", "slow.json", "--fail-on", "ttft.p50:+10%", "--json", "-"))
    (row,) = comparison["metrics"]
    assert row["low"] < 1.25 < row["high"]
    assert row["p_slower"] < 0.01
    assert 0.05 < row["detectable_share"] < 0.3
    assert 0 <= row["spread_share"] < 0.06
    assert comparison["headline"].startswith("REGRESSED: ttft.p50 is 2")


def test_what_is_inconclusive_says_how_many_runs_would_settle_it(arena):
    (row,) = found(told(arena, "compare", "before/01", "after/01", "--fail-on", "ttft.p50:+10%", "--json", "-"))[
        "metrics"
    ]
    assert row["verdict"] == "inconclusive"
    assert 5 < row["runs_needed"] < 60
    assert f"{row['runs_needed']} runs a side in turns (headroom ab) would tell" in row["reason"]


def test_a_percentile_of_one_run_whose_interval_has_no_end_is_inconclusive(arena):
    (row,) = found(told(arena, "compare", "before/01", "slow/01", "--fail-on", "ttft.p95:+10%", "--json", "-"))[
        "metrics"
    ]
    assert (row["verdict"], row["ratio"]) == ("inconclusive", None)
    assert "one run has too few samples to say how sure its figure is" in row["reason"]


def test_faster_answers_of_the_few_that_were_answered_are_no_improvement(arena):
    comparison = compare(facts(arena / "before"), facts(arena / "failing"))
    assert comparison.outcomes.verdict is Verdict.REGRESSED
    assert "were not answered" in comparison.headline
    assert all(row.verdict is not Verdict.IMPROVED for row in comparison.metrics)
    assert any("server_error is" in doubt for doubt in comparison.doubts)


def test_a_few_failures_of_one_burst_are_no_regression(arena, tmp_path):
    """8 % of one run of five, of the rest none: arrivals would call it sure, runs do not."""
    burst = [*facts(arena / "after"), facts_of(Run.open(streams(tmp_path, "one", 504, failed=0.08)))]
    assert compare(facts(arena / "before"), burst).outcomes.verdict is not Verdict.REGRESSED


def test_longer_answers_are_told_apart_from_slower_ones(arena):
    comparison = compare(
        facts(arena / "before"),
        facts(arena / "long"),
        tolerances=[Tolerance.parse("response_time.p50:+10%"), Tolerance.parse("tpot.p50:+10%")],
    )
    response, tpot = comparison.metrics
    assert comparison.lengths.differ
    assert (response.verdict, tpot.verdict) == (Verdict.INCONCLUSIVE, Verdict.EQUIVALENT)
    assert "answers were 30 % longer: tpot tells" in response.reason


def test_where_nothing_streams_the_response_time_is_compared(tmp_path):
    sides = [facts_in(several(tmp_path, name, seeds, plain=True)) for name, seeds in (("a", (1, 2)), ("b", (3, 4)))]
    assert [row.name for row in compare(*sides).metrics] == ["response_time.p50", "response_time.p95"]


@pytest.mark.parametrize(
    ("load", "named"),
    [
        ({"rate": 25.0, "duration": 4.0}, "load.rate is 20.0 and 25.0"),
        ({"rate": None, "users": 4}, "loop is open and closed"),
        ({"throttle": "pace"}, "load.throttle is off and pace"),
        ({"max_tokens": 64}, "load.max_tokens is 128 and 64"),
    ],
)
def test_runs_that_were_not_asked_for_the_same_are_refused_and_what_differs_is_named(arena, tmp_path, load, named):
    done = told(tmp_path, "compare", arena / "before.json", streams(tmp_path, "other", 9, **load))
    assert done.returncode == 2
    assert named in done.stderr


def test_other_mixes_are_refused(arena, tmp_path):
    other = streams(tmp_path, "other", 9)
    manifest = Manifest.read(other)
    manifest.config["scenarios"] = {"streaming": 1.0, "chat": 1.0}
    manifest.write(other)
    done = told(tmp_path, "compare", arena / "before.json", other)
    assert (done.returncode, "scenarios.chat is not set and 1.0" in done.stderr) == (2, True)


def test_other_models_machines_and_seeds_are_compared_and_told(arena, tmp_path):
    other = streams(tmp_path, "other", 9)
    manifest = Manifest.read(other)
    manifest.config["load"]["seed"] = 9
    manifest.model_copy(update={"deployment": {"model_name": "Phi-4"}}).write(other)
    doubts = " ".join(found(told(tmp_path, "compare", arena / "before.json", other, "--json", "-"))["doubts"])
    assert "model was not the same: Phi-3-mini-4k-Instruct and Phi-4" in doubts
    assert "load.seed was not the same: 1 and 9" in doubts
    assert "one run on a side" in doubts


def test_an_invalid_run_ends_with_4(arena, tmp_path):
    done = told(tmp_path, "compare", arena / "before.json", streams(tmp_path, "broken", 9, failed=0.5))
    assert done.returncode == 4
    assert "INVALID, and not compared: broken" in done.stderr


def test_a_run_is_not_compared_with_itself(arena):
    done = told(arena, "compare", "before", "before/01")
    assert (done.returncode, "on both sides" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["before"], "takes a BASE and a NEW"),
        (["before", "nothing"], "neither a run, nor a set of runs, nor a baseline"),
        (["before.json", "after.json", "--test", "magic"], "there are welch and ranks"),
        (["before", "after", "--fail-on", "ttft.p95:+1%", "--fail-on", "ttft.p95:+2%"], "twice"),
        (["before", "after", "--fail-on", "ttfb:+1%"], "write it like"),
        (["before.json", "after.json", "--history"], "a history has between 10"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_says_why(arena, arguments, complaint):
    done = told(arena, "compare", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_a_percentile_that_a_run_cannot_support_is_inconclusive(arena):
    (row,) = found(told(arena, "compare", "before.json", "after.json", "--fail-on", "ttft.p99:+10%", "--json", "-"))[
        "metrics"
    ]
    assert row["verdict"] == "inconclusive"
    assert "a run has 100 samples, and the percentile needs 459" in row["reason"]


def test_a_regression_that_fresh_runs_do_not_show_is_not_confirmed(arena, tmp_path):
    done = told(arena, "compare", "before.json", "slow.json", "--confirm", "after.json")
    assert (done.returncode, "fresh runs did not show it again" in " ".join(done.stdout.split())) == (3, True)
    again = several(tmp_path, "again", range(210, 213), slower=1.25)
    assert told(arena, "compare", "before.json", "slow.json", "--confirm", again).returncode == 98


def test_ranks_give_a_run_that_started_cold_no_weight_of_its_own(tmp_path, arena):
    cold = [*facts(arena / "after"), facts_of(Run.open(streams(tmp_path, "cold", 605, slower=4.0)))]
    by = {
        test: compare(facts(arena / "before"), cold, test=test, tolerances=[Tolerance.parse("ttft.p50:+10%")])
        for test in Test
    }
    assert by["ranks"].metrics[0].ratio < 1.1
    assert by["welch"].metrics[0].ratio > 1.2
    assert not any("--test ranks gives" in doubt for doubt in by["welch"].doubts), "of five runs ranks tell nothing"
    assert by["ranks"].metrics[0].detectable_share is None
    assert any("could not tell a regression" in doubt for doubt in by["ranks"].doubts)


def test_a_baseline_stands_for_its_runs(arena, tmp_path):
    assert told(tmp_path, "baseline", "save", arena / "before", "--name", "main").stdout == ".headroom/main.json\n"
    with_runs = found(told(arena, "compare", "before", "slow", "--json", "-"))
    with_file = found(told(tmp_path, "compare", "main", arena / "slow.json", "--json", "-"))
    assert with_file == with_runs
    assert told(tmp_path, "compare", ".headroom/main.json", arena / "after.json").returncode == 0


def test_a_baseline_is_small_and_differs_only_where_its_figures_do(arena, tmp_path):
    told(tmp_path, "baseline", "save", arena / "before.json", "--name", "main")
    file = tmp_path / ".headroom" / "main.json"
    first = file.read_bytes()
    told(tmp_path, "baseline", "save", arena / "before.json", "--name", "main")
    assert file.read_bytes() == first
    assert len(first) < 40_000
    assert list(json.loads(first)) == sorted(json.loads(first))


def test_baselines_are_listed_and_shown(arena, tmp_path):
    told(tmp_path, "baseline", "save", arena / "before.json", "--name", "main")
    told(tmp_path, "baseline", "save", arena / "slow.json", "--name", "v1.2", "--dir", "kept")
    assert "main" in told(tmp_path, "baseline", "list").stdout
    assert "v1.2" in told(tmp_path, "baseline", "list", "--dir", "kept").stdout
    assert told(tmp_path, "baseline", "show", "main").stdout.count("2026-11-20") == 4
    shown = told(tmp_path, "baseline", "show", "main", "--json").stdout.encode()
    assert shown == (tmp_path / ".headroom" / "main.json").read_bytes()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{}", "is no baseline of format 1"),
        ("[1]", "is no baseline of format 1"),
        ("not JSON", "cannot be read"),
        ('{"format": 2, "runs": []}', "is no baseline of format 1"),
        ('{"format": 1, "name": "x", "runs": []}', "holds no run"),
        ('{"format": 1, "name": "x", "runs": [{"name": 1}]}', "is damaged"),
    ],
)
def test_a_file_that_is_no_baseline_is_named(arena, tmp_path, content, complaint):
    (tmp_path / "file.json").write_text(content)
    done = told(tmp_path, "compare", "file.json", arena / "after.json")
    assert (done.returncode, complaint in done.stderr) == (2, True)


def test_no_baseline_is_made_of_an_invalid_run_or_by_a_name_that_leaves_the_folder(arena, tmp_path):
    broken = streams(tmp_path, "broken", 9, failed=0.5)
    assert told(tmp_path, "baseline", "save", broken, "--name", "main").returncode == 2
    assert told(tmp_path, "baseline", "save", arena / "before.json", "--name", "../main").returncode == 2
    assert not list(tmp_path.glob("**/main.json"))


def test_a_comparison_is_checks_for_ci(arena):
    comparison = compare(facts(arena / "before"), facts(arena / "slow"))
    checks = checks_of(comparison)
    assert all(isinstance(check, Check) for check in checks)
    assert [(check.name, check.verdict) for check in checks[:2]] == [("unanswered", "pass"), ("ttft.p50", "fail")]
    assert checks[1].limit == pytest.approx(5), "what it is above: half of the tolerance"
    assert checks[1].low < checks[1].measured < checks[1].high
    assert checks[1].n == 4


def at_level(run, day, level):
    """The same run on another day, every latency of it so many times as long."""
    quantiles = [
        replace(each, value_ms=each.value_ms and each.value_ms * level * random.Random(day).lognormvariate(0, 0.02))
        for each in run.quantiles
    ]
    started = f"2026-11-{day + 1:02d}T10:00:00Z"
    return replace(run, run_id=f"{day}", name=f"day{day:02d}", started_utc=started, quantiles=tuple(quantiles))


def test_the_verdict_is_written_for_ci(arena, tmp_path):
    files = {"--junit": tmp_path / "gate.xml", "--markdown": tmp_path / "gate.md"}
    flags = [word for pair in files.items() for word in pair]
    done = told(arena, "compare", "before.json", "slow.json", *flags, "--github")
    assert done.returncode == 98
    assert "::error title=ttft.p50::" in done.stdout
    assert "<failure" in files["--junit"].read_text()
    assert "tpot" in files["--markdown"].read_text()


def test_a_change_of_level_is_found_in_a_history(arena, tmp_path):
    (run, *_) = facts(arena / "before")
    for day in range(24):
        baseline.write(baseline.baseline_of(f"d{day:02d}", [at_level(run, day, 1.0 if day < 12 else 1.06)]), tmp_path)
    steady = told(tmp_path, "compare", "--history", *sorted(tmp_path.glob("d*.json"))[:12])
    assert (steady.returncode, "No change of level in 12 points" in steady.stdout) == (0, True)
    done = told(tmp_path, "compare", "--history", ".", "--fail-on", "ttft.p50:+10%", "--json", "-")
    (change,) = found(done)["changes"]
    assert (done.returncode, change["last"]) == (98, True)
    assert abs(int(change["at"].removeprefix("day")) - 12) <= 1
    assert 1.04 < change["ratio"] < 1.08
    patient = told(tmp_path, "compare", "--history", ".", "--fail-on", "ttft.p50:+20%")
    assert (patient.returncode, "ttft.p50 +" in patient.stdout) == (0, True)


def test_names_that_would_command_a_terminal_are_shown_and_not_obeyed(arena, tmp_path):
    wild = [
        replace(run, name="\x1b[31mred\u202e", circumstances={"model": "\x1b[2Jx"}) for run in facts(arena / "slow")
    ]
    for name, runs in (("wild", wild), ("b", facts(arena / "before"))):
        baseline.write(baseline.baseline_of(name, runs), tmp_path)
    for arguments in (
        ["compare", "b.json", "wild.json"],
        ["baseline", "show", "wild", "--dir", "."],
        ["baseline", "list", "--dir", "."],
    ):
        said = told(tmp_path, *arguments).stdout
        assert said
        assert not {"\x1b", "\u202e"} & {*said}


def test_what_is_kept_of_a_run_survives_its_file(arena):
    runs = facts(arena / "before")[:1]
    kept = baseline.baseline_of("main", runs)
    path = baseline.write(kept, arena / "kept")
    assert baseline.read(path) == kept
