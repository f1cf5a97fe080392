"""Replays in virtual time, against queueing theory and against the endpoint driven step by step.

Where theory gives a mean, the tolerance is four standard errors by batch means, and the test asks that they be small.
A request is hundreds of iterations long, so that waiting for the end of one hardly shows.
"""

import math
import random
import statistics
from collections import Counter
from itertools import pairwise

import pytest

from loadgen.errors import ConfigError
from loadgen.simulator.autoscale import parse_rule
from loadgen.simulator.batching import BatchingModel, Sequence
from loadgen.simulator.endpoint import Endpoint, EndpointSettings, Routing
from loadgen.simulator.virtual import replay

MS, S = 1_000_000, 1_000_000_000
WIDE = EndpointSettings(max_concurrent_per_instance=10**6, request_timeout_ms=1e12, requests_per_second=10**5)
ITERATIONS = 500  # a mean request has so many, of 1 ms each
SERVICE_S = ITERATIONS / 1_000
BATCHES = 30


def queue_of(places):
    """`places` servers that never slow each other down: an iteration is 1 ms whoever runs."""
    return BatchingModel(
        iteration_base_ms=1,
        iteration_per_sequence_ms=0,
        prefill_per_token_ms=0,
        max_running=places,
        kv_tokens=10**12,
    )


REAL = BatchingModel(
    iteration_base_ms=7, iteration_per_sequence_ms=0.4, prefill_per_token_ms=0.05, max_running=32, kv_tokens=60_000
)


def poisson(count, per_s, lengths, *, seed=1, prompt_tokens=1):
    rng, now_ns = random.Random(seed), 0
    for _ in range(count):
        now_ns += round(rng.expovariate(per_s) * S)
        yield now_ns, prompt_tokens, lengths(rng)


def geometric(rng):
    """With the mean ITERATIONS."""
    return math.ceil(math.log(1 - rng.random()) / math.log(1 - 1 / ITERATIONS)) or 1


def chat(count, per_s, *, seed=1):
    rng = random.Random(seed)
    for at_ns, _, _ in poisson(count, per_s, geometric, seed=seed):
        yield at_ns, round(rng.lognormvariate(6.5, 0.9)), round(rng.lognormvariate(4.8, 0.8))


def checked(result, arrivals):
    """Holds of every replay: each arrival ends exactly once, and Little's law, in whole ns."""
    assert list(result.at_ns) == [at_ns for at_ns, _, _ in arrivals]
    columns = (result.status, result.first_token_ns, result.done_ns, result.instance)
    assert {len(column) for column in columns} == {len(arrivals)}
    assert set(result.status) <= {200, 400, 408, 424, 429, 503}
    for at_ns, status, first_ns, done_ns, instance in zip(result.at_ns, *columns, strict=True):
        assert at_ns <= done_ns <= result.end_ns
        assert (instance == -1) == (status in (400, 429, 503))
        assert first_ns == -1 or at_ns < first_ns <= done_ns
        assert first_ns > 0 or status != 200
    assert result.refusals.total() == sum(status in (400, 429, 503) for status in result.status)
    in_system, before_ns, area = 0, 0, 0
    for now_ns, change in sorted([(at, 1) for at in result.at_ns] + [(done, -1) for done in result.done_ns]):
        area += in_system * (now_ns - before_ns)
        in_system, before_ns = in_system + change, now_ns
    sojourns_ns = sum(done - at for at, done in zip(result.at_ns, result.done_ns, strict=True))
    assert in_system == 0
    mean_in_system, rate, sojourn = area / before_ns, len(arrivals) / before_ns, sojourns_ns / len(arrivals)
    assert mean_in_system == pytest.approx(rate * sojourn, rel=1e-9)
    return result


def waits_s(result, iteration_ns=MS):
    """Until a request was admitted to the batch: one iteration before its first token."""
    return [(first - iteration_ns - at) / S for at, first in zip(result.at_ns, result.first_token_ns, strict=True)]


