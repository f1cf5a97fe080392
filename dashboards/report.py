"""One run and its plan as one HTML file that reads anywhere, offline, for years.

The file holds plotly.js and every figure. Its content security policy allows the two scripts by their hashes and
nothing else: no address is ever asked for anything, whatever a server put into a name or an error.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dashboards import figures, text
from loadgen.durable import publish_bytes
from loadgen.samples import Manifest, Run
from planner import metrics
from planner.plan import Plan

BIN_S = ((20, 1), (100, 5), (300, 10), (1_200, 15), (3_600, 30), (6 * 3_600, 120))  # runs up to so long: bins so wide
WIDEST_BIN_S = 600
OVER_TIME = ("ttft", "itl", "service_time", "response_time")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, and the title above it, which states what it shows and in which unit."""

    name: str
    title: str
    figure: go.Figure

    @property
    def json(self) -> Markup:
        """For a script element: plotly's writer escapes <, > and / in every text."""
        return Markup(self.figure.to_json(engine="json"))  # noqa: S704


def write_report(run: Run, plan: Plan, path: Path) -> None:
    """Write the report of `run` to `path`, at once or not at all. Raises OSError where it cannot be written."""
    publish_bytes(path, render(plan, run.manifest, draw(run, plan), run.notes).encode("utf-8"))


def draw(run: Run, plan: Plan) -> dict[str, list[Drawing]]:
    """The figures of each section of the page, in their order."""
    every_s = bin_width_s(plan.traffic.steady_s)
    over_time = figures.latency_over_time(metrics.latency_over_time(run, every_s))
    distribution = figures.latency_distribution(metrics.latency_distribution(run))
    load = figures.load_over_time(metrics.load_over_time(run), plan.quota)
    outcomes = figures.outcomes_over_time(metrics.outcomes_over_time(run, every_s), every_s)
    against = "" if plan.quota is None else ", and limit"
    load_titles = {
        "tokens_per_minute": f"Tokens per minute{against}",
        "requests_per_minute": f"Requests per minute{against}",
        "in_flight": "Requests in flight",
    }
    drawings = {
        "over_time": [
            Drawing(f"over-time-{metric}", f"{text.metric_name(metric)} over time, ms", over_time[metric])
            for metric in OVER_TIME
            if metric in over_time
        ],
        "distribution": [
            Drawing(f"distribution-{metric}", f"{text.metric_name(metric)}: share answered within, ms", figure)
            for metric, figure in distribution.items()
        ],
        "load": [Drawing(f"load-{name}", load_titles[name], figure) for name, figure in load.items()],
        "targets": _by_target(run, plan),
        "outcomes": [Drawing("outcomes", f"Attempts by outcome, per {every_s:g} s", outcomes)],
        "cost": [],
    }
    if plan.serverless is not None or plan.managed:
        bars = figures.cost_per_month(plan.serverless, plan.managed)
        drawings["cost"] = [Drawing("cost", "Cost per month of 730 h, US dollars", bars)]
    return drawings


def _by_target(run: Run, plan: Plan) -> list[Drawing]:
    """Where there are several: how fast each answered, and what each was sent."""
    if not plan.targets:
        return []
    distribution = figures.latency_distribution(metrics.latency_by_target(run))
    load = figures.load_by_target(metrics.load_by_target(run))
    return [
        *(
            Drawing(f"targets-{metric}", f"{text.metric_name(metric)} by target: share answered within, ms", figure)
            for metric, figure in distribution.items()
            if metric in ("ttft", "response_time")
        ),
        Drawing("targets-load", "Tokens per minute by target", load),
    ]


def render(
    plan: Plan, manifest: Manifest, drawings: Mapping[str, Sequence[Drawing]], notes: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The whole page. Every text in it is escaped and free of control characters."""
    return page(
        "report.html.jinja",
        plan=plan,
        manifest=manifest,
        drawings=drawings,
        notes=[dict(flatten(note)) for note in notes],
        latency=_latency_tables(plan),
        config=list(flatten(manifest.config)),
        deployment=list(flatten(manifest.deployment)),
        versions=[*flatten(manifest.versions), *flatten(manifest.host)],
    )


def page(template: str, **values: Any) -> str:
    """A template with its values, the scripts, and the policy that allows those and nothing else."""
    plotly_js, page_js = get_plotlyjs(), _source("report.js")
    return _pages.get_template(template).render(
        **values,
        policy=_policy(plotly_js, page_js),
        plotly_js=Markup(plotly_js),  # noqa: S704 - hashed as it stands
        page_js=Markup(page_js),  # noqa: S704
        css=Markup(_source("report.css")),  # noqa: S704
    )


def bin_width_s(steady_s: float) -> float:
    """How wide the bins of the figures over time are, so that there are a hundred or so."""
    return next((width_s for longest_s, width_s in BIN_S if steady_s <= longest_s), WIDEST_BIN_S)


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as text, without those that are not set."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flatten(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        if value:
            yield key, ", ".join(str(item) for item in value)
    elif value is not None:
        yield key, str(value).lower() if isinstance(value, bool) else str(value)


def mark(key: str, value: float | None) -> Markup:
    """Attributes by which a program finds a figure of the plan and its unrounded value in the page."""
    return Markup('data-figure="{}" data-value="{}"').format(text.readable(key), text.exact(value))


def _latency_tables(plan: Plan) -> dict[str, list[Any]]:
    """The rows that lead, the same by scenario, and the delays that are the client's own."""
    main = {metric: place for place, metric in enumerate(text.MAIN_METRICS)}
    rows = [row for row in plan.latency if row.metric in main]
    rows.sort(key=lambda row: main[row.metric])
    return {
        "all": [row for row in rows if row.scenario == figures.ALL],
        "by_scenario": [row for row in rows if row.scenario != figures.ALL],
        "others": [row for row in plan.latency if row.metric not in main and row.scenario == figures.ALL],
    }


def _policy(*scripts: str) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    # img-src: plotly's "download as PNG" paints through an image of its own making.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text("utf-8")


def _finalize(value: Any) -> Any:
    return text.readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    pages = Environment(
        loader=PackageLoader("dashboards"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {
        "mark": mark,
        "interval": text.interval,
        "generator_rows": text.GENERATOR_ROWS,
        "target_rows": text.TARGET_ROWS,
        "main_metrics": text.MAIN_METRICS,
        "within": text.within,
    }
    writers = (
        text.digits, text.count, text.whole, text.usd, text.percent,
        text.quantiles, text.metric_name, text.metric_meaning,
    )  # fmt: skip
    pages.filters |= {writer.__name__: writer for writer in writers}
    return pages


_pages = _environment()
