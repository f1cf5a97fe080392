"""Conversation: several turns (prompts.turns), each with all that was said before, the model's own answers included.

A pause (prompts.turn_pause) comes before each further turn. Each turn is a row; a session ends with an answer that
failed, and where its next turn would come due after the run's last arrival. It holds a place in flight until then.
"""

from random import Random
from typing import Any

from locust import task

from loadgen.prompts import Prompt
from loadgen.requests import RequestSpec, chat, text_of
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser
from scenarios.streaming import question

QUESTION_TOKENS = (10, 60)


class Conversation(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        return self.turn(arrival, self.opening(arrival))

    @task
    def take_turn(self) -> None:
        arrival = self.next_arrival()
        turns, prompt = self.prompts.turns(arrival), self.opening(arrival)
        while True:
            self.send(arrival, self.turn(arrival, prompt))
            turns -= 1
            if self.answer is None or turns == 0:
                return
            arrival = self.follow_up(arrival, self.prompts.pause_s(arrival))
            said = [self.answer.message, asked(arrival.random)]
            prompt = prompt._replace(messages=[*prompt.messages, *said])

    def opening(self, arrival: Arrival) -> Prompt:
        random = arrival.random
        return self.prompts.messages(arrival, random, lambda: question(random))

    def turn(self, arrival: Arrival, prompt: Prompt) -> RequestSpec:
        return chat(
            self.scenario,
            prompt.messages,
            max_tokens=self.max_tokens(arrival),
            stream=True,
            images=prompt.images,
            completion_tokens=arrival.completion_tokens,
            keep_answer=True,
        )


def asked(random: Random) -> dict[str, Any]:
    return {"role": "user", "content": text_of(random, random.randint(*QUESTION_TOKENS))}
