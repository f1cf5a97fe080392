"""The wire, without sockets: request bytes out, response bytes in, timings and verdicts out.

`ResponseReader.feed(data, now_ns)` is called once for each receive with the one clock reading taken there, so every
instant it keeps is when the bytes reached this process, before any parsing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import httptools
import orjson

from loadgen.samples import ERROR_LENGTH, OK, Outcome
from loadgen.sse import EventParser, StreamTooLarge

HEAD_LIMIT = 64 << 10
BODY_LIMIT = 16 << 20
U32 = (1 << 32) - 1
CODE_LENGTH = 64
LONGEST_COUNT = 12  # digits
_KEPT_HEADERS = frozenset(
    (
        b"connection",
        b"content-encoding",
        b"content-type",
        b"retry-after",
        b"retry-after-ms",
        b"x-ms-retry-after-ms",
        b"x-ms-error-code",
        b"x-ratelimit-remaining-requests",
        b"x-ratelimit-remaining-tokens",
    )
)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


class ResponseReader:
    """Reads one response. `complete` is True once its last byte is in; `broken` names what was wrong with it."""

    __slots__ = (
        "_body",
        "_body_size",
        "_events",
        "_now_ns",
        "_parser",
        "broken",
        "bytes_in",
        "chunks",
        "complete",
        "completion_tokens",
        "done_marker",
        "error_frame",
        "finish_reason",
        "first_byte_ns",
        "first_token_ns",
        "gaps_us",
        "headers",
        "keep_alive",
        "last_byte_ns",
        "last_token_ns",
        "prompt_tokens",
        "status",
        "stream",
    )

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.keep_alive = False
        self.broken: str | None = None
        self.bytes_in = 0
        self.first_byte_ns: int | None = None
        self.last_byte_ns: int | None = None
        self.first_token_ns: int | None = None
        self.last_token_ns: int | None = None
        self.chunks = 0
        self.gaps_us: list[int] = []
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.finish_reason: str | None = None
        self.done_marker = False
        self.error_frame: Any = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._events: EventParser | None = None
        self._body: list[bytes] = []
        self._body_size = self._now_ns = 0

    def feed(self, data: bytes, now_ns: int) -> bool:
        """Take what was received at `now_ns`; True when there is nothing more to read, for good or ill."""
        if self.first_byte_ns is None:
            self.first_byte_ns = now_ns
        self._now_ns = self.last_byte_ns = now_ns
        self.bytes_in += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.broken = "unexpected_upgrade"
        except httptools.HttpParserError as error:
            if self.complete:
                self.keep_alive = False  # what follows the answer is no second one
            elif self.broken is None:
                cause = error.__context__
                self.broken = str(cause) if isinstance(cause, StreamTooLarge) else "malformed_http"
        if self.status is None and self.bytes_in > HEAD_LIMIT:
            self.broken = "head_too_large"
        return self.complete or self.broken is not None

    def release(self) -> None:
        """Nothing more will be fed. Parser and reader hold each other: together they would wait for the collector."""
        self._parser = None

    def feed_eof(self) -> None:
        """The server closed the connection: the end of a body without a length, or a cut."""
        if self.complete or self.broken is not None:
            return
        if self.status is None:
            self.broken = "closed_before_answer"
            return
        if self.keep_alive or self._declares_length():
            self.broken = "cut"
        else:
            self.complete = True
        self.keep_alive = False

    # What httptools calls back, in this order.

    def on_message_begin(self) -> None:
        if self.complete:
            self.keep_alive = False  # a second answer that nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        lowered = name.lower()
        if lowered in _KEPT_HEADERS:
            self.headers[lowered] = value
        elif lowered in (b"content-length", b"transfer-encoding"):
            self.headers[b"length"] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.complete:
            return
        if status < 200:  # an interim answer; the real one follows
            self.headers.clear()
            return
        self.status = status
        self.keep_alive = self._parser.should_keep_alive()
        if self.stream and status == 200 and self.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            self._events = EventParser()

    def on_body(self, piece: bytes) -> None:
        if self.complete:
            return
        if self._events is None:
            self._body_size += len(piece)
            if self._body_size > BODY_LIMIT:
                raise StreamTooLarge("body_too_large")
            self._body.append(piece)
            return
        for event in self._events.feed(piece):
            self._read_event(event)

    def on_message_complete(self) -> None:
        if self.status is not None:
            self.complete = True

    def _declares_length(self) -> bool:
        return b"length" in self.headers

    def _read_event(self, event: bytes) -> None:
        if event.strip() == b"[DONE]":
            self.done_marker = True
            return
        try:
            chunk = orjson.loads(event)
        except orjson.JSONDecodeError:
            self.broken = self.broken or "malformed_event"
            return
        if not isinstance(chunk, dict):
            self.broken = self.broken or "malformed_event"
            return
        if chunk.get("error") is not None:
            self.error_frame = chunk["error"]
        if chunk.get("usage") is not None:
            self._read_usage(chunk["usage"])
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return
        carries_content = False
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            carries_content = carries_content or has_content(choice)
            if isinstance(choice.get("finish_reason"), str):
                self.finish_reason = choice["finish_reason"]
        if carries_content:
            self._stamp_token()

    def _stamp_token(self) -> None:
        if self.last_token_ns is None:
            self.first_token_ns = self._now_ns
        else:
            self.gaps_us.append((self._now_ns - self.last_token_ns) // 1_000)
        self.last_token_ns = self._now_ns
        self.chunks += 1

    def _read_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"))
            self.completion_tokens = _count(usage.get("completion_tokens"))

    def verdict(self, redact: Callable[[str], str] = str) -> tuple[Outcome, str | None]:
        """How the attempt ended, once the response is complete, broken or cut; and what went wrong, in short."""
        if self.status is None:
            return Outcome.NETWORK, self.broken
        if self.status == 200:
            return self._verdict_of_stream(redact) if self.stream else self._verdict_of_body()
        code, message = map(redact, error_of(b"".join(self._body), self.headers))
        code = code[:CODE_LENGTH]
        if self.status >= 500:
            return Outcome.SERVER_ERROR, _brief(code, message)
        if self.status < 400:
            return (
                Outcome.REJECTED,
                "redirect_not_followed" if self.status >= 300 else f"unexpected_status_{self.status}",
            )
        outcome = Outcome.THROTTLED if self.status == 429 else Outcome.REJECTED
        if code == "content_filter":
            return Outcome.FILTERED, code
        # What a server says about a refused key may repeat the key; and of 429s there may be many.
        return outcome, code if self.status in (401, 403, 429) else _brief(code, message)

    def _verdict_of_stream(self, redact: Callable[[str], str]) -> tuple[Outcome, str | None]:
        if self._events is None:
            kind = self.headers.get(b"content-type", b"").decode("latin-1").partition(";")[0]
            return Outcome.BROKEN_STREAM, _brief("not_an_event_stream", redact(kind))
        if self.error_frame is not None:
            return Outcome.BROKEN_STREAM, _brief("error_in_stream", redact(_describe(self.error_frame)))
        if self.broken is not None and not (self.broken == "cut" and self.done_marker):
            return Outcome.BROKEN_STREAM, self.broken
        if self.finish_reason == "content_filter":
            return Outcome.FILTERED, "content_filter"
        if self.finish_reason is None and not self.done_marker:
            return Outcome.BROKEN_STREAM, "truncated"
        return OK, None

    def _verdict_of_body(self) -> tuple[Outcome, str | None]:
        if self.broken is not None:
            return Outcome.BROKEN_STREAM, self.broken
        if self.headers.get(b"content-encoding", b"identity") != b"identity":
            return Outcome.BROKEN_STREAM, "compressed_unasked"
        try:
            answer = orjson.loads(b"".join(self._body))
            choice = answer["choices"][0]
            reason = choice.get("finish_reason")
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            return Outcome.BROKEN_STREAM, "not_a_chat_completion"
        self._read_usage(answer.get("usage"))
        self.finish_reason = reason if isinstance(reason, str) else None
        return (Outcome.FILTERED, "content_filter") if reason == "content_filter" else (OK, None)


def has_content(choice: dict[str, Any]) -> bool:
    """Whether a stream's choice carries something the user can use: text, reasoning or a tool call, and not empty.

    The role-only chunk, empty deltas and the last chunk's bare finish_reason do not count.
    """
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return bool(
            delta.get("content") or delta.get("tool_calls") or delta.get("reasoning_content") or delta.get("reasoning")
        )
    return bool(choice.get("text"))


def error_of(body: bytes, headers: dict[bytes, bytes]) -> tuple[str, str]:
    """Code and message of an error answer, in any of the layouts the API's documents and specification show."""
    code = headers.get(b"x-ms-error-code", b"").decode("latin-1")
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return code or "no_error_code", ""
    if not isinstance(answer, dict):
        return code or "no_error_code", ""
    inner = answer.get("error")
    layout = inner if isinstance(inner, dict) else answer
    code = str(
        layout.get("code") or answer.get("code") or code or (inner if isinstance(inner, str) else "no_error_code")
    )
    detail = layout.get("detail", answer.get("detail"))
    message = layout.get("message") or answer.get("message") or (_describe(detail) if detail else "")
    return printable(code), str(message)


