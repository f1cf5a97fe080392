"""The fixture headroom_run, in a pytest of its own."""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path

import pytest

from tests.commands import PLENTY
from tests.servers import Server, always, response

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parent.parent
FLAGS = dict(zip((flag.removeprefix("--") for flag in PLENTY[::2]), PLENTY[1::2], strict=True))
LOAD = """
    import pytest

    LOAD = dict(target={url!r}, scenario="chat", rate="40/s", duration="2s", warmup="0s", no_report=True, **{flags!r})
"""
FAILING = """
    def test_the_deployment_is_too_slow(headroom_run):
        headroom_run(**LOAD, slo=["response_time.p50<1us"])
"""
MISTAKEN = """
    def test_the_flags_are_wrong(headroom_run):
        headroom_run(slo="tftt.p95<1s")
"""
PASSING = """
    def test_what_came_of_a_run_is_returned(headroom_run):
        found = headroom_run("loadtest.toml", **LOAD, slo=["response_time.p50<30s"], gate=False)
        assert found.verdict in ("pass", "invalid")  # the machine of this test may be busy
        assert found.exit_code == {{"pass": 0, "invalid": 4}}[found.verdict]
        assert found.summary["traffic"]["planned"] > 40 and found.folder.is_dir()
        assert [check.name for check in found.checks] == ["response_time.p50<30s"]
"""


def result_of(pytester: pytest.Pytester, tests: str) -> pytest.RunResult:
    with Server(always(response())) as server:
        pytester.makepyfile(textwrap.dedent((LOAD + tests).format(url=server.url, flags=FLAGS)))
        (pytester.path / "loadtest.toml").write_text("[load]\nseed = 5\n")
        return pytester.runpytest_inprocess("-p", "headroom.pytest_plugin")


OWN = """
    @pytest.mark.parametrize("flags", [{{"repeat": 2}}, {{"check": True}}, {{"json_": "x"}}, {{"json": "x"}}, {{"out": "x"}}, {{"quiet": True}}])
    def test_a_flag_of_the_fixtures_own_is_refused(headroom_run, flags):
        with pytest.raises(ValueError, match=r"headroom_run\\(\\w+=...\\): "):
            headroom_run(**LOAD, **flags)
"""


def test_flags_that_are_the_fixtures_own_are_refused(pytester: pytest.Pytester) -> None:
    result_of(pytester, OWN).assert_outcomes(passed=6)


@pytest.mark.parametrize(
    ("tests", "told"),
    [
        pytest.param(MISTAKEN, r".*headroom run ended with 2: headroom: .*did you mean 'ttft'.*", id="a wrong flag"),
        pytest.param(
            FAILING, r".*headroom run: (fail|invalid) \(exit code (99|4)\).*", id="a miss", marks=pytest.mark.long
        ),
    ],
)
def test_a_test_that_uses_the_fixture_fails_with_the_verdict(pytester: pytest.Pytester, tests: str, told: str) -> None:
    result = result_of(pytester, tests)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines_random([told])
    result.stdout.no_re_match_line(r".*Traceback.*")


@pytest.mark.long
def test_without_the_gate_a_run_is_returned_as_it_ended(pytester: pytest.Pytester) -> None:
    result_of(pytester, PASSING).assert_outcomes(passed=1)


def test_the_fixture_is_there_wherever_headroom_is_installed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"headroom.pytest_plugin": "headroom.pytest_plugin"}
