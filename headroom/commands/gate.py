"""headroom check: a verdict on runs that have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headroom.commands.app import JUDGE, GitHub, Json, JUnit, Markdown, Thresholds, app


@app.command(rich_help_panel=JUDGE)
def check(
    run_folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or sets of runs that --repeat played.")
    ],
    slo: Thresholds = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Where a figure's interval spans the limit, it is inconclusive.")
    ] = False,
    junit: JUnit = None,
    markdown: Markdown = None,
    github: GitHub = False,
    json_: Json = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing: the exit code says it.")] = False,
) -> None:
    """Judge runs by their own thresholds or by others, without any load."""
    from headroom import gating  # noqa: PLC0415

    given = {"junit": junit, "markdown": markdown, "github": github, "json_": json_}
    raise typer.Exit(gating.check(run_folders, slo, gating.Outputs.of(given), strict=strict, quiet=quiet))
