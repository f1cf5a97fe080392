"""Chat: a system prompt and a conversation of one to four turns, answered in one piece.

The earlier turns are made up, answers included, so that the same seed sends the same bytes whatever the model says.
"""

from loadgen.requests import RequestSpec, chat, text_of
from loadgen.schedule import Arrival
from loadgen.tokens import TOKENS_PER_MESSAGE
from loadgen.users import DeploymentUser

SYSTEM = "You are a helpful assistant. Answer briefly, and say so when you do not know."
MOST_TURNS = 4
QUESTION_TOKENS = (15, 120)
ANSWER_TOKENS = (30, 150)


class Chat(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        if arrival.prompt_tokens is not None:
            messages = one_message(arrival)
        else:
            messages = [{"role": "system", "content": SYSTEM}]
            for _ in range(random.randrange(MOST_TURNS)):
                messages.append({"role": "user", "content": text_of(random, random.randint(*QUESTION_TOKENS))})
                messages.append({"role": "assistant", "content": text_of(random, random.randint(*ANSWER_TOKENS))})
            messages.append({"role": "user", "content": text_of(random, random.randint(*QUESTION_TOKENS))})
        return chat(
            self.scenario,
            messages,
            max_tokens=self.max_tokens(arrival),
            openai_model=self.player.lane.openai_model,
            completion_tokens=arrival.completion_tokens,
        )


def one_message(arrival: Arrival) -> list[dict[str, str]]:
    """A prompt of exactly the tokens that a trace states, by the estimator."""
    tokens = max(1, (arrival.prompt_tokens or 0) - TOKENS_PER_MESSAGE)
    return [{"role": "user", "content": text_of(arrival.random, tokens)}]
