"""What a chat request asks for: its body read, checked and counted, and the answer that it gets."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from loadgen.simulator.answers import ChatAnswer
from loadgen.simulator.drafts import Draft, draft_call, draft_json, draft_text, draft_words, end_before, filter_half
from loadgen.simulator.messages import read_messages
from loadgen.simulator.models import Model
from loadgen.simulator.parameters import (
    SAMPLING,
    UNSUPPORTED,
    Dialect,
    Extras,
    Terms,
    UsageWhere,
    check_sampling,
    count,
    flag,
    read_fields,
    stops,
    top_logprobs,
    usage_where,
    whole,
)
from loadgen.simulator.refusals import invalid
from loadgen.simulator.schemas import example
from loadgen.simulator.tools import Call, choose_call, read_tools

DEFINED = SAMPLING | {"messages", "response_format", "tools", "tool_choice", "modalities"}
NOT_OF_THE_ANSWER = ("stream", "stream_options")  # the same seed says the same, streamed or not


@dataclass(frozen=True, slots=True)
class Form:
    """What the answer must be but for its words: JSON of any kind, or (`text`) exactly this JSON."""

    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A valid request. `max_tokens` is None where the request sets no limit."""

    model: str
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    usage_where: UsageWhere
    stops: tuple[bytes, ...]
    call: Call | None
    form: Form | None  # None: plain text
    filtered: bool
    top_logprobs: int | None
    seed: int | None  # of the words and their number, made from the request's own and its body
    param: str = "messages"

    @property
    def context_tokens(self) -> int:
        return self.prompt_tokens

    def compose(self, rng: Random, *, room_tokens: int, length: Callable[[Random], int]) -> ChatAnswer:
        """The answer, drawn from `rng`: its id, its words and, where nothing cuts it, its length."""
        answer_id = f"{rng.getrandbits(128):032x}"
        source = rng if self.seed is None else Random(self.seed)
        first_word, wanted_tokens = source.getrandbits(16), length(source)
        ceiling_tokens = room_tokens if self.max_tokens is None else min(room_tokens, self.max_tokens)
        return ChatAnswer(
            id=answer_id,
            created_s=int(time.time()),
            model=self.model,
            prompt_tokens=self.prompt_tokens,
            draft=self._draft(first_word, wanted_tokens, ceiling_tokens),
            usage_where=self.usage_where,
            top_logprobs=self.top_logprobs,
        )

    def _draft(self, first_word: int, wanted_tokens: int, ceiling_tokens: int) -> Draft:
        if self.call is not None:
            draft = draft_call(self.call, ceiling_tokens)
        elif self.form is None:
            draft = draft_words(first_word, wanted_tokens, ceiling_tokens)
        elif self.form.text is None:
            draft = draft_json(first_word, wanted_tokens, ceiling_tokens)
        else:
            draft = draft_text(self.form.text, ceiling_tokens)
        if self.stops and draft.call is None:
            draft = end_before(draft, self.stops)
        return filter_half(draft) if self.filtered else draft


def parse_chat(body: bytes, terms: Terms, extras: Extras) -> ChatRequest:
    """Read and check a request's body.

    Raises Refusal: 400 for broken JSON, images, parameters that are not allowed and filtered prompts, 422 for wrong
    values and for what the model does not support.
    """
    fields = read_fields(body, DEFINED, terms, extras)
    tools = read_tools(fields, terms.model) if "tools" in fields else ()
    conversation = read_messages(fields.get("messages"), tools, terms)
    check_sampling(fields, terms.model)
    if fields.get("modalities") not in (None, ["text"]):
        raise invalid(("modalities",), fields["modalities"], code=UNSUPPORTED)
    limit = "max_tokens"
    if terms.dialect is Dialect.OPENAI and fields.get("max_completion_tokens") is not None:
        limit = "max_completion_tokens"
    return ChatRequest(
        model=terms.model.name,
        prompt_tokens=conversation.prompt_tokens,
        max_tokens=count(fields, limit),
        stream=flag(fields, "stream"),
        usage_where=usage_where(fields, terms.dialect),
        stops=stops(fields),
        call=choose_call(fields, tools, asks=conversation.asks),
        form=_form(fields.get("response_format"), terms.model),
        filtered=terms.safety is not None and terms.safety.check(conversation.texts, "messages"),
        top_logprobs=top_logprobs(fields),
        seed=seed_of(fields),
    )


def seed_of(fields: Mapping[str, Any]) -> int | None:
    """The randomness of a request that brings a seed: by the seed and the rest of its body, in any order."""
    if whole(fields, "seed") is None:
        return None
    of_the_answer = {name: value for name, value in fields.items() if name not in NOT_OF_THE_ANSWER}
    digest = hashlib.blake2b(orjson.dumps(of_the_answer, option=orjson.OPT_SORT_KEYS), digest_size=8)
    return int.from_bytes(digest.digest())


def _form(given: Any, model: Model) -> Form | None:
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, dict) else given
    if isinstance(kind, dict):  # as the documents' Python examples for Mistral-Large write it
        kind = kind.get("type")
    match kind:
        case "text":
            return None
        case "json_object" | "json_schema" if not model.json_object:
            raise invalid(("response_format",), kind, code=UNSUPPORTED)
        case "json_object":
            return Form()
        case "json_schema" if isinstance(given, dict) and isinstance(given.get("json_schema"), dict):
            schema = given["json_schema"].get("schema", {"type": "object"})
            return Form(json.dumps(example(schema, ("response_format", "json_schema", "schema"))))
    raise invalid(("response_format",), given)
