"""A browser at a service that works: a job is submitted, watched, read, compared and planned from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from planner.assemble import plan_run, to_json
from tests.browsers import DRAWN, needs_browser, until
from tests.commands import headroom
from tests.runs import synthetic_run
from tests.service_sites import Site, site, visiting

pytestmark = [needs_browser, pytest.mark.long]
STARTS_MS, ENDS_MS = 60_000, 120_000
WHAT_IF = {"growth": "3x", "slo": "ttft.p95<2s", "tpm": "100000", "spare": "1", "concurrency_per_instance": "12"}


def submit(page: Page, name: str) -> str:
    """The id of the job."""
    page.goto("/jobs/new")
    fields = {"Name": name, "Scenarios": "chat streaming", "Rate": "10/s", "Duration": "6s", "Warm-up": "0s"}
    for label, text in fields.items():
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile(r"/jobs/2"))
    return page.url.rpartition("/")[2]


def watch(page: Page) -> None:
    """Figures come, a line is drawn, and the page goes on by itself when the job has ended."""
    rate = page.locator("[data-live=rate]")
    expect(rate).to_have_text(re.compile(r"[\d.]+"), timeout=STARTS_MS)
    expect(page.locator("[data-live=requests]")).to_have_text(re.compile(r"[\d,]+ of 1,000"))
    expect(page.locator("[data-trace=rate] path")).to_have_attribute("d", re.compile("L"), timeout=STARTS_MS)
    expect(page.get_by_role("link", name="Report")).to_be_visible(timeout=ENDS_MS)


def shown(page: Page) -> dict[str, float]:
    return {
        each.get_attribute("data-figure") or "": json.loads(each.get_attribute("data-value") or "null")
        for each in page.locator("[data-figure][data-value]").all()
    }


def test_a_job_is_submitted_watched_read_offline_compared_and_planned_from(browser: Browser, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, seed in (("before", 1), ("after", 2)):  # a machine that is busy makes no run that can be compared
        run = synthetic_run(runs, n=300, seed=seed, name=name)
        (run.folder / "summary.json").write_bytes(to_json(plan_run(run)))
    with site(runs, works=True) as where, visiting(browser, where) as (page, seen):
        job = submit(page, "watched")
        watch(page)
        page.get_by_role("link", name="Report").click()
        page.wait_for_url("**/report")
        until(page, DRAWN)
        page.context.set_offline(True)  # what is open stays whole, and what was kept opens
        assert page.locator("[data-plot] .main-svg").count() > 5
        page.context.set_offline(False)
        check_offline(browser, where, job, tmp_path)
        compare(page)
        plan(page, where, "before")
        seen.assert_quiet()


def check_offline(browser: Browser, where: Site, job: str, tmp_path: Path) -> None:
    """The report, kept as a file, in a browser without a network."""
    kept = tmp_path / "kept.html"
    kept.write_bytes(httpx.get(f"{where.url}/api/runs/{job}/report").content)
    with visiting(browser, where, offline=True) as (page, seen):
        page.goto(kept.as_uri(), timeout=ENDS_MS)
        until(page, DRAWN)
        assert (seen.dialogs, seen.console, seen.elsewhere) == ([], [], [kept.as_uri()])


def compare(page: Page) -> None:
    """Two runs of the same, picked in the table: nothing has changed that could be told from so few requests."""
    page.goto("/runs")
    for name in ("before", "after"):
        page.get_by_label(f"Pick {name} to compare").check()
    page.get_by_role("button", name="Compare the two picked").click()
    expect(page.locator("main .badge").first).to_have_text(re.compile("inconclusive|equivalent|regressed|improved"))
    assert page.locator("select[name=base]").input_value() in ("before", "after")  # they began at once
    assert {"ttft.p50.base_ms", "ttft.p50.new_ms", "ttft.p50.ratio"} <= set(shown(page))
    page.get_by_role("link", name="Report of both").click()
    page.wait_for_url("**/compare/report**")
    until(page, DRAWN)
    assert page.locator("[data-plot] .main-svg").count() > 1


def plan(page: Page, where: Site, run: str) -> None:
    page.goto(f"/runs/{run}")
    page.get_by_role("link", name="Plan", exact=True).last.click()
    at_rest = shown(page)
    for name, value in WHAT_IF.items():
        page.locator(f"input[name={name}]").fill(value)
    page.keyboard.press("Enter")
    page.wait_for_url("**growth=3x**")
    moved, words = shown(page), [f"--{name.replace('_', '-')}={value}" for name, value in WHAT_IF.items()]
    for figures, asked in ((at_rest, []), (moved, words)):
        printed = json.loads(headroom(where.desk.settings.runs, "plan", run, *asked, "--json").stdout)["ahead"]
        assert figures["ahead.need.deployments"] == printed["need"]["deployments"]
        assert figures["ahead.instances"] == printed["instances"]
        options = printed["costs"]["options"]
        assert [figures[f"ahead.costs.options.{place}.per_month_usd"] for place in range(len(options))] == [
            option["per_month_usd"] for option in options
        ]
        assert at_rest is figures or at_rest["ahead.need.deployments"] < figures["ahead.need.deployments"]
