"""Where a comparison's verdict goes, what is refused, and what is never sent or obeyed."""

import json
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree as ET

import pytest

from headroom.repeating import environments
from loadgen.config import RunConfig
from loadgen.errors import ConfigError
from loadgen.samples import Run
from planner.comparing import baseline
from planner.comparing.damage import damage_of
from planner.comparing.run_facts import facts_of, settings_that_were_not_yet
from tests.commands import told
from tests.compared_runs import several, streams

pytestmark = pytest.mark.aside


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    place = tmp_path_factory.mktemp("told")
    for name, seed, slower in (("base", 0, 1.0), ("slow", 100, 1.6), ("again", 200, 1.6)):
        several(place, name, range(seed, seed + 3), slower=slower)
        runs = [facts_of(Run.open(path.parent)) for path in sorted((place / name).glob("*/manifest.json"))]
        baseline.write(baseline.baseline_of(name, runs), place)
    return place


def kept(arena, name="base"):
    return list(baseline.read(arena / f"{name}.json").runs)


def test_json_to_a_file_or_alone_on_standard_output(arena, tmp_path):
    file = tmp_path / "out.json"
    both = told(arena, "compare", "base.json", "slow.json", "--json", file)
    alone = told(arena, "compare", "base.json", "slow.json", "--json", "-", "--github")
    assert "REGRESSED" in both.stdout
    assert json.loads(file.read_text()) == json.loads(alone.stdout), "annotations go elsewhere"
    assert "::error" in alone.stderr
    quiet = told(arena, "compare", "base.json", "slow.json", "--quiet", "--github")
    assert (quiet.stdout, "::error" in quiet.stderr) == ("", True)


def test_a_refused_comparison_leaves_no_verdict_of_another_behind(arena, tmp_path):
    files = {"--junit": tmp_path / "j.xml", "--markdown": tmp_path / "m.md", "--json": tmp_path / "o.json"}
    flags = [word for pair in files.items() for word in pair]
    assert told(arena, "compare", "base.json", "slow.json", *flags).returncode == 98
    assert told(arena, "compare", "base.json", "base.json", *flags).returncode == 2
    (error,) = ET.parse(files["--junit"]).iter("error")
    assert error.get("type") == "invalid"
    assert "on both sides" in error.text
    assert "invalid" in files["--markdown"].read_text()
    assert json.loads(files["--json"].read_text())["verdict"] == "invalid"
    broken = streams(tmp_path, "broken", 9, failed=0.5)
    assert told(arena, "compare", "base.json", broken, *flags).returncode == 4
    assert "INVALID, and not compared: broken of NEW" in unescape(files["--markdown"].read_text())


def test_the_subject_is_what_was_named_and_doubts_are_its_reasons(arena, tmp_path):
    told(arena, "compare", "base.json", "slow.json", "--junit", tmp_path / "j.xml", "--markdown", tmp_path / "m.md")
    (suite,) = ET.parse(tmp_path / "j.xml").iter("testsuite")
    assert suite.get("name") == "slow.json against base.json"
    assert "which plays in turns" in unescape((tmp_path / "m.md").read_text())
    assert "slow.json against base.json: 3 new against 3" in " ".join(
        told(arena, "compare", "base.json", "slow.json").stdout.split()
    )


def test_what_confirms_must_be_fresh_and_the_first_comparison_is_told(arena, tmp_path):
    own = told(arena, "compare", "base.json", "slow.json", "--confirm", "slow.json")
    assert (own.returncode, "takes fresh runs" in own.stderr) == (2, True)
    done = told(arena, "compare", "base.json", "slow.json", "--confirm", "again.json", "--markdown", tmp_path / "m.md")
    assert done.returncode == 98
    assert "first" in done.stdout
    assert "the first comparison" in (tmp_path / "m.md").read_text()


