"""RequestSpec: what to send, ready to go on the wire. Knows nothing of time, sockets or credentials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from loadgen.tokens import BYTES_PER_TOKEN, prompt_tokens

Message = Mapping[str, Any]

_PROSE = """
the of and to in is that for it as was with be by on not he his but at are this have from which one had all when
there can more if no out so what time up go about than into could state only new year some take come these know
see use get like then first any work now may such give over think most even find day also after way many must
look before great back through long where much should well people down own just because good each those feel
seem how high too place little world very still nation hand old life tell write become here show house both
between need mean call develop under last right move thing general school never same another begin while number
part turn real leave might want point
"""
WORDS = tuple(_PROSE.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSpec:
    """One request's body and what is known about it before it is sent."""

    scenario: str
    body: bytes
    stream: bool
    prompt_tokens: int  # estimated by tokens.ESTIMATOR
    max_tokens: int
    completion_tokens: int | None = None  # what a trace says came back; only the simulator can be asked for it


def chat(
    scenario: str,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    stream: bool = False,
    images: Iterable[tuple[int, int]] = (),
    openai_model: str | None = None,
    completion_tokens: int | None = None,
) -> RequestSpec:
    """A chat completion. `images` are the (width, height) in pixels of those within `messages`.

    With `openai_model` the body is of the openai dialect: it names the model, and asks for usage at the end of a
    stream, which the Azure dialect sends unasked and refuses to be asked for.
    """
    body: dict[str, Any] = {"messages": messages, "max_tokens": max_tokens}
    if stream:
        body["stream"] = True
    if openai_model is not None:
        body["model"] = openai_model
        if stream:
            body["stream_options"] = {"include_usage": True}
    return RequestSpec(
        scenario=scenario,
        body=orjson.dumps(body),
        stream=stream,
        prompt_tokens=prompt_tokens(messages, images),
        max_tokens=max_tokens,
        completion_tokens=completion_tokens,
    )


def text_of(random: Random, tokens: int) -> str:
    """English words that count exactly `tokens` by the estimator."""
    length = max(0, tokens) * BYTES_PER_TOKEN
    words = random.choices(WORDS, k=length // 3 + 1)
    return " ".join(words)[:length].ljust(length, "s")
