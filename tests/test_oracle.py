"""Five hundred seeded requests through httpx and through the engine: both must read the same answers.

Half are answered by the simulated deployment, half by a server that uses every liberty that HTTP and event streams
leave it. httpx has read each body to its end before anything is looked at, so it shares no parser with the engine.
"""

import asyncio
import json
import re
import time
from collections import Counter
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace

import gevent
import httpx
import orjson
import pytest
from gevent import monkey

from loadgen.config import Dialect, TargetConfig, TimeoutConfig
from loadgen.connection import Connection
from loadgen.endpoint import Endpoint
from loadgen.requests import RequestSpec, Route
from loadgen.samples import Sample
from loadgen.target import address_of
from loadgen.wire import ResponseReader
from tests.faults import LoopbackServer
from tests.simulators import FAST, simulated

assert not monkey.is_module_patched("socket"), "httpx and the servers here run on real threads"
SEED = 20_260_512
REQUESTS = 250  # of each half
PATIENCE_S = 10
SIMULATOR = ("--seed", "11", "--tpm", "1000000000", "--rpm", "1000000")
ALPHABETS = (
    "the quick brown fox ", "Größe naïve Æther ", "東京都の天気は晴れ。", "👩‍👩‍👧‍👦🇩🇪🙂", '"\\\n\r\t\b/{}[]:,', "\u2028\u2029\u0085\x00\x7f",
)  # fmt: skip


class Keeping(ResponseReader):
    """A reader that keeps what it reads: the engine itself keeps no text."""

    def __init__(self, *, stream):
        self.pieces, self.seen = [], []
        super().__init__(stream=stream)

    def on_body(self, piece):
        self.pieces.append(piece)
        super().on_body(piece)

    def _read_event(self, event):
        self.seen.append(bytes(event))
        super()._read_event(event)


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    monkeypatch.setattr("loadgen.connection.ResponseReader", Keeping)


def said(part):
    """The text of a message or a delta, and the arguments of its tool calls."""
    calls = part.get("tool_calls") or []
    return (part.get("content") or "") + "".join(call["function"].get("arguments") or "" for call in calls)


def read_chunks(chunks):
    """The texts of a stream's deltas, usage and finish reason."""
    texts, usage, reason = [], None, None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            texts.append(said(choice.get("delta") or {}))
            reason = choice.get("finish_reason") or reason
    return [text for text in texts if text], usage, reason


def read_whole(answer):
    choice = answer["choices"][0]
    return said(choice["message"]), answer.get("usage"), choice["finish_reason"]


def counted(usage):
    return (usage or {}).get("prompt_tokens"), (usage or {}).get("completion_tokens")


def outcome_of(status, code, reason):
    if "content_filter" in (code, reason):
        return "filtered"
    known = {200: "ok", 429: "throttled"}
    return known.get(status) or ("rejected" if status < 500 else "server_error")


def by_httpx(client, path, spec, request_id):
    """Status, text, usage, finish reason and outcome as httpx and a plain reading of the whole body have them."""
    headers = {"content-type": "application/json", "x-ms-client-request-id": request_id}
    if spec.completion_tokens is not None:
        headers["x-headroom-completion-tokens"] = str(spec.completion_tokens)
    answer = client.post(path, content=spec.body, headers=headers)
    text, usage, reason, code = "", None, None, None
    if answer.status_code != 200:
        text = answer.content
        code = answer.json()["error"]["code"] if b'"content_filter"' in answer.content else None
    elif spec.stream:
        events = re.sub(r"\r\n|\r", "\n", answer.content.decode("utf-8-sig")).split("\n\n")
        data = ["\n".join(re.findall(r"^data: ?(.*)$", event, re.MULTILINE)) for event in events if event]
        assert data.pop() == "[DONE]"
        text, usage, reason = read_chunks(map(json.loads, data))
    else:
        text, usage, reason = read_whole(answer.json())
    return answer.status_code, text, counted(usage), reason, outcome_of(answer.status_code, code, reason)


