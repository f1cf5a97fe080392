"""Replay: what a trace holds: its own messages and pictures where it has them, else prompts of the stated lengths."""

from random import Random
from typing import Any

from loadgen.requests import Message, RequestSpec, chat
from loadgen.schedule import Arrival
from loadgen.tokens import image_tokens
from loadgen.users import DeploymentUser
from scenarios.streaming import question
from scenarios.vision import PICTURES_OF_A_SIZE, data_url, part_of


class Replay(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random, images = arrival.random, arrival.images or []
        beside_tokens = sum(image_tokens(*size_px) for size_px in images)
        prompt = self.prompts.messages(arrival, random, lambda: question(random), beside_tokens=beside_tokens)
        if arrival.messages is not None and prompt.images:
            images = []  # they state those that the messages hold
        return chat(
            self.scenario,
            with_pictures(prompt.messages, images, random),
            max_tokens=self.max_tokens(arrival),
            stream=True,
            images=[*prompt.images, *images],
            completion_tokens=arrival.completion_tokens,
        )


def with_pictures(messages: Any, sizes_px: list[tuple[int, int]], random: Random) -> list[Message]:
    """Painted pictures of the stated sizes, in the last message."""
    *before, last = messages
    if not sizes_px:
        return [*before, last]
    content = last.get("content") or []
    texts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    painted = [part_of(data_url(tuple(size), random.randrange(PICTURES_OF_A_SIZE))) for size in sizes_px]
    return [*before, {**last, "content": [*texts, *painted]}]
