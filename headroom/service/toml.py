"""Values as TOML, so that what a job was asked to do can be run by hand: `headroom run loadtest.toml`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from loadgen.errors import ConfigError


def to_toml(values: Mapping[str, object]) -> str:
    """Each key a line, tables inline; None is left out, which TOML has not. Raises ConfigError for what is no value."""
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in values.items() if value is not None)


def _key(key: object) -> str:
    return _text(str(key))


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)  # inf, -inf and nan are TOML's own words
        case str():
            return _text(value)
        case Mapping():
            return (
                "{"
                + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items() if each is not None)
                + "}"
            )
        case Sequence():
            return "[" + ", ".join(_value(each) for each in value) + "]"
    raise ConfigError(f"a value of {type(value).__name__} says nothing here: give a text or a number")


def _text(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError("a text holds half of a character (a lone surrogate)")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
