"""A deployment that knows the truth: it stamps each request's receipt and each token's sending on CLOCK_MONOTONIC.

`python -m loadgen.ground_truth LOG` serves on a free port of loopback, says which in a line of JSON, and runs until its
standard input ends. Then it writes LOG/requests.parquet (id, received_ns, sent_ns: of the answer, or of a stream's
first token; 0 where it was never sent) and LOG/tokens.parquet (id, sent_ns: one row a token of the streams that were
sent whole, in order). The id is x-ms-client-request-id; planner.calibration joins it to the record.

A stream is a role event at once, then 100 tokens 20 ms apart, then finish reason, usage and [DONE]. The streams are
staggered: each connection has its own instant within the 20 ms, and its first stream is cut by its own share of the
100 tokens, so that neither the tokens nor the ends of many streams fall together.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import resource
import sys
from array import array
from itertools import count, repeat
from pathlib import Path
from time import monotonic_ns
from typing import cast

import polars as pl
import uvloop

from loadgen.errors import ConfigError

TOKENS = 100
GAP_NS = 20_000_000
SLOTS = 200  # instants within a gap, 100 us apart: with 200 streams each has one to itself
STRIDE = 123  # coprime to SLOTS, so that the first connections do not crowd into the first slots
GOLDEN = 0.618_033_988_75

ID = b"\r\nx-ms-client-request-id: "
LENGTH = b"\r\ncontent-length: "
_EVENT = (
    'data: {"id":"0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1764000000,'
    '"model":"Phi-3-mini-4k-instruct","choices":[{"index":0,"delta":%s,"finish_reason":%s,"logprobs":null}]%s}\n\n'
)


def event(delta: str, finish_reason: str = "null", more: str = "") -> bytes:
    """One server-sent event as one chunk of the body."""
    data = (_EVENT % (delta, finish_reason, more)).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def response(body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)


INFO = response(
    {
        "model_name": "Phi-3-mini-4k-instruct",
        "model_type": "chat-completions",
        "model_provider_name": "Microsoft",
    }
)
ANSWER = response(
    {
        "id": "0123456789abcdef0123456789abcdef",
        "object": "chat.completion",
        "created": 1_764_000_000,
        "model": "Phi-3-mini-4k-instruct",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "There are about seven thousand.", "tool_calls": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 24, "total_tokens": 32, "completion_tokens": 8},
    }
)
BEGIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + event(
    '{"role":"assistant","content":""}'
)
TOKEN = event('{"content":" the"}')
USAGE = f',"usage":{{"prompt_tokens":24,"total_tokens":{24 + TOKENS},"completion_tokens":{TOKENS}}}'
DONE = b"data: [DONE]\n\n"
END = event('{"content":""}', '"stop"', USAGE) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE)


class Truth:
    """What was received and sent, in the order of the answers' ends."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.received_ns, self.sent_ns = array("q"), array("q")
        self.token_ids: list[bytes] = []
        self.token_counts: list[int] = []
        self.tokens_ns = array("q")

    def write(self, folder: Path) -> None:
        ids = pl.Series("id", [each.decode("latin-1") for each in self.ids], dtype=pl.String)
        times = {"received_ns": list(self.received_ns), "sent_ns": list(self.sent_ns)}
        pl.DataFrame({"id": ids, **times}).write_parquet(folder / "requests.parquet")
        streams = zip(self.token_ids, self.token_counts, strict=True)
        token_ids = [each.decode("latin-1") for each, tokens in streams for each in repeat(each, tokens)]
        tokens = {"id": pl.Series(token_ids, dtype=pl.String), "sent_ns": list(self.tokens_ns)}
        pl.DataFrame(tokens).write_parquet(folder / "tokens.parquet")


