"""The figure of a comparison: how much each latency changed, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboards.figure_parts import BLUE, GREY, VERMILION, blank
from dashboards.text import plotly_label
from planner.comparing.comparison import MetricComparison

SYMBOLS = {"regressed": "x", "inconclusive": "diamond-open", "equivalent": "circle", "improved": "triangle-left"}
MARGIN = 0.08  # of the axis, beyond all that is known


def changes(rows: Sequence[MetricComparison]) -> go.Figure:
    """A line from the low to the high end of each ratio, a mark at the ratio by its verdict, and what is tolerated.

    An end that is not bounded runs to the edge of the figure, with an arrow.
    """
    figure = blank("new over base", "", height=38 * len(rows) + 90)
    low, high = _ends(rows)
    names = [plotly_label(row.name, longest=28) for row in rows]
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        verdict = row.verdict.value
        arrows = ["arrow-left" if row.low is None else "circle", "arrow-right" if row.high is None else "circle"]
        sizes = [0.1 if each == "circle" else 12 for each in arrows]
        figure.add_scatter(
            x=[low if row.low is None else row.low, row.ratio, high if row.high is None else row.high],
            y=[name] * 3,
            name="95 % interval",
            showlegend=place == 0,
            legendgroup="interval",
            mode="lines+markers",
            line={"color": BLUE, "width": 3},
            marker={
                "size": [sizes[0], 11, sizes[1]],
                "symbol": [arrows[0], SYMBOLS.get(verdict, "circle"), arrows[1]],
                "color": BLUE,
            },
            text=[_bound(row.low), f"{row.ratio:.3f}", _bound(row.high)],
            hovertemplate=f"{name}: %{{text}}, {verdict}<extra></extra>",
        )
    figure.add_scatter(
        x=[1 + row.tolerance_share for row in rows],
        y=names,
        name="tolerated",
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 20, "color": VERMILION, "line": {"width": 2}},
        hovertemplate="tolerated: %{x:.2f}<extra></extra>",
    )
    figure.add_vline(x=1, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_layout(showlegend=True, hovermode="closest")
    figure.update_xaxes(showgrid=True, tickformat=".2f", range=[low, high])
    figure.update_yaxes(showgrid=False, autorange="reversed", type="category", tickformat=None)
    return figure


def _bound(value: float | None) -> str:
    return "no bound" if value is None else f"{value:.3f}"


def _ends(rows: Sequence[MetricComparison]) -> tuple[float, float]:
    """Of the axis: all that is known, and a margin."""
    known = [1.0, *(1 + row.tolerance_share for row in rows)]
    known += [value for row in rows for value in (row.low, row.ratio, row.high) if value is not None]
    margin = MARGIN * (max(known) - min(known))
    return min(known) - margin, max(known) + margin
