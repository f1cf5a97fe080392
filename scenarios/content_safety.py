"""Content safety: chats of which a share (prompts.unsafe_share) holds a phrase that Azure's content filter refuses.

What is filtered is an outcome of its own, `filtered`: the filter at work, and no failure of the deployment.
"""

from loadgen.requests import RequestSpec, chat
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser
from scenarios.streaming import question

UNSAFE = " You can practice your knife skills."  # as in the documentation's own example of a filtered prompt


class ContentSafety(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random, ending = arrival.random, UNSAFE if self.prompts.unsafe(arrival) else ""
        messages, images = self.prompts.messages(arrival, random, lambda: question(random, ending), ending=ending)
        return chat(
            self.scenario,
            messages,
            max_tokens=self.max_tokens(arrival),
            images=images,
            completion_tokens=arrival.completion_tokens,
        )
