"""The service's pages on a phone, or on a desk at four times the size: what has the focus is in sight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from playwright.sync_api import Browser, expect

from headroom.service.desk import Desk
from planner.assemble import plan_run, to_json
from tests.browsers import needs_browser
from tests.runs import answered, make_run, synthetic_run
from tests.service_sites import Site, site, visiting

pytestmark = [needs_browser, pytest.mark.aside]
PHONE_PX = 390


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    runs = tmp_path_factory.mktemp("runs")
    for name in ("before", "after"):
        make_run(runs, [answered(0, 0.1)], name=name)
    told = synthetic_run(runs, n=120, name="told")
    (told.folder / "summary.json").write_bytes(to_json(plan_run(told)))
    with site(Path(runs)) as started:
        yield started


def test_the_links_by_which_a_table_is_sorted_come_to_sight_with_the_focus(browser: Browser, where: Site) -> None:
    with visiting(browser, where, width=PHONE_PX) as (page, _):
        page.goto("/runs")
        link = page.get_by_role("link", name="Headroom").nth(1)
        expect(link).not_to_be_in_viewport()
        page.get_by_role("button", name="Show").focus()
        for _ in range(12):
            page.keyboard.press("Tab")
            if link.evaluate("each => each === document.activeElement"):
                break
        expect(link).to_be_focused()
        expect(link).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.keyboard.press("Enter")
        page.wait_for_url("**sort=-headroom")


def test_two_runs_to_choose_from_are_as_wide_as_each_other(browser: Browser, where: Site) -> None:
    with visiting(browser, where, width=PHONE_PX) as (page, _):
        page.goto("/compare")
        assert len(set(page.evaluate("[...document.querySelectorAll('select')].map(each => each.clientWidth)"))) == 1


def test_no_column_of_a_run_is_out_of_sight(browser: Browser, where: Site) -> None:
    with visiting(browser, where, width=PHONE_PX) as (page, _):
        page.goto("/runs/told")
        within = "[...document.querySelectorAll('.table')].map(each => each.scrollWidth <= each.clientWidth)"
        assert page.evaluate(within) == [True, True]  # objectives and latency


def test_no_option_in_a_sentence_is_broken_at_the_end_of_a_line(browser: Browser, where: Site) -> None:
    """A hyphen is where a line may end; so at some width each of these would."""
    words = " ".join(["--concurrency-per-instance says how many,"] * 12)
    found: dict[str, Any] = {"verdict": "equivalent", "reason": words, "metrics": [], "lengths": None, "doubts": []}
    found["outcomes"] = {"reason": "", "base": {}, "new": {}}
    answer = {"comparison": found, "messages": []}
    with patch.object(Desk, "compare", lambda *_: answer), visiting(browser, where, width=PHONE_PX) as (page, _):
        page.goto("/compare?base=before&new=after")
        lines = page.evaluate("[...document.querySelectorAll('.flag')].map(each => each.getClientRects().length)")
    assert lines == [1] * 12
