"""Documents of ours in JSON, each a dataclass with a `format`: read back whole, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from loadgen.errors import RunFolderError

Document = TypeVar("Document")


def read_document(path: Path, kind: type[Document], known_format: int) -> Document:
    """Raises RunFolderError for a file that cannot be read, is of another format, or is damaged."""
    try:
        raw = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != known_format:
        raise RunFolderError(f"{path} has format {found!r}; this version of Headroom reads format {known_format}")
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        raise RunFolderError(f"{path} is damaged: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None
