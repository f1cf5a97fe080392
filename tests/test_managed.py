"""Managed compute as its clients see it: a real process on loopback that drives the endpoint's model in real time."""

import asyncio
import json
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from random import Random
from types import SimpleNamespace

import httpx
import polars as pl
import pytest

from loadgen.samples import Run
from loadgen.simulator.batching import BatchingModel
from loadgen.simulator.endpoint import Endpoint, EndpointSettings, Routing
from loadgen.simulator.managed import Managed, ManagedSettings
from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.refusals import Refusal
from tests.commands import headroom
from tests.simulators import CHAT, PATIENCE_S, ask, data_url, eventually, picture, pinned, simulated

# One iteration takes 50 ms, whoever runs, and a prompt costs nothing: token k is there after k iterations.
STEADY = {
    "iteration_base_ms": 50,
    "iteration_per_sequence_ms": 0,
    "prefill_per_token_ms": 0,
    "kv_tokens": 1_000_000,
    "max_running": 8,
}


@contextmanager
def managed(*flags, **serving):
    with simulated("--kind", "managed", *flags, serving=STEADY | serving) as server:
        yield server


@contextmanager
def stream(server, tokens):
    """A stream of so many tokens whose headers have come."""
    with (
        httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as client,
        client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(tokens)) as answer,
    ):
        yield answer


def instances(server):
    return server.client.get("/simulator").json()["instances"]


def post(server, tokens, **fields):
    """A plain answer, or its refusal; from a client of its own, so that many can wait at once."""
    return httpx.post(
        server.url + CHAT, json=ask(**fields), headers=pinned(tokens), trust_env=False, timeout=PATIENCE_S
    )


def contents(lines):
    return [line for line in lines if '"content":" ' in line]


def test_tokens_come_one_an_iteration_and_never_early():
    with managed() as server:
        began = time.monotonic()
        with stream(server, 12) as answer:
            seen = [time.monotonic() - began for line in answer.iter_lines() if '"content":" ' in line]
    assert len(seen) == 12
    assert all(at_s >= 0.05 * (index + 1) for index, at_s in enumerate(seen))


def test_a_prompt_is_prefilled_in_chunks_before_the_first_token():
    with managed(prefill_chunk_tokens=100) as server:
        began = time.monotonic()
        answer = post(server, 1, text="a" * 4 * 950)
        assert answer.status_code == 200
        assert time.monotonic() - began >= 10 * 0.05  # 954 tokens, 100 at a time


def test_beyond_the_running_and_the_waiting_429_at_once():
    """As documented: 2 x max_concurrent_requests_per_instance x instances, here with Azure's default of 1."""
    with managed("--instances", "3", "--max-concurrent", "1") as server, ExitStack() as stack:
        with ThreadPoolExecutor(6) as clients:
            waiting = [clients.submit(post, server, 12) for _ in range(6)]
            assert eventually(lambda: sum(one["running"] + one["queued"] for one in instances(server)) == 6)
            assert [(one["running"], one["queued"]) for one in instances(server)] == [(1, 1)] * 3
            refused = post(server, 1)
            assert (refused.status_code, refused.headers["x-ms-error-code"]) == (429, "too_many_requests")
            assert refused.json()["error"] == "too_many_requests"
            assert not any(name.startswith("x-ratelimit") for name in refused.headers)
            assert [one.result().status_code for one in waiting] == [200] * 6
        stack.enter_context(stream(server, 1))  # the places are free again


def test_what_takes_too_long_is_answered_408_but_a_stream_that_runs_goes_on():
    with managed("--request-timeout-ms", "300") as server:
        plain = post(server, 100)
        assert (plain.status_code, plain.json()["status"]) == (408, 408)
        with stream(server, 20) as answer:  # a second
            assert len(contents(answer.iter_lines())) == 20
        assert eventually(lambda: [one["running"] for one in instances(server)] == [0])  # its place is free


def test_a_stream_that_has_not_begun_in_time_is_answered_408():
    with managed("--request-timeout-ms", "300", prefill_chunk_tokens=100) as server:
        late = post(server, 1, text="a" * 4 * 2_000, stream=True)
        assert (late.status_code, late.headers["content-type"]) == (408, "application/json")


