"""Chat: a system prompt and a conversation of one to four turns, answered in one piece.

The earlier turns are made up, answers included, so that the same seed sends the same bytes whatever the model says.
"""

from random import Random
from typing import Any

from loadgen.requests import RequestSpec, chat, text_of
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser

SYSTEM = "You are a helpful assistant. Answer briefly, and say so when you do not know."
MOST_TURNS = 4
QUESTION_TOKENS = (15, 120)
ANSWER_TOKENS = (30, 150)


class Chat(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        messages, images = self.prompts.messages(arrival, random, lambda: so_far(random))
        return chat(
            self.scenario,
            messages,
            max_tokens=self.max_tokens(arrival),
            images=images,
            completion_tokens=arrival.completion_tokens,
        )


def so_far(random: Random) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": SYSTEM}]
    for _ in range(random.randrange(MOST_TURNS)):
        messages.append({"role": "user", "content": text_of(random, random.randint(*QUESTION_TOKENS))})
        messages.append({"role": "assistant", "content": text_of(random, random.randint(*ANSWER_TOKENS))})
    messages.append({"role": "user", "content": text_of(random, random.randint(*QUESTION_TOKENS))})
    return messages
