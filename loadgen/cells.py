"""What stands in a trace's cells, as text of a CSV or as values of JSON or Parquet. Each raises ValueError in words."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

NS_PER_S = 1_000_000_000
LARGEST_TOKENS = 10_000_000  # of one row; more is a damaged file
LARGEST_SIDE_PX = 100_000  # of a picture
LARGEST_NS = 1 << 62
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})", re.ASCII)
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?", re.ASCII)


def instant_ns(value: Any, name: str, unit_ns: int = NS_PER_S) -> int:
    """A number of units, or a date and time; to the last digit, where a datetime would stop at microseconds."""
    if value is None or value == "":
        raise ValueError(f"{name} is missing")
    found = _DATE.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, datetime):
        at: datetime = value.replace(tzinfo=value.tzinfo or UTC)
        return int(at.timestamp()) * NS_PER_S + at.microsecond * 1_000
    try:
        if found is not None:
            day, time, fraction, zone = found.groups()
            whole = datetime.fromisoformat(f"{day}T{time}{zone or 'Z'}")
            return int(whole.timestamp()) * NS_PER_S + int((fraction or "0")[:9].ljust(9, "0"))
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        at_ns = int(Decimal(str(value)) * unit_ns)
        if not 0 <= at_ns <= LARGEST_NS:
            raise ValueError
    except (ValueError, OverflowError, InvalidOperation):
        raise ValueError(f"{value!r} is not an instant; write 12.5 or 2023-11-16 18:15:46.6805900") from None
    return at_ns


def count_of(value: Any, name: str) -> int:
    """Tokens."""
    if value is None or value == "":
        raise ValueError(f"{name} is missing")
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise TypeError
        count = int(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name} is {value!r}, not a whole number") from None
    if not 0 <= count <= LARGEST_TOKENS:
        raise ValueError(f"{name} is {count}; it must be between 0 and {LARGEST_TOKENS:,}")
    return count


def messages_of(value: Any) -> list[dict[str, Any]] | None:
    """Chat messages, as a list or as its JSON."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("messages are not JSON") from None
    if not (isinstance(value, list) and value and all(isinstance(each, dict) and "role" in each for each in value)):
        raise ValueError('messages are not a list like [{"role": "user", "content": "..."}]')
    return value


def images_of(value: Any) -> list[tuple[int, int]] | None:
    """Sizes in pixels: a list of `640x480` or [640, 480], its JSON, or sizes with blanks between them."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.startswith("[") else value.split()
        except ValueError:
            raise ValueError("images are not JSON") from None
    if not isinstance(value, list):
        raise ValueError("images are not a list of sizes like 640x480")
    return [_size_of(each) for each in value] or None


def _size_of(value: Any) -> tuple[int, int]:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    sides = list(map(int, found.groups())) if found is not None else value
    if not (
        isinstance(sides, list | tuple)
        and len(sides) == 2
        and all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE_PX for side in sides)
    ):
        raise ValueError(f"{value!r} is not the size of an image; write it like 640x480")
    return sides[0], sides[1]
