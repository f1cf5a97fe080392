"""headroom check, and the forms in which a verdict is told: exit codes, JSON by its schema, JUnit, Markdown, GitHub."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree as ET

import pytest

from dashboards import ci
from headroom.gating import Outputs, gate_of, tell
from headroom.run_sets import RunSet, write
from headroom.schemas import WRITTEN, schema
from loadgen.config import RunConfig
from planner.checks import Check
from planner.thresholds import Gate, Judgement
from tests.commands import told
from tests.json_schema import complaints
from tests.runs import answered, make_run

pytestmark = pytest.mark.aside

ROOT = Path(__file__).parent.parent
MADE = {
    "target": {"kind": "managed"},
    "load": {"rate": 10.0, "duration": 60.0, "warmup": 0.0},
    "scenarios": {"streaming": 1},
    "slo": ["ttft.p95<1s"],
}


def run_at(
    cwd: Path, name: str, *, n: int = 600, ttft_s: float = 0.1, most_s: float = 0.0, state: str = "complete"
) -> None:
    """Of first tokens after `ttft_s`, and evenly up to `most_s` more."""
    later_s = [most_s * (seq * 7919 % n) / n for seq in range(n)]
    samples = [answered(seq, 60 * seq / n, ttft_s=ttft_s + later_s[seq], phase="steady") for seq in range(n)]
    make_run(cwd, samples, config=RunConfig.model_validate(MADE), name=name, state=state, reason=None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were good, slow, too short to tell, invalid (its end was never recorded), and of many speeds."""
    cwd = tmp_path_factory.mktemp("runs")
    run_at(cwd, "good")
    run_at(cwd, "slow", ttft_s=2.0)
    run_at(cwd, "short", n=60)
    run_at(cwd, "invalid", state="running")
    run_at(cwd, "varied", most_s=0.2)
    return cwd


def check_of(name: str = "ttft.p95<1s", verdict: Any = "fail", message: str = "too slow") -> Check:
    return Check(name=name, verdict=verdict, message=message, measured=2.0, limit=1.0, n=9, low=None, high=None)


def gate_with(*checks: Check, subject: str = "runs/a", reasons: tuple[str, ...] = ()) -> Gate:
    verdict = "fail" if any(check.verdict == "fail" for check in checks) else "pass"
    return gate_of(
        [
            Judgement(
                subject=subject,
                verdict=verdict,  # type: ignore[arg-type]
                exit_code=99 if verdict == "fail" else 0,
                headline="in a sentence",
                reasons=reasons,
                checks=checks,
            )
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["good"], 0, r"PASS  good: 1 threshold: 1 kept", id="by its own objective"),
        pytest.param(["good", "--slo", "ttft.p95<50ms"], 99, r"fail +ttft.p95<50ms: 100 ms .*n 600", id="by another"),
        pytest.param(["slow"], 99, r"FAIL  slow: 1 threshold: 1 missed", id="a miss"),
        pytest.param(["short"], 3, r"inconclusive +ttft.p95<1s: .*n 60, it takes 90", id="too few for a p95"),
        pytest.param(["short", "--slo", "ttft.p50<1s"], 0, "PASS", id="enough for a median"),
        pytest.param(
            ["short", "--slo", "ttft.p95<1s", "--slo", "ttft.p50<1ms"], 99, "1 missed, 1 unclear", id="a miss beats it"
        ),
        pytest.param(["invalid"], 4, "skipped +ttft.p95<1s: not judged", id="an invalid run is not judged"),
        pytest.param(["varied", "--slo", "ttft.p95<295ms"], 0, "spans the limit", id="what was measured decides"),
        pytest.param(
            ["varied", "--slo", "ttft.p95<295ms", "--strict"], 3, "inconclusive .*spans", id="or the interval"
        ),
        pytest.param(["varied", "--slo", "ttft.p95<285ms", "--strict"], 3, "inconclusive .*spans", id="both ways"),
        pytest.param(["varied", "--slo", "ttft.p95<2s", "--strict"], 0, "pass", id="which is clear here"),
        pytest.param(["short", "slow"], 99, "INCONCLUSIVE  short.*FAIL  slow", id="the worst of two"),
    ],
)
def test_a_finished_run_is_judged_without_load(runs: Path, arguments: list[str], code: int, said: str) -> None:
    done = told(runs, "check", *arguments)
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stdout, re.DOTALL), done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["good", "--slo", "tftt.p95<1s"], "did you mean 'ttft'", id="no metric"),
        pytest.param(["good", "--slo", "ttft{scenario=x}.p95<1s"], "there are streaming", id="no scenario"),
        pytest.param(
            ["good", "--junit", "no/such/folder.xml"], "--junit no/such/folder.xml: cannot be", id="no folder"
        ),
        pytest.param(["good", "--markdown", "good"], "--markdown good: cannot be written there", id="a folder"),
        pytest.param(["nothing"], "nothing is not a run folder", id="no run"),
    ],
)
def test_what_cannot_be_judged_is_an_error(runs: Path, arguments: list[str], complaint: str) -> None:
    done = told(runs, "check", *arguments)
    assert done.returncode == 2 and complaint in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_thresholds_says_what_to_give(tmp_path: Path) -> None:
    make_run(tmp_path, [answered(0, 6.0)])
    done = told(tmp_path, "check", "run")
    assert done.returncode == 2 and "give --slo" in done.stderr


