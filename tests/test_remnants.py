"""What is left of a run: one that was stopped, one that is damaged, one that is a step of a sweep."""

from io import StringIO

import polars as pl
import pytest
from rich.console import Console

from dashboards import text
from dashboards.figures_curve import versus_load
from dashboards.terminal import view
from headroom import planning, recovering
from loadgen.config import RunConfig
from loadgen.damage import naming_damage
from loadgen.errors import RunFolderError
from loadgen.quota import Quota
from loadgen.samples import Outcome, Phase
from loadgen.slo import Slo
from planner.assemble import plan_run
from planner.demand import demand_of_run
from planner.instances import SweptCapacity
from planner.rows import steady_stretch
from tests.runs import answered, dropped, make_run

pytestmark = pytest.mark.aside

BUDGET = "the budget of 10 requests is used up"
AUTO_STOP = "auto-stop: 22 of 22 attempts of the last 11 s failed"


def run_of(tmp_path, samples, *, state="interrupted", reason=None, gaps=(), **load):
    shape = {"rate": 10, "duration": 30, "warmup": 5, **load}
    return make_run(
        tmp_path, samples, gaps, config=RunConfig.model_validate({"load": shape}), state=state, reason=reason
    )


def answers(n, every_s=0.1, **fields):
    return [answered(i, 5 + i * every_s, ttft_s=0.1, phase=Phase.STEADY, **fields) for i in range(n)]


def past_budget(first, n, at_s):
    return [dropped(first + i, at_s + i / 10, error="budget", phase=Phase.STEADY) for i in range(n)]


def test_what_came_due_once_the_budget_was_used_up_is_no_demand(tmp_path):
    samples = [*answers(61), *past_budget(61, 30, 11.1)]
    run = run_of(tmp_path, samples, reason=BUDGET)
    plan = plan_run(run, slos=[Slo.parse("ttft.p50<1s")])
    assert plan.validity.reasons == ()
    assert not any("never sent" in doubt or "sent in it" in doubt for doubt in plan.validity.doubts)
    assert demand_of_run(run).arrivals.height == 61
    assert steady_stretch(run).seconds == 6.0
    assert plan.traffic.requests_per_s == pytest.approx(61 / 6)
    assert (plan.goodput.offered, plan.goodput.share) == (61, 1.0)
    assert (plan.traffic.planned, plan.traffic.dropped) == (91, 30)  # the ledger has them all


@pytest.mark.parametrize(
    ("samples", "load", "reason"),
    [
        pytest.param(
            [*answers(3, 0.15), *past_budget(3, 3, 5.5)], {},
            "the run was stopped 0.3 s into its steady phase, of which 3 were answered: a plan takes 1 s and 10",
            id="a budget that ended it at once",
        ),
        pytest.param(answers(10, 0.111), {}, "stopped 0.999 s into", id="not a second"),
        pytest.param(answers(9, 1), {}, "of which 9 were answered", id="nine answers"),
        pytest.param(answers(10, 1 / 9 + 1e-6), {}, None, id="a second and ten answers are enough"),
        pytest.param(answers(5, 1), {"state": "complete"}, None, id="who asked for little got it"),
        pytest.param(
            [answered(0, 0.0, phase=Phase.STEADY)],
            {"state": "complete", "trace": "t.csv", "rate": None, "warmup": 0},
            "due at one instant, so no rate can be told",
            id="one request has no rate",
        ),
    ],
)  # fmt: skip
def test_a_remnant_is_nothing_to_plan_from(tmp_path, samples, load, reason):
    plan = plan_run(run_of(tmp_path, samples, **load))
    if reason is None:
        assert plan.validity.reasons == ()
    else:
        assert reason in plan.validity.reasons[0]
        assert plan.headline.startswith("Invalid run, do not plan from it: ")


def test_the_digits_of_what_is_there_are_printed(tmp_path):
    plan = plan_run(run_of(tmp_path, answers(4), reason=BUDGET))
    assert f"interrupted ({BUDGET}): 0.3 s of the steady phase's 25 s are here" in plan.validity.doubts


def rejected(n):
    error = "parameter_not_supported: messages.0"
    return answers(n, outcome=Outcome.REJECTED, status=422, error=error)


def test_what_ended_a_run_comes_before_what_that_brought_about(tmp_path):
    held = [dropped(22 + i, 8.0, error="stopped_while_throttled", phase=Phase.STEADY) for i in range(3)]
    found = plan_run(run_of(tmp_path, [*rejected(22), *held], reason=AUTO_STOP))
    first, second, third, *_ = found.validity.reasons
    assert first == AUTO_STOP and AUTO_STOP in found.headline
    assert second.startswith("every request of the scenario streaming was rejected (22), with 422: parameter_not")
    assert third.endswith("they waited for the quota when the run was stopped")
    assert not any("was rejected" in doubt for doubt in found.validity.doubts)


