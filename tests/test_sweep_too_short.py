"""A step with too few requests to tell says how many it had, and how many would."""

import math
from dataclasses import replace

import pytest

from dashboards.sweep import remarks, step_line
from loadgen.samples import Phase
from loadgen.slo import Slo
from planner import swept
from planner.steps import step_of
from planner.sweep import Count, Finding, Search, Stop, Verdict, pooled_verdict, times_to_tell
from tests.runs import answered, make_run
from tests.test_sweep_search import of


def count_of(n, beyond, allowed=0.05):
    return Count(text="x", allowed=allowed, n=n, beyond=beyond)


@pytest.mark.parametrize(
    ("count", "needed"),
    [
        pytest.param(count_of(40, 0), 73, id="without a miss 73 show a p95"),
        pytest.param(count_of(40, 0, 0.01), 381, id="and 381 a p99"),
        pytest.param(count_of(100, 2), 203, id="the more the nearer the share is to the limit"),
        pytest.param(count_of(100, 8), 203, id="as many on the other side of it"),
    ],
)
def test_so_many_requests_tell_and_one_fewer_does_not(count, needed):
    times = count.times_to_tell
    assert math.ceil(count.n * times) == needed
    share = count.beyond / count.n
    told = [replace(count, n=n, beyond=share * n).verdict for n in (needed - 1, needed)]
    assert told == [Verdict.UNCLEAR, Verdict.MET if share < count.allowed else Verdict.MISSED]


def test_a_mean_that_is_unclear_takes_as_many_as_its_interval_has_to_shrink():
    values = [0.2, 1.4] * 5
    mean = Count(text="x", allowed=None, n=10, beyond=0, total=sum(values), squares=sum(value**2 for value in values))
    times = mean.times_to_tell
    more = [math.floor(times * factor) for factor in (0.8, 1.2)]
    grown = [replace(mean, n=10 * k, total=k * mean.total, squares=k * mean.squares).verdict for k in more]
    assert grown == [Verdict.UNCLEAR, Verdict.MET]


@pytest.mark.parametrize(
    "measured",
    [
        pytest.param([of(5, 73, 0)], id="it is told"),
        pytest.param([of(5, 40, 0), of(5, 40, 0)], id="together they tell"),
        pytest.param([of(5, 40, 2)], id="at the limit itself more of the same does not tell"),
        pytest.param([of(5, 97.3, 97.3 * 0.05)], id="nor where gaps of streams come to it but for the last bit"),
        pytest.param([of(5, 421, 21)], id="nor so near to it that it takes more than a hundred times as many"),
        pytest.param([of(5, 0, 0)], id="nothing came"),
        pytest.param([of(5, 40, 0, saturated=True)], id="more requests are no cure of a backlog"),
        pytest.param([of(5, 40, 0, spoiled=True)], id="nor of a generator that was late"),
    ],
)
def test_where_more_of_the_same_would_tell_nothing_new_none_are_asked_for(measured):
    assert times_to_tell(measured) is None


def step(tmp_path, number, n, beyond=0):
    samples = [
        answered(i, i / 10, ttft_s=2.0 if i < beyond else 0.1, service_s=2.5, phase=Phase.STEADY) for i in range(n)
    ]
    run = make_run(tmp_path, samples, name=f"step-{number}")
    found = step_of(run, [Slo.parse("ttft.p95<1s")], number=number, folder=run.folder.name, rate_per_s=10.0)
    return replace(found, saturated=False, client_limited=False, verdict=Verdict.UNCLEAR)


def swept_at_one_rate(tmp_path, *measured):
    """A sweep that ends with its only rate unclear, of a step for each (requests, beyond) measured at it."""
    steps = tuple(step(tmp_path, number, *each) for number, each in enumerate(measured, 1))
    return swept.Sweep(
        format=swept.FORMAT, state="complete", reason=None, started_utc="2026-11-20T10:00:00Z", target="sim",
        model="m", kind="managed", past_quota=False, step_s=5.0, assumptions=(), config={}, steps=steps,
        search=Search(from_per_s=10, to_per_s=50, steps=3, tolerance=0.1), objectives=("ttft.p95<1s",),
        result=Finding(met_at_per_s=None, missed_at_per_s=10.0, missed_as=Verdict.UNCLEAR, stop=Stop.LOWEST),
    )  # fmt: skip


def test_an_unclear_step_and_the_result_say_how_many_requests_there_were_and_how_many_would_tell(tmp_path):
    sweep = swept_at_one_rate(tmp_path, (20, 0), (40, 1))
    steps = sweep.steps
    assert "20 requests do not tell, some 73 would" in remarks(steps[0], steps)
    together = " (60 requests do not tell, some 165 would: give a longer --step-duration)"
    assert swept.sentence(sweep).endswith(f"it is not shown to meet ttft.p95<1s{together}.")
    above = replace(sweep.result, met_at_per_s=5.0, stop=Stop.FOUND)
    assert swept.sentence(replace(sweep, result=above)).endswith(f"no longer clearly so at 10 requests/s{together}.")


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        pytest.param([(20, 2), (40, 0)], "60 requests do not tell, some 657 would", id="they take more than the last"),
        pytest.param(
            [(30, 3), (80, 0)], "110 requests do not tell, some 354 would", id="the last alone would have met"
        ),
        pytest.param([(20, 2), (20, 0)], "", id="at the limit itself no number is named"),
        pytest.param([(40, 0), (80, 0)], "", id="together they tell"),
    ],
)
def test_a_step_that_is_judged_with_those_before_it_says_of_them_together_what_the_result_says(
    tmp_path, measured, said
):
    sweep = swept_at_one_rate(tmp_path, *measured)
    last = sweep.steps[-1]
    alone_elsewhere = replace(last, rate_per_s=99.0, number=1)
    told = remarks(last, (alone_elsewhere, *sweep.steps, replace(last, number=last.number + 1)))
    assert [line for line in told if "do not tell" in line] == [said] * bool(said)
    assert ("do not tell" in swept.sentence(sweep)) == bool(said) and said in swept.sentence(sweep)
    verdict = pooled_verdict([each.measurement for each in sweep.steps])
    assert any("% beyond, 5 % allowed" in line for line in told) == (verdict is not Verdict.MET)
    assert said in step_line(sweep).plain
