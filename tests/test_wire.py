"""Bytes in, timings and verdicts out; nothing here opens a socket."""

import json

import pytest

from loadgen.samples import Outcome
from loadgen.target import Credential
from loadgen.wire import HEAD_LIMIT, ResponseReader

MS = 1_000_000


def head(status="200 OK", **headers):
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


STREAM_HEAD = head(content_type="text/event-stream", transfer_encoding="chunked")
END = b"0\r\n\r\n"


def chunked(body):
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(value):
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def delta(finish_reason=None, usage=None, **content):
    chunk = {"choices": [{"index": 0, "delta": content, "finish_reason": finish_reason}]}
    return chunk if usage is None else {**chunk, "usage": usage}


ROLE = delta(role="assistant", content="")
LAST = delta("stop", {"prompt_tokens": 19, "completion_tokens": 2, "total_tokens": 21}, content="")
DONE = b"[DONE]"


def read_stream(*events, end=END, status_head=STREAM_HEAD):
    """Feed the head at 1 ms, then one event a millisecond."""
    reader = ResponseReader(stream=True)
    over = reader.feed(status_head, MS)
    for number, each in enumerate(events, start=2):
        over = over or reader.feed(chunked(event(each)), number * MS)
    if not over and end is not None:
        over = reader.feed(end, (len(events) + 2) * MS)
    return reader


def test_a_stream_is_timed_by_its_content_and_nothing_else():
    reader = read_stream(ROLE, delta(content="a"), delta(content="b"), LAST, DONE)
    assert reader.complete and reader.keep_alive
    assert reader.verdict() == (Outcome.OK, None)
    assert (reader.first_byte_ns, reader.first_token_ns, reader.last_token_ns) == (1 * MS, 3 * MS, 4 * MS)
    assert (reader.chunks, reader.gaps_us) == (2, [1_000])
    assert (reader.prompt_tokens, reader.completion_tokens, reader.finish_reason) == (19, 2, "stop")


@pytest.mark.parametrize(
    ("events", "first_at"),
    [
        pytest.param([ROLE, delta(content="x")], 3, id="the role-only chunk is no token"),
        pytest.param(
            [{"choices": [], "prompt_filter_results": []}, delta(content="x")], 3, id="nor is a chunk without choices"
        ),
        pytest.param(
            [delta(), delta(content=None), delta(content=""), delta(content="x")], 5, id="nor are empty deltas"
        ),
        pytest.param(
            [{"choices": [{"delta": None}]}, {"choices": None}, delta(content="x")], 4, id="nor are missing deltas"
        ),
        pytest.param([delta(reasoning_content="hm")], 2, id="reasoning is"),
        pytest.param([delta(tool_calls=[{"index": 0}])], 2, id="a tool call is"),
        pytest.param([delta(tool_calls=[]), delta(content="x")], 3, id="a list of none is not"),
        pytest.param([delta(function_call={"name": "f"})], 2, id="a call in its older form is"),
        pytest.param([delta(refusal="I cannot")], 2, id="a refusal is"),
        pytest.param([{"choices": [{"text": "x"}]}], 2, id="the text of a plain completion is"),
        pytest.param([ROLE, LAST], None, id="an answer without content has no first token"),
    ],
)
def test_what_counts_as_the_first_token(events, first_at):
    reader = read_stream(*events, LAST, DONE)
    assert reader.first_token_ns == (None if first_at is None else first_at * MS)


def test_usage_in_a_chunk_of_its_own_is_read():
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    reader = read_stream(delta(content="x"), delta("stop"), usage, DONE)
    assert (reader.prompt_tokens, reader.completion_tokens) == (5, 7)


def test_usage_that_says_nothing_takes_nothing_back():
    reader = read_stream(
        delta("stop", {"prompt_tokens": 5, "completion_tokens": 7}), {"choices": [], "usage": {}}, DONE
    )
    assert (reader.prompt_tokens, reader.completion_tokens) == (5, 7)


@pytest.mark.parametrize("count", [-1, 10**12, 1.5, True, "7", None])
def test_usage_that_is_no_count_is_not_believed(count):
    reader = read_stream(delta("stop", {"prompt_tokens": count, "completion_tokens": 3}, content="x"), DONE)
    assert (reader.prompt_tokens, reader.completion_tokens) == (None, 3)


