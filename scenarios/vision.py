"""Vision: a question about one picture, sent as a JPEG data URL. Pictures vary in size and shape."""

import base64
import io
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw

from loadgen.requests import RequestSpec, chat, text_of
from loadgen.schedule import Arrival
from loadgen.users import DeploymentUser

SIZES_PX = ((336, 336), (640, 480), (800, 600), (1024, 768), (768, 1024), (1280, 720), (1900, 1069))
PICTURES_OF_A_SIZE = 8  # painting one takes milliseconds: they are kept, and enough of them that caches do not help
QUESTION_TOKENS = (10, 40)


class Vision(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        size_px = random.choice(SIZES_PX)
        picture = data_url(size_px, random.randrange(PICTURES_OF_A_SIZE))
        content = [
            {"type": "text", "text": text_of(random, random.randint(*QUESTION_TOKENS))},
            {"type": "image_url", "image_url": {"url": picture}},
        ]
        return chat(
            self.scenario,
            [{"role": "user", "content": content}],
            max_tokens=self.max_tokens(arrival),
            stream=True,
            images=[size_px],
            openai_model=self.player.lane.openai_model,
            completion_tokens=arrival.completion_tokens,
        )


@lru_cache(maxsize=len(SIZES_PX) * PICTURES_OF_A_SIZE)
def data_url(size_px: tuple[int, int], number: int) -> str:
    """A picture of coloured shapes; the same number paints the same picture."""
    random = Random(f"picture/{size_px}/{number}")
    image = Image.new("RGB", size_px, _colour(random))
    draw = ImageDraw.Draw(image)
    for _ in range(24):
        corners = [(random.randrange(size_px[0]), random.randrange(size_px[1])) for _ in range(3)]
        draw.polygon(corners, fill=_colour(random))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _colour(random: Random) -> tuple[int, int, int]:
    return random.randrange(256), random.randrange(256), random.randrange(256)
