"""The service's pages: what they show, what their forms do, and that everybody can use them."""

from __future__ import annotations

import html
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from headroom.service.desk import Desk
from headroom.service.jobs import Asked, Kind, State
from headroom.service.plan_form import body_of, command_of
from headroom.service.refusals import Refusal
from headroom.service.settings import AllowedTarget
from headroom.service.submission import BLANK, job_of
from headroom.service.views import RunView, Search, columns_of
from planner.assemble import plan_run, to_json
from tests.browsers import needs_browser
from tests.commands import told
from tests.runs import synthetic_run
from tests.service_sites import Site, site, visiting

pytestmark = pytest.mark.aside

TOKEN = "a token of more than sixteen characters"
OTHER = "https://phi.eastus.inference.ai.azure.com"
EMPTY = {"run": "", "slo": "", "growth": "", "demand": "", "tpm": "", "rpm": "", "spare": ""}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that can be compared, with what a run leaves beside its record."""
    folder = tmp_path_factory.mktemp("runs")
    both = [synthetic_run(folder, n=120, seed=seed, name=name) for name, seed in (("before", 1), ("after", 2))]
    summary = to_json(plan_run(both[0]))
    for run in both:
        (run.folder / "summary.json").write_bytes(summary)
        (run.folder / "report.html").write_text("<!doctype html><title>a report</title>")
    return folder


@pytest.fixture(scope="module")
def where(runs: Path) -> Iterator[Site]:
    """With a job of each state, and no process behind any."""
    with site(runs, targets=(AllowedTarget.parse(OTHER),)) as started:
        for state in (State.DONE, State.FAILED, State.RUNNING, State.QUEUED):
            job = started.desk.jobs.add(_asked(f"a job that is {state}"), most_queued=9)
            if state is not State.QUEUED:
                started.desk.jobs.start(job.id)
            if state in (State.DONE, State.FAILED):
                error = "loadtest.toml: target.url: nothing answers there" if state is State.FAILED else None
                started.desk.jobs.end(job.id, state, exit_code=2 if error else 99, error=error)
        started.desk.submit({"name": "each night", "schedule": "0 2 * * *", "config": {}})
        started.desk.tag("before", ["nightly", "phi-3"])
        yield started


def _asked(name: str) -> Asked:
    return Asked(kind=Kind.LOADTEST, name=name, tags=("nightly",), config={"load": {"rate": "5/s"}})


@needs_browser
def test_a_job_is_submitted_watched_for_and_cancelled_by_keyboard_alone(browser: Browser, where: Site) -> None:
    with visiting(browser, where) as (page, seen):
        page.goto("/")
        _tab_to(page, "Submit a job")
        page.keyboard.press("Enter")
        page.wait_for_url("**/jobs/new")
        for field, text in (("Name", "by keyboard"), ("Tags", "a, b"), ("Rate", "7/s"), ("Objectives", "ttft.p95<1s")):
            _tab_to(page, field)
            page.keyboard.press("Control+A")
            page.keyboard.type(text)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("by keyboard")
        job = where.desk.jobs.all(limit=1)[0]
        assert (job.name, job.tags, job.state) == ("by keyboard", ("a", "b"), State.QUEUED)
        config = where.desk.jobs.config_of(job.id)
        assert config["load"] == {"rate": "7/s", "duration": "1m", "warmup": "5s", "max_tokens": 128}
        assert config["slo"] == ["ttft.p95<1s"] and config["target"]["url"] == "sim"
        _tab_to(page, "Cancel by keyboard")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("cancelled")
        seen.assert_quiet()


def _tab_to(page: Page, name: str) -> None:
    """To what is so called, as a screen reader would say it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(
            "(name) => { const at = document.activeElement; const said = at.getAttribute('aria-label') ?? "
            "at.labels?.[0]?.firstChild.textContent.trim() ?? at.textContent.trim(); return said === name; }",
            name,
        ):
            return
    raise AssertionError(f"no tab leads to {name!r}")


