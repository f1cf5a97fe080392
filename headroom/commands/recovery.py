"""headroom recover: the end of a run that was killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headroom.commands.app import TOOLS, app
from loadgen.errors import HeadroomError


@app.command(rich_help_panel=TOOLS)
def recover(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or a worker's own.")],
) -> None:
    """Finish the record of runs that were killed: whole files, summary and report."""
    from headroom import recovering  # noqa: PLC0415

    code = 0
    for folder in run_folders:
        try:
            sys.stdout.write(f"{recovering.recover(folder).sentence(folder)}\n")
        except HeadroomError as error:  # the others are recovered all the same
            sys.stderr.write(f"headroom: {error}\n")
            code = code or error.exit_code
    raise typer.Exit(code)
