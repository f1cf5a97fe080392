"""quota.py on fixed instants, and as properties over drawn schedules; no clock anywhere."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import ConfigError
from loadgen.quota import (
    MINUTE_NS,
    NEVER_NS,
    NS_PER_S,
    Admission,
    FixedWindow,
    Limiter,
    Quota,
    SlidingWindow,
    TokenBucket,
    WindowKind,
    enforcing,
    pacing,
)

S = NS_PER_S


def bucket(**changes):
    return TokenBucket(600, MINUTE_NS, 60 * S, **changes)  # 600 at most, 10 a second


def minute():
    return FixedWindow(600, MINUTE_NS, 0)


def sliding():
    return SlidingWindow(600, MINUTE_NS)


@pytest.mark.parametrize(
    ("window", "asks", "granted"),
    [
        pytest.param(bucket, [(0, 100), (0, 500)], [0, 0], id="within the burst nobody waits"),
        pytest.param(bucket, [(0, 600), (0, 100)], [0, 10 * S], id="a spent bucket returns ten a second"),
        pytest.param(bucket, [(0, 600), (0, 300), (0, 10)], [0, 30 * S, 31 * S], id="a small ask behind a big one waits longer"),
        pytest.param(bucket, [(0, 600), (3600 * S, 600), (3600 * S, 10)], [0, 3600 * S, 3601 * S], id="an idle bucket holds its burst and no more"),
        pytest.param(bucket, [(10 * S, 600), (0, 10)], [10 * S, 11 * S], id="time in a bucket never runs back"),
        pytest.param(minute, [(0, 600), (1, 1)], [0, 60 * S], id="a spent minute is over when the next begins"),
        pytest.param(minute, [(59 * S, 600), (60 * S, 600)], [59 * S, 60 * S], id="two full minutes may touch"),
        pytest.param(minute, [(0, 500), (0, 200), (0, 10)], [0, 60 * S, 60 * S], id="what does not fit the rest of a minute takes the next, and all behind it too"),
        pytest.param(minute, [(70 * S, 600), (80 * S, 1)], [70 * S, 120 * S], id="minutes are counted from the origin"),
        pytest.param(sliding, [(0, 300), (30 * S, 300), (31 * S, 300)], [0, 30 * S, 60 * S], id="what was taken comes back 60 s later"),
        pytest.param(sliding, [(0, 300), (30 * S, 300), (31 * S, 400)], [0, 30 * S, 90 * S], id="a big ask waits until enough has come back"),
        pytest.param(sliding, [(59 * S, 600), (61 * S, 600)], [59 * S, 119 * S], id="no two full minutes may touch"),
    ],
)  # fmt: skip
def test_reservations_are_granted_first_come_first_served(window, asks, granted):
    limiter = Limiter(tokens=[window()], requests=[])
    assert [limiter.reserve(now, amount).at_ns for now, amount in asks] == granted


@pytest.mark.parametrize("window", [bucket, minute, sliding])
def test_an_ask_that_can_never_fit_is_refused_at_once_with_the_numbers(window):
    limiter = Limiter(tokens=[window()], requests=[])
    assert limiter.earliest_ns(0, 601) == NEVER_NS
    with pytest.raises(ConfigError, match=r"counts 601 tokens .* never admit more than 600"):
        limiter.reserve(0, 601)


def test_a_bucket_that_may_owe_lets_a_large_ask_pass_when_full_and_pays_it_off_before_the_next():
    limiter = Limiter(tokens=[bucket(may_owe=True)], requests=[])
    assert limiter.reserve(0, 900).at_ns == 0
    assert limiter.reserve(0, 10).at_ns == 31 * S


def test_both_limits_are_taken_together_or_neither():
    limiter = Limiter(tokens=[bucket()], requests=[FixedWindow(2, MINUTE_NS, 0)])
    assert limiter.try_take(0, 500) is not None
    assert limiter.try_take(0, 200) is None  # tokens do not fit, so no request is counted
    assert limiter.remaining(0) == (100, 1)
    assert limiter.try_take(0, 100) is not None
    assert limiter.try_take(30 * S, 1) is None  # tokens would fit, requests do not
    assert limiter.remaining(30 * S) == (300, 0)


@pytest.mark.parametrize("window", [bucket, minute, sliding])
def test_settling_gives_back_what_was_not_needed(window):
    limiter = Limiter(tokens=[window()], requests=[])
    grant = limiter.try_take(0, 500)
    before = window_left(limiter)
    limiter.settle(0, grant, 200)
    limiter.settle(0, grant, 200)  # twice is once
    assert (before, window_left(limiter)) == (100, 400)


def window_left(limiter):
    return limiter._tokens[0].available(0)


@pytest.mark.parametrize("window", [minute, sliding])
def test_a_settlement_after_the_window_has_passed_changes_nothing(window):
    limiter = Limiter(tokens=[window()], requests=[])
    grant = limiter.try_take(0, 500)
    limiter.settle(61 * S, grant, 0)
    limiter.take(61 * S, 600)
    assert limiter.earliest_ns(61 * S, 1) > 61 * S


def test_a_bucket_that_has_run_full_since_gives_nothing_back():
    limiter = Limiter(tokens=[bucket()], requests=[])
    grant = limiter.try_take(0, 500)
    limiter.take(60 * S, 600)  # the bucket was full again, and is empty now
    limiter.settle(60 * S, grant, 0)
    assert limiter.earliest_ns(60 * S, 1) > 60 * S


@given(
    schedule=st.lists(st.tuples(st.integers(0, 40 * S), st.integers(0, 300), st.integers(0, 300)), min_size=1),
    settled=st.data(),
)
@settings(max_examples=300)
def test_a_settled_bucket_stands_as_if_the_real_cost_had_been_taken_at_first(schedule, settled):
    """Whatever was taken meanwhile, and however often the bucket has run full."""
    counted, real, now_ns = bucket(may_owe=True), bucket(may_owe=True), 0
    first_reserved, first_used = schedule[0][1], schedule[0][2]
    receipt = counted.take(0, first_reserved)
    real.take(0, min(first_used, first_reserved))
    for wait_ns, amount, _ in schedule[1:]:
        now_ns += wait_ns
        counted.take(now_ns, amount)
        real.take(now_ns, amount)
    now_ns += settled.draw(st.integers(0, 40 * S))
    counted.correct(now_ns, receipt, min(0, first_used - first_reserved))
    assert counted.available(now_ns) == real.available(now_ns)
    assert counted.available(now_ns + 7 * S) == real.available(now_ns + 7 * S)


def test_a_cancelled_grant_gives_back_its_request_too():
    limiter = enforcing(Quota(tokens_per_minute=600, requests_per_minute=1, window=WindowKind.SLIDING))
    grant = limiter.try_take(0, 600)
    limiter.cancel(0, grant)
    assert limiter.try_take(0, 600) is not None


def test_a_pause_holds_everyone_until_its_end():
    limiter = enforcing(Quota())
    limiter.pause(7 * S)
    assert limiter.earliest_ns(S, 1) == 7 * S


def test_a_server_that_has_less_left_than_we_counted_is_believed():
    limiter = pacing(Quota(tokens_per_minute=6_000, requests_per_minute=60))
    limiter.observe_remaining(0, tokens=0, requests=None)
    assert limiter.earliest_ns(0, 50) >= S // 2
    limiter = pacing(Quota())
    limiter.observe_remaining(0, tokens=-1, requests=10**9)  # both are seen in the wild
    assert limiter.earliest_ns(0, 50) == 0


@pytest.mark.parametrize(
    ("admission", "cost", "settled"),
    [
        (Admission.PROMPT_AND_MAX, 1_100, 1_100),
        (Admission.MAX, 1_000, 1_000),
        (Admission.USAGE, 1_100, 140),
    ],
)
def test_what_a_request_costs_at_the_door_and_when_its_usage_is_known(admission, cost, settled):
    assert admission.cost(prompt_tokens=100, max_tokens=1_000) == cost
    assert admission.cost(prompt_tokens=100, max_tokens=1_000, completion_tokens=40) == settled


def test_an_unset_max_tokens_counts_sixteen():
    assert Admission.MAX.cost(prompt_tokens=100, max_tokens=None) == 16


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tokens_per_minute": 0}, "tokens_per_minute must be above zero"),
        ({"requests_per_minute": -5}, "requests_per_minute must be above zero"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"requests_per_minute": 3, "request_slice_s": 10}, "less than one request a slice"),
    ],
)
def test_an_impossible_quota_is_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        Quota(**changes)


LIMIT_TOKENS, LIMIT_REQUESTS = 60_000, 1_200
quotas = st.builds(
    Quota,
    tokens_per_minute=st.just(LIMIT_TOKENS),
    requests_per_minute=st.just(LIMIT_REQUESTS),
    window=st.sampled_from(WindowKind),
    burst_s=st.sampled_from([5.0, 10.0, 60.0]),
    request_slice_s=st.sampled_from([1, 10, 60]),
)
schedules = st.lists(st.tuples(st.integers(0, 30 * S), st.integers(1, 600)), min_size=1, max_size=60)
makers = st.sampled_from([enforcing, pacing])


def play(limiter, schedule):
    """Reserve each request (gap before it, tokens); (arrival, grant, tokens) in the order of arrival."""
    now_ns, played = 0, []
    for gap_ns, tokens in schedule:
        now_ns += gap_ns // 40
        played.append((now_ns, limiter.reserve(now_ns, tokens).at_ns, tokens))
    return played


@settings(max_examples=500)
@given(quotas, makers, schedules)
def test_no_policy_ever_exceeds_its_limit_in_its_window(quota, make, schedule):
    played = play(make(quota), schedule)
    paced = make is pacing
    if paced or quota.window is WindowKind.SLIDING:
        for _, from_ns, _ in played:
            inside = [tokens for _, at_ns, tokens in played if from_ns <= at_ns < from_ns + MINUTE_NS]
            assert sum(inside) <= LIMIT_TOKENS
            assert len(inside) <= LIMIT_REQUESTS
    elif quota.window is WindowKind.MINUTE:
        origin_ns = played[0][1]
        minutes = {}
        for _, at_ns, tokens in played:
            minutes[(at_ns - origin_ns) // MINUTE_NS] = minutes.get((at_ns - origin_ns) // MINUTE_NS, 0) + tokens
        assert max(minutes.values()) <= LIMIT_TOKENS
    else:
        burst = LIMIT_TOKENS * quota.burst_s / 60
        for first, (_, from_ns, _) in enumerate(played):
            taken = 0
            for _, at_ns, tokens in played[first:]:
                taken += tokens
                assert taken <= burst + (at_ns - from_ns) / MINUTE_NS * LIMIT_TOKENS + 1


@settings(max_examples=500)
@given(quotas, makers, schedules)
def test_nobody_is_overtaken_and_nobody_goes_before_arriving(quota, make, schedule):
    played = play(make(quota), schedule)
    granted = [at_ns for _, at_ns, _ in played]
    assert granted == sorted(granted)
    assert all(at_ns >= arrived_ns for arrived_ns, at_ns, _ in played)


@settings(max_examples=500)
@given(
    quotas, makers, st.lists(st.tuples(st.integers(0, 2 * S), st.integers(1, 600), st.integers(0, 600)), max_size=40)
)
def test_settling_never_lets_a_window_hold_more_than_its_limit_of_settled_tokens(quota, make, schedule):
    limiter, settled, now_ns = make(quota), [], 0
    for gap_ns, tokens, used in schedule:
        grant = limiter.reserve(max(now_ns, limiter._last_ns), tokens)
        now_ns = grant.at_ns + gap_ns
        limiter.settle(now_ns, grant, min(used, tokens))
        settled.append((grant.at_ns, min(used, tokens)))
    if make is pacing or quota.window is WindowKind.SLIDING:
        for from_ns, _ in settled:
            assert sum(used for at_ns, used in settled if from_ns <= at_ns < from_ns + MINUTE_NS) <= LIMIT_TOKENS


@settings(max_examples=100)
@given(quotas, makers, st.lists(st.integers(1, 600), min_size=20, max_size=60))
def test_demand_above_the_quota_uses_at_least_99_percent_of_it(quota, make, sizes):
    """Four minutes of more than the limit; no request is above 1 % of it, which is what a fixed minute may leave over."""
    limiter = make(quota)
    horizon_ns, taken, used, requests = 4 * MINUTE_NS, 0, 0, 0
    while True:
        tokens = sizes[taken % len(sizes)]
        at_ns = limiter.reserve(0, tokens).at_ns
        if at_ns >= horizon_ns:
            break
        taken, used, requests = taken + 1, used + tokens, requests + 1
    assert max(used / (4 * LIMIT_TOKENS), requests / (4 * LIMIT_REQUESTS)) >= 0.99


@pytest.mark.parametrize("slice_s", [1, 10, 60])
@pytest.mark.parametrize("burst_s", [1.0, 5.0, 60.0])
@pytest.mark.parametrize("window", WindowKind)
@pytest.mark.parametrize(
    "sizes",
    [pytest.param([40, 900, 250, 3_000, 120, 60], id="tokens bind"), pytest.param([20, 60], id="requests bind")],
)
def test_a_polite_client_is_never_refused_by_any_way_of_enforcing_the_same_quota(sizes, window, burst_s, slice_s):
    """Even if the network holds a request back by up to 20 ms."""
    quota = Quota(window=window, burst_s=burst_s, request_slice_s=slice_s)
    client, server, random = pacing(quota), enforcing(quota, origin_ns=0), Random(1)
    arrivals = []
    for number in range(2_000):
        tokens = sizes[number % len(sizes)]
        delay_ns = random.randrange(20_000_000) if window is WindowKind.BUCKET else 0
        arrivals.append((client.reserve(0, tokens).at_ns + delay_ns, tokens))
    assert not [tokens for at_ns, tokens in sorted(arrivals) if server.try_take(at_ns, tokens) is None]


def test_feedback_from_a_server_with_a_small_bucket_does_not_starve_the_client():
    quota = Quota(burst_s=5)
    client, server, now_ns, admitted = pacing(quota), enforcing(quota), 0, 0
    while now_ns < 3 * MINUTE_NS:
        now_ns = client.reserve(now_ns, 300).at_ns
        assert server.try_take(now_ns, 300) is not None
        admitted += 300
        tokens, requests = server.remaining(now_ns)
        client.observe_remaining(now_ns, tokens=tokens, requests=requests)
    assert admitted > 0.9 * 3 * 200_000


def test_a_full_bucket_after_idling_a_year_is_exact_to_the_last_token():
    limiter = enforcing(Quota())
    limiter.take(0, 200_000)
    year_ns = 365 * 24 * 3600 * S
    assert limiter.remaining(year_ns)[0] == 200_000
    assert limiter.try_take(year_ns, 200_000) is not None
    assert limiter.try_take(year_ns, 1) is None
