"""Objectives over simulated requests: which statistic, of whom, and in which minutes."""

import math

import pytest

from loadgen.slo import Slo
from planner.fleets.attainment import Outcomes, attainment
from planner.fleets.sharing import Served, Work


def outcomes_of(rows, **changes):
    """(at_s, ttft_s, gap_s, gaps) each; ttft None: refused."""
    work = Work([row[0] for row in rows], [0.0] * len(rows), [row[3] for row in rows], [0.0] * len(rows))
    served = Served(len(rows))
    for place, (at_s, ttft_s, gap_s, gaps) in enumerate(rows):
        if ttft_s is not None:
            served.admitted_s[place] = at_s
            served.first_s[place] = at_s + ttft_s
            served.done_s[place] = at_s + ttft_s + gap_s * gaps
    return Outcomes(work, served, **changes)


def judged(rows, slo, **changes):
    return attainment(outcomes_of(rows, **changes), [Slo.parse(slo)])


QUICK, SLOW, REFUSED = (0.0, 0.1, 0.01, 100), (0.0, 0.9, 0.05, 100), (0.0, None, 0.0, 100)


@pytest.mark.parametrize(
    ("slo", "rows", "measured_ms", "share", "met"),
    [
        pytest.param("ttft.p95<500ms", [QUICK] * 19 + [SLOW], 100, 0.95, True, id="19 of 20 are 95 %"),
        pytest.param("ttft.p95<500ms", [QUICK] * 18 + [SLOW] * 2, 900, 0.9, False, id="18 are not"),
        pytest.param("ttft.p95<500ms", [QUICK] * 18 + [REFUSED] * 2, None, 0.9, False, id="who is refused waits for ever"),
        pytest.param("ttft_from_due.max<=900ms", [QUICK, SLOW], 900, 1.0, True, id="<= holds at the limit"),
        pytest.param("ttfb.mean<500ms", [QUICK, SLOW], 500, 0.5, False, id="a mean at the limit is not below it"),
        pytest.param("tpot.p50<20ms", [QUICK, QUICK, SLOW], 10, 2 / 3, True, id="time per token"),
        pytest.param("tpot.max<20ms", [QUICK, (0.0, 0.1, 0.0, 0)], 10, 1.0, True, id="one token has no time per token"),
        pytest.param("response_time.max<2s", [QUICK], 1_100, 1.0, True, id="to the last token"),
        pytest.param("itl.p95<40ms", [QUICK, (0.0, 0.1, 0.1, 20)], 25, 0.5, True, id="gaps by their number: a sixth is slow"),
    ],
)  # fmt: skip
def test_the_statistic_that_the_objective_names(slo, rows, measured_ms, share, met):
    result = judged(rows, slo)
    kept = result.objectives[0]
    assert (kept.text, kept.met, result.met) == (slo, met, met)
    assert kept.measured_ms == (None if measured_ms is None else pytest.approx(measured_ms))
    assert kept.share_within == pytest.approx(share)


def test_a_percentile_of_gaps_is_the_mean_times_what_the_model_says_it_is_above_it():
    assert judged([QUICK], "itl.p95<15ms", gap_spread=1.4).met
    assert not judged([QUICK], "itl.p95<15ms", gap_spread=1.6).met


def test_each_minute_is_judged_by_its_own_arrivals():
    rows = [QUICK] * 40 + [(70.0, *SLOW[1:])] + [(200.0, *QUICK[1:])]
    result = judged(rows, "ttft.p95<500ms")
    assert (result.met, result.minutes, result.minutes_missed) == (True, 3, 1)
    assert result.good_share == pytest.approx(41 / 42)
    assert judged(rows, "ttft.mean<500ms").minutes_missed == 1


def test_a_request_is_good_that_keeps_every_limit():
    mixed = outcomes_of([QUICK, SLOW, (0.0, 0.1, 0.05, 10)])
    both = attainment(mixed, [Slo.parse("ttft.p95<500ms"), Slo.parse("tpot.p95<20ms")])
    assert both.good_share == pytest.approx(1 / 3)
    assert [each.share_within for each in both.objectives] == pytest.approx([2 / 3, 1 / 3])


def test_the_warm_up_can_be_left_out():
    rest = outcomes_of([SLOW] * 3 + [QUICK]).after(3)
    assert attainment(rest, [Slo.parse("ttft.max<500ms")]).met
    assert math.isclose(rest.values_s("ttft")[0], 0.1)
