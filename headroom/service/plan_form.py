"""The what-if form: its fields, and the plan that they ask for, over HTTP and by hand."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

BLANK: Final = ("run", "slo", "growth", "demand", "tpm", "rpm", "spare", "concurrency_per_instance")
WHOLE: Final = frozenset({"tpm", "rpm", "spare", "concurrency_per_instance"})


def body_of(asked: Mapping[str, str]) -> dict[str, Any]:
    """Of a PlanRequest; what is empty is as the run says."""
    body: dict[str, Any] = {"runs": [asked["run"]]}
    for name, text in asked.items():
        if name == "run" or not text:
            continue
        body[name] = text.split() if name == "slo" else _whole(text) if name in WHOLE else text
    return body


def _whole(text: str) -> int | str:
    """As it may be written: 200,000. What is no number is refused where the plan is asked for."""
    plain = text.replace(",", "").replace("_", "")
    return int(plain) if plain.isascii() and plain.isdigit() and len(plain) < 16 else text


def command_of(asked: Mapping[str, str]) -> str:
    """The same at a terminal, in the folder of the runs."""
    words = ["headroom", "plan", asked["run"]]
    for name, value in body_of(asked).items():
        for each in [] if name == "runs" else value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(each)]
    return shlex.join(words)