def test_an_instance_that_dies_fails_what_it_had_and_comes_back_after_its_boot():
    with managed("--instances", "2", "--time-scale", "10", "--boot-s", "20") as server:
        with stream(server, 3_000) as first, stream(server, 3_000) as second, ThreadPoolExecutor(2) as clients:
            lines = [answer.iter_lines() for answer in (first, second)]
            assert all(next(each) for each in lines)
            assert [one["running"] for one in instances(server)] == [1, 1]
            waiting = [clients.submit(post, server, 3_000) for _ in range(2)]
            assert eventually(lambda: [one["running"] for one in instances(server)] == [2, 2])
            state = server.client.post("/simulator/instances/1/kill").json()["instances"]
            assert [one["state"] for one in state] == ["ready", "booting"]
            rest = list(lines[1])
            assert not any("[DONE]" in line or 'finish_reason":"' in line for line in rest)
            assert any('"content":" ' in next(lines[0]) for _ in range(4))  # the other goes on
            assert eventually(lambda: any(one.done() for one in waiting))
            (failed,) = (one.result() for one in waiting if one.done())
            assert (failed.status_code, failed.headers["ms-azureml-model-error-statuscode"]) == (424, "502")
            assert eventually(lambda: [one["state"] for one in instances(server)] == ["ready", "ready"])
            server.client.post("/simulator/instances/0/kill")
        assert server.client.post("/simulator/instances/7/kill").status_code == 404


def test_while_every_instance_boots_503():
    with managed() as server:
        server.client.post("/simulator/instances/0/kill")
        assert post(server, 1).status_code == 503


def test_a_client_that_leaves_gives_its_place_back():
    with managed("--max-concurrent", "1") as server:
        with stream(server, 10_000):
            assert instances(server)[0]["running"] == 1
        assert eventually(lambda: instances(server)[0]["running"] == 0)
        assert post(server, 1).status_code == 200


@pytest.mark.parametrize(("routing", "dealt"), [("least_loaded", [1, 1]), ("round_robin", [2, 0])])
def test_where_a_request_goes_follows_the_routing(routing, dealt):
    """One runs long on the first, a short one passes through the second, a third comes."""
    with managed("--instances", "2", "--routing", routing) as server, stream(server, 1_000) as long:
        lines = long.iter_lines()  # kept: a client whose lines are dropped leaves
        next(lines)
        assert post(server, 1).status_code == 200
        with stream(server, 1_000):
            assert [one["running"] for one in instances(server)] == dealt


def test_rules_add_instances_which_serve_after_their_boot():
    """Two hundred times faster: the window of five minutes is 1.5 s, the boot of four minutes 1.2 s."""
    flags = ("--time-scale", "200", "--max-instances", "3", "--boot-s", "240", "--scale-rule", "pending>1:+2")
    with managed(*flags) as server, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(stream(server, 4_000))
        assert eventually(lambda: len(instances(server)) == 3)
        state = server.client.get("/simulator").json()
        assert [(event["before"], event["after"]) for event in state["scaled"]] == [(1, 3)]
        assert "pending" in state["scaled"][0]["why"]
        assert 300 <= state["scaled"][0]["at_s"] <= state["age_s"]  # the deployment's seconds: its first whole window
        assert all(300 <= each["billed_s"] <= state["age_s"] for each in state["instances"][:1])
        assert [one["state"] for one in state["instances"]] == ["ready", "booting", "booting"]
        assert eventually(lambda: [one["state"] for one in instances(server)] == ["ready"] * 3)


def test_what_is_more_than_the_bandwidth_is_delayed_and_says_so():
    image = data_url(336, 336)
    body = ask(picture(image))
    size = len(json.dumps(body))
    flags = ("--model", "Phi-3-vision-128k-instruct", "--bandwidth-bytes-per-s", str(size))
    with managed(*flags) as server:
        answers = [server.client.post(CHAT, json=body, headers=pinned(1)) for _ in range(3)]
    delays = [int(answer.headers.get("ms-azureml-bandwidth-request-delay-ms", 0)) for answer in answers]
    assert delays[0] == 0  # one second's worth
    assert all(300 < delay <= 1_100 for delay in delays[1:])  # each waits until the one before is through


def test_the_delay_that_is_told_is_the_clients():
    flags = ("--time-scale", "10", "--bandwidth-bytes-per-s", "60")
    with managed(*flags) as server:
        began = time.monotonic()
        server.client.post(CHAT, json=ask("a" * 60), headers=pinned(1))
        delayed = server.client.post(CHAT, json=ask(), headers=pinned(1))
        took_ms = (time.monotonic() - began) * 1000
    assert 0 < int(delayed.headers["ms-azureml-bandwidth-request-delay-ms"]) <= took_ms


