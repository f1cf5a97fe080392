"""Connections in the gevent hub against real servers on loopback: every end of an attempt becomes a row."""

import asyncio
import gc
import socket
import ssl
import struct
import time
from pathlib import Path

import gevent
import pytest
import trustme
from gevent import monkey

from loadgen.alarm import Alarm
from loadgen.config import RunConfig, TargetConfig, TimeoutConfig
from loadgen.connection import Connection
from loadgen.endpoint import Endpoint
from loadgen.guards import Guards
from loadgen.lane import Lane
from loadgen.quota import Quota, enforcing, pacing
from loadgen.requests import chat
from loadgen.samples import Sample
from loadgen.tally import Tally
from loadgen.target import Credential, address_of
from loadgen.throttle import Throttle
from tests.servers import ANSWER, Server, always, response, stream
from tests.simulators import eventually

assert not monkey.is_module_patched("socket"), "the servers here run on real threads"
PLAIN = chat("chat", [{"role": "user", "content": "hello"}], max_tokens=20)
STREAM = chat("streaming", [{"role": "user", "content": "hello"}], max_tokens=20, stream=True)
LAST = {
    "choices": [{"delta": {"content": ""}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


def content(text):
    return {"choices": [{"delta": {"content": text}}]}


def endpoint_of(url, *, ca_file=None, credential=None, **timeouts):
    return Endpoint(
        address_of(url),
        TargetConfig(url=url, ca_file=ca_file),
        TimeoutConfig(**timeouts),
        credential,
        start_ns=time.monotonic_ns(),
    )


def attempt(connection, spec=PLAIN, number=0):
    sample = Sample(seq=number, scenario=spec.scenario, target="t", due_ns=0)
    with gevent.Timeout(20):
        connection.attempt(spec, sample, f"run-{number}-0")
    return sample


def reset(writer):
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def test_an_attempt_fills_its_row_and_keeps_the_connection():
    with Server(always(response())) as server:
        connection = Connection(endpoint_of(server.url))
        samples = [attempt(connection, number=number) for number in range(3)]
    assert server.connections == 1
    for sample in samples:
        assert (sample.outcome, sample.status, sample.error) == ("ok", 200, None)
        assert (sample.prompt_tokens, sample.completion_tokens, sample.usage_source) == (3, 2, "server")
        assert 0 < sample.sent_ns < sample.first_byte_ns <= sample.done_ns
        assert sample.first_token_ns is None
        assert sample.bytes_out == len(server.calls[0].head) + len(server.calls[0].body)
    assert server.calls[1].header("x-ms-client-request-id") == "run-1-0"
    assert server.calls[1].path == "/chat/completions?api-version=2024-05-01-preview"


def test_a_stream_is_timed_chunk_by_chunk():
    with Server(stream(content(""), content("a"), content("b"), LAST, b"[DONE]", gap_s=0.03)) as server:
        sample = attempt(Connection(endpoint_of(server.url)), STREAM)
    assert (sample.outcome, sample.chunks, sample.finish_reason) == ("ok", 2, "stop")
    assert sample.sent_ns < sample.first_byte_ns < sample.first_token_ns < sample.last_token_ns < sample.done_ns
    assert 0.02e9 < sample.last_token_ns - sample.first_token_ns < 1e9


def test_the_key_goes_both_ways_in_the_azure_dialect_and_as_a_bearer_token_in_the_other():
    credential = Credential(lambda: ("k" * 32, float("inf")))
    with Server(always(response())) as server:
        attempt(Connection(endpoint_of(server.url, credential=credential)))
        target = TargetConfig(url=server.url, dialect="openai")
        endpoint = Endpoint(address_of(server.url), target, TimeoutConfig(), credential, time.monotonic_ns())
        attempt(Connection(endpoint))
    azure, openai = server.calls
    assert (azure.header("authorization"), azure.header("api-key")) == ("Bearer " + "k" * 32, "k" * 32)
    assert (openai.header("authorization"), openai.header("api-key")) == ("Bearer " + "k" * 32, None)
    assert openai.path == "/v1/chat/completions"


def test_a_connection_that_the_server_closed_while_idle_is_opened_again_once_and_nothing_is_lost():
    async def answer_and_close(call, writer):
        writer.write(response())
        await writer.drain()
        writer.close()

    with Server(answer_and_close) as server:
        connection = Connection(endpoint_of(server.url))
        assert attempt(connection).outcome == "ok"
        gevent.sleep(0.1)
        assert attempt(connection).outcome == "ok"
        gevent.sleep(0.1)
        connection.ready(time.monotonic_ns() + 10**9)  # has noticed, and opens ahead of time
        last = attempt(connection)
        assert (last.outcome, last.resent) == ("ok", 0)
    assert (server.connections, len(server.calls)) == (3, 3)


def test_a_lane_whose_lease_has_ended_drops_the_request_and_gives_back_what_it_took():
    """A worker that was frozen must not send when it wakes: its share may be others' by now."""
    with Server(always(response())) as server:
        config = RunConfig.model_validate({"target": {"url": server.url}, "budget": {"requests": 9, "tokens": 9_999}})
        tally = Tally(time.monotonic_ns(), None)
        guards = Guards(config.budget, auto_stop=True)
        parts = {"alarm": Alarm(), "tally": tally, "guards": guards, "variables": {}, "model": None, "run_id": "run"}
        lane = Lane(config, config.target, **parts)
        connection = Connection(lane.endpoint)
        late, sent = (Sample(seq=number, scenario="chat", target="t", due_ns=0) for number in range(2))
        lane.endpoint.send_until_ns = time.monotonic_ns() - 1
        assert lane.attempt(late, PLAIN, connection, time.monotonic_ns()) is None
        assert (late.outcome, late.error, late.sent_ns) == ("dropped", "lease_ended", None)
        assert {use["used"] for use in guards.budget.use().values()} == {0.0} and server.calls == []
        lane.endpoint.send_until_ns = time.monotonic_ns() + 10**10
        assert lane.attempt(sent, PLAIN, connection, time.monotonic_ns()) is not None
        assert (sent.outcome, tally.outcomes, len(server.calls)) == ("ok", {"dropped": 1, "ok": 1}, 1)


def test_a_lease_that_ends_while_the_connection_is_opened_sends_nothing():
    with Server(always(response())) as server:
        endpoint = endpoint_of(server.url)
        endpoint.send_until_ns = time.monotonic_ns() - 1
        sample = attempt(Connection(endpoint))
        assert (sample.outcome, sample.error, sample.sent_ns) == ("cancelled", "lease_ended", None)
        assert eventually(lambda: server.connections == 1)
        assert server.calls == []


def test_ipv6_is_spoken():
    try:
        probe = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with probe:
        address = probe.getsockname()[1]
        connection = Connection(endpoint_of(f"http://[::1]:{address}", first_byte=5))
        sample = Sample(seq=0, scenario="s", target="t", due_ns=0)
        user = gevent.spawn(connection.attempt, PLAIN, sample, "run-0-0")
        gevent.sleep(0.05)
        peer, _ = probe.accept()
        with peer:
            assert f"Host: [::1]:{address}".encode() in peer.recv(65_536)
            peer.sendall(response())
            user.join(5)
    assert sample.outcome == "ok"


def test_opening_is_timed_apart_and_belongs_to_the_attempt_that_was_first_on_the_connection():
    with Server(always(response())) as server:
        connection = Connection(endpoint_of(server.url))
        first, second = attempt(connection), attempt(connection)
        ahead = Connection(endpoint_of(server.url))
        ahead.ready(time.monotonic_ns() + 10**9)
        gevent.sleep(0.05)
        third = attempt(ahead)
    assert 0 <= first.connect_ns < first.connected_ns < first.sent_ns
    assert (second.connect_ns, second.connected_ns, second.secured_ns) == (None, None, None)
    assert third.sent_ns - third.connected_ns > 0.04e9
    assert first.secured_ns is third.secured_ns is None


def test_a_fresh_connection_that_is_closed_without_an_answer_is_not_tried_again():
    async def close(call, writer):
        writer.close()

    with Server(close) as server:
        sample = attempt(Connection(endpoint_of(server.url)))
    assert (sample.outcome, sample.error, len(server.calls)) == ("network", "closed_before_answer", 1)


def test_a_connection_that_was_slow_to_open_is_not_long_taken_for_stale(monkeypatch):
    """A lost SYN, an address that swallowed it or a slow proxy say nothing of a round trip."""

    async def then_fail(call, writer):
        if call.number == 0:
            writer.write(response())
        else:
            await asyncio.sleep(0.4)
            writer.close()

    with Server(then_fail) as server:
        endpoint = endpoint_of(server.url, connect=4)
        (address, *_) = endpoint.resolved
        endpoint.resolved = [(*address[:4], ("127.0.0.1", 1)), (*address[:4], ("127.0.0.1", server.port))]
        connection = Connection(endpoint)
        opening = connection._connect

        def slowly(family, kind, protocol, where):
            if where[1] == 1:
                gevent.sleep(1)
            opening(family, kind, protocol, where)

        monkeypatch.setattr(connection, "_connect", slowly)
        assert attempt(connection).outcome == "ok"
        failed = attempt(connection)
    assert (failed.outcome, failed.error, failed.resent) == ("network", "closed_before_answer", 0)
    assert len(server.calls) == 2


def test_an_interim_answer_is_not_the_first_byte_nor_does_it_end_the_wait_for_it():
    async def processing(call, writer):
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.5)
        writer.write(response())

    with Server(processing) as server:
        sample = attempt(Connection(endpoint_of(server.url, first_byte=5, idle=0.2)))
    assert sample.outcome == "ok"
    assert sample.first_byte_ns - sample.sent_ns > 0.45e9


def test_a_used_connection_on_which_half_an_answer_came_is_not_tried_again():
    async def half(call, writer):
        if call.number:
            writer.write(b"HTTP/1.1 20")
            writer.close()
        else:
            writer.write(response())

    with Server(half) as server:
        connection = Connection(endpoint_of(server.url))
        assert attempt(connection).outcome == "ok"
        assert attempt(connection).outcome == "network"
    assert len(server.calls) == 2


def test_a_large_body_goes_out_whole_and_an_early_answer_to_it_is_read():
    big = chat("vision", [{"role": "user", "content": "x" * (8 << 20)}], max_tokens=5)
    with Server(always(response())) as server:
        assert attempt(Connection(endpoint_of(server.url)), big).outcome == "ok"
        assert len(server.calls[0].body) == len(big.body)

    class Refusing(Server):
        async def _serve(self, reader, writer):
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()
            writer.write(response(b'{"error":{"code":"413"}}', "413 Too Large"))
            await writer.drain()
            await asyncio.sleep(5)

    huge = chat("vision", [{"role": "user", "content": "x" * (64 << 20)}], max_tokens=5)  # more than buffers hold
    with Refusing(always(b"")) as server:
        connection = Connection(endpoint_of(server.url))
        sample = attempt(connection, huge)
    assert (sample.outcome, sample.status) == ("rejected", 413)
    assert connection._socket is None  # it still owes the rest of a request, so it is not used again


ENDS = [
    ("stream cut", STREAM, stream(content("a"), end=False), "broken_stream", "cut"),
    ("stream truncated", STREAM, stream(content("a")), "broken_stream", "truncated"),
    ("429", PLAIN, always(response(b"{}", "429 Too Many", retry_after_ms=250)), "throttled", "no_error_code"),
    ("500", PLAIN, always(response(b'{"error":{"code":"oops"}}', "500 Oops")), "server_error", "oops"),
    ("no HTTP", PLAIN, always(b"SSH-2.0-OpenSSH\r\n"), "network", "malformed_http"),
    ("a half body", PLAIN, always(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"), "broken_stream", "cut"),
]


@pytest.mark.parametrize(
    ("spec", "script", "outcome", "error"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS]
)
def test_a_server_at_fault_becomes_a_row_never_an_exception(spec, script, outcome, error):
    async def then_close(call, writer):
        await script(call, writer)
        await writer.drain()
        writer.close()

    with Server(then_close) as server:
        connection = Connection(endpoint_of(server.url))
        sample = attempt(connection, spec)
    assert (sample.outcome, sample.error) == (outcome, error)
    assert sample.done_ns is not None
    assert sample.retry_after_ms == (250 if outcome == "throttled" else None)


def test_a_reset_is_named_by_what_was_being_done():
    async def answer_and_reset(call, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.05)
        reset(writer)

    with Server(answer_and_reset) as server:
        sample = attempt(Connection(endpoint_of(server.url)))
    assert (sample.outcome, sample.error) == ("broken_stream", "receive_econnreset")


def test_nothing_listening_is_a_network_failure_and_the_next_attempt_tries_again():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        connection = Connection(endpoint_of(f"http://127.0.0.1:{held.getsockname()[1]}"))
        first, second = attempt(connection), attempt(connection)
    assert {(each.outcome, each.error, each.sent_ns) for each in (first, second)} == {
        ("network", "connect_econnrefused", None)
    }


def test_a_connection_that_cannot_be_opened_is_waited_for_once():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.create_connection(full.getsockname())]  # its queue is full: further connections hang
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        connection = Connection(endpoint_of(f"http://127.0.0.1:{full.getsockname()[1]}", connect=0.5))
        began = time.monotonic()
        connection.ready(time.monotonic_ns() + 200_000_000)  # the request comes due meanwhile
        sample = attempt(connection)
        assert (sample.outcome, sample.error) == ("timeout", "connect_timeout")
        assert time.monotonic() - began < 0.9
        connection.ready(time.monotonic_ns() + 10_000_000_000)  # nothing is due yet, so the attempt tries again
        began = time.monotonic()
        assert attempt(connection).error == "connect_timeout"
        assert time.monotonic() - began > 0.4
        for filler in fillers:
            filler.close()


def test_an_address_that_swallows_connections_leaves_time_for_the_next():
    with socket.socket() as full, Server(always(response())) as server:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.create_connection(full.getsockname())]
        for _ in range(3):
            fillers.append(socket.socket())
            fillers[-1].setblocking(False)
            fillers[-1].connect_ex(full.getsockname())
        endpoint = endpoint_of(server.url, connect=1)
        (address, *_) = endpoint.resolved
        endpoint.resolved = [(*address[:4], full.getsockname()), (*address[:4], ("127.0.0.1", server.port))]
        sample = attempt(Connection(endpoint))
        for filler in fillers:
            filler.close()
    assert sample.outcome == "ok"
    assert 0.4e9 < sample.connected_ns - sample.connect_ns < 0.9e9


def test_a_stream_that_has_said_done_is_whole_however_its_connection_ends():
    async def done_and_stall(call, writer):
        await stream(content("a"), LAST, b"[DONE]", end=False)(call, writer)

    with Server(done_and_stall) as server:
        sample = attempt(Connection(endpoint_of(server.url, idle=0.2)), STREAM)
    assert (sample.outcome, sample.error) == ("ok", None)
    assert sample.done_ns - sample.last_token_ns < 0.1e9


@pytest.mark.parametrize(
    ("timeouts", "script", "error"),
    [
        ({"first_byte": 0.2}, always(b""), "first_byte_timeout"),
        ({"idle": 0.2}, stream(content("a"), end=False), "idle_timeout"),
        ({"total": 0.3, "idle": 0.2}, stream(*[content("a")] * 100, gap_s=0.05), "total_timeout"),
    ],
)
def test_each_timeout_has_its_own_code_and_ends_in_time(timeouts, script, error):
    with Server(script) as server:
        started = time.monotonic()
        sample = attempt(Connection(endpoint_of(server.url, **timeouts)), STREAM)
    assert (sample.outcome, sample.error) == ("timeout", error)
    assert time.monotonic() - started < 2


def test_a_connection_is_clean_after_a_timeout():
    async def slow_then_quick(call, writer):
        if call.number == 0:
            await asyncio.sleep(0.5)
        writer.write(response())

    with Server(slow_then_quick) as server:
        connection = Connection(endpoint_of(server.url, first_byte=0.15))
        assert attempt(connection).outcome == "timeout"
        assert attempt(connection).outcome == "ok"
    assert server.connections == 2


def test_a_user_killed_in_mid_answer_leaves_a_cancelled_row_and_no_open_socket():
    with Server(stream(content("a"), end=False)) as server:
        endpoint = endpoint_of(server.url)
        connection = Connection(endpoint)
        sample = Sample(seq=0, scenario="s", target="t", due_ns=0)
        user = gevent.spawn(connection.attempt, STREAM, sample, "run-0-0")
        gevent.sleep(0.2)
        user.kill()
    assert (sample.outcome, sample.chunks) == ("cancelled", 1)
    assert connection._socket is None
    assert not endpoint.active


def test_answers_never_leak_file_descriptors():
    async def close(call, writer):
        writer.write(response() if call.number % 2 else b"")
        writer.close()

    def open_files():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    with Server(close) as server:
        connections = [Connection(endpoint_of(server.url)) for _ in range(4)]
        for connection in connections:
            attempt(connection)
        before = open_files()
        for _ in range(30):
            for connection in connections:
                attempt(connection)
                connection.close()
        assert open_files() <= before + 8


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_verified_and_carries_streams_and_large_bodies(authority, tmp_path, version):
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    authority.issue_cert("localhost").configure_cert(context)

    async def either(call, writer):
        await (stream(content("a"), LAST, b"[DONE]") if b'"stream"' in call.body else always(response()))(call, writer)

    with Server(either, tls=context) as server:
        connection = Connection(endpoint_of(server.url, ca_file=ca_file))
        big = chat("vision", [{"role": "user", "content": "x" * (1 << 20)}], max_tokens=5)
        outcomes = [attempt(connection, spec).outcome for spec in (PLAIN, STREAM, big, PLAIN)]
        untrusted = attempt(Connection(endpoint_of(server.url)))
        misnamed = attempt(Connection(endpoint_of(server.url.replace("localhost", "127.0.0.1"), ca_file=ca_file)))
    assert outcomes == ["ok"] * 4
    assert server.connections == 1
    for refused in (untrusted, misnamed):
        assert (refused.outcome, refused.error) == ("network", "tls_certificate_not_trusted")
    assert len(server.calls) == 4  # nothing was sent to a server that is not who it says


@pytest.mark.parametrize(("tells", "outcome"), [(True, ("ok", None)), (False, ("broken_stream", "cut"))])
def test_over_tls_the_end_of_an_answer_without_a_length_must_be_told(authority, tmp_path, tells, outcome):
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def until_closed(call, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + ANSWER)
        await writer.drain()
        await asyncio.sleep(0.05)
        if tells:
            writer.close()
        else:
            writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    with Server(until_closed, tls=context) as server:
        sample = attempt(Connection(endpoint_of(server.url, ca_file=ca_file)))
    assert (sample.outcome, sample.error) == outcome


def test_two_thousand_requests_share_their_connections():
    with Server(always(response())) as server:
        endpoint = endpoint_of(server.url)

        def user():
            connection = Connection(endpoint)
            return sum(attempt(connection).outcome == "ok" for _ in range(125))

        users = [gevent.spawn(user) for _ in range(16)]
        gevent.joinall(users, timeout=60)
    assert sum(each.value for each in users) == 2_000
    assert server.connections == 16


def test_alarms_ring_in_order_and_never_early():
    alarm, rung, start_ns = Alarm(), [], time.monotonic_ns()
    for number, after_ms in enumerate((30, 10, 20, 10, 0)):
        at_ns = start_ns + after_ms * 1_000_000
        alarm.call_at(at_ns, lambda number=number, at_ns=at_ns: rung.append((number, time.monotonic_ns() >= at_ns)))
    alarm.wait_until(start_ns + 60_000_000)
    assert rung == [(4, True), (1, True), (3, True), (2, True), (0, True)]
    assert time.monotonic_ns() >= start_ns + 60_000_000
    alarm.close()


def test_a_greenlet_killed_while_it_sleeps_is_not_woken_later():
    alarm, start_ns = Alarm(), time.monotonic_ns()
    sleeper = gevent.spawn(alarm.wait_until, start_ns + 50_000_000)
    gevent.sleep(0.01)
    sleeper.kill()
    gevent.sleep(0.08)
    assert sleeper.dead
    alarm.close()


def queue_up(throttle, sizes):
    order = []

    def user(number, tokens):
        grant = throttle.admit(tokens)
        order.append((number, grant))

    users = [gevent.spawn(user, number, tokens) for number, tokens in enumerate(sizes)]
    gevent.sleep(0)
    return users, order


def test_the_throttle_serves_first_come_first_served_though_small_requests_would_fit():
    a_hundred_a_second = Quota(tokens_per_minute=6_000, requests_per_minute=6_000, burst_s=1)
    throttle = Throttle(enforcing(a_hundred_a_second), Alarm())
    users, order = queue_up(throttle, [100, 80, 1, 1, 1])
    assert [number for number, _ in order] == [0]
    assert throttle.waiting == 4
    gevent.joinall(users, timeout=5)
    assert [number for number, _ in order] == [0, 1, 2, 3, 4]
    waited_s = (order[1][1].at_ns - order[0][1].at_ns) / 1e9
    assert 0.8 <= waited_s < 1.5


def test_no_more_are_in_flight_than_the_quota_allows():
    throttle = Throttle(enforcing(Quota()), Alarm(), concurrency=2)
    users, order = queue_up(throttle, [10] * 5)
    assert len(order) == 2
    throttle.release()
    gevent.sleep(0.01)
    assert [number for number, _ in order] == [0, 1, 2]
    for _ in range(2):
        throttle.release()
    gevent.joinall(users, timeout=2)
    assert len(order) == 5


def test_settling_lets_the_next_go_at_once():
    throttle = Throttle(enforcing(Quota(tokens_per_minute=60, requests_per_minute=6_000)), Alarm())
    users, order = queue_up(throttle, [60, 60])
    assert len(order) == 1
    throttle.settle(order[0][1], 0)
    gevent.joinall(users, timeout=2)
    assert len(order) == 2


def test_a_user_stopped_while_it_waits_holds_nobody_up():
    throttle = Throttle(enforcing(Quota(tokens_per_minute=6_000, requests_per_minute=6_000, burst_s=1)), Alarm())
    users, order = queue_up(throttle, [100, 100, 1])
    users[1].kill()
    gevent.joinall(users, timeout=2)
    assert [number for number, _ in order] == [0, 2]
    assert throttle.waiting == 0
    users, order = queue_up(throttle, [100] * 5)
    throttle.dismiss()
    gevent.joinall(users, timeout=2)
    assert throttle.waiting == 0


def test_a_pause_holds_the_queue_for_as_long_as_the_server_asked():
    throttle = Throttle(pacing(Quota()), Alarm())
    throttle.pause(200)
    started = time.monotonic()
    throttle.admit(10)
    assert time.monotonic() - started >= 0.2
