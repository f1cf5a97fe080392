"""One quota for all workers: the desk admits what the throttle of one process would, whoever asks."""

import random

import pytest

from loadgen.quota import Quota, pacing
from loadgen.spread.desk import Desk

S = 1_000_000_000
MS = 1_000_000
QUOTA = Quota(tokens_per_minute=60_000, requests_per_minute=600)


def alone(arrivals):
    """When one process's limiter admits each arrival, first come, first served."""
    limiter, last_ns, admitted = pacing(QUOTA), 0, {}
    for number, (due_ns, tokens) in enumerate(arrivals):
        last_ns = limiter.earliest_ns(max(due_ns, last_ns), tokens)
        limiter.take(last_ns, tokens)
        admitted[number] = last_ns
    return admitted


def together(arrivals, workers, ahead_ns, *, asked_ahead_ns=250 * MS, tick_ns=5 * MS):
    """When a desk admits them, dealt to so many workers that ask ahead; and when it said so."""
    desk, admitted, told = Desk(pacing(QUOTA), ahead_ns=ahead_ns), {}, {}
    asked, now_ns = 0, 0
    while len(admitted) < len(arrivals):
        while asked < len(arrivals) and arrivals[asked][0] - asked_ahead_ns <= now_ns:
            due_ns, tokens = arrivals[asked]
            desk.ask(asked % workers, asked, due_ns, tokens)
            asked += 1
        for each in desk.admit(now_ns):
            admitted[each.number], told[each.number] = each.at_ns, now_ns
        now_ns += tick_ns
    return admitted, told


def poisson(rate_per_s, seconds, seed):
    dice, at_s, arrivals = random.Random(seed), 1.0, []
    while at_s < seconds:
        arrivals.append((round(at_s * S), dice.randint(10, 400)))
        at_s += dice.expovariate(rate_per_s)
    return arrivals


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize(("rate_per_s", "what"), [(3, "with room"), (9, "at the limit"), (30, "far above it")])
def test_what_is_admitted_when_does_not_depend_on_how_many_ask(workers, rate_per_s, what):
    arrivals = poisson(rate_per_s, 30, seed=workers)
    admitted, told = together(arrivals, workers, ahead_ns=150 * MS)
    assert admitted == alone(arrivals), what
    assert all(told[number] <= admitted[number] for number in told), "an answer came after its instant"


def test_an_ask_that_comes_late_need_not_wait_for_those_that_were_granted_ahead():
    """As a retry, or a turn of a session: what is due next has been decided already, 150 ms ahead."""
    desk = Desk(pacing(QUOTA, slack_ns=150 * MS), ahead_ns=150 * MS)
    desk.ask(0, 1, 1_150 * MS, 10)
    assert [each.at_ns for each in desk.admit(1_000 * MS)] == [1_150 * MS]
    desk.ask(1, 2, 1_001 * MS, 10)
    assert [each.at_ns for each in desk.admit(1_001 * MS)] == [1_001 * MS]
    desk.pause(1_100 * MS)
    desk.ask(1, 3, 1_002 * MS, 10)
    assert [each.at_ns for each in desk.admit(1_002 * MS)] == [1_100 * MS]


@pytest.mark.parametrize("seed", range(4))
def test_asks_that_come_late_and_early_keep_within_any_minute(seed):
    dice, ahead_ns = random.Random(seed), 150 * MS
    desk, asked, sent = Desk(pacing(QUOTA, slack_ns=ahead_ns), ahead_ns=ahead_ns), 0, []
    for now_ns in range(S, 140 * S, 10 * MS):
        while dice.random() < 0.12:
            desk.ask(asked % 3, asked, now_ns + dice.choice((0, 250 * MS)), dice.randint(10, 400))
            asked += 1
        sent += [each.at_ns for each in desk.admit(now_ns)]
    sent.sort()
    limit = QUOTA.requests_per_minute
    assert len(sent) > limit
    assert all(later - earlier >= 60 * S for earlier, later in zip(sent, sent[limit:], strict=False))


def test_a_late_answer_is_never_dated_back():
    """An ask that comes when it is wanted, as of a closed loop, counts from the instant of its answer."""
    desk = Desk(pacing(QUOTA))
    desk.ask(0, 1, 1 * S, 10)
    assert [each.at_ns for each in desk.admit(3 * S)] == [3 * S]


def test_the_largest_waits_at_the_head_and_nobody_passes():
    desk = Desk(pacing(QUOTA))
    desk.ask(0, 1, 1 * S, 5_000)  # all that five seconds of quota hold
    desk.ask(1, 2, 2 * S, 4_000)
    desk.ask(0, 3, 3 * S, 1)
    assert [each.number for each in desk.admit(1 * S)] == [1]
    assert desk.admit(4 * S) == []
    assert desk.next_ns(4 * S) == 5 * S
    assert [each.number for each in desk.admit(5 * S)] == [2]


def test_what_is_withdrawn_is_not_admitted_or_given_back():
    desk = Desk(pacing(QUOTA))
    for number in (1, 2):
        desk.ask(0, number, 1 * S, 5_000)
    assert [each.number for each in desk.admit(1 * S)] == [1]
    desk.withdraw(1 * S, 0, 2)
    assert desk.next_ns(1 * S) is None
    desk.ask(0, 3, 1 * S, 5_000)
    desk.withdraw(1 * S, 0, 1)  # granted and never sent
    assert [each.number for each in desk.admit(1 * S)] == [3]


def test_a_settled_grant_makes_room():
    desk = Desk(pacing(QUOTA))
    desk.ask(0, 1, 1 * S, 5_000)
    desk.ask(1, 2, 1 * S, 3_000)
    assert [each.number for each in desk.admit(1 * S)] == [1]
    desk.settle(1 * S, 0, 1, 100)
    assert [each.number for each in desk.admit(1 * S)] == [2]


def test_a_lost_worker_leaves_the_queue_but_what_it_was_granted_stays_taken():
    desk = Desk(pacing(QUOTA))
    for number, worker in enumerate((0, 0, 1)):
        desk.ask(worker, number, 1 * S, 5_000)
    assert [each.number for each in desk.admit(1 * S)] == [0]
    desk.lose(0)
    assert desk.waiting == 1
    assert desk.next_ns(1 * S) == 6 * S
    assert [(each.worker, each.number) for each in desk.admit(6 * S)] == [(1, 2)]


def test_places_in_flight_are_those_of_all_workers():
    desk = Desk(pacing(QUOTA), concurrency=2)
    for number in range(4):
        desk.ask(number % 2, number, 1 * S, 10)
    assert [each.number for each in desk.admit(1 * S)] == [0, 1]
    assert desk.next_ns(2 * S) is None
    desk.release(0, 1)
    assert [each.number for each in desk.admit(2 * S)] == [2]
    desk.lose(0)
    assert desk.admit(2 * S) == []  # it may still be in flight
    desk.clear_places(0)
    assert [each.number for each in desk.admit(3 * S)] == [3]


def test_a_pause_holds_back_all():
    desk = Desk(pacing(QUOTA))
    desk.pause(9 * S)
    desk.ask(0, 1, 1 * S, 10)
    assert desk.admit(2 * S) == []
    assert desk.next_ns(2 * S) == 9 * S