def test_answers_pass_the_same_pipe():
    with managed("--bandwidth-bytes-per-s", "2000", iteration_base_ms=0) as server:
        began = time.monotonic()
        answer = post(server, 700)
        took_s = time.monotonic() - began
    beyond_s = len(answer.content) / 2_000 - 1  # one second's worth goes at once
    assert took_s >= beyond_s > 0.3


def test_a_death_is_told_at_once_however_long_the_iteration():
    with managed(iteration_base_ms=60_000) as server, ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(post, server, 5)
        assert eventually(lambda: instances(server)[0]["running"] == 1)
        server.client.post("/simulator/instances/0/kill")
        assert waiting.result().status_code == 424


def test_a_driver_that_fails_leaves_nobody_waiting_and_no_request_leaves_a_trace(monkeypatch):
    async def scene():
        pacemaker, reported = Pacemaker(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        settings = ManagedSettings(sku="any", batching=BatchingModel(**STEADY), endpoint=EndpointSettings())
        compute, rng = Managed("model", settings, pacemaker), Random(1)
        asked = SimpleNamespace(stream=True)
        for stream in (True, False, True):
            asked.stream = stream
            pace = compute.begin(asked, Composed, rng, Flight())
            assert await pace.all_of(Composed.completion_tokens)
            compute.end(pace, Composed)
        assert not compute._waiting and not compute._streams

        def failing(_):
            raise ArithmeticError("on purpose")

        pace = compute.begin(asked, Composed, rng, Flight())
        monkeypatch.setattr(compute._endpoint, "advance", failing)
        assert not await asyncio.wait_for(pace.all_of(Composed.completion_tokens), PATIENCE_S)
        assert pace.failure().status == 500
        with pytest.raises(Refusal) as refused:
            compute.begin(asked, Composed, rng, Flight())
        assert refused.value.status == 500
        assert [type(error) for error in reported] == [ArithmeticError]
        pacemaker.close()

    asyncio.run(scene())


class Composed:
    """What an endpoint needs to know of an answer."""

    prompt_tokens, completion_tokens = 5, 2


def test_a_prompt_that_no_instance_holds_is_refused():
    with managed(kv_tokens=100) as server:
        assert post(server, 1, text="a" * 4 * 200).status_code == 400


def test_two_hundred_streams_lose_nothing():
    flags = ("--max-concurrent", "100", "--instances", "2")
    with managed(*flags, max_running=100, iteration_base_ms=20) as server, ExitStack() as stack:
        got = [0] * 200
        client = stack.enter_context(
            httpx.Client(base_url=server.url, trust_env=False, timeout=60, limits=httpx.Limits(max_connections=None))
        )

        def one(number):
            with client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(10)) as answer:
                got[number] = len(contents(answer.iter_lines()))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert got == [10] * 200
        assert [one["running"] for one in instances(server)] == [0, 0]


def test_iterations_that_take_no_time_hold_nobody_up():
    with managed(iteration_base_ms=0) as server, ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(post, server, 3_000) for _ in range(4)]
        assert server.client.get("/info").status_code == 200
        assert [one.result().json()["usage"]["completion_tokens"] for one in waiting] == [3_000] * 4


def test_asked_to_end_it_lets_its_streams_end():
    with managed() as server:
        with stream(server, 20) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.terminate()
            assert list(lines)[-2] == "data: [DONE]"
        assert server.process.wait(PATIENCE_S) == 0


def test_serverless_compute_shows_no_instances():
    with simulated() as server:
        assert instances(server) == []
        assert server.client.post("/simulator/instances/0/kill").status_code == 404


def test_whoever_has_no_key_sees_and_kills_nothing():
    with simulated("--kind", "managed", serving=STEADY, key="k" * 32) as server:
        assert server.client.get("/simulator").status_code == 401
        assert server.client.post("/simulator/instances/0/kill").status_code == 401
        assert server.client.get("/simulator", headers={"api-key": "k" * 32}).json()["instances"][0]["state"] == "ready"


