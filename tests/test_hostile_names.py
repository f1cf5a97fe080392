"""Names and errors of others are inert wherever a verdict, a plan or a report is read: twenty payloads, each sink."""

from __future__ import annotations

import html
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from rich.console import Console

from dashboards import ci
from dashboards.drawings import draw
from dashboards.readable import readable, shortened
from dashboards.report import render
from dashboards.terminal import print_plan
from headroom.failure_criteria import read_criteria, yaml_lines
from loadgen.config import RunConfig
from loadgen.samples import Outcome
from planner.assemble import plan_run
from planner.checks import Check
from planner.thresholds import Gate, Judgement
from tests.commands import told
from tests.plans import example_plan, with_every_text
from tests.runs import answered, make_run

pytestmark = pytest.mark.aside

PAYLOADS = {
    "colours": "\x1b[31mred\x1b[0m",
    "a title for the window": "\x1b]0;owned\x07",
    "C1 controls": "\x9b2J\x9d0;x\x9c",
    "a line of its own": "one\r\ntwo\x85three\u2028four",
    "an annotation": "x\n::error file=a.py,line=1::owned",
    "a command at once": "::add-mask::secret",
    "a command with a colon": "::error file=a:c::x",
    "a command with a colon after a blank": "text ::set-env name=A:B::v",
    "a command of other letters": "\u3000::error f\u00efle=..::x",
    "a command that begins with colons": ":::error file=a:c::x",
    "an old command": "text ##[set-env name=PATH]/evil",
    "a command of Azure Pipelines": "##vso[task.setvariable variable=x]y",
    "a row of a table": "a | b |\n|---|---|",
    "a link": "[click](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "a mention": "@everyone #1 https://evil.example www.evil.example `code` **bold**",
    "the end of code": "</code></td></table><h1>x</h1>`````",
    "a script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "the end of a script": "</script><!--<script>",
    "the end of a text in XML": "]]>\"'&amp;<!ENTITY x SYSTEM 'file:///etc/passwd'>&x;",
    "no character of XML": "a\x00b\ufffe\uffff\x0b",
    "a formula": "=cmd|' /C calc'!A0",
    "another direction": "\u202egpj.exe\u2066\u200f",
    "a lone half": "a\ud800b",
    "very long": "A" * 100_000 + "::error::x",
}
SAFE = "a safe name"
COMMAND = re.compile(r"(?:^|\s)::|::[\w-]+ [^:\n]*::|##\w*\[", re.MULTILINE)
payloads = pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())


def gate_of(text: str) -> Gate:
    """The text wherever there is one."""
    checks = tuple(
        Check(name=text, verdict=verdict, message=text, measured=None, limit=None, n=None, low=None, high=None)
        for verdict in ("fail", "inconclusive", "skipped", "pass")
    )
    judgement = Judgement(
        subject=text,
        verdict="fail",
        exit_code=99,
        headline=text,
        reasons=(text,),
        checks=checks,  # type: ignore[arg-type]
    )
    return Gate(format=1, verdict="fail", exit_code=99, judgements=(judgement,))


def shown(text: str) -> str:
    """As it may be shown."""
    return shortened(readable(text), ci.LONGEST)


