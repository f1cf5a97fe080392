"""The figure of a comparison: how much each latency changed, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboards.text import plotly_label
from planner.comparing.comparison import MetricComparison

BLUE, VERMILION = "#2f7ebc", "#d55e00"
SYMBOLS = {"regressed": "x", "inconclusive": "diamond-open", "equivalent": "circle", "improved": "triangle-left"}


def changes(rows: Sequence[MetricComparison]) -> go.Figure:
    """A line from the low to the high end of each ratio, a mark at the ratio by its verdict, and what is tolerated."""
    axis = {"zeroline": False, "automargin": True}
    figure = go.Figure(
        layout={
            "template": "none",
            "height": 38 * len(rows) + 90,
            "margin": {"l": 8, "r": 12, "t": 34, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "inherit", "size": 12, "color": "#7c838c"},
            "hovermode": "closest",
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "xaxis": {
                **axis,
                "title": {"text": "new over base", "standoff": 10},
                "showgrid": True,
                "tickformat": ".2f",
            },
            "yaxis": {**axis, "showgrid": False, "autorange": "reversed", "type": "category"},
        }
    )
    names = [plotly_label(row.name, longest=28) for row in rows]
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        verdict = row.verdict.value
        figure.add_scatter(
            x=[
                row.low if row.low is not None else row.ratio,
                row.ratio,
                row.high if row.high is not None else row.ratio,
            ],
            y=[name] * 3,
            name="95 % interval",
            showlegend=place == 0,
            legendgroup="interval",
            mode="lines+markers",
            line={"color": BLUE, "width": 3},
            marker={"size": [0.1, 11, 0.1], "symbol": SYMBOLS.get(verdict, "circle"), "color": BLUE},
            hovertemplate=f"{name}: %{{x:.3f}}, {verdict}<extra></extra>",
        )
    limits = [1 + row.tolerance_share for row in rows]
    figure.add_scatter(
        x=limits,
        y=names,
        name="tolerated",
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 20, "color": VERMILION, "line": {"width": 2}},
        hovertemplate="tolerated: %{x:.2f}<extra></extra>",
    )
    figure.add_vline(x=1, line={"color": "#7c838c", "width": 1, "dash": "dot"})
    figure.update_layout(showlegend=True)
    return figure
