"""A worker's end of quota and budget, and what its master writes off: nothing is given back twice, nothing is silent."""

import time
from hashlib import sha256
from itertools import islice

import gevent
import pytest

from loadgen.alarm import Alarm
from loadgen.budget import Budget
from loadgen.errors import RunFolderError
from loadgen.quota import Quota, pacing
from loadgen.schedule import drawn
from loadgen.split import Copied
from loadgen.spread.dealer import Dealer
from loadgen.spread.dealing import Deal, unpacked
from loadgen.spread.desk import Desk
from loadgen.spread.distant import DistantBudget, DistantThrottle
from loadgen.spread.reception import Reception
from loadgen.spread.roster import GIVE_UP_NS, LEASE_NS, LOST_NS, Roster, clock_of, own_ns
from loadgen.spread.shipping import receive

ESTIMATE = (10, 0.5)


def gate_of(budget=None):
    gate = DistantThrottle(pacing(Quota()), Alarm(), lambda _: None, budget)
    return gate, budget


def now_and(ms):
    return time.monotonic_ns() + round(ms * 1e6)


@pytest.mark.parametrize(
    ("answered", "returned"),
    [
        ("granted, then withdrawn", [-10, -0.5, -1]),
        ("withdrawn, then granted", [-10, -0.5, -1]),
        ("refused, then withdrawn", None),
        ("withdrawn, then refused", None),
    ],
)
def test_what_is_withdrawn_gives_back_what_the_budget_gave_and_no_more(answered, returned):
    gate, budget = gate_of(DistantBudget())
    gate.expect(now_and(ms=100), 10, ESTIMATE)
    steps = {
        "granted": lambda: gate.answer([1, now_and(ms=100)]),
        "refused": lambda: gate.answer([1, None]),
        "withdrawn": gate.forget,
    }
    for step in answered.split(", then "):
        steps[step]()
    assert budget.take_changes() == returned


@pytest.mark.parametrize(("but_granted", "admitted"), [(True, [1]), (False, [])])
def test_who_is_granted_may_be_spared_when_the_others_are_dismissed(but_granted, admitted):
    gate, _ = gate_of()
    found = []
    users = [gevent.spawn(lambda number=number: found.append((gate.admit(10), number))) for number in (1, 2)]
    gevent.sleep(0.01)
    gate.answer([1, now_and(ms=50)])
    gevent.sleep(0.01)
    gate.dismiss(but_granted=but_granted)
    gevent.joinall(users, timeout=2)
    assert [number for _, number in found] == admitted
    assert gate.waiting == 0


@pytest.mark.parametrize(("asked_ahead_ms", "ours"), [(20, True), (-1, False)])
def test_an_answer_that_comes_late_to_who_asked_ahead_is_our_own_lateness(asked_ahead_ms, ours):
    gate, _ = gate_of()
    wanted_ns = now_and(ms=asked_ahead_ms)

    def ask():
        gate.expect(wanted_ns, 10, ESTIMATE)
        return gate.admit(10)

    user = gevent.spawn(ask)
    gevent.sleep(0.06)
    gate.answer([1, wanted_ns])
    grant = user.get(timeout=2)
    assert (grant.at_ns == wanted_ns) is ours


def test_where_targets_take_turns_each_worker_is_dealt_whole_turns():
    deal = Deal(range(2), targets=2)
    assert [deal.owner(seq) for seq in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
    deal.lose(0, 8)
    assert {deal.owner(seq) for seq in range(8, 16)} == {1}


def test_what_a_lost_worker_held_is_known_where_each_target_gets_it_too():
    schedule = Copied(list(drawn("poisson", 50, 1, {"chat": 1}, 7)), 2)
    dealt = {0: [], 1: []}

    def send(worker, share):
        dealt[worker] += unpacked(share) if share is not None else []

    dealer = Dealer(schedule, 2, send, targets=2)
    dealer.run(time.monotonic_ns() - 2_000_000_000, lambda: False)
    assert sorted(each.seq for share in dealt.values() for each in share) == list(range(len(list(schedule))))
    dealer.lose(1)
    recorded = {each.seq for each in islice(dealt[1], 3)}
    assert list(dealer.unaccounted(1, recorded, None)) == dealt[1][3:]


def test_who_was_frozen_with_a_grant_asks_anew_and_the_budget_has_it_back():
    sent = []
    budget = DistantBudget()
    gate = DistantThrottle(pacing(Quota()), Alarm(), sent.append, budget)
    user = gevent.spawn(gate.admit, 10)
    gevent.sleep(0.01)
    gate.answer([1, now_and(ms=-600)])
    gevent.sleep(0.01)
    assert (user.dead, gate.void, gate.waiting) == (False, 1, 1)
    assert budget.take_changes() == [-10, 0.0, -1]
    gate.answer([2, now_and(ms=0)])
    assert user.get(timeout=2).receipts == [2]


def test_places_come_back_when_requests_end_and_when_their_worker_is_gone():
    desk = Desk(pacing(Quota()), concurrency=2)
    for number in range(6):
        desk.ask(number % 2, number, 0, 1)
    assert [each.number for each in desk.admit(1)] == [0, 1]
    desk.release(0, 5)
    assert [each.number for each in desk.admit(10**9)] == [2], "none comes back that was not taken"
    desk.clear_places(0)
    desk.clear_places(0)
    assert [each.number for each in desk.admit(2 * 10**9)] == [3]


def test_the_master_books_what_a_worker_settles_and_takes_no_damaged_part(tmp_path):
    budget = Budget(tokens=1_000)
    budget.reserve(100, 0.0)
    Reception([Desk(None, budget=budget)], Alarm(), lambda *_: None, budget).read(0, 0, {"budget": [-40, 0.0, 0]})
    assert budget.use() == {"tokens": {"used": 60.0, "limit": 1_000.0}}
    (tmp_path / "parts").mkdir()
    part = {"name": "samples-00001-000001.parquet", "content": b"half", "sha256": sha256(b"whole").hexdigest()}
    for worker, words in ((1, "damaged"), (2, "none of its parts")):
        with pytest.raises(RunFolderError, match=words):
            receive(tmp_path, worker, part)
    assert not list((tmp_path / "parts").iterdir())


def test_the_clocks_of_two_hosts_are_compared_by_the_shortest_round_trip():
    """The master's clock is 5 s ahead; one answer was held up on its way, which says less."""
    ahead_ns = 5_000_000_000
    trips = [(100, 150 + ahead_ns, 200), (1_000, 1_040 + ahead_ns, 9_000)]
    assert clock_of(trips) == {"offset_ns": ahead_ns, "uncertainty_ns": 50}
    assert own_ns(7_000_000_000, ahead_ns) == 2_000_000_000, "what the master calls 7 s is 2 s here"


def test_a_worker_is_lost_after_three_seconds_of_silence_and_its_lease_has_ended_by_then():
    roster = Roster(1, {})
    roster.join("a", {"host": "there", "pid": 1}, 0, keys=())
    assert roster.overdue(4_000_000_000) == [], "before the load a scenario may take long to import"
    roster.started = True
    assert roster.overdue(2_900_000_000) == []
    assert roster.overdue(3_100_000_000) == roster.members
    assert LEASE_NS < LOST_NS < GIVE_UP_NS
