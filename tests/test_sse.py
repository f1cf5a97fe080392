"""Every stream of the corpus, however it is cut and framed, comes out as the table says and as the WHATWG rules do."""

import json
import random
import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.sse import EVENT_LIMIT, LINE_COST, LINE_LIMIT, EventParser, NamedEvent, StreamTooLarge
from loadgen.wire import ResponseReader
from tests.sse_corpus import CLASSES, CORPUS, GOOD

MS = 1_000_000
SEEDS = range(5)
LONG = 8 << 10  # bytes; longer streams are not fed one byte, but a few at a time


def at_random(stream, seed):
    rng, pieces, start = random.Random(seed), [], 0
    while start < len(stream):
        stop = start + rng.randint(1, 40 if len(stream) < LONG else 4_000)
        pieces.append(stream[start:stop])
        start = stop
    return pieces


def bytewise(stream):
    step = 1 if len(stream) < LONG else 61
    return [stream[start : start + step] for start in range(0, len(stream), step)]


CUTTINGS = {
    "whole": lambda stream: [[stream]],
    "byte by byte": lambda stream: [bytewise(stream)],
    "at each CR and LF": lambda stream: [re.findall(rb"[^\r\n]*[\r\n]|[^\r\n]+", stream)],
    "within each character of several bytes": lambda stream: [re.findall(rb"[^\x80-\xbf]+|[\x80-\xbf]", stream)],
    "at random": lambda stream: [at_random(stream, seed) for seed in SEEDS],
}


def reference(stream):
    """Name and data of each event, by the rules of the WHATWG's HTML standard, 9.2.6, read from the top."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events, name, data = [], "", ""
    for line in lines[:-1]:  # the last has no end
        if line == "":
            if data != "":
                events.append((name, data.removesuffix("\n")))
            name, data = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data += value + "\n"
        elif field == "event":
            name = value
    return events


def parse(pieces):
    """What our parser makes of it: the same pairs, and the code of the bound that was met."""
    parser, events, code = EventParser(), [], None
    try:
        for piece in pieces:
            events += parser.feed(piece)
    except StreamTooLarge as too_large:
        events += too_large.events
        code = too_large.code
    return [(name_of(event), event.decode("utf-8", "replace")) for event in events], code


def name_of(event):
    return event.name.decode("utf-8", "replace") if isinstance(event, NamedEvent) else ""


def text_of(events):
    """What a user sees of the first choice, up to the end or the first thing that is no chunk."""
    text = ""
    for name, data in events:
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            return text
        if name == "error" or not isinstance(chunk, dict) or chunk.get("error"):
            return text
        for choice in chunk.get("choices") or []:
            if choice.get("index", 0) == 0:
                text += (choice.get("delta") or {}).get("content") or ""
    return text


def test_the_corpus_is_as_large_as_it_says():
    assert [len(rows) for rows, _ in CLASSES.values()] == [count for _, count in CLASSES.values()]
    assert len({row.says for row in CORPUS}) == len(CORPUS) == 64


@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row.says)
def test_the_events_are_those_of_the_rules_however_the_stream_is_cut(row, cutting):
    for pieces in CUTTINGS[cutting](row.stream):
        assert b"".join(pieces) == row.stream
        events, code = parse(pieces)
        assert events == reference(row.stream)
        assert code == ("line_too_long" if row.verdict[1] == "line_too_long" else None)
        assert row.events is None or len(events) == row.events
        if row.content_type == "text/event-stream":
            assert text_of(events) == row.text


def framed(row, framing):
    """The bytes of a response with this body; it has an end where the row says so."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {row.content_type}\r\n"
    if row.encoding:
        head += f"Content-Encoding: {row.encoding}\r\n"
    whole = row.ends and not row.cut
    if framing == "chunked":
        head += "Transfer-Encoding: chunked\r\n"
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in at_random(row.stream, 7))
        body += b"0\r\n\r\n" if whole else b""
    else:
        head += f"Content-Length: {len(row.stream) + (not whole)}\r\n" if framing == "length" else ""
        body = row.stream
    return head.encode() + b"\r\n" + body


@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row.says)
def test_the_answer_is_classified_and_measured_however_it_comes(row, cutting):
    for framing in ("chunked", "length", *([] if row.cut else ["close"])):
        for pieces in CUTTINGS[cutting](framed(row, framing)):
            reader, over = ResponseReader(stream=True), False
            for number, piece in enumerate(pieces):
                over = reader.feed(piece, number * MS)
                if over:
                    break
            if row.ends and not over:
                reader.feed_eof()
            assert (reader.verdict(), reader.chunks) == (row.verdict, row.chunks), framing
            assert ((reader.prompt_tokens, reader.completion_tokens), reader.finish_reason) == (row.usage, row.finish)
            assert (reader.first_token_ns is None) == (row.chunks == 0)
            assert len(reader.gaps_us) == max(0, row.chunks - 1)
            assert row.ends or not over


