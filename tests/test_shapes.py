"""A load's rate over time, the keys that say it, and how users of a closed loop join and think."""

import math
from collections import Counter
from random import Random

import pytest

from loadgen.closed_loop import ThinkTime, joining_s
from loadgen.config import LoadConfig
from loadgen.errors import ConfigError
from loadgen.loadtest import load_config
from loadgen.schedule import drawn, shaped
from loadgen.shapes import Piece, Shape, Stage, constant, parse_rate

# kind, rate, arrivals, due of the first, the hundredth and the last, sum of them all, those of scenario s
PINS = [
    ("constant", 7, 279, 142857143, 14285714286, 39857142857, 5580000000000, 190),
    ("constant", 123.4, 4936, 8103728, 810372771, 40000000000, 98739999999995, 3310),
    ("poisson", 7, 276, 270316864, 14811590532, 39785165898, 5526708425330, 188),
    ("poisson", 123.4, 4976, 15334020, 840203677, 39985916201, 99020334432317, 3333),
    ("gamma", 7, 271, 266613279, 14512856811, 39990196481, 5325549329024, 184),
    ("gamma", 123.4, 4944, 15123930, 823257680, 39983421324, 98481348424311, 3316),
]


@pytest.mark.parametrize("pin", PINS)
def test_a_constant_rate_draws_what_it_always_drew(pin):
    """If this fails, runs are no longer comparable with those recorded before."""
    kind, rate, *expected = pin
    arrivals = list(drawn(kind, rate, 40, {"chat": 1.0, "s": 2.0}, 11, gamma_shape=0.7))
    due_ns = [each.due_ns for each in arrivals]
    of_s = sum(each.scenario == "s" for each in arrivals)
    assert [len(due_ns), due_ns[0], due_ns[99], due_ns[-1], sum(due_ns), of_s] == expected


DAY = ",".join(["1"] * 12 + ["3"] * 12)
RATES = [  # what the load says, and its rate at instants in seconds
    ("the first stage holds its rate, ramps are even", {"stages": "5/s:10s,20/s:10s"}, {0: 5, 9.9: 5, 15: 12.5, 19.9: 19.85, 20: 0}),
    ("a stage of no time jumps", {"stages": "5/s:10s, 20/s:0s, 20/s:5s"}, {9.9: 5, 10: 20, 14.9: 20, 15: 0}),
    ("a first stage of no time is where a ramp starts", {"stages": "0/s:0s,60/min:60s"}, {0: 0, 30: 0.5, 59.9: 0.99833}),
    ("stages may be a list", {"stages": ["4/s:6s", "0/s:4s"]}, {5: 4, 8: 2}),
    ("a spike replaces the rate for a while", {"rate": 5, "spike": "50/s:10s@30s"}, {29.9: 5, 30: 50, 39.9: 50, 40: 5, 59: 5}),
    ("a spike may begin and end with the run", {"spike": "1/s:60s@0s"}, {0: 1, 59: 1}),
    ("a pause is a spike too", {"rate": "300/min", "spike": "0/s:10s@30s"}, {29: 5, 31: 0, 41: 5}),
    ("the rate is a day's mean, each weight holds an hour", {"rate": 10, "diurnal": DAY, "duration": 24}, {0: 5, 11.9: 5, 12: 15, 23.9: 15}),
    ("days come again", {"rate": 10, "diurnal": DAY, "duration": 60, "day": "24s"}, {11: 5, 13: 15, 25: 5, 37: 15, 49: 5}),
]  # fmt: skip


def rate_at(shape, at_s):
    """Per second; zero from the end on. Where the rate jumps, the later one."""
    began_s = 0.0
    for piece in shape.pieces:
        if at_s < began_s + piece.duration_s:
            share = (at_s - began_s) / piece.duration_s
            return piece.first_per_s + (piece.last_per_s - piece.first_per_s) * share
        began_s += piece.duration_s
    return 0.0


@pytest.mark.parametrize(("claim", "load", "rates"), RATES, ids=[row[0] for row in RATES])
def test_the_rate_over_time(claim, load, rates):
    shape = LoadConfig.model_validate({"warmup": 0, **load}).shape
    assert {at_s: rate_at(shape, at_s) for at_s in rates} == pytest.approx(rates, rel=1e-4)


def random_shape(random):
    levels = [0.0, 0.5, 3.0, 40.0, 40.0 + 1e-9]
    pieces = [
        Piece(random.choice([0.01, 1.0, 300.0]), random.choice(levels), random.choice(levels))
        for _ in range(random.randint(1, 6))
    ]
    return Shape((*pieces, Piece(1.0, 1.0, 2.0)))


