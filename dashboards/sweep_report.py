"""One sweep as one HTML file: the result, latency versus load, and the table of steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from dashboards.drawings import Drawing, draw_curve
from dashboards.figures_curve import versus_load
from dashboards.page import flatten, page
from dashboards.sweep import further, remarks
from loadgen.durable import publish_bytes
from planner import swept
from planner.load_curve import curve_of_sweep
from planner.swept import Sweep

SHOWN = (("ttft", "p50"), ("ttft", "p95"), ("itl", "p95"), ("response_time", "p95"))  # columns of the table
LINES = {  # name: its title, its unit, its column and what that is
    "response_time": ("Response time versus load, ms", "ms", "response_p95_ms", "p95"),
    "completed": ("Completed versus offered, requests/s", "requests/s", "completed_per_s", "completed"),
    "in_flight": ("Requests in flight versus load", "in flight", "concurrency", "mean in flight"),
}


def write_sweep_report(sweep: Sweep, path: Path) -> None:
    """Write the page to `path`, at once or not at all. Raises OSError where it cannot be written."""
    publish_bytes(path, render(sweep).encode("utf-8"))


def render(sweep: Sweep) -> str:
    """The whole page. Every text in it is escaped and free of control characters."""
    return page(
        "sweep.html.jinja",
        sweep=sweep,
        badge=_badge(sweep),
        further=further(sweep, SHOWN),
        doubts=_doubts(sweep),
        drawings={"load": draw(sweep)},
        remarks={step.number: "; ".join(remarks(step, sweep.steps)) for step in sweep.steps},
        config=list(flatten(sweep.config)),
    )


def _badge(sweep: Sweep) -> tuple[str, str]:
    """Its look and its words."""
    if sweep.result is None:
        return "care", sweep.state.upper()
    return ("bad", "✕ NO RATE MET") if sweep.result.met_at_per_s is None else ("good", "✓ RATE FOUND")


def _doubts(sweep: Sweep) -> list[str]:
    """Steps that say less of the deployment than they seem to."""
    counted = {
        "the load generator was the limit": sum(step.client_limited for step in sweep.steps),
        "the quota was the limit": sum(step.quota_limited for step in sweep.steps),
        "it is unclear whether the objectives were met": sum(step.verdict == "unclear" for step in sweep.steps),
    }
    return [f"at {n} of {len(sweep.steps)} steps {why}" for why, n in counted.items() if n]


def draw(sweep: Sweep) -> list[Drawing]:
    """Latency by the serving model too, where there is one; then a figure for each of LINES that is not among them."""
    curve = curve_of_sweep(sweep)
    drawn = [] if curve is None else draw_curve(curve)
    names = {each.name for each in drawn}
    return [*drawn, *(each for each in _lines(sweep) if each.name not in names)]


def _lines(sweep: Sweep) -> Iterator[Drawing]:
    frame = swept.curve(sweep)
    for name, (title, unit, column, statistic) in LINES.items():
        if frame[column].count():
            points = frame.select(
                "rate_per_s", "verdict", column, statistic=pl.lit(statistic), limited=pl.col("quota_limited")
            )
            limits = [(text, limit_ms) for metric, text, limit_ms in swept.limits_ms(sweep) if metric == name]
            yield Drawing(f"versus-load-{name}", title, versus_load(points, limits=limits, column=column, y_title=unit))
