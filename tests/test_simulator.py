"""The simulated deployment's limits, its time and its process: a real one on loopback."""

import asyncio
import json
import math
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime

import httpx
import pytest

from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.serving import Lengths, ServingModel, rng_of
from tests.simulators import (
    CHAT,
    EXACT,
    PATIENCE_S,
    ask,
    complaint,
    eventually,
    failed_start,
    pinned,
    simulated,
    streamed,
)

# Limits


def test_a_number_may_be_written_with_commas():
    with simulated("--tpm", "300,000") as server:
        answer = server.client.post(CHAT, json=ask(max_tokens=1))
    assert answer.headers["x-ratelimit-limit-tokens"] == "300000"


def test_beyond_the_tokens_a_429_says_when_to_come_back():
    with simulated("--tpm", "60") as server:  # one token a second, 60 of them saved up
        first = server.client.post(CHAT, json=ask(max_tokens=44), headers=pinned(1))
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "60"
        assert first.headers["x-ratelimit-remaining-tokens"] == "10"
        assert first.headers["x-ratelimit-remaining-requests"] == "999"
        second = server.client.post(CHAT, json=ask(max_tokens=44))
    assert second.status_code == 429
    wait_s, wait_ms = int(second.headers["retry-after"]), int(second.headers["retry-after-ms"])
    assert 40 - PATIENCE_S < wait_s <= 40
    assert wait_s == math.ceil(wait_ms / 1000)
    message = f"Rate limit is exceeded. Try again in {wait_s} seconds."
    assert second.json() == {"error": {"code": "429", "message": message}}
    assert second.headers["x-ms-error-code"] == "429"
    assert 10 <= int(second.headers["x-ratelimit-remaining-tokens"]) < 10 + PATIENCE_S
    assert int(second.headers["x-ratelimit-remaining-requests"]) >= 999  # the refused one took none


def test_beyond_the_requests_a_429_and_a_refused_body_takes_nothing():
    with simulated("--rpm", "2", "--window", "sliding") as server:
        statuses = [server.client.post(CHAT, json=body).status_code for body in ({}, ask(), {}, ask(), ask())]
    assert statuses == [422, 200, 422, 200, 429]


@pytest.mark.parametrize("window", ["bucket", "minute", "sliding"])
@pytest.mark.parametrize("slice_s", [1, 10, 60])
def test_sixty_requests_a_minute_are_so_many_in_each_slice(window, slice_s):
    flags = ("--rpm", "60", "--window", window, "--request-slice-s", str(slice_s))
    with simulated(*flags) as server:
        answers = [server.client.post(CHAT, json=ask(max_tokens=1)) for _ in range(slice_s + 1)]
    assert [answer.status_code for answer in answers] == [200] * slice_s + [429]
    wait_s = int(answers[-1].headers["retry-after"])
    assert wait_s <= (1 if window == "bucket" else slice_s)  # a bucket refills as time goes, the others at once


def test_a_prompt_that_fills_the_context_is_answered_with_nothing_and_a_longer_one_refused():
    with simulated("--context-tokens", "50") as server:
        full = server.client.post(CHAT, json=ask("a" * 4 * 46))
        assert full.json()["usage"] == {"prompt_tokens": 50, "total_tokens": 50, "completion_tokens": 0}
        assert server.client.post(CHAT, json=ask("a" * 4 * 47)).status_code == 400


