"""What a comparison judges of a mix, and what it must not be taken in by: lengths, sessions, few runs, bursts."""

import math
import random
from dataclasses import replace

import pytest

from benchmarks.verdicts import World, verdicts
from loadgen.config import RunConfig
from loadgen.errors import ConfigError
from loadgen.samples import Run
from planner.compare import checks_of, compare
from planner.comparing.blocks import run_quantile
from planner.comparing.doubts import apart
from planner.comparing.figures import Figures, Test, session_variance, shift_of
from planner.comparing.run_facts import facts_of, settings_of
from planner.comparing.sessions import in_turns, sessions_of
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import Verdict
from tests.compared_runs import streams
from tests.runs import answered, make_run


def mixed(tmp_path, name, seed, *, slower=1.0, n=200):
    """Half plain chat, half streams; `slower` is the plain ones'."""
    dice, samples = random.Random(seed), []
    own = dice.lognormvariate(0, 0.01)
    for seq in range(n):
        ttft_s = 0.2 * own * dice.lognormvariate(0, 0.2)
        service_s = ttft_s + 49 * 0.02 * own * dice.lognormvariate(0, 0.1)
        known = {"ttft_s": ttft_s, "service_s": service_s} if seq % 2 else {"service_s": slower * service_s}
        samples.append(answered(seq, seq / 20, **known))
    load = {"rate": 20, "duration": n / 20, "warmup": 0, "throttle": "off"}
    config = RunConfig.model_validate(
        {
            "load": load,
            "target": {"kind": "managed", "url": "http://127.0.0.1:1"},
            "scenarios": {"chat": 1, "streaming": 1},
        }
    )
    return replace(facts_of(make_run(tmp_path, samples, config=config, name=name)), run_id=name)


