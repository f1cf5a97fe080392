"""The report: its figures are the plan's, it opens offline in a real browser, and no text in it is obeyed."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from dashboards import text
from dashboards.drawings import draw
from dashboards.report import render, write_report
from loadgen.samples import Manifest, Run
from planner.assemble import plan_run, scoped_plan
from planner.levers import levers_of
from planner.plan import Validity
from tests.browsers import DARK_INK, assert_readable, luminance, needs_browser, opened, until
from tests.plans import example_plan, latency_row, managed, with_every_text
from tests.runs import answered, make_run, synthetic_run

pytestmark = pytest.mark.aside

PAYLOADS = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    '"><svg onload=alert(4)>',
    "' autofocus onfocus='alert(5)",
    "<!--<script>",
    "]]></style><b>bold</b>",
    '<a href="javascript:alert(7)">link</a>',
    '<a href="https://evil.example/">x</a>',
    "javascript:alert(8)//",
    "{{ 7*7 }}{% raw %}{{ plan }}",
    "%{x}<extra>%{customdata}</extra>",
    r"$\href{javascript:alert(9)}{x}$",
    "line\u2028one\u2029two",
    "&lt;b&gt; &#60;i&#62; &amp;",
    "<iframe src=//evil.example>",
    "x" * 300,
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return synthetic_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    scope, plan = scoped_plan(run)
    write_report(run, plan, path, levers=levers_of(scope, plan))
    return path


@needs_browser
def test_every_figure_is_drawn_offline_and_fits_a_phone_and_a_desk_in_light_and_in_dark(
    browser: Browser, report: Path
) -> None:
    with opened(browser, report, width=390, scheme="light") as (page, seen):
        plots = page.locator("[data-plot]").all()
        assert len(plots) == 18
        for plot in plots:
            assert plot.locator(".main-svg").count() > 0
            assert plot.locator(".scatterlayer .js-line, .barlayer .point, .heatmaplayer .hm").count() > 0
        assert_readable(page)
        page.emulate_media(color_scheme="dark")
        until(page, DARK_INK)
        assert_readable(page)
        page.set_viewport_size({"width": 1280, "height": 900})
        until(page, "document.querySelector('[data-plot=cost] svg.main-svg').clientWidth > 900")
        assert_readable(page)
        seen.assert_quiet(report)


@needs_browser
def test_a_dark_screen_gets_a_dark_page_from_the_first_moment(browser: Browser, report: Path) -> None:
    with opened(browser, report, scheme="dark") as (page, seen):
        paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert luminance(paper) < 0.02
        assert_readable(page)
        seen.assert_quiet(report)


@needs_browser
def test_hostile_text_in_every_field_is_shown_and_not_obeyed(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(hostile_page(tmp_path), "utf-8")
    literal = [text.readable(payload) for payload in PAYLOADS]
    labels = [payload if len(payload) <= 36 else payload[:35] + "…" for payload in literal]
    with opened(browser, path, width=390) as (page, seen):
        assert page.locator("h1").text_content() == " ".join(literal)
        assert page.title() == f"VALID: {' '.join(literal)} · Headroom"
        for selector in ("header .notice li", "#assumptions li", "#latency details:nth-of-type(1) td.words"):
            assert set(page.locator(selector).all_text_contents()) == set(literal), selector
        assert page.locator("#cost tbody th").all_text_contents() == [payload + "eastus" for payload in literal]
        assert page.locator("#run dd").all_text_contents().count(" ".join(literal)) >= 5
        bars = page.locator("[data-plot=cost] .annotation-text").all_text_contents()[1:]
        assert [bar.removesuffix(": $2,681") for bar in bars] == [
            f"1 \N{MULTIPLICATION SIGN} {label}" for label in labels
        ]
        plot = page.locator("[data-plot=distribution-ttft]")
        drawn = plot.locator(".legendtext").all_text_contents()
        assert sorted(drawn) == sorted(["all", *labels])
        for curve, name in enumerate(drawn):
            plot.evaluate("(plot, curve) => Plotly.Fx.hover(plot, [{curveNumber: curve, pointNumber: 3}])", curve)
            expect(plot.locator(".hoverlayer .name")).to_have_text(name)
        assert page.locator(".plot svg a, main a, main img, iframe").count() == 0
        assert_readable(page)
        seen.assert_quiet(path)


def hostile_page(tmp_path: Path) -> str:
    """Every payload as a name of its own in lists, tables and figures, and all of them in every other text."""
    everything = " ".join(PAYLOADS)
    plan = with_every_text(example_plan(), everything)
    kept = [row for row in plan.latency if row.scenario == "all"]
    scenarios = [latency_row(row.metric, payload, 412) for row in kept[:5] for payload in PAYLOADS]
    plan = replace(
        plan,
        latency=(*kept, *scenarios),
        managed=tuple(managed(payload, 1, 3.673, 1, None) for payload in PAYLOADS),
        validity=Validity(valid=True, reasons=(), doubts=tuple(PAYLOADS)),
        assumptions=tuple(PAYLOADS),
    )
    words = {everything: everything}
    manifest = Manifest(
        run_id=everything, state=everything, reason=everything, config={everything: [everything]}, seed=1,
        deployment=words, versions=words, host=words, started_utc=everything,
    )  # fmt: skip
    samples = [
        answered(i, i * 0.25, ttft_s=0.2 + i / 1_000, scenario=payload, target=payload, error=payload)
        for i, payload in enumerate(PAYLOADS * 4)
    ]
    return render(plan, manifest, draw(make_run(tmp_path, samples), plan), [words])


@needs_browser
@pytest.mark.long
def test_a_script_that_slipped_in_would_not_run_nor_reach_the_network(
    browser: Browser, report: Path, tmp_path: Path
) -> None:
    path = tmp_path / "slipped.html"
    evil = (
        "<script>alert(1)</script><img src=https://evil.example/a.png><link rel=stylesheet href=https://evil.example/b>"
    )
    path.write_text(report.read_text("utf-8").replace('<main id="main">', f'<main id="main">{evil}'), "utf-8")
    with opened(browser, path) as (_, seen):
        assert seen.dialogs == []
        assert len([line for line in seen.console if "Content Security Policy" in line]) == 3
        assert seen.refused == ["csp", "csp"]


@needs_browser
def test_paper_gets_every_fold_open_and_figures_that_fit_and_the_screen_its_own_back(
    browser: Browser, report: Path
) -> None:
    with opened(browser, report, scheme="dark") as (page, seen):
        folded = page.locator("details:not([open])").count()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0 < folded
        until(page, "[...document.querySelectorAll('.plot svg.main-svg')].every(svg => svg.clientWidth <= 660)")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details:not([open])").count() == folded
        until(page, "document.querySelector('[data-plot=cost] svg.main-svg').clientWidth > 900")
        seen.assert_quiet(report)


class Figures(HTMLParser):
    """The marked figures of a page, exact and as last shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.exact: dict[str, Any] = {}
        self.shown: dict[str, str] = {}
        self._open: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("meta", "link", "br", "wbr"):
            return
        marked = dict(attrs)
        key = marked.get("data-figure")
        if key is not None:
            value = json.loads(marked["data-value"] or "")
            assert self.exact.setdefault(key, value) == value, f"{key} is two different figures"
            self.shown[key] = ""
        self._open.append(key)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for key in {key for key in self._open if key is not None}:
            self.shown[key] = " ".join(f"{self.shown[key]} {data}".split())


