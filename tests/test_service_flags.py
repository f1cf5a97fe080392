"""No `--option` that a page of the service names in its text is broken at the end of a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from headroom.service.desk import Desk
from headroom.service.jobs import Asked, Kind, State
from headroom.service.refusals import Refusal
from planner.assemble import plan_run, to_json
from tests.runs import answered, make_run, synthetic_run
from tests.service_sites import Site, site

pytestmark = pytest.mark.aside

VERBATIM = {"code", "pre", "textarea", "title", "option"}  # as they were typed, or where there is no markup
VOID = {"meta", "link", "input", "br", "path"}


class Text(HTMLParser):
    """The text of a page in which an option may be broken, and the options that are not."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[tuple[str, bool]] = []
        self.loose, self.kept = "", list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class") == "flag"))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if any(flag for _, flag in self.open):
            self.kept.append(data)
        elif not VERBATIM & {tag for tag, _ in self.open}:
            self.loose += data


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    runs = tmp_path_factory.mktemp("runs")
    make_run(runs, [answered(0, 0.1)], name="other")
    run = synthetic_run(runs, n=120, name="told")
    plan = plan_run(run)
    unsound = replace(plan.validity, valid=False, reasons=("give --a-reason",), doubts=("give --a-doubt",))
    (run.folder / "summary.json").write_bytes(to_json(replace(plan, headline="give --a-headline", validity=unsound)))
    with site(runs) as started:
        yield started


def plan_of(where: Site) -> Any:
    plan = where.desk.shelf.summary("told")
    ahead = {"recommendation": "give --advice", "must_be_true": ["--condition holds"], "doubts": ["or --ahead"]}
    return {"plan": {**plan, "ahead": {**plan["ahead"], **ahead}}, "messages": ["see --message"]}


def comparison(_: Site) -> Any:
    found = {
        "verdict": "equivalent", "reason": "by --verdict", "metrics": [], "lengths": None, "doubts": ["but --doubted"],
        "outcomes": {"reason": "with --answers", "base": {}, "new": {}},
    }  # fmt: skip
    return {"comparison": found, "messages": []}


def assert_kept(page: str, options: set[str]) -> None:
    text = Text(page)
    assert "--" not in text.loose
    assert set(text.kept) == options


def test_of_a_run(where: Site) -> None:
    page = httpx.get(f"{where.url}/runs/told").text
    assert_kept(page, {"--a-headline", "--a-reason", "--a-doubt"})


@pytest.mark.parametrize(
    ("place", "what", "found", "options"),
    [
        ("/plan?run=told", "plan", plan_of, {"--advice", "--condition", "--ahead", "--message", "--a-reason"}),
        ("/compare?base=other&new=told", "compare", comparison, {"--verdict", "--answers", "--doubted"}),
    ],
)
def test_of_what_was_asked_of_runs(where: Site, place: str, what: str, found: Any, options: set[str]) -> None:
    answer = found(where)
    with patch.object(Desk, what, lambda *_: answer):
        assert_kept(httpx.get(where.url + place).text, options)


def test_of_a_job_that_failed_in_the_queue_and_on_its_page_where_the_lines_of_why_stay_lines(where: Site) -> None:
    asked = Asked(kind=Kind.LOADTEST, name="failed", tags=(), config={})
    job = where.desk.jobs.add(asked, most_queued=9)
    where.desk.jobs.start(job.id)
    where.desk.jobs.end(job.id, State.FAILED, exit_code=2, error="it is not known\ngive --an-error")
    for place in ("/", f"/jobs/{job.id}"):
        page = httpx.get(where.url + place).text
        assert_kept(page, {"--an-error"})
        assert 'it is not known\ngive <span class="flag">' in page


def test_of_what_is_refused_in_a_form_and_as_a_page(where: Site) -> None:
    form = {"as": "toml", "toml": '[target]\nurl = "https://elsewhere.example"\n'}
    with httpx.Client(base_url=where.url) as client:
        found = re.search(r'name="csrf" value="([^"]+)"', client.get("/jobs/new").text)
        assert found is not None
        assert_kept(client.post("/jobs/new", data={**form, "csrf": found[1]}).text, {"--allow-target"})
    forgotten = Refusal(404, "it is forgotten: see --keep")
    with patch.object(where.desk.jobs, "get", side_effect=forgotten):
        assert_kept(httpx.get(f"{where.url}/jobs/none", headers={"accept": "text/html"}).text, {"--keep"})
