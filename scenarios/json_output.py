"""JSON output: a question that must be answered with a JSON object, and a look at whether it was.

An answer that is no JSON is still an answer, so its outcome stays ok; its row says `not_json`, or `cut_json` where
max_tokens ended it.
"""

import orjson

from loadgen.answers import Answer
from loadgen.requests import RequestSpec, chat
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser
from scenarios.streaming import question

ENDING = " Answer with a JSON object."  # without the word, several models refuse response_format
FORMAT = {"response_format": {"type": "json_object"}}


class JsonOutput(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        messages, images = self.prompts.messages(arrival, random, lambda: question(random, ENDING), ending=ENDING)
        return chat(
            self.scenario,
            messages,
            max_tokens=self.max_tokens(arrival),
            images=images,
            extra=FORMAT,
            completion_tokens=arrival.completion_tokens,
            check=fault,
        )


def fault(answer: Answer) -> str | None:
    """What is wrong with an answer that should be a JSON object; None where it is one."""
    try:
        if isinstance(orjson.loads(answer.content), dict):
            return None
    except orjson.JSONDecodeError:
        pass
    return "cut_json" if answer.finish_reason == "length" else "not_json"