def test_a_gap_of_a_minute_is_measured_like_any_other():
    reader = ResponseReader(stream=True)
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", 0)
    for minute, event in enumerate(GOOD.split(b"\n\n")[:-1], start=1):
        reader.feed(event + b"\n\n", minute * 60_000 * MS)
    assert (reader.first_token_ns, reader.gaps_us) == (60_000 * MS, [60_000_000])


@pytest.mark.parametrize(
    ("kept", "step"), [(b"data: ", 1), *product([b"data: ", b": ", b"x", b"event: "], [61, 4_093, 65_536, 3 << 20])]
)
def test_a_line_may_be_as_long_as_its_limit_and_no_longer(kept, step):
    line = kept + b"y" * (LINE_LIMIT - len(kept))
    for rest, code in ((b"\n\n", None), (b"y\n\n", "line_too_long")):
        stream = b"data: a\n\n" + line + rest
        events, found = parse(stream[start : start + step] for start in range(0, len(stream), step))
        assert found == code
        assert events[0] == ("", "a") and len(events) == (2 if kept == b"data: " and code is None else 1)


@pytest.mark.parametrize("step", [1, 17, 65_536, 3 << 20])
@pytest.mark.parametrize("line", [b"data", b"data:xyz"])
def test_an_event_may_be_as_long_as_its_limit_however_short_its_lines(line, step):
    most = EVENT_LIMIT // (LINE_COST + len(line[5:]))
    for count, code in ((most, None), (most + 1, "event_too_long")):
        stream = b"data: a\n\n" + (line + b"\n") * count + b"\n"
        events, found = parse(stream[start : start + step] for start in range(0, len(stream), step))
        assert (len(events), found) == (2 if code is None else 1, code)


LINES = st.sampled_from(
    [
        *(b"data: a", b"data:", b"data", b"data:  b", b"data: \xc3\xa9", b"data: \xe2\x80", b"data: \xf0\x9f\x98\x80"),
        *(
            b"",
            b"",
            b"",
            b": c",
            b":",
            b"id: 1",
            b"id: \0",
            b"retry: 5",
            b"x",
            b"data : x",
            b"Data: x",
            b"\xef\xbb\xbf",
        ),
        *(
            b"event: error",
            b"event:e",
            b"event:  e",
            b"event",
            b"event:",
            b"eventual: x",
            b"datax",
            b"data: [DONE]",
            b"data: \xe2\x80\xa8",
        ),
    ]
)
STREAMS = st.builds(
    lambda bom, pairs, rest: b"\xef\xbb\xbf" * bom + b"".join(line + end for line, end in pairs) + rest,
    st.sampled_from([0, 0, 1, 2]),
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])), max_size=12),
    st.sampled_from([b"", b"", b"data: half", b"\r", b"\xef\xbb"]),
)
CUTS = st.lists(st.integers(0, 120), max_size=8).map(sorted)


def cut_at(stream, cuts):
    return [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def gives_the_events_of_the_rules(stream, cuts):
    assert parse(cut_at(stream, cuts)) == (reference(stream), None)


@settings(max_examples=500)
@given(STREAMS, CUTS)
def test_any_cutting_of_any_stream_gives_the_events_of_the_rules(stream, cuts):
    gives_the_events_of_the_rules(stream, cuts)


@pytest.mark.long
@settings(max_examples=10_000)
@given(STREAMS, CUTS)
def test_ten_thousand_cuttings_give_the_events_of_the_rules(stream, cuts):
    gives_the_events_of_the_rules(stream, cuts)


VALUES = st.sampled_from([row.stream for row in CORPUS if len(row.stream) < 2_000])


@settings(max_examples=500)
@given(VALUES, CUTS, st.lists(st.tuples(st.integers(0, 2_000), st.binary(max_size=3)), max_size=3))
def test_any_cutting_of_any_damaged_answer_gives_the_same_measures(stream, cuts, damage):
    for at, replacement in damage:
        stream = stream[:at] + replacement + stream[at + 1 :]
    wire = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(stream), stream)
    cuts = [each * len(wire) // 120 for each in cuts]
    assert measures(cut_at(wire, cuts)) == measures([wire])


def measures(pieces):
    reader = ResponseReader(stream=True)
    if not any(reader.feed(piece, MS) for piece in pieces if piece):
        reader.feed_eof()
    usage = (reader.prompt_tokens, reader.completion_tokens)
    return reader.verdict(), reader.chunks, reader.finish_reason, usage, reader.done_marker
