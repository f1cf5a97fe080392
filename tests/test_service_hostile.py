"""No text of a job, a run, a server or an address does anything in a page of the service but be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlencode

import orjson
import pytest
from playwright.sync_api import Browser, Page, expect

from dashboards.readable import readable
from headroom.service.desk import Desk
from headroom.service.jobs import Asked, Job, Kind, State
from headroom.service.views import ROWS_A_PAGE
from loadgen.config import RunConfig
from planner.assemble import plan_run, to_json
from planner.compare import compare
from planner.comparing.run_facts import facts_of
from tests.browsers import needs_browser, until
from tests.plans import with_every_text
from tests.runs import answered, make_run, synthetic_run
from tests.service_sites import Seen, Site, site, visiting
from tests.xss_payloads import PAYLOADS

pytestmark = [needs_browser, pytest.mark.aside]
ALL = " ".join(PAYLOADS)
"""One text that holds them all, for a quick look."""


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A plan and a comparison of honest runs, whose texts are then replaced."""
    folder = tmp_path_factory.mktemp("honest")
    runs = [synthetic_run(folder, n=90, seed=seed, name=f"run-{seed}") for seed in (1, 2)]
    facts = [facts_of(run, ()) for run in runs]
    return plan_run(runs[0]), compare(facts[:1], facts[1:])


def hostile_run(runs: Path, name: str, text: str, plan: Any) -> None:
    """A run whose scenario, target, model, error, note and objective are `text`, and whose summary says nothing else."""
    plain = text.encode("utf-8", "replace").decode()
    config = RunConfig.model_validate({"load": {"rate": 1, "duration": 1, "warmup": 0}, "scenarios": {plain: 1}})
    run = make_run(
        runs,
        [answered(0, 0.1, scenario=plain, target=plain, error=plain[:200])],
        config=config,
        deployment={"model_name": plain},
        notes=[{"at_s": 0.1, "kind": "cpu", "text": plain}],
        name=name,
    )
    (run.folder / "summary.json").write_bytes(orjson.dumps(hostile(plan, plain)))
    (run.folder / "report.html").write_text(f"<!doctype html><title>x</title>{plain}")


def hostile(plan: Any, text: str) -> Any:
    """A plan as JSON whose texts are `text`, but for the names by which figures are found."""
    said = orjson.loads(to_json(with_every_text(plan, text)))
    said["traffic"]["outcomes"]["ok"] = 5
    for row, honest in zip(said["latency"], plan.latency, strict=True):
        row |= {"metric": honest.metric, "scenario": honest.scenario}
    return said


def hostile_jobs(desk: Desk, text: str) -> list[Job]:
    """One that waits, one that runs, one that failed; past the check that keeps most of this out."""
    jobs = []
    for state in (State.QUEUED, State.RUNNING, State.FAILED):
        config = {"load": {"rate": "5/s"}, "slo": [text], "prompts": {"file": text}, "scenarios": {text: 1}}
        asked = Asked(kind=Kind.LOADTEST, name=text, tags=(text, "tag"), config=config)
        job = desk.jobs.add(asked, most_queued=10_000)
        if state is not State.QUEUED:
            desk.jobs.start(job.id)
        if state is State.FAILED:
            desk.jobs.end(job.id, state, exit_code=2, error=text)
        jobs.append(job)
    return jobs


def said_by_programs(text: str, documents: tuple[Any, Any]) -> Any:
    """What the desk's own processes answer, with `text` for each text; log and progress likewise."""
    plan, comparison = hostile(documents[0], text), orjson.loads(orjson.dumps(with_every_text(documents[1], text)))
    comparison |= {"verdict": "inconclusive"}
    for row in comparison["metrics"]:
        row["verdict"] = "inconclusive"
    return patch.multiple(
        Desk,
        plan=lambda *_: {"plan": plan, "messages": [text]},
        compare=lambda *_: {"comparison": comparison, "messages": [text]},
        log=lambda *_: f"{text}\n{text}",
    )


def read(page: Page, place: str) -> str:
    answer = page.goto(place)
    assert answer is not None and answer.status in (200, 404, 422), (place, answer)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
    page.mouse.move(200, 300)
    page.keyboard.press("Tab")
    return page.locator("body").inner_text()