@pytest.mark.parametrize(
    ("events", "end", "verdict"),
    [
        pytest.param(
            [delta(content="x"), LAST], END, (Outcome.OK, None), id="a finish reason without [DONE] is complete"
        ),
        pytest.param([delta(content="x"), DONE], END, (Outcome.OK, None), id="so is [DONE] without a finish reason"),
        pytest.param([delta(content="x")], END, (Outcome.BROKEN_STREAM, "truncated"), id="neither is not"),
        pytest.param(
            [delta(content="x"), b"{broken"], END, (Outcome.BROKEN_STREAM, "malformed_event"), id="JSON that is none"
        ),
        pytest.param(
            [delta(content="x"), b"null"],
            END,
            (Outcome.BROKEN_STREAM, "malformed_event"),
            id="an event that is no object",
        ),
        pytest.param(
            [delta(content="x"), {"error": {"code": "429", "message": "slow down"}}, DONE],
            END,
            (Outcome.BROKEN_STREAM, "error_in_stream: 429"),
            id="an error frame inside a 200",
        ),
        pytest.param(
            [delta(content="x"), {"object": "error", "message": "too long", "code": 400}, DONE],
            END,
            (Outcome.BROKEN_STREAM, "error_in_stream: 400"),
            id="an error that is the frame itself",
        ),
        pytest.param(
            [delta(content="x"), {"error": {"code": "content_filter", "message": "filtered"}}],
            END,
            (Outcome.FILTERED, "content_filter"),
            id="the filter's verdict instead of the rest",
        ),
        pytest.param(
            [{**delta(content="x"), "error": None}, {**delta("stop"), "error": {}}],
            END,
            (Outcome.OK, None),
            id="an error that is none",
        ),
        pytest.param(
            [delta("content_filter", content="x"), DONE],
            END,
            (Outcome.FILTERED, "content_filter"),
            id="a filtered completion",
        ),
        pytest.param(
            [delta(content="x" * (2 << 20))], END, (Outcome.BROKEN_STREAM, "line_too_long"), id="a line without bound"
        ),
    ],
)
def test_how_a_stream_ended(events, end, verdict):
    assert read_stream(*events, end=end).verdict() == verdict


def test_a_stream_cut_before_its_end_is_broken_and_one_cut_after_done_is_not():
    cut = read_stream(delta(content="x"), end=None)
    cut.feed_eof()
    assert cut.verdict() == (Outcome.BROKEN_STREAM, "cut")
    late = read_stream(delta(content="x"), LAST, DONE, end=None)
    late.feed_eof()
    assert late.verdict() == (Outcome.OK, None)
    assert not late.complete


def test_a_stream_request_answered_with_something_else_is_not_ok():
    reader = read_stream(status_head=head(content_type="text/html; charset=utf-8", content_length=2) + b"hi", end=None)
    assert reader.verdict() == (Outcome.BROKEN_STREAM, "not_an_event_stream: text/html")


def read_body(body, status="200 OK", **headers):
    reader = ResponseReader(stream=False)
    reader.feed(head(status, content_length=len(body), **headers) + body, 5 * MS)
    return reader


ANSWER = {
    "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 19, "total_tokens": 91, "completion_tokens": 72},
}


def test_a_plain_answer_gives_usage_and_finish_reason_and_no_first_token():
    reader = read_body(json.dumps(ANSWER).encode())
    assert reader.verdict() == (Outcome.OK, None)
    assert (reader.prompt_tokens, reader.completion_tokens, reader.finish_reason) == (19, 72, "stop")
    assert (reader.first_byte_ns, reader.first_token_ns) == (5 * MS, None)


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        ("200 OK", {"choices": []}, (Outcome.BROKEN_STREAM, "not_a_chat_completion")),
        ("200 OK", b"<html>", (Outcome.BROKEN_STREAM, "not_a_chat_completion")),
        ("200 OK", {"choices": [{"finish_reason": "content_filter"}]}, (Outcome.FILTERED, "content_filter")),
        ("301 Moved", b"", (Outcome.REJECTED, "redirect_not_followed")),
        (
            "400 Bad",
            {"error": {"message": "no", "code": "content_filter", "status": 400}},
            (Outcome.FILTERED, "content_filter"),
        ),
        ("400 Bad", {"status": 400, "code": "content_filter", "message": "no"}, (Outcome.FILTERED, "content_filter")),
        ("401 No", {"error": {"code": "401", "message": "the key abc is wrong"}}, (Outcome.REJECTED, "401")),
        (
            "422 No",
            {"code": "parameter_not_supported", "detail": {"loc": ["body", "seed"]}, "message": "Not here."},
            (Outcome.REJECTED, "parameter_not_supported: seed: Not here."),
        ),
        ("429 Slow", {"error": {"code": "429", "message": "wait"}}, (Outcome.THROTTLED, "429")),
        (
            "500 Oops",
            {"error": "InternalServerError", "message": "sorry"},
            (Outcome.SERVER_ERROR, "InternalServerError: sorry"),
        ),
        ("502 Bad", b"<html>bad gateway</html>", (Outcome.SERVER_ERROR, "html_page")),
    ],
)
def test_how_a_plain_answer_ended(status, body, verdict):
    reader = read_body(body if isinstance(body, bytes) else json.dumps(body).encode(), status)
    assert reader.verdict() == verdict


