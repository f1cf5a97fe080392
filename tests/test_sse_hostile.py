"""What a hostile server can cost: each attack runs in a process of its own, whose peak memory is measured."""

import json
import os
import re
import subprocess
import sys
import time
import traceback
from itertools import chain, cycle, islice, repeat
from pathlib import Path

import pytest

from loadgen.wire import CHUNK_LIMIT, ResponseReader

MEMORY_LIMIT = 64 << 20
RECEIVE = 64 << 10
MS = 1_000_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = HEAD + b"\r\n"
TINY = b'data:{"choices":[{"text":"x"}]}\n\n'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
MIB = 1 << 20


def many(piece, times):
    """The same bytes so many times over, as receives of 64 KiB."""
    together = max(1, RECEIVE // len(piece))
    return chain(repeat(piece * together, times // together), [piece * (times % together)])


def chunk(body):
    return b"%x\r\n%b\r\n" % (len(body), body)


def json_of_lists():
    """An event of a megabyte whose parsed form is as large as can be."""
    return b'data: {"choices":[' + b"[]," * (MIB // 3 - 100) + b"[]]}\n\n"


# name: what is sent, how the attempt ends, and how much of it may be read (in bytes, None: all)
ATTACKS = {
    "a line of 100 MB": (lambda: chain([CLOSE, TINY + b"data: "], many(b"x", 100 * MIB)), "line_too_long", 2 * MIB),
    "a comment of 100 MB": (lambda: chain([CLOSE, b": "], many(b"x", 100 * MIB)), "line_too_long", 2 * MIB),
    "a line of 100 MB, seven bytes a chunk": (
        lambda: chain([CHUNKED, chunk(b"data: ")], many(chunk(b"x" * 7), 15 * MIB)),
        "line_too_long",
        3 * MIB,
    ),
    "an event of 100 MB in short lines": (lambda: chain([CLOSE], many(b"data: x\n", 13 * MIB)), "event_too_long", 2 * MIB),
    "an event of empty lines": (lambda: chain([CLOSE], many(b"data\n", 20 * MIB)), "event_too_long", 2 * MIB),
    "a million tiny events": (lambda: chain([CLOSE], repeat(TINY, 10**6), [STOP]), None, None),
    "events without end": (lambda: chain([CLOSE], repeat(TINY, 2 * CHUNK_LIMIT)), "too_many_chunks", CHUNK_LIMIT * len(TINY) + MIB),
    "a hundred thousand comments": (lambda: chain([CLOSE], many(b": keep-alive\n", 10**5), [STOP]), None, None),
    "a megabyte of empty lists, ten times": (lambda: chain([CLOSE], repeat(json_of_lists(), 10), [STOP]), None, None),
    "arrays nested a hundred thousand deep": (
        lambda: [CLOSE, b'data: {"error":', *many(b"[", 10**5), *many(b"]", 10**5), b"}\n\n"],
        "malformed_event",
        MIB,
    ),
    "an error nested a thousand deep": (
        lambda: [CLOSE, b'data: {"error":' + b'{"code":' * 990 + b"1" + b"}" * 990 + b"}\n\n"],
        "error_in_stream: unprintable",
        MIB,
    ),
    "100 MB of headers": (lambda: chain([HEAD], many(b"X-Header: y\r\n", 8 * MIB)), "head_too_large", MIB),
    "a header of 100 MB": (lambda: chain([HEAD, b"X-Header: "], many(b"y", 100 * MIB)), "head_too_large", MIB),
    "interim answers without end": (lambda: many(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 10**6), "head_too_large", MIB),
    "trailers without end": (lambda: chain([CHUNKED, chunk(TINY), b"0\r\n"], many(b"X-Trailer: y\r\n", 8 * MIB)), "framing_too_large", MIB),
    "a trailer without end": (lambda: chain([CHUNKED, chunk(TINY), b"0\r\nX: "], many(b"y", 100 * MIB)), "framing_too_large", MIB),
    "a chunk extension without end": (lambda: chain([CHUNKED, b"1;x="], many(b"y", 100 * MIB)), "framing_too_large", MIB),
    "a gzip bomb": (lambda: chain([HEAD + b"Content-Encoding: gzip\r\n\r\n"], many(b"\0", 100 * MIB)), "compressed_unasked", 1_000),
    "100 MB that are no stream": (lambda: chain([b"HTTP/1.1 200 OK\r\n\r\n"], many(b"x", 100 * MIB)), "body_too_large", 2 * MIB),
    "an error of 100 MB, two bytes a chunk": (
        lambda: chain([CHUNKED.replace(b"200 OK", b"500 Oops")], many(chunk(b"xy"), 50 * MIB)),
        "no_error_code",
        5 * MIB,
    ),
}  # fmt: skip


def suffer_all():
    """Each in a process of its own, forked from this one so that the imports are made once."""
    for name in ATTACKS:
        if (pid := os.fork()) == 0:
            try:
                suffer(name)
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.waitpid(pid, 0)


def suffer(name):
    """Feed it, and say how it ended and what it took."""
    receives, _, _ = ATTACKS[name]
    before = memory("VmRSS")
    reader = ResponseReader(stream=True)
    for now_ms, piece in enumerate(receives()):
        if reader.feed(piece, now_ms * MS):
            break
    else:
        reader.feed_eof()
    outcome, error = reader.verdict()
    told = [outcome, error, reader.bytes_in, reader.chunks, memory("VmHWM") - before]
    print(json.dumps([name, told]), flush=True)  # noqa: T201


def memory(what):
    """Bytes resident now (VmRSS) or at most since the program started (VmHWM; ru_maxrss would count its parent's)."""
    return int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


@pytest.fixture(scope="module")
def suffered():
    """By name of ATTACKS what was told; what those that told nothing died of fails the test."""
    program = "from tests.test_sse_hostile import suffer_all; suffer_all()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    told = dict(map(json.loads, done.stdout.splitlines()))
    assert told.keys() == ATTACKS.keys(), done.stderr
    return told


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_takes_more_than_64_mb_or_goes_unnamed(suffered, name):
    _, code, at_most = ATTACKS[name]
    outcome, error, bytes_in, chunks, grown = suffered[name]
    if code is None:
        assert (outcome, error) == ("ok", None)
    elif code == "head_too_large":
        assert (outcome, error) == ("network", code)  # no answer has come
    else:
        assert (outcome, error) == ("server_error" if code == "no_error_code" else "broken_stream", code)
    assert at_most is None or bytes_in <= at_most
    assert grown <= MEMORY_LIMIT
    if name == "a million tiny events":
        assert chunks == 10**6


def test_a_line_that_drips_in_bytes_is_read_in_linear_time():
    """A megabyte, byte by byte; were each byte to copy what came before, it would be 500 GB."""
    reader, began_s = ResponseReader(stream=True), time.process_time()
    reader.feed(CLOSE, 0)
    for piece in islice(cycle([b"d", b"a"]), MIB + 1):
        assert not reader.complete and reader.broken is None
        reader.feed(piece, MS)
    assert reader.broken == "line_too_long"
    assert time.process_time() - began_s < 15