def shown(text: str) -> str:
    """As a page shows it: with the characters that can be shown, and blanks as one."""
    return " ".join(readable(text).split())


def pages_of(jobs: list[Job], run: str, text: str) -> list[str]:
    query = urlencode({"q": text[:150], "tag": text[:150], "verdict": text[:15], "sort": text[:150], "page": text[:4]})
    plan = urlencode({"run": run, "slo": text, "growth": text, "demand": text, "tpm": text})
    return [
        *(f"/jobs/{job.id}" for job in jobs),
        f"/runs/{run}",
        f"/runs?{query}",
        f"/compare?base={run}&new={run}",
        f"/compare?{urlencode({'base': text, 'new': text})}",
        f"/plan?{plan}",
        f"/runs/{'x' * 40}{urlencode({'': text[:50]})}",
    ]


def visit(page: Page, seen: Seen, where: Site, *, text: str, run: str, documents: tuple[Any, Any]) -> None:
    jobs = hostile_jobs(where.desk, text)
    with said_by_programs(text, documents):
        for place in pages_of(jobs, run, text):
            said = read(page, place)
            if place.startswith(("/jobs/", f"/runs/{run}", "/plan")):
                assert shown(text)[:150] in " ".join(said.split()), place
    refused_form(page, text)
    for job in jobs[:2]:
        where.desk.jobs.ask_cancel(job.id)
    seen.console = [line for line in seen.console if "Failed to load resource" not in line]  # a 404 or 422, as asked
    seen.assert_quiet()


def refused_form(page: Page, text: str) -> None:
    """It comes back as it was filled in."""
    page.goto("/jobs/new")
    for field in ("Name", "Tags", "Schedule", "Scenarios", "Objectives"):
        page.get_by_label(field, exact=False).first.fill(text)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.locator("input[name=slo]").input_value() == readable(text)


def test_sixty_payloads_at_once_in_every_field_are_shown_and_not_obeyed(
    browser: Browser, tmp_path: Path, documents: tuple[Any, Any]
) -> None:
    hostile_run(tmp_path, "run", ALL, documents[0])
    with site(tmp_path) as where, visiting(browser, where) as (page, seen):
        visit(page, seen, where, text=ALL, run="run", documents=documents)
        for place in ("/", "/runs"):
            assert shown(ALL) in " ".join(read(page, place).split())
        seen.console = [line for line in seen.console if "Failed to load resource" not in line]
        seen.assert_quiet()


@pytest.mark.long
def test_each_of_sixty_payloads_alone_in_every_field(
    browser: Browser, tmp_path: Path, documents: tuple[Any, Any]
) -> None:
    for number, text in enumerate(PAYLOADS):
        hostile_run(tmp_path, f"run-{number}", text, documents[0])
    with site(tmp_path) as where, visiting(browser, where) as (page, seen):
        for number, text in enumerate(PAYLOADS):
            (*_, failed), run = hostile_jobs(where.desk, text), f"run-{number}"
            with said_by_programs(text, documents):
                for place in (
                    f"/jobs/{failed.id}",
                    f"/runs/{run}",
                    f"/compare?base={run}&new={run}",
                    f"/plan?run={run}",
                ):
                    assert shown(text) in " ".join(read(page, place).split()), place
        for number in range(1, -(-len(PAYLOADS) // ROWS_A_PAGE) + 1):
            read(page, f"/runs?page={number}")
        read(page, "/")
        seen.assert_quiet()


def test_a_report_that_was_tampered_with_reaches_neither_the_service_nor_any_other(
    browser: Browser, tmp_path: Path, documents: tuple[Any, Any]
) -> None:
    """Its origin is nobody's: it can read no page of the service, and has no token of its forms."""
    script = """<script>
      document.title = 'ran';
      fetch('/api/jobs').then(() => document.title = 'reached', () => document.title = 'kept out');
      try { localStorage.x = 1; document.title = 'ours'; } catch (refused) {}
      new Image().src = 'https://evil.example/x.png';
    </script>"""
    hostile_run(tmp_path, "run", "plain", documents[0])
    (tmp_path / "run" / "report.html").write_text(script)
    with site(tmp_path) as where, visiting(browser, where) as (page, seen):
        page.goto("/api/runs/run/report")
        until(page, "document.title === 'kept out'")
        assert seen.elsewhere == seen.refused and seen.dialogs == []
