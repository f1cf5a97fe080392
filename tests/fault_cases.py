"""The fault matrix as a table: what is at the other end, and what each attempt on it must come to."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from pathlib import Path

import trustme

from loadgen.requests import RequestSpec, chat
from tests import faults
from tests.fault_proxies import ConnectProxy, Fate, FaultProxy, Toxic
from tests.faults import LoopbackServer
from tests.servers import ANSWER, Call, always, response, stream

SEED = 20_260_511
KEY = "canary-5d1e8a7740c24f6bb0canary"
NAME, PASSWORD = "model.example", "hush-hush"
Script = Callable[[Call, asyncio.StreamWriter], Awaitable[None]]


def asking(*, streamed: bool = False, characters: int = 20) -> RequestSpec:
    scenario = "streaming" if streamed else "chat"
    return chat(scenario, [{"role": "user", "content": "x" * characters}], max_tokens=20, stream=streamed)


PLAIN, STREAM = asking(), asking(streamed=True)
LARGE = (asking(characters=8 << 20), *[PLAIN] * 5)  # more than the socket takes at once, in every sixth request
PICTURES = (asking(characters=20 << 20), *[PLAIN] * 29)
TOKEN = {"choices": [{"index": 0, "delta": {"content": "word "}}]}
LAST = {
    "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 12},
}
WHOLE_STREAM = stream(*[TOKEN] * 12, LAST, b"[DONE]")
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n\r\n"
CHUNKED = EVENTS_HEAD % b"Transfer-Encoding: chunked"
EVENT = b"data: " + json.dumps(TOKEN).encode() + b"\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


async def well(call: Call, writer: asyncio.StreamWriter) -> None:
    """A deployment without fault."""
    await (WHOLE_STREAM if b'"stream":true' in call.body else always(response()))(call, writer)


def seq_of(call: Call) -> int:
    return int((call.header("x-ms-client-request-id") or "").split("-")[1])


def closing(payload: bytes) -> Script:
    """Say this and close."""

    async def answer(_: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(payload)
        await writer.drain()
        writer.close()

    return answer


def in_turn(*payloads: bytes) -> Script:
    """The answer to request number n is the payload number n modulo their count."""

    async def answer(call: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(payloads[seq_of(call) % len(payloads)])

    return answer


def refusal(status: str, body: object = None, **headers: object) -> Script:
    """An error answer with a JSON body."""
    return always(response(json.dumps(body or {}).encode(), status, Content_Type="application/json", **headers))


def inner(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}


@dataclass
class Place:
    """What the attempts of a case are sent to. `front` is the server that they connect to, where there is one."""

    url: str
    front: LoopbackServer | None = None
    fates: Mapping[str, list[Fate]] = field(default_factory=dict)  # what the fault proxy did
    ca_file: Path | None = None
    bystander: LoopbackServer | None = None  # must hear nothing
    variables: Mapping[str, str] = field(default_factory=dict)  # of the environment


Scene = Callable[[], AbstractContextManager[Place]]


def served(script: Script) -> Scene:
    return by(lambda: LoopbackServer(script))


def by(make: Callable[[], LoopbackServer]) -> Scene:
    @contextlib.contextmanager
    def scene() -> Iterator[Place]:
        with make() as server:
            yield Place(server.url, server)

    return scene


def through(*toxics: Toxic, script: Script = well) -> Scene:
    """A deployment behind the fault proxy."""

    @contextlib.contextmanager
    def scene() -> Iterator[Place]:
        with LoopbackServer(script) as server, FaultProxy(server, toxics, SEED) as proxy:
            yield Place(proxy.url, proxy, proxy.fates)

    return scene


def at(where: Callable[[], AbstractContextManager[str]]) -> Scene:
    @contextlib.contextmanager
    def scene() -> Iterator[Place]:
        with where() as url:
            yield Place(url)

    return scene


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def certified(name: str, ended_ago: timedelta | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ends = None if ended_ago is None else datetime.now(UTC) - ended_ago
    begins = None if ends is None else ends - timedelta(days=90)
    authority().issue_cert(name, not_before=begins, not_after=ends).configure_cert(context)
    return context


def tls(name: str, *, ended_ago: timedelta | None = None) -> Scene:
    """A deployment whose certificate is for `name`, from an authority that the target's config trusts."""

    @contextlib.contextmanager
    def scene() -> Iterator[Place]:
        with (
            authority().cert_pem.tempfile() as file,
            LoopbackServer(well, tls=certified(name, ended_ago)) as server,
        ):
            yield Place(server.url, server, ca_file=Path(file))

    return scene


