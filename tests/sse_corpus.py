"""Sixty-four streams, each with what must come out of it: the ways servers write events, end them, fail and attack.

`httpx_sse` and `openai` say why those clients read a stream differently; where they are empty, they must agree.
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass

from loadgen.samples import Outcome

USAGE = {"prompt_tokens": 19, "completion_tokens": 2, "total_tokens": 21}
OK = (Outcome.OK, None)
FILTERED = (Outcome.FILTERED, "content_filter")
# Why another client reads a stream differently.
NO_END = "does not notice that the end is missing"
NO_BOM = "keeps the BOM, and so loses the first line"
EMPTY_EVENTS = "makes an event of an id or a retry time alone"
INFLATES = "asks for gzip, and inflates it"
ANY_TYPE = "reads any content type as events"
NO_LIMIT = "has no bounds"


def broken(code):
    return Outcome.BROKEN_STREAM, code


@dataclass(frozen=True)
class Row:
    says: str
    stream: bytes
    verdict: tuple[Outcome, str | None] = OK
    chunks: int = 2  # that carry content
    text: str = "ab"
    usage: tuple[int | None, int | None] = (19, 2)
    finish: str | None = "stop"
    events: int | None = None  # as many as there are data fields, where not given
    ends: bool = True  # False: it goes on until somebody cuts it
    cut: bool = False  # the connection ends before the body does
    content_type: str = "text/event-stream"
    encoding: str = ""
    httpx_sse: str = ""
    openai: str = ""


def data(value, end=b"\n"):
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()) + end


def frames(*values, end=b"\n"):
    return b"".join(data(value, end) + end for value in values)


def delta(finish_reason=None, index=0, **content):
    return {"choices": [{"index": index, "delta": content, "finish_reason": finish_reason}]}


def says(text, **more):
    return {**delta(content=text), **more}


A, B = says("a"), says("b")
ROLE = delta(role="assistant", content="")
STOP = {**delta("stop", content=""), "usage": USAGE}
DONE = b"[DONE]"
GOOD = frames(A, B, STOP, DONE)
CRLF = b"\r\n"


def in_pieces(text: str, pieces: Iterable[int]) -> list[dict]:
    """One chunk for each run of so many characters."""
    runs, start = [], 0
    for length in pieces:
        runs.append(says(text[start : start + length]))
        start += length
    return runs


FRAMING = [
    Row("lines end in LF", GOOD),
    Row("lines end in CR", frames(A, B, STOP, DONE, end=b"\r")),
    Row("lines end in CRLF", frames(A, B, STOP, DONE, end=CRLF)),
    Row(
        "line ends are mixed, within an event too",
        data(A, CRLF) + b"\n" + data(B, b"\r") + CRLF + data(STOP) + b"\r" + frames(DONE),
    ),
    Row(
        "an LF that comes after its CR is no blank line",
        b"data: " + json.dumps(A).encode()[:11] + b"\r\ndata: " + json.dumps(A).encode()[11:] + CRLF * 2
        + frames(B, STOP, DONE, end=CRLF),
        events=4,
    ),
    Row("a BOM may begin the stream", b"\xef\xbb\xbf" + GOOD, httpx_sse=NO_BOM, openai=NO_BOM),
    Row(
        "a second BOM is a part of the first field's name, and so of no field",
        b"\xef\xbb\xbf\xef\xbb\xbf" + frames(A, B, STOP, DONE), chunks=1, text="b", events=3,
    ),
    Row("comments keep the connection alive", b": ping\n\n" + frames(A) + b":\n:\n\n" + frames(B) + b":\n" + frames(STOP, DONE)),
    Row("the space after the colon may be missing", GOOD.replace(b"data: ", b"data:")),
    Row("only the first space after the colon goes", frames(A, b" " + json.dumps(B).encode(), STOP, DONE)),
    Row(
        "a line without a colon is a field's name alone, and most names mean nothing",
        b"database: x\nevent\nid\n" + data(A) + b"data\n\n" + frames(B, STOP, DONE), events=4,
    ),
    Row(
        "an event whose data is empty is an event, and no JSON",
        frames(A) + b"data:\n\n" + frames(B, STOP, DONE), broken("malformed_event"), chunks=1, text="a", usage=(None, None), finish=None, events=5,
    ),
    Row(
        "the data lines of an event are joined by LF",
        frames(A) + b"".join(data(line.encode()) for line in json.dumps({**B, "usage": None}, indent=1).splitlines()) + b"\n" + frames(STOP, DONE),
        events=4,
    ),
    Row(
        "ids, with a NUL too, and retry times mean nothing here, and alone they make no event",
        b"id: a\0b\nretry: 5\n" + frames(A) + b"id: 7\n\nretry: soon\n\n" + frames(B, STOP, DONE),
        events=4,
        httpx_sse=EMPTY_EVENTS,
        openai=EMPTY_EVENTS,
    ),
]  # fmt: skip
ZWJ = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
ENCODING = [
    Row("characters of two bytes", frames(*in_pieces("é\u00df\u07ff", [1, 2]), STOP, DONE), text="é\u00df\u07ff"),
    Row("characters of three bytes", frames(*in_pieces("日本語\uffee", [3, 1]), STOP, DONE), text="日本語\uffee"),
    Row("characters of four bytes", frames(*in_pieces("\U0001f600\U0010fffd", [1, 1]), STOP, DONE), text="\U0001f600\U0010fffd"),
    Row(
        "a byte that is no UTF-8 becomes U+FFFD, and the stream goes on",
        frames(json.dumps(A).encode().replace(b'"a"', b'"\xff"'), B, STOP, DONE), text="\ufffdb", openai="raises on bytes that are no UTF-8",
    ),
    Row("U+2028, U+2029 and U+0085 end no line", frames(says("\u2028\u0085"), says("\u2029"), STOP, DONE), text="\u2028\u0085\u2029"),
    Row(
        "an emoji of five code points, cut between them and, as half an escape, within one",
        frames(*in_pieces(ZWJ, [2, 3]), b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}', STOP, DONE),
        chunks=3, text=ZWJ + "\ud83d",
    ),
]  # fmt: skip
END = [
    Row("[DONE] ends a stream, whose finish reason may be missing", frames(A, B, {"choices": [], "usage": USAGE}, DONE), finish=None),
    Row(
        "[DONE] with spaces around it ends it too",
        frames(A, B, STOP, b" [DONE] ", b"{never read"), events=5, openai="knows [DONE] only at the start of the data, and raises",
    ),
    Row("a finish reason without [DONE] is an end", frames(A, B, STOP)),
    Row("neither is none", frames(A, B), broken("truncated"), usage=(None, None), finish=None, openai=NO_END),
    Row(
        "what follows [DONE] does not count",
        GOOD + frames(says("c"), {**delta("length"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, {"error": {"code": "500"}}, b"{broken"),
        events=8,
    ),
    Row(
        "half an event, and the connection ends",
        frames(A) + data(B)[:40], broken("cut"), chunks=1, text="a", usage=(None, None), finish=None, events=1, cut=True,
    ),
    Row(
        "half an event, and nothing more: the reader waits until the attempt is cut",
        frames(A) + data(B)[:40], broken("truncated"), chunks=1, text="a", usage=(None, None), finish=None, events=1, ends=False,
    ),
    Row(
        "comments for ever: so does it",
        frames(A) + b": ping\n\n" * 500, broken("truncated"), chunks=1, text="a", usage=(None, None), finish=None, ends=False,
    ),
]  # fmt: skip
SAFE = {"hate": {"filtered": False, "severity": "safe"}}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}
SHAPES = [
    Row("the role-only chunk carries nothing", frames(ROLE, A, B, STOP, DONE)),
    Row("nor does the filter's verdict on the prompt", frames({"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}]}, A, B, STOP, DONE)),
    Row("usage may have a chunk of its own", frames(A, B, delta("stop"), {"choices": [], "usage": USAGE}, DONE)),
    Row("and be null in all others", frames({**A, "usage": None}, {**B, "usage": None}, STOP, {"choices": [], "usage": None}, DONE)),
    Row(
        "the asynchronous filter's chunks have no delta, or none that is one",
        frames(
            A, {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 44, "start_offset": 44, "end_offset": 198}, "content_filter_results": SAFE}]},
            {"choices": [{"index": 0, "delta": None, "finish_reason": None}]}, B, STOP, DONE,
        ),
    ),
    Row("null content is none", frames(delta(role="assistant", content=None), A, delta(), B, STOP, DONE)),
    Row(
        "the pieces of a tool call carry content, its empty list does not",
        frames(
            ROLE, delta(content=None, tool_calls=[]), delta(tool_calls=[CALL]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city":"Oslo"}'}}]), {**delta("tool_calls"), "usage": USAGE}, DONE,
        ),
        text="", finish="tool_calls",
    ),
    Row(
        "of two choices each event counts once",
        frames(A, {"choices": [delta(content="b")["choices"][0], delta(index=1, content="z")["choices"][0]]}, delta("stop"), {**delta("stop", index=1), "usage": USAGE}, DONE),
    ),
    Row("reasoning is content, by either name", frames(ROLE, delta(reasoning_content="hm"), delta(reasoning="so"), A, STOP, DONE), chunks=3, text="a"),
    Row("a filtered completion is no success", frames(A, B, {**delta("content_filter"), "usage": USAGE}, DONE), FILTERED, finish="content_filter"),
    Row("one that is cut at max_tokens is", frames(A, B, {**delta("length"), "usage": USAGE}, DONE), finish="length"),
    Row(
        "a finish reason that is repeated, empty or followed by another changes nothing about a filtered choice",
        frames({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": ""}]}, B, delta("content_filter"), delta("content_filter"), {**delta("stop", index=1), "usage": USAGE}, DONE),
        FILTERED, finish="content_filter", openai="reports each reason, and the last is another",
    ),
    Row("choices may come out of order", frames(delta(index=3, content="z"), A, delta(index=1, content="y"), B, STOP, DONE), chunks=4),
    Row("the model's name may change on the way", frames({**A, "model": "x-1"}, {**B, "model": "x-2", "id": "other"}, STOP, DONE)),
]  # fmt: skip
NOTHING = {"chunks": 0, "text": "", "usage": (None, None), "finish": None}
FIRST = {"chunks": 1, "text": "a", "usage": (None, None), "finish": None}
JSON_TYPE = "application/json; charset=utf-8"
LATE = {"error": {"code": "429", "message": "Rate limit is exceeded. Try again in 50 seconds."}}
ERRORS = [
    Row(
        "an event named error is an error, whatever its data",
        frames(A) + b"event: error\n" + frames({"message": "overloaded", "choices": None}) + frames(DONE), broken("error_in_stream: overloaded"), **FIRST,
        openai="takes an event named error for a chunk like any other",
    ),
    Row("an error instead of a chunk is one", frames(A, {"error": {"message": "worker died", "type": "internal"}}, STOP, DONE), broken("error_in_stream: internal"), **FIRST),
    Row("JSON, and then the gateway's HTML", frames(A) + b"<html>\n<h1>502 Bad Gateway</h1>\n</html>\n\n", broken("truncated"), **FIRST, openai=NO_END),
    Row(
        "a JSON error for a stream is named", json.dumps({"error": {"code": "ServiceBusy", "message": "later"}}).encode(), broken("error_in_answer: ServiceBusy"), **NOTHING,
        content_type=JSON_TYPE, openai=NO_END, events=0,
    ),
    Row("a 429 inside a 200 is named", frames(LATE, DONE), broken("error_in_stream: 429"), **NOTHING),
    Row("an empty body is no stream", b"", broken("empty_body"), **NOTHING, openai=NO_END),
    Row("a stream of another type is none", GOOD, broken("not_an_event_stream: text/plain"), **NOTHING, content_type="text/plain; charset=utf-8", events=4, openai=ANY_TYPE),
    Row("null is no chunk", frames(A, b"null", B, STOP, DONE), broken("malformed_event"), **FIRST),
]  # fmt: skip
DEEP = b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HOSTILE = [
    Row("a line without end", frames(A) + b"data: " + b"x" * (3 << 19), broken("line_too_long"), **FIRST, events=1, openai=NO_LIMIT),
    Row("events without number", frames(*[A] * 3_000, STOP, DONE), chunks=3_000, text="a" * 3_000),
    Row("an event a minute, between comments", frames(A) + b": still here\n" * 60 + frames(B) + b": still here\n" * 60 + frames(STOP, DONE)),
    Row("arrays in arrays, a hundred thousand deep", frames(A, DEEP, STOP, DONE), broken("malformed_event"), **FIRST, events=4),
    Row("the last of two equal keys counts", frames(A, b'{"choices":[],"choices":[{"index":0,"delta":{"content":"z","content":"b"}}]}', STOP, DONE)),
    Row("numbers beyond all numbers", frames(A, b'{"choices":[{"index":0,"delta":{"content":"b"},"logprobs":[1e999,-Infinity,NaN]}]}', STOP, DONE)),
    Row("comments without number", frames(A) + b":\n" * 20_000 + frames(B, STOP, DONE)),
    Row("a thousand fields that mean nothing", b"x-y: z\n" * 1_000 + GOOD),
    Row("a body that inflates to a hundred times its size", gzip.compress(GOOD * 2_000, mtime=0), broken("compressed_unasked"), **NOTHING, encoding="gzip", events=0, openai=INFLATES, httpx_sse=INFLATES),
    Row("compressed, and cut", gzip.compress(GOOD, mtime=0)[:60], broken("compressed_unasked"), **NOTHING, encoding="GZIP", events=0, openai=NO_END),
    Row("negative usage is not believed", frames(A, B, {**delta("stop"), "usage": {"prompt_tokens": -1, "completion_tokens": -2}}, DONE), usage=(None, None), openai="believes any usage"),
    Row("nor is usage beyond all quotas", frames(A, B, {**delta("stop"), "usage": {"prompt_tokens": 10**12, "completion_tokens": 2}}, DONE), usage=(None, 2), openai="believes any usage"),
    Row("control characters are text", frames(says("\x1b[31m\x00"), says("\x7f"), STOP, DONE), text="\x1b[31m\x00\x7f"),
    Row("so is the end of a script", frames(says("</script>"), says("<!--"), STOP, DONE), text="</script><!--"),
]  # fmt: skip
CLASSES = {
    "framing": (FRAMING, 14),
    "encoding": (ENCODING, 6),
    "end": (END, 8),
    "shapes": (SHAPES, 14),
    "errors": (ERRORS, 8),
    "hostile": (HOSTILE, 14),
}
CORPUS = [row for rows, _ in CLASSES.values() for row in rows]
