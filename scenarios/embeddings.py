"""Embeddings: one to four passages, a vector for each; where a length is stated, one passage of it."""

from loadgen.requests import RequestSpec, Route, embedding
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser

MOST_PASSAGES = 4
PASSAGE_TOKENS = (20, 200)


class Embeddings(DeploymentUser):
    route = Route.EMBEDDINGS

    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        first = self.prompts.plain(arrival, random, PASSAGE_TOKENS)
        if self.prompts.states(arrival):
            return embedding(self.scenario, [first])
        more = [self.prompts.plain(arrival, random, PASSAGE_TOKENS) for _ in range(random.randrange(MOST_PASSAGES))]
        return embedding(self.scenario, [first, *more])