@contextlib.contextmanager
def stalled_handshake() -> Iterator[Place]:
    with faults.Mute() as server:
        yield Place(server.url.replace("http:", "https:"), server)


@contextlib.contextmanager
def redirecting() -> Iterator[Place]:
    with LoopbackServer(well) as elsewhere:
        script = refusal("301 Moved Permanently", Location=f"{elsewhere.url}/chat/completions")
        with LoopbackServer(script) as server:
            yield Place(server.url, server, bystander=elsewhere)


def behind_proxy(scheme: str, refused_with: bytes | None = None) -> Scene:
    """A deployment under a name that only the environment's proxy can resolve."""

    @contextlib.contextmanager
    def scene() -> Iterator[Place]:
        context = certified(NAME) if scheme == "https" else None
        with (
            authority().cert_pem.tempfile() as file,
            LoopbackServer(well, tls=context) as server,
            ConnectProxy({NAME: server.port}, refusal=refused_with) as proxy,
        ):
            variables = {f"{scheme.upper()}_PROXY": f"http://user:{PASSWORD}@{faults.HOST}:{proxy.port}"}
            bystander = None if refused_with is None else server
            yield Place(f"{scheme}://{NAME}", proxy, ca_file=Path(file), variables=variables, bystander=bystander)

    return scene


