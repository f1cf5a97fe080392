"""The program that the commands belong to, and the flags that several of them take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headroom import __version__

INCONCLUSIVE, INVALID, MISSED = 3, 4, 99
REGRESSED = 98
WELCH, BASELINES = "welch", Path(".headroom")  # how runs are compared, and where what they were like is kept
INTERRUPTED, AUTO_STOPPED, BUDGET_USED = 105, 108, 111

MEASURE, SHOW, JUDGE, SERVE, TOOLS = (
    *("Measure", "Report and plan", "Compare and gate", "The service: jobs that wait their turn", "Tools"),
)  # groups of commands
ORDER = (
    *("run", "sweep", "worker", "report", "plan", "prices", "compare", "ab", "baseline", "check"),
    *("serve", "submit", "jobs", "cancel", "simulate", "calibrate", "recover", "export", "import"),
)
EXAMPLES = """Examples:

headroom run

headroom run loadtest.toml --slo 'ttft.p95<800ms' --junit headroom.xml

headroom plan runs/2026-11-21-144745 --growth 3x

headroom COMMAND --help says more of each."""


class InOrder(TyperGroup):
    """Commands as one comes to need them, in the groups of the help."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All there are."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    name="headroom",
    cls=InOrder,
    epilog=EXAMPLES,
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

FailOn = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="METRIC.pN:+X%",
        help="A slowdown that must not be missed, like ttft.p95:+10%; repeatable.",
    ),
]
TestName = Annotated[str, typer.Option("--test", help="welch, or ranks where some runs start cold.")]
Baselines = Annotated[Path, typer.Option("--dir", help="The folder of baselines.")]

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
