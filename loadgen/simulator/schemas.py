"""A value for a JSON schema: of the right simple type, from its enum, with all that it requires.

Known: type, enum, const, objects (properties, required), arrays (items, minItems), strings (minLength, maxLength),
numbers (minimum, maximum, both also exclusive), anyOf and oneOf (the first), and $ref into the schema itself. Others
(pattern, format, multipleOf, ...) are not looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeGuard

from loadgen.simulator.refusals import invalid

MOST_BYTES = 10_000  # of one value, as it is written; ours: a kilobyte of nested arrays can ask for gigabytes
MOST_DEPTH = 8  # deeper schemas are answered with null
MOST_ITEMS = 16  # and one where arrays are nested deeper than MOST_ITEMS_DEPTH, lest they multiply
MOST_ITEMS_DEPTH = 2
MOST_CHARACTERS = 64
TYPES = 7  # that JSON schema has
TEXT = "text"


def example(schema: Any, loc: Sequence[str | int] = ()) -> Any:
    """The same for the same schema, of MOST_BYTES at most: properties and items that need not be are left out.

    Raises Refusal (422), which names `loc`, where what must be does not fit.
    """
    try:
        return _Writer(schema).write(schema, 0)
    except _FullError:
        raise invalid(loc, schema) from None


class _FullError(Exception):
    """The value has no room for what comes next."""


class _Writer:
    """Writes one value, and counts what it tries: what it leaves out again is not given back, so it ends soon."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole  # what a $ref points into
        self._room_bytes = MOST_BYTES
        self._sizes: dict[int, int] = {}  # of parts of the schema by their id, each measured once
        self._names: dict[int, tuple[Sequence[str], bool]] = {}  # of its objects likewise

    def write(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > MOST_DEPTH:
            return self._take(None)
        if "$ref" in schema:
            return self.write(self._target(schema["$ref"]), depth + 1)
        if "const" in schema:
            return self._take(schema["const"])
        for choice in ("enum", "anyOf", "oneOf"):
            options = schema.get(choice)
            if isinstance(options, list) and options:
                return self._take(options[0]) if choice == "enum" else self.write(options[0], depth + 1)
        return self._of_type(schema, depth)

    def _of_type(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = _type_of(schema)
        if kind in ("object", "array"):
            self._spend(2)
            return dict(self._properties(schema, depth)) if kind == "object" else list(self._items(schema, depth))
        if kind == "string":
            text = TEXT.ljust(min(_least(schema, "minLength", 0), MOST_CHARACTERS), "t")
            if _is_limit(most := schema.get("maxLength")):
                text = text[: max(0, math.floor(most))]
            self._spend(len(text) + 2)
            return text
        if kind in ("integer", "number"):
            return self._take(_number(schema))
        return self._take(True if kind == "boolean" else None)

    def _target(self, reference: Any) -> Any:
        """The part of the schema that `#/$defs/name` and the like point to; None where there is none."""
        root, *names = reference.split("/")[: MOST_DEPTH + 1] if isinstance(reference, str) else [""]
        found = self._whole if root == "#" else None
        for name in names:
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        return found

    def _properties(self, schema: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
        """Those required; where none is, all until one has no room."""
        if id(schema) not in self._names:
            self._names[id(schema)] = _names_of(schema)
        names, must = self._names[id(schema)]
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        for name in names:
            try:
                self._spend(self._size(name) + 4)
                value = self.write(properties.get(name, {"type": "string"}), depth + 1)
            except _FullError:
                if must:
                    raise
                return
            yield name, value

    def _items(self, schema: Mapping[str, Any], depth: int) -> Iterator[Any]:
        most = min(_least(schema, "minItems", 1), MOST_ITEMS) if depth <= MOST_ITEMS_DEPTH else 1
        for _ in range(most):
            try:
                self._spend(2)
                value = self.write(schema.get("items", {"type": "string"}), depth + 1)
            except _FullError:
                if _least(schema, "minItems", 0) > 0:
                    raise
                return
            yield value

    def _take(self, value: Any) -> Any:
        self._spend(self._size(value))
        return value

    def _size(self, value: Any) -> int:
        """Bytes as JSON of what stands in the schema."""
        if not isinstance(value, str | list | dict):
            return len(json.dumps(value))
        if id(value) not in self._sizes:
            self._sizes[id(value)] = len(json.dumps(value))
        return self._sizes[id(value)]

    def _spend(self, n_bytes: int) -> None:
        if n_bytes > self._room_bytes:
            self._room_bytes -= 1  # the attempt counts too
            raise _FullError
        self._room_bytes -= n_bytes


def _names_of(schema: Mapping[str, Any]) -> tuple[Sequence[str], bool]:
    """The properties to write, and whether they must be."""
    properties, required = schema.get("properties"), schema.get("required")
    names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    usual = list(properties) if isinstance(properties, Mapping) else []
    return (list(dict.fromkeys(names)), True) if names else (usual, False)


def _type_of(schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in islice(kind, TYPES) if one != "null"), "null")
    return "object" if kind is None and "properties" in schema else kind


def _number(schema: Mapping[str, Any]) -> int:
    """A whole number within the schema's limits, as far as there is one."""
    least, most = _least(schema, "minimum", 1), math.inf
    if _is_limit(above := schema.get("exclusiveMinimum")):
        least = max(least, math.floor(above) + 1)
    if _is_limit(limit := schema.get("maximum")):
        most = math.floor(limit)
    if _is_limit(below := schema.get("exclusiveMaximum")):
        most = min(most, math.ceil(below) - 1)
    return least if least <= most else int(most)


def _least(schema: Mapping[str, Any], name: str, usual: int) -> int:
    """A whole number that is no smaller than the schema's limit."""
    limit = schema.get(name)
    return max(usual, math.ceil(limit)) if _is_limit(limit) else usual


def _is_limit(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
