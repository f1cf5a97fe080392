"""The figures of costs: a plan's values in, plotly figures out, no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import polars as pl

from dashboards.figure_parts import BLUE, GREEN, GREY, HATCH, PLUM, VERMILION, blank, line
from dashboards.text import digits, plotly_label, usd
from planner.cost_curve import CostCurve
from planner.costs.cost_results import Option
from planner.plan import ManagedCost, ServerlessCost

LOOKS = {"serverless": (BLUE, ""), "managed": (GREY, "/"), "hybrid": (GREEN, ".")}  # by how an option's name begins


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    label: str
    per_month_usd: float
    low_usd: float
    high_usd: float
    look: tuple[str, str]

    @property
    def has_range(self) -> bool:
        return self.low_usd < self.high_usd

    @property
    def shown(self) -> str:
        """In two lines with a range, so that it fits a phone."""
        usd_of = f"<b>{plotly_label(usd(self.per_month_usd))}</b>"
        if not self.has_range:
            return f"{self.label}: {usd_of}"
        return f"{self.label}<br>{usd_of}, {plotly_label(usd(self.low_usd))} to {plotly_label(usd(self.high_usd))}"


def cost_per_month(serverless: ServerlessCost | None, managed: tuple[ManagedCost, ...]) -> go.Figure:
    """What each way of serving the demand costs a month; how many of what stands above its bar, so it fits a phone."""
    bars = []
    if serverless is not None:
        label = f"{serverless.deployments} × serverless {plotly_label(serverless.model)}"  # noqa: RUF001
        bars.append(_bar(label, serverless.per_month_usd, LOOKS["serverless"]))
    for each in managed:
        label = f"{each.instances} × {plotly_label(each.sku)}"  # noqa: RUF001
        bars.append(_bar(label, each.per_month_usd, LOOKS["managed"]))
    return _bars(bars)


def cost_of_options(options: Sequence[Option]) -> go.Figure:
    """What each way to serve the demand costs a month, with the range that holds it in 90 of 100 cases."""
    return _bars(
        [
            _Bar(
                label=plotly_label(each.name, 60),
                per_month_usd=each.per_month_usd,
                low_usd=each.per_month_usd if each.low_usd is None else each.low_usd,
                high_usd=each.per_month_usd if each.high_usd is None else each.high_usd,
                look=next((look for word, look in LOOKS.items() if each.name.startswith(word)), (PLUM, "x")),
            )
            for each in options
        ]
    )


def break_even(frame: pl.DataFrame, curve: CostCurve) -> go.Figure:
    """Serverless as a line and managed as stairs over the rate, from way, rate_per_s, instances, usd_per_month.

    The demand is an upright line; a mark stands where both cost the same first.
    """
    figure = blank("requests/s, steady", "US dollars per month", height=320)
    for way, colour, dash, shape in (("serverless", BLUE, "solid", "linear"), ("managed", GREY, "dash", "hv")):
        rows = frame.filter(pl.col("way") == way)
        look = line(rows["rate_per_s"].to_list(), rows["usd_per_month"].to_list(), way, colour, dash)
        look["line"] |= {"shape": shape}
        each = "" if way == "serverless" else ", %{customdata} instances"
        figure.add_scatter(**look, customdata=rows["instances"].to_list(), hovertemplate=f"%{{y:$,.0f}}{each}")
    ends = [0, frame["usd_per_month"].max()]
    demand = f"this demand, {digits(curve.demand_per_s)}/s"
    figure.add_scatter(**line([curve.demand_per_s] * 2, ends, demand, GREEN, "dot"), hoverinfo="skip")
    if curve.break_even_per_s is not None:
        figure.add_scatter(
            x=[curve.break_even_per_s],
            y=[curve.instance_usd],
            name=f"break-even, {digits(curve.break_even_per_s)}/s",
            mode="markers",
            marker={"color": VERMILION, "symbol": "diamond", "size": 11},
            hovertemplate="%{y:$,.0f} at %{x:.3~r}/s<extra></extra>",
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(tickformat="$,~s", rangemode="tozero")
    return figure


def _bar(label: str, per_month_usd: float, look: tuple[str, str]) -> _Bar:
    return _Bar(label=label, per_month_usd=per_month_usd, low_usd=per_month_usd, high_usd=per_month_usd, look=look)


def _bars(bars: Sequence[_Bar]) -> go.Figure:
    row_px = 64 if any(bar.has_range for bar in bars) else 46
    figure = blank("US dollars per month", "", height=len(bars) * row_px + 66)
    for place, bar in enumerate(bars):
        colour, hatch = bar.look
        figure.add_bar(
            y=[place],
            x=[bar.per_month_usd],
            orientation="h",
            width=0.36,
            marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": hatch, **HATCH}},
            hovertemplate=f"{bar.shown}<extra></extra>",
        )
        if bar.has_range:
            figure.add_scatter(
                x=[bar.low_usd, bar.high_usd],
                y=[place, place],
                mode="lines+markers",
                line={"color": VERMILION, "width": 2},
                marker={"symbol": "line-ns", "size": 10, "line": {"width": 2, "color": VERMILION}},
                hoverinfo="skip",
            )
        figure.add_annotation(
            xref="paper", x=0, xanchor="left", y=place, yanchor="bottom", yshift=row_px // 5, text=bar.shown,
            align="left", showarrow=False,
        )  # fmt: skip
    figure.update_layout(showlegend=False, hovermode="closest", margin={"t": 4})
    figure.update_xaxes(showgrid=True, tickformat="$,~f", tickangle=0, nticks=4, rangemode="tozero")
    figure.update_yaxes(range=[len(bars) - 0.6, -0.9], showgrid=False, showticklabels=False)
    return figure
