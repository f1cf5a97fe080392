"""A figure of latency versus load speaks of the serving model where its line is drawn, and nowhere else."""

from __future__ import annotations

import polars as pl
import pytest

from dashboards.drawings import draw_curve
from loadgen.slo import Slo
from planner.load_curve import load_curve
from tests.test_drawn_figures import STEPS

NAMED = [
    (step["rate_per_s"], step["verdict"], False, metric, statistic, step["itl_mean_ms"])
    for step in STEPS
    for metric, statistic in (("tpot", "p95"), ("ttft", "p99"))
]
COLUMNS = ("rate_per_s", "verdict", "limited", "metric", "statistic", "value_ms")


@pytest.mark.parametrize(
    ("instances", "with_line"),
    [
        pytest.param(1, {"ttft", "itl", "service_time"}, id="TPOT and response time are not modelled"),
        pytest.param(None, set(), id="nor is anything of a serverless deployment"),
    ],
)
def test_a_title_and_a_summary_name_the_model_where_its_line_is_drawn(instances, with_line):
    slos = [Slo.parse("tpot.p95<30ms"), Slo.parse("ttft.p99<500ms")]
    named = pl.DataFrame(NAMED, COLUMNS, orient="row")
    figures = draw_curve(load_curve(pl.DataFrame(STEPS), slos, instances=instances, named=named))
    assert {each.name for each in figures} == {
        f"versus-load-{metric}" for metric in ("ttft", "itl", "tpot", "service_time", "response_time")
    }
    for told in (
        ("serving model" in each.title for each in figures),
        ("fitted model" in each.summary for each in figures),
    ):
        assert {
            each.name.removeprefix("versus-load-") for each, so in zip(figures, told, strict=True) if so
        } == with_line
    for each in figures:
        has_line = any("model with 90 % interval" in (trace.name or "") for trace in each.figure.data)
        assert has_line == ("serving model" in each.title)
