"""What a run looks like while it lasts: a panel on a terminal, a line each five seconds elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NotRequired, Self, TypedDict

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dashboards.text import UNKNOWN, count, digits, percent, readable, spent, whole

LINE_EVERY_S: Final = 5.0
NARROWEST_GAUGE: Final = 6
WIDEST_GAUGE: Final = 40
BESIDE_TITLE: Final = 6  # columns of the border
BESIDE_GAUGE: Final = 58  # columns of borders, names and words


class Spent(TypedDict):
    """Of one resource of the budget."""

    used: float
    limit: float


class Progress(TypedDict):
    """How far a run has come; one is shown each second. Latencies are of the last seconds; None: nothing says."""

    t_s: float
    duration_s: float
    sent: int
    in_flight: int
    waiting: int  # due, and held back by the throttle
    ok: int
    failed: int
    throttled: int
    dropped: int
    tokens: int
    tokens_per_minute: float
    requests_per_minute: float
    requests_per_s: NotRequired[float | None]  # since the last
    ttft_p50_ms: float | None
    ttft_p95_ms: NotRequired[float | None]
    itl_p50_ms: NotRequired[float | None]
    errors: NotRequired[dict[str, int]]  # by code, the most common, since the start
    budget: NotRequired[dict[str, Spent]]  # by resource, those that are limited


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The run that is watched. The limits are those of the quota; None for deployments that have none."""

    folder: str
    title: str
    tokens_per_minute: int | None
    requests_per_minute: int | None


class LiveView:
    """Use as a context manager; `show` takes the newest progress. On a terminal nothing of it stays behind."""

    def __init__(self, console: Console, about: About) -> None:
        self._console, self._about = console, about
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._next_line_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(panel(progress, self._about, self._console.width), refresh=True)
        elif progress["t_s"] >= self._next_line_s:
            self._next_line_s = progress["t_s"] + LINE_EVERY_S
            self._console.print(Text(line(progress)), soft_wrap=True)


def line(progress: Progress) -> str:
    """One line for a log: every count, no colour, no cursor."""
    counts = ", ".join(
        f"{count(progress[name])} {name.replace('_', ' ')}"
        for name in ("sent", "ok", "throttled", "failed", "dropped", "in_flight", "waiting")
    )
    requests, tokens = (whole(progress[name]) for name in ("requests_per_minute", "tokens_per_minute"))
    rates = f"{requests} requests/min, {tokens} reserved tokens/min"
    uses = [spent(name, each["used"], each["limit"]) for name, each in progress.get("budget", {}).items()]
    budget = f"; budget: {', '.join(uses)} used" if uses else ""
    errors = f"; errors: {_errors(progress)}" if progress.get("errors") else ""
    t_s = min(progress["t_s"], progress["duration_s"])
    return (
        f"{whole(t_s):>4} of {whole(progress['duration_s'])} s: {counts}; {rates}; {_latencies(progress)}"
        f"{budget}{errors}"
    )


def panel(progress: Progress, about: About, width: int) -> Panel:
    """The progress bar, a gauge for each limit, and what there is now and so far. `width`: columns of the terminal."""
    gauge = min(WIDEST_GAUGE, max(NARROWEST_GAUGE, width - BESIDE_GAUGE))
    limits = Table.grid(padding=(0, 2, 0, 0))
    limits.add_column(no_wrap=True)
    limits.add_column(width=gauge)
    limits.add_column(overflow="fold")
    for name, value, limit, words in _gauges(progress, about):
        bar = "" if limit is None else ProgressBar(total=limit, completed=value, width=gauge)
        limits.add_row(name, bar, Text(words))
    counts = Table.grid(padding=(0, 2, 0, 0))
    counts.add_column(no_wrap=True, min_width=len("requests"))
    counts.add_column(overflow="fold")
    for name, text in _counts(progress):
        counts.add_row(name, text)
    title = Text(readable(about.title), "bold")
    if title.cell_len > width - BESIDE_TITLE:  # the border would cut it short
        return Panel(Group(title, "", limits, "", counts))
    return Panel(Group(limits, "", counts), title=title, title_align="left")


def _gauges(progress: Progress, about: About) -> Iterator[tuple[str, float, float | None, str]]:
    """Name, value, limit, and both in words."""
    t_s, duration_s = progress["t_s"], progress["duration_s"]
    left = f", {whole(duration_s - t_s)} s left" if t_s < duration_s else ", waiting for the last answers"
    yield "time", t_s, duration_s, f"{whole(min(max(0.0, t_s), duration_s))} of {whole(duration_s)} s{left}"
    for name, rate, limit in (
        ("tokens", progress["tokens_per_minute"], about.tokens_per_minute),
        ("requests", progress["requests_per_minute"], about.requests_per_minute),
    ):
        of = "" if limit is None else f" of {count(limit)}"
        share = "" if limit is None else f", {percent(rate / limit)}"
        held = ", reserved" if name == "tokens" else ""
        yield name, rate, limit, f"{whole(rate)}{of} per minute{share}{held}"
    for place, (name, each) in enumerate(progress.get("budget", {}).items()):
        used, limit_ = each["used"], each["limit"]
        yield (
            "" if place else "budget",
            used,
            limit_,
            f"{spent(name, used, limit_)}, {percent(max(0.0, 1 - used / limit_))} left",
        )


def _counts(progress: Progress) -> Iterator[tuple[str, Text]]:
    now = f"{count(progress['in_flight'])} in flight, {count(progress['waiting'])} waiting for the quota"
    if (rate := progress.get("requests_per_s")) is not None:
        now = f"{digits(rate)} requests/s; {now}"
    yield "now", Text(f"{now}\n{_latencies(progress)}")
    text = Text.assemble(f"{count(progress['sent'])} sent: ", (f"{count(progress['ok'])} ok", "green"))
    for name, style in (("throttled", "yellow"), ("failed", "red"), ("dropped", "red")):
        n = progress[name]  # type: ignore[literal-required]
        text.append(", ").append(f"{count(n)} {name}", style if n else "dim")
    yield "so far", text.append(f"; {count(progress['tokens'])} tokens billed")
    if progress.get("errors"):
        yield "errors", Text(_errors(progress), "red")


def _errors(progress: Progress) -> str:
    return ", ".join(f"{readable(code)} ({count(n)})" for code, n in progress.get("errors", {}).items())


def _latencies(progress: Progress) -> str:
    p95_ms, itl_ms = progress.get("ttft_p95_ms"), progress.get("itl_p50_ms")
    return (
        f"first token p50 {_ms(progress['ttft_p50_ms'])}"
        + ("" if p95_ms is None else f", p95 {_ms(p95_ms)}")
        + ("" if itl_ms is None else f"; between tokens p50 {_ms(itl_ms)}")
    )


def _ms(value_ms: float | None) -> str:
    return UNKNOWN if value_ms is None else f"{digits(value_ms)} ms"
