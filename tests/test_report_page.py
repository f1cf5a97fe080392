"""The report as it is used: its first screen, its levers by mouse and keyboard, on paper, and by who cannot see it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from dashboards import text
from dashboards.report import render, write_report
from loadgen.config import PlanConfig
from loadgen.samples import Run
from planner.assemble import plan_run, scoped_plan, to_json
from planner.levers import Levers, Position, levers_of, moved
from tests.browsers import needs_browser, opened, until
from tests.commands import PLENTY, deployment, headroom
from tests.runs import synthetic_run
from tests.servers import Server

pytestmark = [needs_browser, pytest.mark.aside]
MARKER = "Chartreuse walrus 7391"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    scenarios = {"streaming": 13, "chat": 6, "vision": 1}
    return synthetic_run(tmp_path_factory.mktemp("runs"), 600, scenarios=scenarios)


@pytest.fixture(scope="module")
def levers(run: Run) -> Levers:
    found = levers_of(*scoped_plan(run))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def report(run: Run, levers: Levers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(run, plan_run(run), path, levers=levers)
    return path


@pytest.fixture(scope="module")
def bare(run: Run, levers: Levers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without its figures, which take the browser a second."""
    path = tmp_path_factory.mktemp("bare") / "report.html"
    path.write_text(render(plan_run(run), run.manifest, {}, levers=levers), "utf-8")
    return path


@pytest.mark.parametrize("growing", [False, True])
def test_verdict_picture_costs_and_doubts_are_on_the_first_screen(
    browser: Browser, report: Path, run: Run, tmp_path: Path, growing: bool
) -> None:
    if growing:
        report = tmp_path / "growing.html"
        write_report(run, plan_run(run, growth=3, settings=PlanConfig(growth_per_month=0.08)), report)
    with opened(browser, report, width=1280) as (page, _):
        page.set_viewport_size({"width": 1280, "height": 720})
        for part in ("h1", ".lead", ".notice.care", ".glance .plot", ".glance .ways", ".limits", ".tiles"):
            box = page.locator(part).first.bounding_box()
            assert box is not None and box["y"] + box["height"] <= 720, part
        assert page.locator("header .notice > ul > li").count() == 1  # the others are folded
        assert page.locator(".glance .ways tbody tr").count() >= 2


def test_a_growth_a_month_says_on_the_first_screen_when_each_limit_is_reached(run: Run) -> None:
    plan = plan_run(run, settings=PlanConfig(growth_per_month=0.08))
    first = render(plan, run.manifest, {}).partition("</header>")[0]
    assert len(re.findall(r"<td>in \d+ months, 20\d\d-\d\d</td>", first)) == 2
    assert "times planned load" in first and "of the measured" in first


def test_an_invalid_run_recommends_nothing_and_its_numbers_say_so(run: Run) -> None:
    plan = plan_run(run)
    for valid, recommended, marked in ((True, 1, 0), (False, 0, 6)):
        page = render(replace(plan, validity=replace(plan.validity, valid=valid)), run.manifest, {})
        first = page.partition("</header>")[0]
        assert (first.count('class="best"'), first.count("(invalid run)")) == (recommended, marked)


def set_lever(page: Page, name: str, value: float) -> None:
    page.locator(f"#lever-{name}").fill(str(value))


def shown(page: Page) -> dict[str, Any]:
    names = (
        "serverless_usd",
        "deployments",
        "managed_usd",
        "instances",
        "break_even_requests_per_s",
        "completion_tokens",
    )
    return {name: json.loads(page.locator(f"#{name}").get_attribute("data-value") or "null") for name in names}


def test_growth_moved_in_the_page_shows_what_the_plan_with_that_growth_says(
    browser: Browser, run: Run, bare: Path, levers: Levers
) -> None:
    printed = json.loads(to_json(plan_run(run, growth=3.0)))["ahead"]
    usd = {each["name"]: each["per_month_usd"] for each in printed["costs"]["options"]}
    with opened(browser, bare) as (page, seen):
        set_lever(page, "growth", levers.growths.index(3.0))
        now = shown(page)
        assert now["serverless_usd"] == pytest.approx(usd["serverless"], rel=1e-12)
        assert now["managed_usd"] == pytest.approx(usd["managed, around the clock"], rel=1e-12)
        assert (now["deployments"], now["instances"]) == (printed["need"]["deployments"], printed["instances"])
        assert page.locator("#serverless_usd").inner_text() == text.usd(usd["serverless"])
        assert page.locator("#at-growth").inner_text() == text.times(3.0)
        assert text.usd(usd["serverless"]) in page.locator("#told").inner_text()
        page.locator("#levers button").click()
        until(page, f"document.querySelector('#at-growth').textContent === '{text.times(1.0)}'")
        assert page.locator("#serverless_usd").inner_text() == page.locator("#rest-serverless_usd").inner_text()
        seen.assert_quiet(bare)


