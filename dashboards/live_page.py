"""The page of a run that lasts, as it is served: what moves on it comes as events, and the script writes it as text."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from dashboards.styles import style_of

_TEMPLATES = files("dashboards") / "templates"
PARTS = {  # beside the page: content, media type
    "live.js": ((_TEMPLATES / "live.js").read_text("utf-8"), "text/javascript"),
    "live.css": (style_of("live.css"), "text/css"),
}


def page_of_run(events: str = "events") -> str:
    """The whole page. `events` is the address of its feed, relative to the page's own."""
    loader = PackageLoader("dashboards", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("live.html.jinja").render(events=events)
