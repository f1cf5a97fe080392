"""The simulated deployment misbehaves as its faults file says: seen on the socket, by our reader, and in a run's ledger."""

import gzip
import json
import math
import signal
import socket
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from loadgen.errors import ConfigError
from loadgen.samples import Outcome, Run
from loadgen.simulator.faults import Faults, Kind, Toxic, read_faults
from loadgen.simulator.serving import rng_of
from loadgen.simulator.spoiling import drop_usage_of_event
from loadgen.wire import ResponseReader
from tests.commands import INTO_RUN, PLENTY, headroom, side_by_side
from tests.simulators import CHAT, FAST, OPENAI, PATIENCE_S, ask, complaint, eventually, pinned, simulated

MEGABYTE = 1_000_000
TOKENS = 5
EVENTS = TOKENS + 3  # the role, the tokens, the finish, [DONE]


def toml(*toxics):
    """A faults file of these toxics, each a kind and its keys."""
    lines = []
    for kind, keys in toxics:
        lines += ["[[toxic]]", f"kind = {json.dumps(kind)}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


@contextmanager
def misbehaving(folder, toxics, *flags, serving=FAST):
    file = folder / "faults.toml"
    file.write_text(toml(*toxics))
    with simulated("--tpm", "1000000000", "--rpm", "1000000", "--faults", str(file), *flags, serving=serving) as server:
        yield server


def target_of(name, route=CHAT):
    """Each row of a table has toxics of its own, in a server that all of them share."""
    return f"{route}?fault={name.replace(' ', '-')};"


def send(server, target, *, stream=True, tokens=TOKENS, **fields):
    """The request on a connection of its own, which the server closes once it has answered."""
    body = json.dumps(ask(stream=stream, **fields)).encode()
    head = [f"POST {target} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in pinned(tokens).items()]
    made = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), PATIENCE_S)
    made.sendall("\r\n".join((*head, "", "")).encode() + body)
    return made


def observe(server, target, *, stream=True, **fields):
    """The answer to the connection's end: its bytes, when they came, how it ended, and what our reader makes of it."""
    reader = ResponseReader(stream=stream)
    raw, at_s, ended, finished = b"", [], "fin", False
    began_s = time.monotonic()
    with send(server, target, stream=stream, **fields) as made:
        while True:
            try:
                piece = made.recv(65_536)
            except ConnectionResetError:
                ended = "rst"
                break
            if not piece:
                break
            at_s.append(time.monotonic() - began_s)
            raw += piece
            finished = finished or reader.feed(piece, len(at_s))
    if ended == "fin" and not finished:
        reader.feed_eof()
    head, _, body = raw.partition(b"\r\n\r\n")
    outcome, error = reader.verdict()
    return SimpleNamespace(
        raw=raw, head=head.lower(), body=body, at_s=at_s, ended=ended, reader=reader, outcome=outcome, error=error
    )