def figures_of(value: Any, path: str) -> dict[str, Any]:
    """Every number in a plan, by the path that the report marks it with."""
    if isinstance(value, dict):
        return {f"{path}.{key}": inner for key, inner in value.items()}
    if isinstance(value, tuple):
        keys = [f"{row.metric}.{row.scenario}" if path == "latency" else str(i) for i, row in enumerate(value)]
        return {k: v for key, row in zip(keys, value, strict=True) for k, v in figures_of(row, f"{path}.{key}").items()}
    if is_dataclass(value):
        inner = {each.name: getattr(value, each.name) for each in fields(value)}
        return {k: v for name, part in inner.items() for k, v in figures_of(part, f"{path}.{name}".strip(".")).items()}
    return {path: value} if value is None or isinstance(value, int | float) else {}


NOT_SHOWN = re.compile(
    r"format|open_loop|validity\.valid|estimate|quota\.target|.*\.needs_n|latency\.(ttft_from_due|ttfb|throttle_wait|lag)\.(?!all).*"
    r"|workers\.\d+\.(host|pid|offset_ns|uncertainty_ns)|.*instances\.assumed|ahead"
)


@pytest.mark.parametrize("which", ["example", "measured"])
def test_every_number_of_the_plan_stands_in_the_page_unrounded(run: Run, which: str) -> None:
    plan = example_plan() if which == "example" else plan_run(run)
    page = Figures(render(plan, run.manifest, draw(run, plan)))
    texts = ("assumptions", "run_ids")
    numbers = {each.name: getattr(plan, each.name) for each in fields(plan) if each.name not in texts}
    expected = {
        k: v for name, value in numbers.items() if name != "validity" for k, v in figures_of(value, name).items()
    }
    expected = {key: value for key, value in expected.items() if not NOT_SHOWN.fullmatch(key)}
    unmeasured = {key for key in expected if re.search(r"low_ms|high_ms", key) and expected[key] is None}
    assert {key: page.exact.get(key, "missing") for key in expected if key not in unmeasured} == {
        key: value for key, value in expected.items() if key not in unmeasured
    }
    assert set(page.exact) <= set(expected)