@needs_browser
def test_every_page_works_without_scripts(browser: Browser, where: Site) -> None:
    with visiting(browser, where, java_script_enabled=False) as (page, _):
        page.goto("/jobs/new")
        expect(page.locator("textarea")).to_be_hidden()
        page.get_by_label("A whole loadtest.toml").check()
        expect(page.get_by_label("Rate", exact=True)).to_be_hidden()
        page.get_by_label("Name", exact=True).fill("as TOML")
        page.locator("textarea").fill('[load]\nratee = "5/s"\n')
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("alert")).to_contain_text(
            "loadtest.toml: load.ratee: unknown key; did you mean 'rate'?"
        )
        page.locator("textarea").fill('[load]\nrate = "5/s"\n')
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("as TOML")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status")).to_have_text("cancelled")
        page.goto("/")
        page.get_by_role("button", name="End the schedule of each night").click()
        expect(page.get_by_text("0 2 * * *")).to_have_count(0)
        page.goto("/runs?sort=-ttft_p95_ms")
        page.get_by_label("Find").fill("phi-3 before")
        page.get_by_role("button", name="Show").click()
        assert (
            page.locator("tbody th").all_inner_texts()[0].startswith("before") and page.locator("tbody tr").count() == 1
        )
        page.get_by_role("link", name="before").click()
        page.get_by_label("Parted by commas").fill("main, release")
        page.get_by_role("button", name="Keep").click()
        assert where.desk.run("before").tags == ("main", "release")
        where.desk.tag("before", ["nightly", "phi-3"])


VIEWS = [(1280, "light"), (390, "dark"), (390, "light"), (1280, "dark")]


@needs_browser
@pytest.mark.long
def test_pages_are_accessible_and_fit(browser: Browser, where: Site) -> None:
    """Those with the most in them, by turns on a desk in light and on a phone in the dark."""
    places = ["/", "/jobs/new", "/runs", "/runs/before", "/plan?run=before"]
    check_accessible(browser, where, {place: [VIEWS[number % 2]] for number, place in enumerate(places)})


@needs_browser
@pytest.mark.long
def test_every_page_is_accessible_and_fits_a_phone_and_a_desk_in_light_and_in_dark(
    browser: Browser, where: Site
) -> None:
    check_accessible(browser, where, dict.fromkeys(places_of(where), VIEWS))


def places_of(where: Site) -> list[str]:
    running, failed = (where.desk.jobs.all(states=[state])[0].id for state in (State.RUNNING, State.FAILED))
    places = ["/", "/jobs/new", "/runs", "/runs/before", "/compare", "/plan", "/runs/none", f"/jobs/{failed}"]
    return [*places, f"/jobs/{running}", "/compare?base=before&new=after", "/plan?run=before"]


def check_accessible(browser: Browser, where: Site, views: Mapping[str, Sequence[tuple[int, Any]]]) -> None:
    """By axe, whose script no page of ours would let in; and nothing reaches over the edge."""
    compared = {"verdict": "inconclusive", "reason": "x", "metrics": [], "lengths": None, "doubts": ["y"]}
    compared["outcomes"] = {"reason": "z", "base": {"ok": 1}, "new": {"ok": 2}}
    plan = where.desk.shelf.summary("before")
    said = patch.multiple(
        Desk,
        plan=lambda *_: {"plan": plan, "messages": ["a note"]},
        compare=lambda *_: {"comparison": compared, "messages": []},
    )
    axe = Axe()
    with said, visiting(browser, where, bypass_csp=True) as (page, _):
        for place, looks in views.items():
            page.goto(place)
            for width, scheme in looks:
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": 900})
                found = axe.run(page)
                assert found.violations_count == 0, f"{place} {scheme}:\n{found.generate_report()}"
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (place, width)


