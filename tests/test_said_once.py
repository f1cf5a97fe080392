"""What is wrong with an invalid run is said once: the reason is no doubt too, and the gate does not repeat it."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from dashboards.report import render
from dashboards.terminal import print_plan
from headroom import gating
from loadgen.samples import Outcome
from planner.assemble import plan_run, scoped_plan
from planner.levers import levers_of
from planner.rows import config_of
from tests.runs import answered, dropped, synthetic_run
from tests.test_planner import config, steady_run

pytestmark = pytest.mark.aside


def printed(plan):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    print_plan(plan, console)
    return " ".join(console.file.getvalue().split())


def test_a_lag_that_makes_a_run_invalid_is_no_doubt_too(tmp_path):
    verdict = plan_run(steady_run(tmp_path, sample=lambda i, t: answered(i, t, lag_s=0.06))).validity
    assert any("lag is 60 ms" in reason for reason in verdict.reasons)
    assert not any("lag" in doubt or "ms late" in doubt for doubt in verdict.doubts)


def test_arrivals_that_were_never_sent_are_told_once(tmp_path):
    late = {"sample": lambda i, t: dropped(i, t, error="stopped_while_throttled") if i % 3 == 0 else answered(i, t)}
    verdict = plan_run(steady_run(tmp_path, **late)).validity
    assert any("were due and never sent" in reason for reason in verdict.reasons)
    assert not any("was sent in it" in doubt for doubt in verdict.doubts)


def test_on_the_terminal_an_invalid_run_has_no_doubts_of_what_is_not_recommended(tmp_path):
    failing = {"sample": lambda i, t: answered(i, t, outcome=Outcome.SERVER_ERROR if i % 4 == 0 else Outcome.OK)}
    plan = plan_run(steady_run(tmp_path, **failing))
    text = printed(plan)
    assert not plan.validity.valid and text.count("INVALID") == 1 and text.lower().count("invalid") == 1
    assert plan.ahead.doubts and not any(doubt[-40:] in text for doubt in plan.ahead.doubts)
    assert all(text.count(reason[:40]) == 1 for reason in plan.validity.reasons)


def test_after_the_plan_the_gate_does_not_say_again_why(tmp_path, capsys):
    run = steady_run(tmp_path, state="running", config=config(slo=["ttft.p95<1s"]))
    plan = plan_run(run)
    outputs = gating.Outputs()
    gating.conclude(run.folder, plan, outputs, ended=None, code=None, quiet=False)
    said = capsys.readouterr().out
    assert "INVALID" in said and "skipped       ttft.p95<1s: not judged\n" in said and "why" not in said
    gating.tell(gating.gate_of([gating.judgement_of(run, plan, config_of(run).thresholds)]), outputs, quiet=False)
    assert "why           the run never finished" in capsys.readouterr().out


def test_the_levers_say_beside_the_managed_figures_that_they_are_a_guess(tmp_path):
    run = synthetic_run(tmp_path, n=300)
    scope, plan = scoped_plan(run)
    levers = levers_of(scope, plan)
    page = render(plan, run.manifest, {}, levers=levers)
    assert page.count("<small>what an instance serves is a guess, 8 requests at once") == 1
    assert page.count("<small>a guess, as their number is</small>") == 1
    known = replace(plan, ahead=replace(plan.ahead, instances_guessed=None))
    assert "<small>a guess" not in render(known, run.manifest, {}, levers=levers)
