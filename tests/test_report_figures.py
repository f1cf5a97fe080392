"""What the figures and words of the pages say where the data say less than they seem to."""

from __future__ import annotations

import polars as pl
import pytest

from dashboards import figures, page
from dashboards.figures_comparison import changes
from planner.comparing.comparison import MetricComparison
from planner.comparing.verdict import Verdict
from planner.reduced import tail_place


def curve(values_ms: list[float]) -> pl.DataFrame:
    shares = [(place + 0.5) / len(values_ms) for place in range(len(values_ms))]
    return pl.DataFrame(
        {
            "metric": "itl",
            "scenario": "all",
            "value_ms": values_ms,
            "share": shares,
            "place": [tail_place(share) for share in shares],
        }
    )


SPREADS = [
    ("a gap of 0 is drawn at the left edge, and said", [0.0, 0.5, 3.0, 20.0], "log", [0.5, 0.5, 3.0, 20.0], "12.5 % are 0"),
    ("what spreads less than ten times has no such axis", [0.0, 3.0, 20.0], None, [0.0, 3.0, 20.0], "ms"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "values_ms", "axis", "drawn", "title"), SPREADS)
def test_zeros_do_not_take_the_logarithmic_axis_away(
    case: str, values_ms: list[float], axis: str | None, drawn: list[float], title: str
) -> None:
    figure = figures.latency_distribution(curve(values_ms))["itl"]
    assert (figure.layout.xaxis.type, list(figure.data[0].x)) == (axis, drawn), case
    assert title in figure.layout.xaxis.title.text, case


def test_the_warm_up_is_shaded() -> None:
    frame = pl.DataFrame({"at_s": [0.0, 5.0], "metric": "ttft", "p50_ms": 1.0, "p95_ms": 2.0, "n": 9})
    troubles = pl.DataFrame(schema={"at_s": pl.Float64, "trouble": pl.String, "n": pl.Int64})
    for warm_up_s, shaded in ((5.0, [(0, 5.0)]), (0.0, [])):
        figure = figures.latency_over_time(frame, troubles, warm_up_s)["ttft"]
        assert [(each.x0, each.x1) for each in figure.layout.shapes] == shaded


def compared(low: float | None, high: float | None) -> MetricComparison:
    return MetricComparison(
        name="ttft.p95", verdict=Verdict.INCONCLUSIVE, reason="", tolerance_share=0.1, floor_share=0.1, base_ms=1.0,
        new_ms=1.2, ratio=1.2, low=low, high=high, most=high, p_slower=None, p_faster=None, spread_share=None,
        detectable_share=None, runs_needed=None, fewest_samples=9,
    )  # fmt: skip


def test_an_end_that_is_not_bounded_runs_to_the_edge_with_an_arrow() -> None:
    bounded, unbounded = changes([compared(1.1, 1.3), compared(1.1, None)]).data[:2]
    edge = changes([compared(1.1, 1.3), compared(1.1, None)]).layout.xaxis.range
    assert (bounded.x[2], bounded.marker.symbol[2]) == (1.3, "circle")
    assert (unbounded.x[2], unbounded.marker.symbol[2], unbounded.text[2]) == (edge[1], "arrow-right", "no bound")


TIMES = [("2026-11-21T14:47:49+00:00", "21 November 2026, 14:47 UTC"), ("2026-11-20T23:43:07Z", "20 November 2026, 23:43 UTC"), ("whenever", "whenever")]  # fmt: skip


@pytest.mark.parametrize(("stamp", "said"), TIMES)
def test_a_start_is_told_as_a_person_would(stamp: str, said: str) -> None:
    assert page.day_and_minute(stamp) == said


def test_an_option_is_one_word_and_what_surrounds_it_is_escaped() -> None:
    assert page.unbroken("<b> (--per-x n)") == '&lt;b&gt; (<span class="flag">--per-x</span> n)'
