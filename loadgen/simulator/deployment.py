"""A deployment at work: each request is composed, admitted, and answered token by token or whole."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Receive, Send

from loadgen.simulator.asgi import cut_on_disconnect, send_refusal, send_whole, start
from loadgen.simulator.asked import Answer, Asked, Compute, Events, Pace
from loadgen.simulator.faults import Faults
from loadgen.simulator.managed import Managed, ManagedSettings
from loadgen.simulator.models import Kind, Model
from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.refusals import Refusal, bad_request, plain
from loadgen.simulator.safety import Safety
from loadgen.simulator.serverless import Serverless, ServerlessSettings
from loadgen.simulator.serving import Lengths, rng_of
from loadgen.simulator.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is simulated: `compute` makes it serverless or managed, and only the first has a content filter."""

    model: Model
    compute: ServerlessSettings | ManagedSettings
    safety: Safety | None = None
    lengths: Lengths = field(default_factory=Lengths)
    seed: int = 1
    key: str | None = field(default=None, repr=False)
    time_scale: float = 1.0
    faults: Faults | None = None

    @property
    def kind(self) -> Kind:
        """What it runs on."""
        return Kind.MANAGED if isinstance(self.compute, ManagedSettings) else Kind.SERVERLESS

    def __str__(self) -> str:
        """In a line, for whoever starts it by hand."""
        return f"{self.model.name}, {self.compute}"


@dataclass(slots=True, kw_only=True)
class Turn:
    """An admitted request until it is answered."""

    answer: Answer
    stream: bool
    pace: Pace
    headers: dict[str, str]


class Deployment:
    """Lives in one event loop."""

    def __init__(self, settings: Settings, pacemaker: Pacemaker) -> None:
        self.settings, self._pacemaker = settings, pacemaker
        self.started_ns = pacemaker.now_ns()
        self.compute = compute_of(settings, pacemaker)
        self._flights: set[Flight] = set()
        self._admitted = 0
        self._stopping = False

    @property
    def age_s(self) -> float:
        """Of its own time, which may run faster."""
        return (self._pacemaker.now_ns() - self.started_ns) / NS_PER_S

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return len(self._flights)

    def close(self) -> None:
        """Admit nothing more; what is running goes on."""
        self._stopping = True

    def stop(self) -> None:
        """Cut what is running, and admit nothing more."""
        self.close()
        for flight in self._flights:
            flight.cut()

    async def answer(
        self, asked: Asked, wanted_tokens: int | None, receive: Receive, send: Send, *, body_bytes: int
    ) -> None:
        """Admit the request and answer it; `wanted_tokens` is the length to generate, None to draw it.

        Raises Refusal before anything was sent.
        """
        flight = Flight()
        self._flights.add(flight)
        watch = asyncio.ensure_future(cut_on_disconnect(receive, flight))
        try:
            delayed = await self.compute.take_in(body_bytes, flight)
            if flight.cut_off and not self._stopping:
                return  # its client has left
            await self._answer(self._admit(asked, wanted_tokens, flight), delayed, send, flight)
        finally:
            watch.cancel()
            self._flights.discard(flight)

    async def _answer(self, turn: Turn, headers: dict[str, str], send: Send, flight: Flight) -> None:
        turn.headers |= headers
        send = self.compute.through_pipe(send, flight)
        try:
            if turn.stream:
                await self._stream(turn, turn.answer.events(), send)
            else:
                await self._whole(turn, send)
        finally:
            self.compute.end(turn.pace, turn.answer)

    def _admit(self, asked: Asked, wanted_tokens: int | None, flight: Flight) -> Turn:
        context_tokens = self.settings.model.context_tokens
        room_tokens = context_tokens - asked.context_tokens
        if room_tokens < 0:
            message = f"The prompt has {asked.context_tokens} tokens; the context holds {context_tokens}."
            raise bad_request(message, code="context_length_exceeded", param=asked.param)
        if self._stopping:
            raise _stopping()
        rng = rng_of(self.settings.seed, self._admitted)
        answer = asked.compose(rng, room_tokens=room_tokens, length=self._length(wanted_tokens))
        pace = self.compute.begin(asked, answer, rng, flight)
        self._admitted += 1
        return Turn(answer=answer, stream=asked.stream, pace=pace, headers=self.compute.headers())

    def _length(self, wanted_tokens: int | None) -> Callable[[random.Random], int]:
        def length(rng: random.Random) -> int:
            drawn_tokens = self.settings.lengths.completion_tokens(rng)  # always: what follows must not depend on it
            return drawn_tokens if wanted_tokens is None else wanted_tokens

        return length

    async def _stream(self, turn: Turn, events: Events, send: Send) -> None:
        """The headers leave as soon as nothing can fail, the role with the first token, the finish with the last."""
        pace, last = turn.pace, turn.answer.completion_tokens - 1
        there = not pace.sure and await pace.token()
        if not (pace.sure or there):
            await send_refusal(send, pace.failure() or _stopping())
            return
        await send(start(200, {"content-type": "text/event-stream"} | turn.headers))
        message = {"type": "http.response.body", "body": b"", "more_body": True}  # one for all: the server keeps none
        ahead, index = events.role, 0
        while there or await pace.token():
            there = False
            if index >= last:
                end = (events.token(index) if last >= 0 else b"") + events.end()
                await send({"type": "http.response.body", "body": ahead + end})
                return
            message["body"] = ahead + events.token(index)
            await send(message)
            index, ahead = index + 1, b""
        await send({"type": "http.response.body", "body": b""})  # cut: the stream ends without its terminator

    async def _whole(self, turn: Turn, send: Send) -> None:
        if await turn.pace.all_of(turn.answer.completion_tokens):
            await send_whole(send, 200, {"content-type": "application/json"} | turn.headers, turn.answer.whole())
        else:
            await send_refusal(send, turn.pace.failure() or _stopping())


def compute_of(settings: Settings, pacemaker: Pacemaker) -> Compute:
    """What the deployment runs on."""
    if isinstance(settings.compute, ManagedSettings):
        return Managed(settings.model.name, settings.compute, pacemaker)
    return Serverless(settings.compute, pacemaker)


def _stopping() -> Refusal:
    return plain(503, "service_unavailable", "The deployment is stopping.")
