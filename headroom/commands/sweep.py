"""headroom sweep: the highest rate that meets the objectives."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headroom.commands.app import INTERRUPTED, MEASURE, app
from headroom.commands.load import also_of, flags_of, parameter_of, place_of, run
from loadgen.loadtest import FLAG_OF, SHAPES

# Flags of `run` that set a key of the config and do not shape its load: that is the sweep's own.
_OF_ANY_RATE = {*SHAPES["rate"]} & {*SHAPES["stages"]}
_OF_SHAPE = ({*SHAPES} | {key for keys in SHAPES.values() for key in keys} | {"duration"}) - _OF_ANY_RATE
_SHARED = {parameter_of(flag) for key, flag in FLAG_OF.items() if key.removeprefix("load.") not in _OF_SHAPE}
_SHARED |= {"check", "quiet", "progress", "live", "live_port"}
_SHARED -= {"master", "bind", "workers"}  # a step has this machine's processes


@app.command(rich_help_panel=MEASURE)
@also_of(run, but=lambda name: name not in _SHARED)
def sweep(
    file: Annotated[
        Path | None, typer.Argument(help="A loadtest.toml, whose rate and duration are the sweep's; flags override it.")
    ] = None,
    from_rate: Annotated[str, typer.Option(help="The lowest rate, like 1/s.")] = "1/s",
    to_rate: Annotated[str, typer.Option(help="The highest rate.")] = "50/s",
    step_duration: Annotated[
        str, typer.Option(help="How long a step lasts, warm-up included; an unclear one is measured again, longer.")
    ] = "30s",
    steps: Annotated[int, typer.Option(help="So many steps upward, before the search between two of them.")] = 6,
    tolerance: Annotated[str, typer.Option(help="How far apart the rates on either side of the answer may be.")] = "5%",
    past_quota: Annotated[
        bool, typer.Option("--past-quota", help="Also offer more than the quota admits; the endpoint refuses.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The folder of the sweep; must not exist.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print sweep.json instead.")] = False,
    **of_run: Any,
) -> None:
    """Find the highest rate that meets the objectives, step by step."""
    from headroom import sweeping, targets  # noqa: PLC0415
    from headroom.audience import audience_of  # noqa: PLC0415
    from loadgen.loadtest import load_config  # noqa: PLC0415

    terms = sweeping.Terms.parse(
        from_rate=from_rate,
        to_rate=to_rate,
        steps=steps,
        tolerance=tolerance,
        step_duration=step_duration,
        past_quota=past_quota,
    )
    flags = flags_of({**of_run, "out": out})
    flags = terms.flags(warmup_given=file is not None or "load.warmup" in flags) | flags
    config = load_config(file, flags, os.environ)
    sweeping.check_objectives(flags.get("slo", ()))
    places = {name: place_of(name) for name in config.scenarios}
    if of_run["check"]:
        targets.check(config)
        config, assumptions = sweeping.settle(terms, config)
        sys.stderr.write("".join(f"{assumption}\n" for assumption in assumptions))
        sys.stdout.write(config.model_dump_json(indent=2, exclude_none=True) + "\n")
        return
    try:
        with audience_of(of_run, config) as audience:
            code = sweeping.sweep(terms, config, places, as_json=as_json, quiet=of_run["quiet"], audience=audience)
        raise typer.Exit(code)
    except KeyboardInterrupt:  # before the first step began
        sys.stderr.write("headroom: interrupted\n")
        raise typer.Exit(INTERRUPTED) from None