def assert_mean(values, expected, *, error=0.1, slack=0.0):
    """The mean is `expected` within 4 standard errors (and `slack`), which are below the share `error` of it."""
    size = len(values) // BATCHES
    means = [statistics.fmean(values[index * size : (index + 1) * size]) for index in range(BATCHES)]
    standard_error = statistics.stdev(means) / math.sqrt(BATCHES)
    assert standard_error < error * expected
    assert statistics.fmean(means) == pytest.approx(expected, abs=4 * standard_error + slack)


# One server: max_running = 1


def test_one_place_is_the_single_server_queue_to_the_nanosecond():
    arrivals = list(poisson(5_000, 0.9 / SERVICE_S, geometric))
    result = checked(replay(arrivals, queue_of(1), WIDE), arrivals)
    free_ns = 0
    for (at_ns, _, tokens), done_ns in zip(arrivals, result.done_ns, strict=True):
        free_ns = max(free_ns, at_ns) + tokens * MS  # Lindley's recursion
        assert done_ns == free_ns


def pollaczek_khinchine_s(rate_per_s, mean_s, square_s2):
    return rate_per_s * square_s2 / (2 * (1 - rate_per_s * mean_s))


def test_exponential_lengths_wait_as_in_m_m_1():
    rate_per_s = 0.8 / SERVICE_S
    result = replay(poisson(150_000, rate_per_s, geometric), queue_of(1), WIDE)
    assert_mean(waits_s(result), 3.2 * SERVICE_S / 0.8)  # arrivals 1, service .8: 3.2
    assert_mean([wait > 0 for wait in waits_s(result)], 0.8)


@pytest.mark.parametrize(
    ("lengths", "mean_s", "square_s2"),
    [
        (lambda rng: 500, 0.5, 0.25),
        (lambda rng: rng.choice((100, 900)), 0.5, (0.01 + 0.81) / 2),
        (lambda rng: 1_000 if rng.random() < 0.2 else 250, 0.4, 0.2 * 1 + 0.8 * 0.0625),
    ],
    ids=["all alike", "short and long", "many short"],
)
def test_any_lengths_wait_as_pollaczek_and_khinchine_say(lengths, mean_s, square_s2):
    rate_per_s = 0.7 / mean_s
    result = replay(poisson(60_000, rate_per_s, lengths), queue_of(1), WIDE)
    assert_mean(waits_s(result), pollaczek_khinchine_s(rate_per_s, mean_s, square_s2))


# Several servers: max_running = c


@pytest.mark.parametrize(("places", "load", "p_wait"), [(3, 2, 0.444444), (5, 2.5, 0.130371), (10, 6, 0.101299)])
def test_c_places_wait_as_erlang_c_says(places, load, p_wait):
    result = replay(poisson(60_000, load / SERVICE_S, geometric), queue_of(places), WIDE)
    waits = waits_s(result)
    assert_mean([wait > 0.001 for wait in waits], p_wait, slack=0.001)
    assert_mean(waits, p_wait * SERVICE_S / (places - load), error=0.2, slack=0.001)


# Endless servers


@pytest.mark.parametrize("load", [2, 20, 100])
def test_endless_places_take_each_request_its_own_time_and_no_more_whatever_the_load(load):
    arrivals = list(poisson(4_000, load / SERVICE_S, geometric))
    result = checked(replay(arrivals, queue_of(10**6), WIDE), arrivals)
    for (at_ns, _, tokens), done_ns in zip(arrivals, result.done_ns, strict=True):
        assert 0 <= done_ns - at_ns - tokens * MS < MS  # the rest of the iteration that ran


