"""The wire, without sockets: request bytes out, response bytes in, timings and verdicts out.

`ResponseReader.feed(data, now_ns)` is called once for each receive with the one clock reading taken there, so every
instant it keeps is when the bytes reached this process, before any parsing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httptools
import orjson

from loadgen.refusals import (
    CODE_LENGTH,
    ERROR_BODY_LIMIT,
    FILTERED,
    NO_CODE,
    U32,
    brief,
    describe_error,
    error_of,
    read_json,
)
from loadgen.requests import Route
from loadgen.samples import OK, Outcome
from loadgen.sse import EventParser, NamedEvent, StreamTooLarge

HEAD_LIMIT = 64 << 10  # also of what comes between two bytes of the body: chunk extensions, trailers
BODY_LIMIT = 16 << 20
CHUNK_LIMIT = 1 << 20  # content-bearing; more than any model's context
EVENT_STREAM = b"text/event-stream"
_MISFITS = {
    Route.CHAT: "not_a_chat_completion",
    Route.COMPLETIONS: "not_a_completion",
    Route.EMBEDDINGS: "not_an_embedding",
    Route.IMAGE_EMBEDDINGS: "not_an_embedding",
}
_SIGNS_OF_AN_ERROR = ("error", "code", "detail", "details", "message")
_KEPT_HEADERS = frozenset(
    (
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"retry-after",
        b"retry-after-ms",
        b"x-ms-retry-after-ms",
        b"x-ms-error-code",
        b"x-ratelimit-remaining-requests",
        b"x-ratelimit-remaining-tokens",
        b"transfer-encoding",
    )
)


class Unreadable(Exception):  # noqa: N818 - data about the server, not an error of ours
    """An answer not worth reading on; `args[0]` says why."""


class ResponseReader:
    """Reads one response. `complete` is True once its last byte is in; `broken` names what was wrong with it."""

    __slots__ = (
        "_body",
        "_body_at",
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
        "route",
        "status",
        "stream",
    )

    def __init__(self, *, stream: bool, route: Route = Route.CHAT) -> None:
        self.stream, self.route = stream, route
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
        self._body: bytes | bytearray = b""
        self._body_at = 0  # bytes_in when the body last went on
        self._now_ns = 0

    def feed(self, data: bytes, now_ns: int) -> bool:
        """Take what was received at `now_ns`; True when there is nothing more to read, for good or ill."""
        if self.first_byte_ns is None:
            self.first_byte_ns = now_ns
        self._now_ns = self.last_byte_ns = now_ns
        self.bytes_in += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(error.__context__)
        if self.bytes_in - self._body_at > HEAD_LIMIT and not self.complete:
            self.broken = "head_too_large" if self.status is None else "framing_too_large"
        elif self.chunks > CHUNK_LIMIT:
            self.broken = "too_many_chunks"
        return self.complete or self.broken is not None

    def _fail(self, cause: BaseException | None) -> None:
        """The parser stopped: by the rules of HTTP, or because one of the callbacks below raised `cause`."""
        if cause is not None and not isinstance(cause, Exception):
            raise cause  # an interrupt that fell into a callback
        if self.complete:
            self.keep_alive = False  # what follows the answer is no second one
        elif cause is None:
            self.broken = self.broken or "malformed_http"
        else:
            known = isinstance(cause, Unreadable | StreamTooLarge)
            self.broken = str(cause) if known else f"unreadable: {type(cause).__name__}"

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
        if self.keep_alive or b"content-length" in self.headers or b"transfer-encoding" in self.headers:
            self.broken = "cut"
        else:
            self.complete = True
        self.keep_alive = False

    # What httptools calls back, in this order.

    def on_message_begin(self) -> None:
        if self.complete:
            self.keep_alive = False  # a second answer that nobody asked for
        elif self.first_byte_ns is None:  # right behind an interim answer
            self.first_byte_ns = self.last_byte_ns = self._now_ns

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status is not None:
            return  # a trailer, or the head of a second answer
        lowered = name.lower()
        if lowered in _KEPT_HEADERS:
            self.headers[lowered] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.complete:
            return
        if status == 101:
            raise Unreadable("unexpected_upgrade")
        if status < 200:  # an interim answer; the real one follows
            self.headers.clear()
            self.first_byte_ns = self.last_byte_ns = None
            return
        self.status = status
        self.keep_alive = self._parser.should_keep_alive()
        if status == 200:
            if b"content-encoding" in self.headers or b"transfer-encoding" in self.headers:
                self._check_coding()
            kind = self.headers.get(b"content-type", b"")
            if self.stream and kind.partition(b";")[0].strip().lower() == EVENT_STREAM:
                self._events = EventParser()

    def _check_coding(self) -> None:
        """Headroom asks for `identity`: what is compressed all the same has no events to time, and may be a bomb."""
        if (
            self.headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity")
            or self.headers.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked"
        ):
            raise Unreadable("compressed_unasked")

    def on_body(self, piece: bytes) -> None:
        if self.complete:
            return
        self._body_at = self.bytes_in
        if self._events is None:
            self._keep(piece)
            return
        try:
            events = self._events.feed(piece)
        except StreamTooLarge as too_large:
            for event in too_large.events:
                self._read_event(event)
            raise
        for event in events:
            self._read_event(event)

    def _keep(self, piece: bytes) -> None:
        """The body of an answer that is no stream: one that was asked for may be long, an error is not."""
        if not self._body:
            self._body = piece
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += piece
        if len(self._body) > ERROR_BODY_LIMIT and (self.stream or self.status != 200 or len(self._body) > BODY_LIMIT):
            self._body = b""
            raise Unreadable("body_too_large")

    def on_message_complete(self) -> None:
        if self.status is not None:
            self.complete = True

    def _read_event(self, event: bytes) -> None:
        if self.done_marker:
            return  # the stream is over, whatever follows
        try:
            chunk = orjson.loads(event)
        except orjson.JSONDecodeError:
            chunk = self._read_oddity(event)
        if not isinstance(chunk, dict):
            raise Unreadable("malformed_event")
        if chunk.get("error"):
            self._end_by(chunk)
        usage = chunk.get("usage")
        if usage:
            self._read_usage(usage)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            if chunk.get("object") == "error":
                self._end_by(chunk)
            return
        carries_content = False
        for choice in choices:
            if isinstance(choice, dict):
                carries_content = carries_content or has_content(choice)
                reason = choice.get("finish_reason")
                if reason and isinstance(reason, str) and self.finish_reason != "content_filter":
                    self.finish_reason = reason
        if carries_content:
            self._stamp_token()

    def _read_oddity(self, event: bytes) -> Any:
        """The end marker, an event that is not quite JSON, or one with a name: `event: error` is one in any form."""
        if event.strip() == b"[DONE]":
            self.done_marker = True
            return {}
        failed = isinstance(event, NamedEvent) and event.name == b"error"
        try:
            chunk = read_json(bytes(event))
        except ValueError:
            if not failed:
                raise Unreadable("malformed_event") from None
            chunk = event.decode("utf-8", "replace")
        if failed:
            self._end_by(chunk if isinstance(chunk, dict) else {"error": chunk})
        return chunk

    def _end_by(self, error: dict[str, Any]) -> None:
        """An error instead of the rest of the stream; its user has gone, and so do we."""
        self.error_frame = error
        raise Unreadable("error_in_stream")

    def _stamp_token(self) -> None:
        if self.last_token_ns is None:
            self.first_token_ns = self._now_ns
        else:
            # Differences of whole microseconds: their sum drifts from the time since the first token by none.
            self.gaps_us.append(self._now_ns // 1_000 - self.last_token_ns // 1_000)
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
            return self._verdict_of_stream(redact) if self.stream else self._verdict_of_body(redact)
        code, message = map(redact, error_of(self._body, self.headers))
        code = code[:CODE_LENGTH]
        if self.status >= 500:
            return Outcome.SERVER_ERROR, brief(code, message)
        if self.status < 400:
            moved = self.status in (301, 302, 303, 307, 308)
            return Outcome.REJECTED, "redirect_not_followed" if moved else f"unexpected_status_{self.status}"
        outcome = Outcome.THROTTLED if self.status == 429 else Outcome.REJECTED
        if code in FILTERED:
            return Outcome.FILTERED, code
        # What a server says about a refused key may repeat the key; and of 429s there may be many.
        return outcome, code if self.status in (401, 403, 429) else brief(code, message)

    def _verdict_of_stream(self, redact: Callable[[str], str]) -> tuple[Outcome, str | None]:
        if self.error_frame is not None:
            return self._verdict_of_error("error_in_stream", self.error_frame, redact)
        if self.broken is not None and not self.done_marker:
            return Outcome.BROKEN_STREAM, self.broken
        if self._events is None:
            kind = redact(self.headers.get(b"content-type", b"").decode("latin-1")).partition(";")[0]
            return self._verdict_of_misfit(brief("not_an_event_stream", kind), redact)
        if self.finish_reason == "content_filter":
            return Outcome.FILTERED, "content_filter"
        if self.finish_reason is None and not self.done_marker:
            return Outcome.BROKEN_STREAM, "truncated" if self._body_at else "empty_body"
        return OK, None

    def _verdict_of_body(self, redact: Callable[[str], str]) -> tuple[Outcome, str | None]:
        if self.broken is not None:
            return Outcome.BROKEN_STREAM, self.broken
        try:
            answer = read_json(self._body)
            if self.route is not Route.CHAT and self.route.embeds:
                return self._verdict_of_vectors(answer, redact)
            choice = answer["choices"][0]
            reason = choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError):
            return self._verdict_of_misfit(_MISFITS[self.route], redact)
        self._read_usage(answer.get("usage"))
        self.finish_reason = reason if isinstance(reason, str) else None
        return (Outcome.FILTERED, "content_filter") if reason == "content_filter" else (OK, None)

    def _verdict_of_vectors(self, answer: Any, redact: Callable[[str], str]) -> tuple[Outcome, str | None]:
        """A list of embeddings; its usage knows no completion. Raises as reading a chat completion does."""
        if not answer["data"][0]["embedding"]:
            return self._verdict_of_misfit(_MISFITS[self.route], redact)
        if isinstance(answer.get("usage"), dict):
            self._read_usage(answer["usage"] | {"completion_tokens": 0})
        return OK, None

    def _verdict_of_misfit(self, misfit: str, redact: Callable[[str], str]) -> tuple[Outcome, str | None]:
        """A 200 whose body is not what was asked for; often it is an error, and says which."""
        if not self._body:
            return Outcome.BROKEN_STREAM, "empty_body"
        try:
            answer = read_json(self._body)
        except ValueError:
            answer = None
        if isinstance(answer, dict) and any(answer.get(key) for key in _SIGNS_OF_AN_ERROR):
            return self._verdict_of_error("error_in_answer", answer, redact)
        return Outcome.BROKEN_STREAM, misfit

    def _verdict_of_error(
        self, where: str, error: dict[str, Any], redact: Callable[[str], str]
    ) -> tuple[Outcome, str | None]:
        """Of an error within a 200: its code, or what it says where it has none."""
        code, message = map(redact, describe_error(error))
        if code in FILTERED:
            return Outcome.FILTERED, code
        return Outcome.BROKEN_STREAM, brief(where, message if code == NO_CODE else code)


def has_content(choice: dict[str, Any]) -> bool:
    """Whether a stream's choice carries something the user can use: text, reasoning, a call or a refusal, not empty.

    The role-only chunk, empty deltas and the last chunk's bare finish_reason do not count.
    """
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return bool(
            delta.get("content")
            or delta.get("tool_calls")
            or delta.get("reasoning_content")
            or delta.get("reasoning")
            or delta.get("refusal")
            or delta.get("function_call")
        )
    return bool(choice.get("text"))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= U32 else None
