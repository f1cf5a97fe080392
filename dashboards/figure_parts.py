"""What figures are made of: colours, dashes, hatches, and an empty figure with its axes.

Colours hold three to one against white paper and against a dark page, are told apart by the colour-blind, and never
carry a meaning alone: lines differ in dashes, bars in hatching, marks in shape.
"""

from __future__ import annotations

from typing import Any, Final

import plotly.graph_objects as go

BLUE: Final = "#2f7ebc"
VERMILION: Final = "#d55e00"
GREEN: Final = "#0e9a72"
PLUM: Final = "#a8619a"
AMBER: Final = "#b07d00"
GREY: Final = "#7c838c"
BLUE_WASH: Final = "rgba(47, 126, 188, 0.16)"
GREY_WASH: Final = "rgba(124, 131, 140, 0.16)"

ALL: Final = "all"
SCENARIO_LINES: Final = [
    (colour, dash) for dash in ("solid", "dash", "dot") for colour in (BLUE, VERMILION, GREEN, PLUM, AMBER)
]
OUTCOME_BARS: Final = {
    "ok": (BLUE, ""),
    "throttled": (AMBER, "/"),
    "filtered": (PLUM, "."),
    "rejected": (PLUM, "\\"),
    "server_error": (VERMILION, "x"),
    "timeout": (VERMILION, "-"),
    "network": (VERMILION, "|"),
    "broken_stream": (VERMILION, "+"),
    "dropped": (GREY, "\\"),
    "cancelled": (GREY, "."),
}
TROUBLE_MARKS: Final = {
    "refused": (AMBER, "triangle-down"),
    "failed": (VERMILION, "x-thin"),
    "dropped": (GREY, "line-ns"),
}
VERDICT_MARKS: Final = {"met": "circle", "unclear": "diamond", "missed": "x", "saturated": "square"}
HATCH: Final = {"fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.35, "size": 7}


def line(x: list[Any], y: list[Any], name: str, colour: str, dash: str) -> dict[str, Any]:
    """The arguments of a scatter trace that is a line."""
    return {"x": x, "y": y, "name": name, "mode": "lines", "line": {"color": colour, "dash": dash, "width": 2}}


def blank(x_title: str, y_title: str, height: int = 260) -> go.Figure:
    """A figure without a trace, on no paper of its own, so that it stands on a light and on a dark page."""
    axis = {"zeroline": False, "automargin": True}
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 34, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "inherit", "size": 12, "color": GREY},
            "hovermode": "x unified",
            "hoverlabel": {"namelength": -1},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "traceorder": "normal",
            },
            "bargap": 0,
            "xaxis": {**axis, "title": {"text": x_title, "standoff": 10}, "showgrid": False},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 10}, "showgrid": True, "tickformat": ",~r"},
        }
    )