def test_the_number_in_endless_places_is_poisson_around_rate_times_service():
    load, spacing_ns = 12, round(6 * SERVICE_S * S)  # so far apart that two looks hardly depend on each other
    result = replay(poisson(60_000, load / SERVICE_S, geometric), queue_of(10**6), WIDE)
    changes = sorted([(at, 1) for at in result.at_ns] + [(done, -1) for done in result.done_ns])
    seen, in_system, look_ns = [], 0, spacing_ns
    for now_ns, change in changes:
        while look_ns < now_ns <= result.at_ns[-1]:
            seen.append(in_system)
            look_ns += spacing_ns
        in_system += change
    looks = len(seen)
    assert looks > 800
    assert statistics.fmean(seen) == pytest.approx(load, abs=4 * math.sqrt(load / looks))
    assert statistics.variance(seen) == pytest.approx(load, abs=4 * load * math.sqrt(2 / looks))


# The whole endpoint


def test_a_replay_is_what_driving_the_endpoint_step_by_step_gives():
    arrivals = list(chat(400, 30))
    limits = EndpointSettings(
        instances=3,
        max_concurrent_per_instance=16,
        request_timeout_ms=3_000,
        requests_per_second=34,
        boot_s=4,
        routing=Routing.ROUND_ROBIN,
    )
    kills = [(2 * S, 0), (5 * S, 2), (9 * S, 0)]
    result = checked(replay(arrivals, REAL, limits, kills=kills), arrivals)
    endpoint, answers, left = Endpoint(REAL, limits), [], list(kills)
    for at_ns, prompt_tokens, completion_tokens in arrivals:
        while left and left[0][0] <= at_ns:
            step_to(endpoint, left[0][0])
            endpoint.kill(*left.pop(0))
        step_to(endpoint, at_ns)
        answers.append(endpoint.submit(at_ns, prompt_tokens, completion_tokens))
    step_to(endpoint, result.end_ns)
    for row, answer in enumerate(answers):
        if isinstance(answer, Sequence):
            assert result.status[row] == answer.outcome.status
            assert result.first_token_ns[row] == (-1 if answer.first_token_ns is None else answer.first_token_ns)
            assert (result.done_ns[row], result.instance[row]) == (answer.done_ns, answer.instance)
        else:
            assert (result.status[row], result.instance[row]) == (answer.status, -1)
    met = Counter(result.status)
    assert {200, 408, 424, 429} <= met.keys(), met
    assert result.billed_ns == endpoint.billed_ns(result.end_ns)


def step_to(endpoint, now_ns):
    while (next_ns := endpoint.next_ns()) is not None and next_ns <= now_ns:
        endpoint.advance(next_ns)
    endpoint.advance(now_ns)


def test_the_seventh_of_a_burst_is_refused_by_the_documented_default():
    arrivals = [(0, 1, 10)] * 8
    result = checked(replay(arrivals, REAL, EndpointSettings(instances=3)), arrivals)
    assert list(result.status) == [200] * 6 + [429] * 2
    assert result.refusals == {"too many pending requests": 2}


def test_a_time_limit_cuts_plain_answers_and_spares_streams():
    arrivals = [(0, 1, 400)]  # 400 x 7.4 ms and the prompt
    for streamed, status in ((False, 408), (True, 200)):
        limits = EndpointSettings(request_timeout_ms=1_000)
        assert list(checked(replay(arrivals, REAL, limits, streamed=streamed), arrivals).status) == [status]


RULES = (parse_rule("utilization_percent>70:+1"), parse_rule("utilization_percent<20:-1"))


