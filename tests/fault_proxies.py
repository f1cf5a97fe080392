"""Proxies on loopback: one that damages answers by a seed and tells what it did, and one as companies have them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tests.faults import HOST, LOST, PIECE_BYTES, LoopbackServer, reset
from tests.servers import Call, Server

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """One kind of damage, done to a request's answer with a probability. The eight are Toxiproxy's seven and `down`.

    latency: the answer begins `delay_s` +- `jitter_s` late. bandwidth: it flows at `bytes_per_s`. slicer: it comes in
    pieces of `piece_bytes`. slow_close: its connection closes `delay_s` after it should.
    These end it after `after_bytes`: limit_data by FIN, reset_peer by RST, hang not at all. down: FIN, nobody is asked.
    """

    kind: str
    probability: float = 1.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = math.inf
    piece_bytes: int = PIECE_BYTES
    after_bytes: int = 0


ENDS = ("down", "reset_peer", "hang", "limit_data")  # what cuts an answer short; the earlier in this list comes first


@dataclass(slots=True)
class Fate:
    """What the proxy has drawn for one request: at most one end, and all the milder toxics."""

    request_id: str
    toxics: dict[str, Toxic]
    end: str | None
    delay_s: float
    passed_bytes: int = 0

    @property
    def left_bytes(self) -> float:
        return math.inf if self.end is None else max(0, self.toxics[self.end].after_bytes - self.passed_bytes)

    @property
    def bytes_per_s(self) -> float:
        return self.toxics["bandwidth"].bytes_per_s if "bandwidth" in self.toxics else math.inf

    @property
    def piece_bytes(self) -> int:
        sliced = self.toxics["slicer"].piece_bytes if "slicer" in self.toxics else PIECE_BYTES
        return max(1, int(min(sliced, self.bytes_per_s / 50)))


class FaultProxy(LoopbackServer):
    """A TCP proxy in front of a server on loopback. `fates` tells what it did, by x-ms-client-request-id.

    What it draws depends on its seed, the id and how often it has seen that id, and on nothing else: no order in which
    requests arrive changes it.
    """

    def __init__(self, upstream: Server, toxics: Sequence[Toxic], seed: int) -> None:
        super().__init__()
        self._upstream, self._toxics, self._seed = upstream, toxics, seed
        self.fates: dict[str, list[Fate]] = defaultdict(list)

    def draw(self, request_id: str | None) -> Fate:
        if request_id is None:  # no attempt: the probe
            return Fate("", {}, None, 0.0)
        seen = self.fates[request_id]
        random = Random(f"{self._seed}/{request_id}/{len(seen)}")
        drawn = {each.kind: each for each in self._toxics if random.random() < each.probability}
        end = next((kind for kind in ENDS if kind in drawn), None)
        mild = {kind: each for kind, each in drawn.items() if kind not in ENDS or kind == end}
        delay_s = 0.0
        if "latency" in mild:
            latency = mild["latency"]
            delay_s = latency.delay_s + random.uniform(-latency.jitter_s, latency.jitter_s)
        fate = Fate(request_id, mild, end, delay_s)
        seen.append(fate)
        return fate

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        answers, requests = await asyncio.open_connection(HOST, self._upstream.port)
        back: asyncio.Task[None] | None = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                call = Call(0, self.connections, head, b"")
                body = await reader.readexactly(int(call.header("content-length") or 0))
                fate = self.draw(call.header("x-ms-client-request-id"))
                if back is not None:
                    back.cancel()
                if fate.end is not None and fate.left_bytes == 0:
                    await self._finish(fate, reader, writer)
                    return
                requests.write(head + body)
                back = asyncio.create_task(self._answer(fate, writer, answers))
        finally:
            if back is not None:
                back.cancel()
            requests.close()

    async def _answer(self, fate: Fate, writer: asyncio.StreamWriter, answers: asyncio.StreamReader) -> None:
        with contextlib.suppress(*LOST):
            while data := await answers.read(PIECE_BYTES):
                if fate.passed_bytes == 0:
                    await asyncio.sleep(fate.delay_s)
                await self._pour(fate, data, writer)
                if fate.left_bytes == 0:
                    await self._finish(fate, None, writer)
                    return
            if "slow_close" in fate.toxics:
                await asyncio.sleep(fate.toxics["slow_close"].delay_s)
        writer.close()

    async def _pour(self, fate: Fate, data: bytes, writer: asyncio.StreamWriter) -> None:
        data = data[: int(min(len(data), fate.left_bytes))]
        for start in range(0, len(data), fate.piece_bytes):
            piece = data[start : start + fate.piece_bytes]
            await asyncio.sleep(len(piece) / fate.bytes_per_s)
            writer.write(piece)
            await writer.drain()
            fate.passed_bytes += len(piece)

    async def _finish(self, fate: Fate, reader: asyncio.StreamReader | None, writer: asyncio.StreamWriter) -> None:
        if fate.end == "reset_peer":
            await asyncio.sleep(0.02)  # a reset overtakes nothing on loopback, but what was sent should be read apart
            reset(writer)
        elif fate.end == "hang":
            while reader is not None and await reader.read(PIECE_BYTES):
                pass
        else:
            writer.close()


class ConnectProxy(LoopbackServer):
    """An HTTP proxy: CONNECT tunnels, and absolute-form requests. It alone knows where the hosts in `ports` are.

    With `refusal` it answers every request with that.
    """

    def __init__(self, ports: Mapping[str, int], *, refusal: bytes | None = None) -> None:
        super().__init__()
        self._ports, self._refusal = ports, refusal

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            call = Call(len(self.calls), self.connections, head, b"")
            self.calls.append(call)
            call.body = await reader.readexactly(int(call.header("content-length") or 0))
            if self._refusal is not None:
                writer.write(self._refusal)
                await writer.drain()
                return
            method, where, _ = head.split(b"\r\n", 1)[0].split(b" ")
            if method == b"CONNECT":
                await self._tunnel(where.decode(), reader, writer)
                return
            await self._forward(call, where.decode(), writer)

    async def _open(self, authority: str) -> Pipe:
        return await asyncio.open_connection(HOST, self._ports[authority.rpartition(":")[0] or authority])

    async def _tunnel(self, authority: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await self._open(authority)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = asyncio.create_task(_copy(answers, writer))
        try:
            await _copy(reader, requests)
        finally:
            back.cancel()
            requests.close()

    async def _forward(self, call: Call, url: str, writer: asyncio.StreamWriter) -> None:
        """One absolute-form request, sent on in origin form and answered whole."""
        authority, slash, path = url.removeprefix("http://").partition("/")
        answers, requests = await self._open(authority)
        head = call.head.replace(url.encode(), (slash + path).encode(), 1)
        requests.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + call.body)
        answer = await answers.readuntil(b"\r\n\r\n")
        length = int(Call(0, 0, answer, b"").header("content-length") or 0)
        writer.write(answer + await answers.readexactly(length))
        await writer.drain()
        requests.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(*LOST):
        while data := await reader.read(PIECE_BYTES):
            writer.write(data)
            await writer.drain()
        writer.close()
