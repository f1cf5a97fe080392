"""Where an answer ends, by the rules of HTTP/1.1: lengths, chunks, the connection's end, and answers without a body."""

import json

import pytest

from loadgen.samples import Outcome
from loadgen.wire import ResponseReader

MS = 1_000_000
OK = (Outcome.OK, None)
ANSWER = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}).encode()
SIZE = len(ANSWER)
STREAM = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS = b"Content-Type: text/event-stream\r\n"


def broken(code):
    return Outcome.BROKEN_STREAM, code


def network(code):
    return Outcome.NETWORK, code


def head(*lines, status="200 OK", version="1.1"):
    return (
        b"HTTP/%b %b\r\n" % (version.encode(), status.encode())
        + b"".join(line.rstrip(b"\r\n") + b"\r\n" for line in lines)
        + b"\r\n"
    )


def length(size):
    return b"Content-Length: %d" % size


def chunks(*bodies, last=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies) + last


CHUNKED = b"Transfer-Encoding: chunked"
CLOSE = b"Connection: close"
KEPT, LOST = True, False  # whether the connection can serve again
# The claim, what comes before the connection ends, the verdict, and the connection's fate.
PLAIN = [
    ("a length, and as much", head(length(SIZE)) + ANSWER, OK, KEPT),
    ("a length, and less", head(length(SIZE + 1)) + ANSWER, broken("cut"), LOST),
    ("a length, and more: the rest is no part of it", head(length(SIZE)) + ANSWER + b"xy", OK, LOST),
    ("a length that cuts the JSON", head(length(SIZE - 1)) + ANSWER, broken("not_a_chat_completion"), LOST),
    ("a length of nothing", head(length(0)), broken("empty_body"), KEPT),
    ("a length that is none", head(b"Content-Length: many") + ANSWER, network("malformed_http"), LOST),
    ("a negative length", head(b"Content-Length: -5") + ANSWER, network("malformed_http"), LOST),
    ("a length beyond 64 bits", head(b"Content-Length: " + b"9" * 30) + ANSWER, network("malformed_http"), LOST),
    ("two lengths", head(length(SIZE), length(SIZE + 1)) + ANSWER, network("malformed_http"), LOST),
    ("a length and chunks: which of them holds, nobody can know", head(length(SIZE), CHUNKED) + chunks(ANSWER), network("malformed_http"), LOST),
    ("chunks and a length", head(CHUNKED, length(SIZE)) + chunks(ANSWER), network("malformed_http"), LOST),
    ("chunks", head(CHUNKED) + chunks(ANSWER[:9], ANSWER[9:]), OK, KEPT),
    ("chunks, named in capitals", head(b"TRANSFER-ENCODING: Chunked") + chunks(ANSWER), OK, KEPT),
    ("chunks with extensions", head(CHUNKED) + b"%x;name=\"a b\"\r\n%b\r\n0;last\r\n\r\n" % (SIZE, ANSWER), OK, KEPT),
    ("chunks and trailers", head(CHUNKED) + chunks(ANSWER, last=b"0\r\nX-Sum: 7\r\n\r\n"), OK, KEPT),
    ("chunks without an end", head(CHUNKED) + chunks(ANSWER, last=b""), broken("cut"), LOST),
    ("a last chunk whose blank line is missing", head(CHUNKED) + chunks(ANSWER, last=b"0\r\n"), broken("cut"), LOST),
    ("a chunk that is cut", head(CHUNKED) + b"%x\r\n%b" % (SIZE + 9, ANSWER), broken("cut"), LOST),
    ("a chunk whose size is no number", head(CHUNKED) + b"zz\r\n" + ANSWER, broken("malformed_http"), LOST),
    ("a chunk without a size", head(CHUNKED) + b"\r\n" + ANSWER, broken("malformed_http"), LOST),
    ("a chunk beyond 64 bits", head(CHUNKED) + b"f" * 17 + b"\r\n" + ANSWER, broken("malformed_http"), LOST),
    ("a chunk longer than its size", head(CHUNKED) + b"2\r\n" + ANSWER + b"\r\n0\r\n\r\n", broken("malformed_http"), LOST),
    ("a coding other than chunks", head(b"Transfer-Encoding: gzip, chunked") + chunks(ANSWER), broken("compressed_unasked"), LOST),
    ("a coding instead of chunks", head(b"Transfer-Encoding: deflate") + ANSWER, broken("compressed_unasked"), LOST),
    ("identity, which is no coding", head(b"Content-Encoding: Identity", length(SIZE)) + ANSWER, OK, KEPT),
    ("an encoding without a name", head(b"Content-Encoding:", length(SIZE)) + ANSWER, OK, KEPT),
    ("compressed, whatever was asked for", head(b"Content-Encoding: br", length(SIZE)) + ANSWER, broken("compressed_unasked"), LOST),
    ("neither length nor chunks: the connection's end is the body's", head() + ANSWER, OK, LOST),
    ("nor anything else", head(), broken("empty_body"), LOST),
    ("a server that closes, with a length", head(length(SIZE), CLOSE) + ANSWER, OK, LOST),
    ("HTTP/1.0", head(version="1.0") + ANSWER, OK, LOST),
    ("HTTP/1.0 with a length", head(length(SIZE), version="1.0") + ANSWER, OK, LOST),
    ("HTTP/1.0 with a length, and less", head(length(SIZE + 1), version="1.0") + ANSWER, broken("cut"), LOST),
    ("HTTP/1.0 that keeps the connection", head(length(SIZE), b"Connection: keep-alive", version="1.0") + ANSWER, OK, KEPT),
    ("HTTP/2, which nobody asked for", head(version="2") + ANSWER, network("malformed_http"), LOST),
    ("HTTP/0.9: no head at all", ANSWER, network("malformed_http"), LOST),
    ("a head whose lines end in LF alone", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", network("malformed_http"), LOST),
    ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le", network("closed_before_answer"), LOST),
    ("nothing", b"", network("closed_before_answer"), LOST),
    ("interim answers before it", head(status="100 Continue") + head(b"Link: </x>", status="103 Early Hints") + head(length(SIZE)) + ANSWER, OK, KEPT),
    ("an interim answer that has a length and a type", head(length(5), EVENTS, status="102 Processing") + head(length(SIZE)) + ANSWER, OK, KEPT),
    ("an interim answer, and no other", head(status="100 Continue"), network("closed_before_answer"), LOST),
    ("another protocol, which nobody asked for", head(b"Upgrade: h2c", CLOSE, status="101 Switching Protocols"), network("unexpected_upgrade"), LOST),
    ("another protocol, named, and its first bytes", head(b"Upgrade: websocket", b"Connection: upgrade", status="101 Switching Protocols") + b"\x81\x05hello", network("unexpected_upgrade"), LOST),
    ("no content: its length is not waited for", head(length(SIZE), status="204 No Content"), (Outcome.REJECTED, "unexpected_status_204"), KEPT),
    ("not modified: nor is that", head(length(SIZE), status="304 Not Modified"), (Outcome.REJECTED, "unexpected_status_304"), KEPT),
    ("an error, cut: its status is known", head(length(99), status="429 Slow") + b'{"error', (Outcome.THROTTLED, "no_error_code"), LOST),
    ("an error in malformed chunks", head(CHUNKED, status="503 Busy") + b"zz\r\n", (Outcome.SERVER_ERROR, "no_error_code"), LOST),
]  # fmt: skip
STREAMED = [
    ("chunks, and [DONE]", head(EVENTS, CHUNKED) + chunks(STREAM, DONE), OK, KEPT),
    ("a type in capitals, with a parameter", head(b"content-TYPE: Text/Event-Stream ;charset=UTF-8", CHUNKED) + chunks(STREAM, DONE), OK, KEPT),
    ("a type that only begins like it", head(b"Content-Type: text/event-streams", CHUNKED) + chunks(STREAM, DONE), broken("not_an_event_stream: text/event-streams"), KEPT),
    ("no type", head(CHUNKED) + chunks(STREAM, DONE), broken("not_an_event_stream"), KEPT),
    ("[DONE], and no end of the chunks: the answer is whole, the connection is not", head(EVENTS, CHUNKED) + chunks(STREAM, DONE, last=b""), OK, LOST),
    ("[DONE], and then no chunks at all", head(EVENTS, CHUNKED) + chunks(STREAM, DONE, last=b"zz\r\n"), OK, LOST),
    ("a finish reason, and no end of the chunks", head(EVENTS, CHUNKED) + chunks(STREAM, last=b""), broken("cut"), LOST),
    ("a length", head(EVENTS, length(len(STREAM))) + STREAM, OK, KEPT),
    ("a length, and less", head(EVENTS, length(len(STREAM) + 9)) + STREAM, broken("cut"), LOST),
    ("a length that cuts the last event: what is left over is a blank line, which may stand between answers", head(EVENTS, length(len(STREAM) - 1)) + STREAM, broken("truncated"), KEPT),
    ("the connection's end", head(EVENTS) + STREAM, OK, LOST),
    ("the connection's end within an event", head(EVENTS) + STREAM[:-1], broken("truncated"), LOST),
    ("HTTP/1.0", head(EVENTS, version="1.0") + STREAM + DONE, OK, LOST),
    ("an interim answer of the same type", head(EVENTS, status="103 Early Hints") + head(EVENTS, CHUNKED) + chunks(STREAM, DONE), OK, KEPT),
    ("an event in a thousand chunks", head(EVENTS, CHUNKED) + chunks(*[STREAM[at : at + 1] for at in range(len(STREAM))], DONE), OK, KEPT),
    ("nothing but the end of the chunks", head(EVENTS, CHUNKED) + chunks(), broken("empty_body"), KEPT),
]  # fmt: skip


@pytest.mark.parametrize("step", [1, 13, 1 << 20])
@pytest.mark.parametrize(
    ("stream", "row"),
    [*((False, row) for row in PLAIN), *((True, row) for row in STREAMED)],
    ids=[f"plain: {row[0]}" for row in PLAIN] + [f"stream: {row[0]}" for row in STREAMED],
)
def test_where_an_answer_ends_and_what_becomes_of_its_connection(stream, row, step):
    _, wire, verdict, fate = row
    reader, over = ResponseReader(stream=stream), False
    for start in range(0, len(wire), step):
        over = reader.feed(wire[start : start + step], start * MS)
        if reader.broken is not None:
            break
    if not over:
        reader.feed_eof()
    assert reader.verdict() == verdict
    assert (reader.complete and reader.keep_alive and reader.broken is None) == fate


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZip", "identity, gzip"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_compressed_answer_is_refused_as_soon_as_its_head_is_in(stream, encoding):
    reader = ResponseReader(stream=stream)
    wire = head(EVENTS, CHUNKED, f"Content-Encoding: {encoding}".encode())
    assert not reader.feed(wire[:-1], MS)
    assert reader.feed(wire[-1:], MS)
    assert reader.verdict() == broken("compressed_unasked")


@pytest.mark.parametrize(
    "name", ["Content-Encoding: gzip", "Retry-After: 9", "x-ms-error-code: x", "Content-Type: text/html"]
)
def test_a_trailer_changes_nothing(name):
    reader = ResponseReader(stream=True)
    assert reader.feed(head(EVENTS, CHUNKED) + chunks(STREAM, DONE, last=f"0\r\n{name}\r\n\r\n".encode()), MS)
    assert (reader.verdict(), reader.keep_alive) == (OK, True)
    assert reader.headers == {b"content-type": b"text/event-stream", b"transfer-encoding": b"chunked"}


def test_an_interrupt_that_falls_into_the_parser_is_not_taken_for_the_servers_fault(monkeypatch):
    def interrupted(self, event):
        raise KeyboardInterrupt

    monkeypatch.setattr(ResponseReader, "_read_event", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ResponseReader(stream=True).feed(head(EVENTS, CHUNKED) + chunks(STREAM), MS)


def test_an_error_of_ours_ends_the_answer_under_its_own_name(monkeypatch):
    def failing(self, event):
        raise ZeroDivisionError

    monkeypatch.setattr(ResponseReader, "_read_event", failing)
    reader = ResponseReader(stream=True)
    assert reader.feed(head(EVENTS, CHUNKED) + chunks(STREAM), MS)
    assert reader.verdict() == broken("unreadable: ZeroDivisionError")
