"""What no client should send, 5,500 times over real connections: the simulated deployment answers all, and stays as it was.

Hypothesis draws the requests, the same ones each time: well-formed HTTP goes over kept connections, broken HTTP over
one of its own each. A request's answer is waited for PATIENCE_S; what uvicorn itself refuses is HTTP that is broken.
"""

import base64
import io
import json
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from contextlib import closing
from http.client import HTTPResponse
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytestmark = pytest.mark.aside

GROWTH_BYTES = 12 << 20  # at most, once a fifth of the requests has been answered
PATIENCE_S = 5
SWIFT = {
    "ttft_base_ms": 0,
    "ttft_per_prompt_token_ms": 0,
    "ttft_per_running_ms": 0,
    "itl_base_ms": 0,
    "itl_per_running_ms": 0,
    "completion_mean_tokens": 3,
}
SWIFT_BATCHES = {
    "iteration_base_ms": 0,
    "iteration_per_sequence_ms": 0,
    "iteration_exponent": 1,
    "prefill_per_token_ms": 0,
    "prefill_chunk_tokens": 8_192,
    "kv_tokens": 100_000,
    "max_running": 64,
}

CHAT, COMPLETIONS = "/chat/completions", "/completions"
EMBEDDINGS, IMAGES = "/embeddings", "/images/embeddings"
PLACES = ("", "/models", "/v1", "/openai/v1", "/openai/deployments/Phi-3-mini-4k-instruct")

PIXEL = io.BytesIO()
Image.new("RGB", (2, 2), "navy").save(PIXEL, "PNG")
JPEG = io.BytesIO()
Image.new("RGB", (64, 48), "navy").save(JPEG, "JPEG")
DATA_URL = "data:image/png;base64," + base64.b64encode(PIXEL.getvalue()).decode()
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = {"id": "call1", "type": "function", "function": {"name": "find", "arguments": "{}", "call_id": None}}
FULL = {  # every documented field of each body, all of them right
    CHAT: {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}}]},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "{}", "tool_call_id": "call1", "name": "find"},
        ],
        "model": "Phi-3-mini-4k-instruct", "max_tokens": 3, "temperature": 0.5, "top_p": 1, "presence_penalty": 0.1,
        "frequency_penalty": 0.8, "stop": ["<|endoftext|>"], "stream": False, "seed": 7, "response_format": {"type": "text"},
        "tools": [{"type": "function", "function": {"name": "find", "description": "finds", "parameters": PARAMETERS}}],
        "tool_choice": {"type": "function", "function": {"name": "find"}}, "modalities": ["text"],
        "max_completion_tokens": 3, "stream_options": {"include_usage": True}, "n": 1, "logprobs": True, "user": "me",
    },
    COMPLETIONS: {
        "prompt": ["once", "twice"], "model": "m", "max_tokens": 3, "temperature": 1, "top_p": 1, "stream": False, "stop": "x",
        "presence_penalty": 0, "frequency_penalty": 0, "seed": 7, "suffix": "x", "n": 1, "echo": False,
        "stream_options": {"include_usage": True},
    },
    EMBEDDINGS: {"input": ["one", "two"], "model": "m", "dimensions": 64, "encoding_format": "float", "input_type": "query"},
    IMAGES: {"input": [{"image": DATA_URL, "text": "a pixel"}], "model": "m", "dimensions": 64, "encoding_format": "base64", "input_type": "text"},
}  # fmt: skip
HOLE = "@hole@"


def holes(value):
    """The document once for each of its places, with a hole there; the document itself is a place too."""
    yield HOLE
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in places:
        for holed in holes(inner):
            copy = value.copy()
            copy[key] = holed
            yield copy


def least(route, document):
    """What the body cannot do without, and of the rest only what is being tried: else the first refusal hides it."""
    needed = {CHAT: {"messages": [{"role": "user", "content": "hi"}]}, COMPLETIONS: {"prompt": "hi"}}
    return needed.get(route, {"input": ["hi"]}) | {
        key: value for key, value in document.items() if HOLE in json.dumps(value)
    }


