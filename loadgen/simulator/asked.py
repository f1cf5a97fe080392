"""What stands between the routes, which know requests and bytes, and the deployment, which knows limits and time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from starlette.types import Send

from loadgen.simulator.autoscale import ScaleEvent
from loadgen.simulator.fleet import InstanceView
from loadgen.simulator.pace import Flight
from loadgen.simulator.refusals import Refusal


class Events(Protocol):
    """The server-sent events of one answer, each with its empty line."""

    @property
    def role(self) -> bytes:
        """What leaves with the first token, before it; may be empty."""
        ...

    def token(self, index: int) -> bytes:
        """The event of the token at `index`."""
        ...

    def end(self) -> bytes:
        """What leaves after the last token, the terminator included."""
        ...


class Answer(Protocol):
    """What will be said, fixed when the request is admitted."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    def whole(self) -> bytes:
        """The body of an answer that is not streamed: one JSON object."""
        ...

    def events(self) -> Events: ...


class Asked(Protocol):
    """A request, read and checked."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def context_tokens(self) -> int:
        """What the context must hold: of several prompts in one request, the longest."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """What the request allows at most; None where it sets no limit."""
        ...

    @property
    def stream(self) -> bool: ...
    @property
    def param(self) -> str:
        """The field that holds the prompt, for whoever refuses it."""
        ...

    def compose(self, rng: random.Random, *, room_tokens: int, length: Callable[[random.Random], int]) -> Answer:
        """The answer, drawn from `rng`: `length(rng)` tokens unless `room_tokens` or the request itself cut it."""
        ...


class Pace(Protocol):
    """When the tokens of one answer are there."""

    generated_tokens: int

    @property
    def sure(self) -> bool:
        """Whether no failure can come any more, so that the headers may leave before the first token."""
        ...

    async def token(self) -> bool:
        """Wait for the next token; False if it will never come."""
        ...

    async def all_of(self, tokens: int) -> bool:
        """Wait for all of them; False if they will never come."""
        ...

    def failure(self) -> Refusal | None:
        """Why they will never come; None where the client left or the server ends."""
        ...


class Compute(Protocol):
    """What a deployment runs on: serverless or managed."""

    def begin(self, asked: Asked, answer: Answer, rng: random.Random, flight: Flight) -> Pace:
        """Admit the request and start on its answer. Raises Refusal, having taken nothing."""
        ...

    def end(self, pace: Pace, answer: Answer) -> None:
        """The answer is over, complete or not."""
        ...

    def headers(self) -> dict[str, str]:
        """What every answer carries."""
        ...

    async def take_in(self, body_bytes: int, flight: Flight) -> dict[str, str]:
        """Wait until a request's body is through the network; the headers that tell of it."""
        ...

    def through_pipe(self, send: Send, flight: Flight) -> Send:
        """`send`, as slow as the network makes it."""
        ...

    def instances(self) -> list[InstanceView]:
        """The instances there are; none where nobody can see them."""
        ...

    def scaled(self) -> list[ScaleEvent]:
        """How the number of instances has changed."""
        ...

    def kill(self, number: int) -> None:
        """An instance dies. Raises ConfigError for one that is not there."""
        ...

    def close(self) -> None:
        """Do nothing more."""
        ...
