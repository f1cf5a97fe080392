"""Faults on loopback, made on purpose: servers for hundreds of connections that misbehave each in its own way.

Every server runs its own event loop on a real thread, and leaves no file descriptor open when it ends.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Self, cast

from tests.servers import Call, Server, always

HOST = "127.0.0.1"
BACKLOG = 2_048
PIECE_BYTES = 65_536
PATIENCE_S = 10
LOST = (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError)
EXPECTED = (*LOST, OSError, asyncio.CancelledError)  # of connections that tests break


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    made = writer.get_extra_info("socket")
    if not writer.transport.is_closing():
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class LoopbackServer(Server):
    """A Server that takes hundreds of connections at once. What goes wrong in it, its `with` block raises.

    After `hold` it accepts connections, but neither reads nor answers until `release`.
    """

    def __init__(self, script: object = None, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(script or always(b""), tls=tls)  # type: ignore[arg-type]
        self.open: set[asyncio.StreamWriter] = set()
        self._released = asyncio.Event()
        self._released.set()
        self._troubles: list[BaseException] = []

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.tls is not None else f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def hold(self) -> None:
        """Before the first connection."""
        self._released.clear()

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._released.set)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        assert not self._thread.is_alive()
        if self._troubles:
            raise self._troubles[0]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._note_trouble)
        listening = self._loop.run_until_complete(
            asyncio.start_server(self._track, HOST, 0, ssl=self.tls, backlog=BACKLOG)
        )
        self.port = listening.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        listening.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    def _note_trouble(self, _: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        trouble = context.get("exception")
        if isinstance(trouble, BaseException) and not isinstance(trouble, EXPECTED):
            self._troubles.append(trouble)

    async def _track(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            await asyncio.wait_for(self._released.wait(), PATIENCE_S)
            await self._serve(reader, writer)
        except LOST:
            pass
        except Exception as trouble:
            self._troubles.append(trouble)
        finally:
            self.open.discard(writer)
            writer.close()

    async def _end(self) -> None:
        writers = list(self.open)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        for _ in range(3):  # each transport closes its socket in a later turn of the loop
            await asyncio.sleep(0)


class Resetting(LoopbackServer):
    """Accepts each connection and resets it at once."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        reset(writer)


class Mute(LoopbackServer):
    """Accepts each connection, reads, and never says a word: what stalls a TLS handshake."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await reader.read(PIECE_BYTES):
            pass


class HeadOnly(LoopbackServer):
    """Reads a request's head and so many bytes of its body, then says `last_words`, lingers and closes.

    Who closes with bytes unread resets the connection, and may lose what it has said; so servers linger.
    """

    def __init__(self, last_words: bytes, body_bytes: int, *, linger_s: float = 0.0) -> None:
        super().__init__()
        self._last_words, self._body_bytes, self._linger_s = last_words, body_bytes, linger_s

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        head = await reader.readuntil(b"\r\n\r\n")
        self.calls.append(Call(len(self.calls), self.connections, head, b""))
        await reader.readexactly(self._body_bytes)
        writer.write(self._last_words)
        await writer.drain()
        await asyncio.sleep(self._linger_s)


class Sipping(LoopbackServer):
    """Reads each body slowly, so many bytes a second, and answers well when it is whole."""

    bytes_per_s = 10 << 20

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # What waits in the kernel is out as far as a client can tell, so little may.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            call = Call(len(self.calls), self.connections, head, b"")
            left = int(call.header("content-length") or 0)
            while left:
                piece = await reader.read(min(left, PIECE_BYTES))
                if not piece:
                    return
                left -= len(piece)
                await asyncio.sleep(len(piece) / self.bytes_per_s)
            self.calls.append(call)
            await self.script(call, writer)
            await writer.drain()


@contextlib.contextmanager
def names(addresses: Mapping[str, str] | None, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Resolve these names so, and no others. Where there are none at all, the name server never answers."""
    over, resolver = threading.Event(), cast(Any, _socket)
    real = resolver.getaddrinfo

    def getaddrinfo(host: str, *rest: object, **options: object) -> object:
        if addresses is None:
            over.wait(patience_s)
        elif host in addresses:
            return real(addresses[host], *rest, **options)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolver.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        resolver.getaddrinfo = real
        over.set()


@contextlib.contextmanager
def refused_port() -> Iterator[str]:
    """The URL of a port that is taken and on which nothing listens."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield f"http://{HOST}:{held.getsockname()[1]}"


@contextlib.contextmanager
def blackhole() -> Iterator[str]:
    """The URL of a port that answers no SYN: its queue is full."""
    with contextlib.ExitStack() as kept:
        full = kept.enter_context(socket.socket())
        full.bind((HOST, 0))
        full.listen(0)
        for _ in range(4):
            filler = kept.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        threading.Event().wait(0.05)  # until the first two have filled it
        yield f"http://{HOST}:{full.getsockname()[1]}"
