"""Printing into a pipe or a file: lines do not end in the blanks that fill a terminal's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def without_trailing_blanks(console: Console) -> Iterator[None]:
    """What is printed within; a terminal is left as it is."""
    if console.is_terminal:
        yield
        return
    with console.capture() as captured:
        yield
    console.file.write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))
