"""Streaming: one question, whose answer comes token by token."""

from loadgen.requests import RequestSpec, chat, text_of
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser
from scenarios.chat import SYSTEM, one_message

QUESTION_TOKENS = (20, 200)


class Streaming(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        if arrival.prompt_tokens is not None:
            messages = one_message(arrival)
        else:
            question = text_of(random, random.randint(*QUESTION_TOKENS))
            messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        return chat(
            self.scenario,
            messages,
            max_tokens=self.max_tokens(arrival),
            stream=True,
            openai_model=self.player.lane.openai_model,
            completion_tokens=arrival.completion_tokens,
        )
