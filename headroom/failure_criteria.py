"""Thresholds as Azure Load Testing has them: `failureCriteria`, conditions on which a test fails, read and written.

https://learn.microsoft.com/azure/load-testing/reference-test-config-yaml#failurecriteria-configuration
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from loadgen.errors import ConfigError
from loadgen.slo import COUNT, Threshold

STATISTICS = {"mean": "avg", "max": "max", "min": "min", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
FIRST_TOKEN = "_ttft"  # noqa: S105 - how the exported test names the first tokens of a scenario
_METRICS = {"response_time_ms": "response_time", "latency": "ttfb"}  # there latency ends with the first of the answer
_CONDITION = re.compile(
    r"(?P<statistic>\w+(?:\.\d+)?)\s*\(\s*(?P<metric>\w+)\s*\)\s*(?P<relation>[<>])\s*(?P<limit>\d+(?:\.\d+)?)"
)
_ITEM = re.compile(r"""-\s+(?:(?P<name>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"':][^"':]*?)\s*:\s+)?(?P<condition>.+)""")
_SECTION = re.compile(r"(clientMetrics|serverMetrics)\s*:\s*(#.*)?")

Criterion = tuple[str | None, str]  # the request's name, and the condition


def criteria_of(
    thresholds: Iterable[Threshold], scenarios: Sequence[str], streamed: Sequence[str]
) -> tuple[list[Criterion], list[str]]:
    """The thresholds as names and conditions to fail by, and those that cannot be said so.

    A latency becomes one for each scenario. The service compares whole milliseconds, and knows the percentiles 50, 90,
    95 and 99; it has no targets, and of a share only that of errors.
    """
    said: list[Criterion] = []
    unsaid: list[str] = []
    for threshold in thresholds:
        found = [] if threshold.target is not None else list(_said(threshold, scenarios, streamed))
        said += found
        if not found:
            unsaid.append(threshold.text)
    return said, unsaid


def _said(threshold: Threshold, scenarios: Sequence[str], streamed: Sequence[str]) -> Iterator[Criterion]:
    names = {"response_time": scenarios, "ttfb": scenarios, "ttft": streamed}.get(threshold.metric)
    statistic = STATISTICS.get(threshold.statistic or "")
    if names is not None and statistic is not None:
        measured = "latency" if threshold.metric == "ttfb" else "response_time_ms"
        for name in names:
            if threshold.scenario in (None, name):
                label = f"{name}{FIRST_TOKEN}" if threshold.metric == "ttft" else name
                yield label, f"{statistic}({measured}) > {max(1, int(threshold.limit))}"
    elif threshold.metric == "errors" and threshold.upper:
        yield threshold.scenario, f"percentage(error) > {threshold.limit * 100:g}"
    elif threshold.metric == "requests_per_s":
        yield threshold.scenario, f"avg(requests_per_sec) {'>' if threshold.upper else '<'} {threshold.limit:g}"
    elif threshold.metric == COUNT:
        yield threshold.scenario, f"count(requests) {'>' if threshold.upper else '<'} {threshold.limit:g}"


def yaml_lines(criteria: Sequence[Criterion]) -> list[str]:
    """Of config.yaml; texts are quoted as JSON quotes them, which YAML reads alike."""
    if not criteria:
        return []
    quoted = [(None if name is None else json.dumps(name), json.dumps(condition)) for name, condition in criteria]
    lines = (f"  - {condition}" if name is None else f"  - {name}: {condition}" for name, condition in quoted)
    return ["failureCriteria:", *lines]


def read_criteria(file: Path) -> tuple[list[str], list[str]]:
    """The `failureCriteria` of a test's YAML as thresholds, and those that have no counterpart, each with why.

    No more of YAML is read than these lists are written in. Raises ConfigError naming the line that is otherwise.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    thresholds: list[str] = []
    unsaid: list[str] = []
    for number, name, condition in _criteria(file, lines):
        try:
            thresholds.append(_threshold_of(name, condition))
        except ConfigError as error:
            unsaid.append(f"line {number}: {condition if name is None else f'{name}: {condition}'}: {error}")
    return list(dict.fromkeys(thresholds)), unsaid


def _criteria(file: Path, lines: Sequence[str]) -> Iterator[tuple[int, str | None, str]]:
    """Line number, request's name and condition."""
    inside, section = False, "clientMetrics"
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not inside:
            if re.fullmatch(r"failureCriteria\s*:\s*(#.*)?", line):
                inside = True
            elif line.startswith("failureCriteria"):
                raise ConfigError(f"{file}, line {number}: write failureCriteria as a list, an item a line")
            continue
        if not line[0].isspace() and not text.startswith("- "):
            return
        if found := _SECTION.fullmatch(text):
            section = found[1]
            continue
        item = _ITEM.fullmatch(text)
        if section == "serverMetrics":  # a table over several lines, which begins with its dash
            if item is not None:
                yield number, "serverMetrics", item["condition"]
            continue
        if item is None:
            raise ConfigError(f"{file}, line {number}: {text!r} is no item of a list of conditions")
        yield number, None if item["name"] is None else _unquoted(item["name"]), _unquoted(item["condition"])


def _unquoted(text: str) -> str:
    text = text.strip()
    if text[0] == '"' and (found := re.match(r'"(?:[^"\\]|\\.)*"', text)):
        try:
            return str(json.loads(found[0]))
        except ValueError:
            return found[0][1:-1]
    if text[0] == "'" and (found := re.match(r"'(?:[^']|'')*'", text)):
        return found[0][1:-1].replace("''", "'")
    return re.sub(r"\s+#.*", "", text)


def _threshold_of(name: str | None, condition: str) -> str:
    """What must hold so that the condition does not. Raises ConfigError where Headroom has nothing like it."""
    if name == "serverMetrics":
        raise ConfigError("Headroom measures no server's resources")
    found = _CONDITION.fullmatch(condition.strip())
    if found is None:
        raise ConfigError("is no condition that is known")
    statistic, metric, relation, limit = found.groups()
    kept = "<=" if relation == ">" else ">="
    if metric in _METRICS:
        about = _METRICS[metric]
        if name is not None and name.endswith(FIRST_TOKEN):
            about, name = "ttft", name.removesuffix(FIRST_TOKEN)
        statistic = "mean" if statistic == "avg" else statistic
        text = f"{about}{_filter(name)}.{statistic}{kept}{limit}ms"
    elif (statistic, metric) == ("percentage", "error"):
        text = f"errors{_filter(name)}{kept}{limit}%"
    elif (statistic, metric) == ("avg", "requests_per_sec"):
        text = f"requests_per_s{_filter(name)}{kept}{limit}/s"
    elif (statistic, metric) == ("count", "requests"):
        text = f"requests{_filter(name)}{kept}{limit}"
    else:
        raise ConfigError("Headroom has no such figure")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError("has a character that no file can hold")
    Threshold.parse(text)
    return text


def _filter(name: str | None) -> str:
    return "" if name is None else f"{{scenario={name}}}"