def test_the_plan_page_shows_what_headroom_plan_prints_for_the_same_inputs(where: Site, runs: Path) -> None:
    """Each figure unrounded; the other way round, the command that the page shows gives them."""
    asked = {**EMPTY, "run": "before", "slo": "ttft.p95<1s", "growth": "3x", "tpm": "400,000", "spare": "1"}
    words = command_of(asked).split()
    assert words == [
        "headroom",
        "plan",
        "before",
        "--slo",
        "'ttft.p95<1s'",
        "--growth",
        "3x",
        "--tpm",
        "400000",
        "--spare",
        "1",
    ]
    printed = json.loads(told(runs, *(word.strip("'") for word in words[1:]), "--json").stdout)
    with patch.object(
        Desk, "plan", lambda _, body: {"plan": printed, "messages": []} if body == body_of(asked) else {}
    ):
        text = httpx.get(f"{where.url}/plan", params=asked).text
    shown = dict(re.findall(r'data-figure="([^"]*)" data-value="([^"]*)"', text))
    ahead = printed["ahead"]
    assert json.loads(shown["ahead.need.deployments"]) == ahead["need"]["deployments"]
    assert json.loads(shown["ahead.instances"]) == ahead["instances"]
    for place, option in enumerate(ahead["costs"]["options"]):
        assert json.loads(shown[f"ahead.costs.options.{place}.per_month_usd"]) == option["per_month_usd"]
    assert ahead["recommendation"] in text.replace("&#39;", "'")


def test_two_picked_runs_are_compared_the_older_as_the_base(where: Site) -> None:
    asked: list[Any] = []

    def compare(_: Desk, body: Any) -> Any:
        asked.append(body)
        raise Refusal(422, "the rate of the first is 6, of the second 7")

    with patch.object(Desk, "compare", compare):
        answers = [
            httpx.get(f"{where.url}/compare?{query}", headers={"accept": "text/html"})
            for query in ("run=after&run=before", "run=after", "base=after&new=before")
        ]
    assert [answer.status_code for answer in answers] == [422, 422, 422]
    assert "the rate of the first is 6" in answers[0].text and "pick two runs: 1 was picked" in answers[1].text
    assert asked[-1] == {"base": "after", "new": "before"} and len(asked) == 2


@pytest.mark.parametrize("form", [{}, {"csrf": "guessed"}, {"csrf": ["a", "b"]}], ids=["none", "guessed", "two"])
@pytest.mark.parametrize("place", ["/jobs/new", "/jobs/x/cancel", "/schedules/x/end", "/runs/before/tags", "/login"])
def test_a_form_without_our_token_does_nothing(where: Site, place: str, form: dict[str, Any]) -> None:
    before = where.desk.jobs.counts()
    assert httpx.post(f"{where.url}{place}", data={**form, "tags": "x"}).status_code == 403
    assert (where.desk.jobs.counts(), where.desk.run("before").tags) == (before, ("nightly", "phi-3"))


@needs_browser
def test_who_has_the_token_signs_in_and_who_has_not_sees_nothing(browser: Browser, runs: Path) -> None:
    with site(runs, token=TOKEN) as locked, visiting(browser, locked) as (page, _):
        page.goto("/runs")
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        assert page.evaluate("getComputedStyle(document.body).maxWidth") != "none"  # it has its style
        page.get_by_label("Token").fill("a guess of sixteen letters")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("that is not this service's token")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Runs")  # which was asked for
        assert TOKEN not in page.content() and TOKEN not in str(page.context.cookies())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"rate": "fast"}, "a rate that is none"),
        ({"target": "https://elsewhere.example"}, "a target that the service does not load"),
        ({"requests": "9" * 9}, "more than a job may"),
        ({"requests": "lots"}, "a count that is none"),
        ({"scenarios": "chat=much"}, "a weight that is none"),
        ({"scenarios": "./own.py:Mine"}, "a scenario that is a file"),
        ({"schedule": "at night"}, "a schedule that is none"),
        ({"as": "toml", "toml": "[load"}, "no TOML"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_form_asks_for_in_vain_is_told(where: Site, given: dict[str, str], why: str) -> None:
    with pytest.raises(Refusal) as refused:
        where.desk.submit(job_of({**BLANK, **given}))
    assert refused.value.status == 422 and refused.value.message


@pytest.mark.parametrize(
    ("place", "status", "message"),
    [
        ("/runs/none", 404, "there is no run 'none'"),
        ("/jobs/none", 404, "there is no job 'none'"),
        ("/nowhere", 404, "there is nothing here"),
        ("/assets/report.js", 404, "there is nothing here"),
        ("/jobs/none/cancel", 405, "this cannot be done here"),
        ("/compare/report?base=before&new=none", 404, "there is no run 'none'"),
    ],
)
def test_what_is_not_there_is_told_to_a_browser_as_a_page_and_to_a_program_as_json(
    where: Site, place: str, status: int, message: str
) -> None:
    page, answer = (
        httpx.get(f"{where.url}{place}", headers={"accept": kind}) for kind in ("text/html,*/*", "application/json")
    )
    assert (page.status_code, answer.status_code) == (status, status)
    assert "<h1>" in page.text and message in html.unescape(page.text)
    assert answer.json()["error"]["message"] == message
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_a_comparison_with_an_invalid_run_is_told_why(where: Site) -> None:
    answer = {"comparison": {"verdict": "invalid", "reason": "after is invalid: late"}, "messages": []}
    with patch.object(Desk, "compare", lambda *_: answer):
        found = httpx.get(f"{where.url}/compare?base=before&new=after")
    assert found.status_code == 422 and "after is invalid: late" in found.text


def test_a_job_shows_what_it_was_asked_to_do_as_a_file_that_asks_for_it(where: Site) -> None:
    text = '[load]\nrate = "5/s"\n\n[scenarios]\nchat = 1\n"a.b c" = 2\n'
    job = where.desk.jobs.add(
        replace(_asked("a file"), config=tomllib.loads(f'slo = ["ttft.p95<1s"]\n{text}')), most_queued=9
    )
    page = httpx.get(f"{where.url}/jobs/{job.id}").text
    shown = html.unescape(re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)[0])
    assert shown == f'slo = ["ttft.p95<1s"]\n\n{text}'
    where.desk.cancel(job.id)


