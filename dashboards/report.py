"""One run and its plan as one HTML file that reads anywhere, offline, for years.

The file holds plotly.js and every figure, and what the levers need.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.text import Text

from dashboards import ahead as in_words
from dashboards import figures, text
from dashboards.all_figures import all_figures
from dashboards.drawings import Drawing, draw
from dashboards.page import flatten, page
from loadgen.durable import publish_bytes
from loadgen.samples import Manifest, Run
from planner.ahead import Ahead
from planner.levers import FORMULAS, Levers, Position, moved
from planner.limits_ahead import limits_ahead
from planner.plan import ManagedCost, Plan, ServerlessCost

MOST_WAYS = 5  # on the first screen


def write_report(run: Run, plan: Plan, path: Path, *, levers: Levers | None = None) -> None:
    """Write the report of `run` to `path`, at once or not at all. Raises OSError where it cannot be written."""
    publish_bytes(path, render(plan, run.manifest, draw(run, plan), run.notes, levers=levers).encode("utf-8"))


def render(
    plan: Plan,
    manifest: Manifest,
    drawings: Mapping[str, Sequence[Drawing]],
    notes: Sequence[Mapping[str, Any]] = (),
    *,
    levers: Levers | None = None,
) -> str:
    """The whole page. Every text in it is escaped and free of control characters."""
    first = [*drawings.get("headroom", ()), *drawings.get("quota", ()), *drawings.get("load", ())][:1]
    names = {drawing.name for drawing in first}
    later = {section: [each for each in found if each.name not in names] for section, found in drawings.items()}
    ahead, advised = plan.ahead, "" if plan.ahead is None else plan.ahead.recommendation
    verdict = plan.headline.removesuffix(advised).rstrip()
    return page(
        "report.html.jinja",
        scripts=("what_if.js",) if levers is not None else (),
        plan=plan,
        verdict=verdict or plan.headline,
        advised=advised if verdict and plan.headline.endswith(advised) else "",
        manifest=manifest,
        drawings={**later, "first": first},
        notes=[dict(flatten(note)) for note in notes],
        latency=_latency_tables(plan),
        config=list(flatten(manifest.config)),
        deployment=list(flatten(manifest.deployment)),
        versions=[*flatten(manifest.versions), *flatten(manifest.host)],
        sections=_sections(plan, levers),
        doubts=(*plan.validity.doubts, *(() if ahead is None else ahead.doubts)),
        limits=limits_ahead(plan),
        dated=bool(ahead is not None and ahead.costs is not None and ahead.costs.growth),
        ways=_ways(plan),
        said=_said(ahead),
        ahead_figures=list(all_figures(ahead, "ahead")),
        levers=levers,
        levers_json=None if levers is None else _embedded(levers),
        lever_formulas=FORMULAS,
        rest=None if levers is None else moved(levers, Position(growth=levers.own_growth, limit=levers.own_limit)),
    )


def _sections(plan: Plan, levers: Levers | None) -> list[tuple[str, str]]:
    """Of the page, in their order: id and title."""
    return [
        ("objectives", "Objectives"),
        *([("targets", "Targets")] if plan.targets else []),
        ("latency", "Latency"),
        ("quota", "Quota"),
        *([("what-if", "What if")] if levers is not None else []),
        ("cost", "Cost and instances"),
        ("throughput", "Demand"),
        ("outcomes", "Outcomes"),
        ("assumptions", "Assumptions"),
        ("run", "The run"),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One way to serve the demand, as the first screen has it."""

    key: str  # where it stands in the plan
    name: str
    per_month_usd: float
    low_usd: float | None
    high_usd: float | None


def _ways(plan: Plan) -> list[_Way]:
    """What is ahead, else serverless and the cheapest instances."""
    costs = None if plan.ahead is None else plan.ahead.costs
    if costs is not None:
        return [
            _Way(
                key=f"ahead.costs.options.{place}",
                name=each.name,
                per_month_usd=each.per_month_usd,
                low_usd=each.low_usd,
                high_usd=each.high_usd,
            )
            for place, each in enumerate(costs.options[:MOST_WAYS])
        ]
    found = [("serverless", "serverless", plan.serverless)] if plan.serverless is not None else []
    rows: list[tuple[str, str, ServerlessCost | ManagedCost]] = [*found]
    rows += [(f"managed.{i}", f"{m.instances} × {m.sku}", m) for i, m in enumerate(plan.managed[:1])]  # noqa: RUF001
    return [
        _Way(key=key, name=name, per_month_usd=cost.per_month_usd, low_usd=None, high_usd=None)
        for key, name, cost in rows
    ]


def _said(ahead: Ahead | None) -> dict[str, list[str]]:
    """What the terminal says of it, word for word."""
    said: dict[str, Iterable[Any]] = {"deployments": (), "instances": (), "costs": (), "spent": ()}
    if ahead is not None:
        said |= {"deployments": in_words.deployments(ahead), "instances": in_words.instances(ahead)}
        said["costs"] = () if ahead.costs is None else in_words.costs(ahead.costs)
        said["spent"] = () if ahead.spending is None else in_words.spent(ahead.spending)
    return {name: [line.plain for line in lines if isinstance(line, Text)] for name, lines in said.items()}


def _embedded(levers: Levers) -> Markup:
    """For a script element, which nothing in it can end."""
    return Markup(json.dumps(asdict(levers)).replace("<", "\\u003c"))  # noqa: S704


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
