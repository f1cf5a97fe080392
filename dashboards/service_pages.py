"""The pages of the batch service: templates filled with what it knows. Every text in them is escaped and inert.

They hold no script and no style of their own: both are files of the service, so its content security policy names no
more than itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dashboards import text
from dashboards.marks import mark, unbroken
from dashboards.styles import style_of

FOLDER = "templates/service"
ASSETS = {"service.css": "text/css; charset=utf-8", "service.js": "text/javascript; charset=utf-8"}


def page(template: str, **values: Any) -> str:
    """The whole page of `template`, like "queue"."""
    return _pages.get_template(f"{template}.html.jinja").render(**values)


def asset(name: str) -> str:
    """One of ASSETS, as text."""
    if name.endswith(".css"):
        return style_of(f"service/{name}")
    return (Path(__file__).parent / FOLDER / name).read_text("utf-8")


def more(ratio: float | None) -> str:
    """1.034: +3.4 %."""
    return text.UNKNOWN if ratio is None else f"{(ratio - 1) * 100:+.1f} %"


def _finalize(value: Any) -> Any:
    """Without control characters, but with the line breaks of a log."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(text.readable(line) for line in value.split("\n"))


def _environment() -> Environment:
    pages = Environment(
        loader=PackageLoader("dashboards", FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {"mark": mark, "interval": text.interval}
    writers = (more, unbroken, text.digits, text.count, text.percent, text.usd, text.metric_name, text.metric_meaning)
    pages.filters |= {writer.__name__: writer for writer in writers}
    return pages


_pages = _environment()
