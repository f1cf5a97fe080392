"""Real servers on loopback that misbehave as a test tells them to."""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Awaitable, Callable

ANSWER = json.dumps(
    {
        "id": "a" * 32,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
).encode()
INFO = json.dumps(
    {"model_name": "Phi-3-mini-4k-Instruct", "model_type": "chat-completions", "model_provider_name": "Microsoft"}
).encode()


class Call:
    """One request as it arrived: `number` counts them per server, `connection` the connection it came on."""

    def __init__(self, number: int, connection: int, request_head: bytes, body: bytes) -> None:
        self.number, self.connection, self.head, self.body = number, connection, request_head, body

    @property
    def path(self) -> str:
        return self.head.split(b" ")[1].decode()

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().lower() == name.lower():
                return value.strip().decode()
        return None


def response(body: bytes = ANSWER, status: str = "200 OK", **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def stream(
    *events: object, end: bool = True, gap_s: float = 0.0
) -> Callable[[Call, asyncio.StreamWriter], Awaitable[None]]:
    """Answer with these events, chunked; `end` closes the chunked body."""

    async def answer(_: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for each in events:
            data = each if isinstance(each, bytes) else json.dumps(each).encode()
            frame = b"data: " + data + b"\n\n"
            writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            await writer.drain()
            await asyncio.sleep(gap_s)
        if end:
            writer.write(b"0\r\n\r\n")

    return answer


class Server:
    """Answers each POST by `script(call, writer)`, and GET /info like a deployment. Use as a context manager."""

    def __init__(
        self, script: Callable[[Call, asyncio.StreamWriter], Awaitable[None]], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.script, self.tls = script, tls
        self.calls: list[Call] = []
        self.connections = 0
        self.info = response(INFO)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls, limit=1 << 24)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                request_head = await reader.readuntil(b"\r\n\r\n")
                call = Call(len(self.calls), connection, request_head, b"")
                call.body = await reader.readexactly(int(call.header("content-length") or 0))
                if request_head.startswith(b"GET"):
                    writer.write(self.info)
                else:
                    self.calls.append(call)
                    await self.script(call, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        writer.close()


def always(payload: bytes) -> Callable[[Call, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(_: Call, writer: asyncio.StreamWriter) -> None:
        writer.write(payload)

    return answer
