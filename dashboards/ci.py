"""What a gate says, for those who read it in CI: JUnit XML, Markdown, GitHub's annotations and step summary, JSON.

Names and errors are other people's words. Each form shows them and obeys none: every text goes through `readable`, is
cut to a length, and is escaped as its form demands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from xml.etree import ElementTree as ET

import orjson

from dashboards.readable import readable, shortened
from planner.checks import Check
from planner.thresholds import Gate, Judgement

LONGEST = 300  # characters of a text
MOST_SUMMARY_BYTES = (1 << 20) - 4096  # GitHub takes 1 MiB for a step
MOST_COMMENT_BYTES = (1 << 16) - 256  # of 65,536 characters that GitHub takes for a comment
MOST_ANNOTATIONS = 10  # of a kind, in a step: GitHub drops the others
MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "skipped": "⏭", "invalid": "⛔"}


def inert(gate: Gate) -> Gate:
    """The same with every text readable and of bounded length."""
    return replace(gate, judgements=tuple(_inert(each) for each in gate.judgements))


def _inert(judgement: Judgement) -> Judgement:
    checks = tuple(replace(each, name=_text(each.name), message=_text(each.message)) for each in judgement.checks)
    return replace(
        judgement,
        subject=_text(judgement.subject),
        headline=_text(judgement.headline),
        reasons=tuple(map(_text, judgement.reasons)),
        checks=checks,
    )


def _text(text: str) -> str:
    return shortened(readable(text[: 10 * LONGEST]), LONGEST)


def to_json(gate: Gate) -> bytes:
    """In the layout of planner.thresholds.Gate, indented."""
    return orjson.dumps(inert(gate), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def junit(gate: Gate) -> bytes:
    """A suite for each judgement, a case for each check: a miss is a failure, what is unclear an error.

    That a subject cannot be judged, or ended early, is a case of its own (`run`).
    """
    root = ET.Element("testsuites", name="headroom")
    for judgement in inert(gate).judgements:
        cases = [case for case in (_case_of_run(judgement), *map(_case, judgement.checks)) if case is not None]
        suite = ET.SubElement(root, "testsuite", name=judgement.subject, tests=str(len(cases)))
        for kind in ("failure", "error", "skipped"):
            total = sum(case.find(kind) is not None for case in cases)
            suite.set({"failure": "failures", "error": "errors"}.get(kind, kind), str(total))
        for case in cases:
            case.set("classname", judgement.subject)
            suite.append(case)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _case_of_run(judgement: Judgement) -> ET.Element | None:
    if not judgement.reasons:
        return None
    case = ET.Element("testcase", name="run")
    why = "; ".join(judgement.reasons)
    if judgement.exit_code:
        ET.SubElement(case, "error", type=judgement.verdict, message=judgement.headline).text = why
    else:
        ET.SubElement(case, "system-out").text = why
    return case


def _case(check: Check) -> ET.Element:
    case = ET.Element("testcase", name=check.name)
    tag = {"fail": "failure", "inconclusive": "error", "skipped": "skipped"}.get(check.verdict)
    if tag is not None:
        ET.SubElement(case, tag, type=check.verdict, message=check.message)
    else:
        ET.SubElement(case, "system-out").text = check.message
    return case


def markdown(gate: Gate, most_bytes: int = MOST_SUMMARY_BYTES) -> str:
    """A table for each judgement, for a comment or a step summary. Lines past `most_bytes` are counted, not shown."""
    lines: list[str] = []
    size = left = 0
    for line in _lines(inert(gate)):
        size += len(line.encode()) + 1
        if size <= most_bytes:
            lines.append(line)
        else:
            left += 1
    if left:
        lines.append(f"\nand {left:,} more lines, which are left out here")
    return "\n".join(lines) + "\n"


def _lines(gate: Gate) -> Iterator[str]:
    yield f"## Headroom: {MARKS[gate.verdict]} {gate.verdict}"
    for judgement in gate.judgements:
        yield f"\n### {MARKS[judgement.verdict]} {_code(judgement.subject)}"
        yield f"\n{_code(judgement.headline)}"
        if judgement.reasons:
            yield ""
            yield from (f"- {_code(reason)}" for reason in judgement.reasons)
        if judgement.checks:
            yield "\n| | threshold | measured |"
            yield "|---|---|---|"
            for check in judgement.checks:
                yield f"| {MARKS[check.verdict]} {check.verdict} | {_code(check.name)} | {_code(check.message)} |"


def _code(text: str) -> str:
    """As code, all punctuation by number: nothing is left that could be markup, a link, a mention or a cell's end."""
    numbered = re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", text)
    return f"<code>{numbered.replace('&#64;', '&#64;&#8203;')}</code>"


def commands(gate: Gate) -> list[str]:
    """Workflow commands: an error for each miss, a warning for what is unclear, at most ten of each kind."""
    errors: list[tuple[str, str]] = []
    warnings: list[tuple[str, str]] = []
    for judgement in inert(gate).judgements:
        if judgement.reasons and judgement.exit_code:
            errors.append((judgement.subject, f"{judgement.headline}: {'; '.join(judgement.reasons)}"))
        for check in judgement.checks:
            kind = {"fail": errors, "inconclusive": warnings}.get(check.verdict)
            if kind is not None:
                kind.append((check.name, f"{judgement.subject}: {check.message}"))
    return [*_commands("error", errors), *_commands("warning", warnings)]


def _commands(kind: str, found: Sequence[tuple[str, str]]) -> Iterator[str]:
    shown = found if len(found) <= MOST_ANNOTATIONS else found[: MOST_ANNOTATIONS - 1]
    for title, message in shown:
        yield f"::{kind} title={_property(title)}::{_data(message)}"
    if len(found) > len(shown):
        yield f"::{kind} title=headroom::and {len(found) - len(shown)} more"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def plain(gate: Gate) -> list[str]:
    """For a terminal, a line for each check."""
    lines = []
    for judgement in inert(gate).judgements:
        lines.append(f"{judgement.verdict.upper()}  {judgement.subject}: {judgement.headline}")
        lines += [f"  why           {reason}" for reason in judgement.reasons]
        lines += [f"  {check.verdict:<12}  {check.name}: {_why(check)}" for check in judgement.checks]
    return lines


def _why(check: Check) -> str:
    """Of one that was skipped without the reason, which stands above all of them."""
    return check.message.partition(":")[0] if check.verdict == "skipped" else check.message