def test_a_percentile_that_n_cannot_support_is_no_number(run: Run) -> None:
    page = Figures(render(example_plan(), run.manifest, {}))
    assert page.exact["latency.ttft.all.p99.value_ms"] is None
    assert page.shown["latency.ttft.all.p99.value_ms"] == "needs n >= 459 (n = 412)"
    assert page.shown["latency.response_time.all.p95.value_ms"] == "2,888"


def test_the_verdict_and_the_doubts_come_before_any_figure(run: Run) -> None:
    plan = example_plan(validity=Validity(valid=False, reasons=("3 % were dropped",), doubts=("the run is short",)))
    page = render(plan, run.manifest, draw(run, plan)).partition("<body>")[2]
    places = [
        page.index(text)
        for text in ("INVALID", plan.headline[:20], "3 % were dropped", "the run is short", "data-figure")
    ]
    assert places == sorted(places)


BARE = {
    "a run that answered nothing": {},
    "a managed deployment": {"quota": None, "what_if": (), "serverless": None},
    "no objectives, no prices": {"slos": (), "goodput": None, "serverless": None, "managed": (), "instances": None},
}


@pytest.mark.parametrize("case", BARE)
def test_a_plan_with_parts_missing_is_a_report(tmp_path: Path, case: str) -> None:
    run = make_run(tmp_path, [])
    plan = example_plan(**BARE[case]) if BARE[case] else plan_run(run)
    write_report(run, plan, tmp_path / "report.html")
    assert Figures((tmp_path / "report.html").read_text("utf-8")).exact["traffic.planned"] == plan.traffic.planned


def test_the_same_run_and_plan_give_the_same_bytes(run: Run, report: Path, tmp_path: Path) -> None:
    scope, plan = scoped_plan(run)
    write_report(run, plan, tmp_path / "again.html", levers=levers_of(scope, plan))
    assert (tmp_path / "again.html").read_bytes() == report.read_bytes()


def test_no_control_character_reaches_the_page(run: Run) -> None:
    plan = with_every_text(example_plan(), "\x1b[31mred\x07\x00\u202e\udce9")
    page = render(plan, run.manifest, {})
    assert "[31mred" in page
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\udce9]", page.partition("<body>")[2].partition("<script>")[0]
    )


NUMBERS = [
    (text.digits, 0.0421, "0.042"),
    (text.digits, 8.314, "8.31"),
    (text.digits, 9.996, "10.0"),
    (text.digits, 83.149, "83.1"),
    (text.digits, 12_345.6, "12,346"),
    (text.digits, 0.0, "0"),
    (text.digits, None, text.UNKNOWN),
    (text.usd, 12_345.6, "$12,346"),
    (text.usd, 12.345, "$12.35"),
    (text.usd, 0.0421, "$0.042"),
    (text.usd, 0.000213, "$0.00021"),
    (text.usd, 0.0, "$0.00"),
    (text.percent, 0.0, "0 %"),
    (text.percent, 0.0001, "<0.1 %"),
    (text.percent, 0.9998, ">99.9 %"),
    (text.percent, 1.0, "100 %"),
    (text.percent, 1.324, "132.4 %"),
]


@pytest.mark.parametrize(("write", "value", "written"), NUMBERS)
def test_numbers_are_written_with_sensible_digits(write: Any, value: float | None, written: str) -> None:
    assert write(value) == written
