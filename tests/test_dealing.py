"""Arrivals, users and slots dealt to workers: nothing twice, nothing lost, nothing drawn anew."""

from itertools import islice

import msgpack
import pytest

from loadgen.schedule import Arrival, drawn
from loadgen.spread.dealer import Dealer
from loadgen.spread.dealing import Deal, Share, packed, unpacked
from loadgen.spread.roster import Roster

SCHEDULE = list(drawn("poisson", 200, 10, {"chat": 2, "streaming": 1}, seed=3))


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
def test_the_shares_together_are_the_schedule(workers):
    deal = Deal(range(workers))
    shares = [[each for each in SCHEDULE if deal.owner(each.seq) == worker] for worker in range(workers)]
    assert sorted((each for share in shares for each in share), key=lambda each: each.seq) == SCHEDULE
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_after_a_loss_the_others_take_all_that_was_not_dealt():
    deal = Deal(range(3))
    before = [deal.owner(seq) for seq in range(100)]
    deal.lose(1, 100)
    assert [deal.owner(seq) for seq in range(100)] == before, "what had been dealt stays dealt"
    assert {deal.owner(seq) for seq in range(100, 200)} == {0, 2}
    deal.lose(0, 200)
    deal.lose(2, 300)
    assert {deal.owner(seq) for seq in range(200, 300)} == {2}
    assert deal.owner(300) is None


def test_a_replayed_run_is_dealt_by_place_since_its_numbers_need_not_rise():
    """A closed loop numbers its users' requests when they begin to think, and later turns leave gaps."""
    arrivals = [Arrival(seq, 0, "a") for seq in (9, 2, 4, 0, 7, 11)]
    dealt = {0: [], 1: []}
    dealer = Dealer(arrivals, 2, lambda worker, share: dealt[worker].extend(unpacked(share) if share else ()))
    dealer.run(0, lambda: False)
    assert [[each.seq for each in share] for share in dealt.values()] == [[9, 4, 7], [2, 0, 11]]
    dealer.lose(1)
    assert [each.seq for each in dealer.unaccounted(1, {0}, None)] == [2, 11]


@pytest.mark.parametrize(
    ("arrivals", "what"),
    [
        (SCHEDULE[:500], "drawn ones"),
        ([Arrival(7, 2**62, "a", 2**63 - 1, 12, None), Arrival(8, 5, "b", 0, None, 3)], "with tokens now and then"),
        ([Arrival(1, 1, "ä, 漢")], "one alone"),
        ([], "none"),
    ],
)
def test_arrivals_arrive_as_they_left(arrivals, what):
    wire = msgpack.loads(msgpack.dumps(packed(arrivals)), raw=False)
    assert unpacked(wire) == arrivals, what


def test_an_arrival_takes_some_twenty_bytes():
    assert len(msgpack.dumps(packed(SCHEDULE))) < 20 * len(SCHEDULE)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_users_slots_and_numbers_are_shared_without_rest(workers):
    users = list(enumerate(["chat"] * 5 + ["streaming"] * 3 + ["vision"]))
    shares = [Share(index, workers, first=100) for index in range(workers)]
    dealt = [list(share.pick(users)) for share in shares]
    assert sorted(user for each in dealt for user in each) == users
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert sum(share.slots(10) for share in shares) == 10
    assert all(share.slots(1) == 1 for share in shares)
    numbers = [number for share in shares for number in islice(share.numbers(), 50)]
    assert sorted(numbers)[: 50 * workers] == list(range(100, 100 + 50 * workers))


VERSIONS = {"headroom": "1.2.3", "locust": "2.47.0"}
HELLO = {"versions": VERSIONS, "host": "there", "pid": 1}


@pytest.mark.parametrize(
    ("hello", "wanted", "started", "words"),
    [
        (HELLO | {"versions": {"headroom": "1.3.0", "locust": "2.47.0"}}, 2, False, "headroom 1.2.3 and there 1.3.0"),
        (HELLO | {"versions": {"headroom": "1.2.9", "locust": "2.46.0"}}, 2, False, "locust 2.47.0 and there 2.46.0"),
        (HELLO | {"versions": None}, 2, False, "install the same"),
        (HELLO, 2, True, "the load has begun"),
        (HELLO, 1, False, "1 workers already"),
    ],
)
def test_a_worker_that_does_not_belong_is_refused_with_the_reason(hello, wanted, started, words):
    roster = Roster(wanted, VERSIONS)
    roster.join("first", HELLO, 0, keys=())
    roster.started = started
    assert words in roster.join("second", hello, 0, keys=())


def test_a_worker_of_the_same_name_is_refused_and_a_patch_apart_is_not():
    roster = Roster(3, VERSIONS)
    roster.join("first", HELLO, 0, keys=())
    assert roster.join("first", HELLO, 0, keys=()) == "a worker named first is here already"
    patch = HELLO | {"versions": {"headroom": "1.2.9", "locust": "2.47.9"}}
    assert roster.join("second", patch, 0, keys=()).index == 1


def test_progress_is_the_sum_and_a_lost_worker_has_nothing_in_flight():
    roster = Roster(2, VERSIONS)
    for client_id in "ab":
        roster.join(client_id, HELLO, 0, keys=())
    told = dict.fromkeys(("sent", "ok", "failed", "throttled", "dropped", "tokens", "in_flight", "waiting"), 2)
    told |= {"tokens_per_minute": 5, "requests_per_minute": 3}
    roster.members[0].progress = told | {"ttft_p50_ms": 30.0}
    roster.members[1].progress = told | {"ttft_p50_ms": None}
    assert roster.progress()["sent"] == 4
    assert roster.progress()["ttft_p50_ms"] == 30.0
    roster.members[1].lost = "killed"
    assert (roster.progress()["sent"], roster.progress()["in_flight"]) == (4, 2)
