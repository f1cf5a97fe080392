"""A record that is added up once, by kinds, says what its rows say one by one."""

import random

import polars as pl
import pytest

from loadgen.samples import Outcome, Phase
from planner.counts import counts_of
from planner.demand import attempts_with_tokens
from planner.in_flight import in_flight_within
from planner.rows import NS_PER_S, OK, SENT, STEADY, Stretch, count_arrivals, steady_stretch
from planner.traffic import BILLED, completed_within
from tests.runs import answered, dropped, make_run, refused

UNTOLD = {"prompt_tokens": None, "completion_tokens": None, "usage_source": "estimated"}
OUTCOMES = (Outcome.OK, Outcome.OK, Outcome.FILTERED, Outcome.BROKEN_STREAM, Outcome.TIMEOUT, Outcome.CANCELLED)


@pytest.fixture(scope="module", params=["complete", "running"])
def run(tmp_path_factory, request):
    """Of a run that was killed, the rows stand in no order."""
    dice, samples = random.Random(7), []
    for seq in range(1, 700):
        due_s, scenario = 1 + seq / 20, dice.choice(["chat", "vision", "answer"])
        known = {"phase": Phase.WARMUP if due_s < 5 else Phase.STEADY, "scenario": scenario}
        outcome, attempt = dice.choice(OUTCOMES), 0
        if dice.random() < 0.1:
            samples.append(refused(seq, due_s, **known))
            attempt = 1
        elif dice.random() < 0.05:
            samples.append(dropped(seq, due_s, **known))
            continue
        known |= UNTOLD if dice.random() < 0.2 else {"prompt_tokens": dice.randint(1, 300)}
        known |= {"done_ns": None} if outcome is Outcome.CANCELLED else {}
        samples.append(answered(seq, due_s, attempt=attempt, outcome=outcome, service_s=dice.expovariate(0.5), **known))
    if request.param == "running":
        dice.shuffle(samples)
    return make_run(tmp_path_factory.mktemp(request.param), samples, state=request.param)


@pytest.mark.parametrize("of", [BILLED, BILLED & STEADY, OK & STEADY], ids=["billed", "billed, steady", "answered"])
def test_sums_and_means_of_kinds_are_those_of_their_rows(run, of):
    rows, counts = attempts_with_tokens(run).filter(of).collect(), counts_of(run, steady_stretch(run))
    assert counts.total("attempts", of) == rows.height > 50
    assert counts.total("sent", of) == rows["sent_ns"].count()
    for column in ("prompt_tokens", "completion_tokens"):
        assert counts.total(column, of) == rows[column].sum()
        assert counts.mean(column, of) == rows[column].mean()


def test_what_ended_within_the_stretch_is_counted_whenever_it_was_due(run):
    stretch = Stretch(6.0, 9.0)
    ended = run.samples.filter(OK & (pl.col("done_ns") >= 6 * NS_PER_S) & (pl.col("done_ns") < 9 * NS_PER_S)).collect()
    assert ended["due_ns"].min() < 6 * NS_PER_S
    counts = counts_of(run, stretch)
    assert counts.total("attempts", OK & pl.col("ended")) == ended.height == completed_within(run, stretch)


def test_a_kind_that_never_came_has_no_mean_and_its_sum_is_zero(run):
    counts = counts_of(run, steady_stretch(run))
    never = pl.col("outcome") == Outcome.REJECTED
    assert (counts.total("prompt_tokens", never), counts.mean("prompt_tokens", never)) == (0, None)


@pytest.mark.parametrize(("start_s", "end_s"), [(6.0, 30.0), (0.0, 100.0), (20.0, 20.05), (90.0, 95.0)])
def test_the_mean_and_the_most_in_flight_are_those_of_looking_at_each_instant(run, start_s, end_s):
    start_ns, end_ns = round(start_s * NS_PER_S), round(end_s * NS_PER_S)
    rows = run.samples.filter(SENT).select("sent_ns", pl.col("done_ns").fill_null(2**62)).collect().rows()
    instants = [start_ns, *(sent for sent, _ in rows if start_ns < sent < end_ns)]
    most = max(sum(sent <= at < done for sent, done in rows) for at in instants)
    area_ns = sum(max(0, min(done, end_ns) - max(sent, start_ns)) for sent, done in rows)
    mean, found = in_flight_within(run, Stretch(start_s, end_s))
    assert (found, mean) == (most, pytest.approx(area_ns / (end_ns - start_ns), rel=1e-12))


def test_a_stretch_begins_with_its_first_instant_and_ends_before_its_last(tmp_path):
    run = make_run(tmp_path, [answered(0, 1.0, service_s=1.0), answered(1, 2.0, service_s=1.0)])
    assert in_flight_within(run, Stretch(2.0, 2.5)) == (1.0, 1)  # the first has just ended
    ended = counts_of(run, Stretch(2.0, 3.0)).total("attempts", pl.col("ended"))
    assert ended == completed_within(run, Stretch(2.0, 3.0)) == 1


def test_arrivals_of_several_attempts_count_once_for_each_condition_that_one_of_them_meets(run):
    rows = run.samples.collect()
    counted = count_arrivals(run.samples, pl.lit(value=True), STEADY, OK)
    assert counted == tuple(rows.filter(of)["seq"].n_unique() for of in (pl.lit(value=True), STEADY, OK))
    assert counted[0] < rows.height
    assert count_arrivals(run.samples.filter(pl.col("seq") < 0), STEADY) == (0,)