def test_the_queue_moves_on_by_itself_when_the_job_that_is_next_begins(tmp_path: Path) -> None:
    with site(tmp_path) as idle:
        assert "data-events" not in httpx.get(idle.url).text
        first, _ = (idle.desk.jobs.add(_asked(name), most_queued=9) for name in ("first", "second"))
        assert re.findall('data-events="([^"]*)"', httpx.get(idle.url).text) == [f"/api/jobs/{first.id}/events"]


def run(name: str, **figures: Any) -> RunView:
    known: dict[str, Any] = {
        "label": name, "model": "Phi-3", "target": "sim", "tags": (), "started": "2026-11-20 10:00:00",
        "verdict": "valid", "tone": "good", "requests_per_s": 1.0, "ttft_p95_ms": None, "unanswered_share": 0.0,
        "headroom": None, "per_month_usd": None, "report": True,
    }  # fmt: skip
    return RunView(id=name, name=name, **{**known, **figures})


TABLE = (
    run("a", ttft_p95_ms=30.0, tags=("main",), started="2026-11-20 10:00:00"),
    run("b", ttft_p95_ms=10.0, verdict="invalid", started="2026-11-20 12:00:00"),
    run("c", model="Mistral", started="2026-11-20 11:00:00"),
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "bca"),  # the newest first
        ({"sort": "name"}, "abc"),
        ({"sort": "-name"}, "cba"),
        ({"sort": "ttft_p95_ms"}, "bac"),  # what has no figure comes last
        ({"sort": "-ttft_p95_ms"}, "abc"),  # either way
        ({"sort": "password"}, "bca"),  # an unknown column sorts nothing
        ({"tag": "main"}, "a"),
        ({"verdict": "invalid"}, "b"),
        ({"q": "mistral"}, "c"),
        ({"q": "MISTRAL sim"}, "c"),  # all words, in any letters
        ({"q": "mistral main"}, ""),
        ({"page": "-1"}, "bca"),
        ({"page": "x"}, "bca"),
    ],
)
def test_the_table_of_runs_is_sorted_and_filtered_by_its_address(query: dict[str, str], found: str) -> None:
    assert "".join(each.name for each in Search.of(query).matching(TABLE)) == found


def test_a_column_that_is_sorted_already_turns_round_and_keeps_the_filter() -> None:
    columns = {each.label: each for each in columns_of(Search.of({"sort": "-headroom", "tag": "a&b"}))}
    assert columns["Headroom"].sorted == "descending" and columns["Headroom"].link == "/runs?tag=a%26b&sort=headroom"
    assert columns["Run"].sorted is None and columns["Run"].link.endswith("sort=name")
    assert columns["A month"].link.endswith("sort=-per_month_usd")  # the dearest first