HOLED = {
    route: [json.dumps(shape) for document in holes(body) for shape in ([document] if document == HOLE else [document, least(route, document)])]
    for route, body in FULL.items()
}  # fmt: skip
CHATS, VECTORS = (CHAT, COMPLETIONS), (EMBEDDINGS, IMAGES)  # what the two kinds of models answer


# Values that JSON can spell, and some that it cannot.

SPELLINGS = [
    "null", "true", "false", "0", "-0.0", "-1", "0.5", "3", "1e3", "1e400", "-1e400", "1e-400", "9223372036854775808",
    "-9223372036854775809", "18446744073709551616", "1" * 400, "0." + "3" * 400, "NaN", "Infinity", "-Infinity", "0x10", "01", "+1", ".5", "1.",
    '""', '"a"', '"auto"', '"json_object"', '"json_schema"', '"text"', '"image_url"', '"tool"', '"assistant"', '"developer"',
    r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', r'"\u202e"', '"\U0001f600"', '"\t"', '"\n"', r'"\x41"', "'a'", '"' + "x" * 100_000 + '"',
    "[]", "{}", "[[]]", "[null]", "[{}]", '[""]', "[1]", '{"type":null}', '{"type":"text"}', '{"type":"text","text":1}', '{"type":"json_schema","json_schema":1}',
    '{"type":"image_url","image_url":"x"}', '{"url":1}', '{"url":"data:"}', '{"url":"http://127.0.0.1:1/a.png"}', '{"url":"file:///etc/passwd"}',
    '{"type":"input_audio","input_audio":{"data":"","format":"wav"}}', '{"type":"function","function":null}', '{"function":{"name":"nobody"}}',
    "[" * 900 + "]" * 900, "[" * 100_000 + "]" * 100_000, "[" * 50_000, '{"a":' * 900 + "1" + "}" * 900, '{"a":' * 50_000, "undefined", "", ",",
]  # fmt: skip
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
FRAGMENTS = st.sampled_from(SPELLINGS) | TREES.map(json.dumps)  # json spells NaN and Infinity too


@st.composite
def one_wrong_value(draw, routes):
    route = draw(st.sampled_from(routes))
    body = draw(st.sampled_from(HOLED[route])).replace(json.dumps(HOLE), draw(FRAGMENTS))
    if body.startswith("{") and draw(st.integers(0, 9)) == 0:  # a key twice, or one that nobody knows
        key = draw(st.sampled_from(["messages", "prompt", "input", "stream", "max_tokens", "unheard_of", ""]))
        body = f"{{{json.dumps(key)}:{draw(FRAGMENTS)},{body[1:]}"
    if draw(st.integers(0, 3)) == 0:
        body = body.replace('"stream": false', '"stream": true')
    extras = ("extra-parameters", draw(st.sampled_from([b"drop", b"pass-through", b"error"])))
    return post(draw(st.sampled_from(PLACES)) + route, body.encode("utf-8", "surrogatepass"), extras)


@st.composite
def broken_bytes(draw, routes):
    route = draw(st.sampled_from(routes))
    body = json.dumps(FULL[route]).encode()
    at = draw(st.integers(0, len(body)))
    junk = draw(st.binary(max_size=12))
    damage = draw(st.sampled_from(["cut", "insert", "overwrite", "replace", "utf-16", "bom", "twice", "zlib"]))
    damaged = {
        "cut": body[:at],
        "insert": body[:at] + junk + body[at:],
        "overwrite": body[:at] + junk + body[at + len(junk) :],
        "replace": junk,
        "utf-16": body.decode().encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + body,
        "twice": body + body,
        "zlib": zlib.compress(body),
    }[damage]
    return post(draw(st.sampled_from(PLACES)) + route, damaged)


