"""A value for a JSON schema: of the right simple type, from its enum, with all that it requires.

Known: type, enum, const, objects (properties, required), arrays (items, minItems), strings (minLength),
numbers (minimum, maximum), anyOf and oneOf (the first). Others (pattern, $ref, ...) are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

MOST_DEPTH = 8  # deeper schemas are answered with null
MOST_ITEMS = 16
MOST_CHARACTERS = 64
TEXT = "text"


def example(schema: Any, depth: int = 0) -> Any:
    """The same for the same schema."""
    if not isinstance(schema, Mapping) or depth > MOST_DEPTH:
        return None
    if "const" in schema:
        return schema["const"]
    for choice in ("enum", "anyOf", "oneOf"):
        options = schema.get(choice)
        if isinstance(options, list) and options:
            return options[0] if choice == "enum" else example(options[0], depth + 1)
    kind = _type_of(schema)
    return _OF_TYPE[kind](schema, depth) if isinstance(kind, str) and kind in _OF_TYPE else None


def _object(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """What is required; where nothing is, all of its properties."""
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {name: example(properties.get(name, {"type": "string"}), depth + 1) for name in names or properties}


def _type_of(schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    return "object" if kind is None and "properties" in schema else kind


def _array(schema: Mapping[str, Any], depth: int) -> list[Any]:
    items = min(_least(schema, "minItems", 1), MOST_ITEMS)
    return [example(schema.get("items", {"type": "string"}), depth + 1) for _ in range(items)]


def _string(schema: Mapping[str, Any], _: int) -> str:
    return TEXT.ljust(min(_least(schema, "minLength", 0), MOST_CHARACTERS), "t")


def _number(schema: Mapping[str, Any], _: int) -> int:
    """A whole number within the schema's limits, as far as there is one."""
    least, most = _least(schema, "minimum", 1), schema.get("maximum")
    return least if not _is_limit(most) or most >= least else math.floor(most)


def _least(schema: Mapping[str, Any], name: str, usual: int) -> int:
    """A whole number that is no smaller than the schema's limit."""
    limit = schema.get(name)
    return max(usual, math.ceil(limit)) if _is_limit(limit) else usual


def _is_limit(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_OF_TYPE: dict[str, Callable[[Mapping[str, Any], int], Any]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": lambda *_: True,
}
