"""Managed compute in real time: the endpoint's model, woken at each of its instants, under the requests of sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import Message, Send

from loadgen.simulator.asked import Answer, Asked, Pace
from loadgen.simulator.autoscale import ScaleEvent
from loadgen.simulator.batching import BatchingModel, Outcome, Sequence
from loadgen.simulator.endpoint import Endpoint, EndpointSettings, Refused
from loadgen.simulator.fleet import InstanceView
from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.refusals import Refusal, bad_request, plain
from loadgen.simulator.units import NEVER_NS, NS_PER_MS, NS_PER_S

BANDWIDTH_BURST_NS = NS_PER_S  # the limit is one per second: what one second allows is not delayed


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedSettings:
    """`batching` is how the model is served on one instance of `sku`."""

    sku: str
    batching: BatchingModel
    endpoint: EndpointSettings

    def __str__(self) -> str:
        """For the line that a person reads."""
        return f"managed, {self.endpoint.instances} x {self.sku}"


class Managed:
    """Drives one Endpoint. What it delays or fails is said in the headers documented for such endpoints."""

    def __init__(self, name: str, settings: ManagedSettings, pacemaker: Pacemaker) -> None:
        self._name, self._pacemaker = name, pacemaker
        self._endpoint = Endpoint(settings.batching, settings.endpoint, pacemaker.now_ns())
        self._streams: set[Batched] = set()  # told of each token
        self._waiting: dict[Sequence, Batched] = {}  # told of their end
        self._nap, self._due_ns = Flight(), NEVER_NS
        self._driver = asyncio.ensure_future(self._drive())
        self._driver.add_done_callback(self._end_all)

    def begin(self, asked: Asked, answer: Answer, rng: random.Random, flight: Flight) -> Batched:  # noqa: ARG002
        """Hand the request to an instance. Raises Refusal: 429, 503, or 400 for what no instance can hold."""
        if self._driver.done():
            raise _broken()
        given = self._endpoint.submit(
            self._pacemaker.now_ns(), answer.prompt_tokens, answer.completion_tokens, streamed=asked.stream
        )
        if isinstance(given, Refused):
            raise _refusal(given, asked.param)
        pace = Batched(given, flight)
        self._waiting[given] = pace
        if asked.stream:
            self._streams.add(pace)
        self._wake_if_due()
        return pace

    def end(self, pace: Pace, answer: Answer) -> None:  # noqa: ARG002 - an endpoint has no quota to settle with
        """The answer is over; if its client left, so does the sequence."""
        assert isinstance(pace, Batched)
        self._streams.discard(pace)
        self._waiting.pop(pace.sequence, None)
        self._endpoint.leave(self._pacemaker.now_ns(), pace.sequence)

    def headers(self) -> dict[str, str]:
        return {"azureml-model-deployment": self._name}

    async def take_in(self, body_bytes: int, flight: Flight) -> dict[str, str]:
        """Let a request's body through the endpoint's pipe; the header that says how long that was delayed."""
        delay_ms = self._pacemaker.real_ns(await self._pass(body_bytes, flight)) // NS_PER_MS
        return {"ms-azureml-bandwidth-request-delay-ms": str(delay_ms)} if delay_ms else {}

    def through_pipe(self, send: Send, flight: Flight) -> Send:
        """A `send` that delays what is more than the bandwidth."""

        async def delayed(message: Message) -> None:
            await self._pass(len(message.get("body", b"")), flight)
            await send(message)

        return delayed

    def instances(self) -> list[InstanceView]:
        """Those there are now."""
        return self._endpoint.instances(self._pacemaker.now_ns())

    def scaled(self) -> list[ScaleEvent]:
        """What the autoscale rules have done so far; instants of the deployment's time."""
        return self._endpoint.scale_events

    def kill(self, number: int) -> None:
        """An instance dies and boots again. Raises ConfigError for one that is not there."""
        self._endpoint.kill(self._pacemaker.now_ns(), number)
        self._wake_if_due()

    def close(self) -> None:
        self._driver.cancel()

    async def _pass(self, n_bytes: int, flight: Flight) -> int:
        now_ns = self._pacemaker.now_ns()
        delay_ns = self._endpoint.transfer(now_ns, n_bytes) - BANDWIDTH_BURST_NS
        if delay_ns <= 0:
            return 0
        await self._pacemaker.until(now_ns + delay_ns, flight)
        return delay_ns

    async def _drive(self) -> None:
        """Take the endpoint from one of its instants to the next."""
        while True:
            due_ns = self._endpoint.next_ns()
            self._nap = Flight()
            if due_ns is None:
                self._due_ns = NEVER_NS
                await self._nap.until_cut()
            else:
                self._due_ns = due_ns
                await self._pacemaker.until(due_ns, self._nap)
            ended = self._endpoint.advance(self._pacemaker.now_ns())
            for pace in self._streams:
                pace.tell()
            for sequence in ended:
                if (waiting := self._waiting.get(sequence)) is not None:
                    waiting.tell()
            await asyncio.sleep(0)  # where iterations are shorter than this turn was, the answers still get theirs

    def _end_all(self, driver: asyncio.Future[None]) -> None:
        """Nobody waits for a driver that is gone; what ended it is raised in the loop, which prints it."""
        for pace in self._waiting.values():
            pace.lose()
        if not driver.cancelled():
            driver.result()

    def _wake_if_due(self) -> None:
        """What was just done may have brought the endpoint's next instant forward."""
        due_ns = self._endpoint.next_ns()
        if due_ns is not None and due_ns < self._due_ns:
            self._nap.cut()