def test_a_run_counts_once_and_only_with_its_like(arena, tmp_path):
    runs = kept(arena)
    twice = baseline.Baseline(format=1, name="twice", runs=(*runs, runs[0]))
    other = replace(runs[0], run_id="x", settings=runs[0].settings | {"load.rate": 99.0})
    unlike = baseline.Baseline(format=1, name="unlike", runs=(*runs, other))
    for bad, complaint in ((twice, "more than once"), (unlike, "the runs of BASE cannot be taken together")):
        path = baseline.write(bad, tmp_path)
        done = told(arena, "compare", path, "slow.json")
        assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr
        assert told(arena, "baseline", "save", path, "--name", "x", "--dir", tmp_path / "kept").returncode == 2


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda run: run["quantiles"][0].update(value_ms=-5.0), "runs.0.quantiles.0.value_ms is -5.0"),
        (lambda run: run["quantiles"][1].update(low_ms=-3.0), "runs.0.quantiles.1.low_ms"),
        (lambda run: run["quantiles"][1].update(low_ms=2.5, high_ms=2.0), "low_ms is 2.5, above high_ms, 2.0"),
        (lambda run: run["quantiles"][0].update(percentile=100.0), "runs.0.quantiles.0.percentile is 100.0"),
        (lambda run: run.update(unanswered=999_999), "runs.0.unanswered is 999999 of 100"),
        (lambda run: run.update(unanswered=-5), "runs.0.unanswered is -5"),
        (lambda run: run.update(started_utc="once"), "runs.0.started_utc is 'once'"),
        (lambda run: run.update(arrivals="many"), "runs.0.arrivals"),
        (lambda run: run.update(unanswered_blocks=[1]), "runs.0.unanswered_blocks"),
    ],
)
def test_a_damaged_baseline_names_the_field(arena, tmp_path, damage, field):
    raw = json.loads((arena / "base.json").read_text())
    damage(raw["runs"][0])
    (tmp_path / "bad.json").write_text(json.dumps(raw))
    done = told(arena, "compare", tmp_path / "bad.json", "slow.json")
    assert (done.returncode, field in done.stderr) == (2, True), done.stderr


def test_an_interval_of_one_value_is_no_damage(arena):
    (run, *_) = baseline.read(arena / "base.json").runs
    (one, *others) = run.quantiles
    alike = replace(one, low_ms=one.value_ms, high_ms=one.value_ms)
    assert damage_of(replace(run, quantiles=(alike, *others))) is None


def test_a_baseline_of_an_older_version_has_the_defaults_of_what_it_did_not_know(arena, tmp_path):
    raw = json.loads((arena / "base.json").read_text())
    for run in raw["runs"]:
        assert run["settings"].pop("load.retry_elsewhere") is not None
        assert run["settings"].pop("load.max_in_flight") is not None
        run.pop("unanswered_blocks")
        for each in run["quantiles"]:
            each.pop("of")
    (tmp_path / "older.json").write_text(json.dumps(raw))
    assert told(arena, "compare", tmp_path / "older.json", "slow.json").returncode == 98
    assert not {"load.rate", "load.users", "load.duration"} & {*settings_that_were_not_yet()}, "None is a value too"


def test_a_name_does_not_lead_out_of_the_folder_of_baselines(arena, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "outside.json").write_bytes((arena / "base.json").read_bytes())
    done = told(tmp_path, "baseline", "show", "../outside", "--dir", "kept")
    assert (done.returncode, "is none of a baseline" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["[/bold]", "[red]x", "::error::x", "\x1b[31m"])
def test_names_are_no_markup_and_inert_in_json(arena, tmp_path, name):
    wild = [replace(run, name=name, circumstances={"model": name}) for run in kept(arena)]
    baseline.write(baseline.Baseline(format=1, name="wild", runs=tuple(wild)), tmp_path)
    shown = told(tmp_path, "baseline", "show", "wild", "--dir", ".")
    assert shown.returncode == 0
    assert told(tmp_path, "baseline", "list", "--dir", ".").returncode == 0
    if name.startswith("["):
        assert name in shown.stdout
    said = told(arena, "compare", tmp_path / "wild.json", "slow.json", "--json", "-").stdout
    assert not {"\x1b", "\\u001b", "::error::"} & {piece for piece in ("\x1b", "\\u001b", "::error::") if piece in said}


