"""RequestSpec: what to send, ready to go on the wire. Knows nothing of time, sockets, credentials or dialects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

import orjson

from loadgen.answers import Answer
from loadgen.tokens import BYTES_PER_TOKEN, EMBEDDED_IMAGE_TOKENS, prompt_tokens, text_tokens

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


class Route(StrEnum):
    """What is asked of the deployment; each has a path and a body of its own."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    IMAGE_EMBEDDINGS = "image embeddings"
    __hash__ = str.__hash__  # it is looked up for each request, and an enumeration's own is a function in Python

    @property
    def path(self) -> str:
        return _PATHS[self]

    @property
    def embeds(self) -> bool:
        """Its answers are vectors: no choices, no completion tokens."""
        return self in (Route.EMBEDDINGS, Route.IMAGE_EMBEDDINGS)


_PATHS = {
    Route.CHAT: "/chat/completions",
    Route.COMPLETIONS: "/completions",
    Route.EMBEDDINGS: "/embeddings",
    Route.IMAGE_EMBEDDINGS: "/images/embeddings",  # of the azure dialect alone
}
# What the Azure API defines for some routes and not for others; any other parameter goes with every request.
_OF_TEXT = frozenset(("temperature", "top_p", "presence_penalty", "frequency_penalty", "stop", "seed"))
_OF_CHAT = frozenset(("response_format", "tool_choice", "modalities"))
_OF_VECTORS = frozenset(("dimensions", "encoding_format", "input_type"))
MADE_HERE = frozenset(("messages", "prompt", "input", "stream", "stream_options", "max_tokens", "model", "tools"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSpec:
    """One request's body and what is known about it before it is sent.

    `check` is given the answer of a request that ended well and says what is wrong with it, in a short code, or None;
    the code becomes the row's `error`, and the outcome stays ok.
    """

    scenario: str
    body: bytes  # a JSON object without model and stream_options, which the endpoint's dialect adds
    stream: bool
    prompt_tokens: int  # estimated by tokens.ESTIMATOR
    max_tokens: int
    completion_tokens: int | None = None  # what a trace says came back; only the simulator can be asked for it
    route: Route = Route.CHAT
    keep_answer: bool = False  # the sender gets what was answered, not only its figures
    check: Callable[[Answer], str | None] | None = None


def chat(
    scenario: str,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    stream: bool = False,
    images: Iterable[tuple[int, int]] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    extra: Mapping[str, Any] | None = None,
    completion_tokens: int | None = None,
    keep_answer: bool = False,
    check: Callable[[Answer], str | None] | None = None,
) -> RequestSpec:
    """A chat completion. `images` are the (width, height) in pixels of those within `messages`; `extra` are further
    fields of the body."""
    body: dict[str, Any] = {"messages": messages, "max_tokens": max_tokens}
    if stream:
        body["stream"] = True
    if tools:
        body["tools"] = tools
    return RequestSpec(
        scenario=scenario,
        body=orjson.dumps(body if extra is None else body | dict(extra)),
        stream=stream,
        prompt_tokens=prompt_tokens(messages, images, tools),
        max_tokens=max_tokens,
        completion_tokens=completion_tokens,
        keep_answer=keep_answer,
        check=check,
    )


def completion(
    scenario: str,
    prompt: str,
    *,
    max_tokens: int,
    stream: bool = False,
    extra: Mapping[str, Any] | None = None,
    completion_tokens: int | None = None,
) -> RequestSpec:
    """A text that is to go on."""
    body = {"prompt": prompt, "max_tokens": max_tokens} | ({"stream": True} if stream else {}) | dict(extra or {})
    return RequestSpec(
        scenario=scenario,
        body=orjson.dumps(body),
        stream=stream,
        prompt_tokens=text_tokens(prompt),
        max_tokens=max_tokens,
        completion_tokens=completion_tokens,
        route=Route.COMPLETIONS,
    )


def embedding(scenario: str, texts: Sequence[str], *, extra: Mapping[str, Any] | None = None) -> RequestSpec:
    """A vector for each text."""
    return RequestSpec(
        scenario=scenario,
        body=orjson.dumps({"input": texts} | dict(extra or {})),
        stream=False,
        prompt_tokens=sum(map(text_tokens, texts)),
        max_tokens=0,
        route=Route.EMBEDDINGS,
    )


def image_embedding(scenario: str, pictures: Sequence[str], *, extra: Mapping[str, Any] | None = None) -> RequestSpec:
    """A vector for each picture, given as data URLs."""
    return RequestSpec(
        scenario=scenario,
        body=orjson.dumps({"input": [{"image": url} for url in pictures]} | dict(extra or {})),
        stream=False,
        prompt_tokens=EMBEDDED_IMAGE_TOKENS * len(pictures),
        max_tokens=0,
        route=Route.IMAGE_EMBEDDINGS,
    )


def opening_of(
    route: Route, parameters: Mapping[str, Any], *, model: str | None, usage_in_stream: bool
) -> bytes | None:
    """What a body of this route begins with instead of its brace: the parameters that go there, and the openai
    dialect's model and wish for usage at the end of a stream. None where that is only the brace."""
    elsewhere = _OF_TEXT | _OF_CHAT if route.embeds else _OF_VECTORS
    if route is Route.COMPLETIONS:
        elsewhere |= _OF_CHAT
    fields = {name: value for name, value in parameters.items() if name not in elsewhere}
    if model is not None:
        fields["model"] = model
    if usage_in_stream:
        fields["stream_options"] = {"include_usage": True}
    return orjson.dumps(fields)[:-1] + b"," if fields else None


def text_of(random: Random, tokens: int) -> str:
    """English words that count exactly `tokens` by the estimator."""
    length = max(0, tokens) * BYTES_PER_TOKEN
    words = random.choices(WORDS, k=length // 3 + 1)
    return " ".join(words)[:length].ljust(length, "s")
