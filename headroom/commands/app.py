"""The program that the commands belong to, and the flags that several of them take."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from headroom import __version__

INCONCLUSIVE, INVALID, MISSED = 3, 4, 99
REGRESSED = 98
INTERRUPTED, AUTO_STOPPED, BUDGET_USED = 105, 108, 111

app = typer.Typer(
    name="headroom",
    help="How much headroom an LLM deployment has, and what more would cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables, and with them keys
    context_settings={"help_option_names": ["-h", "--help"]},
)

Objectives = Annotated[list[str] | None, typer.Option("--slo", help="An objective, like 'ttft.p95<1s'; repeatable.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        sys.stdout.write(f"headroom {__version__}\n")
        raise typer.Exit
