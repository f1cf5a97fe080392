"""Figures as PNG: the page that a browser paints them in, and what it has painted."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboards.drawings import Drawing
from dashboards.text import plotly_label

WIDTH_PX, SCALE = 900, 2  # twice as many pixels, so that it is sharp in print
TITLE_PX = 44
INK, GRID = "#1d232b", "#d9dde2"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; img-src data: blob:"  # it asks no address for anything
PAINT = """
const paint = async () => {
  for (const source of document.querySelectorAll("[data-picture]")) {
    const { data, layout } = JSON.parse(source.textContent);
    const { width, height } = layout;
    const url = await Plotly.toImage({ data, layout }, { format: "png", width, height, scale: %d });
    const painted = document.createElement("img");
    painted.alt = source.dataset.picture;
    painted.src = url;
    document.body.append(painted);
  }
};
paint();
"""
_PAINTED = re.compile(r'<img alt="([\w-]+)" src="data:image/png;base64,([A-Za-z0-9+/=]+)">')


def standing_alone(drawing: Drawing) -> go.Figure:
    """The figure with its title in it, on white paper."""
    figure = go.Figure(drawing.figure)
    height_px, top_px = int(figure.layout.height), int(figure.layout.margin.t)
    title = {"text": plotly_label(drawing.title, 200), "x": 0, "xref": "paper", "y": 1, "yref": "container",
             "yanchor": "top", "pad": {"t": 14}, "font": {"size": 15, "color": INK}}  # fmt: skip
    figure.update_layout(
        title=title,
        width=WIDTH_PX,
        height=height_px + TITLE_PX,
        margin={"l": 24, "r": 24, "b": 16, "t": top_px + TITLE_PX},
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        font={"family": "Helvetica, Arial, sans-serif", "color": INK},
    )
    figure.update_xaxes(gridcolor=GRID, linecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, linecolor=GRID)
    return figure


def painting_page(drawings: Iterable[Drawing]) -> str:
    """A page that paints each figure into an image of its own, named by `alt`, when it is opened."""
    sources = "".join(
        f'<script type="application/json" data-picture="{each.name}">'
        f"{Drawing(each.name, each.title, standing_alone(each)).json}</script>"
        for each in drawings
    )
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{POLICY}"></head><body>{sources}<script>{get_plotlyjs()}</script><script>{PAINT % SCALE}</script>'
        "</body></html>"
    )


def painted(page: str) -> dict[str, bytes]:
    """The PNG of each figure by its name, from the page as it stands once all are painted."""
    return {name: base64.b64decode(data) for name, data in _PAINTED.findall(page)}