def test_the_runs_of_a_set_are_judged_one_by_one(runs: Path, tmp_path: Path) -> None:
    made = RunSet(
        format=1,
        series="x",
        arm=None,
        state="complete",
        reason=None,
        asked=2,
        runs=("good", "slow"),
        spoiled=("short",),
    )
    write(runs, made)
    try:
        done = told(runs.parent, "check", runs.name)
        assert done.returncode == 99 and done.stdout.count("1 threshold: 1 ") == 2, done.stdout
        write(runs, replace(made, runs=()))
        assert "none of them has ended" in told(runs.parent, "check", runs.name).stderr
    finally:
        (runs / "set.json").unlink()


@pytest.mark.parametrize(("run", "code"), [("slow", 99), ("short", 3), ("good", 2)])
def test_what_cannot_be_written_takes_no_verdicts_place(runs: Path, tmp_path: Path, run: str, code: int) -> None:
    """The other outputs are written; what failed is told. Only a pass would hide it."""
    nowhere = str(tmp_path / "there is no folder" / "summary")
    done = told(runs, "check", run, "--github", "--json", str(tmp_path / "g.json"), GITHUB_STEP_SUMMARY=nowhere)
    assert done.returncode == code, done.stderr
    assert f"cannot write {nowhere} (GITHUB_STEP_SUMMARY)" in done.stderr
    assert json.loads((tmp_path / "g.json").read_bytes())["exit_code"] == (0 if code == 2 else code)


# JSON


@pytest.mark.parametrize("name", WRITTEN)
def test_the_published_schema_is_that_of_the_code(name: str) -> None:
    published = json.loads((ROOT / "docs" / f"{name}.schema.json").read_text())
    assert published == schema(name), f"write it again: python -m headroom.schemas {name} > docs/{name}.schema.json"


def test_the_json_of_real_gates_is_valid_by_the_published_schema(runs: Path) -> None:
    published = json.loads((ROOT / "docs" / "gate.schema.json").read_text())
    for arguments in (["slow", "short"], ["invalid"]):
        done = told(runs, "check", *arguments, "--json", "-")
        document = json.loads(done.stdout)
        assert list(complaints(document, published, published)) == []
        assert document["exit_code"] == done.returncode
    for spoiled in ({"format": "1"}, {"verdict": "fine"}, {"judgements": [{}]}, {"more": 1}):
        assert list(complaints({**document, **spoiled}, published, published)), spoiled


# Files


def test_each_form_is_written_where_it_is_wanted(runs: Path, tmp_path: Path) -> None:
    names = {"--junit": "j.xml", "--markdown": "m.md", "--json": "g.json"}
    flags = [str(part) for flag, name in names.items() for part in (flag, tmp_path / name)]
    assert told(runs, "check", "slow", *flags).returncode == 99
    suite = ET.fromstring((tmp_path / "j.xml").read_bytes()).find("testsuite")
    assert suite is not None and suite.get("failures") == "1"
    assert "❌ fail" in (tmp_path / "m.md").read_text()
    assert json.loads((tmp_path / "g.json").read_bytes())["verdict"] == "fail"


@pytest.mark.parametrize(
    ("verdict", "tag"), [("pass", "system-out"), ("fail", "failure"), ("inconclusive", "error"), ("skipped", "skipped")]
)
def test_a_case_of_junit_has_the_element_of_its_verdict(verdict: str, tag: str) -> None:
    suite = ET.fromstring(ci.junit(gate_with(check_of(verdict=verdict), check_of("other", "pass")))).find("testsuite")
    assert suite is not None
    first, second = suite.findall("testcase")
    assert [child.tag for child in first] == [tag] and [child.tag for child in second] == ["system-out"]
    counts = {kind: int(suite.get(kind, "-1")) for kind in ("failures", "errors", "skipped")}
    expected = {"failure": "failures", "error": "errors", "skipped": "skipped"}.get(tag)
    assert counts == {kind: int(kind == expected) for kind in counts} and suite.get("tests") == "2"


