"""No page of the service shows a figure of an invalid run as if it could be believed, nor a unit without a figure."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from playwright.sync_api import Browser

from dashboards.text import UNKNOWN
from headroom.service.desk import Desk
from planner.assemble import plan_run, to_json
from tests.browsers import needs_browser
from tests.runs import answered, make_run, synthetic_run
from tests.service_sites import Site, site, visiting

pytestmark = pytest.mark.aside

TILE = re.compile(r"<div><dt>(.*?)</dt>(.*?)</div>", re.DOTALL)
STRUCK = "[...document.querySelectorAll(%r)].map(each => getComputedStyle(each).textDecorationLine)"
NAKED = re.compile(rf"[{UNKNOWN}>] (?:ms|\u00d7|completed|a request)")
REASON = "the load generator was late"


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same record as a run that is valid and as one that is not, and a run of three answers."""
    runs = tmp_path_factory.mktemp("runs")
    plans = {}
    for name, reasons in (("sound", ()), ("unsound", (REASON,))):
        plan = plan_run(synthetic_run(runs, n=120, name=name))
        plans[name] = replace(plan, validity=replace(plan.validity, valid=not reasons, reasons=reasons))
    plans["sparse"] = plan_run(make_run(runs, [answered(n, n / 2, ttft_s=0.1) for n in range(3)], name="sparse"))
    for name, plan in plans.items():
        (runs / name / "summary.json").write_bytes(to_json(plan))
    with site(runs) as started:
        yield started


def planned(where: Site, name: str) -> Any:
    answer = {"plan": where.desk.shelf.summary(name), "messages": []}
    return patch.object(Desk, "plan", lambda *_: answer)


@pytest.mark.parametrize("place", ["/runs/{}", "/plan?run={}"])
def test_each_tile_of_an_invalid_run_says_so_and_none_of_a_valid_one(where: Site, place: str) -> None:
    for name, marked in (("sound", False), ("unsound", True)):
        with planned(where, name):
            text = httpx.get(where.url + place.format(name)).text
        tiles = TILE.findall(text.partition('<dl class="tiles')[2].partition("</dl>")[0])
        assert len(tiles) >= 4 and REASON * marked in html.unescape(text)
        assert all((">invalid<" in body) is marked for _, body in tiles), tiles


@needs_browser
@pytest.mark.parametrize("place", ["/runs/{}", "/plan?run={}", "/runs?q={}"])
def test_the_figures_of_an_invalid_run_are_struck_out(browser: Browser, where: Site, place: str) -> None:
    figures = ".tiles dd:first-of-type, td.num" if "?q" not in place else "tr:has(a[href='/runs/%s']) td.num"
    with visiting(browser, where) as (page, _):
        for name, line in (("sound", "none"), ("unsound", "line-through")):
            with planned(where, name):
                page.goto(place.format(name))
            found = page.evaluate(STRUCK % (figures % name if "%" in figures else figures))
            assert len(found) >= 5 and set(found) == {line}


def test_no_objective_of_an_invalid_run_is_met_or_missed(where: Site) -> None:
    objectives = re.search(r'aria-label="Objectives">(.*?)</table>', httpx.get(f"{where.url}/runs/unsound").text, re.S)
    assert objectives is not None
    assert ">skipped<" in objectives[1] and not re.search(r">(met|missed|unclear)<", objectives[1])


def test_a_figure_that_is_not_known_has_no_unit(where: Site) -> None:
    assert all(row["p50"]["value_ms"] is None for row in where.desk.shelf.summary("sparse")["latency"])
    text = httpx.get(f"{where.url}/runs/sparse").text
    assert "n&lt;" in text and not NAKED.search(text)


def test_a_run_to_choose_says_that_it_is_invalid(where: Site) -> None:
    options = re.findall(r"<option value=\"(\w+)\"[^>]*>([^<]*)<", httpx.get(f"{where.url}/compare").text)
    assert {name for name, label in options if " (invalid), " in label} == {"unsound"}
