"""What is asked: texts of a stated number of tokens, or a user's own prompts and pictures. The same seed, the same
prompts; where nothing is stated, a scenario says what it usually asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson

from loadgen.errors import ConfigError
from loadgen.lengths import read_lengths
from loadgen.pictures import Picture, pictures_in, sizes_within
from loadgen.prompts_config import PromptsConfig
from loadgen.requests import Message, text_of
from loadgen.schedule import Arrival
from loadgen.tokens import BYTES_PER_TOKEN, TOKENS_PER_MESSAGE

MOST_PROMPTS = 100_000


class Prompt(NamedTuple):
    """The messages of a chat, and the (width, height) in pixels of the pictures within them."""

    messages: Sequence[Message]
    images: Sequence[tuple[int, int]] = ()


class Prompts:
    """What the config's [prompts] say of each arrival."""

    def __init__(self, config: PromptsConfig, *, max_tokens: int) -> None:
        """Reads the files it names. Raises ConfigError that names file and line."""
        self._config, self._max_tokens = config, max_tokens
        self._tokens = None if config.tokens is None else read_lengths(config.tokens)
        self._completion = None if config.completion is None else read_lengths(config.completion)
        self._turns = read_lengths(config.turns)
        self._own = () if config.file is None else read_prompts(config.file)
        self._pictures = () if config.images is None else pictures_in(config.images)
        self._shared: dict[int, str] = {}  # by seed: a run that is replayed has its own

    def tokens(self, arrival: Arrival) -> int | None:
        """Of the whole prompt: the trace's, else drawn; None where nothing states it."""
        if arrival.prompt_tokens is not None:
            return arrival.prompt_tokens
        return None if self._tokens is None else self._tokens.draw(arrival.random_for("prompt tokens"))

    def states(self, arrival: Arrival) -> bool:
        """Whether it is stated what this prompt is, or how long."""
        return bool(self._own) or self._tokens is not None or arrival.prompt_tokens is not None

    def max_tokens(self, arrival: Arrival) -> int:
        """The completion limit to ask for: the trace's, else drawn, else load.max_tokens."""
        if arrival.completion_tokens:
            return arrival.completion_tokens
        if self._completion is None:
            return self._max_tokens
        return self._completion.draw(arrival.random_for("completion tokens"))

    def messages(
        self,
        arrival: Arrival,
        random: Random,
        usual: Callable[[], list[dict[str, Any]]],
        *,
        ending: str = "",
        beside_tokens: int = 0,
    ) -> Prompt:
        """The trace's messages; else one of the user's own prompts; else one message that makes the prompt as long as
        stated, whatever stands beside it (`beside_tokens`: tools, pictures); else the scenario's usual messages."""
        own = self._own_of(arrival)
        tokens = self.tokens(arrival)
        if own is not None:
            prompt = own
        elif tokens is None:
            prompt = Prompt(usual())
        else:
            content = self.text(arrival, random, tokens - TOKENS_PER_MESSAGE - beside_tokens, ending=ending)
            return Prompt([{"role": "user", "content": content}])
        return self._marked(prompt, arrival) if self._config.cache_bust else prompt

    def plain(self, arrival: Arrival, random: Random, usual_tokens: tuple[int, int], *, beside_tokens: int = 0) -> str:
        """A text without messages: what the trace's say, else one of the user's own prompts, else as long as stated,
        else as usual, as it is too where nothing is left of the stated length beside the `beside_tokens`."""
        own = self._own_of(arrival)
        if own is None:
            tokens = (self.tokens(arrival) or 0) - beside_tokens
            return self.text(arrival, random, tokens if tokens > 0 else random.randint(*usual_tokens))
        said = "\n".join(part for message in own.messages for part in _texts(message))
        return self._mark(arrival) + said if self._config.cache_bust else said

    def text(self, arrival: Arrival, random: Random, tokens: int, *, ending: str = "") -> str:
        """English words that count exactly `tokens` (1 at least), the prefix that all share or a mark of its own
        included, and the `ending`."""
        length = max(1, tokens) * BYTES_PER_TOKEN
        opening = self._mark(arrival) if self._config.cache_bust else self._prefix(arrival.seed, max(1, tokens))
        words = text_of(random, max(1, tokens))
        return (opening + words[: max(0, length - len(opening) - len(ending))] + ending)[:length]

    def turns(self, arrival: Arrival) -> int:
        """Of a conversation."""
        return self._turns.draw(arrival.random_for("turns"))

    def pause_s(self, arrival: Arrival) -> float:
        """Between an answer of a conversation and its next turn."""
        mean_s = self._config.turn_pause
        return arrival.random_for("pause").expovariate(1 / mean_s) if mean_s else 0.0

    def unsafe(self, arrival: Arrival) -> bool:
        """Whether this prompt is to trip the content filter."""
        return arrival.random_for("unsafe").random() < self._config.unsafe_share

    def picture(self, random: Random) -> Picture | None:
        """One of the user's own; None where there are none."""
        return random.choice(self._pictures) if self._pictures else None

    def _own_of(self, arrival: Arrival) -> Prompt | None:
        if arrival.messages is not None:
            return Prompt(arrival.messages, sizes_within(arrival.messages, f"arrival {arrival.seq}"))
        return arrival.random_for("own prompt").choice(self._own) if self._own else None

    def _prefix(self, seed: int, tokens: int) -> str:
        length = round(tokens * self._config.shared_prefix) * BYTES_PER_TOKEN
        if length > len(self._shared.get(seed, "")):
            self._shared[seed] = text_of(Random(f"{seed}/shared prefix"), 2 * length)
        return self._shared[seed][:length] if length else ""

    def _mark(self, arrival: Arrival) -> str:
        return f"{arrival.random_for('mark').getrandbits(60):015x}\n"

    def _marked(self, prompt: Prompt, arrival: Arrival) -> Prompt:
        """Nothing of it is in a cache if its first line is not."""
        first, *others = prompt.messages
        content = first.get("content") or ""
        mark = self._mark(arrival)
        marked = mark + content if isinstance(content, str) else [{"type": "text", "text": mark}, *content]
        return prompt._replace(messages=[{**first, "content": marked}, *others])


@lru_cache(maxsize=4)
def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """A JSON object a line: `{"messages": [...]}` or `{"prompt": "..."}`. Raises ConfigError naming the line."""
    prompts = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    prompts.append(_read_prompt(line, f"{path}, line {number}"))
                if len(prompts) > MOST_PROMPTS:
                    raise ConfigError(f"{path} holds more than {MOST_PROMPTS:,} prompts; give a sample of it")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if not prompts:
        raise ConfigError(f"{path} holds no prompts")
    return tuple(prompts)


def _read_prompt(line: bytes, where: str) -> Prompt:
    try:
        given = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from None
    messages = given.get("messages") if isinstance(given, dict) else None
    if isinstance(given, dict) and isinstance(given.get("prompt"), str) and given["prompt"]:
        messages = [{"role": "user", "content": given["prompt"]}]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ConfigError(
            f'{where}: write {{"prompt": "..."}} or {{"messages": [{{"role": "user", "content": "..."}}]}}; a content '
            "is a text or a list of parts"
        )
    return Prompt(messages, sizes_within(messages, where))


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return (isinstance(content, str) or bool(parts)) and all(isinstance(part, dict) for part in parts)


def _texts(message: Message) -> list[str]:
    content = message.get("content") or []
    return [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
