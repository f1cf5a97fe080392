"""What all that is printed has in common: words in the margin, and lines of a pipe that do not end in blanks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dashboards.readable import readable


def lead(word: str, text: str, style: str) -> Table:
    """A word in the margin and text that wraps beside it."""
    line = Table.grid(padding=(0, 1))
    line.add_column(width=7, no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(Text(f"  {word}", style), Text(readable(text)))
    return line


@contextmanager
def without_trailing_blanks(console: Console) -> Iterator[None]:
    """What is printed within; a terminal is left as it is."""
    if console.is_terminal:
        yield
        return
    with console.capture() as captured:
        yield
    console.file.write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))
