"""Pictures that a user brings: read from a folder, and measured within messages."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from loadgen.errors import ConfigError

MEDIA_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
MOST_BYTES = 256 << 20  # of all pictures of a folder, which are kept


class Picture(NamedTuple):
    url: str  # a data URL
    size_px: tuple[int, int]


@lru_cache(maxsize=4)
def pictures_in(folder: Path) -> tuple[Picture, ...]:
    """The JPEG and PNG files of a folder, by name. Raises ConfigError naming the file that is none."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in MEDIA_TYPES)
        if sum(path.stat().st_size for path in files) > MOST_BYTES:
            raise ConfigError(f"the pictures in {folder} are more than {MOST_BYTES >> 20} MB; give fewer of them")
        contents = {path: path.read_bytes() for path in files}
    except OSError as error:
        raise ConfigError(f"{error.filename or folder} cannot be read: {error.strerror}") from None
    if not contents:
        raise ConfigError(f"{folder} holds no .jpg, .jpeg or .png file")
    return tuple(
        Picture(f"data:{MEDIA_TYPES[path.suffix.lower()]};base64,{base64.b64encode(content).decode()}",
                _size_of(content, str(path)))
        for path, content in contents.items()
    )  # fmt: skip


def sizes_within(messages: Iterable[Mapping[str, Any]], where: str) -> tuple[tuple[int, int], ...]:
    """Of the data URLs in messages; pictures by address are not fetched, so their size is not known."""
    sizes = []
    for message in messages:
        parts = message["content"] if isinstance(message.get("content"), list) else ()
        for part in parts:
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else None
            if isinstance(url, str) and url.startswith("data:"):
                try:
                    content = binascii.a2b_base64(url.partition(",")[2])
                except ValueError:
                    raise ConfigError(f"{where}: the base64 of its picture is broken") from None
                sizes.append(_size_of(content, f"{where}: its picture"))
    return tuple(sizes)


def _size_of(content: bytes, what: str) -> tuple[int, int]:
    """(width, height) in pixels; only the head of the file is read."""
    from PIL import Image  # noqa: PLC0415 - most loads have no pictures of their own

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            width_px, height_px = image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        raise ConfigError(f"{what} is neither a JPEG nor a PNG") from None
    return width_px, height_px