@pytest.mark.parametrize("seed", range(40))
def test_the_inverse_of_the_integral_is_its_inverse(seed):
    random = Random(seed)
    shape = random_shape(random)
    areas = sorted(random.uniform(0, shape.area) for _ in range(200))
    instants = list(shape.instants_of(areas))
    assert len(instants) == 200 and instants == sorted(instants)
    assert [shape.area_until(at_s) for at_s in instants] == pytest.approx(areas, rel=1e-9, abs=1e-9)
    steps = 20_000  # the integral itself, by the rate at the middles of so many steps
    at_s = instants[100]
    summed = math.fsum(rate_at(shape, (step + 0.5) / steps * at_s) for step in range(steps)) / steps * at_s
    assert summed == pytest.approx(areas[100], rel=0.02, abs=0.05)
    assert not list(shape.instants_of([shape.area, shape.area + 1]))


def test_constant_arrivals_of_a_ramp_come_once_per_unit_of_area():
    ramp = LoadConfig(stages="0/s:0s,10/s:10s", warmup=0).shape
    due_s = [each.due_ns / 1e9 for each in shaped("constant", ramp, {"chat": 1}, 1)]
    assert due_s == pytest.approx([math.sqrt(2 * number) for number in range(1, 50)], abs=1e-8)


def test_stages_say_how_long_the_run_lasts():
    config = LoadConfig(stages="5/s:60s,20/s:120s")
    assert config.duration == 180
    assert LoadConfig(stages="5/s:60s,20/s:120s", duration="3m").duration == 180
    assert LoadConfig.model_validate(config.model_dump(mode="json")) == config


def test_every_shape_survives_the_manifest():
    for load in ({"trace": "t.csv", "from": "10m", "scale": "2x"}, {"spike": "9/s:1s@2s"}, {"diurnal": DAY, "day": 5}):
        config = LoadConfig.model_validate(load)
        assert LoadConfig.model_validate(config.model_dump(mode="json")) == config
    assert LoadConfig.model_validate({"trace": "t", "from": "10m", "scale": "2x"}).from_ == 600


REFUSED = [  # keys of [load], flags, what is said
    ({"rate": 5, "stages": "5/s:60s"}, {}, "load: rate and stages exclude each other"),
    ({"users": 5, "trace": "t"}, {}, "load: users and trace exclude each other"),
    ({"spike": "9/s:1s@2s", "diurnal": DAY}, {}, "load: spike and diurnal exclude each other"),
    ({"users": 5, "spike": "9/s:1s@2s"}, {}, "load: users and spike exclude each other"),
    ({"stages": "5/s"}, {}, "load.stages: '5/s' is not a stage; write it like 20/s:120s"),
    ({"stages": "5/s:1m,x/s:1m"}, {}, "load.stages: 'x/s' is not a rate"),
    ({"stages": "5/s:soon"}, {}, "load.stages: 'soon' is not a duration"),
    ({"stages": "-5/s:60s"}, {}, "load.stages: '-5/s:60s': a rate is not below zero"),
    ({"stages": "0/s:60s"}, {}, "load.stages: the stages ask for no arrival"),
    ({"stages": []}, {}, "load.stages: the stages ask for no arrival"),
    ({"stages": "nan/s:60s"}, {}, "load.stages: 'nan/s' is not a rate"),
    ({"stages": "5/s:60s", "duration": 50}, {}, "load: the stages take 60 s, and the duration is 50 s: leave it out"),
    ({"stages": "5/s:4s"}, {}, "load: warmup 5 s and cooldown 0 s leave nothing of 4 s"),
    ({"spike": "50/s@30s"}, {}, "load.spike: '50/s@30s' is not a spike; write it like 50/s:10s@30s"),
    ({"spike": "50/s:10s@55s"}, {}, "load: the spike ends 65 s after the start, and the run after 60 s"),
    ({"spike": "50/s:0s@5s"}, {}, "a spike's rate is not below zero, and it lasts for some time"),
    ({"diurnal": "1,2"}, {}, "load.diurnal: a day has 24 hours, and 2 weights are given"),
    ({"diurnal": ",".join(["0"] * 24)}, {}, "load.diurnal: the weight of an hour is"),
    ({"diurnal": DAY[:-1] + "x"}, {}, "load.diurnal: .* are no weights"),
    ({"diurnal": DAY, "day": "1ms"}, {}, "load: 60 s are more than 10,000 days of 0.001 s"),
    ({"users": 2, "think_time": "soon"}, {}, "load.think_time: 'soon' is not a think time; write it like 2s"),
    ({"users": 2, "think_time": "3s..1s"}, {}, "load.think_time: '3s..1s': the shorter time comes first"),
    ({"users": 200, "spawn_rate": 1}, {}, "load: 200 users at 1 a second take longer to come than the 60 s"),
    ({"trace": "t", "scale": "twice"}, {}, "load.scale: 'twice' is no factor; write it like 2x"),
    ({"trace": "t", "scale": "0x"}, {}, "load.scale: input should be greater than 0"),
    # What would be passed over silently.
    ({"rate": 5, "speed": 1}, {}, "load.speed: goes with trace, and says nothing of a load given by rate"),
    ({"users": 5, "arrivals": "constant"}, {}, "load.arrivals: goes with rate or stages, and .* by users"),
    ({"users": 5, "max_in_flight": 9}, {}, "load.max_in_flight: goes with rate or stages or trace"),
    ({"trace": "t"}, {"load.arrivals": "poisson"}, "^--arrivals: goes with rate or stages, and .* by trace"),
    ({}, {"load.think_time": "1s"}, "^--think-time: goes with users, and says nothing of a load given by rate"),
    ({}, {"load.skip_bad_rows": True}, "^--skip-bad-rows: goes with trace"),
    ({"rate": 5, "from": "10s"}, {}, "load.from: goes with trace"),
    ({"rate": 5, "day": "10s"}, {}, "load.day: says nothing without diurnal"),
    ({"rate": 5, "gamma_shape": 2}, {}, "load.gamma_shape: says nothing without arrivals = gamma"),
    ({"rate": 5, "form": 2}, {}, "load.form: unknown key; did you mean 'from'"),
]  # fmt: skip


