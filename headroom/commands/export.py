"""headroom export and headroom import: a workload for another tool, and what another tool asks of a run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headroom.commands.app import INTERRUPTED, TOOLS, app
from headroom.commands.load import also_of, flags_of, parameter_of, place_of, run
from loadgen.loadtest import FLAG_OF, SHAPES

export = typer.Typer(help="Write a workload for another tool.", no_args_is_help=True)
app.add_typer(export, name="export", rich_help_panel=TOOLS)
import_ = typer.Typer(help="Read what another tool asks of a run.", no_args_is_help=True)
app.add_typer(import_, name="import", rich_help_panel=TOOLS)
_NO_PART = (  # the service decides how load is spread, and nothing there keeps a quota or tries again
    *("load.trace", "load.auto_stop", "load.throttle", "load.retries", "load.split", "budget.", "output.", "plan."),
    *("load.processes", "load.master", "load.bind", "load.workers", "quota.", "telemetry."),
    *("target.kind", "target.instances", "target.allow_hosts"),
    *(f"load.{key}" for key in SHAPES["trace"]),
)
_SHARED = {parameter_of(flag) for key, flag in FLAG_OF.items() if not key.startswith(_NO_PART)}


@export.command("azure-load-testing")
@also_of(run, but=lambda name: name not in _SHARED)
def azure_load_testing(
    file: Annotated[Path | None, typer.Argument(help="A loadtest.toml; flags override it.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist.")] = Path("azure-load-testing"),
    key_vault: Annotated[
        str | None, typer.Option(metavar="NAME", help="The Key Vault that holds the key; else to be filled in.")
    ] = None,
    **of_run: Any,
) -> None:
    """The same mix at the same rate as a Locust test of Azure Load Testing. Nothing is sent to the target."""
    from headroom import exporting  # noqa: PLC0415
    from loadgen.loadtest import load_config  # noqa: PLC0415

    config = load_config(file, flags_of(of_run), os.environ)
    places = {name: place_of(name) for name in config.scenarios}
    try:
        exporting.export(config, places, out, key_vault=key_vault)
    except KeyboardInterrupt:
        sys.stderr.write("headroom: interrupted\n")
        raise typer.Exit(INTERRUPTED) from None
    sys.stdout.write(f"{out}\n")


@import_.command("azure-load-testing")
def thresholds_of_azure_load_testing(
    file: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The YAML of a test of Azure Load Testing.")],
) -> None:
    """Print its failureCriteria as thresholds for a loadtest.toml; those without a counterpart are comments."""
    from headroom.failure_criteria import read_criteria  # noqa: PLC0415

    thresholds, unsaid = read_criteria(file)
    lines = [line for text in thresholds for line in ("[[threshold]]", f"expr = {_toml(text)}", "")]
    lines += [f"# not said here: {json.dumps(text)}" for text in unsaid]
    sys.stdout.write("\n".join(lines) + "\n")
    if unsaid:
        sys.stderr.write(f"headroom: {len(unsaid)} of {len(unsaid) + len(thresholds)} have no counterpart here\n")


def _toml(text: str) -> str:
    """As TOML quotes it; what a terminal would not show by number."""
    written = (char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08X}" for char in text)
    return f'"{"".join(written)}"'
