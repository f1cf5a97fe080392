"""Tools that a chat request offers, and the call that answers it.

The rule: a request that offers tools and whose last message is the user's is answered with a call of the first tool,
or of the one that `tool_choice` names, unless `tool_choice` is none. After a tool's message, and after any other, the
answer is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.simulator.models import Model
from loadgen.simulator.parameters import UNSUPPORTED
from loadgen.simulator.refusals import invalid
from loadgen.simulator.schemas import example

CHOICES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Call:
    """What will be called; `arguments` is JSON in ASCII."""

    name: str
    arguments: str


def read_tools(fields: Mapping[str, Any], model: Model) -> Sequence[Mapping[str, Any]]:
    """The tools offered. Raises Refusal (422) where they are malformed or the model knows none."""
    tools = fields.get("tools")
    if tools is None:
        return ()
    if not model.tools:
        raise invalid(("tools",), tools, code=UNSUPPORTED)
    if not isinstance(tools, list) or not tools:
        raise invalid(("tools",), tools)
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            raise invalid(("tools", index), tool)
        name, schema = function.get("name"), function.get("parameters")
        if not isinstance(name, str) or not name:
            raise invalid(("tools", index, "function", "name"), name)
        if not isinstance(schema, dict | None):
            raise invalid(("tools", index, "function", "parameters"), schema)
    return tools


def choose_call(fields: Mapping[str, Any], tools: Sequence[Mapping[str, Any]], *, asks: bool) -> Call | None:
    """The call to answer with, None where it is to be text.

    Raises Refusal (422) for a choice that cannot be made, and for a schema that asks for too large arguments.
    """
    choice = fields.get("tool_choice")
    if choice is None:
        choice = "auto"
    elif not tools:
        raise invalid(("tool_choice",), choice)
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise invalid(("tool_choice",), choice)
        chosen = None if choice == "none" or not tools else tools[0]
    else:
        function = choice.get("function") if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        chosen = next((tool for tool in tools if tool["function"]["name"] == name), None)
        if chosen is None:
            raise invalid(("tool_choice",), name if isinstance(name, str) else choice)
    if chosen is None or not asks:
        return None
    function = chosen["function"]
    place = ("tools", next(index for index, tool in enumerate(tools) if tool is chosen), "function", "parameters")
    arguments = example(function.get("parameters") or {"type": "object"}, place)
    return Call(function["name"], json.dumps(arguments if isinstance(arguments, dict) else {}))