def by_engine(connection, spec, number):
    """The same from the row, but for the text, which the row does not hold."""
    sample = Sample(seq=number, scenario="s", target="t", due_ns=0)
    with gevent.Timeout(PATIENCE_S):
        reader = connection.attempt(spec, sample, f"oracle-{number}-0")
    if sample.status != 200:
        text = b"".join(reader.pieces)
    elif spec.stream:
        text, _, _ = read_chunks(orjson.loads(event) for event in reader.seen if event != b"[DONE]")
    else:
        text, _, _ = read_whole(orjson.loads(b"".join(reader.pieces)))
    assert sample.chunks == (len(text) if spec.stream and sample.status == 200 else 0)
    usage = sample.prompt_tokens, sample.completion_tokens
    return sample.status, text, usage, sample.finish_reason, sample.outcome


@contextmanager
def connection_to(url, dialect=Dialect.AZURE):
    target = TargetConfig(url=url, dialect=dialect)
    endpoint = Endpoint(address_of(url), target, TimeoutConfig(total=PATIENCE_S), None, time.monotonic_ns())
    connection = Connection(endpoint)
    yield SimpleNamespace(attempt=connection.attempt, path=endpoint.address.path_of(Route.CHAT, target))
    connection.close()
    endpoint.close()


def words(random, longest):
    return "".join(random.choice(random.choice(ALPHABETS)) for _ in range(random.randint(0, longest)))


def spec_of(body, *, stream, completion_tokens=None):
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return RequestSpec(
        scenario="s", body=raw, stream=stream, prompt_tokens=1, max_tokens=1, completion_tokens=completion_tokens
    )


# The simulated deployment


def asked(random, dialect):
    """A request of a kind that the deployment answers, refuses or throttles."""
    stream = random.random() < 0.5
    body = {"messages": [{"role": "user", "content": words(random, 300)}], "max_tokens": random.randint(0, 60)}
    if stream:
        body["stream"] = True
        if dialect is Dialect.OPENAI:
            body["model"], body["stream_options"] = "phi", {"include_usage": random.random() < 0.7}
    kind = random.choices(["fine", "broken", "wrong", "long", "greedy"], [80, 5, 5, 5, 5])[0]
    if kind == "broken":
        return spec_of(b'{"messages": [', stream=stream)
    if kind == "wrong":
        body["temperature"] = 9
    elif kind == "long":
        body["messages"][0]["content"] = "x" * 40_000
    elif kind == "greedy":
        body["max_tokens"] = 2_000_000_000
    return spec_of(body, stream=stream, completion_tokens=random.randint(1, 40))


def test_httpx_and_the_engine_read_the_same_from_the_simulated_deployment():
    """Two deployments of one seed give the same answers to the same requests in the same order."""
    seen, random = Counter(), Random(SEED)
    with (
        simulated(*SIMULATOR, serving=FAST) as one,
        simulated(*SIMULATOR, serving=FAST) as other,
        connection_to(other.url) as azure,
        connection_to(other.url, Dialect.OPENAI) as openai,
    ):
        for number in range(REQUESTS):
            dialect, connection = random.choice([(Dialect.AZURE, azure), (Dialect.OPENAI, openai)])
            spec = asked(random, dialect)
            expected = by_httpx(one.client, connection.path, spec, f"oracle-{number}-0")
            assert by_engine(connection, spec, number) == expected, spec
            seen[expected[0], spec.stream] += 1
            seen[expected[3]] += 1
    assert {kind for kind in seen if isinstance(kind, tuple)} == {
        (status, stream) for status in (200, 400, 422, 429) for stream in (True, False)
    }
    assert seen["stop"] > 20 and seen["length"] > 20


# A server that takes liberties

REFUSALS = [
    ("400 Bad Request", {"error": {"code": "content_filter", "message": "The prompt was filtered.", "status": 400}}),
    ("401 Unauthorized", {"error": "unauthorized", "message": "no key"}),
    ("404 Not Found", {"error": {"code": "DeploymentNotFound", "message": "größer 🙂"}}),
    ("422 Unprocessable Entity", {"status": 422, "code": "invalid_parameter", "detail": {"loc": ["body", "x"]}}),
    ("429 Too Many Requests", {"error": {"code": "429", "message": "Rate limit is exceeded."}}),
    ("500 Internal Server Error", {"error": {"code": "oops", "message": ""}}),
    ("503 Service Unavailable", None),
]


def usage_of(random):
    counts = {"prompt_tokens": random.randint(0, 9_999), "completion_tokens": random.randint(0, 9_999)}
    return random.choice([counts, counts, counts | {"total_tokens": sum(counts.values())}, None])


