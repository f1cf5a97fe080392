"""Who looks on while a load lasts: a person at a terminal, a program that reads lines of JSON, a page, or nobody."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dashboards.live_panel import About, LiveView, Progress
from headroom.progress_feed import Feed
from headroom.telemetry import RunMetrics, Telemetry, telemetry_of
from loadgen.config import Kind, RunConfig
from loadgen.errors import ConfigError
from loadgen.samples import Manifest
from planner import client_metrics, current
from planner.current import Current
from planner.growing import GrowingRecord

AS_JSON = "json"
WAITED_S = 1.0  # for a reader of lines
Show = Callable[[Progress], None]
COLUMNS = tuple(dict.fromkeys((*current.COLUMNS, *client_metrics.COLUMNS)))
Tell = Callable[[str, Mapping[str, Any]], None]


class Watched:
    """One run in front of its audience."""

    def __init__(self, record: GrowingRecord) -> None:
        self.reason: str | None = None  # why its load ended early, once it has
        self.shows: list[Show] = []
        self.metrics: RunMetrics | None = None
        self._record, self._current = record, Current()

    def show(self, progress: Progress) -> None:
        """How far it has come, and what it is like now: called each second."""
        if not self.shows and self.metrics is None:
            return
        rows = self._record.read()
        if self.metrics is not None:
            self.metrics.take(rows)
        figures = self._current.look(rows, t_s=progress["t_s"], sent=progress["sent"])
        shown: Any = {**progress, **asdict(figures)}
        for each in self.shows:
            each(shown)

    def close(self) -> None:
        """Its load has ended, and its record is not yet closed: what nobody has read so far is read."""
        while self.metrics is not None and not (rows := self._record.read()).samples.is_empty():
            self.metrics.take(rows)
        if self.metrics is not None:
            self.metrics.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """One for a command, whatever it plays."""

    panel: bool = False  # on standard error: a panel on a terminal, else lines
    lines: bool = True  # such lines, too, where it is no terminal
    as_json: bool = False  # instead of both
    feed: Feed | None = None  # of the live page
    telemetry: Telemetry | None = None

    def of_series(self) -> Audience:
        """For one of several runs: of these a log has a line each, when it has ended."""
        return replace(self, lines=False)

    @contextmanager
    def watching(self, folder: Path, manifest: Manifest) -> Iterator[Watched]:
        """Around one run, from when its folder is there until its load has ended."""
        config = RunConfig.model_validate(manifest.config)
        about = about_run(folder, config, manifest)
        console = Console(stderr=True)
        watched = Watched(GrowingRecord(folder, config, COLUMNS))
        with ExitStack() as stack:
            for tell in self._tellers():
                tell("started", asdict(about))
                watched.shows.append(partial(tell, "progress"))
                stack.callback(_tell_end, tell, about, watched)
            if self.panel and not self.as_json and (self.lines or console.is_terminal):
                watched.shows.append(stack.enter_context(LiveView(console, about)).show)
            if self.telemetry is not None:
                watched.metrics = self.telemetry.of_run(manifest, config)
                stack.callback(watched.close)
            yield watched

    def _tellers(self) -> list[Tell]:
        return ([tell_json] if self.as_json else []) + ([] if self.feed is None else [self.feed.publish])


@contextmanager
def audience_of(given: Mapping[str, Any], config: RunConfig) -> Iterator[Audience]:
    """From a command's flags: the live page is open, and the telemetry ready, where they are asked for.

    Raises ConfigError where that cannot be: nothing has been sent by then.
    """
    how = given.get("progress")
    if how not in (None, AS_JSON):
        raise ConfigError(f"--progress {how}: there is {AS_JSON}, and without it a panel or lines for people")
    audience = Audience(panel=not given["quiet"], as_json=how == AS_JSON)
    with telemetry_of(config) as telemetry, _page_of(given, audience) as feed:
        yield replace(audience, feed=feed, telemetry=telemetry)


@contextmanager
def _page_of(given: Mapping[str, Any], audience: Audience) -> Iterator[Feed | None]:
    """The feed of the live page; None where none is asked for. Its address is said once it is open."""
    port = given.get("live_port")
    if not given.get("live") and port is None:
        yield None
        return
    from headroom.live_server import live_page  # noqa: PLC0415 - a server, which few ask for

    with live_page(port or 0) as (feed, url):
        if audience.as_json:
            tell_json("live", {"url": url})
        else:
            sys.stderr.write(f"live at {url}\n")
        yield feed


NOBODY = Audience()


def about_run(folder: Path, config: RunConfig, manifest: Manifest) -> About:
    limited = all(target.kind is Kind.SERVERLESS for target in config.targets)
    quotas = [config.quota_of(target) for target in config.targets]
    where = f"{len(quotas)} targets" if len(quotas) > 1 else config.target.url
    deployments = [manifest.deployment_of(target.name) for target in config.targets]
    models = ", ".join(dict.fromkeys(str(each.get("model_name") or "model") for each in deployments))
    return About(
        folder=str(folder),
        title=f"{models} at {where}" + ("" if config.load.open_loop else ", closed loop"),
        tokens_per_minute=sum(quota.tokens_per_minute for quota in quotas) if limited else None,
        requests_per_minute=sum(quota.requests_per_minute for quota in quotas) if limited else None,
    )


def _tell_end(tell: Tell, about: About, watched: Watched) -> None:
    tell("ended", {"folder": about.folder, "reason": watched.reason})


def tell_json(event: str, values: Mapping[str, Any]) -> None:
    """One line of JSON on standard error, whole. A reader that is gone, or does not read, holds up no run.

    Of one that does not read, progress is dropped at once, and anything else after a second.
    """
    unsent = (json.dumps({"event": event, **values}) + "\n").encode()
    sys.stderr.flush()
    fd = sys.stderr.fileno()
    with suppress(BrokenPipeError):
        while unsent and select.select([], [fd], [], 0 if event == "progress" else WAITED_S)[1]:
            unsent = unsent[os.write(fd, unsent[: select.PIPE_BUF]) :]  # so much fits where anything does
