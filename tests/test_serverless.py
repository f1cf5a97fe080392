"""The door and the pace of serverless compute on fixed instants; no clock, no socket."""

import asyncio
from random import Random
from types import SimpleNamespace

import pytest

from loadgen.quota import Admission, Quota, WindowKind
from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.refusals import Refusal
from loadgen.simulator.serverless import Door, Serverless, ServerlessSettings
from loadgen.simulator.serving import ServingModel

MS, S = 1_000_000, 1_000_000_000
EXACT = ServingModel(
    ttft_base_ms=100, ttft_per_prompt_token_ms=1, ttft_per_running_ms=0, ttft_sigma=0, itl_base_ms=10, itl_per_running_ms=5, itl_sigma=0
)  # fmt: skip


class Clock:
    """Stands where the pacemaker does: every wait is over at once, at its instant."""

    def __init__(self, time_scale=1):
        self.at_ns, self.time_scale = 0, time_scale

    def now_ns(self):
        return self.at_ns

    def real_ns(self, model_ns):
        return round(model_ns / self.time_scale)

    async def until(self, due_ns, flight):
        self.at_ns = max(self.at_ns, due_ns)
        return not flight.cut_off


def compute(clock, **quota):
    return Serverless(ServerlessSettings(quota=Quota(**quota), serving=EXACT), clock)


def begin(served, clock, *, prompt_tokens=50, completion_tokens=20, max_tokens=20, flight=None):
    answer = SimpleNamespace(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    asked = SimpleNamespace(prompt_tokens=prompt_tokens, max_tokens=max_tokens)
    return served.begin(asked, answer, Random(1), flight or Flight()), answer


def refusal_at(door, now_ns, **asked):
    with pytest.raises(Refusal) as refused:
        door.admit(now_ns, running=0, **asked)
    return refused.value.headers


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 16, 17, 20])
def test_a_plain_answer_is_there_at_the_instant_of_its_last_token(tokens):
    clock = Clock()
    pace, _ = begin(compute(clock), clock, completion_tokens=tokens)
    assert asyncio.run(pace.all_of(tokens))
    assert clock.at_ns == (150 + (tokens - 1) * 15) * MS  # 100 + 50 of prompt, then gaps of 10 + 5 of one running


def test_an_answer_without_tokens_takes_the_time_to_a_first_one():
    clock = Clock()
    pace, _ = begin(compute(clock), clock, completion_tokens=0)
    assert asyncio.run(pace.all_of(0))
    assert clock.at_ns == 150 * MS


def test_each_token_of_a_stream_is_there_at_its_instant():
    clock = Clock()
    pace, _ = begin(compute(clock), clock)

    async def instants():
        seen = []
        while len(seen) < 5 and await pace.token():
            seen.append(clock.at_ns // MS)
        return seen

    assert asyncio.run(instants()) == [150, 165, 180, 195, 210]


@pytest.mark.parametrize(
    ("now_ns", "scale", "wait_s", "wait_ms"),
    [
        (0, 1, "28", "28000"),  # 28 of 44 tokens are missing, at one a second
        (500_000, 1, "28", "28000"),  # half a millisecond later it is still told the whole: nobody comes too early
        (1_000_000, 1, "28", "27999"),
        (0, 10, "3", "2800"),  # a clock ten times as fast
        (0, 3, "10", "9334"),
    ],
)
def test_a_wait_is_rounded_up_and_told_in_the_clients_time(now_ns, scale, wait_s, wait_ms):
    door = Door(Quota(tokens_per_minute=60), {}, Clock(scale).real_ns)
    door.admit(0, running=0, prompt_tokens=0, max_tokens=44)
    headers = refusal_at(door, now_ns, prompt_tokens=0, max_tokens=44)
    assert (headers["retry-after"], headers["retry-after-ms"]) == (wait_s, wait_ms)


@pytest.mark.parametrize(
    ("generated", "charged"),
    [(0, 50), (3, 53), (20, 70)],
    ids=["left before its first token", "left midway", "answered whole"],
)
def test_where_usage_counts_a_stream_is_charged_for_what_was_generated(generated, charged):
    clock = Clock()
    served = compute(clock, tokens_per_minute=1_000, admission=Admission.USAGE, window=WindowKind.SLIDING)
    pace, answer = begin(served, clock)

    async def read():
        for _ in range(generated):
            assert await pace.token()

    asyncio.run(read())
    served.end(pace, answer)
    assert int(served.headers()["x-ratelimit-remaining-tokens"]) == 1_000 - charged


def test_a_stream_without_tokens_is_charged_for_its_prompt_only():
    clock = Clock()
    served = compute(clock, tokens_per_minute=1_000, admission=Admission.USAGE, window=WindowKind.SLIDING)
    pace, answer = begin(served, clock, completion_tokens=0, max_tokens=0)
    assert asyncio.run(pace.token())  # the instant at which its end is sent
    served.end(pace, answer)
    assert int(served.headers()["x-ratelimit-remaining-tokens"]) == 950


def test_beyond_the_places_a_request_is_refused_and_a_place_that_is_given_back_serves_again():
    clock = Clock()
    served = compute(clock, concurrency=2)
    first, answer = begin(served, clock)
    begin(served, clock)
    with pytest.raises(Refusal):
        begin(served, clock)
    served.end(first, answer)
    begin(served, clock)


def test_waits_that_were_cut_do_not_pile_up():
    async def scene():
        pacemaker = Pacemaker()
        for _ in range(2_000):
            flight = Flight()
            waiting = asyncio.ensure_future(pacemaker.until(pacemaker.now_ns() + 3_600 * S, flight))
            await asyncio.sleep(0)
            flight.cut()
            assert not await waiting
        kept = len(pacemaker._due)
        flight = Flight()
        assert await pacemaker.until(pacemaker.now_ns() + MS, flight)  # and the others are still woken
        pacemaker.close()
        return kept

    assert asyncio.run(scene()) < 200
