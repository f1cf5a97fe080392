"""The figures of a run's latencies and outcomes: frames in, plotly figures out, no arithmetic.

One figure shows one metric, so that a grid of them falls into one column on a phone. Titles stand in the page, not in
the figure, and the page's script inks the text and the grid. Looks are of figure_parts.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Final

import plotly.graph_objects as go
import polars as pl

from dashboards.figure_parts import ALL as ALL  # noqa: PLC0414 - which rows are of all scenarios
from dashboards.figure_parts import (
    AMBER,
    BLUE,
    GREY,
    GREY_WASH,
    OUTCOME_BARS,
    SCENARIO_LINES,
    TROUBLE_MARKS,
    blank,
    line,
)
from dashboards.text import METRICS, percent, plotly_label
from planner.reduced import tail_place

LOG_TICKS_MS: Final = [digit * 10**power / 1_000 for power in range(9) for digit in (1, 2, 5)]  # 1 us to 500 s
SHARES: Final = {  # of an axis whose tails are both logarithmic
    0.0001: "0.01 %", 0.001: "0.1 %", 0.01: "1 %", 0.1: "10 %", 0.5: "50 %",
    0.9: "90 %", 0.99: "99 %", 0.999: "99.9 %", 0.9999: "99.99 %", 0.99999: "99.999 %", 0.999999: "99.9999 %",
}  # fmt: skip


def latency_over_time(frame: pl.DataFrame, troubles: pl.DataFrame, warm_up_s: float = 0.0) -> dict[str, go.Figure]:
    """One figure a metric from at_s, metric, p50_ms, p95_ms, n: the median and the 95th percentile.

    Along the upper edge a mark for each bin in which attempts were refused or failed, or arrivals were dropped, from
    at_s, trouble, n. What came before `warm_up_s` is shaded.
    """
    return {metric: _percentiles_over_time(rows, troubles, warm_up_s) for metric, rows in _by(frame, "metric")}


def latency_distribution(frame: pl.DataFrame) -> dict[str, go.Figure]:
    """One figure a metric from metric, scenario, value_ms, share, place: the share that took at most so long.

    Both tails are logarithmic, so that 0.1 % and 99.9 % are as legible as the middle; a point stands at its `place`.
    """
    scenarios = sorted(set(frame["scenario"].to_list()) - {ALL})
    looks = dict(zip(scenarios, cycle(SCENARIO_LINES), strict=False))
    return {metric: _cumulative(rows, looks) for metric, rows in _by(frame, "metric")}


def load_by_target(frame: pl.DataFrame) -> go.Figure:
    """Tokens a minute that were sent to each, from target, at_s, tokens_per_minute."""
    targets = frame["target"].unique(maintain_order=True).to_list()
    figure = blank("time since the start, s", "tokens per minute", height=250 + 11 * len(targets))
    for target, (colour, dash) in zip(targets, cycle(SCENARIO_LINES), strict=False):
        rows = frame.filter(pl.col("target") == target)
        at_s, tokens = rows["at_s"].to_list(), rows["tokens_per_minute"].to_list()
        figure.add_scatter(**line(at_s, tokens, plotly_label(target), colour, dash), hovertemplate="%{y:,.0f}")
    figure.update_layout(showlegend=True)
    figure.update_yaxes(rangemode="tozero")
    return figure


def outcomes_over_time(frame: pl.DataFrame, every_s: float) -> go.Figure:
    """Attempts per `every_s` by outcome, stacked, from at_s, outcome, n."""
    figure = blank("time since the start, s", f"attempts per {every_s:g} s", height=300)
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


def _percentiles_over_time(rows: pl.DataFrame, troubles: pl.DataFrame, warm_up_s: float) -> go.Figure:
    figure = blank("time since the start, s", "ms")
    at_s = rows["at_s"].to_list()
    for name, column, colour, dash in (("p50", "p50_ms", BLUE, "solid"), ("p95", "p95_ms", AMBER, "dot")):
        look = line(at_s, rows[column].to_list(), name, colour, dash)
        look |= {"mode": "lines+markers", "marker": {"size": 4.5}}  # a bin between two without a p95 is a point
        hover = "%{y:,.1f} ms, n = %{customdata:,}"
        figure.add_scatter(**look, customdata=rows["n"].to_list(), hovertemplate=hover)
    for trouble, (colour, symbol) in TROUBLE_MARKS.items():
        marked = troubles.filter(pl.col("trouble") == trouble)
        if marked.is_empty():
            continue
        figure.add_scatter(
            x=marked["at_s"].to_list(),
            y=[1] * marked.height,
            yaxis="y2",
            name=trouble,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 7, "line": {"width": 1.5, "color": colour}},
            customdata=marked["n"].to_list(),
            hovertemplate="%{customdata:,}",
            cliponaxis=False,
        )
    if warm_up_s > 0:
        figure.add_vrect(x0=0, x1=warm_up_s, fillcolor=GREY_WASH, line={"width": 0}, layer="below")
    edge = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    figure.update_layout(showlegend=True, yaxis={"rangemode": "tozero"}, yaxis2=edge)
    return figure


def _cumulative(rows: pl.DataFrame, looks: Mapping[str, tuple[str, str]]) -> go.Figure:
    figure = blank("ms", "share", height=280 + 11 * len(looks))  # the legend grows, the curves stay legible
    least_ms = _least_of_log(rows["value_ms"])
    for scenario in [ALL, *looks]:  # the whole below, its parts over it
        curve = rows.filter(pl.col("scenario") == scenario)
        if curve.is_empty():
            continue
        colour, dash = looks.get(scenario, (GREY, "solid"))
        look = line(
            curve["value_ms"].clip(least_ms).to_list(), curve["place"].to_list(), plotly_label(scenario), colour, dash
        )
        look["line"] |= {"shape": "hv", "width": 4 if scenario == ALL else 1.6}
        look |= {"customdata": curve["share"].to_list(), "opacity": 0.55 if scenario == ALL else 1}
        figure.add_scatter(**look, hovertemplate="%{x:,.1f} ms: %{customdata:.5~p}")
    figure.update_layout(showlegend=True, hovermode="closest")
    figure.update_xaxes(showgrid=True, tickformat=",~r")
    if least_ms is not None:
        title = f"ms, logarithmic{_zeros(rows)}"
        figure.update_xaxes(type="log", tickvals=LOG_TICKS_MS, tickangle=0, title={"text": title})
    figure.update_yaxes(tickvals=[tail_place(share) for share in SHARES], ticktext=list(SHARES.values()))
    return figure


def _least_of_log(values: pl.Series) -> float | None:
    """Where a logarithmic axis begins, which has no zero; None where it would not show them better."""
    low, high = values.filter(values > 0).min(), values.max()
    return low if isinstance(low, float) and isinstance(high, float) and low * 10 < high else None


def _zeros(rows: pl.DataFrame) -> str:
    """How many have no place on a logarithmic axis."""
    at_zero = rows.filter((pl.col("value_ms") <= 0) & (pl.col("scenario") == ALL))["share"].max()
    return f"; {percent(at_zero)} are 0, at the left edge" if isinstance(at_zero, float) else ""


def _by(frame: pl.DataFrame, column: str) -> list[tuple[str, pl.DataFrame]]:
    """Sub-frames in the order of METRICS, then of the alphabet."""
    parts = {str(key[0]): part for key, part in frame.partition_by(column, as_dict=True).items()}
    order = list(METRICS)
    return sorted(parts.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]))
