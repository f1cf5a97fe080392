"""The figures of a demand and its limits: frames and plain values in, plotly figures out, no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from dashboards.figure_parts import AMBER, BLUE, BLUE_WASH, SCENARIO_LINES, VERMILION, blank, line
from dashboards.text import digits, plotly_label
from planner.pictured import EDGES
from planner.plan import QuotaUse

SINCE: Final = "time since the start, s"
SHARE_LINES: Final = {
    "tokens": ("tokens_share", BLUE, "solid"),
    "requests": ("requests_share", AMBER, "dot"),
}
TOP: Final = 1.18  # of an axis in shares of a limit: room for words above it
WIDE_SHARE: Final = 0.2  # of the axis
HEAT: Final = [[0, "#dbe8f4"], [0.35, "#8fb8dc"], [0.7, "#2f7ebc"], [1, "#0b3d68"]]  # one hue: darker is more


def demand_against_limits(frame: pl.DataFrame, quota: QuotaUse, *, sound: bool = True) -> go.Figure:
    """Both in shares of their limits, from at_s, tokens_share, requests_share, whole; the free part is washed.

    The first minute, which fills, is drawn pale: `whole` is false there. Of several targets the limits are those of all
    together, of which no part is free: the fullest binds. Nor is any shown to be by a run that is not `sound`.
    """
    figure = blank(SINCE, "minute before, of the limit", height=270)
    for name, (column, colour, dash) in SHARE_LINES.items():
        for whole, opacity in ((False, 0.45), (True, 1.0)):
            rows = frame.filter(pl.col("whole") == whole)
            look = line(rows["at_s"].to_list(), rows[column].to_list(), name, colour, dash)
            shown = not rows.is_empty() and (whole or not frame["whole"].any())
            figure.add_scatter(**look, opacity=opacity, showlegend=shown, hovertemplate="%{y:.1%}", legendgroup=name)
    ends = [0, frame["at_s"].max()]
    figure.add_scatter(**line(ends, [1, 1], "limit", VERMILION, "dash"), hoverinfo="skip")
    most = max(quota.tokens_share, quota.requests_share)
    if most < 1 and sound and quota.target is None:
        figure.add_hrect(y0=most, y1=1, fillcolor=BLUE_WASH, line={"width": 0}, layer="below")
        words = f"{digits(quota.headroom)} × this load fits"  # noqa: RUF001
        place = {"xref": "paper", "x": 0.5, "y": 1, "yanchor": "bottom", "yshift": 3}
        figure.add_annotation(**place, text=words, showarrow=False, font={"size": 14})
        figure.update_yaxes(range=[0, TOP])
    _name_first_minute(figure, frame)
    figure.update_layout(showlegend=True)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def _name_first_minute(figure: go.Figure, frame: pl.DataFrame) -> None:
    """Where it takes enough of the axis that its climb might be taken for that of the load."""
    filling_s, last_s = frame.filter(~pl.col("whole"))["at_s"], frame["at_s"].max()
    if isinstance(last_s, float) and not filling_s.is_empty() and filling_s[-1] > WIDE_SHARE * last_s:
        place = {"x": filling_s[-1], "xanchor": "right", "y": 0, "yanchor": "bottom"}
        figure.add_annotation(**place, text="the first minute fills", showarrow=False, font={"size": 12})


def growth_against_limits(frame: pl.DataFrame) -> go.Figure:
    """How full each limit is month by month, from limit, month, share, months, with a mark where it is reached."""
    limits = frame["limit"].unique(maintain_order=True).to_list()
    figure = blank("months from now", "share of the limit", height=260 + 22 * len(limits))
    for limit, (colour, dash) in zip(limits, cycle(SCENARIO_LINES), strict=False):
        rows = frame.filter(pl.col("limit") == limit)
        name = f"month {rows['months'][0]}: {plotly_label(limit, 40)}"
        look = line(rows["month"].to_list(), rows["share"].to_list(), name, colour, dash)
        figure.add_scatter(**look, hovertemplate="%{y:.1%}", legendgroup=name)
        reached = rows.filter(pl.col("month") == pl.col("months"))
        figure.add_scatter(
            x=reached["month"].to_list(),
            y=reached["share"].to_list(),
            mode="markers",
            marker={"color": colour, "size": 9},
            showlegend=False,
            hoverinfo="skip",
            legendgroup=name,
        )
    ends = [frame["month"].min(), frame["month"].max()]
    figure.add_scatter(**line(ends, [1, 1], "limit", VERMILION, "dash"), hoverinfo="skip")
    legend_px = 22 * (len(limits) + 1)
    figure.update_layout(showlegend=True, legend={"orientation": "v"}, margin={"t": 12 + legend_px})
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def level(frame: pl.DataFrame, column: str, title: str, limit: int | None = None, shape: str = "linear") -> go.Figure:
    """One column over at_s, with the limit it is held against."""
    figure = blank(SINCE, title)
    at_s = frame["at_s"].to_list()
    look = line(at_s, frame[column].to_list(), "sent" if limit is not None else title, BLUE, "solid")
    look["line"] |= {"shape": shape, "width": 1.6 if shape == "hv" else 2}
    figure.add_scatter(**look, fill="tozeroy", fillcolor=BLUE_WASH, hovertemplate="%{y:,.0f}")
    if limit is not None and at_s:
        look = line([at_s[0], at_s[-1]], [limit, limit], f"limit {limit:,}", VERMILION, "dash")
        figure.add_scatter(**look, hoverinfo="skip")
    figure.update_layout(showlegend=limit is not None)
    figure.update_yaxes(rangemode="tozero")
    return figure


def refusals(frame: pl.DataFrame, every_s: float) -> go.Figure:
    """Attempts answered 429 per `every_s`, from at_s, n, attempts."""
    figure = blank(SINCE, f"refused per {every_s:g} s")
    figure.add_bar(
        x=frame["at_s"].to_list(),
        y=frame["n"].to_list(),
        width=every_s,
        offset=0,
        name="refused",
        marker={"color": AMBER, "line": {"width": 0}},
        customdata=frame["attempts"].to_list(),
        hovertemplate="%{y:,} of %{customdata:,} from %{x} s",
    )
    figure.update_layout(showlegend=False)
    figure.update_yaxes(rangemode="tozero")
    return figure


def waits(frame: pl.DataFrame) -> go.Figure:
    """How long the client's own throttle held requests, from at_s, p50_ms, max_ms, n."""
    figure = blank(SINCE, "ms")
    for name, column, colour, dash in (("p50", "p50_ms", BLUE, "solid"), ("longest", "max_ms", AMBER, "dot")):
        look = line(frame["at_s"].to_list(), frame[column].to_list(), name, colour, dash)
        figure.add_scatter(**look, customdata=frame["n"].to_list(), hovertemplate="%{y:,.1f} ms, n = %{customdata:,}")
    figure.update_layout(showlegend=True)
    figure.update_yaxes(rangemode="tozero")
    return figure


