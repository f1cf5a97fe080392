"""Thresholds as Azure Load Testing has them: `failureCriteria`, conditions on which a test fails, read and written.

https://learn.microsoft.com/azure/load-testing/reference-test-config-yaml#failurecriteria-configuration
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from loadgen.errors import ConfigError
from loadgen.slo import COUNT, Threshold

STATISTICS = {"mean": "avg", "max": "max", "min": "min", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
FIRST_TOKEN = "_ttft"  # noqa: S105 - how the exported test names the first tokens of a scenario
_METRICS = {"response_time_ms": "response_time", "latency": "ttfb"}  # there latency ends with the first of the answer
_CONDITION = re.compile(
    r"(?P<statistic>\w+(?:\.\d+)?)\s*\(\s*(?P<metric>\w+)\s*\)\s*(?P<relation>[<>])\s*(?P<limit>\d+(?:\.\d+)?)"
)
SECTIONS = ("clientMetrics", "serverMetrics")

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
    """Of config.yaml."""
    if not criteria:
        return []
    said = ((None if name is None else quoted(name), quoted(condition)) for name, condition in criteria)
    return ["failureCriteria:", *(f"  - {text}" if name is None else f"  - {name}: {text}" for name, text in said)]


def quoted(text: str) -> str:
    """As YAML has it, on one line and in ASCII."""
    return yaml.safe_dump(text, default_style='"', width=math.inf).rstrip("\n")


def read_criteria(file: Path) -> tuple[list[str], list[str]]:
    """The `failureCriteria` of a test's YAML as thresholds, and those that have no counterpart, each with why.

    Raises ConfigError naming the line that is no YAML, or no condition.
    """
    thresholds: list[str] = []
    unsaid: list[str] = []
    for number, name, condition in _criteria(file):
        try:
            thresholds.append(_threshold_of(name, condition))
        except ConfigError as error:
            unsaid.append(f"line {number}: {condition if name is None else f'{name}: {condition}'}: {error}")
    return list(dict.fromkeys(thresholds)), unsaid


def _criteria(file: Path) -> Iterator[tuple[int, str | None, str]]:
    """Line number, request's name and condition."""
    criteria = _pairs(_composed(file)).get("failureCriteria")
    sections = _pairs(criteria) if isinstance(criteria, yaml.MappingNode) else {SECTIONS[0]: criteria}
    for section, listed in sections.items():
        if section not in SECTIONS:
            raise _complaint(file, criteria, f"{section!r} is neither a condition, nor {' or '.join(SECTIONS)}")
        if listed is None or listed.value == "":
            continue
        if not isinstance(listed, yaml.SequenceNode):
            raise _complaint(file, listed, "write failureCriteria as a list of conditions")
        for item in listed.value:
            yield _line(item), *((section, _resource(item)) if section == SECTIONS[1] else _condition(file, item))


def _composed(file: Path) -> yaml.Node | None:
    try:
        return yaml.compose(file.read_text("utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{file}{line}: this is no YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}: this is no YAML that can be read: {error}") from None


def _pairs(node: yaml.Node | None) -> dict[str, yaml.Node]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def _condition(file: Path, item: yaml.Node) -> tuple[str | None, str]:
    """`CONDITION`, or `NAME: CONDITION`."""
    ((name, text),) = _pairs(item).items() if len(_pairs(item)) == 1 else [(None, item)]
    if not isinstance(text, yaml.ScalarNode):
        raise _complaint(file, item, "this is no condition, and no name with one")
    return name, text.value


def _resource(item: yaml.Node) -> str:
    return ", ".join(f"{key}: {value.value}" for key, value in _pairs(item).items())


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _complaint(file: Path, node: yaml.Node | None, text: str) -> ConfigError:
    return ConfigError(f"{file}, line {1 if node is None else _line(node)}: {text}")


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
