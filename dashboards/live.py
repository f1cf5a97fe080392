"""What a run looks like while it lasts: a panel on a terminal, a line each five seconds elsewhere, or nothing."""

from __future__ import annotations

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
GAUGE_COLUMNS: Final = 24


class Spent(TypedDict):
    """Of one resource of the budget."""

    used: float
    limit: float


class Progress(TypedDict):
    """How far a run has come; one is shown each second."""

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
    ttft_p50_ms: float | None
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

    def __init__(self, console: Console, about: About, *, quiet: bool = False) -> None:
        self._console, self._about, self._quiet = console, about, quiet
        on_terminal = console.is_terminal and not quiet
        self._live = Live(console=console, auto_refresh=False, transient=True) if on_terminal else None
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
            self._live.update(panel(progress, self._about), refresh=True)
        elif not self._quiet and progress["t_s"] >= self._next_line_s:
            self._next_line_s = progress["t_s"] + LINE_EVERY_S
            self._console.print(Text(line(progress)), soft_wrap=True)


def line(progress: Progress) -> str:
    """One line for a log: every count, no colour, no cursor."""
    counts = ", ".join(
        f"{count(progress[name])} {name.replace('_', ' ')}"
        for name in ("sent", "ok", "throttled", "failed", "dropped", "in_flight", "waiting")
    )
    rates = f"{whole(progress['requests_per_minute'])} requests/min, {whole(progress['tokens_per_minute'])} tokens/min"
    return (
        f"{whole(progress['t_s']):>4} of {whole(progress['duration_s'])} s: {counts}; {rates}; {_first_token(progress)}"
        f"{_budget(progress)}"
    )


def panel(progress: Progress, about: About) -> Panel:
    """The progress bar, a gauge for each limit, and the counts."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True)
    rows.add_column(width=GAUGE_COLUMNS)
    rows.add_column(overflow="fold")
    time = f"{whole(progress['t_s'])} of {whole(progress['duration_s'])} s"
    rows.add_row("time", _gauge(progress["t_s"], progress["duration_s"]), time)
    for name, rate, limit in (
        ("tokens", progress["tokens_per_minute"], about.tokens_per_minute),
        ("requests", progress["requests_per_minute"], about.requests_per_minute),
    ):
        if limit is None:
            rows.add_row(name, "", f"{whole(rate)} per minute")
        else:
            rows.add_row(
                name, _gauge(rate, limit), f"{whole(rate)} of {count(limit)} per minute, {percent(rate / limit)}"
            )
    for name, each in progress.get("budget", {}).items():
        rows.add_row("budget", _gauge(each["used"], each["limit"]), spent(name, each["used"], each["limit"]))
    return Panel(
        Group(rows, "", _counts(progress)),
        title=Text(readable(about.title), "bold"),
        title_align="left",
        padding=(0, 1),
    )


def _gauge(value: float, limit: float) -> ProgressBar:
    return ProgressBar(total=limit, completed=value, width=GAUGE_COLUMNS)


def _counts(progress: Progress) -> Text:
    text = Text.assemble(f"{count(progress['sent'])} sent: ", (f"{count(progress['ok'])} ok", "green"))
    for name, style in (("throttled", "yellow"), ("failed", "red"), ("dropped", "red")):
        n = progress[name]  # type: ignore[literal-required]
        text.append(", ").append(f"{count(n)} {name}", style if n else "dim")
    text.append(f"\n{count(progress['in_flight'])} in flight, {count(progress['waiting'])} waiting for the quota; ")
    return text.append(f"{count(progress['tokens'])} tokens; {_first_token(progress)}")


def _budget(progress: Progress) -> str:
    """What is left of it, where there is one."""
    uses = progress.get("budget", {})
    words = ", ".join(spent(name, each["used"], each["limit"]) for name, each in uses.items())
    return f"; budget: {words} used" if words else ""


def _first_token(progress: Progress) -> str:
    median_ms = progress["ttft_p50_ms"]
    return f"first token p50 {UNKNOWN if median_ms is None else f'{digits(median_ms)} ms'}"