def test_the_quota_is_blamed_only_where_the_run_went_to_its_end(tmp_path):
    held = [dropped(100 + i, 8.0, error="stopped_while_throttled", phase=Phase.STEADY) for i in range(9)]
    (reason,) = plan_run(run_of(tmp_path, [*answers(100), *held], state="complete")).validity.reasons
    assert "the quota held them back until the end" in reason


# --- damage ---


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def smear(path):
    """Its footer is whole; the pages are not."""
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xa5" * 200 + whole[204:])


@pytest.mark.parametrize("name", ["samples", "chunks"])
@pytest.mark.parametrize("damage", [cut, smear])
def test_a_damaged_file_of_a_record_is_named(tmp_path, name, damage):
    run = run_of(tmp_path, answers(40), state="complete", gaps=[(i, 0, [10, 20, 30] * 20) for i in range(40)])
    path = run.folder / f"{name}.parquet"
    damage(path)
    for read in (
        lambda: planning.plan_from_runs([run.folder], planning.Options(), as_json=True),
        lambda: planning.report(run.folder, tmp_path / "report.html"),
        lambda: recovering.recover(run.folder),
    ):
        with pytest.raises(RunFolderError) as caught:
            read()
        assert str(caught.value).startswith(f"{path} is damaged, and cannot be read (")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["samples", "chunks"])
def test_a_file_that_the_record_ended_with_and_has_no_more_is_named(tmp_path, name):
    run = run_of(tmp_path, answers(40), state="complete", gaps=[(i, 0, [10, 20, 30] * 20) for i in range(40)])
    (run.folder / f"{name}.parquet").unlink()
    for read in (
        lambda: planning.plan_from_runs([run.folder], planning.Options(), as_json=True),
        lambda: planning.report(run.folder, tmp_path / "report.html"),
    ):
        with pytest.raises(RunFolderError, match=rf"{name}\.parquet is not there, which the run ended with"):
            read()


def test_so_is_one_of_a_run_whose_demand_is_planned_for(tmp_path):
    run = run_of(tmp_path, answers(40), state="complete")
    cut(run.folder / "samples.parquet")
    with pytest.raises(RunFolderError, match=r"samples\.parquet is damaged"):
        planning.plan_from_trace(str(run.folder), Quota(), growth=None, as_json=True)


def test_what_polars_says_of_whole_files_is_passed_on(tmp_path):
    run = run_of(tmp_path, answers(3), state="complete")
    with pytest.raises(pl.exceptions.ColumnNotFoundError), naming_damage(run.folder):
        run.samples.select("nothing").collect()


def test_a_damaged_part_of_a_killed_run_is_named(tmp_path):
    run = run_of(tmp_path, answers(40), state="running")
    (part,) = (run.folder / "parts").glob("samples-*.parquet")
    cut(part)
    with pytest.raises(RunFolderError, match=part.name):
        recovering.recover(run.folder)


# --- a step of a sweep, and what is drawn ---


def test_the_verdict_of_a_sweep_stands_where_its_step_has_too_few_samples(tmp_path):
    """74 requests that all kept the limit meet it by Wilson's interval, and no p95 can be told of them."""
    config = {"load": {"rate": 10, "duration": 12, "warmup": 5}, "slo": ["ttft.p95<1s"]}
    run = make_run(tmp_path, answers(74), config=RunConfig.model_validate(config))
    best = SweptCapacity(rate_per_s=10, concurrency=5, instances=1, stated=False)
    alone, swept = plan_run(run), plan_run(run, swept=best)
    assert alone.slos[0].met is None and "too few samples to judge" in alone.headline
    assert swept.slos[0].met is True and "; ttft.p95<1s was met. " in swept.headline
    assert any("by the sweep's verdict" in line and "this step's 74" in line for line in swept.assumptions)
    other = plan_run(run, swept=best, slos=[Slo.parse("ttft.p95<2s")])
    assert other.slos[0].met is None  # the sweep did not ask for it
    console = Console(width=100, file=StringIO())
    console.print(view(swept, wide=False))
    assert "by the sweep's verdict; too few samples for the percentile, n 74" in console.file.getvalue()


def test_a_step_that_was_limited_is_an_open_mark_and_a_limit_is_named():
    frame = pl.DataFrame(
        {
            "rate_per_s": [1.0, 2.0],
            "verdict": ["met", "missed"],
            "statistic": "p95",
            "limited": [False, True],
            "ms": 5.0,
        }
    )
    figure = versus_load(frame, limits=[("ttft.p95<1s", 1_000.0)], column="ms")
    assert [trace.name for trace in figure.data] == ["p95", "ttft.p95&lt;1s"]
    assert figure.data[0].marker.symbol == ("circle", "x-open")


def test_each_row_of_the_targets_says_alone_what_it_is():
    labels = [label for _, label, _ in text.TARGET_ROWS]
    assert len(set(labels)) == len(labels)
    assert not any(label[0].islower() for label in labels)
