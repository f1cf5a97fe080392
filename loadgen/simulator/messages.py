"""The messages of a chat request: their roles, their texts, their pictures and their tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.simulator.images import image_size
from loadgen.simulator.models import Images, Model
from loadgen.simulator.parameters import UNSUPPORTED, Dialect, Terms
from loadgen.simulator.refusals import bad_request, invalid
from loadgen.tokens import prompt_tokens

ROLES = {
    Dialect.AZURE: frozenset({"system", "user", "assistant", "tool"}),
    Dialect.OPENAI: frozenset({"system", "developer", "user", "assistant", "tool"}),
}
DETAILS = (None, "auto", "low", "high")

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages that are well formed, counted."""

    prompt_tokens: int
    texts: Sequence[str]
    asks: bool  # the last message is the user's, so that a tool may be called


def read_messages(messages: Any, tools: Sequence[Any], terms: Terms) -> Conversation:
    """Raises Refusal: 400 for images that cannot be read, 422 for what is malformed or beyond the model."""
    if not isinstance(messages, list) or not messages:
        raise invalid(("messages",), messages)
    texts: list[str] = []
    images: list[tuple[int, int]] = []
    roles = ROLES[terms.dialect]
    for index, message in enumerate(messages):
        loc = ("messages", index)
        if not isinstance(message, dict):
            raise invalid(loc, message)
        role = message.get("role")
        if not isinstance(role, str) or role not in roles:
            raise invalid((*loc, "role"), role)
        if message.get("tool_calls") is not None:
            _check_calls(message["tool_calls"], (*loc, "tool_calls"))
        if not isinstance(message.get("tool_call_id"), str | None):
            raise invalid((*loc, "tool_call_id"), message["tool_call_id"])
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif content is not None or role != "assistant":
            images += _read_parts(content, loc, terms.model, texts)
    if terms.model.images is Images.ONE:
        images = images[-1:]  # of several turns with an image, Phi-3-vision keeps only the last in its context
    return Conversation(prompt_tokens=prompt_tokens(messages, images, tools), texts=texts, asks=role == "user")


def _read_parts(content: Any, loc: Place, model: Model, texts: list[str]) -> list[tuple[int, int]]:
    """The sizes of a message's images; its texts are added to `texts`."""
    if not isinstance(content, list) or not content:
        raise invalid((*loc, "content"), content)
    urls = []
    for place, part in enumerate(content):
        where = (*loc, "content", place)
        if (url := _image_url(part, where)) is None:
            texts.append(part["text"])
        elif model.images is Images.NONE:
            raise invalid(where, "image_url", code=UNSUPPORTED)
        else:
            urls.append(url)
    param = f"messages[{loc[1]}].content"
    if len(urls) > 1 and model.images is Images.ONE:
        raise bad_request(f"A message may hold one image, not {len(urls)}.", param=param)
    return [image_size(url, param) for url in urls]


def _image_url(part: Any, loc: Place) -> str | None:
    """The URL of an image part, None for a text part."""
    if not isinstance(part, dict) or part.get("type") not in ("text", "image_url"):
        raise invalid(loc, part.get("type") if isinstance(part, dict) else part)
    if part["type"] == "text":
        if not isinstance(part.get("text"), str):
            raise invalid((*loc, "text"), part.get("text"))
        return None
    image = part.get("image_url")
    url, detail = (image.get("url"), image.get("detail")) if isinstance(image, dict) else (None, None)
    # `text` beside an image would be counted as prompt although no model reads it.
    if not isinstance(url, str) or "text" in part or detail not in DETAILS:
        raise invalid((*loc, "image_url"), image)
    return url


def _check_calls(calls: Any, loc: Place) -> None:
    """What an assistant turn says it called: each with the name and the arguments of a function, both strings."""
    if not isinstance(calls, list):
        raise invalid(loc, calls)
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not (
            isinstance(function, dict)
            and isinstance(function.get("name"), str)
            and isinstance(function.get("arguments"), str)
        ):
            raise invalid((*loc, index), call)
