"""Pages of this project in a real browser without a network: what they do, and whether they can be read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome here to open the report in")
QUIET_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DRAWN = (
    "document.querySelectorAll('[data-plot]').length === document.querySelectorAll('[data-plot][data-drawn]').length"
)


@contextmanager
def launched() -> Iterator[Browser]:
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
    refused: list[str | None] = field(default_factory=list)

    def assert_quiet(self, path: Path) -> None:
        assert self.dialogs == []
        assert self.console == []
        assert self.requests == [path.as_uri()]


def until(page: Page, claim: str) -> None:
    """Playwright's own waiting evaluates text within the page, which the page's policy forbids."""
    for _ in range(400):
        if page.evaluate(claim):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within 20 s: {claim}")


@contextmanager
def opened(browser: Browser, path: Path, *, width: int = 1280, scheme: Any = "light") -> Iterator[tuple[Page, Seen]]:
    """The report in a browser without a network, once every figure is drawn."""
    seen = Seen()
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("requestfailed", lambda request: seen.refused.append(request.failure))

    def dismiss(dialog: Any) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.goto(path.as_uri())
    until(page, DRAWN)
    yield page, seen
    context.close()


def assert_readable(page: Page) -> None:
    """Nothing reaches over the edge, and every text has the contrast that WCAG AA asks for."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(WITHIN_THE_PAGE)
    for words, ink, paper in page.evaluate(INKS):
        assert contrast(ink, paper) >= 4.5, words


DARK_INK = "getComputedStyle(document.querySelector('[data-plot=cost] .xtick text')).fill === 'rgb(163, 171, 181)'"
WITHIN_THE_PAGE = """[...document.querySelectorAll('.plot svg.main-svg')]
    .every(svg => svg.getBoundingClientRect().right <= innerWidth)"""
INKS = """(() => {
    const paper = getComputedStyle(document.documentElement).backgroundColor;
    const drawn = ['.xtick text', '.ytick text', '.legendtext', '.annotation-text'].map(each => '.plot ' + each);
    const texts = ['h1', 'td', 'a', '.soft', '.badge', ...drawn].join();
    return [...document.querySelectorAll(texts)].map(each =>
        [each.textContent, getComputedStyle(each)[each.namespaceURI.endsWith('svg') ? 'fill' : 'color'], paper]);
})()"""


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2, of two `rgb(...)` colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
