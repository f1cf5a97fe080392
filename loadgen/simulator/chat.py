"""What a chat request asks for: its body read, checked and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

import orjson

from loadgen.simulator.answers import Answer, UsageWhere
from loadgen.simulator.images import image_size
from loadgen.simulator.refusals import bad_request, invalid
from loadgen.tokens import prompt_tokens

ROLES = ("system", "user", "assistant", "tool")
RANGES = {  # of the API reference; temperature as the documentation has it, up to what OpenAI's dialect allows
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}


class Dialect(StrEnum):
    AZURE = "azure"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A valid request. `max_tokens` is None where the request sets no limit."""

    dialect: Dialect
    model: str
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool  # in a chunk of its own, as OpenAI's dialect asks for it

    def compose(self, rng: Random, *, room_tokens: int, length: Callable[[Random], int]) -> Answer:
        """The answer, drawn from `rng`: its id, its words and, where nothing cuts it, its length."""
        answer_id, first_word = f"{rng.getrandbits(128):032x}", rng.getrandbits(16)
        wanted_tokens = length(rng)
        ceiling = room_tokens if self.max_tokens is None else min(room_tokens, self.max_tokens)
        return Answer(
            id=answer_id,
            created_s=int(time.time()),
            model=self.model,
            first_word=first_word,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=min(wanted_tokens, ceiling),
            finish_reason="length" if wanted_tokens >= ceiling else "stop",
            usage_where=UsageWhere.LAST_EVENT
            if self.dialect is Dialect.AZURE
            else (UsageWhere.EVENT_OF_ITS_OWN if self.include_usage else UsageWhere.NOWHERE),
        )


def parse_chat(body: bytes, dialect: Dialect, model: str) -> ChatRequest:
    """Read and check a request's body. Raises Refusal: 400 for broken JSON and images, 422 for wrong values."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise bad_request("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise invalid((), fields)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid(("messages",), messages)
    images = [_image_of(message, index) for index, message in enumerate(messages)]
    _check_sampling(fields)
    limit = "max_tokens"
    if dialect is Dialect.OPENAI and fields.get("max_completion_tokens") is not None:
        limit = "max_completion_tokens"
    return ChatRequest(
        dialect=dialect,
        model=model,
        # Of several turns with an image, Phi-3-vision keeps only the last in its context.
        prompt_tokens=prompt_tokens(messages, [size for size in images if size is not None][-1:]),
        max_tokens=_count(fields, limit),
        stream=_flag(fields, (), "stream"),
        include_usage=dialect is Dialect.OPENAI
        and _flag(_stream_options(fields), ("stream_options",), "include_usage"),
    )


def _image_of(message: Any, index: int) -> tuple[int, int] | None:
    """The size of a message's image; None where it has none. Raises Refusal unless the message is well formed."""
    loc = ("messages", index)
    if not isinstance(message, dict):
        raise invalid(loc, message)
    if message.get("role") not in ROLES:
        raise invalid((*loc, "role"), message.get("role"))
    content = message.get("content")
    if isinstance(content, str) or (content is None and message["role"] == "assistant"):
        return None
    if not isinstance(content, list) or not content:
        raise invalid((*loc, "content"), content)
    urls = [
        url for place, part in enumerate(content) if (url := _image_url(part, (*loc, "content", place))) is not None
    ]
    param = f"messages[{index}].content"
    if len(urls) > 1:
        raise bad_request(f"A message may hold one image, not {len(urls)}.", param=param)
    return image_size(urls[0], param) if urls else None


def _image_url(part: Any, loc: tuple[str | int, ...]) -> str | None:
    """The URL of an image part, None for a text part."""
    if not isinstance(part, dict) or part.get("type") not in ("text", "image_url"):
        raise invalid(loc, part.get("type") if isinstance(part, dict) else part)
    if part["type"] == "text":
        if not isinstance(part.get("text"), str):
            raise invalid((*loc, "text"), part.get("text"))
        return None
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    # `text` beside an image would be counted as prompt although no model reads it.
    if not isinstance(url, str) or "text" in part:
        raise invalid((*loc, "image_url"), image)
    return url


def _check_sampling(fields: Mapping[str, Any]) -> None:
    for name, (least, most) in RANGES.items():
        value = fields.get(name)
        if value is not None and not (_is_number(value) and least <= value <= most):
            raise invalid((name,), value)
    if fields.get("n") not in (None, 1):
        raise invalid(("n",), fields["n"], code="parameter_not_supported")
    stop = fields.get("stop")
    if not (
        stop is None or isinstance(stop, str) or (isinstance(stop, list) and all(isinstance(s, str) for s in stop))
    ):
        raise invalid(("stop",), stop)
    shape = fields.get("response_format")
    kind = shape.get("type") if isinstance(shape, dict) else shape
    if kind in ("json_object", "json_schema"):  # Phi-3 models write text only
        raise invalid(("response_format",), kind, code="parameter_not_supported")
    if shape is not None and kind != "text":
        raise invalid(("response_format",), shape)


def _stream_options(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    options = fields.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise invalid(("stream_options",), options)
    return options


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise invalid((name,), value)


def _flag(fields: Mapping[str, Any], loc: tuple[str, ...], name: str) -> bool:
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise invalid((*loc, name), value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
