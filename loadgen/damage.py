"""A file of a record that cannot be read, by name: polars says what is wrong with it, and not with which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from loadgen.errors import RunFolderError


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Raise RunFolderError for a parquet file below `folder` that is why polars failed; what else failed is passed on.

    The files are looked at only then: a record that reads costs nothing.
    """
    try:
        yield
    except pl.exceptions.PolarsError as error:
        found = next((damage for path in sorted(folder.rglob("*.parquet")) if (damage := _damage_of(path))), None)
        if found is None:
            raise
        raise RunFolderError(found) from error


def _damage_of(path: Path) -> str | None:
    try:
        for _ in pl.scan_parquet(path, glob=False).collect_batches():
            pass
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0].encode("ascii", "replace").decode()
        return f"{path} is damaged, and cannot be read ({reason}): copy it here again from where the run was made"
    return None
