"""Prompts and inputs that are texts or tokens: one, or several in one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from loadgen.simulator.refusals import invalid
from loadgen.tokens import text_tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` is None where it came as tokens; `content` is what it is, as bytes."""

    tokens: int
    content: bytes
    text: str | None = None


def read_prompts(fields: Mapping[str, Any], name: str, most: int) -> list[Prompt]:
    """A string, strings, tokens or lists of tokens: at least one and at `most` so many. Raises Refusal (422)."""
    given = fields.get(name)
    if isinstance(given, str):
        return [_of_text(given)]
    if not isinstance(given, list) or not given:
        raise invalid((name,), given)
    if all(_is_token(one) for one in given):
        return [_of_tokens(given)]
    if len(given) > most:
        raise invalid((name,), given)
    prompts = []
    for index, one in enumerate(given):
        if isinstance(one, str):
            prompts.append(_of_text(one))
        elif isinstance(one, list) and one and all(_is_token(token) for token in one):
            prompts.append(_of_tokens(one))
        else:
            raise invalid((name, index), one)
    return prompts


def _of_text(text: str) -> Prompt:
    return Prompt(text_tokens(text), text.encode(), text)


def _of_tokens(tokens: list[int]) -> Prompt:
    return Prompt(len(tokens), orjson.dumps(tokens))


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
