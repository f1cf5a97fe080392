"""The JSON Schemas of what `--json` writes: `python -m headroom.schemas NAME > docs/NAME.schema.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from headroom.comparing import Refusal
from planner.compare import FORMAT as COMPARE_FORMAT
from planner.comparing.comparison import Comparison
from planner.comparing.history import History
from planner.thresholds import FORMAT as GATE_FORMAT
from planner.thresholds import Gate

DIALECT = "https://json-schema.org/draft/2020-12/schema"
WRITTEN: dict[str, tuple[str, TypeAdapter[Any]]] = {
    "gate": (f"Headroom gate, format {GATE_FORMAT}", TypeAdapter(Gate)),
    "compare": (
        f"Headroom compare, format {COMPARE_FORMAT}: a comparison, why there is none, or with --history its changes",
        TypeAdapter(Comparison | Refusal | History),
    ),
}


def schema(name: str) -> dict[str, Any]:
    """Every property is there, and no other is."""
    title, written = WRITTEN[name]
    found = written.json_schema(mode="serialization")
    for rule in (found, *found["$defs"].values()):
        if "properties" in rule:
            rule |= {"additionalProperties": False, "required": list(rule["properties"])}
    return found | {"$schema": DIALECT, "title": title}


def main(arguments: Sequence[str]) -> None:
    (name,) = arguments
    sys.stdout.write(json.dumps(schema(name), indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
