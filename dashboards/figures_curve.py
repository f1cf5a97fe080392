"""The figure of latency versus load: measured points, the serving model's line with its interval, the objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import plotly.graph_objects as go
import polars as pl

from dashboards.figure_parts import AMBER, BLUE, GREEN, PLUM, VERDICT_MARKS, VERMILION, blank, line
from dashboards.text import METRICS, plotly_label

LOOKS: Final = {  # of a statistic: its colour, its dash, its mark, and the wash of its interval
    "p50": (BLUE, "solid", "circle", "rgba(47, 126, 188, 0.16)"),
    "mean": (BLUE, "solid", "circle", "rgba(47, 126, 188, 0.16)"),
    "p95": (AMBER, "dot", "diamond", "rgba(176, 125, 0, 0.16)"),
    "p99": (GREEN, "dash", "square", "rgba(14, 154, 114, 0.16)"),
    "max": (PLUM, "dashdot", "triangle-up", "rgba(168, 97, 154, 0.16)"),
}
NEAR: Final = {  # where the limit of a metric is drawn that was not measured itself
    "ttft_from_due": "ttft",
    "tpot": "itl",
    "response_time": "service_time",
}


def latency_versus_load(
    measured: pl.DataFrame, modelled: pl.DataFrame, limits_ms: tuple[tuple[str, str, float], ...]
) -> dict[str, go.Figure]:
    """One figure for each metric that was measured.

    From rate_per_s, metric, statistic, value_ms, verdict (its mark), limited (an open one), and from the same with
    low_ms and high_ms of the 90 % interval; a line for each objective on the metric.
    """
    found = set(measured["metric"])
    return {
        metric: versus_load(
            measured.filter(pl.col("metric") == metric),
            modelled.filter(pl.col("metric") == metric),
            [
                (text, limit_ms)
                for name, text, limit_ms in limits_ms
                if (name if name in found else NEAR.get(name)) == metric
            ],
        )
        for metric in METRICS
        if metric in found
    }


def versus_load(
    measured: pl.DataFrame,
    modelled: pl.DataFrame | None = None,
    limits: Sequence[tuple[str, float]] = (),
    *,
    column: str = "value_ms",
    y_title: str = "ms",
) -> go.Figure:
    """A mark a rate from rate_per_s, statistic, `column`, verdict, limited: one shape a verdict, open where limited.

    They are joined by the model's line with its interval, as `latency_versus_load` has it, else by their own; a line
    for each limit, by its name.
    """
    figure = blank("offered, requests/s", y_title, height=320)
    modelled = measured.clear() if modelled is None else modelled
    for statistic in measured["statistic"].unique(maintain_order=True).to_list():
        colour, dash, symbol, wash = LOOKS.get(statistic, LOOKS["mean"])
        rows = modelled.filter(pl.col("statistic") == statistic)
        if not rows.is_empty():
            _band(figure, rows, wash)
            name = f"{statistic}, model with 90 % interval"
            look = line(rows["rate_per_s"].to_list(), rows["value_ms"].to_list(), name, colour, dash)
            hover = "%{y:,.1f} ms at %{x:.3~r}/s, %{customdata}"
            figure.add_scatter(**look, customdata=rows["grade"].to_list(), hovertemplate=hover)
        points = measured.filter(pl.col("statistic") == statistic)
        marks = [
            f"{VERDICT_MARKS.get(verdict, symbol)}{'-open' if limited else ''}"
            for verdict, limited in points.select("verdict", "limited").rows()
        ]
        figure.add_scatter(
            x=points["rate_per_s"].to_list(),
            y=points[column].to_list(),
            name=statistic if rows.is_empty() else f"{statistic}, measured",
            mode="lines+markers" if rows.is_empty() else "markers",
            line={"color": colour, "dash": dash},
            marker={"color": colour, "size": 9, "symbol": marks, "line": {"width": 1.5, "color": colour}},
            customdata=[verdict or "" for verdict in points["verdict"].to_list()],
            hovertemplate=f"%{{y:,.4~r}} {y_title} at %{{x:.3~r}}/s %{{customdata}}",
        )
    rates = [*measured["rate_per_s"].to_list(), *modelled["rate_per_s"].to_list()]
    for text, limit in limits:
        look = line([min(rates), max(rates)], [limit] * 2, plotly_label(text), VERMILION, "dash")
        figure.add_scatter(**look, hoverinfo="skip")
    figure.update_layout(showlegend=True, hovermode="closest")
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return figure


def _band(figure: go.Figure, rows: pl.DataFrame, wash: str) -> None:
    rates = rows["rate_per_s"].to_list()
    figure.add_scatter(
        x=[*rates, *reversed(rates)],
        y=[*rows["high_ms"].to_list(), *reversed(rows["low_ms"].to_list())],
        showlegend=False,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=wash,
        hoverinfo="skip",
    )
