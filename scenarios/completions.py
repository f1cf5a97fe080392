"""Completions: a text that the model goes on with, token by token."""

from loadgen.requests import RequestSpec, Route, completion
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser

PROMPT_TOKENS = (20, 200)


class Completions(DeploymentUser):
    route = Route.COMPLETIONS

    def request(self, arrival: Arrival) -> RequestSpec:
        return completion(
            self.scenario,
            self.prompts.plain(arrival, arrival.random, PROMPT_TOKENS),
            max_tokens=self.max_tokens(arrival),
            stream=True,
            completion_tokens=arrival.completion_tokens,
        )
