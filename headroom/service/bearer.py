"""The token that each request carries, as the service and the commands are given it."""

from __future__ import annotations

import os
from pathlib import Path

from headroom.service.launching import TOKEN_VARIABLE
from loadgen.errors import ConfigError


def token_of(file: Path | None = None) -> str | None:
    """In the file, else in HEADROOM_TOKEN; None where neither is given. Raises ConfigError, which does not show it."""
    if file is None:
        return _checked(os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE) or None
    try:
        return _checked(file.read_text("utf-8"), f"--token-file {file}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file} cannot be read: {type(error).__name__}") from None


def _checked(text: str, place: str) -> str:
    """What a header can hold, without the line break at its end."""
    token = text.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(f"{place}: a token is one word of ASCII letters, digits and signs")
    return token
