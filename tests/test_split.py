"""Which target an arrival goes to: by weight, in turn, to the least throttled, or to each; and what tries it again."""

from collections import Counter

import pytest

from loadgen.schedule import Arrival, drawn
from loadgen.split import Copied, Router

NOW_NS = 5_000


def arrivals(n, seed=1):
    return [Arrival(seq, seq, "chat", seed) for seq in range(n)]


def unasked():
    raise AssertionError("only the least throttled depends on what the targets' throttles hold")


def test_a_weight_is_a_share_and_depends_on_the_seed_and_the_number_alone():
    router = Router("weight", [3.0, 1.0])
    places = [router.first(arrival, unasked) for arrival in arrivals(4_000)]
    assert places.count(0) == pytest.approx(3_000, abs=110)  # four standard deviations
    assert [router.first(arrival, unasked) for arrival in reversed(arrivals(4_000))] == places[::-1]
    assert [router.first(arrival, unasked) for arrival in arrivals(4_000, seed=2)] != places


@pytest.mark.parametrize("split", ["round_robin", "each"])
def test_in_turn_each_target_gets_every_nth(split):
    router = Router(split, [9.0, 1.0, 1.0])
    assert [router.first(arrival, unasked) for arrival in arrivals(6)] == [0, 1, 2, 0, 1, 2]


LEAST = [  # of each target how many wait and when one more could go, the arrival's number, and where it goes
    ([(3, NOW_NS), (1, NOW_NS + 9), (2, NOW_NS)], 0, 1),  # fewest waiting
    ([(1, NOW_NS + 9), (1, NOW_NS + 8), (2, NOW_NS)], 0, 1),  # then the soonest
    ([(0, NOW_NS), (0, NOW_NS), (0, NOW_NS)], 4, 1),  # those alike take turns
    ([(0, NOW_NS), (0, NOW_NS + 1), (0, NOW_NS)], 4, 2),
]


@pytest.mark.parametrize(("outlooks", "seq", "place"), LEAST)
def test_the_least_throttled_has_the_shortest_queue_then_the_soonest_room(outlooks, seq, place):
    assert Router("least_throttled", [1.0] * 3).first(Arrival(seq, 0, "chat"), lambda: outlooks) == place


ELSEWHERE = [  # how arrivals are split, which targets refused, and which may try again
    ("round_robin", [1], {2}),
    ("round_robin", [2], {0}),
    ("round_robin", [1, 2], {0}),
    ("round_robin", [1, 2, 0], {1}),  # all have: another than the last
    ("least_throttled", [0], {2}),
    ("least_throttled", [0, 2], {1}),
    ("weight", [0], {1, 2}),
    ("weight", [1, 0], {2}),
]


@pytest.mark.parametrize(("split", "tried", "places"), ELSEWHERE)
def test_what_was_refused_goes_to_a_target_that_has_not_refused_it_yet(split, tried, places):
    outlooks = [(0, NOW_NS), (5, NOW_NS), (1, NOW_NS)]
    router = Router(split, [1.0, 1.0, 1.0])
    assert {router.elsewhere(arrival, tried, lambda: outlooks) for arrival in arrivals(40)} == places


def test_by_weight_a_retry_too_goes_where_the_weight_is():
    router = Router("weight", [1.0, 8.0, 2.0])
    places = Counter(router.elsewhere(arrival, [0], unasked) for arrival in arrivals(2_000))
    assert places[1] == pytest.approx(1_600, abs=75)
    assert places.keys() == {1, 2}


def test_each_target_gets_the_same_draws_at_the_same_instant_under_a_number_of_its_own():
    schedule = list(drawn("poisson", 20, 3, {"chat": 1, "streaming": 2}, 7))
    copies = list(Copied(schedule, 3))
    assert [copy.seq for copy in copies] == list(range(3 * len(schedule)))
    for place in range(3):
        of_target = copies[place::3]
        assert {Router("each", [1.0] * 3).first(copy, unasked) for copy in of_target} == {place}
        assert [(each.due_ns, each.scenario) for each in of_target] == [(e.due_ns, e.scenario) for e in schedule]
        assert [each.random.random() for each in of_target] == [each.random.random() for each in schedule]