def is_plain(text: str) -> bool:
    hidden = [char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Cf") and char not in "\n\u200b"]
    return not hidden and not COMMAND.search(text)


@payloads
def test_in_a_terminal(payload: str) -> None:
    lines = ci.plain(gate_of(payload))
    assert len(lines) == len(ci.plain(gate_of(SAFE))) and is_plain("\n".join(lines))
    assert max(map(len, lines)) < 1_000


@payloads
def test_in_the_plan_of_a_terminal(payload: str) -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    print_plan(with_every_text(example_plan(), payload[:2_000]), console)
    assert is_plain(console.file.getvalue())  # type: ignore[attr-defined]


@payloads
def test_in_junit_xml(payload: str) -> None:
    document = ci.junit(gate_of(payload))
    root, safe = ET.fromstring(document), ET.fromstring(ci.junit(gate_of(SAFE)))
    assert [element.tag for element in root.iter()] == [element.tag for element in safe.iter()]
    cases = list(root.iter("testcase"))
    assert {case.get("classname") for case in cases} == {shown(payload)} or not shown(payload).strip()
    assert is_plain(document.decode()) and b"<!" not in document
    assert len(document) < 30_000


@payloads
def test_in_markdown_and_the_step_summary(payload: str) -> None:
    text, safe = ci.markdown(gate_of(payload)), ci.markdown(gate_of(SAFE))
    code = re.compile(r"<code>([^<>`|*_@!\[\]()\\\n]*)</code>")  # nothing that could be markup
    assert code.sub("<code/>", text) == code.sub("<code/>", safe)
    assert {html.unescape(each).replace("\u200b", "") for each in code.findall(text)} == {shown(payload)}
    assert is_plain(text) and not re.search(r"https?:|www\.|@\w|#\d(?!\d*;)", text.replace("&#", ""))


@payloads
def test_in_annotations(payload: str) -> None:
    commands = ci.commands(gate_of(payload))
    assert len(commands) == len(ci.commands(gate_of(SAFE))) == 3
    for command in commands:
        assert re.fullmatch(r"::(error|warning) title=[^:,\r\n]*::[^\r\n]*", command), command
        assert len(command) < 4_000
        assert is_plain(command.split("::", 2)[2])


@payloads
def test_in_json(payload: str) -> None:
    document = ci.to_json(gate_of(payload))
    assert is_plain(document.decode())
    (judgement,) = json.loads(document)["judgements"]
    assert judgement["subject"] == judgement["checks"][0]["name"] == judgement["reasons"][0] == shown(payload)


@payloads
def test_in_an_error_of_the_command_line(payload: str, tmp_path: Path) -> None:
    """As a folder and a threshold; an argument cannot hold a zero byte."""
    text = payload[:150].replace("\x00", "").replace("/", "-")
    for arguments in (["check", text], ["run", "--slo", text]):
        done = told(tmp_path, *arguments)
        assert done.returncode in (1, 2), done.stderr
        assert is_plain(done.stderr.replace("headroom: ", "", 1)), done.stderr
        assert "Traceback" not in done.stderr


@payloads
def test_in_the_yaml_of_azure_load_testing(payload: str, tmp_path: Path) -> None:
    name = payload[:300].encode("utf-8", "replace").decode()
    lines = yaml_lines([(name, "percentage(error) > 5")])
    assert len(lines) == 2 and lines[1].isascii() and lines[1].isprintable()
    assert yaml.safe_load("\n".join(lines)) == {"failureCriteria": [{name: "percentage(error) > 5"}]}
    (tmp_path / "test.yaml").write_text("\n".join(lines))
    thresholds, unsaid = read_criteria(tmp_path / "test.yaml")
    assert len(thresholds) + len(unsaid) == 1


class Elements(HTMLParser):
    """The start tags of a page, with the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag, tuple(sorted(name for name, _ in attrs))] += 1


def page_of(tmp_path: Path, name_of: Callable[[int, str], str]) -> str:
    """The report of a run whose scenarios, errors and notes are so named."""
    names = [name_of(place, payload[:400]) for place, payload in enumerate(PAYLOADS.values())]
    names = [name.encode("utf-8", "replace").decode() for name in names]
    mix: dict[str, Any] = dict.fromkeys(names, 1)
    config = RunConfig.model_validate({"load": {"rate": 5.0, "duration": 60.0, "warmup": 0.0}, "scenarios": mix})
    samples = []
    for seq in range(300):
        name = names[seq % len(names)]
        failed = {"outcome": Outcome.SERVER_ERROR, "status": 500, "error": name[:200]} if seq % 7 == 0 else {}
        samples.append(answered(seq, seq / 5, ttft_s=0.1, phase="steady", **{"scenario": name, **failed}))
    run = make_run(
        tmp_path, samples, config=config, notes=[{"at_s": 1.0, "kind": name, "text": name} for name in names]
    )
    plan = plan_run(run)
    return render(plan, run.manifest, draw(run, plan), run.notes)


@pytest.mark.long
def test_in_the_html_report(tmp_path: Path) -> None:
    hostile = page_of(tmp_path / "hostile", lambda place, payload: f"{place:02d} {payload}")
    safe = page_of(tmp_path / "safe", lambda place, _: f"{place:02d} a safe name")
    assert Elements(hostile).found == Elements(safe).found
    controls = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
    assert Counter(controls.findall(hostile)) == Counter(controls.findall(safe))  # the drawing library's own
