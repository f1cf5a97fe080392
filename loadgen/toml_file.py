"""TOML that people write: files and texts, and what is said of those that cannot be read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from loadgen.errors import ConfigError

LARGEST = 16 << 20  # bytes; what has no end, such as a device, is not read to it


def read_toml(file: Path) -> dict[str, Any]:
    """Raises ConfigError, which names the file."""
    return parse(text_of(file), file)


def text_of(file: Path) -> str:
    """Raises ConfigError for what is not there, is no text, or is too large."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
        text = content.decode()
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist") from None
    except (OSError, ValueError) as error:  # the second of bytes that are no UTF-8, and of a name with a null
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if len(content) > LARGEST:
        raise ConfigError(f"{file} has more than {LARGEST >> 20} MiB, and is none of ours")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(text: str, file: Path) -> dict[str, Any]:
    """Raises ConfigError, which calls it `file`."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and what int() refuses as too long
        raise ConfigError(f"{file} is not TOML: {error}") from None
