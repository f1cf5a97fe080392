"""The program that the commands belong to, and the flags that several of them take."""

from __future__ import annotations

import sys
from pathlib import Path
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
Thresholds = Annotated[
    list[str] | None,
    typer.Option("--slo", help="An objective or threshold, like 'ttft.p95<1s' or 'failed<1%'; repeatable."),
]
JUnit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write the verdict as JUnit XML.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write the verdict as Markdown.")]
GitHub = Annotated[
    bool, typer.Option("--github", help="Annotate the job, and write the step's summary, in GitHub Actions.")
]
Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="Write the verdict as JSON; - prints it alone."),
]

Otlp = Annotated[
    str | None,
    typer.Option(
        "--otlp", metavar="URL", help="Send metrics to an OpenTelemetry collector; env: as its variables say."
    ),
]
Live = Annotated[bool, typer.Option("--live", help="Serve a page of the run while it lasts, on this machine only.")]
LivePort = Annotated[
    int | None, typer.Option("--live-port", metavar="PORT", help="The port of that page; by default one that is free.")
]
Progress = Annotated[
    str | None,
    typer.Option("--progress", metavar="json", help="Progress as lines of JSON on standard error, for programs."),
]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        sys.stdout.write(f"headroom {__version__}\n")
        raise typer.Exit
