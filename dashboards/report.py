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
from planner.cost import S_PER_HOUR
from planner.costs.cost_results import Option
from planner.costs.options import SERVERLESS
from planner.levers import FORMULAS, Levers, Position, moved
from planner.limits_ahead import limits_ahead
from planner.plan import ManagedCost, Plan, ServerlessCost

MOST_WAYS = 5  # on the first screen
SAME_RATE = 0.01  # apart


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
        doubts=_doubts(plan),
        planned_per_s=_planned_per_s(plan),
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
    recommended: bool


def _ways(plan: Plan) -> list[_Way]:
    """What is ahead, else serverless and the cheapest instances."""
    costs = None if plan.ahead is None else plan.ahead.costs
    if costs is not None:
        advised = _recommended(plan)
        return [
            _Way(
                key=f"ahead.costs.options.{place}",
                name=each.name,
                per_month_usd=each.per_month_usd,
                low_usd=each.low_usd,
                high_usd=each.high_usd,
                recommended=each is advised,
            )
            for place, each in enumerate(costs.options[:MOST_WAYS])
        ]
    found = [("serverless", "serverless", plan.serverless)] if plan.serverless is not None else []
    rows: list[tuple[str, str, ServerlessCost | ManagedCost]] = [*found]
    rows += [(f"managed.{i}", f"{m.instances} × {m.sku}", m) for i, m in enumerate(plan.managed[:1])]  # noqa: RUF001
    return [
        _Way(key=key, name=name, per_month_usd=cost.per_month_usd, low_usd=None, high_usd=None, recommended=False)
        for key, name, cost in rows
    ]


def _recommended(plan: Plan) -> Option | None:
    """The cheapest whose cost is no guess; None of a run that is invalid, and where nothing is recommended."""
    ahead = plan.ahead
    if ahead is None or ahead.costs is None or not plan.validity.valid or ahead.recommendation.startswith("None: "):
        return None
    known = (each for each in ahead.costs.options if ahead.instances_guessed is None or each.name == SERVERLESS)
    return next(known, None)


def _doubts(plan: Plan) -> tuple[str, ...]:
    """Those of the costs first, which are what is acted on."""
    if plan.ahead is None:
        return plan.validity.doubts
    costs = () if plan.ahead.costs is None else plan.ahead.costs.doubts
    others = (each for each in plan.ahead.doubts if each not in costs)
    return (*costs, *plan.validity.doubts, *others)


def _planned_per_s(plan: Plan) -> float | None:
    """The rate that the costs are of; None where it is the one that was measured."""
    costs = None if plan.ahead is None else plan.ahead.costs
    rates = [
        each.per_hour_usd / each.per_request_usd / S_PER_HOUR
        for each in (() if costs is None else costs.options)
        if each.per_request_usd
    ]
    measured = plan.traffic.requests_per_s
    return rates[0] if rates and abs(rates[0] - measured) > SAME_RATE * measured else None


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
