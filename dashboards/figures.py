"""The figures of the report: frames in, plotly figures out, no arithmetic.

One figure shows one metric, so that a grid of them falls into one column on a phone. Titles stand in the page, not in
the figure. Colours hold three to one against white paper and against a dark page, are told apart by the colour-blind,
and never carry a meaning alone: lines differ in dashes, bars in hatching. The page's script inks the text and the grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from dashboards.text import METRICS, plotly_label, usd
from planner.plan import ManagedCost, QuotaUse, ServerlessCost

BLUE: Final = "#2f7ebc"
VERMILION: Final = "#d55e00"
GREEN: Final = "#0e9a72"
PLUM: Final = "#a8619a"
AMBER: Final = "#b07d00"
GREY: Final = "#7c838c"
BLUE_WASH: Final = "rgba(47, 126, 188, 0.16)"

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
VERDICT_MARKS: Final = {"met": "circle", "unclear": "diamond", "missed": "x", "saturated": "square"}
LOG_TICKS_MS: Final = [digit * 10**power / 1_000 for power in range(9) for digit in (1, 2, 5)]  # 1 us to 500 s
SHARE_TICKS: Final = [0, 0.25, 0.5, 0.75, 0.9, 0.99]
SHARE_LABELS: Final = ["0 %", "25 %", "50 %", "75 %", "90 %", "99 %"]


def latency_over_time(frame: pl.DataFrame) -> dict[str, go.Figure]:
    """One figure a metric from at_s, metric, p50_ms, p95_ms, n: the median and the 95th percentile."""
    return {metric: _percentiles_over_time(rows) for metric, rows in _by(frame, "metric")}


def latency_distribution(frame: pl.DataFrame) -> dict[str, go.Figure]:
    """One figure a metric from metric, scenario, value_ms, share: the share of requests that took at most so long."""
    scenarios = sorted(set(frame["scenario"].to_list()) - {ALL})
    looks = dict(zip(scenarios, cycle(SCENARIO_LINES), strict=False))
    return {metric: _cumulative(rows, looks) for metric, rows in _by(frame, "metric")}


def load_over_time(frame: pl.DataFrame, quota: QuotaUse | None) -> dict[str, go.Figure]:
    """Tokens a minute and requests a minute, each with its limit, and requests in flight.

    From at_s, requests_per_minute, tokens_per_minute, in_flight.
    """
    tokens = quota.tokens_per_minute if quota is not None else None
    requests = quota.requests_per_minute if quota is not None else None
    return {
        "tokens_per_minute": _level(frame, "tokens_per_minute", "tokens per minute", tokens),
        "requests_per_minute": _level(frame, "requests_per_minute", "requests per minute", requests),
        "in_flight": _level(frame, "in_flight", "requests in flight", None),
    }


def load_by_target(frame: pl.DataFrame) -> go.Figure:
    """Tokens a minute that were sent to each, from target, at_s, tokens_per_minute."""
    targets = frame["target"].unique(maintain_order=True).to_list()
    figure = _figure("time since the start, s", "tokens per minute", height=250 + 11 * len(targets))
    for target, (colour, dash) in zip(targets, cycle(SCENARIO_LINES), strict=False):
        rows = frame.filter(pl.col("target") == target)
        at_s, tokens = rows["at_s"].to_list(), rows["tokens_per_minute"].to_list()
        figure.add_scatter(**_line(at_s, tokens, plotly_label(target), colour, dash), hovertemplate="%{y:,.0f}")
    figure.update_layout(showlegend=True)
    figure.update_yaxes(rangemode="tozero")
    return figure


def outcomes_over_time(frame: pl.DataFrame, every_s: float) -> go.Figure:
    """Attempts per `every_s` by outcome, stacked, from at_s, outcome, n."""
    figure = _figure("time since the start, s", f"attempts per {every_s:g} s", height=300)
    present = set(frame["outcome"].cast(pl.String).to_list())
    for outcome in [name for name in OUTCOME_BARS if name in present] + sorted(present - set(OUTCOME_BARS)):
        colour, hatch = OUTCOME_BARS.get(outcome, (GREY, "x"))
        rows = frame.filter(pl.col("outcome").cast(pl.String) == outcome)
        figure.add_bar(
            x=rows["at_s"].to_list(),
            y=rows["n"].to_list(),
            width=every_s,
            offset=0,
            name=plotly_label(outcome.replace("_", " ")),
            marker={
                "color": colour,
                "line": {"width": 0},
                "pattern": {"shape": hatch, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.75, "size": 6},
            },
            hovertemplate="%{y:,} from %{x} s",
        )
    figure.update_layout(barmode="stack", showlegend=True)
    figure.update_yaxes(rangemode="tozero")
    return figure


def versus_load(frame: pl.DataFrame, columns: Mapping[str, str], y_title: str, limit: float | None) -> go.Figure:
    """A line a column (name: column) that holds anything, over rate_per_s, a mark a step, and the objective's limit."""
    figure = _figure("offered, requests/s", y_title, height=300)
    rates, verdicts = frame["rate_per_s"].to_list(), frame["verdict"].to_list()
    for (name, column), (colour, dash) in zip(columns.items(), SCENARIO_LINES, strict=False):
        if not frame[column].count():
            continue
        line = _line(rates, frame[column].to_list(), name, colour, dash)
        marks = {"size": 9, "symbol": [VERDICT_MARKS.get(verdict, "circle") for verdict in verdicts]}
        line |= {"mode": "lines+markers", "marker": marks}
        figure.add_scatter(**line, customdata=verdicts, hovertemplate="%{y:,.3~r} at %{x:.3~r}/s, %{customdata}")
    if limit is not None and rates:
        line = _line([min(rates), max(rates)], [limit, limit], f"limit {limit:,g}", VERMILION, "dash")
        figure.add_scatter(**line | {"mode": "lines"}, hoverinfo="skip")
    figure.update_layout(showlegend=True, hovermode="closest")
    figure.update_yaxes(rangemode="tozero")
    return figure


