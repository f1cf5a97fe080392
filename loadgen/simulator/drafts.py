"""What an answer says, a piece a token: words, a JSON object or a tool call; cut by limits, stops and the filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadgen.simulator.tools import Call
from loadgen.tokens import BYTES_PER_TOKEN, text_tokens

# A space and three letters are four bytes: so an answer counts as many tokens under loadgen.tokens, when a next turn
# sends it back, as its `usage` said.
_PASSAGE = (
    "the and for you was one all her out day get has him how man new now old see two way who boy did its let put "
    "say she too use ask big car dog eat far fun got hot job key law map net oil pay red sea ten van war yes add "
    "air bit cut dry"
)
WORDS = tuple(f" {word}".encode() for word in _PASSAGE.split())
_MANY_WORDS = WORDS * 40  # what most answers are cut from
_JSON_HEAD, _JSON_TAIL = b'{"answer": "', b'"}'
LEAST_JSON_TOKENS = len(_JSON_HEAD) // BYTES_PER_TOKEN + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """`pieces` are ASCII and may be empty: what is generated but not said, like the tokens of a stop sequence."""

    pieces: Sequence[bytes]
    finish_reason: str
    quoted: bool = False  # the pieces must be escaped to stand inside a JSON string
    call: Call | None = None  # what the pieces call: first the tokens of its name, all empty, then its arguments


def draft_words(first: int, wanted_tokens: int, ceiling_tokens: int) -> Draft:
    """`wanted_tokens` words from a place in WORDS on, cut at the ceiling: a client cannot tell it from the end."""
    tokens, start = min(wanted_tokens, ceiling_tokens), first % len(WORDS)
    many = _MANY_WORDS if start + tokens <= len(_MANY_WORDS) else WORDS * (tokens // len(WORDS) + 2)
    return Draft(
        pieces=many[start : start + tokens], finish_reason="length" if wanted_tokens >= ceiling_tokens else "stop"
    )


def draft_json(first: int, wanted_tokens: int, ceiling_tokens: int) -> Draft:
    """A JSON object of that many tokens, and of LEAST_JSON_TOKENS at least; no longer one where it is cut."""
    wanted_tokens = max(wanted_tokens, LEAST_JSON_TOKENS)
    words = draft_words(
        first, min(wanted_tokens, ceiling_tokens + LEAST_JSON_TOKENS) - LEAST_JSON_TOKENS, wanted_tokens
    )
    text = _JSON_HEAD + b"".join(words.pieces) + _JSON_TAIL
    reason = "length" if wanted_tokens >= ceiling_tokens else "stop"
    return Draft(pieces=_cut(text)[:ceiling_tokens], finish_reason=reason, quoted=True)


def draft_text(text: str, ceiling_tokens: int) -> Draft:
    """A text that is as long as it is, like a JSON object of a given schema."""
    pieces = _cut(text.encode())
    reason = "length" if len(pieces) > ceiling_tokens else "stop"
    return Draft(pieces=pieces[:ceiling_tokens], finish_reason=reason, quoted=True)


def draft_call(call: Call, ceiling_tokens: int) -> Draft:
    """A tool call; cut before its arguments begin, it is no call."""
    name_tokens = text_tokens(call.name)
    pieces = [b""] * name_tokens + _cut(call.arguments.encode())
    return Draft(
        pieces=pieces[:ceiling_tokens],
        finish_reason="length" if len(pieces) > ceiling_tokens else "tool_calls",
        quoted=True,
        call=call if ceiling_tokens >= name_tokens else None,
    )


def end_before(draft: Draft, stops: Sequence[bytes]) -> Draft:
    """The draft up to the first stop sequence in it, whose tokens were generated and are not said."""
    text = b"".join(draft.pieces)
    found = [(start, stop) for stop in stops if (start := text.find(stop)) >= 0]
    if not found:
        return draft
    start, stop = min(found)
    tokens = -(-(start + len(stop)) // BYTES_PER_TOKEN)
    said = text[:start]
    pieces = [said[at : at + BYTES_PER_TOKEN] for at in range(0, tokens * BYTES_PER_TOKEN, BYTES_PER_TOKEN)]
    return replace(draft, pieces=pieces, finish_reason="stop")


def filter_half(draft: Draft) -> Draft:
    """The half of the draft that was out before the content filter stopped it."""
    pieces = draft.pieces[: (len(draft.pieces) + 1) // 2]
    call = draft.call if draft.call is not None and len(pieces) >= text_tokens(draft.call.name) else None
    return replace(draft, pieces=pieces, finish_reason="content_filter", call=call)


def _cut(text: bytes) -> list[bytes]:
    return [text[at : at + BYTES_PER_TOKEN] for at in range(0, len(text), BYTES_PER_TOKEN)]
