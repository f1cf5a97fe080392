"""Token counts before sending, by one stated rule.

No tokenizer is shipped: the estimate paces the load, and the server's `usage` corrects it afterwards. The simulator
counts by the same rule, so against it the estimate is exact. The rule:

- A text counts its UTF-8 bytes over four, rounded up.
- A message counts 4 and its texts; a tool call in it its function's name and its arguments, as two texts.
- A tool that is offered counts its `function`, written as JSON without spaces, as one text.
- An image counts what Phi-3-vision makes of its size (`image_tokens`).
- A prompt of /completions and an input of /embeddings count their text, or their tokens where they are given as such;
  an image that is embedded counts EMBEDDED_IMAGE_TOKENS whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

ESTIMATOR = "bytes/4"  # the name of the rule in the record
BYTES_PER_TOKEN = 4  # of English text, within some 20 % for the tokenizers in use
TOKENS_PER_MESSAGE = 4  # role and separators
MOST_CROPS = 16
EMBEDDED_IMAGE_TOKENS = 144  # one crop of Phi-3-vision; what embedding models count is not documented


def text_tokens(text: str) -> int:
    """UTF-8 bytes over four, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def image_tokens(width_px: int, height_px: int) -> int:
    """Tokens of one image for Phi-3-vision.

    Its image processor cuts an image into crops of 336 pixels, 16 at most; 1900x1069 costs 2,353, which with 27 of
    text is the documented 2,380.
    """
    long_px, short_px = max(width_px, height_px), min(width_px, height_px)
    ratio = long_px / short_px
    columns = max((s for s in range(1, MOST_CROPS + 1) if s * math.ceil(s / ratio) <= MOST_CROPS), default=1)
    rows = math.ceil(columns / ratio)
    across, down = (columns, rows) if width_px >= height_px else (rows, columns)
    return (across * down + 1) * 144 + 1 + (down + 1) * 12


def call_tokens(name: str, arguments: str) -> int:
    """Tokens of one tool call, as an answer and as part of a later prompt."""
    return text_tokens(name) + text_tokens(arguments)


def prompt_tokens(
    messages: Iterable[Mapping[str, Any]],
    images: Iterable[tuple[int, int]] = (),
    tools: Iterable[Mapping[str, Any]] = (),
) -> int:
    """Tokens of a chat prompt: its messages, its images by their (width, height) in pixels, and the tools offered."""
    total = 0
    for message in messages:
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        total += TOKENS_PER_MESSAGE + sum(text_tokens(part) for part in parts)
        if calls := message.get("tool_calls"):
            total += sum(call_tokens(call["function"]["name"], call["function"]["arguments"]) for call in calls)
    total += sum(image_tokens(width_px, height_px) for width_px, height_px in images)
    return total + sum(text_tokens(orjson.dumps(tool["function"]).decode()) for tool in tools)
