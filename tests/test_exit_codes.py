"""Every exit code that the README lists, provoked in at least two ways: here, or by the tests that are named."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from loadgen.config import RunConfig
from loadgen.samples import Outcome
from tests.commands import told
from tests.runs import answered, make_run

ROOT = Path(__file__).parent.parent
MADE = {
    "target": {"kind": "managed"},
    "load": {"rate": 10.0, "duration": 60.0, "warmup": 0.0},
    "scenarios": {"streaming": 1},
}
HERE = [
    (0, ["check", "good", "--slo", "ttft.p95<1s"], "a threshold that was kept"),
    (0, ["run", "--check", "--rate", "5/s"], "a config that is right"),
    (2, ["run", "--slo", "tftt.p95<1s"], "a metric that is not"),
    (2, ["check", "nothing"], "no run folder"),
    (2, ["check", "good", "--no-such-flag"], "no such flag"),
    (3, ["check", "short", "--slo", "ttft.p95<1s"], "too few answers for the percentile"),
    (3, ["check", "short", "--slo", "failed<1%"], "too few attempts for the share"),
    (4, ["check", "killed", "--slo", "ttft.p95<1s"], "a run that never ended"),
    (4, ["check", "broken", "--slo", "ttft.p95<1s"], "a run of which most failed"),
    (99, ["check", "good", "--slo", "ttft.p95<50ms"], "a latency beyond its limit"),
    (99, ["check", "good", "--slo", "requests>1000"], "a count below its limit"),
    (112, ["run", "--target", "https://example.com"], "a host that was not allowed"),
    (112, ["sweep", "--target", "https://example.com"], "nor for a sweep"),
]
ELSEWHERE = {  # with real processes and sockets
    1: (
        "test_interruptions.py::test_a_killed_load_process_leaves_what_it_had_sent_and_says_so",
        "test_workers_lost.py::*",
    ),
    4: ("test_short_runs.py::*", "test_doubts.py::*"),
    99: ("test_aborting.py::test_a_run_that_fails_is_ended_with_99_after_the_delay", "test_mistakes.py::*"),
    105: (
        "test_interruptions.py::test_ctrl_c_completes_the_partial_results",
        "test_interruptions.py::test_ctrl_c_twice_does_not_wait_for_answers",
        "test_guards.py::test_a_signal_drains_what_is_in_flight_within_ten_seconds",
    ),
    108: (
        "test_guards.py::test_the_first_answer_that_refuses_the_key_ends_the_run_with_108",
        "test_guards.py::test_hardly_anything_but_errors_ends_the_run_with_108",
    ),
    111: (
        "test_guards.py::test_a_budget_that_is_used_up_ends_the_run_with_111_and_a_whole_record",
        "test_workers.py::*",
    ),
    112: ("test_mistakes.py::test_a_mistake_is_told_in_one_sentence_and_leaves_nothing_behind",),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("runs")
    for name, n, failed, state in (
        ("good", 600, 0, "complete"),
        ("short", 60, 0, "complete"),
        ("killed", 600, 0, "running"),
        ("broken", 600, 400, "complete"),
    ):
        samples = [answered(seq, 60 * seq / n, ttft_s=0.1, phase="steady") for seq in range(n)]
        for sample in samples[:failed]:
            sample.outcome = Outcome.SERVER_ERROR
        make_run(cwd, samples, config=RunConfig.model_validate(MADE), name=name, state=state)
    return cwd


@pytest.mark.parametrize(("code", "arguments", "why"), HERE, ids=[f"{code}: {why}" for code, _, why in HERE])
def test_the_code_is_that_of_the_table(runs: Path, code: int, arguments: list[str], why: str) -> None:
    done = told(runs, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("code", "name"), [(code, name) for code, names in ELSEWHERE.items() for name in names], ids=str
)
def test_the_tests_that_provoke_it_elsewhere_are_there(code: int, name: str) -> None:
    file, _, function = name.partition("::")
    text = (ROOT / "tests" / file).read_text()
    tests = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    found = [node for node in tests if node.name.startswith("test") and function in ("*", node.name)]
    parts = "\n".join(ast.get_source_segment(text, node) or "" for node in found)
    assert re.search(rf"\b{code}\b|== code", parts), f"{name} provokes no {code}"


def test_each_code_of_the_readme_is_provoked_in_two_ways() -> None:
    table = (ROOT / "README.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} - {
        98
    }  # of compare: its own tests
    ways = Counter(code for code, *_ in HERE) + Counter({code: len(names) for code, names in ELSEWHERE.items()})
    assert listed == set(ways)
    assert min(ways.values()) >= 2, ways