def png(width_px, height_px):
    """A PNG that claims this size, and has no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


HEADS = ["data:image/jpeg;base64", "data:image/jpg;base64", "data:image/png;base64", "data:image/gif;base64", "data:;base64", "data:image/png",
         "DATA:IMAGE/PNG;BASE64", "data:image/png;charset=x;base64", "data:text/html;base64", "http://127.0.0.1:1/", "image/png;base64", ""]  # fmt: skip
CONTENTS = [b"", b"x", PIXEL.getvalue(), JPEG.getvalue(), png(0, 0), png(1, 0), png(2**31 - 1, 2**31 - 1), png(65_535, 65_535), png(2**32 - 1, 1),
            b"GIF89a\1\0\1\0\0\0\0;", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\0\1\1\x11\0", b"BM" + b"\0" * 60, b"<svg/>", b"II*\0" + b"\0" * 50]  # fmt: skip


@st.composite
def broken_image(draw, routes):
    content = draw(st.sampled_from(CONTENTS) | st.binary(max_size=40))
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    data = base64.b64encode(content).decode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(["=", " ", "\n", "%", "é", "-", "\x00", "===", ","])) + data[at:]
    url = draw(st.sampled_from(HEADS)) + draw(st.sampled_from([",", ",", ",", ";", ",,", ""])) + data
    route = CHAT if CHAT in routes else IMAGES
    body = {"input": [{"image": url}]}
    if route == CHAT:
        part = {"type": "image_url", "image_url": {"url": url}}
        body = {"messages": [{"role": "user", "content": [part] * draw(st.integers(1, 3))}]}
    return post(draw(st.sampled_from(PLACES)) + route, json.dumps(body).encode())


# Well-formed HTTP that asks for odd things.

GOOD = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "M-SEARCH", "PURGE"]
PATHS = ["/", "//", "/info", "/info/", "/INFO", "/v1/models", "/v1/models/x", "/models/info", "/chat/completions/", "/chat//completions", "/%63hat/completions",
         "/../info", "/info%00", "/%ff%fe", "/%", "/%zz", "/openai/deployments//chat/completions", "/openai/deployments/a%2Fb/chat/completions", "/score",
         "/openai/deployments/%F0%9F%98%80/completions", "/" + "a" * 8_000, "/" + "a/" * 2_000, "/info;x=1", "/info#x", "*", "http://else.where/info", "/++/faults",
         "/simulator", "/simulator/", "/simulator/instances/0/kill", *(f"/simulator/instances/{number}/kill" for number in ("", "7", "-1", "x", "%C2%B2", "9" * 5_000, "0/0"))]  # fmt: skip
QUERIES = ["", "?", "?api-version=2024-05-01-preview", "?api-version=", "?api-version=%ff", "?api-version=1&api-version=2", "?&&==", "?" + "a=b&" * 1_000,
           "?api-version=../../etc/passwd", "?%00", "?a[]=1", "???"]  # fmt: skip
VALUES = [b"", b" ", b"0", b"-1", b"1", b"3", b"1.5", b"1e3", b"9" * 30, b"\xb2", b"\xd9\xa3", b"\xff\xfe", b"true", b"null", b"\t1", b"1,2", b"a" * 10_000,
          b"pass-through", b"drop", b"ignore", b"error", b"PASS-THROUGH", b"Bearer", b"Bearer x", b"Basic eDp5", b"application/json; charset=utf-16", b"text/event-stream", b"gzip"]  # fmt: skip
NAMES = ["x-headroom-completion-tokens", "extra-parameters", "authorization", "api-key", "content-type", "accept", "content-encoding", "azureml-model-deployment",
         "x-ms-model-mesh-model-name", "x-ms-client-request-id", "x-request-id", "x-ms-useragent", "host", "user-agent", "accept-encoding", "cookie", "te", "range"]  # fmt: skip


@st.composite
def odd_http(draw, routes):
    header = (
        draw(st.sampled_from(NAMES)),
        draw(st.sampled_from(VALUES) | st.text("aZ09 -=;,./é", max_size=12).map(lambda text: text.encode("latin-1"))),
    )
    route = draw(st.sampled_from(routes))
    kind = draw(st.sampled_from(["header", "header", "path", "query", "method"]))
    if kind == "header":
        return post(draw(st.sampled_from(PLACES)) + route, GOOD, *[header] * draw(st.integers(1, 2)))
    if kind == "query":
        return post(route + draw(st.sampled_from(QUERIES)), GOOD)
    method, path = draw(st.sampled_from(METHODS)), draw(st.sampled_from([*PATHS, *FULL]))
    return request(method, path + draw(st.sampled_from(QUERIES)), draw(st.sampled_from([b"", GOOD])))


# Well-formed HTTP that asks for much.

CONSTANTS = [
    {"const": "x" * 20_000},
    {"enum": [{"a": [1] * 5_000}]},
    {"type": "string", "minLength": 1e9},
    {"type": "array", "minItems": 1e9},
]
WRAPPERS = [
    lambda schema: {"type": "array", "minItems": 16, "items": schema},
    lambda schema: {"type": "array", "items": schema},
    lambda schema: {"anyOf": [schema]},
    lambda schema: {"type": "object", "properties": {f"p{n}": schema for n in range(4)}},
    lambda schema: {"type": "object", "properties": {"a": schema}, "required": ["a", *map(str, range(50))]},
]


@st.composite
def much(draw, routes):
    route = draw(st.sampled_from(routes))
    what = draw(st.sampled_from(["schema", "stops", "headers"]))
    if what == "headers":
        size = draw(st.sampled_from([100, 30_000, 60_000, 70_000, 80_000])) + draw(st.integers(0, 5_000))
        one = draw(st.sampled_from([("x", b"y"), ("cookie", b"z" * 1_000), ("w", b"v" * size)]))
        return post(route, GOOD, *[one] * -(-size // len(b"%b: %b\r\n" % (one[0].encode(), one[1]))))
    asked = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
    body = {field: asked[field] for field in asked.keys() & FULL[route].keys()}
    if what == "stops":
        stop = draw(st.sampled_from(["x", " ", "", 1, "y" * 50]))
        stops = draw(st.sampled_from([1, 16, 17, 100])) * draw(st.integers(0, 100)) * [stop]
        return post(draw(st.sampled_from(PLACES)) + route, json.dumps(body | {"stop": stops}).encode())
    schema = {"type": "object", "properties": {"a": draw(st.sampled_from(CONSTANTS))}}
    for wrap in draw(st.lists(st.sampled_from([*WRAPPERS, WRAPPERS[0]]), min_size=2, max_size=5)):
        schema = wrap(schema)
    tools = {"tools": [{"type": "function", "function": {"name": "find", "parameters": schema}}]}
    shape = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    return post(route, json.dumps(body | draw(st.sampled_from([tools, shape]))).encode())


def request(method, target, body=b"", *headers):
    lines = [f"{method} {target} HTTP/1.1".encode(), b"host: simulator", b"content-length: %d" % len(body)]
    lines += [name.encode() + b": " + value for name, value in headers]
    return SimpleNamespace(method=method, raw=b"\r\n".join(lines) + b"\r\n\r\n" + body, broken=False)


def post(target, body, *headers):
    return request("POST", target, body, ("content-type", b"application/json"), *headers)


# Broken HTTP. Where an end is missing the client closes its side.

HEAD = b"POST /chat/completions HTTP/1.1\r\nhost: x\r\n"
BROKEN = [
    b"", b"\r\n" * 100, b"\0" * 100, b"GET", b"GET /info", b"GET /info\r\n\r\n", b"GET /info HTTP/0.9\r\n\r\n", b"GET /info HTTP/9.9\r\n\r\n", b"GET  /info HTTP/1.1\r\n\r\n",
    b"GET /inf\xf6 HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /a b HTTP/1.1\r\n\r\n", b"get /info HTTP/1.1\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /info HTTP/1.1\nhost: x\n\n", b"GET http:// HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /info HTTP/1.1\r\n: x\r\n\r\n", b"GET /info HTTP/1.1\r\n folded\r\n\r\n",
    b"GET /info HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", b"GET /info HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: \r\n\r\n",
    b"GET /info HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET /info HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
    *(HEAD + b"content-length: " + length + b"\r\n\r\n" + GOOD for length in (b"-1", b"abc", b"1e3", b"+5", b"0x10", b"9" * 30, b"9" * 19, b"17000000", b"5", b"500", b"", b" ", b"5, 5", b"\xb2")),
    HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n" + GOOD, HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", HEAD + b"transfer-encoding: gzip\r\n\r\n" + GOOD,
    *(HEAD + b"transfer-encoding: chunked\r\n\r\n" + rest for rest in (b"", b"zz\r\n", b"-1\r\n", b"5\r\nab", b"2\r\nabcd\r\n0\r\n\r\n", b"f" * 20 + b"\r\n", b"1;" + b"x" * 100_000, b"0\r\nx: y\r\n\r\n", b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n", b"\r\n")),
    HEAD + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n", HEAD + b"expect: nonsense\r\ncontent-length: 2\r\n\r\n{}",
]  # fmt: skip


@st.composite
def broken_http(draw, _):
    raw = draw(st.sampled_from(BROKEN))
    follows = draw(st.sampled_from([b"", b"", b"GET /info HTTP/1.1\r\nhost: x\r\n\r\n", b"garbage\r\n\r\n"]))
    return SimpleNamespace(method="", raw=raw + follows + draw(st.binary(max_size=20)), broken=True)


ATTACKS = {
    one_wrong_value: 0.55,
    broken_bytes: 0.09,
    broken_image: 0.09,
    odd_http: 0.15,
    much: 0.06,
    broken_http: 0.06,
}  # shares
QUOTA = ["--tpm", "1000000000", "--rpm", "100000000"]
# A model that is in no table can do all that a chat model can, so that no refusal hides another.
ALL_ROUND = ["--model", "all-round", "--context-tokens", "8192"]
MANAGED = [
    "--kind",
    "managed",
    "--boot-s",
    "0",
    "--bandwidth-bytes-per-s",
    "1000000000",
]  # who is killed is back at once
TARGETS = {
    "chat": ([*ALL_ROUND, *QUOTA], SWIFT, CHATS, 3_500),
    "embeddings": (["--model", "Cohere-embed-v3-english", *QUOTA], SWIFT, VECTORS, 1_500),
    "managed": ([*ALL_ROUND, *MANAGED], SWIFT_BATCHES, CHATS, 500),
}


class Target:
    """The simulator under attack: one process, its standard error in a file, and a kept connection to it."""

    def __init__(self, folder, flags, serving):
        parameters = [word for name, value in serving.items() for word in ("--serving", f"{name}={value}")]
        self.complaints = folder / "stderr"
        with self.complaints.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loadgen.simulator", "--port", "0", "--until-eof", *flags, *parameters],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
            )  # fmt: skip
        self.url = json.loads(self.process.stdout.readline())["url"]
        self.port = int(self.url.rpartition(":")[2])
        self._kept = None
        self.statuses = set()

    def close(self):
        if self.process.returncode is None:
            self.end()

    def end(self):
        """The exit code; what it complained of is in `complaints` now."""
        self._forget()
        self.process.stdin.close()
        try:
            return self.process.wait(2 * PATIENCE_S)
        finally:
            self.process.kill()
            self.process.stdout.close()

    def resident_bytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10

    def suffer(self, sent):
        """Raises AssertionError unless the request is answered in time, and as the API documents it."""
        if sent.broken:
            check_broken(self._exchange_broken(sent.raw))
            return
        try:
            answered = self.exchange(sent)
            self.statuses.add(answered[1])
            check_answer(*answered)
        except BaseException:
            self._forget()
            raise

    def exchange(self, sent):
        fresh = self._kept is None
        connection = self._kept = self._kept or socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        try:
            connection.sendall(sent.raw)
            answer = HTTPResponse(connection, method=sent.method)
            answer.begin()
        except (ConnectionError, OSError) as error:
            assert not isinstance(error, TimeoutError), "no answer in time"
            assert not fresh, f"closed without an answer: {error!r}"
            self._forget()  # the answer before this one closed the connection
            return self.exchange(sent)
        with answer:
            body = answer.read()
            headers = {name.lower(): value for name, value in answer.getheaders()}
        if answer.will_close:
            self._forget()
        return sent.method, answer.status, headers, body

    def _exchange_broken(self, raw):
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            received = []
            try:
                connection.sendall(raw)
                connection.settimeout(0.01)  # what is answered at all is answered by now, or when the end has come
                while piece := connection.recv(65_536):
                    received.append(piece)
                return b"".join(received)
            except TimeoutError:
                connection.settimeout(PATIENCE_S)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65_536):  # a TimeoutError here is a hang
                    received.append(piece)
            except ConnectionError:  # closed while we were still sending
                pass
            return b"".join(received)

    def _forget(self):
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def check_answer(method, status, headers, body):
    assert status in (200, 400, 401, 404, 405, 413, 415, 422, 429, 431), status
    if method == "HEAD":
        assert body == b""
    elif status == 200 and headers["content-type"] == "text/event-stream":
        assert body.endswith(b"data: [DONE]\n\n")
    else:
        assert headers["content-type"] == "application/json"
        parsed = json.loads(body, parse_constant=pytest.fail)
        assert status == 200 or is_documented(status, parsed), parsed
    assert status == 200 or headers["x-ms-error-code"]


def is_documented(status, body):
    """Whether an error has one of the layouts that the API reference shows."""
    match body:
        case {"error": str(), "message": str(), "status": given}:
            return given == status
        case {"error": {"code": str(), "message": str(), **rest}}:
            return rest.get("status", status) == status
        case {"status": given, "code": str(), "message": str(), "detail": {"loc": [*_], "input": _}}:
            return given == status == 422
        case {"status": given, "code": str(), "message": str(), "param": _}:
            return given == status
    return False


def check_broken(received):
    statuses = [int(status) for status in re.findall(rb"(?:^|\n|\}|\.)HTTP/1\.1 (\d{3}) ", received)]
    assert bool(statuses) == bool(received), received
    assert all(status < 500 for status in statuses), received


@pytest.fixture
def slow(tmp_path):
    with closing(Target(tmp_path, QUOTA, SWIFT | {"ttft_base_ms": 200})) as attacked:
        yield attacked


@pytest.mark.parametrize("share_of", [pytest.param(1, marks=pytest.mark.long), 3], ids=["all", "a third"])
@pytest.mark.parametrize("attacked", TARGETS.values(), ids=TARGETS)
def test_malformed_requests_are_refused_as_documented_and_leave_no_trace(tmp_path, attacked, share_of):
    flags, serving, routes, requests = attacked
    requests //= share_of
    numbers, resident_bytes = count(1), {}

    def attack(sent):
        if next(numbers) == requests // 5:
            resident_bytes["settled"] = target.resident_bytes()
        target.suffer(sent)

    with closing(Target(tmp_path, flags, serving)) as target:
        for strategy, share in ATTACKS.items():
            repeat = settings(
                max_examples=round(requests * share),
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            repeat(given(strategy(routes))(attack))()
        assert next(numbers) > requests
        assert target.statuses >= {200, 400, 404, 405, 422, 431}  # else they have been malformed all in one way
        assert target.resident_bytes() - resident_bytes["settled"] < GROWTH_BYTES
        _, status, _, body = target.exchange(post(routes[0], json.dumps(least(routes[0], {})).encode()))
        assert status == 200
        assert json.loads(body)["usage"]["prompt_tokens"] >= 1
        assert target.end() == 0
        assert "Traceback" not in target.complaints.read_text()


def test_a_client_that_leaves_two_pipelined_requests_behind_leaves_no_traceback(slow):
    with socket.create_connection(("127.0.0.1", slow.port), PATIENCE_S) as connection:
        connection.sendall(post(CHAT, GOOD).raw * 2)
        time.sleep(0.02)  # both have been read, and neither is answered
    slow.suffer(post(CHAT, GOOD))  # it is due after the two that were left
    assert slow.end() == 0
    assert "Traceback" not in slow.complaints.read_text()