def test_an_answer_that_was_asked_for_may_be_long():
    reader = read_body(json.dumps({**ANSWER, "logprobs": "x" * (12 << 20)}).encode())
    assert (reader.verdict(), reader.completion_tokens) == ((Outcome.OK, None), 72)


def test_an_error_holds_no_control_characters_and_ends_somewhere():
    reader = read_body(json.dumps({"error": {"code": "x\x1b[31m\n", "message": "y" * 1_000}}).encode(), "400 Bad")
    _, error = reader.verdict()
    assert error.startswith("x [31m : yyy") and len(error) == 200


def test_an_interim_answer_is_passed_over():
    reader = ResponseReader(stream=False)
    body = json.dumps(ANSWER).encode()
    assert not reader.feed(b"HTTP/1.1 100 Continue\r\n\r\n", MS)
    assert reader.feed(head(content_length=len(body)) + body, 2 * MS)
    assert (reader.status, reader.verdict()) == (200, (Outcome.OK, None))


@pytest.mark.parametrize(
    ("pieces", "broken"),
    [
        ([b"not http at all\r\n\r\n"], "malformed_http"),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_LIMIT, b"y" * 10], "head_too_large"),
        ([head(transfer_encoding="chunked"), b"zz\r\n"], "malformed_http"),
        ([head(content_length=100 << 20), *[b"x" * (1 << 20)] * 17], "body_too_large"),
    ],
)
def test_a_response_that_breaks_the_rules_ends_at_once(pieces, broken):
    reader = ResponseReader(stream=False)
    for piece in pieces:
        over = reader.feed(piece, MS)
    assert over and reader.broken == broken
    assert not reader.complete


def test_a_body_without_a_length_ends_with_the_connection_and_one_with_a_length_does_not():
    reader = ResponseReader(stream=False)
    reader.feed(head(connection="close") + json.dumps(ANSWER).encode(), MS)
    reader.feed_eof()
    assert reader.complete and not reader.keep_alive and reader.verdict() == (Outcome.OK, None)
    short = ResponseReader(stream=False)
    short.feed(head(content_length=500) + b"{}", MS)
    short.feed_eof()
    assert short.verdict() == (Outcome.BROKEN_STREAM, "cut")


@pytest.mark.parametrize(
    "trailing",
    [b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 429 Slow\r\nRetry-After: 9\r\n\r\n", b"garbage"],
)
def test_what_follows_an_answer_changes_nothing_but_ends_the_connection(trailing):
    body = json.dumps(ANSWER).encode()
    reader = ResponseReader(stream=False)
    assert reader.feed(head(content_length=len(body)) + body + trailing, MS)
    assert (reader.status, reader.verdict(), reader.keep_alive) == (200, (Outcome.OK, None), False)
    assert b"retry-after" not in reader.headers


def test_an_upgrade_that_nobody_asked_for_ends_the_attempt():
    reader = ResponseReader(stream=True)
    assert reader.feed(head("101 Switching Protocols", upgrade="websocket", connection="Upgrade"), MS)
    assert reader.broken == "unexpected_upgrade"


@pytest.mark.parametrize("length", [20, 84, 1_400])
def test_a_key_is_taken_out_before_anything_is_cut(length):
    key = "k3y" * (length // 3)
    redact = Credential(lambda: (key, float("inf"))).redact
    for body in ({"code": key, "message": "x"}, {"code": "bad", "message": f"header {key} is wrong"}):
        reader = read_body(json.dumps({"error": body}).encode(), "400 Bad")
        assert "k3yk3y" not in reader.verdict(redact)[1]
    for stream in (
        read_stream({"error": {"code": key}}, DONE),
        read_stream({"error": {"message": f"{'-' * 150}{key}"}}),
    ):
        assert "k3yk3y" not in stream.verdict(redact)[1]