# GitHub


@pytest.fixture
def in_github(tmp_path: Path) -> Iterator[Path]:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    with patch.dict(os.environ, {"GITHUB_STEP_SUMMARY": str(summary)}):
        yield summary


def test_a_job_is_annotated_and_its_summary_appended_to(runs: Path, in_github: Path) -> None:
    done = told(runs, "check", "slow", "short", "--github", GITHUB_STEP_SUMMARY=str(in_github))
    commands = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert [line.split(" ")[0] for line in commands] == ["::error", "::warning"]
    assert commands[0].startswith("::error title=ttft.p95<1s::slow: 2,000 ms")
    text = in_github.read_text()
    assert text.startswith("before\n## Headroom") and text.count("<code>ttft&#46;p95&#60;1s</code>") == 2


def test_nobody_is_annotated_who_did_not_ask(runs: Path, in_github: Path) -> None:
    done = told(runs, "check", "slow", GITHUB_STEP_SUMMARY=str(in_github), GITHUB_ACTIONS="true")
    assert "::error" not in done.stdout and in_github.read_text() == "before\n"


def test_json_on_standard_output_is_alone_there(runs: Path, in_github: Path) -> None:
    done = told(runs, "check", "slow", "--json", "-", "--github", GITHUB_STEP_SUMMARY=str(in_github))
    assert json.loads(done.stdout)["verdict"] == "fail"
    assert done.stderr.startswith("::error")


def test_there_are_at_most_ten_annotations_of_a_kind() -> None:
    many = [check_of(f"failed{{scenario=s{n}}}<1%", "fail" if n < 25 else "inconclusive") for n in range(35)]
    commands = ci.commands(gate_with(*many))
    assert sum(line.startswith("::error") for line in commands) == 10
    assert sum(line.startswith("::warning") for line in commands) == 10
    assert [line for line in commands if line.endswith("::and 16 more")]


def test_a_summary_stays_below_a_mebibyte_whatever_it_holds(in_github: Path) -> None:
    many = [check_of(f"name {n} {'|' * 280}", message="&" * 290) for n in range(400)]
    text = ci.markdown(gate_with(*many))
    assert 1_000_000 < len(text.encode()) < 1 << 20
    assert re.search(r"and [\d,]+ more lines, which are left out here\n$", text)


def test_markdown_fits_into_a_comment_on_a_pull_request(tmp_path: Path) -> None:
    gate = gate_of([*gate_with(*[check_of()] * 9).judgements] * 200)
    tell(gate, Outputs(markdown=tmp_path / "m.md"), quiet=True)
    text = (tmp_path / "m.md").read_text()
    assert 60_000 < len(text) < 65_536
    shown, left = text.count("\n"), re.search(r"and ([\d,]+) more lines, which are left out here\n$", text)
    assert left is not None and shown > 300 and int(left[1].replace(",", "")) > 300


def test_what_made_a_run_invalid_is_an_error_of_its_own() -> None:
    gate = gate_with(check_of(verdict="skipped"), reasons=("the generator was late",))
    (judgement,) = gate.judgements
    gate = gate_of([replace(judgement, verdict="invalid", exit_code=4)])
    root = ET.fromstring(ci.junit(gate))
    (error,) = root.iter("error")
    assert error.get("type") == "invalid" and error.text == "the generator was late"
    assert ci.commands(gate) == ["::error title=runs/a::in a sentence: the generator was late"]
    assert "- <code>the generator was late</code>" in ci.markdown(gate)


def test_the_example_workflow_names_flags_that_there_are() -> None:
    import inspect

    from headroom.commands.gate import check
    from headroom.commands.load import parameter_of, run

    text = (ROOT / "docs" / "github-workflow.yml").read_text()
    offered: Callable[[Any], set[str]] = lambda command: {*inspect.signature(command).parameters, "json_"}  # noqa: E731
    for command, function in (("run", run), ("check", check)):
        for call in re.findall(rf"headroom {command} (.*)", text):
            for flag in re.findall(r"--[\w-]+", call):
                assert parameter_of(flag) in offered(function) or flag == "--json", flag
    assert (
        "::" not in text and tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    )