def test_a_request_that_can_never_fit_is_told_to_wait_a_day():
    with simulated("--tpm", "60") as server:
        refused = server.client.post(CHAT, json=ask(max_tokens=61))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "86400")


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("retry-after=", None),
        ("retry-after-ms=", None),
        ("x-ratelimit-remaining-requests=", None),
        ("Retry-After=0", "0"),
        ("retry-after=86400", "86400"),
        ("retry-after-ms=-1", "-1"),
        ("x-ratelimit-remaining-tokens=-12", "-12"),
        ("x-ms-retry-after-ms=700", "700"),
        ("x-rate-limit-reset-tokens=33", "33"),
        ("x-ratelimit-type=UserByMinute", "UserByMinute"),
    ],
)
def test_each_rate_limit_header_can_be_left_out_or_lie(lie, said):
    name = lie.partition("=")[0].lower()
    with simulated("--tpm", "60", "--header", lie) as server:
        passed, refused = (server.client.post(CHAT, json=ask(max_tokens=44), headers=pinned(1)) for _ in range(2))
    assert (passed.status_code, refused.status_code) == (200, 429)
    assert refused.headers.get(name) == said
    assert passed.headers.get(name) == (said if name.startswith("x-rate") else None)
    honest = {"retry-after", "retry-after-ms", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests"} - {name}
    assert honest <= refused.headers.keys()  # the others do not change


def test_a_wait_can_be_said_as_a_date():
    with simulated("--tpm", "60", "--header", "retry-after=http-date") as server:
        _, refused = (server.client.post(CHAT, json=ask(max_tokens=44), headers=pinned(1)) for _ in range(2))
        until = parsedate_to_datetime(refused.headers["retry-after"]).timestamp()
    assert until == pytest.approx(time.time() + int(refused.headers["retry-after-ms"]) / 1000, abs=PATIENCE_S)


def test_scaled_time_makes_tokens_quota_and_waits_faster():
    slow = EXACT | {"ttft_base_ms": 3_000, "itl_base_ms": 300, "itl_per_running_ms": 0}
    with simulated("--time-scale", "60", "--tpm", "600", "--window", "sliding", serving=slow) as server:
        began = time.monotonic()
        first = server.client.post(CHAT, json=ask(max_tokens=500), headers=pinned(41))
        assert first.status_code == 200
        assert 0.25 <= time.monotonic() - began < 3  # 3 s + 40 x 0.3 s of model time
        refused = server.client.post(CHAT, json=ask(max_tokens=500))
        assert int(refused.headers["retry-after-ms"]) <= 1_000 - 250  # a minute of model time from the first
        assert eventually(lambda: server.client.post(CHAT, json=ask(max_tokens=500)).status_code == 200)


@pytest.mark.parametrize(("admission", "left"), [("prompt+max_tokens", 94), ("max_tokens", 100), ("usage", 984)])
def test_what_a_request_costs_follows_the_admission_policy(admission, left):
    with simulated("--tpm", "1000", "--window", "sliding", "--admission", admission) as server:
        first = server.client.post(CHAT, json=ask(max_tokens=900), headers=pinned(10))
        assert first.status_code == 200
        # The bill of the first is known now: 6 + 10. The second costs 0 under `max_tokens`, else its 6 of prompt.
        second = server.client.post(CHAT, json=ask(max_tokens=0))
        mine = 0 if admission == "max_tokens" else 6
        assert int(second.headers["x-ratelimit-remaining-tokens"]) == left - mine


def test_managed_compute_has_no_quota():
    with simulated("--kind", "managed") as server:
        answer = server.client.post(CHAT, json=ask(max_tokens=1_000_000), headers=pinned(1))
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


SLOW = EXACT | {"ttft_base_ms": 1, "itl_base_ms": 50, "itl_per_running_ms": 0}


def test_a_client_that_leaves_frees_its_place():
    with simulated("--concurrency", "1", "--context-tokens", "100000", serving=SLOW) as server:
        for stream in (True, False):
            body = ask(stream=stream)
            with httpx.Client(base_url=server.url, trust_env=False) as leaver:
                request = leaver.build_request("POST", CHAT, json=body, headers=pinned(10_000))  # 500 s
                if stream:
                    lines = leaver.send(request, stream=True).iter_lines()
                    assert next(lines).startswith("data: ")
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        request.extensions["timeout"] = {"connect": 5, "read": 0.3, "write": 5, "pool": 5}
                        leaver.send(request)
                busy = server.client.post(CHAT, json=ask(max_tokens=1)) if stream else None
            if busy is not None:
                assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
            assert eventually(lambda: server.client.post(CHAT, json=ask(max_tokens=1)).status_code == 200)


# Time


def test_ttft_and_gaps_are_distributed_as_the_model_states():
    model, lengths, n = ServingModel(), Lengths(), 20_000
    draws = {
        "ttft": [model.ttft_ns(rng_of(5, i), prompt_tokens=1_000, running=10) / 1e6 for i in range(n)],
        "gap": [model.gap_ns(rng_of(5, i), 50) / 1e6 for i in range(n)],
        "completion": [lengths.completion_tokens(rng_of(5, i)) for i in range(n)],
    }
    stated = {"ttft": (60 + 0.06 * 1_000 + 0.4 * 10, 0.15), "gap": (12 + 0.12 * 50, 0.1), "completion": (90, 0.6)}
    for name, (mean, sigma) in stated.items():
        logs = [math.log(draw) for draw in draws[name]]
        error = 5 / math.sqrt(n)  # five standard errors of a mean, in standard deviations
        assert statistics.fmean(logs) == pytest.approx(math.log(mean) - sigma**2 / 2, abs=error * sigma)
        assert statistics.stdev(logs) == pytest.approx(sigma, rel=error)
        assert statistics.fmean(draws[name]) == pytest.approx(mean, rel=error * math.sqrt(math.expm1(sigma**2)))
        for quantile in (0.05, 0.5, 0.95):
            limit = mean * math.exp(sigma * statistics.NormalDist().inv_cdf(quantile) - sigma**2 / 2)
            assert sum(draw <= limit for draw in draws[name]) / n == pytest.approx(quantile, abs=0.02)


def test_without_jitter_the_formulas_are_exact():
    model = ServingModel(**EXACT | {"ttft_per_prompt_token_ms": 0.5, "ttft_per_running_ms": 2})
    assert model.ttft_ns(random.Random(1), prompt_tokens=100, running=3) == (60 + 50 + 6) * 1_000_000
    assert model.gap_ns(random.Random(1), 100) == 24_000_000
    assert Lengths(completion_sigma=0).completion_tokens(random.Random(1)) == 90


def test_a_serving_model_refuses_what_is_no_duration():
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="itl_base_ms"):
            ServingModel(itl_base_ms=value)


