"""The page that compares two sides: it says what `headroom compare` says, and shows the distributions of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from dashboards import comparison_report
from headroom import comparing
from headroom.comparing import Terms
from loadgen.errors import RunFolderError
from loadgen.samples import Run
from planner.comparing.comparison import OutcomeComparison
from planner.comparing.figures import Test
from planner.comparing.outcomes import outcome_mix
from planner.comparing.verdict import Verdict
from planner.metrics import latency_of_sides
from tests.browsers import assert_readable, needs_browser, opened
from tests.commands import told
from tests.compared_runs import several, streams
from tests.test_report import Figures

pytestmark = pytest.mark.aside

TERMS = Terms(tolerances=(), test=Test.WELCH, baselines=Path(".headroom"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sides")
    several(folder, "base", range(3))
    several(folder, "new", range(10, 13), slower=1.4, failed=0.05)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    said = told(folder, "report", "base", "new", "--out", "page.html")
    assert (said.returncode, said.stdout) == (0, "page.html\n")
    return folder / "page.html"


def test_the_page_says_what_compare_says_with_every_number_unrounded(folder: Path, page: Path) -> None:
    said = json.loads(told(folder, "compare", "base", "new", "--json", "-").stdout)
    shown = Figures(page.read_text("utf-8"))
    for place, row in enumerate(said["metrics"]):
        for name, value in row.items():
            if not isinstance(value, str):
                assert shown.exact[f"metrics.{place}.{name}"] == value, (row["name"], name)
    for side in ("base", "new"):
        for outcome, n in said["outcomes"][side].items():
            assert not n or shown.exact[f"outcomes.{side}.{outcome}"] == n
    assert said["verdict"] == "regressed" and said["reason"] in page.read_text("utf-8")


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.long
def test_both_sides_lie_over_one_another_and_the_page_reads_anywhere(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    with opened(browser, page, width=width, scheme=scheme) as (shown, seen):
        assert shown.locator("#verdict").inner_text() == "REGRESSED"
        overlaid = shown.locator("[data-plot^=overlaid]")
        assert overlaid.count() == 4
        assert overlaid.first.locator(".legendtext").all_text_contents() == ["base", "new"]
        assert "slower" in (shown.locator("[data-plot=changes] svg[role=img]").get_attribute("aria-label") or "")
        assert_readable(shown)
        seen.assert_quiet(page)


def test_a_baseline_has_no_record_and_so_no_distribution(folder: Path) -> None:
    comparing.save([folder / "base"], "known", folder)
    named = next(folder.glob("known*"))
    found = comparing.compared(named, folder / "new", TERMS)
    drawn = comparison_report.draw(found.comparison, {"base": [], "new": [Run.open(folder / "new" / "01")]})
    assert drawn["overlaid"] == [] and len(drawn["changes"]) == 1
    comparing.report(named, folder / "new", folder / "baseline.html", TERMS)
    assert "Distributions" not in (folder / "baseline.html").read_text("utf-8")


def test_the_runs_of_a_side_are_one_distribution(folder: Path) -> None:
    runs = [Run.open(each) for each in sorted((folder / "base").iterdir())]
    frame = latency_of_sides({"base": runs})
    whole = sum(run.samples.collect().height for run in runs)
    line = frame.filter(metric="response_time")
    assert line["share"].to_list()[-1] == 1.0 and line["scenario"].unique().to_list() == ["base"]
    assert line.height <= whole and line["value_ms"].is_sorted()


def test_outcomes_are_shares_of_their_own_side_and_what_never_came_is_left_out() -> None:
    compared = OutcomeComparison(
        verdict=Verdict.REGRESSED, reason="", base_share=0, new_share=0.1, floor_share=0.01, p_worse=0.0,
        base={"ok": 200, "timeout": 0, "network": 0}, new={"ok": 90, "timeout": 10},
    )  # fmt: skip
    told = [(row.outcome, row.base_share, row.new, row.new_share) for row in outcome_mix(compared)]
    assert told == [("ok", 1.0, 90, 0.9), ("timeout", 0.0, 10, 0.1)]


REFUSED = [
    ("three runs", ["base", "new", "new"], "report takes one run, or two to compare: 3 were given"),
    ("a plan's option", ["base", "new", "--growth", "3x"], "--growth: a comparison makes no use of it"),
    ("a folder that is none", ["base", "nowhere"], "nowhere is neither a run"),
]


@pytest.mark.parametrize(
    ("case", "arguments", "complaint"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_a_comparison_does_not_take_is_refused(
    folder: Path, case: str, arguments: list[str], complaint: str
) -> None:
    said = told(folder, "report", *arguments, "--out", "refused.html")
    assert said.returncode == 2 and complaint in " ".join(said.stderr.split())
    assert not (folder / "refused.html").exists()


def test_a_page_that_cannot_be_written_is_said(folder: Path, tmp_path: Path) -> None:
    streams(tmp_path, "one", 1)
    streams(tmp_path, "two", 2)
    with pytest.raises(RunFolderError, match="cannot write the report"):
        comparing.report(tmp_path / "one", tmp_path / "two", tmp_path / "no" / "such" / "page.html", TERMS)
