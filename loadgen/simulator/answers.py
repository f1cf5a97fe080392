"""The bytes of an answer: one JSON object, or server-sent events whose constant parts are encoded once a stream."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

# A space and three letters are four bytes: so an answer counts as many tokens under loadgen.tokens, when a next turn
# sends it back, as its `usage` said.
_PASSAGE = (
    "the and for you was one all her out day get has him how man new now old see two way who boy did its let put "
    "say she too use ask big car dog eat far fun got hot job key law map net oil pay red sea ten van war yes add "
    "air bit cut dry"
)
WORDS = tuple(f" {word}".encode() for word in _PASSAGE.split())
DONE = b"data: [DONE]\n\n"
_BEFORE_CONTENT = b'"content":"'


class UsageWhere(StrEnum):
    """Where a stream carries its usage."""

    LAST_EVENT = "beside the finish reason"  # the Azure API, always
    EVENT_OF_ITS_OWN = "after it, without choices"  # OpenAI's dialect, on request
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What will be said, fixed when the request is admitted."""

    id: str  # 32 hexadecimal digits
    created_s: int  # Unix time
    model: str
    first_word: int  # where in WORDS it begins
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str  # stop, or length where max_tokens or the context cut it
    usage_where: UsageWhere

    @property
    def usage(self) -> dict[str, int]:
        total_tokens = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": total_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def word(self, index: int) -> bytes:
        """The token at `index`, ready to stand inside a JSON string."""
        return WORDS[(self.first_word + index) % len(WORDS)]

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created_s, "model": self.model}

    def whole(self) -> bytes:
        """The body of an answer that is not streamed."""
        content = b"".join(self.word(index) for index in range(self.completion_tokens)).decode()
        message = {"role": "assistant", "content": content, "tool_calls": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason, "logprobs": None}
        return orjson.dumps(self.head("chat.completion") | {"choices": [choice], "usage": self.usage})

    def events(self) -> Events:
        return Events(self)


class Events:
    """The events of one stream. Those of tokens differ only in the word between `before` and `after`."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self._asked = answer, answer.usage_where is UsageWhere.EVENT_OF_ITS_OWN
        self.role = self._event({"role": "assistant", "content": ""}, None)
        head, mark, self._after = self._event({"content": ""}, None).rpartition(_BEFORE_CONTENT)
        self._before = head + mark

    def token(self, index: int) -> bytes:
        """The event of the token at `index`."""
        return self._before + self._answer.word(index) + self._after

    def end(self) -> bytes:
        """The event with the finish reason, the usage where it is due, and the terminator."""
        beside = self._answer.usage if self._answer.usage_where is UsageWhere.LAST_EVENT else None
        last = self._event({"content": ""}, self._answer.finish_reason, beside)
        if self._asked:
            head = self._answer.head("chat.completion.chunk")
            last += _framed(head | {"choices": [], "usage": self._answer.usage})
        return last + DONE

    def _event(self, delta: dict[str, str], finish_reason: str | None, usage: dict[str, int] | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        chunk = self._answer.head("chat.completion.chunk") | {"choices": [choice]}
        # Whoever asked OpenAI's dialect for usage gets a null in every earlier event.
        if usage is not None or self._asked:
            chunk["usage"] = usage
        return _framed(chunk)


def _framed(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