def cost_per_month(serverless: ServerlessCost | None, managed: tuple[ManagedCost, ...]) -> go.Figure:
    """What each way of serving the demand costs a month; how many of what stands above its bar, so it fits a phone."""
    bars = [(f"{m.instances} × {plotly_label(m.sku)}", m.per_month_usd, GREY, "/") for m in managed]  # noqa: RUF001
    if serverless is not None:
        label = f"{serverless.deployments} × serverless {plotly_label(serverless.model)}"  # noqa: RUF001
        bars.insert(0, (label, serverless.per_month_usd, BLUE, ""))
    figure = _figure("US dollars per month", "", height=len(bars) * 46 + 66)
    for place, (label, cost_usd, colour, hatch) in enumerate(bars):
        pattern = {"shape": hatch, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.35, "size": 7}
        shown = f"{label}: <b>{plotly_label(usd(cost_usd))}</b>"
        figure.add_bar(
            y=[place],
            x=[cost_usd],
            orientation="h",
            width=0.4,
            marker={"color": colour, "line": {"width": 0}, "pattern": pattern},
            hovertemplate=f"{shown}<extra></extra>",
        )
        figure.add_annotation(
            xref="paper", x=0, xanchor="left", y=place, yanchor="bottom", yshift=9, text=shown, showarrow=False
        )
    figure.update_layout(showlegend=False, hovermode="closest", margin={"t": 4})
    figure.update_xaxes(showgrid=True, tickformat="$,~f", tickangle=0, nticks=4, rangemode="tozero")
    figure.update_yaxes(range=[len(bars) - 0.6, -0.9], showgrid=False, showticklabels=False)
    return figure


def _percentiles_over_time(rows: pl.DataFrame) -> go.Figure:
    figure = _figure("time since the start, s", "ms")
    at_s = rows["at_s"].to_list()
    for name, column, colour, dash in (("p50", "p50_ms", BLUE, "solid"), ("p95", "p95_ms", AMBER, "dot")):
        line = _line(at_s, rows[column].to_list(), name, colour, dash)
        line |= {"mode": "lines+markers", "marker": {"size": 4.5}}  # a bin between two without a p95 is a point
        hover = "%{y:,.1f} ms, n = %{customdata:,}"
        figure.add_scatter(**line, customdata=rows["n"].to_list(), hovertemplate=hover)
    figure.update_layout(showlegend=True)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _cumulative(rows: pl.DataFrame, looks: Mapping[str, tuple[str, str]]) -> go.Figure:
    figure = _figure("ms", "share", height=250 + 11 * len(looks))  # the legend grows, the curves stay legible
    for scenario in [ALL, *looks]:  # the whole below, its parts over it
        curve = rows.filter(pl.col("scenario") == scenario)
        if curve.is_empty():
            continue
        colour, dash = looks.get(scenario, (GREY, "solid"))
        line = _line(curve["value_ms"].to_list(), curve["share"].to_list(), plotly_label(scenario), colour, dash)
        line["line"] |= {"shape": "hv", "width": 4 if scenario == ALL else 1.6}
        figure.add_scatter(**line, opacity=0.55 if scenario == ALL else 1, hovertemplate="%{x:,.1f} ms: %{y:.1%}")
    figure.update_layout(showlegend=True, hovermode="closest")
    figure.update_xaxes(showgrid=True, tickformat=",~r")
    if _spreads(rows["value_ms"]):
        figure.update_xaxes(type="log", tickvals=LOG_TICKS_MS, tickangle=0, title={"text": "ms, logarithmic"})
    figure.update_yaxes(range=[0, 1.01], tickvals=SHARE_TICKS, ticktext=SHARE_LABELS)
    return figure


def _spreads(values: pl.Series) -> bool:
    """Whether a logarithmic axis shows them better: over a factor of ten, and none at zero, which it has not."""
    low, high = values.min(), values.max()
    return isinstance(low, float) and isinstance(high, float) and 0 < low * 10 < high


def _level(frame: pl.DataFrame, column: str, title: str, limit: int | None) -> go.Figure:
    figure = _figure("time since the start, s", title)
    at_s = frame["at_s"].to_list()
    look = _line(at_s, frame[column].to_list(), "sent" if limit is not None else title, BLUE, "solid")
    figure.add_scatter(**look, fill="tozeroy", fillcolor=BLUE_WASH, hovertemplate="%{y:,.0f}")
    if limit is not None and at_s:
        line = _line([at_s[0], at_s[-1]], [limit, limit], f"limit {limit:,}", VERMILION, "dash")
        figure.add_scatter(**line, hoverinfo="skip")
    figure.update_layout(showlegend=limit is not None)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _line(x: list[Any], y: list[Any], name: str, colour: str, dash: str) -> dict[str, Any]:
    return {"x": x, "y": y, "name": name, "mode": "lines", "line": {"color": colour, "dash": dash, "width": 2}}


def _by(frame: pl.DataFrame, column: str) -> list[tuple[str, pl.DataFrame]]:
    """Sub-frames in the order of METRICS, then of the alphabet."""
    parts = {str(key[0]): part for key, part in frame.partition_by(column, as_dict=True).items()}
    order = list(METRICS)
    return sorted(parts.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]))


def _figure(x_title: str, y_title: str, height: int = 260) -> go.Figure:
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
