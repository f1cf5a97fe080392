"""The styles of all pages: each one's own after the palette that they share, light, dark and on paper."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

_TEMPLATES: Final = files("dashboards") / "templates"


def style_of(sheet: str) -> str:
    """What stands in a page or is sent for it; `sheet` is a path from templates/, like "report.css"."""
    return "".join((_TEMPLATES / name).read_text("utf-8") for name in ("palette.css", sheet))