def test_a_socket_that_goes_while_its_body_comes_leaves_no_trace():
    with managed() as server:
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        with socket.create_connection(address, PATIENCE_S) as raw:
            raw.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{{".encode())
        assert eventually(lambda: server.client.get("/simulator").json()["running"] == 0)
        assert post(server, 1).status_code == 200


# The same model, in real and in virtual time

MODEL = {
    "iteration_base_ms": 25,
    "iteration_per_sequence_ms": 1.2,
    "iteration_exponent": 0.9,
    "prefill_per_token_ms": 0.15,
    "prefill_chunk_tokens": 256,
    "kv_tokens": 9_000,
    "max_running": 12,
}


def instants_of_tokens(arrivals, settings):
    """For each arrival (at_ns, prompt, completion tokens) when each of its tokens is there, in virtual time."""
    endpoint, instants = Endpoint(BatchingModel(**MODEL), settings), {}

    def note(now_ns):
        for sequence, seen in instants.items():
            seen.extend([now_ns] * (sequence.generated_tokens - len(seen)))

    def work_until(until_ns):
        while (due_ns := endpoint.next_ns()) is not None and due_ns <= until_ns:
            endpoint.advance(due_ns)
            note(due_ns)

    for at_ns, prompt_tokens, completion_tokens in arrivals:
        work_until(at_ns)
        instants[endpoint.submit(at_ns, prompt_tokens, completion_tokens, streamed=True)] = []
    work_until(1 << 61)
    return list(instants.values())


def quantiles(values):
    return [statistics.quantiles(values, n=100)[percent - 1] for percent in (10, 50, 75, 90, 95)]


def streams(folder, model, routing, rate, seconds):
    """The run of so many seconds of real streams against two instances of the model."""
    with managed("--instances", "2", "--routing", routing, **model, completion_mean_tokens=60) as server:
        load = ("--kind", "managed", "--scenario", "streaming", "--rate", f"{rate}/s", "--arrivals", "poisson")
        played = ("--duration", f"{seconds}s", "--warmup", "0s", "--max-tokens", "200", "--no-report", "--quiet")
        done = headroom(folder.parent, "run", "--target", server.url, *load, *played, "--out", folder.name)
    run = Run.open(folder)
    assert run.samples.collect()["outcome"].unique().to_list() == ["ok"], done.stderr
    return run


def own_ns(tmp_path):
    """What sockets, HTTP and the writing of answers take of a first token, at the median: of a model that takes nothing."""
    model = MODEL | {"iteration_base_ms": 0.05, "iteration_per_sequence_ms": 0, "prefill_per_token_ms": 0}
    rows = streams(tmp_path / "own", model, "least_loaded", 5, 10).samples.collect()
    return round((rows["first_token_ns"] - rows["sent_ns"]).median())


@pytest.mark.long
@pytest.mark.parametrize(("routing", "rate"), [("least_loaded", 5), ("round_robin", 5), ("least_loaded", 7)])
def test_sockets_and_virtual_time_agree_within_3_percent(tmp_path, routing, rate):
    """TTFT and ITL of 100 s of real streams against the same arrivals given to the model alone."""
    own = own_ns(tmp_path)
    assert own < 3_000_000, "which is the machine's, and another matter"
    run = streams(tmp_path / "run", MODEL, routing, rate, 100)
    rows = run.samples.sort("sent_ns").collect()
    gaps_us = run.chunks.collect()["gap_us"].to_list()
    arrivals = list(rows.select(pl.col("sent_ns") + own, "prompt_tokens", "completion_tokens").iter_rows())
    settings = EndpointSettings(
        instances=2, max_concurrent_per_instance=12, request_timeout_ms=180_000, routing=Routing(routing)
    )
    instants = instants_of_tokens(arrivals, settings)
    assert [len(each) for each in instants] == rows["completion_tokens"].to_list()
    ttft_ms = (rows["first_token_ns"] - rows["sent_ns"]) / 1e6
    modelled_ttft_ms = [(each[0] - sent_ns) / 1e6 for each, sent_ns in zip(instants, rows["sent_ns"], strict=True)]
    modelled_gaps_us = [(later - earlier) / 1e3 for each in instants for earlier, later in pairwise(each)]
    assert len(gaps_us) == len(modelled_gaps_us) > 5_000
    assert quantiles(ttft_ms) == pytest.approx(quantiles(modelled_ttft_ms), rel=0.03)
    assert quantiles(gaps_us) == pytest.approx(quantiles(modelled_gaps_us), rel=0.03)
