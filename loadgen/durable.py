"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import polars as pl

from loadgen.errors import RunFolderError


def publish_bytes(path: Path, content: bytes) -> None:
    """Replace `path` at once or not at all, and survive a power cut."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _rename_durably(draft, path)


def publish_frame(path: Path, frame: pl.DataFrame, *, row_group_size: int | None = None) -> None:
    _publish(path, partial(frame.write_parquet, compression="zstd", row_group_size=row_group_size))


def publish_lazy(path: Path, frame: pl.LazyFrame, *, row_group_size: int | None = None) -> None:
    """As it comes: what does not fit into memory is never in it."""
    _publish(path, partial(frame.sink_parquet, compression="zstd", row_group_size=row_group_size))


def _publish(path: Path, write: Callable[[Path], object]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    try:
        write(draft)
    except pl.exceptions.ComputeError as error:
        full = os.statvfs(path.parent).f_bavail == 0  # which polars tells as what it was writing then
        reason = os.strerror(errno.ENOSPC) if full else str(error).splitlines()[0]
        with suppress(OSError):
            draft.unlink()  # half a file; what else is kept may need its room
        raise RunFolderError(f"{path} cannot be written: {reason}") from None
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    _rename_durably(draft, path)


def _rename_durably(draft: Path, path: Path) -> None:
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
