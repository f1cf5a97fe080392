"""Vision: a question about one picture, sent as a data URL: the user's own, or one that is painted.

A stated length is that of question and picture; where the picture alone is longer, the question is as usual.
"""

import base64
import io
from functools import lru_cache
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from loadgen.pictures import Picture
from loadgen.requests import RequestSpec, chat
from loadgen.schedule import Arrival
from loadgen.tokens import TOKENS_PER_MESSAGE, image_tokens
from loadgen.users import DeploymentUser

SIZES_PX = ((336, 336), (640, 480), (800, 600), (1024, 768), (768, 1024), (1280, 720), (1900, 1069))
PICTURES_OF_A_SIZE = 8  # painting one takes milliseconds: they are kept, and enough of them that caches do not help
QUESTION_TOKENS = (10, 40)


class Vision(DeploymentUser):
    def request(self, arrival: Arrival) -> RequestSpec:
        random = arrival.random
        picture = self.prompts.picture(random)
        if picture is None:
            size_px = random.choice(SIZES_PX)
            picture = Picture(data_url(size_px, random.randrange(PICTURES_OF_A_SIZE)), size_px)
        beside_tokens = TOKENS_PER_MESSAGE + image_tokens(*picture.size_px)
        text = self.prompts.plain(arrival, random, QUESTION_TOKENS, beside_tokens=beside_tokens)
        return chat(
            self.scenario,
            [{"role": "user", "content": [{"type": "text", "text": text}, part_of(picture.url)]}],
            max_tokens=self.max_tokens(arrival),
            stream=True,
            images=[picture.size_px],
            completion_tokens=arrival.completion_tokens,
        )


def part_of(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


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
