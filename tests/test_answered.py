"""What a run says of answers that were refused, or that failed before its figures began."""

from __future__ import annotations

import pytest

from loadgen.config import RunConfig
from loadgen.samples import Outcome, Phase
from planner.assemble import plan_run
from tests.runs import answered, make_run, refused


def judged(tmp_path, sample, *, n=400, **load):
    config = RunConfig.model_validate({"load": {"rate": 20, "duration": n / 20, "warmup": 5, "throttle": "off"} | load})
    samples = []
    for number in range(n):
        due_s = number / 20
        samples.append(sample(number, due_s))
        samples[-1].phase = Phase.WARMUP if due_s < config.load.warmup else Phase.STEADY
    return plan_run(make_run(tmp_path, samples, config=config)).validity


def failed(number, due_s, **fields):
    return answered(number, due_s, outcome=Outcome.SERVER_ERROR, status=500, completion_tokens=None, **fields)


@pytest.mark.parametrize(
    ("every", "says"),
    [
        pytest.param(5, False, id="a fifth refused is told as ever"),
        pytest.param(2, False, id="half is not yet the greater part"),
        pytest.param(0.75, True, id="of more, latencies are of the few that came through"),
    ],
)
def test_a_run_that_was_mostly_refused_says_of_what_its_latencies_are(tmp_path, every, says):
    share = 1 / every if every >= 1 else every
    refuses = lambda number: number % 4 < 4 * share if share > 0.5 else number % round(every) == 0  # noqa: E731
    verdict = judged(tmp_path, lambda number, due_s: (refused if refuses(number) else answered)(number, due_s))
    told = next(doubt for doubt in verdict.doubts if "were answered 429" in doubt)
    assert verdict.valid  # a quota is found out like that
    assert ("with 75.0% refused, latencies are of the lesser part" in told) is says
    assert ("--throttle pace" in told) is says


def test_failures_of_the_warm_up_are_told_though_no_figure_is_of_it(tmp_path):
    verdict = judged(tmp_path, lambda number, due_s: (failed if number < 30 else answered)(number, due_s), n=4_000)
    told = [doubt for doubt in verdict.doubts if "of the warm-up failed" in doubt]
    assert verdict.valid and len(told) == 1
    assert told[0].startswith("30 of the 100 attempts of the warm-up failed, and 0 of 3,900 after it")


def test_failures_that_go_on_are_not_told_as_the_warm_ups(tmp_path):
    verdict = judged(tmp_path, lambda number, due_s: (answered if number % 10 else failed)(number, due_s))
    assert not [doubt for doubt in verdict.doubts if "of the warm-up failed" in doubt]


def test_a_warm_up_longer_than_what_it_leaves_is_a_doubt_and_one_that_leaves_nothing_says_what_was_in_it(tmp_path):
    verdict = judged(tmp_path, answered, n=120)
    assert "the warm-up took 5 s and left a steady phase of 1 s" in " ".join(verdict.doubts)
    assert "--warmup" in " ".join(verdict.doubts)
    assert "the warm-up took" not in " ".join(judged(tmp_path / "long", answered, n=400).doubts)
    early = RunConfig.model_validate({"load": {"trace": "t.csv", "duration": 60}})
    samples = [failed(number, number / 20) for number in range(50)]
    for each in samples:
        each.phase = Phase.WARMUP
    reasons = plan_run(make_run(tmp_path, samples, config=early, name="early")).validity.reasons
    assert "all 50 left in the warm-up of 5 s, and 50 of them failed; give a shorter --warmup" in " ".join(reasons)
    samples = [(refused if number else failed)(number, number / 20, phase=Phase.WARMUP) for number in range(50)]
    reasons = plan_run(make_run(tmp_path, samples, config=early, name="refused")).validity.reasons
    told = "all 50 left in the warm-up of 5 s, 49 of them were throttled (429), and 1 of them failed; offer less"
    assert told in " ".join(reasons)


def test_a_plan_of_several_targets_says_why_it_recommends_nothing(tmp_path):
    both = {"target": [{"url": "sim"}, {"url": "sim"}]}
    plans = []
    for name, targets, known, outcome in (
        ("two", both, "sim-1", Outcome.OK),
        ("one", {}, "sim", Outcome.OK),
        ("invalid", both, "sim-1", Outcome.SERVER_ERROR),
    ):
        config = RunConfig.model_validate({"load": {"rate": 20, "duration": 20}, **targets})
        samples = [answered(number, number / 20, target=known, phase=Phase.STEADY) for number in range(400)]
        for sample in samples[::3]:
            sample.outcome = outcome
        plans.append(plan_run(make_run(tmp_path, samples, config=config, name=name)))
    why = "planned of one deployment, and these are 2"
    assert [plan.ahead is None for plan in plans] == [True, False, True]
    assert [plan.validity.valid for plan in plans] == [True, True, False]
    assert [why in " ".join(plan.validity.doubts) for plan in plans] == [True, False, False]  # an invalid one says why
