"""The batch service as a browser meets it: on a port of its own, in a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page

from headroom.service.app import create_app
from headroom.service.desk import Desk
from headroom.service.settings import Settings

STOP_S = 10.0


@dataclass(frozen=True)
class Site:
    url: str
    desk: Desk


@contextmanager
def site(runs: Path, *, works: bool = False, **settings: Any) -> Iterator[Site]:
    """The service over `runs`; it starts jobs only if it `works`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        app = create_app(Settings(runs=runs, port=port, **settings))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        app.state.stopping = lambda: server.should_exit
        if works:
            app.state.desk.runner.start()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{port}", app.state.desk)
        finally:
            server.should_exit = server.force_exit = True
            thread.join(STOP_S)
            if works:
                app.state.desk.runner.stop()
            app.state.desk.jobs.close()


@dataclass
class Seen:
    """What pages did that they must not do, and whom they asked."""

    home: str
    console: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # of these, what the page's policy kept it from asking

    def assert_quiet(self) -> None:
        assert (self.dialogs, self.elsewhere, self.console) == ([], [], [])


def watched(context: BrowserContext, home: str) -> tuple[Page, Seen]:
    """A page of which all is seen; what it asks elsewhere gets no answer."""
    page, seen = context.new_page(), Seen(home)
    page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.console.append(str(error)))

    def dismiss(dialog: Any) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    def asked(request: Any) -> None:
        if not request.url.startswith((f"{home}/", "data:", "blob:")):
            seen.elsewhere.append(request.url)

    page.on("dialog", dismiss)
    page.on("request", asked)
    page.on("requestfailed", lambda request: seen.refused.append(request.url) if request.failure == "csp" else None)
    return page, seen


@contextmanager
def visiting(
    browser: Browser, site: Site, *, width: int = 1280, scheme: Any = "light", **context: Any
) -> Iterator[tuple[Page, Seen]]:
    """A browser at the site."""
    opened = browser.new_context(
        base_url=site.url, viewport={"width": width, "height": 900}, color_scheme=scheme, **context
    )
    yield watched(opened, site.url)
    opened.close()
