"""The size of an image that came inside a request. Its pixels are never decoded, and nothing is ever fetched."""

from __future__ import annotations

import binascii
import io
import warnings

from PIL import Image

from loadgen.simulator.refusals import bad_request

# image/jpg is no registered type, but the API's own examples send it.
ACCEPTED = ("data:image/jpeg;base64", "data:image/jpg;base64", "data:image/png;base64")

Image.preinit()  # loads the decoders now, so that the first image of a run does not hold up every stream


def image_size(url: str, param: str) -> tuple[int, int]:
    """(width, height) in pixels of a JPEG or PNG data URL. Raises Refusal (400); `param` says where the URL was."""
    head, _, data = url.partition(",")
    if head.lower() not in ACCEPTED:
        if head.lower().startswith(("http:", "https:")):
            raise bad_request("Images by address are not fetched; send the image as a data URL.", param=param)
        raise bad_request("An image must be a base64 data URL of type image/jpeg or image/png.", param=param)
    try:
        content = binascii.a2b_base64(data, strict_mode=True)
    except ValueError:  # binascii.Error is one, and so is the complaint about characters beyond ASCII
        raise bad_request("The image's base64 is broken.", param=param) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a client's bytes are nothing to warn the operator of
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
                width_px, height_px = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise bad_request("The image has too many pixels.", param=param) from None
    except (OSError, ValueError):
        width_px = height_px = 0
    if min(width_px, height_px) < 1:
        raise bad_request("The image is neither JPEG nor PNG.", param=param)
    return width_px, height_px
