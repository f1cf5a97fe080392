"""headroom plan and headroom report: what a run shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headroom.commands.app import Objectives, app
from loadgen.errors import ConfigError


@app.command()
def plan(
    run_folder: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="A run folder or a sweep's; not needed with a trace as demand."),
    ] = None,
    demand: Annotated[
        str | None,
        typer.Option(metavar="FILE|RATE", help="Plan for a trace, or for so many requests a second, like 20/s."),
    ] = None,
    slo: Objectives = None,
    growth: Annotated[str | None, typer.Option(help="Plan for so many times the demand, like 3x.")] = None,
    region: Annotated[str | None, typer.Option(help="Where managed instances would run.")] = None,
    prices: Annotated[Path | None, typer.Option(help="A price book of your own.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Quota: tokens a minute, where there is no run.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Quota: requests a minute, where there is no run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, as in summary.json.")] = False,
) -> None:
    """What a run shows, what it would cost, and how many deployments or instances it needs."""
    from headroom import planning  # noqa: PLC0415
    from loadgen.loadtest import load_config  # noqa: PLC0415

    if run_folder is not None:
        if tpm is not None or rpm is not None:
            raise ConfigError("--tpm and --rpm go with a trace alone: a run is planned with the quota it ran under")
        planning.plan_from_run(
            run_folder, demand, slo=slo, growth=growth, region=region, prices=prices, as_json=as_json
        )
    elif demand is not None:
        quota = {"quota.tokens_per_minute": tpm, "quota.requests_per_minute": rpm}
        given = {name: value for name, value in quota.items() if value is not None}
        planning.plan_from_trace(demand, load_config(None, given, {}).quota, growth=growth, as_json=as_json)
    else:
        raise ConfigError("plan needs a run folder, or --demand with a trace")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a sweep's.")],
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("report.html"),
) -> None:
    """Draw a run as one HTML file that opens offline."""
    from headroom import planning  # noqa: PLC0415

    planning.report(run_folder, out)
