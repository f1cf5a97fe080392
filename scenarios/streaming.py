"""Streaming: one question, whose answer comes token by token."""

from random import Random
from typing import Any

from loadgen.requests import RequestSpec, chat, text_of
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser
from scenarios.chat import SYSTEM

QUESTION_TOKENS = (20, 200)


class Streaming(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        messages, images = self.prompts.messages(arrival, random, lambda: question(random))
        return chat(
            self.scenario,
            messages,
            max_tokens=self.max_tokens(arrival),
            stream=True,
            images=images,
            completion_tokens=arrival.completion_tokens,
        )


def question(random: Random, ending: str = "") -> list[dict[str, Any]]:
    text = text_of(random, random.randint(*QUESTION_TOKENS)) + ending
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
