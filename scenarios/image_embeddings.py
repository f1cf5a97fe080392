"""Image embeddings: a vector for one picture, the user's own or a painted one. The azure dialect alone has them."""

from loadgen.requests import RequestSpec, Route, image_embedding
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser
from scenarios.vision import PICTURES_OF_A_SIZE, SIZES_PX, data_url


class ImageEmbeddings(DeploymentUser):
    route = Route.IMAGE_EMBEDDINGS

    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        own = self.prompts.picture(random)
        url = data_url(random.choice(SIZES_PX), random.randrange(PICTURES_OF_A_SIZE)) if own is None else own.url
        return image_embedding(self.scenario, [url])
