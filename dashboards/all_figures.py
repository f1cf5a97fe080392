"""Every number of a plan's part by its dotted path, for the table that a page folds away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from dashboards import text

MOST_IN_ROW = 24  # of many alike, such as the hours of a week: summary.json has the others


def all_figures(value: Any, path: str) -> Iterator[tuple[str, float | bool | None, str]]:
    """Path, unrounded value, and how it is shown."""
    if is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from all_figures(getattr(value, each.name), f"{path}.{each.name}")
    elif isinstance(value, tuple):
        for place, inner in enumerate(value[:MOST_IN_ROW]):
            yield from all_figures(inner, f"{path}.{place}")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from all_figures(inner, f"{path}.{key}")
    elif value is None or isinstance(value, bool):
        yield path, value, text.UNKNOWN if value is None else "yes" if value else "no"
    elif isinstance(value, int):
        yield path, value, text.count(value)
    elif isinstance(value, float):
        yield path, value, text.digits(value)
