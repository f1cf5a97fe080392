"""failureCriteria of Azure Load Testing, read as thresholds and written from them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from headroom.failure_criteria import criteria_of, read_criteria, yaml_lines
from loadgen.config import RunConfig
from loadgen.errors import ConfigError
from loadgen.slo import Threshold
from tests.commands import told

pytestmark = pytest.mark.aside

TEST = """\
version: v0.1
testId: sample
failureCriteria:   # the test fails where one is true
  # of all requests
  - avg(response_time_ms) > 300
  - percentage(error) > 50  # half
  - "p99(latency) > 5000"
  - GetCustomerDetails: avg(latency) > 200
  - "a: b": 'p97.5(response_time_ms) > 20'
  - chat_ttft: p95(response_time_ms) > 800
  - avg(requests_per_sec) < 78
  - count(requests) < 1000
  - max(response_time_ms) < 5
  - median(response_time_ms) > 5
  - sum(bytes) > 5
autoStop:
  errorPercentage: 80
"""
NESTED = """\
failureCriteria:
    clientMetrics:
    - min(latency) > 20
    serverMetrics:
    - resourceId: /subscriptions/x/server
      metricName: CpuPercentage
      value: 80
configurationFiles:
- a.csv
"""


def test_each_condition_becomes_what_must_hold_or_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.yaml").write_text(TEST)
    thresholds, unsaid = read_criteria(tmp_path / "test.yaml")
    assert thresholds == [
        "response_time.mean<=300ms",
        "errors<=50%",
        "ttfb.p99<=5000ms",
        "ttfb{scenario=GetCustomerDetails}.mean<=200ms",
        "response_time{scenario=a: b}.p97.5<=20ms",
        "ttft{scenario=chat}.p95<=800ms",
        "requests_per_s>=78/s",
        "requests>=1000",
    ]
    assert [line.partition(": ")[0] for line in unsaid] == ["line 13", "line 14", "line 15"]
    assert "a latency has an upper limit" in unsaid[0] and "no such figure" in unsaid[2]


def test_criteria_of_servers_are_named_and_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "test.yaml").write_text(NESTED)
    thresholds, unsaid = read_criteria(tmp_path / "test.yaml")
    assert thresholds == ["ttfb.min<=20ms"]
    assert len(unsaid) == 1 and "Headroom measures no server's resources" in unsaid[0]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("failureCriteria: [avg(latency) > 5]\n", id="in brackets"),
        pytest.param('{"failureCriteria": ["avg(latency) > 5"]}', id="as JSON"),
        pytest.param(
            "failureCriteria:\n- >-\n  avg(latency)\n  > 5\n- &a avg(latency) > 5\n- *a\n", id="folded, and twice"
        ),
    ],
)
def test_conditions_are_read_however_they_are_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "test.yaml").write_text(text)
    assert read_criteria(tmp_path / "test.yaml") == (["ttfb.mean<=5ms"], [])


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "failureCriteria:\n", "failureCriteria:\n  clientMetrics:\n", "[a]: b"]
)
def test_a_test_without_conditions_has_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "test.yaml").write_text(text)
    assert read_criteria(tmp_path / "test.yaml") == ([], [])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("failureCriteria:\n  avg: 5\n", "line 2: 'avg' is neither a condition", id="a table"),
        pytest.param("failureCriteria: 5\n", "line 1: write failureCriteria as a list", id="a number"),
        pytest.param("failureCriteria:\n  - [a]\n", "line 2: this is no condition", id="a list in it"),
        pytest.param("failureCriteria:\n  - a: {b: c}\n", "line 2: this is no condition", id="a table in it"),
        pytest.param("a: 1\nfailureCriteria: [\n", "line 3: this is no YAML: expected", id="a list without an end"),
        pytest.param("a: '\x07'\n", "no YAML that can be read: unacceptable", id="a bell"),
        pytest.param("a: " + "[" * 5_000, "no YAML that can be read", id="lists in lists in lists"),
    ],
)
def test_what_holds_no_conditions_is_refused_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "test.yaml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_criteria(tmp_path / "test.yaml")


def test_what_is_printed_is_a_loadtest_toml(tmp_path: Path) -> None:
    (tmp_path / "test.yaml").write_text(TEST.replace("GetCustomerDetails", "chat").replace('"a: b"', "chat"))
    done = told(tmp_path, "import", "azure-load-testing", "test.yaml")
    assert done.returncode == 0 and "3 of 11 have no counterpart" in done.stderr, done.stderr
    config = RunConfig.model_validate(tomllib.loads(done.stdout))
    assert len(config.thresholds) == 8
    assert done.stdout.count("# not said here: ") == 3
    assert told(tmp_path, "import", "azure-load-testing", "none.yaml").returncode == 2


@pytest.mark.parametrize("name", ["\U0001f600 req", "a\\b", 'q"q', "\u202egpj", "\x7f\x9b2J", "caf\u00e9"])
def test_what_is_printed_is_toml_whatever_the_names_are(tmp_path: Path, name: str) -> None:
    (tmp_path / "test.yaml").write_text("\n".join(yaml_lines([(name, "percentage(error) > 5")])))
    done = told(tmp_path, "import", "azure-load-testing", "test.yaml")
    assert tomllib.loads(done.stdout)["threshold"] == [{"expr": f"errors{{scenario={name}}}<=5%"}], done.stderr
    assert done.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        ("errors<=5%", [(None, "percentage(error) > 5")]),
        ("errors{scenario=chat}<0.5%", [("chat", "percentage(error) > 0.5")]),
        ("requests_per_s>=78/s", [(None, "avg(requests_per_sec) < 78")]),
        ("requests>=1000", [(None, "count(requests) < 1000")]),
        ("ttfb.p99<=5s", [("chat", "p99(latency) > 5000"), ("streaming", "p99(latency) > 5000")]),
        ("response_time{scenario=chat}.min<=20ms", [("chat", "min(response_time_ms) > 20")]),
        ("ttft.p95<800ms", [("streaming_ttft", "p95(response_time_ms) > 800")]),
        ("ttft{scenario=chat}.p95<800ms", []),
        ("response_time{target=east}.p95<1s", []),
        ("goodput>0.95", []),
        ("failed<1%", []),
        ("dropped<1%", []),
        ("cost_per_1k_requests<1usd", []),
    ],
)
def test_thresholds_are_written_and_what_cannot_be_is_named(threshold: str, said: list[tuple[str | None, str]]) -> None:
    found, unsaid = criteria_of([Threshold.parse(threshold)], ["chat", "streaming"], ["streaming"])
    assert found == said
    assert unsaid == ([] if said else [threshold])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    texts = ["errors<=5%", "requests_per_s>=78/s", "requests>=1000", 'ttfb{scenario=a "b"}.p99<=5000ms']
    criteria, _ = criteria_of([Threshold.parse(text) for text in texts], ['a "b"'], [])
    (tmp_path / "test.yaml").write_text("\n".join(yaml_lines(criteria)))
    assert read_criteria(tmp_path / "test.yaml") == (texts, [])
    assert json.dumps('a "b"') in (tmp_path / "test.yaml").read_text()
