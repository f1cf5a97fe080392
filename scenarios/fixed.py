"""Scenarios that measure Headroom itself: the same request each time, so that no time goes into making it up."""

from loadgen.requests import RequestSpec, chat
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "How many languages are in the world?"},
]
MAX_TOKENS = 100


class Plain(DeploymentUser):
    spec = chat("plain", MESSAGES, max_tokens=MAX_TOKENS)

    def request(self, arrival: Arrival) -> RequestSpec:  # noqa: ARG002
        return self.spec


class Stream(Plain):
    spec = chat("stream", MESSAGES, max_tokens=MAX_TOKENS, stream=True)
