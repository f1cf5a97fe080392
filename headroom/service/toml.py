"""Values as TOML, so that what a job was asked to do can be run by hand: `headroom run loadtest.toml`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from loadgen.errors import ConfigError

DEEPEST = 50
LARGEST = 2**63 - 1  # of TOML 1.0.0, "Integer": readers hold 64 bits


def to_toml(values: Mapping[str, object]) -> str:
    """Each key a line, tables inline; None is left out, which TOML has not.

    Raises ConfigError for what is no value, lies too deep, or is a whole number that TOML's readers need not hold.
    """
    return "".join(f"{_key(key)} = {_value(value, DEEPEST)}\n" for key, value in values.items() if value is not None)


def _key(key: object) -> str:
    return _text(str(key))


def _value(value: object, deepest: int) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            if not -LARGEST - 1 <= value <= LARGEST:
                raise ConfigError(f"a whole number lies beyond {LARGEST:,}")
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)  # inf, -inf and nan are TOML's own words
        case str():
            return _text(value)
        case Mapping() | Sequence() if deepest == 0:
            raise ConfigError(f"tables and lists lie more than {DEEPEST} deep")
        case Mapping():
            parts = (f"{_key(key)} = {_value(each, deepest - 1)}" for key, each in value.items() if each is not None)
            return "{" + ", ".join(parts) + "}"
        case Sequence():
            return "[" + ", ".join(_value(each, deepest - 1) for each in value) + "]"
    raise ConfigError(f"a value of {type(value).__name__} says nothing here: give a text or a number")


def _text(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError("a text holds half of a character (a lone surrogate)")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
