"""Whether a document is as its schema says."""

from collections.abc import Iterator
from typing import Any


def complaints(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> Iterator[str]:
    """The part of JSON Schema that the document uses; anything else in it is an error here."""
    known = {
        "$defs",
        "$id",
        "$ref",
        "$schema",
        "additionalProperties",
        "anyOf",
        "const",
        "description",
        "enum",
        "items",
    }
    assert set(rule) <= known | {"properties", "required", "title", "type"}, set(rule) - known
    if "$ref" in rule:
        yield from complaints(value, root["$defs"][rule["$ref"].rpartition("/")[2]], root)
    if "anyOf" in rule and all(list(complaints(value, each, root)) for each in rule["anyOf"]):
        yield f"{value!r} is none of {rule['anyOf']}"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{value!r} is none of {rule['enum']}"
    if "const" in rule and value != rule["const"]:
        yield f"{value!r} is not {rule['const']}"
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "null": type(None),
        "boolean": bool,
    }
    if "type" in rule and (
        not isinstance(value, kinds[rule["type"]]) or (isinstance(value, bool) and rule["type"] != "boolean")
    ):
        yield f"{value!r} is no {rule['type']}"
    elif isinstance(value, dict):
        properties = rule.get("properties", {})
        yield from (f"{name} is missing" for name in rule.get("required", ()) if name not in value)
        if rule.get("additionalProperties") is False:
            yield from (f"{name} is too much" for name in value if name not in properties)
        for name, each in value.items():
            yield from complaints(each, properties.get(name, {}), root)
    elif isinstance(value, list):
        for each in value:
            yield from complaints(each, rule.get("items", {}), root)