@pytest.mark.parametrize(("load", "flags", "complaint"), REFUSED)
def test_a_load_that_cannot_be_meant_is_refused_by_key_or_flag(tmp_path, load, flags, complaint):
    file = tmp_path / "loadtest.toml"
    file.write_text("[load]\n" + "".join(f"{key} = {value!r}\n" for key, value in load.items()).replace("True", "true"))
    with pytest.raises(ConfigError, match=complaint):
        load_config(file, flags, {})


FILES = [  # keys of [load], flags over them, what they come to
    ("a shape's flag takes its options from the file with it", {"rate": 5, "arrivals": "constant", "max_in_flight": 9}, {"load.users": 3}, {"users": 3, "rate": None}),
    ("stages bring their own duration", {"rate": 5, "duration": 600}, {"load.stages": "5/s:90s"}, {"duration": 90.0, "rate": None}),
    ("a spike goes onto the file's rate", {"rate": 5, "diurnal": [1] * 24, "arrivals": "constant"}, {"load.spike": "9/s:1s@2s"}, {"rate": 5.0, "diurnal": None, "arrivals": "constant"}),
    ("a rate changes a day's mean", {"rate": 5, "diurnal": [1] * 24}, {"load.rate": "9/s"}, {"rate": 9.0, "diurnal": (1.0,) * 24}),
    ("a rate replaces stages", {"stages": "5/s:90s"}, {"load.rate": "9/s"}, {"rate": 9.0, "stages": None, "duration": 60.0}),
    ("other arrivals need no gamma shape", {"rate": 5, "arrivals": "gamma", "gamma_shape": 2}, {"load.arrivals": "poisson"}, {"arrivals": "poisson", "gamma_shape": 0.5}),
    ("a spike without a rate is on the default one", {"spike": "9/s:1s@2s"}, {}, {"rate": 6.0}),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "load", "flags", "expected"), FILES, ids=[row[0] for row in FILES])
def test_flags_over_a_files_shape(tmp_path, claim, load, flags, expected):
    file = tmp_path / "loadtest.toml"
    file.write_text("[load]\n" + "".join(f"{key} = {value!r}\n" for key, value in load.items()))
    config = load_config(file, flags, {}).load
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("text", ["", "5/s/s", "x", "inf/s", "5/day"])
def test_what_is_no_rate(text):
    with pytest.raises(ConfigError, match="is not a rate"):
        parse_rate(text)


def test_users_join_evenly_and_in_their_shares():
    users = list(joining_s({"chat": 6, "streaming": 12, "vision": 2}, 4.0))
    assert [at_s for at_s, _ in users] == [number / 4 for number in range(20)]
    assert Counter(name for _, name in users[:10]) == {"chat": 3, "streaming": 6, "vision": 1}
    assert {at_s for at_s, _ in joining_s({"chat": 6}, None)} == {0.0}


THOUGHTS = [
    ("a fixed time", "2s", 2.0, 2.0, 2.0),
    ("an even draw", "1s..3s", 2.0, 1.0, 3.0),
    ("an exponential of that mean", "exp:500ms", 0.5, 0.0, 10.0),
    ("none", "0s", 0.0, 0.0, 0.0),
    ("none on average", "exp:0s", 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("claim", "text", "mean_s", "least_s", "most_s"), THOUGHTS, ids=[row[0] for row in THOUGHTS])
def test_how_long_users_think(claim, text, mean_s, least_s, most_s):
    think = ThinkTime.parse(text)
    draws_s = [think.draw_ns(1, seq) / 1e9 for seq in range(4_000)]
    assert sum(draws_s) / 4_000 == pytest.approx(mean_s, rel=0.05)
    assert least_s <= min(draws_s) and max(draws_s) <= most_s
    assert draws_s[7] == think.draw_ns(1, 7) / 1e9
    if least_s < most_s:
        assert draws_s[7] != think.draw_ns(2, 7) / 1e9 and len(set(draws_s)) == 4_000


def test_a_stage_knows_its_parts():
    assert Stage.parse(" 300/min : 2m ") == Stage(5.0, 120.0)
    assert constant(5, 60).area == 300