class Connection(asyncio.Protocol):
    """One client's connection, and the stream on it if there is one.

    What it sends goes to the socket at once, where the loop would keep it until the end of its turn: the stamp is
    taken right before.
    """

    numbers = count()

    def __init__(self, truth: Truth, slots: list[list[Connection]]) -> None:
        number = next(self.numbers)
        self.truth = truth
        self.slot = slots[number * STRIDE % SLOTS]
        self.first_tokens = 1 + int(number * GOLDEN % 1 * TOKENS)
        self.pending = b""
        self.left = 0  # of the stream in progress: tokens, and one for the end
        self.skip = False
        self.tokens_ns = array("q")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.descriptor = transport.get_extra_info("socket").fileno()
        self.slot.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.slot.remove(self)

    def data_received(self, data: bytes) -> None:
        now_ns = monotonic_ns()
        data = self.pending + data if self.pending else data
        while data:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            head = data[:end].lower()
            length = int(value_of(head, LENGTH) or 0)
            body = data[end + 4 : end + 4 + length]
            if len(body) < length:
                break
            data = data[end + 4 + length :]
            self.answer(head, body, now_ns)
        self.pending = data

    def answer(self, head: bytes, body: bytes, now_ns: int) -> None:
        if head.startswith(b"get "):
            self.send(INFO)
            return
        truth = self.truth
        truth.ids.append(value_of(head, ID))
        truth.received_ns.append(now_ns)
        if b'"stream":true' in body:
            self.send(BEGIN)
            self.request = len(truth.ids) - 1
            truth.sent_ns.append(0)  # until the first token is sent
            self.left, self.first_tokens = self.first_tokens + 1, TOKENS
            self.skip = True  # a whole gap at least before the first token, so that it never comes with the role
        else:
            truth.sent_ns.append(monotonic_ns())
            self.send(ANSWER)

    def tick(self) -> None:
        """The connection's instant has come."""
        if self.left > 1:
            if self.skip:
                self.skip = False
                return
            self.left -= 1
            now_ns = monotonic_ns()
            if not self.tokens_ns:
                self.truth.sent_ns[self.request] = now_ns
            self.tokens_ns.append(now_ns)
            self.send(TOKEN)
        elif self.left:
            self.left = 0
            self.keep_truth()
            self.send(END)

    def keep_truth(self) -> None:
        truth = self.truth
        truth.token_ids.append(truth.ids[self.request])
        truth.token_counts.append(len(self.tokens_ns))
        truth.tokens_ns += self.tokens_ns
        self.tokens_ns = array("q")

    def send(self, data: bytes) -> None:
        sent = 0
        if not self.transport.get_write_buffer_size():
            try:
                sent = os.write(self.descriptor, data)
            except BlockingIOError:
                pass
            except OSError:
                return  # the loop will say that the connection is lost
        if sent < len(data):
            self.transport.write(data[sent:])


def value_of(head: bytes, name: bytes) -> bytes:
    """A header's value from a head in lower case; b"" where it is not."""
    start = head.find(name)
    if start < 0:
        return b""
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start:] if end < 0 else head[start:end]


class TimerSpec(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns"))


def timer_of(every_ns: int) -> int:
    """The descriptor of a kernel timer that fires so often. Raises ConfigError where the system has none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        timer = library.timerfd_create(1, os.O_NONBLOCK | os.O_CLOEXEC)
        problem = os.strerror(ctypes.get_errno()) if timer < 0 else None
    except (AttributeError, TypeError):  # no such call in this system's library; no such library
        problem = f"{sys.platform} has no timerfd"
    if problem is not None:
        raise ConfigError(f"the ground-truth server keeps time by timerfd, which takes Linux: {problem}")
    library.timerfd_settime(timer, 0, ctypes.byref(TimerSpec(0, every_ns, 0, every_ns)), None)
    return int(timer)


class Wheel:
    """Gives each slot its turn once in a gap, on a timer of the kernel: the loop's own count whole milliseconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: list[list[Connection]]) -> None:
        self.slots, self.turn = slots, 0
        self.timer = timer_of(GAP_NS // SLOTS)
        loop.add_reader(self.timer, self.advance)

    def advance(self) -> None:
        for _ in range(int.from_bytes(os.read(self.timer, 8), sys.byteorder)):
            self.turn = (self.turn + 1) % SLOTS
            for connection in self.slots[self.turn]:
                connection.tick()


async def serve(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    truth = Truth()
    slots: list[list[Connection]] = [[] for _ in range(SLOTS)]
    server = await loop.create_server(lambda: Connection(truth, slots), "127.0.0.1", 0, backlog=4_096)
    Wheel(loop, slots)
    gc.disable()  # a collection would delay what it then claims to have sent on time
    ended = asyncio.Event()

    def read_input() -> None:
        if not os.read(0, 4_096):
            ended.set()

    loop.add_reader(0, read_input)
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}) + "\n")
    sys.stdout.flush()
    await ended.wait()
    truth.write(folder)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("python -m loadgen.ground_truth LOG: where to write what was sent when\n")
        return ConfigError.exit_code
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # each stream holds a connection
    try:
        uvloop.run(serve(Path(arguments[0])))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
