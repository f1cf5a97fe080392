"""Toxics at work: an ASGI middleware between the server and the application, which knows nothing of it.

A request that no toxic hits passes it untouched. Where one does, the messages of the answer are held back, changed or
left out on their way to the server. The application sends the events of a stream whole, several in one message at
times, and an answer that is no stream in one message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loadgen.simulator.answers import DONE
from loadgen.simulator.asgi import MOST_BODY_BYTES, send_refusal, send_whole
from loadgen.simulator.faults import Faults, Kind, Toxic
from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.protocol import CONNECTION
from loadgen.simulator.refusals import plain
from loadgen.simulator.serving import rng_of
from loadgen.simulator.spoiling import (
    NO_FIELD,
    break_json,
    drop_usage_of_answer,
    drop_usage_of_event,
    gateway_page,
    giant_line,
    gzip_bomb,
)
from loadgen.simulator.units import NS_PER_MS, NS_PER_S

DRIPS_PER_S = 20  # how often a stream of so many bytes a second goes on
_OF_JITTER = 1 << 62  # its draws are not those that decided whom the toxics hit


class Poisoned:
    """The application behind the toxics. Its time counts from when it is made, which is when the server listens."""

    def __init__(self, app: ASGIApp, faults: Faults, seed: int, pacemaker: Pacemaker) -> None:
        self._app, self._faults = app, faults
        self._requests = 0
        self._flights: set[Flight] = set()
        self._listened_ns = pacemaker.now_ns()
        self.seed, self.pacemaker = seed, pacemaker
        # Made now: packing takes time, in which running streams would stand still.
        sizes = {toxic.megabytes for toxic in faults.toxics if toxic.kind is Kind.GZIP_BOMB}
        self.bombs = {megabytes: gzip_bomb(megabytes) for megabytes in sizes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number, self._requests = self._requests, self._requests + 1
        query = scope["query_string"].decode("latin-1")
        target = f"{scope['path']}?{query}" if query else scope["path"]
        toxics = self._faults.of(number, self.seed, self.now_s(), target)
        if not toxics:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self, scope, receive, send, number=number, toxics=toxics)
        self._flights.add(exchange.flight)
        try:
            await exchange.run(self._app)
        finally:
            self._flights.discard(exchange.flight)

    def now_s(self) -> float:
        """Seconds since the server listened."""
        return (self.pacemaker.now_ns() - self._listened_ns) / NS_PER_S

    def instant_ns(self, at_s: float) -> int:
        """A time of that count, as the pacemaker counts."""
        return self._listened_ns + round(at_s * NS_PER_S)

    def stop(self) -> None:
        """The server ends: hold nothing back any longer."""
        for flight in self._flights:
            flight.cut()


class Exchange:
    """One request that is hit, and its answer."""

    def __init__(
        self, server: Poisoned, scope: Scope, receive: Receive, send: Send, *, number: int, toxics: tuple[Toxic, ...]
    ) -> None:
        self.flight = Flight()  # cut, it is held back no longer
        self._server, self._toxics = server, toxics
        self._rng = rng_of(server.seed, _OF_JITTER | number)
        self._scope, self._from_client, self._to_client = scope, receive, send
        self._left = False  # the client
        self._streams = False
        self._events = 0  # of the application, so far
        self._ended = False  # by a toxic: what the application still says reaches nobody
        self._inbox: deque[Message] = deque()  # of the client, while the application did not listen

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer through the toxics, or answer in its place."""
        instead = next(self._of(Kind.STATUS, Kind.GZIP_BOMB), None)
        watch = asyncio.ensure_future(self._gather())
        try:
            await self._hold(Kind.LATENCY)
            if instead is not None:
                await self._answer(instead)
        finally:
            watch.cancel()
        if instead is None and not self._left:
            await app(self._scope, self._receive_for_app, self._send)
        # The server would complain of an answer without an end, unless its connection has gone before.
        while self._ended and (await self._from_client())["type"] != "http.disconnect":
            pass

    async def _answer(self, toxic: Toxic) -> None:
        if toxic.kind is Kind.GZIP_BOMB:
            gzipped = {"content-type": "application/json", "content-encoding": "gzip"}
            await send_whole(self._send, 200, gzipped, self._server.bombs[toxic.megabytes])
            return
        headers = {}
        if toxic.retry_after_s is not None:
            real_s = self._server.pacemaker.real_ns(round(toxic.retry_after_s * NS_PER_S)) / NS_PER_S
            headers["retry-after"] = f"{real_s:g}"
        if toxic.html:
            page = gateway_page(toxic.status)
            await send_whole(self._send, toxic.status, {"content-type": "text/html"} | headers, page)
        else:
            refusal = plain(toxic.status, "fault_on_purpose", "The simulated deployment was told to fail.", headers)
            await send_refusal(self._send, refusal)

    async def _gather(self) -> None:
        """Listen to the client while nobody else does, so that one who leaves is held no longer."""
        size = 0
        while not self._left and size <= MOST_BODY_BYTES:
            message = await self._receive()
            self._inbox.append(message)
            size += len(message.get("body", b""))

    async def _receive(self) -> Message:
        message = await self._from_client()
        if message["type"] == "http.disconnect":
            self._left = True
            self.flight.cut()
        return message

    async def _receive_for_app(self) -> Message:
        return self._inbox.popleft() if self._inbox else await self._receive()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
            return
        if self._streams:
            for event in message["body"].split(b"\n\n")[:-1]:
                await self._send_event(event + b"\n\n")
        else:
            await self._send_plain(message["body"])
        if not message.get("more_body", False):
            await self._emit({"type": "http.response.body", "body": b""})

    async def _begin(self, message: Message) -> None:
        headers = dict(message["headers"])
        self._streams = headers.get(b"content-type") == b"text/event-stream"
        for toxic in self._of(Kind.WRONG_CONTENT_TYPE):
            headers[b"content-type"] = toxic.content_type.encode()
        await self._end_if(lambda toxic: toxic.after_events == 0)
        await self._emit({**message, "headers": list(headers.items())})

    async def _send_event(self, event: bytes) -> None:
        """One event of the application: what the toxics make of it, what they put before it, and where they stop."""
        if self._has(Kind.MISSING_USAGE):
            event = drop_usage_of_event(event)
        if self._has(Kind.MISSING_DONE) and event == DONE:
            event = b""
        for toxic in self._of(Kind.MALFORMED_SSE, Kind.GIANT_LINE):
            if toxic.after_events == self._events:
                if toxic.kind is Kind.GIANT_LINE:
                    await self._send_giant_line(toxic)
                else:
                    event = NO_FIELD + event if toxic.form == "line" else break_json(event)
        await self._hold(Kind.SLOW_STREAM)
        await self._drip(event)
        self._events += 1
        await self._end_if(lambda toxic: toxic.after_events == self._events)

    async def _send_giant_line(self, toxic: Toxic) -> None:
        for piece in giant_line(toxic.megabytes):
            await self._drip(piece)
            await asyncio.sleep(0)  # where the client is quick, nothing else would let the other streams go on

    async def _send_plain(self, body: bytes) -> None:
        """An answer that is no stream; half of it, where it is to end in its midst."""
        if self._has(Kind.MISSING_USAGE):
            body = drop_usage_of_answer(body)
        await self._hold(Kind.SLOW_STREAM)
        half = len(body) // 2 if self._has(Kind.CUT) or self._has(Kind.RESET) else len(body)
        await self._drip(body[:half])
        await self._end_if(lambda toxic: toxic.after_events > 0)
        await self._drip(body[half:])

    async def _drip(self, data: bytes) -> None:
        """Send a part of the body, at the slowest rate that a toxic sets."""
        rates = [toxic.bytes_per_second for toxic in self._of(Kind.SLOW_STREAM) if toxic.bytes_per_second]
        size = max(1, round(min(rates) / DRIPS_PER_S)) if rates else max(1, len(data))
        due_ns = self._server.pacemaker.now_ns()
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if rates:
                due_ns += round(len(piece) / min(rates) * NS_PER_S)
                await self._server.pacemaker.until(due_ns, self.flight)
            await self._emit({"type": "http.response.body", "body": piece, "more_body": True})

    async def _emit(self, message: Mapping[str, Any]) -> None:
        """Hand a message to the server, unless a toxic has ended the answer; while something is frozen, wait."""
        await self._thaw()
        if not self._ended:
            await self._to_client(dict(message))

    async def _end_if(self, due: Callable[[Toxic], bool]) -> None:
        """End the answer where a toxic that is due says so. What was sent before leaves first."""
        toxic = next(filter(due, self._of(Kind.CUT, Kind.RESET)), None)
        if toxic is None or self._ended:
            return
        await self._thaw()
        self._ended = True
        connection = self._scope["extensions"][CONNECTION]
        if toxic.kind is Kind.RESET:
            connection["reset"]()
        elif toxic.terminated and self._events:
            await self._to_client({"type": "http.response.body", "body": b""})
        else:
            connection["close"]()

    async def _thaw(self) -> None:
        """Wait until no freeze has a window open."""
        for toxic in self._of(Kind.FREEZE):
            ends_s = toxic.open_until_s(self._server.now_s())
            if ends_s is not None:
                await self._server.pacemaker.until(self._server.instant_ns(ends_s), self.flight)

    async def _hold(self, kind: Kind) -> None:
        """Wait for the milliseconds of each toxic of this kind."""
        wait_ms = sum(toxic.ms + self._rng.uniform(-toxic.jitter_ms, toxic.jitter_ms) for toxic in self._of(kind))
        if wait_ms > 0:
            await self._server.pacemaker.until(
                self._server.pacemaker.now_ns() + round(wait_ms * NS_PER_MS), self.flight
            )

    def _has(self, kind: Kind) -> bool:
        return any(self._of(kind))

    def _of(self, *kinds: Kind) -> Iterator[Toxic]:
        return (toxic for toxic in self._toxics if toxic.kind in kinds)
