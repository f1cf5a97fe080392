"""Who is at work on a folder: locks of the kernel, which end with the processes that hold them.

Each process of a run holds a shared lock on the run's folder.
"""

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
def claimed(path: Path, *, busy: str | None = None, flags: int = os.O_RDONLY) -> Iterator[None]:
    """Have a run folder to oneself, or a file that stands for one; a file may be made by `flags`.

    Raises RunFolderError, with the words `busy` while another process has it: of a run folder, while one of its run
    lives.
    """
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        _lock_alone(descriptor, path, busy)
        yield
    finally:
        os.close(descriptor)


def _lock_alone(descriptor: int, path: Path, busy: str | None) -> None:
    going_on = f"the run in {path} is still going on, or somebody else recovers it: wait until it has ended"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(busy or going_on) from None
    except OSError as error:
        raise RunFolderError(
            f"{path}: its file system cannot tell whether another process is at work there ({error.strerror}): copy "
            "the folder to a local disk and work on it there"
        ) from None
    if os.fstat(descriptor).st_nlink == 0:  # who had it has deleted it since it was opened
        raise RunFolderError(busy or going_on)