def test_a_requests_randomness_depends_on_seed_and_number_only():
    draws = {(seed, number): rng_of(seed, number).random() for seed in range(20) for number in range(20)}
    assert len(set(draws.values())) == len(draws)
    assert rng_of(3, 4).random() == draws[3, 4]


def test_tokens_never_leave_early_and_do_not_drift():
    """Lower bounds only: a busy machine can be late, never early."""
    with simulated(serving=EXACT | {"ttft_base_ms": 100, "itl_base_ms": 10, "itl_per_running_ms": 0}) as server:
        began = time.monotonic()
        server.client.post(CHAT, json=ask(), headers=pinned(21))
        assert 0.3 <= time.monotonic() - began < PATIENCE_S
        began = time.monotonic()
        with server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(21)) as answer:
            seen = [time.monotonic() - began for line in answer.iter_lines() if '"content":" ' in line]
    assert len(seen) == 21
    assert all(at_s >= 0.1 + 0.01 * index for index, at_s in enumerate(seen))


def test_whoever_runs_beside_slows_a_stream_down():
    serving = EXACT | {"ttft_base_ms": 1, "itl_base_ms": 0, "itl_per_running_ms": 50}
    with (
        simulated(serving=serving) as server,
        httpx.stream(
            "POST", server.url + CHAT, json=ask(stream=True), headers=pinned(1_000), trust_env=False
        ) as beside,
    ):
        lines = beside.iter_lines()
        next(lines)
        began = time.monotonic()
        streamed(server, headers=pinned(6))
        assert time.monotonic() - began >= 5 * 2 * 0.05


def test_a_wait_ends_at_its_instant_or_when_it_is_cut():
    async def waits():
        pacemaker, free, doomed = Pacemaker(), Flight(), Flight()
        began_ns = time.monotonic_ns()
        never = asyncio.create_task(pacemaker.until(began_ns + 3_600_000_000_000, doomed))
        await asyncio.sleep(0)  # the far wait is set before the near ones
        for ms in (30, 0.5, 31.3, 31.2, -5):
            due_ns = began_ns + round(ms * 1e6)
            assert await asyncio.wait_for(pacemaker.until(due_ns, free), PATIENCE_S)
            assert time.monotonic_ns() >= due_ns
        doomed.cut()
        assert not await asyncio.wait_for(never, PATIENCE_S)
        assert not await pacemaker.until(began_ns + 3_600_000_000_000, doomed)
        pacemaker.close()

    asyncio.run(waits())


