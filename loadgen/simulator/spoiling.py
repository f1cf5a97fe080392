"""Bytes that are wrong on purpose: events, answers and bodies as no client likes them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import orjson

MEGABYTE_BYTES = 1_000_000
PIECE_BYTES = 50_000  # large enough to be quick, small enough that little is in memory at once
NO_FIELD = b"this line is no field\n"
_BEFORE_THE_WORD = b'data: {"choices":[{"index":0,"delta":{"content":"'
_AFTER_THE_WORD = b'"},"finish_reason":null}]}\n\n'
_PAGE = b"<html><head><title>%d</title></head><body><h1>%d</h1><p>A fault on purpose.</p></body></html>\n"


def gateway_page(status: int) -> bytes:
    """HTML where a client waits for JSON."""
    return _PAGE % (status, status)


def break_json(event: bytes) -> bytes:
    """The first half of an event, ended as events end."""
    return event[: len(event) // 2] + b"\n\n"


def drop_usage_of_event(event: bytes) -> bytes:
    """The event without its usage; nothing where it held nothing else."""
    if b'"usage"' not in event:
        return event
    chunk = orjson.loads(event.removeprefix(b"data: "))
    usage = chunk.pop("usage", None)  # null, beside what OpenAI's dialect says before the last event
    return b"" if usage and not chunk.get("choices") else b"data: " + orjson.dumps(chunk) + b"\n\n"


def drop_usage_of_answer(body: bytes) -> bytes:
    """The answer without its usage, and with spaces behind it: its length has been announced."""
    if b'"usage"' not in body:
        return body
    answer = orjson.loads(body)
    answer.pop("usage", None)
    return orjson.dumps(answer).ljust(len(body))


def giant_line(megabytes: float) -> Iterator[bytes]:
    """A valid event of one line with one word of so many million bytes, in pieces."""
    yield _BEFORE_THE_WORD
    left = round(megabytes * MEGABYTE_BYTES)
    while left > 0:
        yield b"x" * min(left, PIECE_BYTES)
        left -= PIECE_BYTES
    yield _AFTER_THE_WORD


def gzip_bomb(megabytes: float) -> bytes:
    """Spaces, so many million bytes of them, packed a thousandfold."""
    packer = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)  # 16: with the header of gzip
    whole, rest = divmod(round(megabytes * MEGABYTE_BYTES), PIECE_BYTES)
    spaces = b" " * PIECE_BYTES
    packed = [packer.compress(spaces) for _ in range(whole)]
    return b"".join((*packed, packer.compress(spaces[:rest]), packer.flush()))
