"""A page of this project: one HTML file with its scripts, its style and the policy that allows those and nothing else.

Its content security policy allows the scripts by their hashes: no address is ever asked for anything, whatever a server
put into a name or an error.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dashboards import text
from dashboards.marks import mark, unbroken
from dashboards.styles import style_of
from planner.levers import Levers

MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def page(template: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """A template with its values, the scripts, and the policy that allows those and nothing else."""
    sources = [get_plotlyjs(), *(_source(name) for name in ("report.js", *scripts))]
    return _pages.get_template(template).render(
        **values,
        policy=_policy(*sources),
        scripts=[Markup(source) for source in sources],  # noqa: S704 - hashed as it stands
        css=Markup(style_of("report.css")),  # noqa: S704
    )


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as text, without those that are not set."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flatten(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        if value:
            yield key, ", ".join(str(item) for item in value)
    elif value is not None:
        yield key, str(value).lower() if isinstance(value, bool) else str(value)


def day_and_minute(started_utc: str) -> str:
    """`21 November 2026, 14:47 UTC`; what is no such time, as it is."""
    try:
        at = datetime.fromisoformat(started_utc).astimezone(UTC)
    except ValueError:
        return started_utc
    return f"{at.day} {MONTHS[at.month - 1]} {at:%Y, %H:%M} UTC"


def break_even(requests_per_s: float | None, levers: Levers) -> str:
    """The rate, or that an instance does not serve so many."""
    known = None not in (levers.break_even_requests_per_s, levers.served_per_s)
    if requests_per_s is None and known:
        return f"never: one instance serves {text.digits(levers.served_per_s)}/s"
    return text.digits(requests_per_s)


def _policy(*scripts: str) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    # img-src: plotly's "download as PNG" paints through an image of its own making.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text("utf-8")


def _finalize(value: Any) -> Any:
    return text.readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    pages = Environment(
        loader=PackageLoader("dashboards"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals |= {
        "mark": mark,
        "interval": text.interval,
        "break_even": break_even,
        "generator_rows": text.GENERATOR_ROWS,
        "target_rows": text.TARGET_ROWS,
        "main_metrics": text.MAIN_METRICS,
        "within": text.within,
    }
    writers = (
        text.digits, text.count, text.whole, text.usd, text.percent,
        text.quantiles, text.metric_name, text.metric_meaning, text.times, text.ratio, text.chance, text.whole_percent,
        unbroken, day_and_minute,
    )  # fmt: skip
    pages.filters |= {writer.__name__: writer for writer in writers}
    return pages


_pages = _environment()
