"""headroom plan and headroom report: what a run shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from headroom.commands.app import Objectives, app
from loadgen.errors import ConfigError

Growth = Annotated[str | None, typer.Option(help="Plan for so many times the demand, like 3x.")]
Region = Annotated[str | None, typer.Option(help="Where managed instances would run.")]
Prices = Annotated[Path | None, typer.Option(help="A price book of your own.")]


EXAMPLES = """Examples:

headroom plan runs/20261120-2343-7f3a --slo 'ttft.p95<1s'

headroom plan runs/sweep --demand trace.csv --growth 3x --spare 1

headroom plan RUN --demand 20/s --tpm 400000 --concurrency-per-instance 12

headroom plan --demand 20/s --prompt-tokens lognormal:500,0.8 --completion-tokens fixed:200

Units: rates are /s, /min or /h; quotas a minute; costs US dollars a month of 730 h; latencies ms.

Exit codes: 0 planned; 2 a flag is amiss, an objective impossible, or requests never fit the quota; 4 the run is
invalid."""


@app.command(epilog=EXAMPLES)
def plan(
    run_folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Run folders and sweeps of one deployment; none is needed with a trace as demand.",
        ),
    ] = None,
    demand: Annotated[
        str | None,
        typer.Option(metavar="FILE|RATE", help="Plan for a trace, or for so many requests a second, like 20/s."),
    ] = None,
    slo: Objectives = None,
    growth: Growth = None,
    region: Region = None,
    prices: Prices = None,
    tpm: Annotated[int | None, typer.Option(help="Quota to plan with: tokens a minute.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Quota to plan with: requests a minute.")] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option(help="Without a run: lengths of prompts, like lognormal:500,0.8.")
    ] = None,
    completion_tokens: Annotated[str | None, typer.Option(help="Without a run: lengths of completions.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Without a run: the completion limit asked for.", min=1)] = 128,
    sku: Annotated[str | None, typer.Option(help="The instance type to plan managed costs for.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(help="Requests an instance runs at once.")] = None,
    concurrency_per_instance: Annotated[
        int | None, typer.Option(help="Requests an instance holds within the objectives, where that was not measured.")
    ] = None,
    spare: Annotated[int | None, typer.Option(help="Instances beyond what the load needs.")] = None,
    min_instances: Annotated[int | None, typer.Option(help="Instances that always run.")] = None,
    boot_minutes: Annotated[float | None, typer.Option(help="How long an instance takes to start.")] = None,
    on_hours_per_week: Annotated[float | None, typer.Option(help="Hours a week in which the demand comes.")] = None,
    growth_per_month: Annotated[float | None, typer.Option(help="Further growth a month, like 0.05.")] = None,
    details: Annotated[bool, typer.Option("--details", help="Print every assumption and formula.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, as in summary.json.")] = False,
) -> None:
    """What runs show, what to run and what it would cost, and how many deployments or instances it takes.

    Ends with 4 where the run is invalid, and with 2 where an objective of --slo is impossible or requests never fit.
    """
    from headroom import planning  # noqa: PLC0415
    from loadgen.loadtest import load_config  # noqa: PLC0415

    settings = {
        "sku": sku,
        "max_concurrency": max_concurrency,
        "concurrency_per_instance": concurrency_per_instance,
        "spare": spare,
        "min_instances": min_instances,
        "boot_minutes": boot_minutes,
        "hours_on_per_week": on_hours_per_week,
        "growth_per_month": growth_per_month,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    lengths = (prompt_tokens, completion_tokens)
    if run_folders:
        if lengths != (None, None):
            raise ConfigError("--prompt-tokens and --completion-tokens go without a run, whose requests have lengths")
        options = planning.Options(
            demand=demand, slo=slo, growth=growth, region=region, prices=prices, tpm=tpm, rpm=rpm, settings=given
        )
        raise typer.Exit(planning.plan_from_runs(run_folders, options, as_json=as_json, details=details))
    if demand is None:
        raise ConfigError("plan needs a run folder, or --demand with a trace")
    _refuse_idle(
        {"--slo": slo, "--region": region, "--prices": prices, "--details": details or None}
        | {f"--{planning.FLAGS.get(key, key).replace('_', '-')}": value for key, value in given.items()}
    )
    limits = {"quota.tokens_per_minute": tpm, "quota.requests_per_minute": rpm}
    quota = load_config(None, {name: value for name, value in limits.items() if value is not None}, {}).quota
    if prompt_tokens is not None and completion_tokens is not None:
        both = (prompt_tokens, completion_tokens)
        planning.plan_from_lengths(demand, both, max_tokens, quota, growth=growth, as_json=as_json)
    elif lengths == (None, None):
        planning.plan_from_trace(demand, quota, growth=growth, as_json=as_json)
    else:
        raise ConfigError("--prompt-tokens and --completion-tokens make a demand together: give both")


def _refuse_idle(flags: Mapping[str, object]) -> None:
    """Without a run nothing says what an instance serves or costs, so these would do nothing."""
    idle = [flag for flag, value in flags.items() if value is not None]
    if idle:
        raise ConfigError(f"{', '.join(idle)}: without a RUN only the quota is planned; leave it out, or give a run")


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN [NEW]", help="A run folder or a sweep's; or two runs, or sets of them, to compare."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("report.html"),
    png: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each figure there too, as a picture.")] = None,
    demand: Annotated[
        str | None, typer.Option(metavar="FILE|RATE", help="Plan for a trace, or for a rate, like 20/s.")
    ] = None,
    slo: Objectives = None,
    growth: Growth = None,
    region: Region = None,
    prices: Prices = None,
) -> None:
    """Draw a run, or a comparison of two, as one HTML file that opens offline."""
    if len(folders) > 2:
        raise ConfigError(
            f"report takes one run, or two to compare: {len(folders)} were given; headroom plan takes several"
        )
    from headroom import comparing, planning  # noqa: PLC0415

    if len(folders) == 2:
        _refuse_idle_beside_two(
            {"--demand": demand, "--slo": slo, "--growth": growth, "--region": region, "--prices": prices, "--png": png}
        )
        return comparing.report(folders[0], folders[1], out, Path(".headroom"))
    options = planning.Options(demand=demand, slo=slo, growth=growth, region=region, prices=prices)
    return planning.report(folders[0], out, options, png=png)


def _refuse_idle_beside_two(flags: Mapping[str, object]) -> None:
    idle = [flag for flag, value in flags.items() if value is not None]
    if idle:
        raise ConfigError(f"{', '.join(idle)}: a comparison makes no use of it; leave it out, or give one run")
