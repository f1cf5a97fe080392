"""A managed endpoint on a virtual clock: its refusals, its time limit, its machines and its pipe."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import ConfigError
from loadgen.simulator.autoscale import Meter, parse_rule
from loadgen.simulator.batching import BatchingModel, Outcome, Sequence
from loadgen.simulator.endpoint import Endpoint, EndpointSettings, Refused, Routing
from loadgen.simulator.fleet import Fleet

MS, S = 1_000_000, 1_000_000_000
MODEL = BatchingModel(
    iteration_base_ms=10, iteration_per_sequence_ms=0, prefill_per_token_ms=0, max_running=8, kv_tokens=10_000
)
ROOMY = {"max_concurrent_per_instance": 8, "request_timeout_ms": 180_000}


def endpoint_of(**given):
    return Endpoint(MODEL, EndpointSettings(**given))


def ended(sequences):
    return [(sequence.number, sequence.outcome, sequence.done_ns // MS) for sequence in sequences]


def states(endpoint, now_ns):
    return {view.number: str(view.state) for view in endpoint.instances(now_ns)}


# Refusals


def test_with_the_documented_defaults_three_instances_refuse_the_seventh_in_flight():
    endpoint = endpoint_of(instances=3)
    answers = [endpoint.submit(0, 10, 50) for _ in range(7)]
    assert [type(answer) for answer in answers] == [Sequence] * 6 + [Refused]
    assert answers[6] == Refused(429, "too many pending requests")
    assert [(view.running, view.queued) for view in endpoint.instances(0)] == [(1, 1)] * 3  # one runs, one waits
    assert [sequence.number for sequence in endpoint.advance(500 * MS)] == [0, 0, 0]
    assert isinstance(endpoint.submit(500 * MS, 10, 50), Sequence)


def test_requests_above_the_rate_of_any_second_are_refused():
    endpoint = endpoint_of(requests_per_second=3, **ROOMY)
    at_ms = (0, 600, 900, 999, 1000, 1001, 1600, 1601)
    statuses = [getattr(endpoint.submit(ms * MS, 1, 1), "reason", "ok") for ms in at_ms]
    assert statuses == ["ok", "ok", "ok", "rate-limited", "ok", "rate-limited", "ok", "rate-limited"]


def test_nobody_ready_answers_503_until_the_boot_is_over():
    endpoint = endpoint_of(boot_s=30)
    endpoint.kill(0, 0)
    assert endpoint.submit(30 * S - 1, 1, 1) == Refused(503, "no instance is ready")
    assert isinstance(endpoint.submit(30 * S, 1, 1), Sequence)


def test_a_request_that_no_instance_can_hold_is_refused_for_good():
    assert endpoint_of().submit(0, 9_000, 1_001).status == 400
    assert isinstance(endpoint_of().submit(0, 9_000, 1_000), Sequence)


# The time limit


def test_a_plain_request_fails_with_408_when_its_time_is_over():
    endpoint = endpoint_of(request_timeout_ms=1_000)
    endpoint.submit(0, 1, 101, number=1)  # takes 1,010 ms
    endpoint.submit(5 * MS, 1, 1, number=2)  # waits for it until 1,000 + the rest of the iteration
    assert ended(endpoint.advance(2 * S)) == [(1, Outcome.TIMED_OUT, 1_000), (2, Outcome.TIMED_OUT, 1_005)]
    assert Outcome.TIMED_OUT.status == 408


def test_a_request_that_ends_with_its_deadline_is_answered():
    endpoint = endpoint_of(request_timeout_ms=1_000)
    endpoint.submit(0, 1, 100)
    assert ended(endpoint.advance(2 * S)) == [(0, Outcome.OK, 1_000)]


def test_a_stream_has_the_time_limit_until_its_first_token_only():
    endpoint = endpoint_of(request_timeout_ms=1_000)
    endpoint.submit(0, 1, 300, streamed=True, number=1)
    endpoint.submit(0, 1, 300, streamed=True, number=2)  # its first token would come after 3 s
    assert ended(endpoint.advance(10 * S)) == [(2, Outcome.TIMED_OUT, 1_000), (1, Outcome.OK, 3_000)]


def test_what_timed_out_gives_its_place_to_the_next_when_the_iteration_ends():
    endpoint = endpoint_of(request_timeout_ms=995)
    endpoint.submit(0, 1, 500)
    endpoint.submit(900 * MS, 1, 2, number=1)
    assert ended(endpoint.advance(2 * S)) == [(0, Outcome.TIMED_OUT, 995), (1, Outcome.OK, 1_020)]


def test_a_client_that_leaves_is_not_reported_and_frees_its_place():
    endpoint = endpoint_of()
    first, second = endpoint.submit(0, 1, 50), endpoint.submit(0, 1, 1, number=1)
    endpoint.leave(15 * MS, first)
    endpoint.leave(16 * MS, first)
    assert (first.outcome, first.done_ns, endpoint.in_flight) == (Outcome.LEFT, 15 * MS, 1)
    assert ended(endpoint.advance(S)) == [(1, Outcome.OK, 30)]
    endpoint.leave(S, second)
    assert (second.outcome, endpoint.in_flight) == (Outcome.OK, 0)


# Routing


def test_the_least_loaded_instance_gets_the_request_or_each_in_turn():
    for routing, expected in ((Routing.LEAST_LOADED, [0, 1, 0, 0]), (Routing.ROUND_ROBIN, [0, 1, 0, 1])):
        endpoint = endpoint_of(instances=2, routing=routing, **ROOMY)
        chosen = [endpoint.submit(0, 1, length).instance for length in (1, 100)]
        endpoint.advance(50 * MS)  # instance 0 is free again
        chosen += [endpoint.submit(50 * MS, 1, 100).instance]
        endpoint.advance(51 * MS)
        chosen += [endpoint.submit(51 * MS, 1, 100).instance]
        assert chosen == expected, routing


# Machines


def test_a_killed_instance_fails_what_it_held_and_comes_back_after_its_boot():
    endpoint = endpoint_of(instances=2, boot_s=60)
    for number in range(4):
        endpoint.submit(0, 1, 50, number=number)
    endpoint.kill(105 * MS, 1)
    assert endpoint.next_ns() == 105 * MS  # there is something to report
    assert ended(endpoint.advance(105 * MS)) == [(1, Outcome.FAILED, 105), (3, Outcome.FAILED, 105)]
    assert Outcome.FAILED.status == 424
    assert states(endpoint, 106 * MS) == {0: "ready", 1: "booting"}
    assert endpoint.submit(200 * MS, 1, 1) == Refused(429, "too many pending requests")  # one instance holds two
    assert ended(endpoint.advance(20 * S)) == [(0, Outcome.OK, 500), (2, Outcome.OK, 1_000)]
    assert states(endpoint, 60 * S + 105 * MS - 1)[1] == "booting"
    assert states(endpoint, 60 * S + 105 * MS)[1] == "ready"
    endpoint.submit(61 * S, 1, 1)
    assert endpoint.submit(61 * S, 1, 1).instance == 1
    assert endpoint.billed_ns(100 * S) == 2 * 100 * S  # the machine is allocated while it boots again


def test_killing_what_is_not_there_names_what_is():
    with pytest.raises(ConfigError, match="no instance 7; there are 0, 1"):
        endpoint_of(instances=2).kill(0, 7)


STEP = {"instances": 1, "max_instances": 3, "boot_s": 200, **ROOMY}


def loaded(endpoint, begin_s, end_s, level, *, step_ms=100):
    """Keep `level` requests in flight from one instant to the other; the refusals met."""
    refused = Counter()
    for now_ns in range(begin_s * S, end_s * S, step_ms * MS):
        endpoint.advance(now_ns)
        while endpoint.in_flight < level:
            answer = endpoint.submit(now_ns, 1, 1_000)
            if isinstance(answer, Refused):
                refused[answer.status] += 1
                break
    return refused


def test_a_step_of_demand_adds_an_instance_when_the_average_of_five_minutes_crosses_and_it_serves_a_boot_later():
    endpoint = endpoint_of(rules=(parse_rule("utilization_percent>70:+1/600s"),), **STEP)
    # Idle until 600 s, then all 8 places are taken: 4 of 5 minutes are full at 840 s, 80 % > 70 %.
    loaded(endpoint, 600, 841, 8)
    (event,) = endpoint.scale_events
    assert (event.at_ns, event.before, event.after) == (840 * S, 1, 2)
    assert states(endpoint, 841 * S) == {0: "ready", 1: "booting"}
    loaded(endpoint, 841, 1_039, 16)
    assert states(endpoint, 1_039 * S)[1] == "booting"
    assert endpoint.instances(1_039 * S)[0].queued == 8
    loaded(endpoint, 1_039, 1_060, 16)
    by_number = {view.number: view for view in endpoint.instances(1_060 * S)}
    assert str(by_number[1].state) == "ready"
    assert by_number[1].running > 0
    assert endpoint.billed_ns(1_100 * S) == (1_100 + 1_100 - 840) * S  # from its allocation


QUIET = (parse_rule("requests_per_minute<1:-1"),)


def test_a_shorter_window_decides_sooner():
    endpoint = endpoint_of(rules=(parse_rule("utilization_percent>70:+1"),), grain_s=2, window_s=6, **STEP)
    loaded(endpoint, 10, 17, 8)  # grains end at 12, 14, 16 s: the third fills the window to 100 %
    assert [event.at_ns for event in endpoint.scale_events] == [16 * S]


def test_an_instance_that_is_taken_away_finishes_its_requests_first_and_is_billed_until_then():
    endpoint = endpoint_of(instances=2, min_instances=1, rules=QUIET, **ROOMY)
    for tokens in (5_000, 2_000, 5_000):  # 3 requests in 5 minutes; instance 1 has the least to do
        endpoint.submit(290 * S, 1, tokens)
    endpoint.advance(305 * S)
    (event,) = endpoint.scale_events
    assert (event.at_ns, event.before, event.after) == (300 * S, 2, 1)
    assert states(endpoint, 305 * S) == {0: "ready", 1: "draining"}
    assert endpoint.submit(306 * S, 1, 1).instance == 0  # though instance 1 has less to do
    (drained,) = [one for one in endpoint.advance(311 * S) if one.instance == 1]
    assert (drained.outcome, drained.done_ns) == (Outcome.OK, 310 * S)
    assert states(endpoint, 311 * S) == {0: "ready"}
    assert endpoint.billed_ns(400 * S) == (400 + 310) * S


def test_an_idle_instance_that_is_taken_away_is_gone_at_once_and_one_that_drains_dies_for_good():
    endpoint = endpoint_of(instances=2, min_instances=1, rules=QUIET, **ROOMY)
    endpoint.advance(301 * S)
    assert states(endpoint, 301 * S) == {0: "ready"}
    assert endpoint.billed_ns(400 * S) == (400 + 300) * S
    endpoint = endpoint_of(instances=2, min_instances=1, rules=QUIET, **ROOMY)
    for number in range(4):
        endpoint.submit(290 * S, 1, 5_000, number=number)
    endpoint.kill(305 * S, 1)
    assert ended(endpoint.advance(305 * S)) == [(1, Outcome.FAILED, 305_000), (3, Outcome.FAILED, 305_000)]
    assert states(endpoint, 305 * S) == {0: "ready"}
    assert endpoint.billed_ns(400 * S) == (400 + 305) * S


def test_what_still_boots_is_taken_away_first():
    rules = (parse_rule("pending>7:+1/60s"), parse_rule("pending<4:-1/60s"))
    endpoint = endpoint_of(instances=1, max_instances=2, boot_s=1_000, rules=rules, **ROOMY)
    loaded(endpoint, 0, 301, 8)
    assert states(endpoint, 301 * S) == {0: "ready", 1: "booting"}
    loaded(endpoint, 301, 700, 1)
    assert states(endpoint, 700 * S) == {0: "ready"}
    assert [event.after for event in endpoint.scale_events] == [2, 1]


def test_utilization_counts_each_instance_while_it_is_ready_and_no_longer():
    meter = Meter()
    fleet = Fleet(MODEL, 2, 10 * S, meter)
    fleet.ready[0].submit(0, Sequence(1, 9_000, 0))  # one of 8 places, for longer than this test
    fleet.ready[1].submit(0, Sequence(1, 9_000, 0))
    for instance in fleet.ready:
        instance.advance(5 * S)
    fleet.kill(5 * S, 1)
    fleet.grow(7 * S, 1)
    for now_ns in (15 * S, 17 * S):
        fleet.boot(now_ns)
    fleet.ready[0].advance(20 * S)
    fleet.shrink(20 * S, 2)  # both idle ones, 5 and 3 seconds after their boots
    fleet.meter_up(60 * S)
    assert meter.busy_ns == (60 + 5) * S
    assert meter.places_ns == 8 * (60 + 5 + 5 + 3) * S
    # A machine that was killed and is back begins anew, and one that drains counts until it began to.
    fleet.kill(60 * S, 0)
    fleet.boot(70 * S)
    fleet.ready[0].submit(70 * S, Sequence(1, 9_000, 0))
    fleet.ready[0].advance(80 * S)
    fleet.shrink(80 * S, 1)
    fleet.meter_up(90 * S)
    assert meter.busy_ns == (60 + 5 + 10) * S
    assert meter.places_ns == 8 * (60 + 5 + 5 + 3 + 10) * S


def test_bytes_go_through_one_pipe_one_after_another():
    endpoint = endpoint_of(bandwidth_bytes_per_s=5_000_000)
    assert endpoint.transfer(0, 1_000_000) == 200 * MS
    assert endpoint.transfer(100 * MS, 500_000) == 200 * MS  # 100 ms until the pipe is free, 100 ms of its own
    assert endpoint.transfer(300 * MS, 0) == 0
    assert endpoint.transfer(400 * MS, 1) == 200
    assert endpoint.transfer(10 * S, 5_000_000) == S


# Everything at once

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["submit"] * 8 + ["stream", "stream", "leave", "kill"]),
        st.integers(0, 400 * MS),
        st.integers(0, 60),
    ),
    min_size=1,
    max_size=80,
)


def act(actions, given, *, stepping):
    """Play the actions; stepping goes from one next_ns() to the next on the way. What became of each request."""
    endpoint, sequences, reported, now_ns = endpoint_of(**given), [], [], 0
    fates = []

    def go_to(now_ns):
        while stepping and (next_ns := endpoint.next_ns()) is not None and next_ns <= now_ns:
            reported.extend(endpoint.advance(next_ns))
        reported.extend(endpoint.advance(now_ns))

    for number, (what, gap_ns, amount) in enumerate(actions):
        now_ns += gap_ns
        if stepping:
            go_to(now_ns)
        if what == "kill":
            endpoint.kill(now_ns, amount % 3)
        elif what == "leave" and sequences:
            endpoint.leave(now_ns, sequences[amount % len(sequences)])
        elif what != "leave":
            answer = endpoint.submit(now_ns, amount, amount, streamed=what == "stream", number=number)
            fates.append(answer)
            if isinstance(answer, Sequence):
                sequences.append(answer)
    go_to(now_ns + 100 * S)
    assert endpoint.in_flight == 0
    assert endpoint.next_ns() is None or endpoint.settings.rules
    assert len(reported) == len({id(one) for one in reported}) == sum(one.outcome != "left" for one in sequences)
    assert [one.done_ns for one in reported] == sorted(one.done_ns for one in reported)
    views = endpoint.instances(now_ns + 100 * S)
    return [(f.outcome, f.started_ns, f.first_token_ns, f.done_ns, f.generated_tokens, f.instance)
            if isinstance(f, Sequence) else f for f in fates], views, endpoint.billed_ns(now_ns + 100 * S)  # fmt: skip


@settings(max_examples=120)
@given(ACTIONS, st.sampled_from(list(Routing)), st.sampled_from([200, 450, 5_000]))
def test_every_request_ends_exactly_once_however_often_one_looks(actions, routing, timeout_ms):
    given_ = {"instances": 3, "max_concurrent_per_instance": 2, "request_timeout_ms": timeout_ms, "boot_s": 1.5}
    given_ |= {"routing": routing, "requests_per_second": 20}
    assert act(actions, given_, stepping=True) == act(actions, given_, stepping=False)


def test_the_actions_of_that_property_meet_every_end():
    rng, met = random.Random(2), Counter()
    kinds = ["submit"] * 8 + ["stream", "stream", "leave", "kill"]
    given_ = {"instances": 3, "max_concurrent_per_instance": 2, "request_timeout_ms": 450, "boot_s": 1.5}
    for _ in range(40):
        actions = [(rng.choice(kinds), rng.randrange(150 * MS), rng.randrange(60)) for _ in range(80)]
        fates, _, _ = act(actions, given_, stepping=False)
        met.update(fate.status if isinstance(fate, Refused) else fate[0].status for fate in fates)
    assert met.keys() == {200, 408, 424, 429, 499, 503}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instances", 0),
        ("max_concurrent_per_instance", 0),
        ("request_timeout_ms", 0),
        ("requests_per_second", 0),
        ("bandwidth_bytes_per_s", 0),
        ("boot_s", -1),
        ("grain_s", 0),
        ("window_s", 90),
        ("window_s", 0),
        ("window_s", float("inf")),
        ("min_instances", 2),
        ("max_instances", 0),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        EndpointSettings(**{field: value})
