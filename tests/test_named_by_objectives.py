"""A sweep shows every latency that one of its objectives names, wherever it shows latencies."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from dashboards import sweep_report
from dashboards.sweep import print_sweep
from loadgen.config import RunConfig
from loadgen.samples import Run
from loadgen.slo import Slo
from planner import swept
from planner.objectives import slo_results
from planner.steps import step_of
from planner.sweep import Search, Verdict
from tests.runs import answered, make_run

RATES = (4, 8)
OBJECTIVES = ("ttft.p95<1s", "tpot.p95<30ms", "tpot.p95<40ms", "itl.p99<80ms", "response_time.mean<5s")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Of two rates, at which a stream's tokens come each 10 ms and each 20 ms, but for a gap of three times that."""
    folder, slos = tmp_path_factory.mktemp("named") / "sweep", [Slo.parse(text) for text in OBJECTIVES]
    steps = []
    for number, rate in enumerate(RATES, 1):
        itl_s = 0.0025 * rate
        samples = [answered(i, i / rate, ttft_s=0.2, service_s=0.2 + 49 * itl_s) for i in range(60 * rate)]
        gaps = [(i, 0, [round(itl_s * 1e6)] * 48 + [round(3e6 * itl_s)]) for i in range(60 * rate)]
        config = RunConfig.model_validate(
            {"load": {"rate": rate, "duration": 60, "warmup": 0}, "target": {"kind": "managed"}}
        )
        run = make_run(folder / "steps", samples, gaps, config=config, name=f"at-{rate}")
        step = step_of(run, slos, number=number, folder=f"steps/at-{rate}", rate_per_s=rate)
        steps.append(replace(step, verdict=Verdict.MET))
    found = swept.Sweep(
        format=swept.FORMAT, state="complete", reason=None, started_utc="2026-11-20T10:00:00Z", target="sim",
        model="Phi-3-mini-4k-Instruct", kind="managed", past_quota=False, step_s=60.0, assumptions=(),
        search=Search(from_per_s=4, to_per_s=8, steps=2, tolerance=0.1), objectives=OBJECTIVES,
        config=config.model_dump(mode="json"), steps=tuple(steps),
    )  # fmt: skip
    swept.write(folder, found)
    return folder, swept.read(folder)


def lines(sweep, width=80):
    console = Console(file=StringIO(), width=width)
    print_sweep(sweep, console)
    return console.file.getvalue().splitlines()


def test_a_step_keeps_what_each_objective_names_as_a_plan_of_its_run_says_it(sweep):
    folder, found = sweep
    for step in found.steps:
        results = slo_results(Run.open(folder / step.folder), [Slo.parse(text) for text in OBJECTIVES])
        assert [each.value_ms for each in step.named] == [each.measured_ms for each in results]
    assert found.steps[1].named[1].value_ms == pytest.approx(20.0) and found.steps[1].named[3].value_ms == 60.0


def test_the_table_has_a_column_for_each_once_and_fits_a_terminal(sweep):
    text = lines(sweep[1])
    assert max(map(len, text)) <= 80
    head = " ".join(" ".join(text[-4:-2]).split())
    assert [head.count(name) for name in ("TPOT", "ITL", "resp.", "TTFT")] == [1, 2, 1, 1]
    assert "20.0" in text[-1].split() and "60.0" in text[-1].split()


def test_the_page_has_a_column_and_a_figure_for_each_with_its_limits(sweep):
    page = sweep_report.render(sweep[1])
    for heading in ("TPOT p95, ms", "ITL p99, ms", "Response mean, ms"):
        assert page.count(f">{heading}</th>") == 1
    assert page.count('data-figure="steps.1.named.2.value_ms"') == 1 and "steps.1.named.1." not in page
    drawn = {each.name: {trace.name: trace for trace in each.figure.data} for each in sweep_report.draw(sweep[1])}
    assert list(drawn["versus-load-tpot"]["p95"].y) == pytest.approx([10.0, 20.0])
    assert {"tpot.p95&lt;30ms", "tpot.p95&lt;40ms"} <= set(drawn["versus-load-tpot"])
    assert "p99" in drawn["versus-load-itl"] and not any("tpot" in name for name in drawn["versus-load-itl"])
    assert list(drawn["versus-load-response_time"]) == ["mean", "p95", "response_time.mean&lt;5s"]
    assert list(drawn["versus-load-response_time"]["p95"].y) == [step.response_p95_ms for step in sweep[1].steps]
    assert sum(name == "versus-load-response_time" for name in drawn) == 1


def test_a_sweep_of_an_earlier_version_is_shown_as_it_was(sweep):
    old = replace(sweep[1], steps=tuple(replace(step, named=()) for step in sweep[1].steps))
    assert not any("TPOT" in line for line in lines(old)[-3:])
    drawn = {each.name: {trace.name for trace in each.figure.data} for each in sweep_report.draw(old)}
    assert "tpot.p95&lt;30ms" in drawn["versus-load-itl"] and "versus-load-tpot" not in drawn