def test_a_trace_is_compared_by_what_it_asked_for(tmp_path):
    from loadgen.schedule import Arrival
    from loadgen.schedule_file import write_schedule

    found = []
    for name, gap_ns in (("one", 10), ("same", 10), ("other", 20)):
        folder = streams(tmp_path, name, 1, rate=None, trace="a.csv" if name == "one" else "b.csv")
        write_schedule(folder, [Arrival(seq, seq * gap_ns, "streaming", seq) for seq in range(5)])
        found.append(facts_of(Run.open(folder)).settings["load.trace"])
    assert found[0] == found[1] != found[2]


URLS = ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("keys", "held"),
    [
        ((None, None), ((), ())),
        (("env:AZURE_INFERENCE_CREDENTIAL", None), (("AZURE_INFERENCE_CREDENTIAL",), ())),
    ],
)
def test_the_environments_key_goes_to_neither_of_two_hosts_but_by_name(monkeypatch, capsys, keys, held):
    for name in ("AZURE_INFERENCE_CREDENTIAL", "AZUREAI_ENDPOINT_KEY"):
        monkeypatch.setenv(name, "secret")
    found = environments(RunConfig(), list(zip(URLS, keys, strict=True)))
    assert [tuple(sorted(name for name in each if "AZURE" in name and each[name] == "secret")) for each in found] == [
        *held
    ]
    said = capsys.readouterr().err
    assert "--b-key env:AZURE_INFERENCE_CREDENTIAL" in said
    assert "secret" not in said


def test_one_host_keeps_its_key_and_a_key_that_is_named_for_no_side_is_refused(monkeypatch):
    monkeypatch.setenv("AZURE_INFERENCE_CREDENTIAL", "secret")
    for urls in ((f"{URLS[0]}/x", f"{URLS[0]}/y"), ("sim", URLS[0])):
        assert all(
            "AZURE_INFERENCE_CREDENTIAL" in each for each in environments(RunConfig(), [(url, None) for url in urls])
        )
    named = RunConfig.model_validate({"target": {"url": URLS[0], "key": "env:MINE"}})
    with pytest.raises(ConfigError, match="name each key"):
        environments(named, [(url, None) for url in URLS])
    assert environments(named, [(url, "env:MINE") for url in URLS])


def history(arena, place, days=20, step=12):
    (run, *_) = kept(arena)
    for day in range(days):
        level = 1.0 if day < step else 1.3
        quantiles = tuple(
            replace(each, value_ms=each.value_ms and each.value_ms * level * (1 + 0.004 * (day * 7 % 5)))
            for each in run.quantiles
        )
        started = f"2026-11-{day + 1:02d}T10:00:00Z"
        at = replace(run, run_id=f"{day}", name=f"day{day:02d}", started_utc=started, quantiles=quantiles)
        baseline.write(baseline.Baseline(format=1, name=f"d{day:02d}", runs=(at,)), place)
    return place


def test_a_bad_point_is_passed_over_and_named_and_what_is_accepted_ends_no_build(arena, tmp_path):
    history(arena, tmp_path)
    (tmp_path / "d99.json").write_text("{}")
    asked = ["compare", "--history", ".", "--fail-on", "ttft.p50:+10%"]
    done = told(tmp_path, *asked)
    assert (done.returncode, "passed over" in done.stdout, "d99.json" in done.stdout) == (98, True, True)
    assert told(tmp_path, *asked, "--since", "2026-11-20").returncode == 0
    assert told(tmp_path, *asked, "--since", "2026-11-10").returncode == 98
    assert told(tmp_path, *asked, "--quiet").stdout == ""
    for flags, complaint in (
        (["--since", "soon"], "is no day"),
        (["--junit", "x.xml"], "makes no use of --junit"),
        (["--confirm", "d01.json"], "makes no use of --confirm"),
        (["--test", "ranks"], "makes no use of --test"),
    ):
        refused = told(tmp_path, *asked, *flags)
        assert (refused.returncode, complaint in refused.stderr) == (2, True), refused.stderr