POSITIONS = [  # slider's name and value, and the same for the planner
    ("at rest", {}, {}),
    ("max_tokens trimmed", {"limit": 0}, {"limit": 0}),
    ("longer answers", {"share": 40}, {"output_share": 0.4}),
    ("shorter answers, dearer", {"share": 5, "token_price": 150}, {"output_share": 0.05, "token_price": 1.5}),
    ("half-full instances at a discount", {"utilisation": 50, "instance_price": 80}, {"utilisation": 0.5, "instance_price": 0.8}),
    ("more than was replayed", {"growth": 6, "limit": 0}, {"growth": 6, "limit": 0}),
    ("a limit, and then a share", {"limit": 0, "share": 10, "growth": 3}, {"limit": 0, "output_share": 0.1, "growth": 3}),
]  # fmt: skip


def test_each_lever_moves_by_the_formulas_of_the_planner(browser: Browser, bare: Path, levers: Levers) -> None:
    rest = Position(growth=levers.own_growth, limit=levers.own_limit)
    with opened(browser, bare) as (page, seen):
        for case, sliders, planned in POSITIONS:
            page.evaluate("document.getElementById('levers').reset()")
            page.wait_for_timeout(20)
            set_lever(page, "growth", sliders.get("growth", levers.own_growth))
            for name, value in sliders.items():
                set_lever(page, name, value)
            expected = moved(levers, replace(rest, **planned))
            for name, value in shown(page).items():
                wanted = getattr(expected, name)
                assert value == (wanted if wanted is None else pytest.approx(wanted, rel=1e-12)), (case, name)
            assert page.locator("#deployments").inner_text() == text.count(expected.deployments), case
            assert page.locator("#managed_usd").inner_text() == text.usd(expected.managed_usd), case
            assert page.locator("#at-share").inner_text() == text.percent(expected.output_share), case
        seen.assert_quiet(bare)


def test_the_levers_follow_the_keyboard(browser: Browser, bare: Path, levers: Levers) -> None:
    with opened(browser, bare) as (page, _):
        page.locator("#lever-growth").focus()
        page.keyboard.press("End")
        assert page.locator("#at-growth").inner_text() == text.times(levers.growths[-1])
        assert page.locator("#lever-growth").get_attribute("aria-valuetext") == text.times(levers.growths[-1])
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "lever-limit"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_the_first_key_leads_past_the_navigation(browser: Browser, bare: Path) -> None:
    with opened(browser, bare) as (page, _):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.url.endswith("#main") and page.locator("#main").count() == 1


@pytest.mark.long
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_axe_finds_nothing_amiss_at_any_width_in_either_scheme(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    assert_accessible(browser, report, width, scheme)


@pytest.mark.long
def test_axe_finds_nothing_amiss_in_tables_and_levers(browser: Browser, bare: Path) -> None:
    assert_accessible(browser, bare, 390, "dark")


def assert_accessible(browser: Browser, path: Path, width: int, scheme: str) -> None:
    """With every fold open, and without what figures are painted of, which is one image to axe as to its users."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe-core here to judge the page"
    ).Axe()
    with opened(browser, path, width=width, scheme=scheme) as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        found = axe.run(page, context={"exclude": [[".main-svg g"]]}).response["violations"]
        assert [(each["id"], each["nodes"][0]["target"]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_every_figure_says_in_words_what_it_shows_and_no_heading_is_skipped(browser: Browser, report: Path) -> None:
    with opened(browser, report) as (page, _):
        named = page.locator("svg.main-svg[role=img]").all()
        assert len(named) == page.locator("[data-plot]").count()
        for image in named:
            assert len(image.get_attribute("aria-label") or "") > 10
        levels = [
            int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((e) => e.tagName)")
        ]
        main = levels[levels.index(1) :]
        assert levels.count(1) == 1 and all(after - before <= 1 for before, after in pairwise(main))


@pytest.mark.long
def test_on_paper_the_levers_are_the_resting_table(browser: Browser, bare: Path, tmp_path: Path) -> None:
    with opened(browser, bare) as (page, _):
        page.emulate_media(media="print")
        assert not page.locator("#lever-growth").is_visible() and not page.locator("#told").is_visible()
        assert page.locator("#rest-serverless_usd").is_visible() and not page.locator("#serverless_usd").is_visible()
        assert page.pdf(path=tmp_path / "report.pdf").startswith(b"%PDF")


ASKING = f"""from loadgen.requests import chat
from loadgen.users import DeploymentUser

class Mine(DeploymentUser):
    def request(self, arrival):
        return chat(self.scenario, [{{"role": "user", "content": "{MARKER}"}}], max_tokens=7)
"""


def test_no_prompt_and_no_answer_reaches_the_page(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ASKING, "utf-8")
    bodies: list[bytes] = []

    async def answer(call: Any, writer: Any) -> None:
        bodies.append(call.body)
        await deployment(call, writer)

    with Server(answer) as server:
        load = ["--rate", "20/s", "--duration", "1s", "--warmup", "0s", *PLENTY]
        done = headroom(tmp_path, "run", "--target", server.url, "--scenario", "mine.py:Mine", *load, "--out", "run")
    assert done.returncode in (0, 4), done.stderr
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "mine.py:Mine" in page
    assert any(MARKER.encode() in body for body in bodies)
    assert MARKER not in page and MARKER not in (tmp_path / "run" / "summary.json").read_text("utf-8")