@contextlib.contextmanager
def past_proxy() -> Iterator[Place]:
    with LoopbackServer(well) as server, ConnectProxy({}) as proxy, faults.names({NAME: faults.HOST}):
        variables = {"HTTP_PROXY": proxy.url, "NO_PROXY": f"localhost, .{NAME.partition('.')[2]}"}
        yield Place(f"http://{NAME}:{server.port}", server, variables=variables, bystander=proxy)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the matrix. Of several specs and errors, arrival n gets those at n modulo their count.

    An error may be a set, where the kernel may tell of one event in several ways. `bound` names the timeout that ends
    each attempt, if one does.
    """

    group: str
    says: str
    scene: Scene
    outcome: str
    errors: tuple[str | frozenset[str] | None, ...] = (None,)
    status: int | None = None
    specs: tuple[RequestSpec, ...] = (PLAIN,)
    timeouts: Mapping[str, float] = field(default_factory=dict)
    bound: str | None = None
    held: bool = True  # until as many are in flight as are to be; not where nobody can hold the client
    pause_s: float = 0.0
    requests: int = 2  # of each user, one after the other
    retry_after_ms: tuple[tuple[int, int] | None, ...] = (None,)  # least and most


def case(group: str, says: str, scene: Scene, outcome: str, *errors: object, **fields: object) -> Case:
    return Case(group=group, says=says, scene=scene, outcome=outcome, errors=errors or (None,), **fields)  # type: ignore[arg-type]


RESET = frozenset({"connect_econnreset", "send_econnreset", "receive_econnreset"})
GONE = RESET | {"send_epipe", "closed_before_answer"}
UNTRUSTED = "tls_certificate_not_trusted"

CONNECT = [
    case("connect", "nothing listens on the port", at(faults.refused_port), "network", "connect_econnrefused", held=False),
    case("connect", "no SYN is answered", at(faults.blackhole), "timeout", "connect_timeout",
         timeouts={"connect": 0.5}, bound="connect"),
    case("connect", "every connection is reset as soon as it stands", by(faults.Resetting), "network", RESET),
    case("connect", "the certificate ended yesterday", tls("localhost", ended_ago=timedelta(days=1)), "network", UNTRUSTED, held=False),
    case("connect", "the certificate is another host's", tls("elsewhere.example"), "network", UNTRUSTED, held=False),
    case("connect", "the TLS handshake stalls", stalled_handshake, "timeout", "connect_timeout",
         timeouts={"connect": 0.5}, bound="connect"),
]  # fmt: skip

TOO_LARGE = response(b'{"error":"too_large"}', "413 Content Too Large", Connection="close")
REQUEST = [
    case("request", "413 to the head, and the rest is not read", by(lambda: faults.HeadOnly(TOO_LARGE, 0, linger_s=0.3)),
         "rejected", "too_large", status=413, specs=LARGE),
    case("request", "the server closes in the middle of the upload", by(lambda: faults.HeadOnly(b"", 20)),
         "network", GONE, specs=LARGE),
    case("request", "100 Continue is never sent, and never waited for", served(well), "ok", status=200, specs=LARGE),
    case("request", "one request in thirty carries a picture of 20 MB", served(well), "ok", status=200, specs=PICTURES),
    case("request", "20 MB that take two seconds to upload, while an answer may take one", by(lambda: faults.Sipping(well)),
         "ok", status=200, specs=PICTURES, timeouts={"first_byte": 1.0}, requests=1),
]  # fmt: skip


def soon() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)


WAITS: list[tuple[dict[str, str], tuple[int, int] | None]] = [
    ({}, None),
    ({"Retry-After": "7"}, (7_000, 7_000)),
    ({"Retry-After": "0.25"}, (250, 250)),
    ({"Retry-After": "DATE"}, (20_000, 31_000)),  # half a minute from now
    ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, (0, 0)),
    ({"retry-after-ms": "330", "Retry-After": "1"}, (330, 330)),
    ({"Retry-After": "1000000000"}, (2**32 - 1, 2**32 - 1)),  # as much as the record holds
    ({"Retry-After": "in a while"}, None),
]


async def throttling(call: Call, writer: asyncio.StreamWriter) -> None:
    headers, _ = WAITS[seq_of(call) % len(WAITS)]
    told = {name: soon() if value == "DATE" else value for name, value in headers.items()}
    await refusal("429 Too Many Requests", inner("429", "Rate limit is exceeded."), **told)(call, writer)


SCHEMA = {
    "status": 422,
    "code": "invalid_parameter",
    "detail": {"loc": ["body", "top_k"]},
    "message": "top_k is unknown",
}
STATUS = [
    case("status", "400: the body breaks the schema", served(refusal("400 Bad Request", inner("bad_request", "messages: wrong"))),
         "rejected", "bad_request: messages: wrong", status=400),
    case("status", "401: the answer repeats the key", served(refusal("401 Unauthorized", inner("unauthorized", f"no such key: {KEY}"))),
         "rejected", "unauthorized", status=401),
    case("status", "403", served(refusal("403 Forbidden", inner("forbidden", KEY))), "rejected", "forbidden", status=403),
    case("status", "404: no such deployment", served(refusal("404 Not Found", inner("DeploymentNotFound", "gone"))),
         "rejected", "DeploymentNotFound: gone", status=404),
    case("status", "408 and the connection is closed", served(closing(response(b"", "408 Request Timeout", Connection="close"))),
         "rejected", "no_error_code", status=408),
    case("status", "422: a parameter the model does not know", served(refusal("422 Unprocessable Entity", SCHEMA)),
         "rejected", "invalid_parameter: top_k is unknown", status=422),
    case("status", "429 that asks to wait in eight ways", served(throttling), "throttled", "429", status=429, requests=8,
         retry_after_ms=tuple(wait for _, wait in WAITS)),
    case("status", "500", served(refusal("500 Internal Server Error", inner("oops", "try later"))),
         "server_error", "oops: try later", status=500),
    case("status", "502 with a page of HTML", served(always(response(b"<html><h1>Bad gateway</h1></html>", "502 Bad Gateway", Content_Type="text/html"))),
         "server_error", "html_page: Bad gateway", status=502),
    case("status", "503 that asks to wait", served(refusal("503 Service Unavailable", inner("busy", "busy"), Retry_After="2")),
         "server_error", "busy", status=503, retry_after_ms=((2_000, 2_000),)),
    case("status", "529: overloaded", served(refusal("529 Overloaded", inner("overloaded", "overloaded"))), "server_error",
         "overloaded", status=529),
    case("status", "301: not followed, and the key goes nowhere else", redirecting, "rejected", "redirect_not_followed", status=301),
]  # fmt: skip

ZIPPED = gzip.compress(ANSWER * 20)[:-20]
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER) - 10, ANSWER)
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER) + 10, ANSWER)
TWO_LENGTHS = EVENTS_HEAD % b"Content-Length: 10\r\nTransfer-Encoding: chunked" + CHUNK + b"0\r\n\r\n"
EMPTY = (response(b""), EVENTS_HEAD % b"Content-Length: 0", response(b""))
NO_BODY = [frozenset({"empty_body", code}) for code in ("not_a_chat_completion", "truncated", "not_an_event_stream")]
BODY = [
    case("body", "a chunk's size is no number", served(always(CHUNKED + CHUNK + b"zz\r\n" + CHUNK)), "broken_stream",
         "malformed_http", status=200, specs=(STREAM,)),
    case("body", "chunks without their end, then FIN", served(closing(CHUNKED + CHUNK * 3)), "broken_stream", "cut",
         status=200, specs=(STREAM,)),
    case("body", "Content-Length below the body", served(always(SHORT)), "broken_stream", "not_a_chat_completion", status=200),
    case("body", "Content-Length above the body, then FIN", served(closing(LONG)), "broken_stream", "cut", status=200),
    case("body", "Content-Length beside chunks: it could be read in two ways", served(always(TWO_LENGTHS)), "network",
         "malformed_http", specs=(STREAM,)),
    case("body", "gzip that nobody asked for, cut", served(in_turn(response(ZIPPED, Content_Encoding="gzip"), response(
         ZIPPED, Content_Encoding="gzip", Content_Type="text/event-stream"))), "broken_stream", "compressed_unasked",
         status=200, specs=(PLAIN, STREAM)),
    case("body", "an answer of ten bytes a second", through(Toxic(kind="slicer", piece_bytes=1), Toxic(kind="bandwidth", bytes_per_s=10)),
         "timeout", "total_timeout", specs=(PLAIN, STREAM), timeouts={"total": 1.2}, bound="total", requests=1),
    case("body", "a stream that stalls", through(Toxic(kind="hang", after_bytes=300)), "timeout", "idle_timeout", status=200,
         specs=(STREAM,), timeouts={"idle": 0.4}, bound="idle"),
    case("body", "a stream that is reset", through(Toxic(kind="reset_peer", after_bytes=300)), "broken_stream",
         "receive_econnreset", status=200, specs=(STREAM,)),
    case("body", "200 and no body", served(in_turn(*EMPTY)), "broken_stream", *NO_BODY, status=200, specs=(PLAIN, STREAM, STREAM), requests=3),
]  # fmt: skip


async def closed_when_idle(call: Call, writer: asyncio.StreamWriter) -> None:
    await well(call, writer)
    asyncio.get_running_loop().call_later(0.03, writer.close)


async def announced_close(_: Call, writer: asyncio.StreamWriter) -> None:
    await closing(response(Connection="close"))(_, writer)


REUSE = [
    case("reuse", "kept alive, then closed while idle", served(closed_when_idle), "ok", status=200, specs=(PLAIN, STREAM),
         pause_s=0.12, requests=3),
    case("reuse", "Connection: close with every answer", served(announced_close), "ok", status=200, requests=3),
    case("reuse", "closed after every answer without a word", served(closing(response())), "ok", status=200, requests=3),
]  # fmt: skip

WANTED = response(b"", "407 Proxy Authentication Required", Proxy_Authenticate="Basic", Connection="close")
PROXY = [
    case("proxy", "HTTPS_PROXY: a tunnel to a host that only the proxy knows", behind_proxy("https"), "ok", status=200),
    case("proxy", "HTTP_PROXY: it reads the request and passes it on", behind_proxy("http"), "ok", status=200),
    case("proxy", "407 to CONNECT", behind_proxy("https", WANTED), "network", "proxy_407"),
    case("proxy", "407 to the request", behind_proxy("http", WANTED), "network", "proxy_407", status=407),
    case("proxy", "NO_PROXY: the proxy hears nothing", past_proxy, "ok", status=200),
]  # fmt: skip

CASES = [*CONNECT, *REQUEST, *STATUS, *BODY, *REUSE, *PROXY]


HALF = 0.5
TOXICS: dict[str, tuple[Toxic, ...]] = {
    "latency": (Toxic(kind="latency", probability=HALF, delay_s=0.12, jitter_s=0.06),),
    "down": (Toxic(kind="down", probability=HALF),),
    "bandwidth": (Toxic(kind="bandwidth", probability=HALF, bytes_per_s=8_000),),
    "slow_close": (Toxic(kind="slow_close", probability=HALF, delay_s=0.1),),
    "hang before the answer": (Toxic(kind="hang", probability=HALF),),
    "hang within the answer": (Toxic(kind="hang", probability=HALF, after_bytes=210),),
    "reset_peer before the answer": (Toxic(kind="reset_peer", probability=HALF),),
    "reset_peer within the answer": (Toxic(kind="reset_peer", probability=HALF, after_bytes=210),),
    "slicer": (Toxic(kind="slicer", probability=HALF, piece_bytes=13),),
    "limit_data within the head": (Toxic(kind="limit_data", probability=HALF, after_bytes=20),),
    "limit_data": (Toxic(kind="limit_data", probability=HALF, after_bytes=210),),
    "all of them": (
        Toxic(kind="latency", probability=0.3, delay_s=0.1, jitter_s=0.05),
        Toxic(kind="down", probability=0.1),
        Toxic(kind="bandwidth", probability=0.3, bytes_per_s=8_000),
        Toxic(kind="slow_close", probability=0.3, delay_s=0.1),
        Toxic(kind="hang", probability=0.1, after_bytes=210),
        Toxic(kind="reset_peer", probability=0.1, after_bytes=210),
        Toxic(kind="slicer", probability=0.3, piece_bytes=29),
        Toxic(kind="limit_data", probability=0.1, after_bytes=210),
    ),
}
