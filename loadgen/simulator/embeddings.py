"""/embeddings and /images/embeddings: vectors that depend on the input alone, and are similar to nothing but it."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from loadgen.simulator.asked import Events
from loadgen.simulator.images import image_size
from loadgen.simulator.parameters import Extras, Terms, count, read_fields
from loadgen.simulator.prompts import Prompt, read_prompts
from loadgen.simulator.refusals import invalid
from loadgen.tokens import EMBEDDED_IMAGE_TOKENS, text_tokens

DEFINED = frozenset({"input", "dimensions", "encoding_format", "input_type", "model"})
INPUT_TYPES = (None, "text", "query", "document")
MOST_INPUTS = 96  # of one request, as Cohere has it
DIMENSIONS = 1024  # of Cohere's embedding models, and the most that can be asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A valid request: it is metered by its prompt alone."""

    model: str
    inputs: list[Prompt]
    dimensions: int
    encode: Callable[[list[float]], Any]
    param: str = "input"
    max_tokens: int = 0
    stream: bool = False

    @property
    def prompt_tokens(self) -> int:
        return sum(one.tokens for one in self.inputs)

    @property
    def context_tokens(self) -> int:
        return max(one.tokens for one in self.inputs)

    def compose(self, rng: Random, *, room_tokens: int, length: Callable[[Random], int]) -> EmbeddingAnswer:  # noqa: ARG002 - as the deployment asks; a vector has one length
        return EmbeddingAnswer(f"{rng.getrandbits(128):032x}", self)


@dataclass(frozen=True, slots=True)
class EmbeddingAnswer:
    id: str
    asked: EmbeddingRequest
    completion_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        return self.asked.prompt_tokens

    def whole(self) -> bytes:
        asked = self.asked
        data = [
            {
                "index": index,
                "object": "embedding",
                "embedding": asked.encode(unit_vector(one.content, asked.dimensions)),
            }
            for index, one in enumerate(asked.inputs)
        ]
        usage = {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens}
        return orjson.dumps({"id": self.id, "object": "list", "data": data, "model": asked.model, "usage": usage})

    def events(self) -> Events:
        raise AssertionError("embeddings are not streamed")


def parse_embeddings(body: bytes, terms: Terms, extras: Extras) -> EmbeddingRequest:
    """Texts or tokens. Raises Refusal: 400 for broken JSON, 422 for wrong values."""
    fields = read_fields(body, DEFINED, terms, extras)
    return _request(fields, read_prompts(fields, "input", MOST_INPUTS), terms)


def parse_image_embeddings(body: bytes, terms: Terms, extras: Extras) -> EmbeddingRequest:
    """Pictures as data URLs, each with a text or without. Raises Refusal as parse_embeddings, 400 for pictures too."""
    fields = read_fields(body, DEFINED, terms, extras)
    given = fields.get("input")
    if not isinstance(given, list) or not 0 < len(given) <= MOST_INPUTS:
        raise invalid(("input",), given)
    return _request(fields, [_image(one, index) for index, one in enumerate(given)], terms)


def unit_vector(content: bytes, dimensions: int) -> list[float]:
    """The same for the same content; any two others are nearly at right angles."""
    values = array("h", hashlib.shake_256(content).digest(2 * dimensions))
    norm = math.hypot(*values) or 1.0
    return [value / norm for value in values]


def _image(given: Any, index: int) -> Prompt:
    image = given.get("image") if isinstance(given, dict) else None
    if not isinstance(image, str):
        raise invalid(("input", index, "image"), image)
    text = given.get("text")
    if not isinstance(text, str | None):
        raise invalid(("input", index, "text"), text)
    image_size(image, f"input[{index}].image")
    text = text or ""
    return Prompt(EMBEDDED_IMAGE_TOKENS + text_tokens(text), f"{image}\n{text}".encode(), text)


def _request(fields: dict[str, Any], inputs: list[Prompt], terms: Terms) -> EmbeddingRequest:
    encoding, input_type = fields.get("encoding_format"), fields.get("input_type")
    if encoding is None:
        encoding = "float"
    if not isinstance(encoding, str) or encoding not in ENCODINGS:
        raise invalid(("encoding_format",), encoding)
    if input_type not in INPUT_TYPES:
        raise invalid(("input_type",), input_type)
    dimensions = count(fields, "dimensions")
    if dimensions is not None and not 0 < dimensions <= DIMENSIONS:
        raise invalid(("dimensions",), dimensions)
    return EmbeddingRequest(
        model=terms.model.name, inputs=inputs, dimensions=dimensions or DIMENSIONS, encode=ENCODINGS[encoding]
    )


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _int8(vector: list[float]) -> list[int]:
    peak = max(map(abs, vector)) or 1.0
    return [round(127 * value / peak) for value in vector]


def _ubinary(vector: list[float]) -> list[int]:
    """A bit a dimension, the first in the highest place of the first byte."""
    bits = "".join("1" if value > 0 else "0" for value in vector)
    return [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]


ENCODINGS: dict[str, Callable[[list[float]], Any]] = {
    "float": lambda vector: vector,
    "base64": _base64,  # of little-endian floats of 32 bits
    "int8": _int8,  # the largest value becomes 127
    "uint8": lambda vector: [value + 128 for value in _int8(vector)],
    "ubinary": _ubinary,
    "binary": lambda vector: [byte - 128 for byte in _ubinary(vector)],
}