def test_many_waits_end_in_the_order_of_their_instants_and_none_before_its_own():
    async def waits():
        pacemaker, ended, rng = Pacemaker(), [], random.Random(1)
        began_ns = time.monotonic_ns() + 500_000_000  # all are waiting by then

        async def one(due_ns):
            assert await pacemaker.until(due_ns, Flight())
            ended.append((due_ns, time.monotonic_ns()))

        await asyncio.gather(*(one(began_ns + rng.randrange(50_000_000)) for _ in range(500)))
        pacemaker.close()
        return ended

    ended = asyncio.run(waits())
    assert len(ended) == 500
    assert ended == sorted(ended)
    assert all(at_ns >= due_ns for due_ns, at_ns in ended)


# The process


def test_it_prints_one_line_and_ends_with_its_stdin():
    with simulated() as server:
        assert server.pid == server.process.pid
        server.client.get("/info")
        server.process.stdin.close()
        assert server.process.wait(PATIENCE_S) == 0
        assert server.process.stdout.read() == b""
        assert server.process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_answers_what_runs_takes_no_more_and_leaves_with_0(number):
    with simulated(serving=SLOW) as server:
        with server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(20)) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(number)
            assert eventually(lambda: not listens(server.url))
            rest = list(lines)
        assert sum('"content":" ' in line for line in rest) >= 19
        assert rest[-2] == "data: [DONE]"
        assert server.process.wait(PATIENCE_S) == 0
        assert server.process.stderr.read() == b"ending: 1 running, for 30 s at most; Ctrl-C cuts them\n"


def test_asked_twice_it_cuts_what_runs():
    with simulated(serving=SLOW) as server:
        with server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(3_000)) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            assert b"Ctrl-C" in server.process.stderr.readline()
            server.process.send_signal(signal.SIGINT)
            assert not [line for line in lines if "[DONE]" in line or '"stop"' in line]
        assert server.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("flags", "sent"),
    [
        ((), lambda head, body: head + body[:-1]),  # half a body
        (("--kind", "managed", "--bandwidth-bytes-per-s", "10"), lambda head, body: head + body),  # in the pipe
        ((), lambda head, body: (head + body) * 50),  # many answers that nobody reads
    ],
    ids=["half a body", "a body that the bandwidth delays", "a client that does not read"],
)
def test_asked_twice_it_ends_whatever_state_a_request_is_in(flags, sent):
    body = json.dumps(ask(stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{next(iter(pinned(1)))}: 4000\r\nContent-Length: {len(body)}\r\n\r\n"
    with simulated(*flags) as server:
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        with socket.create_connection(address, PATIENCE_S) as connection:
            connection.sendall(sent(head.encode(), body))
            time.sleep(0.3)
            server.process.send_signal(signal.SIGINT)
            assert b"1 running" in server.process.stderr.readline()
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(PATIENCE_S) == 0
        assert server.process.stderr.read() == b""


def test_the_end_of_stdin_cuts_what_runs_at_once():
    with (
        simulated(serving=SLOW) as server,
        server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(3_000)),
    ):
        server.process.stdin.close()
        assert server.process.wait(PATIENCE_S) == 0


def test_the_time_for_what_runs_is_bounded():
    with simulated("--drain-s", "0.3", serving=SLOW) as server:
        with server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(3_000)) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.terminate()
            assert not [line for line in lines if "[DONE]" in line]
        assert server.process.wait(PATIENCE_S) == 0


def listens(url):
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def test_whoever_is_not_answered_when_it_ends_is_told_so():
    body = json.dumps(ask()).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{next(iter(pinned(3_000)))}: 3000\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    hopeless = ask(max_tokens=1_000_000)  # refused whatever is left, so that it can ask what is
    with simulated("--window", "sliding", "--drain-s", "0.3", serving=SLOW) as server:
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        with (
            socket.create_connection(address, PATIENCE_S) as waits,
            socket.create_connection(address, PATIENCE_S) as sends,
        ):
            waits.sendall(head.encode() + body)
            sends.sendall(head.encode() + body[:-1])
            assert eventually(
                lambda: server.client.post(CHAT, json=hopeless).headers["x-ratelimit-remaining-requests"] == "999"
            )
            server.process.terminate()
            assert eventually(lambda: not listens(server.url))
            sends.sendall(body[-1:])
            assert sends.recv(12) == b"HTTP/1.1 503"  # it takes no more
            assert waits.recv(12) == b"HTTP/1.1 503"  # its time is over
        assert server.process.wait(PATIENCE_S) == 0