class Batched:
    """The tokens of one answer, as its instance makes them."""

    sure = False
    __slots__ = ("_flight", "_lost", "_wake", "generated_tokens", "sequence")

    def __init__(self, sequence: Sequence, flight: Flight) -> None:
        self.sequence, self._flight = sequence, flight
        self.generated_tokens = 0  # that were waited for
        self._lost = False
        self._wake: asyncio.Future[None] | None = None

    def tell(self) -> None:
        """Something may have come."""
        if self._wake is not None and not self._wake.done() and self._has_come():
            self._wake.set_result(None)

    def lose(self) -> None:
        """Nobody will make the tokens that are missing."""
        self._lost = True
        self.tell()

    async def token(self) -> bool:
        """Wait for the next token; False if it will never come."""
        while not self._has_come():
            if self._flight.cut_off:
                return False
            self._wake = asyncio.get_running_loop().create_future()
            self._flight.waits_for(self._wake)
            await self._wake
        if self.sequence.generated_tokens > self.generated_tokens:
            self.generated_tokens += 1
            return not self._flight.cut_off
        return self.sequence.outcome is Outcome.OK

    async def all_of(self, tokens: int) -> bool:
        """Wait for the last of `tokens`; False if it will never come."""
        self.generated_tokens = max(0, tokens - 1)
        return await self.token()

    def failure(self) -> Refusal | None:
        """408 or 424; None where the client left or the server ends."""
        match self.sequence.outcome:
            case Outcome.TIMED_OUT:
                return plain(408, "request_timeout", "The model did not answer within the deployment's time limit.")
            case Outcome.FAILED:
                return plain(424, "failed_dependency", "The instance that had the request is gone.", MODEL_ERROR)
            case _:
                return _broken() if self._lost else None

    def _has_come(self) -> bool:
        """A token, the end, or that there will be neither."""
        sequence = self.sequence
        return sequence.generated_tokens > self.generated_tokens or sequence.outcome is not None or self._lost


MODEL_ERROR: Mapping[str, str] = {
    "ms-azureml-model-error-statuscode": "502",
    "ms-azureml-model-error-reason": "model_error",
}


def _broken() -> Refusal:
    return plain(500, "internal_error", "The simulation of the instances has failed; its server's stderr says why.")


def _refusal(refused: Refused, param: str) -> Refusal:
    match refused.status:
        case 400:
            return bad_request(refused.reason, code="context_length_exceeded", param=param)
        case 429:
            return plain(429, "too_many_requests", refused.reason)
        case _:
            return plain(503, "service_unavailable", refused.reason)