def retry_after_ms(headers: dict[bytes, bytes], now_unix_s: float) -> int | None:
    """How long the server asks to wait: retry-after-ms, x-ms-retry-after-ms, or Retry-After in seconds or as a date.

    None where there is nothing usable; a date in the past is 0.
    """
    for name, per_unit in ((b"retry-after-ms", 1), (b"x-ms-retry-after-ms", 1), (b"retry-after", 1_000)):
        text = headers.get(name, b"").decode("latin-1").strip()
        if not text:
            continue
        try:
            wait_ms = float(text) * per_unit
        except ValueError:
            try:
                at = parsedate_to_datetime(text)
            except (ValueError, OverflowError, TypeError):
                continue
            wait_ms = max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_unix_s) * 1_000)
        if math.isfinite(wait_ms) and wait_ms >= 0:
            return min(math.ceil(wait_ms), U32)
    return None


def remaining_of(headers: dict[bytes, bytes], what: bytes) -> int | None:
    """x-ratelimit-remaining-tokens or -requests; None where absent or, as seen in the wild, negative or no number."""
    text = headers.get(b"x-ratelimit-remaining-" + what, b"")
    return int(text) if text.isdigit() and len(text) <= LONGEST_COUNT else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= U32 else None


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("code") or value.get("message") or value)
    return str(value)


def _brief(code: str, message: str) -> str:
    text = f"{code}: {message}" if message and message != code else code
    return printable(text)[:ERROR_LENGTH]


def printable(text: str) -> str:
    """One line of plain characters, whatever a server sent."""
    return text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub(" ", text)
