"""What a model said, put together from the body or the events of its answer, for whoever goes on from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from loadgen.refusals import read_json

KEPT_BYTES = 1 << 20  # of a stream's events; what comes after is counted, and not kept


@dataclass(frozen=True, slots=True)
class Answer:
    """A message of the assistant: its text, its tool calls (as the API writes them) and why it ended."""

    content: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    finish_reason: str | None = None

    @property
    def message(self) -> dict[str, Any]:
        """As a turn of the conversation that goes on."""
        if not self.tool_calls:
            return {"role": "assistant", "content": self.content}
        return {"role": "assistant", "content": self.content or None, "tool_calls": list(self.tool_calls)}


def answer_of_body(body: bytes | bytearray, finish_reason: str | None) -> Answer:
    """Of an answer in one piece; empty where it holds none."""
    try:
        choice = read_json(body)["choices"][0]
        message = choice.get("message") or {"content": choice.get("text")}
        calls = tuple(filter(_is_call, message.get("tool_calls") or ()))
    except (ValueError, LookupError, TypeError, AttributeError):
        return Answer(finish_reason=finish_reason)
    content = message.get("content")
    return Answer(content if isinstance(content, str) else "", calls, finish_reason)


def answer_of_events(events: Iterable[bytes], finish_reason: str | None) -> Answer:
    """Of the events of a stream: the deltas of its first choice, joined."""
    texts: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        try:
            choice = read_json(event)["choices"][0]
            delta = choice.get("delta") or {"content": choice.get("text")}
            texts.append(delta.get("content") or "")
            for piece in delta.get("tool_calls") or ():
                _join_call(calls.setdefault(piece.get("index", 0), {"type": "function"}), piece)
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
    whole = tuple(filter(_is_call, (calls[index] for index in sorted(calls))))
    return Answer("".join(filter(_is_text, texts)), whole, finish_reason)


def _join_call(call: dict[str, Any], piece: dict[str, Any]) -> None:
    """The name comes once and the arguments in pieces."""
    call["id"] = call.get("id") or piece.get("id")
    function = call.setdefault("function", {"name": "", "arguments": ""})
    function["name"] = function["name"] or piece["function"].get("name") or ""
    function["arguments"] += piece["function"].get("arguments") or ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_call(call: Any) -> bool:
    """A call that can be answered: with the name and the arguments of a function, both strings."""
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and all(isinstance(function.get(key), str) for key in ("name", "arguments"))
