"""Damaged answers without number: the reader never raises, never holds more than its bounds, always says how it ended."""

import random
import time

import pytest

from loadgen import refusals, sse, wire
from loadgen.refusals import ERROR_LENGTH, remaining_of, retry_after_ms
from loadgen.samples import Outcome
from loadgen.wire import ResponseReader
from tests.sse_corpus import CORPUS, GOOD
from tests.test_refusals import BODIES

pytestmark = pytest.mark.aside

LINE, EVENT, BODY, HEAD, CHUNKS = 300, 400, 900, 2_000, 3  # small bounds, so that small streams meet them
FEWEST = 8_000  # answers: among these each bound is met, however slow the machine
STATUSES = (*[200] * 20, 100, 101, 204, 302, 304, 400, 401, 422, 429, 500, 503, 999)
TOKENS = (
    *(b"\r\n", b"\n\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b":", b"data: ", b"event: error\n", b"data: [DONE]\n\n", b"{", b"]", b'"', b"\\ud83d"),
    *(b"0\r\n\r\n", b"5;x=y\r\n", b"ffffffffffffffff\r\n", b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: br\r\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 100 C\r\n\r\n", b"Retry-After: 9\r\n", b"1e999", b"null", b"x" * 500, b"[" * 1_100, b"data\n" * 99, b"X: y\r\n" * 900),
)  # fmt: skip


def answer(rng):
    """An answer of some kind, whole."""
    row = rng.choice(CORPUS)
    if rng.random() < 0.2:
        body, kind = rng.choice(BODIES), "application/json"
    else:
        body, kind = (row.stream if len(row.stream) < 4_000 else GOOD), row.content_type
    head = b"HTTP/1.%d %d X\r\nContent-Type: %b\r\n" % (rng.random() < 0.9, rng.choice(STATUSES), kind.encode())
    if rng.random() < 0.5:
        head += rng.choice(
            [
                b"Retry-After: soon\r\n",
                b"Retry-After: 1.5\r\n",
                b"x-ms-error-code: \x9b31m\r\n",
                b"Connection: close\r\n",
            ]
        )
    framing = rng.randrange(3)
    if framing == 0:
        return head + b"\r\n" + body
    if framing == 1:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    sizes = iter(lambda: rng.randint(1, 90), 0)
    chunks, start = [], 0
    while start < len(body):
        piece = body[start : start + next(sizes)]
        chunks.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        start += len(piece)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"


def damaged(rng, wire_bytes):
    """Up to six bytes changed, runs dropped or repeated, or tokens put in."""
    out, body_at = bytearray(wire_bytes), wire_bytes.index(b"\r\n\r\n") + 4
    for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
        first = rng.choice(
            [0, body_at, body_at, body_at, len(out) - 2]
        )  # the last: among the trailers, where there are chunks
        at, length = rng.randint(min(first, len(out)), len(out)), rng.randint(1, 60)
        kind = rng.randrange(5)
        if kind == 0:
            out[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length] * rng.choice([1, 30])
        elif kind == 3:
            out[at:at] = rng.choice(TOKENS)
        else:
            out[at : at + length] = rng.randbytes(length)
    return bytes(out)


def held(reader):
    """Bytes of the answer that the reader keeps."""
    parser = reader._events
    kept = len(reader._body) + 8 * len(reader.gaps_us)
    return kept if parser is None else kept + len(parser._tail) + len(parser._more) + sum(map(len, parser._data))


def read(rng, wire_bytes):
    reader, start, over = ResponseReader(stream=rng.random() < 0.7), 0, False
    longest = rng.choice([1, 7, 80, 4_000])
    while start < len(wire_bytes) and not over:
        piece = wire_bytes[start : start + rng.randint(1, longest)]
        over = reader.feed(piece, start * 1_000_000)
        assert held(reader) <= LINE + EVENT + BODY + 8 * CHUNKS + 2 * len(piece)
        start += len(piece)
    if not over:
        reader.feed_eof()
    assert reader.complete or reader.broken is not None
    return reader


def check(reader):
    outcome, error = reader.verdict()
    assert isinstance(outcome, Outcome)
    assert (error is None) == (outcome is Outcome.OK)
    if error is not None:
        assert 0 < len(error) <= ERROR_LENGTH and error.isascii() and error.isprintable()
        assert not error.startswith("unreadable: "), "an error of ours"
    assert (reader.first_token_ns is None) == (reader.chunks == 0) and len(reader.gaps_us) == max(0, reader.chunks - 1)
    for count in (reader.prompt_tokens, reader.completion_tokens, retry_after_ms(reader.headers, 1.7e9)):
        assert count is None or 0 <= count < 2**32
    left = remaining_of(reader.headers, b"tokens")
    assert left is None or left >= 0
    return outcome, error


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.long)])
def test_no_bytes_make_the_reader_raise_hold_more_than_its_bounds_or_end_unclassified(monkeypatch, seconds):
    for module, bounds in {
        sse: {"LINE_LIMIT": LINE, "EVENT_LIMIT": EVENT, "PIECE_LIMIT": LINE // 2, "COPIED_TAIL": 40, "LINE_COST": 8},
        wire: {"HEAD_LIMIT": HEAD, "BODY_LIMIT": BODY, "ERROR_BODY_LIMIT": BODY // 2, "CHUNK_LIMIT": CHUNKS},
        refusals: {"ERROR_BODY_LIMIT": BODY // 2},
    }.items():
        for name, value in bounds.items():
            monkeypatch.setattr(module, name, value)
    seen, number, ends_s = set(), 0, time.monotonic() + seconds
    while number < FEWEST or time.monotonic() < ends_s:
        number += 1
        rng = random.Random(number)
        try:
            outcome, error = check(read(rng, damaged(rng, answer(rng))))
        except Exception as failure:
            raise AssertionError(f"seed {number}: {failure!r}") from failure
        seen.add((outcome.value, (error or "").partition(":")[0]))
    assert {outcome for outcome, _ in seen} == {
        "ok",
        "throttled",
        "filtered",
        "rejected",
        "server_error",
        "network",
        "broken_stream",
    }
    met = {
        "line_too_long",
        "event_too_long",
        "body_too_large",
        "head_too_large",
        "framing_too_large",
        "too_many_chunks",
    }
    assert met <= {code for _, code in seen}