# name, its toxics, the request, how the connection ends, whether the answer was whole, and our reader's verdict
CASES = [
    ("nothing", [], {}, "fin", True, Outcome.OK, None),
    ("cut", [("cut", {"after_events": 3})], {}, "fin", False, Outcome.BROKEN_STREAM, "cut"),
    ("cut before the answer", [("cut", {"after_events": 0})], {}, "fin", False, Outcome.NETWORK, "closed_before_answer"),
    ("cut a plain answer", [("cut", {})], {"stream": False}, "fin", False, Outcome.BROKEN_STREAM, "cut"),
    ("cut but end the body", [("cut", {"terminated": True})], {}, "fin", True, Outcome.BROKEN_STREAM, "truncated"),
    ("cut after all", [("cut", {"after_events": EVENTS})], {}, "fin", False, Outcome.OK, None),
    ("cut later than the end", [("cut", {"after_events": EVENTS + 1})], {}, "fin", True, Outcome.OK, None),
    ("cut before an answer that is to end well", [("cut", {"after_events": 0, "terminated": True})], {}, "fin", False,
     Outcome.NETWORK, "closed_before_answer"),
    ("cut a plain answer that is to end well", [("cut", {"terminated": True})], {"stream": False}, "fin", False,
     Outcome.BROKEN_STREAM, "cut"),
    ("cut twice", [("cut", {"after_events": 6, "terminated": True}), ("cut", {"after_events": 7, "terminated": True})], {},
     "fin", True, Outcome.BROKEN_STREAM, "truncated"),
    ("500", [("status", {"status": 500})], {}, "fin", True, Outcome.SERVER_ERROR,
     "fault_on_purpose: The simulated deployment was told to fail."),
    ("502 with a page", [("status", {"status": 502, "html": True})], {}, "fin", True, Outcome.SERVER_ERROR, "html_page: 502"),
    ("503 and a wait", [("status", {"retry_after_s": 0.25})], {}, "fin", True, Outcome.SERVER_ERROR,
     "fault_on_purpose: The simulated deployment was told to fail."),
    ("429", [("status", {"status": 429, "retry_after_s": 7})], {}, "fin", True, Outcome.THROTTLED, "fault_on_purpose"),
    ("a cut page", [("status", {"html": True}), ("cut", {})], {}, "fin", False, Outcome.SERVER_ERROR, "html_page: 503"),
    ("broken JSON", [("malformed_sse", {"after_events": 2})], {}, "fin", True, Outcome.BROKEN_STREAM, "malformed_event"),
    ("no field", [("malformed_sse", {"form": "line"})], {}, "fin", True, Outcome.OK, None),
    ("no usage", [("missing_usage", {})], {}, "fin", True, Outcome.OK, None),
    ("no usage in a plain answer", [("missing_usage", {})], {"stream": False}, "fin", True, Outcome.OK, None),
    ("no DONE", [("missing_done", {})], {}, "fin", True, Outcome.OK, None),
    ("no DONE after a cut", [("missing_done", {}), ("cut", {"after_events": 2, "terminated": True})], {}, "fin", True,
     Outcome.BROKEN_STREAM, "truncated"),
    ("type", [("wrong_content_type", {})], {}, "fin", True, Outcome.BROKEN_STREAM, "not_an_event_stream: text/html"),
    ("own type", [("wrong_content_type", {"content_type": "application/x-ndjson"})], {}, "fin", True,
     Outcome.BROKEN_STREAM, "not_an_event_stream: application/x-ndjson"),
    ("bomb", [("gzip_bomb", {"megabytes": 8})], {}, "fin", True, Outcome.BROKEN_STREAM, "compressed_unasked"),
    ("bomb for a plain request", [("gzip_bomb", {})], {"stream": False}, "fin", True, Outcome.BROKEN_STREAM, "compressed_unasked"),
    ("giant", [("giant_line", {"megabytes": 3})], {}, "fin", True, Outcome.BROKEN_STREAM, "line_too_long"),
    ("large but allowed", [("giant_line", {"megabytes": 1})], {}, "fin", True, Outcome.OK, None),
    ("late", [("latency", {"ms": 120}), ("latency", {"ms": 130, "jitter_ms": 30})], {}, "fin", True, Outcome.OK, None),
    ("held events", [("slow_stream", {"ms": 25})], {}, "fin", True, Outcome.OK, None),
    ("few bytes", [("slow_stream", {"bytes_per_second": 4_000}), ("slow_stream", {"bytes_per_second": 9_000})], {}, "fin",
     True, Outcome.OK, None),
    ("few plain bytes", [("slow_stream", {"bytes_per_second": 2_000})], {"stream": False}, "fin", True, Outcome.OK, None),
]  # fmt: skip
RESETS = [
    ("reset", [("reset", {"after_events": 4})], {}),
    ("reset before the answer", [("reset", {"after_events": 0})], {}),
    ("reset a plain answer", [("reset", {})], {"stream": False}),
]
FROZEN_S, PERIOD_S = 0.6, 1.2
FREEZE = [("freeze", {"from_s": 0, "until_s": FROZEN_S, "every_s": PERIOD_S}), ("slow_stream", {"ms": 20})]
TABLE = [*((name, toxics) for name, toxics, *_ in (*CASES, *RESETS)), ("freeze", FREEZE)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """All the rows' toxics in one process; each hits the requests of its row, in either dialect."""
    toxics = [
        (kind, {**keys, "path": target_of(name, route)})
        for name, row in TABLE
        for kind, keys in row
        for route in (CHAT, OPENAI)
    ]
    with misbehaving(tmp_path_factory.mktemp("faults"), toxics) as running:
        yield running


@pytest.fixture(scope="module")
def seen(server):
    """Each row's answer, asked for once."""
    answers = {}

    def see(name):
        if name not in answers:
            (request,) = [fields for row, _, fields, *_ in (*CASES, *RESETS) if row == name]
            answers[name] = observe(server, target_of(name), **request)
        return answers[name]

    return see


def unchunked(body):
    """The content of a chunked body that ended well."""
    pieces, rest = [], body
    while (line := rest.partition(b"\r\n"))[0] != b"0":
        size = int(line[0], 16)
        pieces.append(line[2][:size])
        rest = line[2][size + 2 :]
    return b"".join(pieces)


def data_of(body):
    """The data of each event."""
    return [event.removeprefix(b"data: ") for event in unchunked(body).split(b"\n\n")[:-1]]


# Each toxic, on the socket and to our reader


@pytest.mark.parametrize(("name", "expected"), [(case[0], case[3:]) for case in CASES])
def test_a_toxic_ends_the_answer_as_it_should_and_our_reader_says_what_it_was(seen, name, expected):
    ended, whole, outcome, error = expected
    answer = seen(name)
    assert (answer.ended, answer.outcome, answer.error) == (ended, outcome, error)
    length = next((line for line in answer.head.split(b"\r\n") if line.startswith(b"content-length: ")), None)
    if length is None:
        assert answer.raw.endswith(b"\r\n0\r\n\r\n") == whole
    else:
        assert (len(answer.body) == int(length.partition(b": ")[2])) == whole


def test_where_no_toxic_hits_the_stream_is_untouched(seen):
    *chunks, done = data_of(seen("nothing").body)
    assert done == b"[DONE]"
    assert len(chunks) + 1 == EVENTS
    assert "usage" in json.loads(chunks[-1])


def test_a_cut_leaves_as_many_events_as_were_asked_for(seen):
    assert seen("cut").body.count(b"data: ") == 3
    assert seen("cut but end the body").body.count(b"data: ") == 1
    assert seen("cut before the answer").raw == b""
    body = seen("cut a plain answer").body
    assert body.startswith(b"{")
    with pytest.raises(ValueError, match="line 1"):
        json.loads(body)


def test_a_reset_is_a_reset_and_what_was_sent_before_it_arrives(seen):
    assert [seen(name).ended for name, *_ in RESETS] == ["rst"] * 3
    assert seen("reset").body.count(b"data: ") == 4
    assert seen("reset before the answer").raw == b""
    assert seen("reset a plain answer").body.startswith(b"{")
    assert not seen("reset a plain answer").reader.complete


def test_a_status_brings_its_page_or_its_json_and_its_wait(seen):
    assert seen("500").reader.status == 500
    assert json.loads(seen("500").body)["status"] == 500
    assert b"retry-after" not in seen("500").head
    page = seen("502 with a page")
    assert page.reader.status == 502
    assert b"content-type: text/html" in page.head
    assert page.body.startswith(b"<html>")
    assert b"retry-after: 0.25" in seen("503 and a wait").head
    assert b"retry-after: 7\r" in seen("429").head + b"\r"


def test_a_malformed_event_is_one_and_the_stream_goes_on_behind_it(seen):
    events = data_of(seen("broken JSON").body)
    broken = [index for index, event in enumerate(events) if not is_json(event)]
    assert (broken, len(events)) == ([2, EVENTS - 1], EVENTS)  # [DONE] is no JSON either
    assert b"\n\nthis line is no field\ndata: {" in unchunked(seen("no field").body)
    assert seen("no field").reader.completion_tokens == TOKENS


def is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_an_event_that_says_more_than_usage_is_kept_without_it():
    filtered = b'data: {"choices":[],"prompt_filter_results":[],"usage":null}\n\n'
    assert drop_usage_of_event(filtered) == filtered.replace(b',"usage":null', b"")


def test_usage_is_missing_and_nothing_else(server, seen):
    for name in ("no usage", "no usage in a plain answer"):
        answer = seen(name)
        assert b'"usage"' not in answer.body
        assert (answer.reader.completion_tokens, answer.reader.finish_reason) == (None, "stop")
    assert len(data_of(seen("no usage").body)) == EVENTS
    whole, bare = (
        observe(server, target_of(name, OPENAI), stream_options={"include_usage": True})
        for name in ("nothing", "no usage")
    )
    assert len(data_of(whole.body)) == EVENTS + 1
    assert whole.reader.completion_tokens == TOKENS
    assert len(data_of(bare.body)) == EVENTS  # OpenAI's dialect has an event for it, which is gone
    assert b'"usage"' not in bare.body


def test_the_terminator_is_missing_and_nothing_else(seen):
    answer = seen("no DONE")
    assert b"[DONE]" not in answer.body
    assert (len(data_of(answer.body)), answer.reader.completion_tokens) == (EVENTS - 1, TOKENS)
    assert not answer.reader.done_marker


def test_a_bomb_is_small_on_the_wire_and_large_when_unpacked(seen):
    answer = seen("bomb")
    assert len(answer.raw) < 20_000
    assert len(gzip.decompress(answer.body)) == 8 * MEGABYTE
    assert len(gzip.decompress(seen("bomb for a plain request").body)) == 10 * MEGABYTE


def test_a_giant_line_is_a_valid_event_that_comes_beside_the_others(seen):
    events = data_of(seen("giant").body)
    assert len(events) == EVENTS + 1
    assert len(json.loads(events[1])["choices"][0]["delta"]["content"]) == 3 * MEGABYTE
    assert seen("large but allowed").reader.chunks == TOKENS + 1


def test_answers_are_held_back_and_lose_nothing(seen):
    """Lower bounds only: a busy machine can be late, never early."""
    assert seen("late").at_s[0] >= 0.12 + 0.1
    assert seen("held events").at_s[-1] >= EVENTS * 0.025
    for name, rate in (("few bytes", 4_000), ("few plain bytes", 2_000)):
        answer = seen(name)
        body = sum(map(len, data_of(answer.body))) if name == "few bytes" else len(answer.body)
        assert answer.at_s[-1] >= body / rate - 0.001
        assert len(answer.at_s) > 2
        assert answer.reader.completion_tokens == TOKENS


def test_a_freeze_stops_a_running_stream_and_then_it_goes_on(server):
    answer = observe(
        server, target_of("freeze"), tokens=50
    )  # a second beside the windows: one of them is in it as a whole
    assert max(after - before for before, after in zip(answer.at_s, answer.at_s[1:], strict=False)) >= FROZEN_S / 2
    assert (answer.outcome, answer.reader.chunks) == (Outcome.OK, 50)


def test_without_a_path_the_routes_of_models_are_hit_and_with_one_all_that_begins_so(tmp_path):
    toxics = [("status", {"status": 500}), ("status", {"status": 501, "path": "/v1/mod"})]
    with misbehaving(tmp_path, toxics) as server:
        assert server.client.get("/info").status_code == 200
        assert server.client.get("/v1/models").status_code == 501
        for route in (CHAT, OPENAI, "/models" + CHAT, "/completions", CHAT + "?api-version=2024-05-01-preview"):
            assert server.client.post(route, json=ask()).status_code == 500


def test_whoever_leaves_is_held_no_longer_and_neither_is_the_servers_end(tmp_path):
    toxics = [
        ("freeze", {"until_s": 86_400, "path": target_of("frozen")}),
        ("latency", {"ms": 3_600_000, "path": target_of("late")}),
        ("cut", {"after_events": 0, "path": target_of("frozen")}),
    ]
    file = tmp_path / "faults.toml"
    file.write_text(toml(*toxics))
    with simulated("--concurrency", "1", "--drain-s", "0.2", "--faults", str(file)) as server:

        def busy():
            """Asks for more than the quota will ever hold, so that it takes no place itself."""
            return server.client.post(CHAT, json=ask(max_tokens=1_000_000)).headers["retry-after"] == "1"

        with send(server, target_of("frozen")) as made:
            assert eventually(busy)
            made.settimeout(0.2)
            with pytest.raises(TimeoutError):  # not even the end comes through
                made.recv(1)
        assert eventually(lambda: not busy())
        with send(server, target_of("late")) as late, send(server, target_of("frozen")):
            assert eventually(busy)
            server.process.send_signal(signal.SIGTERM)
            assert late.recv(12) == b"HTTP/1.1 503"
            assert server.process.wait(PATIENCE_S) == 0
        assert server.process.stderr.read() == b"ending: 2 running, for 0.2 s at most; Ctrl-C cuts them\n"


def test_whoever_leaves_while_a_toxic_holds_the_request_is_let_go(tmp_path):
    """Not only from the application, which has not seen it: the server keeps nothing of it."""
    toxics = [
        ("latency", {"ms": 3_600_000, "path": target_of("late")}),
        ("freeze", {"until_s": 86_400, "path": target_of("frozen")}),
        ("status", {"path": target_of("frozen")}),
    ]
    with misbehaving(tmp_path, toxics) as server:
        for name in ("late", "frozen"):
            for _ in range(20):
                with send(server, target_of(name)):
                    pass  # gone at once
        assert eventually(lambda: sockets_of(server.pid) <= 3)  # it listens, and the client's own
        server.process.terminate()
        assert server.process.wait(PATIENCE_S) == 0
        assert server.process.stderr.read() == b""


def sockets_of(pid):
    """How many it has open; one that is closed while they are counted is none."""
    open_now = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            open_now += str(each.readlink()).startswith("socket:")
    return open_now


def test_the_body_that_came_while_a_request_was_held_is_not_lost(tmp_path):
    with misbehaving(tmp_path, [("latency", {"ms": 300})]) as server:
        answer = server.client.post(CHAT, json=ask("a" * 8_000), headers=pinned(3))
        assert answer.json()["usage"]["prompt_tokens"] == 2_004


def test_the_wait_that_a_status_asks_for_is_the_clients(tmp_path):
    with misbehaving(tmp_path, [("status", {"retry_after_s": 60})], "--time-scale", "30") as server:
        assert server.client.post(CHAT, json=ask()).headers["retry-after"] == "2"


def test_faults_keep_the_time_of_the_deployment(tmp_path):
    with misbehaving(tmp_path, [("latency", {"ms": 300_000})], "--time-scale", "1000") as server:
        assert observe(server, CHAT).at_s[0] >= 0.3  # and five minutes would be too long for it


def test_no_toxic_keeps_a_place_that_its_client_has_left(tmp_path):
    rows = [(name, toxics, request) for name, toxics, request, *_ in (*CASES, *RESETS) if "few" not in name]
    toxics = [(kind, {**keys, "path": target_of(name)}) for name, row, _ in rows for kind, keys in row]
    with misbehaving(tmp_path, toxics) as server:
        for name, _, request in rows:
            observe(server, target_of(name), **request)
            with send(server, target_of(name), **request):
                pass  # gone at once
        assert eventually(lambda: server.client.get("/simulator").json()["running"] == 0)
        assert server.client.post(CHAT, json=ask()).status_code == 200
        server.process.terminate()
        assert server.process.wait(PATIENCE_S) == 0
        assert server.process.stderr.read() == b""


# Who is hit, and when

HALF = Toxic(kind=Kind.MISSING_DONE, probability=0.5)
THIRD = Toxic(kind=Kind.RESET, probability=0.3)
N = 400


def hits(toxics, toxic, *, seed=1, now_s=0.0):
    faults = Faults(tuple(toxics))
    return [number for number in range(N) if toxic in faults.of(number, seed, now_s)]


def test_as_many_requests_are_hit_as_the_probability_says():
    for toxic in (HALF, THIRD):
        mean, deviation = N * toxic.probability, math.sqrt(N * toxic.probability * (1 - toxic.probability))
        assert abs(len(hits([toxic], toxic)) - mean) < 4 * deviation
    both = set(hits([HALF, THIRD], HALF)) & set(hits([HALF, THIRD], THIRD))
    assert abs(len(both) - 0.15 * N) < 4 * math.sqrt(N * 0.15 * 0.85)
    assert hits([Toxic(kind=Kind.CUT)], Toxic(kind=Kind.CUT)) == list(range(N))
    assert hits([Toxic(kind=Kind.CUT, probability=0)], Toxic(kind=Kind.CUT, probability=0)) == []


def test_the_same_seed_hits_the_same_requests_whatever_else_is_in_the_file():
    alone = hits([HALF], HALF)
    assert hits([HALF], HALF) == alone
    assert hits([HALF], HALF, now_s=3_600.0) == alone
    assert hits([HALF, THIRD], HALF) == alone
    assert hits([HALF], HALF, seed=2) != alone
    assert alone != [
        number for number in range(N) if rng_of(1, number).random() < 0.5
    ]  # nor are they the answers' draws
    # A toxic that is closed now takes its draw all the same.
    assert hits([Toxic(kind=Kind.CUT, from_s=60), THIRD], THIRD) == hits([Toxic(kind=Kind.CUT), THIRD], THIRD)


@pytest.mark.parametrize(
    ("schedule", "now_s", "ends_s"),
    [
        ({}, 0, math.inf),
        ({"from_s": 10}, 9.999, None),
        ({"from_s": 10}, 10, math.inf),
        ({"from_s": 10, "until_s": 12}, 11.999, 12),
        ({"from_s": 10, "until_s": 12}, 12, None),  # the window's end is outside
        ({"from_s": 10, "until_s": 12, "every_s": 30}, 9, None),
        ({"from_s": 10, "until_s": 12, "every_s": 30}, 11, 12),
        ({"from_s": 10, "until_s": 12, "every_s": 30}, 39.999, None),
        ({"from_s": 10, "until_s": 12, "every_s": 30}, 40, 42),
        ({"from_s": 10, "until_s": 12, "every_s": 30}, 3_011, 3_012),
        ({"from_s": 10, "until_s": 12, "every_s": 2}, 12, 14),  # windows without a gap
    ],
)
def test_a_schedule_opens_a_window_once_or_every_so_often(schedule, now_s, ends_s):
    toxic = Toxic(kind=Kind.CUT, **schedule)
    assert toxic.open_until_s(now_s) == ends_s
    assert (Faults((toxic,)).of(7, 1, now_s) == (toxic,)) == (ends_s is not None)


def test_a_freeze_that_is_not_yet_hits_what_arrives_before_it():
    freeze = Toxic(kind=Kind.FREEZE, from_s=10, until_s=11)
    assert Faults((freeze,)).of(7, 1, 9.0) == (freeze,)


def test_a_schedule_rules_over_a_running_server(tmp_path):
    toxics = [("status", {"status": 500, "until_s": 1.5}), ("status", {"status": 501, "from_s": 1.5})]
    with misbehaving(tmp_path, toxics) as server:
        seen = [server.client.post(CHAT, json=ask()).status_code]
        assert eventually(lambda: seen.append(server.client.post(CHAT, json=ask()).status_code) or seen[-1] == 501)
    assert seen[0] == 500
    assert seen == sorted(seen)


# A run's ledger

REFUSED = "fault_on_purpose: The simulated deployment was told to fail."
DEADLY = [  # in the order in which one of them comes before another, with what the record says of it
    ("status", {"probability": 0.1, "status": 503}, ("server_error", REFUSED)),
    ("status", {"probability": 0.1, "status": 429}, ("throttled", "fault_on_purpose")),
    ("gzip_bomb", {"probability": 0.1}, ("broken_stream", "compressed_unasked")),
    ("malformed_sse", {"probability": 0.1, "after_events": 0}, ("broken_stream", "malformed_event")),
    ("giant_line", {"probability": 0.1, "after_events": 1, "megabytes": 1.2}, ("broken_stream", "line_too_long")),
    ("cut", {"probability": 0.1, "after_events": 2}, ("broken_stream", "cut")),
    ("cut", {"probability": 0.1, "after_events": 3, "terminated": True}, ("broken_stream", "truncated")),
    ("reset", {"probability": 0.1, "after_events": 4}, ("broken_stream", "receive_econnreset")),
]  # fmt: skip
HARMLESS = [
    ("latency", {"probability": 0.3, "ms": 60, "jitter_ms": 60}),
    ("slow_stream", {"probability": 0.2, "ms": 2}),
    ("freeze", {"from_s": 0.5, "until_s": 0.7, "every_s": 1}),
    ("malformed_sse", {"probability": 0.2, "form": "line"}),
    ("missing_done", {"probability": 0.3}),
    ("missing_usage", {"probability": 0.3}),
]
LONG_ENOUGH = FAST | {"completion_mean_tokens": 12, "completion_sigma": 0}


def run_against(tmp_path, toxics):
    """What `headroom run` said, its rows, the toxics of the file, and those that hit each request."""
    with misbehaving(tmp_path, toxics, "--seed", "5", serving=LONG_ENOUGH) as server:
        load = ["--rate", "160/s", "--arrivals", "constant", "--duration", "1s", "--warmup", "0s", "--throttle", "off"]
        done = headroom(tmp_path, "run", "--target", server.url, "--scenario", "streaming", *load, *PLENTY, *INTO_RUN)
    samples = Run.open(tmp_path / "run").samples.collect()
    assert sorted(samples["seq"]) == list(range(160)), done.stderr
    assert samples["resent"].sum() == 0
    faults = read_faults(tmp_path / "faults.toml")
    poisoned = [faults.of(number, 5, 0.0) for number in range(1, 161)]  # number 0 was the probe
    return done, samples, faults.toxics, poisoned


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run against all toxics and one against the harmless, side by side."""
    plays = [(tmp_path_factory.mktemp("ran"), toxics) for toxics in ([row[:2] for row in DEADLY] + HARMLESS, HARMLESS)]
    return side_by_side(lambda play: run_against(*play), plays)


def fate_of(toxics, file):
    """What the record says of a request that these toxics of the file hit."""
    rows = [DEADLY[place] for toxic in toxics if (place := file.index(toxic)) < len(DEADLY)]
    if not rows:
        return "ok", None
    kind, _, (outcome, error) = rows[0]
    ends = next((row[0] for row in rows if row[0] in ("cut", "reset")), None)
    if kind == "status" and ends == "reset":  # in the midst of a refusal, which is no stream
        return "network", "receive_econnreset"
    return outcome, "fault_on_purpose" if kind == "status" and ends == "cut" else error


def test_a_run_records_each_fault_as_what_it_was_and_loses_none(ran):
    done, samples, file, poisoned = ran[0]
    assert done.returncode == 4, done.stderr  # more than 10 % failed
    recorded = Counter(zip(samples["outcome"], samples["error"], strict=True))
    assert recorded == Counter(fate_of(toxics, file) for toxics in poisoned)
    assert recorded.keys() >= {fate for _, _, fate in DEADLY} | {("ok", None)}
    assert recorded.total() == 160


def test_a_run_survives_what_is_only_odd_and_says_whose_usage_it_lacked(ran):
    done, samples, _, poisoned = ran[1]
    assert done.returncode in (0, 4), done.stderr  # 4 where other programs hold the cores
    assert set(samples["outcome"]) == {"ok"}
    bare = sum(any(toxic.kind is Kind.MISSING_USAGE for toxic in toxics) for toxics in poisoned)
    assert samples.filter(pl.col("usage_source") == "estimated").height == bare > 0


# The file


def faults_of(tmp_path, text):
    file = tmp_path / "faults.toml"
    file.write_text(text)
    return read_faults(file)


def test_every_key_of_every_kind_is_read(tmp_path):
    toxics = faults_of(
        tmp_path,
        toml(
            (
                "latency",
                {
                    "ms": 1.5,
                    "jitter_ms": 1,
                    "probability": 0.25,
                    "path": "/v1",
                    "from_s": 1,
                    "until_s": 2,
                    "every_s": 3,
                },
            ),
            ("status", {"status": 500, "retry_after_s": 2, "html": True}),
            ("cut", {}),
        ),
    ).toxics
    assert toxics == (
        Toxic(kind=Kind.LATENCY, ms=1.5, jitter_ms=1, probability=0.25, path="/v1", from_s=1, until_s=2, every_s=3),
        Toxic(kind=Kind.STATUS, status=500, retry_after_s=2, html=True),
        Toxic(kind=Kind.CUT, after_events=1),
    )


BAD = [  # what the sentence names after the file; the file
    ("toxic 1: kind is missing; there are latency, freeze", "[[toxic]]\nprobability = 1"),
    ("toxic 2: kind 'explode' is not known; there are latency", toml(("cut", {}), ("explode", {}))),
    ("toxic 1: kind 3 is not known", "[[toxic]]\nkind = 3"),
    ("toxic 1: kind ['cut'] is not known", "[[toxic]]\nkind = ['cut']"),
    ("toxic 1 (cut): unknown key 'ms'; a cut toxic has kind, probability", toml(("cut", {"ms": 3}))),
    ("toxic 1 (latency): unknown key 'after_events'", toml(("latency", {"after_events": 3}))),
    ("toxic 1 (cut): probability must be a number from 0 to 1, not 1.5", toml(("cut", {"probability": 1.5}))),
    ("toxic 1 (cut): probability must be a number from 0 to 1, not -0.1", toml(("cut", {"probability": -0.1}))),
    ("toxic 1 (cut): probability must be a number from 0 to 1, not True", toml(("cut", {"probability": True}))),
    ("toxic 1 (cut): probability must be a number from 0 to 1, not nan", "[[toxic]]\nkind = 'cut'\nprobability = nan"),
    ("toxic 1 (cut): probability must be a number from 0 to 1, not '1'", toml(("cut", {"probability": "1"}))),
    ("toxic 1 (cut): until_s must be a number from 0 to 86400, not inf", "[[toxic]]\nkind = 'cut'\nuntil_s = inf"),
    ("toxic 1 (cut): from_s must be a number from 0 to 86400, not datetime.date", "[[toxic]]\nkind = 'cut'\nfrom_s = 2026-11-20"),
    ("toxic 1 (cut): after_events must be a whole number from 0 to 1000000, not 1.5", toml(("cut", {"after_events": 1.5}))),
    ("toxic 1 (cut): after_events must be a whole number from 0 to 1000000, not -1", toml(("cut", {"after_events": -1}))),
    ("toxic 1 (cut): terminated must be true or false, not 1", toml(("cut", {"terminated": 1}))),
    ("toxic 1 (cut): path must be printable ASCII text that begins with /, not 'v1'", toml(("cut", {"path": "v1"}))),
    ("toxic 1 (status): status must be a whole number from 400 to 599, not 200", toml(("status", {"status": 200}))),
    ("toxic 1 (status): status must be a whole number from 400 to 599, not 600", toml(("status", {"status": 600}))),
    ("toxic 1 (status): retry_after_s must be a number from 0 to 86400, not 'soon'", toml(("status", {"retry_after_s": "soon"}))),
    ("toxic 1 (malformed_sse): form must be one of json, line, not 'xml'", toml(("malformed_sse", {"form": "xml"}))),
    ("toxic 1 (wrong_content_type): content_type must be printable ASCII text, not ''", toml(("wrong_content_type", {"content_type": ""}))),
    ("toxic 1 (wrong_content_type): content_type must be printable ASCII text, not 'a\\nb'", toml(("wrong_content_type", {"content_type": "a\nb"}))),
    ("toxic 1 (gzip_bomb): megabytes must be a number from 0.001 to 256, not 257", toml(("gzip_bomb", {"megabytes": 257}))),
    ("toxic 1 (giant_line): megabytes must be a number from 0.001 to 256, not 0", toml(("giant_line", {"megabytes": 0}))),
    ("toxic 1 (latency): ms must be a number from 0 to 3600000, not 3600001", toml(("latency", {"ms": 3_600_001}))),
    ("toxic 1 (latency): jitter_ms must be at most ms, which is 5, not 6", toml(("latency", {"ms": 5, "jitter_ms": 6}))),
    ("toxic 1 (slow_stream): nothing is slowed; give ms or bytes_per_second above zero", toml(("slow_stream", {}))),
    ("toxic 1 (freeze): until_s is missing", toml(("freeze", {}))),
    ("toxic 1 (freeze): until_s must be above from_s, which is 5, not 5", toml(("freeze", {"from_s": 5, "until_s": 5}))),
    ("toxic 1 (cut): every_s repeats what ends; give until_s too", toml(("cut", {"every_s": 5}))),
    ("toxic 1 (cut): every_s must be at least until_s - from_s, not 4", toml(("cut", {"from_s": 1, "until_s": 6, "every_s": 4}))),
    ("unknown key 'toxics'; a faults file has [[toxic]] tables and nothing else", "[[toxics]]\nkind = 'cut'"),
    ("there is no [[toxic]] table", ""),
    ("there is no [[toxic]] table", "toxic = []"),
    ("there is no [[toxic]] table", "[toxic]\nkind = 'cut'"),
    ("there is no [[toxic]] table", "toxic = ['cut']"),
]  # fmt: skip


@pytest.mark.parametrize(("complaint", "text"), BAD, ids=range(len(BAD)))
def test_a_bad_file_is_one_sentence_with_its_place_and_what_is_allowed(tmp_path, complaint, text):
    with pytest.raises(ConfigError) as raised:
        faults_of(tmp_path, text)
    said = str(raised.value)
    assert said.startswith(f"{tmp_path / 'faults.toml'}: {complaint}")
    assert "\n" not in said


@pytest.mark.parametrize("content", [b"[[toxic]", b"kind = ", b"\xff", b"a = " + b"[" * 100_000])
def test_what_is_no_toml_is_said_to_be_none(tmp_path, content):
    file = tmp_path / "faults.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_faults(file)


def test_a_file_that_is_not_there_is_named_before_anything_listens(tmp_path):
    missing = tmp_path / "no.toml"
    said = complaint("--faults", str(missing))
    assert said == f"the faults file {missing} cannot be read (No such file or directory); give one with --faults\n"
    assert "Is a directory" in complaint("--faults", str(tmp_path))