def test_it_listens_on_ipv6_too():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with simulated("--host", "::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert server.client.get("/info").status_code == 200


def test_without_until_eof_the_end_of_stdin_means_nothing():
    command = [sys.executable, "-m", "loadgen.simulator", "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            time.sleep(0.5)
            assert httpx.get(url + "/info", trust_env=False).status_code == 200
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_a_port_in_use_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = failed_start("--port", str(port))
    assert said == f"port {port} of 127.0.0.1 is in use; give another with --port, or 0 for any\n"


def test_a_host_that_is_none_is_one_sentence(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "k" * 32)
    assert "--host" in failed_start("--host", "no host at all", "--key-env", "SOME_KEY")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model", "Phi-9"], "--context-tokens"),
        (["--model", "phi-3-vision-128k-instruct"], "give --kind managed"),
        (["--model", "mistral-large", "--kind", "managed"], "give --kind serverless"),
        (["--kind", "managed", "--content-filter", "flat"], "--content-filter"),
        (["--kind", "managed", "--content-filter-phrase", "x"], "--content-filter"),
        (["--content-filter", "off", "--content-filter-phrase", "x"], "--content-filter-phrase"),
        (["--content-filter-phrase", ""], "--content-filter-phrase"),
        (["--kind", "managed", "--tpm", "5"], "--tpm"),
        (["--tpm", "0"], "--tpm must be above zero"),
        (["--key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--serving", "speed=9"], "itl_base_ms"),
        (["--serving", "itl_base_ms=x"], "'x'"),
        (["--serving", "itl_base_ms=-1"], "itl_base_ms"),
        (["--context-tokens", "0"], "--context-tokens"),
        (["--seed", "-1"], "--seed"),
        (["--host", "0.0.0.0"], "--key-env"),
        (["--host", "::"], "--key-env"),
        (["--drain-s", "-1"], "--drain-s"),
        (["--time-scale", "0"], "--time-scale"),
        (["--time-scale", "nan"], "--time-scale"),
        (["--header", "x-powered-by=me"], "x-powered-by"),
        (["--kind", "Managed"], "'Managed' is none of serverless, managed"),
        (["--tpm", "200k"], "'200k' is not a whole number"),
        (["--serving", "max_running=5"], "max_running is one of --kind managed"),
        (["--kind", "managed", "--scale-rule", "pending>1:-1"], "worse"),
        (["--header", "x-ratelimit-reset-tokens=http-date"], "retry-after only"),
        (["--kind", "managed", "--boot-s", "1e300"], "--boot-s must be at most 86,400"),
        (["--kind", "managed", "--instances", "51"], "--instances must be at most 50"),
        (["--kind", "managed", "--max-instances", "5"], "--scale-rule"),
        (["--kind", "managed", "--min-instances", "0"], "--min-instances must be at least 1"),
        (["--kind", "managed", "--serving", "iteration_base_ms=1e305"], "iteration_base_ms"),
        (["--header", "retry-after"], "NAME=VALUE"),
        (["--kind", "managed", "--header", "retry-after=1"], "--header"),
        (["--kind", "managed", "--sku", "Standard_X9"], "NC24ads_A100_v4"),
        (["--kind", "managed", "--model", "Phi-3-medium-128k-instruct", "--sku", "NC6s_v3"], "NC48ads_A100_v4"),
        (["--kind", "managed", "--instances", "0"], "--instances must be at least 1"),
        (["--kind", "managed", "--min-instances", "3", "--max-instances", "2"], "--max-instances"),
        (["--kind", "managed", "--scale-rule", "pending>1:+1"], "--max-instances"),
        (["--kind", "managed", "--scale-rule", "utilization_percent=70"], "METRIC>NUMBER:+N"),
        (["--kind", "managed", "--serving", "itl_base_ms=3"], "iteration_base_ms"),
        (["--instances", "2", "--scale-rule", "pending>1:+1"], "--scale-rule, --instances"),
        (["--port", "70000"], "70000"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(flags, named):
    assert named in complaint(*flags)


def test_it_imports_neither_the_load_generator_nor_the_planner():
    code = "import sys, loadgen.simulator.__main__; print([m for m in sys.argv[1:] if m in sys.modules])"
    forbidden = [
        "gevent",
        "locust",
        "polars",
        "pydantic",
        "planner",
        "scenarios",
        "headroom",
        "httpx",
        "loadgen.config",
    ]
    done = subprocess.run([sys.executable, "-c", code, *forbidden], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