@pytest.fixture(scope="module")
def mixes(tmp_path_factory):
    place = tmp_path_factory.mktemp("mixes")
    likes = {"base": (1, 1.0), "like": (11, 1.0), "slow": (21, 3.0)}
    return {
        name: [mixed(place, f"{name}{number}", seed + number, slower=slower) for number in range(4)]
        for name, (seed, slower) in likes.items()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return facts_of(Run.open(streams(tmp_path_factory.mktemp("one"), "one", 1)))


def at(run, number, *, log=0.0, minute=0, day=20, **changes):
    """The same run at another time, every latency so much longer."""
    scaled = [
        replace(
            each,
            value_ms=each.value_ms and each.value_ms * math.exp(log),
            low_ms=each.low_ms and each.low_ms * math.exp(log),
            high_ms=each.high_ms and each.high_ms * math.exp(log),
        )
        for each in run.quantiles
    ]
    changes = {"started_utc": f"2026-11-{day:02d}T10:{minute:02d}:00Z", "quantiles": tuple(scaled), **changes}
    return replace(run, run_id=f"{day}-{number}", name=f"{number:02d}", **changes)


def sides(run, shift, *, runs=10, spread=0.01, turns=True, seed=1):
    dice = random.Random(seed)
    both = []
    for side in (0, 1):
        starts = [2 * number + (side + number) % 2 if turns else number for number in range(runs)]
        both.append(
            [
                at(run, number, log=dice.gauss(side * shift, spread), minute=start, day=20 + (side and not turns))
                for number, start in enumerate(starts)
            ]
        )
        both[-1] = [replace(each, run_id=f"{side}-{each.run_id}") for each in both[-1]]
    return both


def test_what_does_not_stream_is_judged_beside_what_does(mixes):
    names = [row.name for row in compare(mixes["base"], mixes["like"]).metrics]
    assert names == [
        "ttft.p50",
        "ttft.p95",
        "tpot.p50",
        "tpot.p95",
        "response_time{stream=no}.p50",
        "response_time{stream=no}.p95",
    ]
    slow = compare(mixes["base"], mixes["slow"])
    assert slow.verdict is Verdict.REGRESSED
    assert (
        "response_time{stream=no}.p50 is 19" in slow.headline or "response_time{stream=no}.p50 is 20" in slow.headline
    )


def test_one_scenario_can_be_named_and_what_is_not_judged_is_said(mixes):
    chat = Tolerance.parse("response_time{scenario=chat}.p50:+10%")
    assert compare(mixes["base"], mixes["slow"], tolerances=[chat]).verdict is Verdict.REGRESSED
    ttft = compare(mixes["base"], mixes["slow"], tolerances=[Tolerance.parse("ttft.p50:+10%")])
    assert any("50 % of the answers did not stream, and nothing here judges" in doubt for doubt in ttft.doubts)
    with pytest.raises(ConfigError, match="chosen by"):
        Tolerance.parse("ttft{model=x}.p50:+10%")
    with pytest.raises(ConfigError, match="has no ttft"):
        compare(mixes["base"], mixes["like"], tolerances=[Tolerance.parse("ttft{scenario=chat}.p50:+10%")])


def test_a_metric_that_some_run_lacks_is_never_passed_over(mixes):
    lacking = [replace(mixes["like"][0], quantiles=()), *mixes["like"][1:]]
    lacking[0] = replace(
        lacking[0], quantiles=tuple(each for each in mixes["like"][0].quantiles if each.metric != "ttft")
    )
    found = compare(mixes["base"], lacking)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "like0 of NEW has no ttft at all" in found.headline


def test_longer_answers_hide_no_slowdown_that_they_do_not_account_for(tmp_path):
    def side(name, seed, **like):
        return [
            replace(
                facts_of(Run.open(streams(tmp_path, f"{name}{k}", seed + k, plain=True, **like))), run_id=f"{name}{k}"
            )
            for k in range(4)
        ]

    base = side("b", 30)
    found = compare(base, side("slow", 40, slower=2.0, tokens=53))
    assert found.lengths.differ
    assert found.verdict is Verdict.REGRESSED
    longer = compare(base, side("long", 50, tokens=65))
    assert longer.verdict is Verdict.INCONCLUSIVE
    assert "tpot" not in longer.headline, "these runs have none"


def test_sides_of_two_sessions_are_held_to_what_sessions_differ_by(run):
    apart_in_time, in_one = (compare(*sides(run, 0.06, turns=turns)) for turns in (False, True))
    assert in_one.verdict is Verdict.REGRESSED
    assert apart_in_time.verdict is Verdict.INCONCLUSIVE
    assert any("only ab, which plays in turns, has the stated error rates" in doubt for doubt in apart_in_time.doubts)
    assert not any("another time" in doubt for doubt in in_one.doubts)
    assert compare(*sides(run, 0.25, turns=False)).verdict is Verdict.REGRESSED


def test_when_runs_were_made_says_whether_they_were_in_turns(run):
    turns, blocks = sides(run, 0.0), sides(run, 0.0, turns=False)
    assert (in_turns(*turns), in_turns(*blocks)) == (True, False)
    assert not in_turns([at(run, 1)] * 2, [at(run, 2)] * 2), "the same instant tells nothing"
    days = [at(run, number, day=day) for number, day in enumerate((3, 1, 1, 2))]
    assert sessions_of(days) == (2, 0, 0, 1)
    hourly = [replace(run, started_utc=f"2026-01-01T{time}+00:00") for time in ("00:00:00", "01:00:00", "02:00:01")]
    assert sessions_of(hourly) == (0, 0, 1)


def test_enough_sessions_show_how_they_differ_themselves():
    dice = random.Random(3)
    means = [dice.gauss(0, 0.08) for _ in range(8) for _ in range(2)]
    figures = Figures(
        base=tuple(mean + dice.gauss(0, 0.01) for mean in (means[k // 2 * 2] for k in range(16))),
        new=tuple(dice.gauss(0.15, 0.01) for _ in range(4)),
        base_sessions=tuple(k // 2 for k in range(16)),
        new_sessions=(0,) * 4,
    )
    five = replace(figures, base=figures.base[:5], base_sessions=tuple(range(5)))
    assert (
        session_variance(five)[1] == 4 and session_variance(replace(five, base_sessions=(0, 0, 1, 2, 3)))[1] == math.inf
    )
    more, df = session_variance(figures)
    assert df == 7
    assert 0.05 < math.sqrt(more) < 0.13
    assert shift_of(figures, test=Test.WELCH, pairs=False).p_slower > 0.01
    few = replace(figures, base_sessions=(0,) * 16)
    assert session_variance(few) == (pytest.approx(2 * 0.02**2), math.inf)


def test_sessions_that_differ_by_what_is_assumed_ring_no_more_alarms_than_runs():
    found = verdicts(World(0.01, sessions=0.02), 10, 100, comparisons=30, seed=5, in_turns=False)
    assert found[Verdict.REGRESSED] <= 2


def test_two_or_three_runs_do_not_show_a_small_spread():
    """By Welch alone two runs that agree by chance make a slowdown of 6 % sure."""
    figures = Figures(base=(0.0, 0.0001), new=tuple(0.06 + 0.001 * k for k in range(10)))
    assert shift_of(figures, test=Test.WELCH, pairs=False).p_slower > 0.01
    assert verdicts(World(0.05), 10, 100, comparisons=30, seed=6, base_runs=2)[Verdict.REGRESSED] <= 2


def test_a_burst_of_failures_in_one_run_is_no_regression_and_the_same_spread_over_it_is(run):
    burst = replace(run, arrivals=400, unanswered=28, unanswered_blocks=(28,) + (0,) * 9, run_id="burst")
    spread = replace(burst, unanswered_blocks=(3, 3, 3, 3, 3, 3, 3, 3, 2, 2), run_id="spread")
    base = replace(run, arrivals=400, unanswered=0, unanswered_blocks=(0,) * 10)
    assert compare([base], [burst]).outcomes.verdict is Verdict.INCONCLUSIVE
    assert compare([base], [spread]).outcomes.verdict is Verdict.REGRESSED
    assert compare([base], [replace(spread, unanswered_blocks=())]).outcomes.verdict is Verdict.INCONCLUSIVE


def test_a_run_knows_when_it_failed(tmp_path):
    kept = facts_of(Run.open(streams(tmp_path, "some", 3, failed=0.07)))
    assert (len(kept.unanswered_blocks), sum(kept.unanswered_blocks)) == (10, kept.unanswered)
    assert kept.unanswered > 0


@pytest.mark.parametrize(("runs", "finds"), [(5, None), (7, float)])
def test_ranks_say_when_they_could_not_tell_whatever_was_measured(run, runs, finds):
    found = compare(*sides(run, 3.0, runs=runs), test=Test.RANKS)
    assert (found.metrics[0].detectable_share is None) == (finds is None)
    assert any("--test ranks of 5 runs" in doubt and "takes 6 a side" in doubt for doubt in found.doubts) == (runs == 5)
    assert found.verdict is (Verdict.INCONCLUSIVE if runs == 5 else Verdict.REGRESSED)


@pytest.mark.parametrize("runs", [5, 7, 10])
def test_runs_that_are_alike_seldom_stand_apart(runs):
    dice = random.Random(4)
    said = sum(any(any(apart([dice.gauss(0, 1) for _ in range(runs)])) for _ in range(8)) for _ in range(300))
    assert said <= 300 * 0.08
    assert apart([0.0, 0.01, -0.01, 0.005, -0.005, 0.002, 1.0]) == [False] * 6 + [True]
    assert apart([0.0] * 5 + [0.1]) == [False] * 6  # how far such as are alike lie apart is not known


def test_a_run_that_stands_apart_is_named_with_its_side(run):
    base, new = sides(run, 0.0)
    new[3] = replace(at(new[3], 3, log=0.8, minute=7), run_id="far")
    assert any("03 of NEW stands apart" in doubt and "--test ranks" in doubt for doubt in compare(base, new).doubts)


def test_the_limit_of_a_check_is_what_was_applied(run):
    one = compare([at(run, 1)], [at(run, 2, log=0.9, day=21)])
    row = next(each for each in one.metrics if each.verdict is Verdict.REGRESSED)
    (check,) = (each for each in checks_of(one) if each.name == row.name)
    assert check.limit == pytest.approx(row.floor_share * 100)
    assert check.limit > row.tolerance_share * 100


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        (
            {"target": [{"name": "e", "quota": {"tokens_per_minute": 9_000}}, {"name": "w"}]},
            "quota.e.tokens_per_minute",
        ),
        ({"load": {"rate": 5, "duration": 60, "max_in_flight": 7}}, "load.max_in_flight"),
    ],
)
def test_quotas_of_each_target_and_the_cap_on_requests_in_flight_are_part_of_what_was_asked(changed, key):
    urls = ("http://127.0.0.1:1", "http://127.0.0.1:2")

    def settings(more):
        targets = more.get("target", [{"name": "e"}, {"name": "w"}])
        named = [{**target, "url": url} for target, url in zip(targets, urls, strict=True)]
        return settings_of(RunConfig.model_validate({"load": {"rate": 5, "duration": 60}, **more, "target": named}))

    usual, other = settings({}), settings(changed)
    assert [name for name in usual if usual[name] != other[name]] == [key]


def test_a_percentile_keeps_which_requests_it_is_of():
    import numpy as np

    assert run_quantile("response_time", 50.0, np.arange(1.0, 50.0), "stream=no").of == "stream=no"
