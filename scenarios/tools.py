"""Tools: a question with a function on offer; the model calls it, it runs here, and the model answers with its result.

Two requests, two rows: the call, and, once it has come, the answer.
"""

import json
from random import Random
from typing import Any

from locust import task

from loadgen.prompts import Prompt
from loadgen.requests import RequestSpec, chat
from loadgen.schedule import Arrival
from loadgen.tokens import prompt_tokens
from loadgen.users import DeploymentUser
from scenarios.streaming import question

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "flight_status",
            "description": "Whether a flight is on time, and from which gate it leaves.",
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "string", "description": "like LH 123"}},
                "required": ["number"],
            },
        },
    }
]
OFFER_TOKENS = prompt_tokens([], tools=TOOLS)


class Tools(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        return self.offer(arrival, self.opening(arrival))

    @task
    def take_turn(self) -> None:
        arrival = self.next_arrival()
        prompt = self.opening(arrival)
        self.send(arrival, self.offer(arrival, prompt))
        if self.answer is not None and self.answer.tool_calls:
            results = [result_of(call) for call in self.answer.tool_calls]
            messages = [*prompt.messages, self.answer.message, *results]
            after = self.follow_up(arrival)
            self.send(after, self.offer(after, Prompt(messages, prompt.images)))

    def opening(self, arrival: Arrival) -> Prompt:
        random = arrival.random
        return self.prompts.messages(arrival, random, lambda: question(random), beside_tokens=OFFER_TOKENS)

    def offer(self, arrival: Arrival, prompt: Prompt) -> RequestSpec:
        return chat(
            self.scenario,
            prompt.messages,
            max_tokens=self.max_tokens(arrival),
            images=prompt.images,
            tools=TOOLS,
            completion_tokens=arrival.completion_tokens,
            keep_answer=True,
        )


def result_of(call: dict[str, Any]) -> dict[str, Any]:
    """The tool's message: what the function says, or what is wrong with the call."""
    try:
        result = flight_status(**json.loads(call["function"]["arguments"]))
    except (ValueError, TypeError) as error:
        result = {"error": str(error)}
    return {"role": "tool", "tool_call_id": call.get("id"), "content": json.dumps(result)}


def flight_status(number: str) -> dict[str, Any]:
    random = Random(number)
    return {"number": number, "on_time": random.random() < 0.8, "gate": f"A{random.randint(1, 60)}"}