def tool_call(random, number, **first):
    arguments = json.dumps({"place": words(random, 20)}, ensure_ascii=random.random() < 0.5)
    return {"index": number, **first, "function": {"name": "weather", "arguments": arguments}}


def encoded(random, value, **options):
    return json.dumps(value, ensure_ascii=random.random() < 0.5, **options).encode()


def whole_answer(random):
    message = {"role": "assistant", "content": random.choice([words(random, 400), None])}
    if random.random() < 0.3:
        message["tool_calls"] = [tool_call(random, number, id="c", type="function") for number in range(2)]
    reason = random.choice(["stop", "length", "tool_calls", "content_filter"])
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}
    usage = usage_of(random)
    return encoded(random, answer | ({"usage": usage} if usage or random.random() < 0.5 else {}))


def streamed_answer(random):
    chunks = [{"choices": [], "prompt_filter_results": []}, {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}]
    chunks = random.choice([chunks, []])
    for number in range(random.randint(0, 30)):
        delta = {"content": random.choice([words(random, 30), "", None])}
        if random.random() < 0.1:
            delta = {"tool_calls": [tool_call(random, number)]}
        chunks.append({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    reason = random.choice(["stop", "length", "tool_calls", "content_filter"])
    last, usage = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}, usage_of(random)
    chunks += [last | {"usage": usage}] if random.random() < 0.5 else [last, {"choices": [], "usage": usage}]
    end = random.choice([b"\n", b"\r\n", b"\r"])
    body = random.choice([b"", b"\xef\xbb\xbf"])
    for data in [*(encoded(random, chunk, indent=random.choice([None, None, 1])) for chunk in chunks), b"[DONE]"]:
        body += random.choice([b"", b": keep-alive" + end, b"event: message" + end + b"id: 7" + end])
        field = random.choice([b"data: ", b"data:"])
        body += b"".join(field + line + end for line in data.split(b"\n")) + end
    return body


def framed(random, status, kind, body):
    """Head and body in one of the three ways to say where a body ends; True where the connection must close."""
    how = random.choice(["length", "chunked", "close"])
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n".encode()
    if random.random() < 0.2:
        head = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + head
    if how == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, False
    if how == "close":
        return head + b"\r\n" + body, True
    chunks = [b"%x%b\r\n%b\r\n" % (len(cut), random.choice([b"", b";a=b"]), cut) for cut in cuts(random, body)]
    trailer = random.choice([b"", b"x-took: 3\r\n"])
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n" + trailer + b"\r\n", False


def cuts(random, whole):
    """The bytes in pieces, cut anywhere: within a character, a line end or a chunk's size."""
    pieces = []
    while whole:
        size = random.choice([1, 2, 3, 7, 50, 400, 5_000])
        pieces.append(whole[:size])
        whole = whole[size:]
    return pieces


def liberal(number):
    """What the server sends to request `number`: pieces, and whether it closes then."""
    random = Random(f"{SEED}/{number}")
    stream = random.random() < 0.5
    if random.random() < 0.25:
        status, body = random.choice(REFUSALS)
        raw = b"<html>no</html>" if body is None else encoded(random, body)
        wire, closes = framed(random, status, "application/json", raw)
    elif stream:
        wire, closes = framed(random, "200 OK", "text/event-stream; charset=utf-8", streamed_answer(random))
    else:
        wire, closes = framed(random, "200 OK", "application/json", whole_answer(random))
    return stream, cuts(random, wire), closes


async def taking_liberties(call, writer):
    number = int(call.header("x-ms-client-request-id").split("-")[1])
    _, pieces, closes = liberal(number)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    if closes:
        writer.close()


def test_httpx_and_the_engine_read_the_same_from_a_server_that_takes_liberties():
    seen = Counter()
    with (
        LoopbackServer(taking_liberties) as server,
        connection_to(server.url) as connection,
        httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        for number in range(REQUESTS):
            spec = spec_of({"messages": []}, stream=liberal(number)[0])
            expected = by_httpx(client, connection.path, spec, f"oracle-{number}-0")
            assert by_engine(connection, spec, number) == expected, (number, liberal(number))
            seen[expected[4]] += 1
            seen[expected[3]] += 1
    assert {"ok", "filtered", "rejected", "throttled", "server_error"} <= set(seen)
    assert min(seen[reason] for reason in ("stop", "length", "tool_calls", "content_filter")) > 20
