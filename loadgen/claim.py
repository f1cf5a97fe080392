"""Whether a run folder is in use: each process of a run holds a shared lock on it, until it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadgen.errors import RunFolderError


def hold(folder: Path) -> int:
    """Say, for as long as the descriptor returned is open, that a run is at work on the folder.

    Raises RunFolderError while somebody recovers it. Where the file system has no such locks, nothing is held.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunFolderError(f"{folder} is being recovered") from None
    except OSError:
        pass
    return descriptor


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have the folder to oneself. Raises RunFolderError while any process of its run lives."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunFolderError(
            f"the run in {folder} is still going on, or somebody else recovers it: wait until it has ended"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise RunFolderError(
            f"{folder}: its file system cannot tell whether the run is still going on ({error.strerror}): copy the "
            "folder to a local disk and recover it there"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
