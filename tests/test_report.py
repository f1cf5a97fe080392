"""The report: its figures are the plan's, it opens offline in a real browser, and no text in it is obeyed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.plans import example_plan, with_every_text
from playwright.sync_api import Browser, Page, sync_playwright
from tests.runs import answered, dropped, make_run, synthetic_run

from dashboards import text
from dashboards.report import draw, render, write_report
from loadgen.samples import Manifest, Run
from planner.assemble import plan_run
from planner.plan import Plan, Validity

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome here to open the report in")
QUIET_CHROMIUM = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
DRAWN = "document.querySelectorAll('[data-plot]').length === document.querySelectorAll('[data-plot][data-drawn]').length"

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
    write_report(run, plan_run(run), path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET_CHROMIUM)
        yield started
        started.close()


@dataclass
class Seen:
    """What a page did that it must not do, and what it asked for."""

    console: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def assert_quiet(self, path: Path) -> None:
        assert self.dialogs == []
        assert self.console == []
        assert self.requests == [path.as_uri()]


@contextmanager
def opened(browser: Browser, path: Path, *, width: int = 1280, scheme: Any = "light") -> Iterator[tuple[Page, Seen]]:
    """The report in a browser without a network, once every figure is drawn."""
    seen = Seen()
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))

    def dismiss(dialog: Any) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN, timeout=20_000)
    yield page, seen
    context.close()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_drawn_offline_at_any_width_in_either_scheme(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    with opened(browser, report, width=width, scheme=scheme) as (page, seen):
        plots = page.locator("[data-plot]")
        assert plots.count() == 14
        for plot in plots.all():
            assert plot.locator(".main-svg").count() > 0
            assert plot.locator(".scatterlayer .js-line, .barlayer .point").count() > 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(NARROWER_THAN_THE_PAGE)
        for ink, paper in page.evaluate(INKS):
            assert contrast(ink, paper) >= 4.5
        seen.assert_quiet(report)


NARROWER_THAN_THE_PAGE = """[...document.querySelectorAll('.plot svg.main-svg')]
    .every(svg => svg.getBoundingClientRect().right <= innerWidth)"""
INKS = """(() => {
    const paper = getComputedStyle(document.documentElement).backgroundColor;
    return [...document.querySelectorAll('h1, td, .soft, .badge, .plot .xtick text, .plot .legendtext, .plot .annotation-text')]
        .map(each => [each.namespaceURI.endsWith('svg') ? getComputedStyle(each).fill : getComputedStyle(each).color, paper]);
})()"""


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2, of two `rgb(...)` colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@needs_browser
@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_text_in_every_field_is_shown_and_not_obeyed(browser: Browser, tmp_path: Path, payload: str) -> None:
    run = make_run(tmp_path, hostile_samples(payload), [(i, 0, [9_000, 11_000]) for i in range(60)])
    plan = with_every_text(example_plan(), payload)
    manifest = Manifest.model_validate(
        {**with_every_text(run.manifest.model_dump(), payload), "config": {payload: [payload]}, "reason": payload}
    )
    path = tmp_path / "report.html"
    path.write_text(render(plan, manifest, draw(run, plan), [{payload: payload}]), "utf-8")
    with opened(browser, path, width=390) as (page, seen):
        assert page.locator("h1").text_content() == payload
        assert page.title() == f"VALID: {' '.join(payload.split())} · Headroom"
        shown = page.locator("body").inner_text()
        assert shown.count(payload[:20].replace("\u2028", "\n").split("\n")[0]) > 20
        label = payload if len(payload) <= 28 else payload[:27] + "…"
        legend = page.locator("[data-plot=distribution-ttft] .legendtext").all_text_contents()
        assert legend == ["all", label]
        page.evaluate("Plotly.Fx.hover(document.querySelector('[data-plot=distribution-ttft]'), [{curveNumber: 1, pointNumber: 9}])")
        assert page.locator("[data-plot=distribution-ttft] .hoverlayer .name").text_content() == label
        bars = page.locator("[data-plot=cost] .annotation-text").all_text_contents()
        assert f"1 × {label}: $2,681" in [bar.replace("\xa0", " ") for bar in bars]
        assert page.evaluate("document.querySelectorAll('.plot svg a, main a, main img, iframe').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        seen.assert_quiet(path)


def hostile_samples(payload: str) -> list[Any]:
    words = {"scenario": payload, "target": payload, "error": payload, "finish_reason": payload}
    sent = [answered(i, i * 0.25, ttft_s=0.2 + i / 1_000, **words) for i in range(60)]
    return [*sent, dropped(60, 15.0, scenario=payload, target=payload)]


@needs_browser
def test_a_script_that_slipped_in_would_not_run_nor_reach_the_network(
    browser: Browser, report: Path, tmp_path: Path
) -> None:
    path = tmp_path / "slipped.html"
    evil = "<script>alert(1)</script><img src=https://evil.example/a.png><link rel=stylesheet href=https://evil.example/b>"
    path.write_text(report.read_text("utf-8").replace("<main>", f"<main>{evil}"), "utf-8")
    with opened(browser, path) as (_, seen):
        assert seen.dialogs == []
        assert len([line for line in seen.console if "Content Security Policy" in line]) == 3
        assert not [url for url in seen.requests if "evil.example" in url and not seen.console]


@needs_browser
def test_paper_gets_every_fold_open_and_figures_that_fit_and_the_screen_its_own_back(browser: Browser, report: Path) -> None:
    with opened(browser, report, scheme="dark") as (page, seen):
        folded = page.locator("details:not([open])").count()
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0 < folded
        page.wait_for_function("[...document.querySelectorAll('.plot svg.main-svg')].every(svg => svg.clientWidth <= 660)")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details:not([open])").count() == folded
        page.wait_for_function("document.querySelector('[data-plot=cost] svg.main-svg').clientWidth > 900")
        seen.assert_quiet(report)


class Figures(HTMLParser):
    """The marked figures of a page, exact and as shown."""

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
        self._open.append(key)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for key in {key for key in self._open if key is not None}:
            self.shown[key] = " ".join(f"{self.shown.get(key, '')} {data}".split())


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


NOT_SHOWN = re.compile(r"format|open_loop|validity\.valid|.*\.needs_n|latency\.(ttft_from_due|ttfb|throttle_wait|lag)\.(?!all).*")


@pytest.mark.parametrize("which", ["example", "measured"])
def test_every_number_of_the_plan_stands_in_the_page_unrounded(run: Run, which: str) -> None:
    plan = example_plan() if which == "example" else plan_run(run)
    page = Figures(render(plan, run.manifest, draw(run, plan)))
    texts = ("assumptions", "run_ids")
    numbers = {each.name: getattr(plan, each.name) for each in fields(plan) if each.name not in texts}
    expected = {k: v for name, value in numbers.items() if name != "validity" for k, v in figures_of(value, name).items()}
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
    places = [page.index(text) for text in ("INVALID", plan.headline[:20], "3 % were dropped", "the run is short", "data-figure")]
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
    write_report(run, plan_run(run), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == report.read_bytes()


def test_no_control_character_reaches_the_page(run: Run) -> None:
    plan = with_every_text(example_plan(), "\x1b[31mred\x07\x00\u202e\udce9")
    page = render(plan, run.manifest, {})
    assert "[31mred" in page
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\udce9]", page.partition("<body>")[2].partition("<script>")[0])


NUMBERS = [
    (text.digits, 0.0421, "0.042"),
    (text.digits, 8.314, "8.31"),
    (text.digits, 9.996, "10.0"),
    (text.digits, 83.149, "83.1"),
    (text.digits, 12_345.6, "12,346"),
    (text.digits, 0.0, "0"),
    (text.digits, None, "–"),
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