def test_a_day_with_a_rush_hour_scales_out_and_in_again_and_bills_both():
    rush = list(chat(6_000, 4))  # 25 minutes at more than one instance carries
    limits = EndpointSettings(
        max_concurrent_per_instance=4, request_timeout_ms=180_000, boot_s=300, max_instances=4, rules=RULES
    )
    result = checked(replay(rush, REAL, limits, until_ns=2 * 3_600 * S), rush)
    steps = [(event.at_ns // S, event.before, event.after) for event in result.scale_events]
    assert steps[0] == (300, 1, 2)  # the first window is full
    assert steps[-1][2] == 1
    assert [view.number for view in result.instances] == [0]
    assert all(later[0] - earlier[0] >= 300 for earlier, later in pairwise(steps))
    assert {result.instance[row] for row in range(len(rush)) if result.at_ns[row] < 600 * S} <= {-1, 0}
    assert 1 in set(result.instance)
    changes = [*steps, (result.end_ns // S, 1, 1)]
    held_s = steps[0][0] + sum(one[2] * (other[0] - one[0]) for one, other in pairwise(changes))
    assert result.end_ns == 7_200 * S
    assert result.billed_ns / S == pytest.approx(held_s, abs=60)  # draining is paid too


def test_a_kill_fails_what_was_there_and_shows_in_the_columns():
    arrivals = [(0, 1, 100), (10 * MS, 1, 100), (5 * S, 1, 1)]
    limits = EndpointSettings(max_concurrent_per_instance=8, boot_s=10)
    result = checked(replay(arrivals, REAL, limits, kills=[(100 * MS, 0)]), arrivals)
    assert list(result.status) == [424, 424, 503]
    assert list(result.done_ns)[:2] == [100 * MS] * 2
    assert result.refusals == {"no instance is ready": 1}


def test_a_kill_comes_before_an_arrival_of_the_same_instant():
    arrivals = [(0, 1, 1), (100 * MS, 1, 1)]
    result = replay(arrivals, REAL, EndpointSettings(boot_s=10), kills=[(100 * MS, 0)])
    assert list(result.status) == [200, 503]


def test_kills_after_the_last_arrival_fail_what_still_runs_and_are_billed():
    limits = EndpointSettings(boot_s=10)
    result = replay([(0, 1, 100)], REAL, limits, kills=[(100 * MS, 0)])
    assert (list(result.status), list(result.done_ns), result.end_ns) == ([424], [100 * MS], 100 * MS)
    later = replay([(0, 1, 10)], REAL, limits, kills=[(20 * S, 0)])
    assert (list(later.status), later.end_ns, later.billed_ns) == ([200], 20 * S, 20 * S)
    assert [str(view.state) for view in later.instances] == ["booting"]


@pytest.mark.parametrize(
    ("arrivals", "kills", "complaint"),
    [
        ([(5, 1, 1), (4, 1, 1)], [], "arrival 1 at 4 ns comes before 5 ns"),
        ([(-1, 1, 1)], [], "arrival 0 at -1 ns comes before 0 ns"),
        ([(5, 1, 1)], [(4, 0), (3, 0)], "kill of instance 0 at 3 ns comes before 4 ns"),
        ([(5, 1, 1)], [(4, 3)], "no instance 3"),
    ],
)
def test_what_cannot_be_played_is_named(arrivals, kills, complaint):
    with pytest.raises(ConfigError, match=complaint):
        replay(arrivals, REAL, WIDE, kills=kills)


def test_nothing_to_play_bills_the_idle_instances():
    result = replay([], REAL, EndpointSettings(instances=2), until_ns=3_600 * S)
    assert (len(result.at_ns), result.billed_ns, result.end_ns) == (0, 2 * 3_600 * S, 3_600 * S)


@pytest.mark.long
def test_a_million_requests_are_conserved_and_wait_as_in_m_m_1():
    arrivals = list(poisson(1_000_000, 0.8 / SERVICE_S, geometric, seed=3))
    result = checked(replay(arrivals, queue_of(1), WIDE), arrivals)
    assert_mean(waits_s(result), 3.2 * SERVICE_S / 0.8, error=0.02)


@pytest.mark.long
def test_a_million_requests_of_chat_on_four_instances_are_conserved():
    arrivals = list(chat(1_000_000, 20))
    limits = EndpointSettings(instances=4, max_concurrent_per_instance=32, request_timeout_ms=180_000)
    result = checked(replay(arrivals, REAL, limits), arrivals)
    assert Counter(result.status)[200] > 900_000
