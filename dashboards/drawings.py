"""What is drawn of a run and its plan: each figure with its title and its summary, in the sections of the page."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup

from dashboards import figures, figures_cost, figures_curve, figures_load, summaries, text
from loadgen.samples import Run
from planner import metrics, pictured
from planner.cost_curve import cost_by_rate, cost_curve
from planner.demand import demand_of_run
from planner.limits_ahead import reached_by_growth
from planner.load_curve import LoadCurve, curve_of_step
from planner.plan import Plan
from planner.rows import steady_stretch

BIN_S = ((20, 1), (100, 5), (300, 10), (1_200, 15), (3_600, 30), (6 * 3_600, 120))  # runs up to so long: bins so wide
WIDEST_BIN_S = 600
OVER_TIME = ("ttft", "itl", "service_time", "response_time")
NOTICED_WAIT_MS = 1.0  # of the client's throttle; shorter ones are no wait


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
    """The figures of each section of the page, in their order, each in one; a section without any is empty.

    "curve" is of the sweep that the run is a step of. Tokens and requests a minute are in "quota" where there is one,
    else in "load".
    """
    every_s = bin_width_s(plan.traffic.steady_s)
    levels, held_back = _levels(run, plan), _held_back(run, plan, every_s)
    return {
        "headroom": _headroom(run, plan),
        "over_time": _over_time(run, plan, every_s),
        "distribution": _distribution(run, plan),
        "curve": [] if (curve := curve_of_step(run)) is None else draw_curve(curve),
        "load": levels if plan.quota is None else [],
        "quota": held_back if plan.quota is None else [*levels, *held_back],
        "in_flight": _in_flight(run, plan),
        "heat": _heat(run),
        "targets": _by_target(run, plan),
        "outcomes": [_outcomes(run, plan, every_s)],
        "cost": _cost(plan),
        "break_even": _break_even(plan),
    }


def _headroom(run: Run, plan: Plan) -> list[Drawing]:
    """Both limits over time, and month by month where growth was asked for."""
    drawings = []
    stretch = steady_stretch(run)
    frame = pictured.demand_over_time(demand_of_run(run, stretch), stretch, plan, run)
    if plan.quota is not None and not frame.is_empty():
        title = summaries.share_of_limits(plan)
        figure = figures_load.demand_against_limits(frame, plan.quota, sound=plan.validity.valid)
        drawings.append(Drawing("headroom", title, figure, summaries.busiest(plan.quota)))
    growth = pictured.growth_by_month(plan)
    if not growth.is_empty():
        rows = reached_by_growth(plan)
        title = f"Growth of {rows[0].growth_per_month * 100:.3g} % a month, share of each limit"
        figure = figures_load.growth_against_limits(growth)
        drawings.append(Drawing("headroom-growth", title, figure, summaries.growth(rows)))
    return drawings


def _over_time(run: Run, plan: Plan, every_s: float) -> list[Drawing]:
    troubles = pictured.troubles_over_time(run, every_s)
    warm_up_s = steady_stretch(run).start_s
    drawn = figures.latency_over_time(metrics.latency_over_time(run, every_s), troubles, warm_up_s)
    return [
        Drawing(
            f"over-time-{metric}",
            f"{text.metric_name(metric)} over time, ms",
            drawn[metric],
            f"{summaries.latency(plan, metric)} {summaries.troubles(plan)}",
        )
        for metric in OVER_TIME
        if metric in drawn
    ]


def _distribution(run: Run, plan: Plan) -> list[Drawing]:
    return [
        Drawing(
            f"distribution-{metric}",
            f"{text.metric_name(metric)}: share answered within, ms",
            figure,
            summaries.latency(plan, metric),
        )
        for metric, figure in figures.latency_distribution(metrics.latency_distribution(run)).items()
    ]


def draw_curve(curve: LoadCurve) -> list[Drawing]:
    """Latency versus load, a figure a metric."""
    drawn = figures_curve.latency_versus_load(curve.measured, curve.modelled, curve.limits_ms)
    with_model = dict.fromkeys(curve.modelled["metric"], ", measured and by the serving model")
    return [
        Drawing(
            f"versus-load-{metric}",
            f"{text.metric_name(metric)} versus load{with_model.get(metric, '')}, ms",
            figure,
            summaries.curve(curve, metric),
        )
        for metric, figure in drawn.items()
    ]


def _levels(run: Run, plan: Plan) -> list[Drawing]:
    """Tokens and requests of the minute before, each against its limit."""
    frame, quota = metrics.load_over_time(run), plan.quota
    against = "" if quota is None else ", and limit"
    tokens_limit = None if quota is None else quota.tokens_per_minute
    requests_limit = None if quota is None else quota.requests_per_minute
    tokens = figures_load.level(frame, "tokens_per_minute", "tokens per minute", tokens_limit)
    requests = figures_load.level(frame, "requests_per_minute", "requests per minute", requests_limit)
    most = plan.traffic.peak_tokens_per_minute, plan.traffic.peak_requests_per_minute
    return [
        Drawing(
            "load-tokens_per_minute",
            f"Tokens per minute{against}",
            tokens,
            summaries.level("tokens", most[0], tokens_limit),
        ),
        Drawing(
            "load-requests_per_minute",
            f"Requests per minute{against}",
            requests,
            summaries.level("requests", most[1], requests_limit),
        ),
    ]


def _in_flight(run: Run, plan: Plan) -> list[Drawing]:
    figure = figures_load.level(pictured.in_flight_over_time(run), "in_flight", "requests in flight", shape="hv")
    return [Drawing("load-in_flight", "Requests in flight", figure, summaries.in_flight(plan.traffic))]


def _held_back(run: Run, plan: Plan, every_s: float) -> list[Drawing]:
    """What the endpoint refused, and what the client's own throttle held; each only where there was any."""
    drawings = []
    refused = pictured.refusals_over_time(run, every_s)
    if not refused.filter(pl.col("n") > 0).is_empty():
        title = f"Refused with 429, attempts per {every_s:g} s"
        figure = figures_load.refusals(refused, every_s)
        drawings.append(Drawing("quota-refused", title, figure, summaries.troubles(plan)))
    waits = pictured.waits_over_time(run, every_s)
    if not waits.filter(pl.col("max_ms") >= NOTICED_WAIT_MS).is_empty():
        figure = figures_load.waits(waits)
        title = "Wait for the client's own throttle, ms"
        drawings.append(Drawing("quota-wait", title, figure, summaries.latency(plan, "throttle_wait")))
    return drawings


