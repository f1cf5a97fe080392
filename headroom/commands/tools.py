"""headroom calibrate and headroom simulate: our own error, and a deployment to try things on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from headroom.commands.app import INTERRUPTED, TOOLS, app


@app.command(rich_help_panel=TOOLS)
def calibrate(
    duration: Annotated[str, typer.Option(help="How long the load lasts, 8s at least.")] = "15s",
    streams: Annotated[int, typer.Option(min=1, max=2_000, help="So many streams at once.")] = 200,
    out: Annotated[
        Path | None, typer.Option(help="Keep the two runs, the server's log and calibration.json here; must not exist.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the paragraph for a report.")] = False,
) -> None:
    """Measure Headroom's own error on this machine, against a server that knows when it sent what."""
    from headroom import calibrating  # noqa: PLC0415

    try:
        code = calibrating.calibrate(duration=duration, streams=streams, out=out, as_json=as_json, quiet=quiet)
    except KeyboardInterrupt:
        sys.stderr.write("headroom: interrupted\n")
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code)


@app.command(
    rich_help_panel=TOOLS,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def simulate(context: typer.Context) -> None:
    """Run the simulated deployment by itself."""
    from loadgen.simulator.__main__ import main as serve  # noqa: PLC0415

    raise typer.Exit(serve(context.args))
