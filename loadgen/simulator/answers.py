"""The bytes of a chat answer: one JSON object, or server-sent events whose constant parts are encoded once a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from loadgen.simulator.drafts import Draft
from loadgen.simulator.logprobs import logprob_of
from loadgen.simulator.parameters import UsageWhere
from loadgen.tokens import text_tokens

DONE = b"data: [DONE]\n\n"
CALL_ID_CHARACTERS = 9
_BEFORE_CONTENT, _BEFORE_ARGUMENTS = b'"content":"', b'"arguments":"'


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """What will be said, fixed when the request is admitted."""

    id: str  # 32 hexadecimal digits
    created_s: int  # Unix time
    model: str
    prompt_tokens: int
    draft: Draft
    usage_where: UsageWhere
    top_logprobs: int | None = None  # alternatives with each token; None: no log probabilities

    @property
    def completion_tokens(self) -> int:
        return len(self.draft.pieces)

    @property
    def usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, self.completion_tokens)

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created_s, "model": self.model}

    def whole(self) -> bytes:
        """The body of an answer that is not streamed."""
        draft = self.draft
        text = b"".join(draft.pieces).decode()
        calls = None if draft.call is None else [self.call(draft.call.name, text)]
        message = {"role": "assistant", "content": text if calls is None else "", "tool_calls": calls}
        listed = None
        if self.top_logprobs is not None and calls is None:
            listed = {"content": [self.logprob(index) for index in range(len(draft.pieces))]}
        choice = {"index": 0, "message": message, "finish_reason": draft.finish_reason, "logprobs": listed}
        return orjson.dumps(self.head("chat.completion") | {"choices": [choice], "usage": self.usage})

    def call(self, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments, "call_id": None}
        return {"id": self.id[:CALL_ID_CHARACTERS], "type": "function", "function": function}

    def logprob(self, index: int) -> dict[str, Any]:
        return logprob_of(self.draft.pieces[index], index, self.top_logprobs or 0)

    def events(self) -> ChatEvents:
        if self.draft.call is not None:
            return CallEvents(self)
        return ChatEvents(self) if self.top_logprobs is None else LogprobEvents(self)


class ChatEvents:
    """The events of one stream. Those of tokens differ only in the piece between `before` and `after`."""

    def __init__(self, answer: ChatAnswer) -> None:
        self._answer, self._asked = answer, answer.usage_where is UsageWhere.EVENT_OF_ITS_OWN
        self._pieces = escaped(answer.draft)
        self.role = self._event({"role": "assistant", "content": ""})
        self._before, self._after = _around(self._event({"content": ""}), _BEFORE_CONTENT)

    def token(self, index: int) -> bytes:
        """The event of the token at `index`; empty where nothing of it is said."""
        piece = self._pieces[index]
        return self._before + piece + self._after if piece else b""

    def end(self) -> bytes:
        """The event with the finish reason, the usage where it is due, and the terminator."""
        beside = self._answer.usage if self._answer.usage_where is UsageWhere.LAST_EVENT else None
        last = self._event({"content": ""}, self._answer.draft.finish_reason, beside)
        if self._asked:
            head = self._answer.head("chat.completion.chunk")
            last += framed(head | {"choices": [], "usage": self._answer.usage})
        return last + DONE

    def _event(
        self,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        beside: dict[str, int] | None = None,
        logprobs: Any = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
        chunk = self._answer.head("chat.completion.chunk") | {"choices": [choice]}
        # Whoever asked OpenAI's dialect for usage gets a null in every earlier event.
        if beside is not None or self._asked:
            chunk["usage"] = beside
        return framed(chunk)


class CallEvents(ChatEvents):
    """A tool call: an event with its name once that is generated, then its arguments, a piece a token."""

    def __init__(self, answer: ChatAnswer) -> None:
        super().__init__(answer)
        call = answer.draft.call
        assert call is not None
        self._name_at = text_tokens(call.name) - 1
        self._name = self._event({"tool_calls": [{"index": 0} | answer.call(call.name, "")]})
        more = self._event({"tool_calls": [{"index": 0, "function": {"arguments": ""}}]})
        self._before, self._after = _around(more, _BEFORE_ARGUMENTS)

    def token(self, index: int) -> bytes:
        return self._name if index == self._name_at else super().token(index)


class LogprobEvents(ChatEvents):
    """Each token with its log probabilities."""

    def token(self, index: int) -> bytes:
        content = self._answer.draft.pieces[index].decode()
        return self._event({"content": content}, logprobs={"content": [self._answer.logprob(index)]})


def escaped(draft: Draft) -> Sequence[bytes]:
    """The pieces of a draft, ready to stand inside a JSON string."""
    return [orjson.dumps(piece.decode())[1:-1] for piece in draft.pieces] if draft.quoted else draft.pieces


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """In the documented order."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def framed(chunk: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _around(event: bytes, mark: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the empty string behind `mark`."""
    head, mark, after = event.rpartition(mark)
    return head + mark, after
