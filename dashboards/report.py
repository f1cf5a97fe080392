"""One run and its plan as one HTML file that reads anywhere, offline, for years.

The file holds plotly.js and every figure. Its content security policy allows the two scripts by their hashes and
nothing else: no address is ever asked for anything, whatever a server put into a name or an error.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dashboards import figures, text
from dashboards.drawings import Drawing, draw
from loadgen.durable import publish_bytes
from loadgen.samples import Manifest, Run
from planner.plan import Plan


def write_report(run: Run, plan: Plan, path: Path) -> None:
    """Write the report of `run` to `path`, at once or not at all. Raises OSError where it cannot be written."""
    publish_bytes(path, render(plan, run.manifest, draw(run, plan), run.notes).encode("utf-8"))


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