def _heat(run: Run) -> list[Drawing]:
    frame = pictured.lengths(run)
    if frame.is_empty():
        return []
    title = "Answers by length of prompt and completion, tokens"
    return [Drawing("heat", title, figures_load.lengths(frame), summaries.lengths(frame))]


def _by_target(run: Run, plan: Plan) -> list[Drawing]:
    """Where there are several: how fast each answered, and what each was sent."""
    if not plan.targets:
        return []
    distribution = figures.latency_distribution(metrics.latency_by_target(run))
    load = figures.load_by_target(metrics.load_by_target(run))
    return [
        *(
            Drawing(
                f"targets-{metric}",
                f"{text.metric_name(metric)} by target: share answered within, ms",
                figure,
                summaries.latency_by_target(plan, metric),
            )
            for metric, figure in distribution.items()
            if metric in ("ttft", "response_time")
        ),
        Drawing("targets-load", "Tokens per minute by target", load, summaries.load_by_target(plan)),
    ]


def _outcomes(run: Run, plan: Plan, every_s: float) -> Drawing:
    figure = figures.outcomes_over_time(metrics.outcomes_over_time(run, every_s), every_s)
    return Drawing("outcomes", f"Attempts by outcome, per {every_s:g} s", figure, summaries.troubles(plan))


def _cost(plan: Plan) -> list[Drawing]:
    """Each way with its range where the plan looked ahead, else what was measured came to."""
    title = "Cost per month of 730 h, US dollars"
    options = () if plan.ahead is None or plan.ahead.costs is None else plan.ahead.costs.options
    if options:
        figure = figures_cost.cost_of_options(options)
        return [Drawing("cost", f"{title}, with the range of 90 in 100 cases", figure, summaries.options(options))]
    if plan.serverless is None and not plan.managed:
        return []
    figure = figures_cost.cost_per_month(plan.serverless, plan.managed)
    return [Drawing("cost", title, figure, summaries.costs(plan.serverless, plan.managed))]


def _break_even(plan: Plan) -> list[Drawing]:
    curve = cost_curve(plan)
    if curve is None:
        return []
    guess = ", what an instance serves being a guess" if curve.assumed else ""
    never = "" if curve.break_even_per_s is not None else ": never the same, within what an instance serves"
    title = f"Serverless and managed cost per month by steady load, US dollars{guess}{never}"
    figure = figures_cost.break_even(cost_by_rate(curve), curve)
    return [Drawing("break-even", title, figure, summaries.break_even(curve))]


def bin_width_s(steady_s: float) -> float:
    """How wide the bins of the figures over time are, so that there are a hundred or so."""
    return next((width_s for longest_s, width_s in BIN_S if steady_s <= longest_s), WIDEST_BIN_S)
