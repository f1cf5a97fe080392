"""/completions: a text goes on. Several prompts in one request make as many choices, said one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from loadgen.simulator.answers import DONE, escaped, framed, usage
from loadgen.simulator.chat import seed_of
from loadgen.simulator.drafts import Draft, draft_words, end_before, filter_half
from loadgen.simulator.parameters import (
    SAMPLING,
    Extras,
    Terms,
    UsageWhere,
    check_sampling,
    count,
    flag,
    read_fields,
    stops,
    usage_where,
)
from loadgen.simulator.prompts import read_prompts

DEFINED = SAMPLING | {"prompt"}
USUAL_MAX_TOKENS = 256
MOST_PROMPTS = 64
KIND = "text_completion"
_BEFORE_TEXT = b'"text":"'


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A valid request for as many choices as it has prompts."""

    model: str
    prompt_tokens: int  # of all prompts
    context_tokens: int  # of the longest
    choices: int
    limit_tokens: int  # of each choice
    stream: bool
    usage_where: UsageWhere
    stops: tuple[bytes, ...]
    filtered: bool
    seed: int | None
    param: str = "prompt"

    @property
    def max_tokens(self) -> int:
        return self.limit_tokens * self.choices

    def compose(self, rng: Random, *, room_tokens: int, length: Callable[[Random], int]) -> CompletionAnswer:
        """The answer; each choice has its own words and length."""
        answer_id = f"{rng.getrandbits(128):032x}"
        source = rng if self.seed is None else Random(self.seed)
        ceiling_tokens = min(room_tokens, self.limit_tokens)
        return CompletionAnswer(
            id=answer_id,
            created_s=int(time.time()),
            model=self.model,
            prompt_tokens=self.prompt_tokens,
            drafts=tuple(
                self._draft(source.getrandbits(16), length(source), ceiling_tokens) for _ in range(self.choices)
            ),
            usage_where=self.usage_where,
        )

    def _draft(self, first_word: int, wanted_tokens: int, ceiling_tokens: int) -> Draft:
        draft = end_before(draft_words(first_word, wanted_tokens, ceiling_tokens), self.stops)
        return filter_half(draft) if self.filtered else draft


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionAnswer:
    """What will be said: a draft a choice. Streamed or not, the objects have one shape."""

    id: str
    created_s: int
    model: str
    prompt_tokens: int
    drafts: tuple[Draft, ...]
    usage_where: UsageWhere

    @property
    def completion_tokens(self) -> int:
        return sum(len(draft.pieces) for draft in self.drafts)

    @property
    def usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, self.completion_tokens)

    def with_choices(self, *choices: dict[str, Any]) -> dict[str, Any]:
        head = {"id": self.id, "object": KIND, "created": self.created_s, "model": self.model}
        return head | {"choices": list(choices)}

    def whole(self) -> bytes:
        choices = [
            choice_of(index, b"".join(draft.pieces).decode(), draft.finish_reason)
            for index, draft in enumerate(self.drafts)
        ]
        return orjson.dumps(self.with_choices(*choices) | {"usage": self.usage})

    def events(self) -> CompletionEvents:
        return CompletionEvents(self)


class CompletionEvents:
    """The events of one stream: the tokens of each choice, then its finish reason; the usage with the last of all."""

    role = b""

    def __init__(self, answer: CompletionAnswer) -> None:
        self._answer = answer
        self._finishes = [self._event(index, "", draft.finish_reason) for index, draft in enumerate(answer.drafts)]
        self._tokens: list[bytes] = []  # an event each; the first of a choice brings what is due before it
        due = b""
        for index, draft in enumerate(answer.drafts):
            before, mark, after = self._event(index, "", None).rpartition(_BEFORE_TEXT)
            for piece in escaped(draft):
                self._tokens.append(due + (before + mark + piece + after if piece else b""))
                due = b""
            due += self._finishes[index]
        self._due = due.removesuffix(self._finishes[-1])

    def token(self, index: int) -> bytes:
        """The event of the token at `index`, counted through all choices."""
        return self._tokens[index]

    def end(self) -> bytes:
        """The finish reasons that are left, the usage where it is due, and the terminator."""
        answer, last = self._answer, len(self._answer.drafts) - 1
        beside = answer.usage if answer.usage_where is UsageWhere.LAST_EVENT else None
        ending = self._due + self._event(last, "", answer.drafts[last].finish_reason, beside)
        if answer.usage_where is UsageWhere.EVENT_OF_ITS_OWN:
            ending += framed(answer.with_choices() | {"usage": answer.usage})
        return ending + DONE

    def _event(self, index: int, text: str, finish_reason: str | None, beside: dict[str, int] | None = None) -> bytes:
        chunk = self._answer.with_choices(choice_of(index, text, finish_reason))
        if beside is not None or self._answer.usage_where is UsageWhere.EVENT_OF_ITS_OWN:
            chunk["usage"] = beside
        return framed(chunk)


def parse_completion(body: bytes, terms: Terms, extras: Extras) -> CompletionRequest:
    """Read and check a request's body. Raises Refusal, as chat.parse_chat does."""
    fields = read_fields(body, DEFINED, terms, extras)
    prompts = read_prompts(fields, "prompt", MOST_PROMPTS)
    check_sampling(fields, terms.model)
    limit_tokens = count(fields, "max_tokens")
    texts = [prompt.text for prompt in prompts if prompt.text is not None]
    return CompletionRequest(
        model=terms.model.name,
        prompt_tokens=sum(prompt.tokens for prompt in prompts),
        context_tokens=max(prompt.tokens for prompt in prompts),
        choices=len(prompts),
        limit_tokens=USUAL_MAX_TOKENS if limit_tokens is None else limit_tokens,
        stream=flag(fields, "stream"),
        usage_where=usage_where(fields, terms.dialect),
        stops=stops(fields),
        filtered=terms.safety is not None and terms.safety.check(texts, "prompt"),
        seed=seed_of(fields),
    )


def choice_of(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None}