def lengths(frame: pl.DataFrame) -> go.Figure:
    """A cell for each bin of prompt and completion lengths, darker for more answers.

    From prompt_low, prompt_high, completion_low, completion_high, n, service_p50_ms.
    """
    figure = blank("prompt tokens, from", "completion tokens, from", height=340)
    across, up = _bins(frame, "prompt"), _bins(frame, "completion")
    cells = {(row["prompt_low"], row["completion_low"]): row for row in frame.iter_rows(named=True)}
    rows = [[cells.get((low, high)) for low in across] for high in up]
    figure.add_heatmap(
        x=[f"{low:,}" for low in across],
        y=[f"{low:,}" for low in up],
        z=[[None if cell is None else cell["n"] for cell in row] for row in rows],
        text=[["" if cell is None else f"{cell['n']:,}" for cell in row] for row in rows],
        customdata=[["" if cell is None else _in_words(cell) for cell in row] for row in rows],
        texttemplate="%{text}",
        textfont={"size": 10},
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=HEAT,
        showscale=False,
        xgap=2,
        ygap=2,
        hoverongaps=False,
    )
    figure.update_layout(hovermode="closest", margin={"t": 8})
    figure.update_xaxes(type="category", tickangle=0, nticks=10)
    figure.update_yaxes(type="category", showgrid=False)
    return figure


def _bins(frame: pl.DataFrame, length: str) -> list[int]:
    """The lower ends of all bins from the lowest to the highest that holds any."""
    lows = frame[f"{length}_low"].to_list()
    return [edge for edge in EDGES if min(lows) <= edge <= max(lows)]


def _in_words(cell: Mapping[str, Any]) -> str:
    prompt, completion = (
        f"{cell[f'{each}_low']:,} to below {cell[f'{each}_high']:,}" for each in ("prompt", "completion")
    )
    said = f"prompt {prompt}, completion {completion}:<br>{cell['n']:,} answers"
    median_ms = cell["service_p50_ms"]
    return said if median_ms is None else f"{said}, service time p50 {digits(median_ms)} ms"
