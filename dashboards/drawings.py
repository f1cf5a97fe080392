"""What is drawn of a run and its plan: each figure with its title, in the sections of the page."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go
from markupsafe import Markup

from dashboards import figures, text
from loadgen.samples import Run
from planner import metrics
from planner.plan import Plan

BIN_S = ((20, 1), (100, 5), (300, 10), (1_200, 15), (3_600, 30), (6 * 3_600, 120))  # runs up to so long: bins so wide
WIDEST_BIN_S = 600
OVER_TIME = ("ttft", "itl", "service_time", "response_time")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, the title above it, which states what it shows and in which unit, and what is to be seen in it."""

    name: str
    title: str
    figure: go.Figure
    summary: str = ""  # one sentence with its numbers, for who cannot see the figure

    @property
    def json(self) -> Markup:
        """For a script element: plotly's writer escapes <, > and / in every text."""
        return Markup(self.figure.to_json(engine="json"))  # noqa: S704


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


def bin_width_s(steady_s: float) -> float:
    """How wide the bins of the figures over time are, so that there are a hundred or so."""
    return next((width_s for longest_s, width_s in BIN_S if steady_s <= longest_s), WIDEST_BIN_S)
