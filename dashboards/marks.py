"""What stands within the text of a page as markup: figures that programs find, and options that are not broken."""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup

from dashboards import text

FLAG: Final = re.compile(r"(--[a-z][a-z-]*)")


def mark(key: str, value: float | None) -> Markup:
    """Attributes by which a program finds a figure and its unrounded value in the page."""
    return Markup('data-figure="{}" data-value="{}"').format(text.readable(key), text.exact(value))


def unbroken(text_with_flags: str) -> Markup:
    """With each `--option` on one line, and with the line breaks of a log."""
    parts = FLAG.split("\n".join(map(text.readable, text_with_flags.split("\n"))))
    return Markup("").join(
        Markup('<span class="flag">{}</span>').format(part) if place % 2 else part for place, part in enumerate(parts)
    )
