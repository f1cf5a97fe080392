"""headroom plan and headroom report: what a run shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headroom.commands.app import BASELINES, SHOW, WELCH, Baselines, FailOn, Objectives, TestName, app
from headroom.commands.load import also_of
from loadgen.errors import ConfigError

if TYPE_CHECKING:
    from headroom.planning import Options

Growth = Annotated[str | None, typer.Option(help="Plan for so many times the demand, like 3x.")]
Region = Annotated[str | None, typer.Option(help="Where managed instances would run.")]
Prices = Annotated[Path | None, typer.Option(help="A price book of your own.")]


_OF_DEMAND = ("demand", "slo", "growth", "region", "prices", "tpm", "rpm")
_PLAN_ALONE = ("run_folders", "prompt_tokens", "completion_tokens", "max_tokens", "details", "as_json")

EXAMPLES = """Examples:

headroom plan runs/2026-11-21-144745 --slo 'ttft.p95<1s'

headroom plan runs/sweep --demand trace.csv --growth 3x --spare 1

headroom plan RUN --demand 20/s --tpm 400000 --concurrency-per-instance 12

headroom plan --demand 20/s --prompt-tokens lognormal:500,0.8 --completion-tokens fixed:200

Units: rates are /s, /min or /h; quotas a minute; costs US dollars a month of 730 h; latencies ms.

Exit codes: 0 planned; 2 a flag is amiss, an objective impossible, or requests never fit the quota; 4 the run is
invalid."""


@app.command(epilog=EXAMPLES, rich_help_panel=SHOW)
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
    max_tokens: Annotated[
        int | None, typer.Option(help="Without a run: the completion limit asked for; 128 unless given.", min=1)
    ] = None,
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

    of_plan = {
        **{"demand": demand, "slo": slo, "growth": growth, "region": region, "prices": prices, "tpm": tpm, "rpm": rpm},
        **{"sku": sku, "max_concurrency": max_concurrency, "concurrency_per_instance": concurrency_per_instance},
        **{"spare": spare, "min_instances": min_instances, "boot_minutes": boot_minutes},
        **{"on_hours_per_week": on_hours_per_week, "growth_per_month": growth_per_month},
    }
    lengths = (prompt_tokens, completion_tokens)
    if run_folders:
        if lengths != (None, None) or max_tokens is not None:
            raise ConfigError(
                "--prompt-tokens, --completion-tokens and --max-tokens go without a run, whose requests have lengths"
            )
        options = _options_of(of_plan)
        raise typer.Exit(planning.plan_from_runs(run_folders, options, as_json=as_json, details=details))
    if demand is None:
        raise ConfigError("plan needs a run folder, or --demand with a trace")
    heeded = ("demand", "growth", "tpm", "rpm")
    _refuse_idle({**{name: of_plan[name] for name in of_plan if name not in heeded}, "details": details or None})
    limits = {"quota.tokens_per_minute": tpm, "quota.requests_per_minute": rpm}
    quota = load_config(None, {name: value for name, value in limits.items() if value is not None}, {}).quota
    if prompt_tokens is not None and completion_tokens is not None:
        both = (prompt_tokens, completion_tokens)
        planning.plan_from_lengths(demand, both, max_tokens, quota, growth=growth, as_json=as_json)
    elif lengths == (None, None) and max_tokens is None:
        planning.plan_from_trace(demand, quota, growth=growth, as_json=as_json)
    else:
        raise ConfigError(
            "--prompt-tokens and --completion-tokens make a demand together: give both (--max-tokens goes with them)"
        )


def _options_of(of_plan: Mapping[str, Any]) -> Options:
    """From the flags that `plan` and `report` share, by their Python names."""
    from headroom import planning  # noqa: PLC0415

    keys = {flag: key for key, flag in planning.FLAGS.items()}
    settings = {keys.get(name, name): value for name, value in of_plan.items() if name not in _OF_DEMAND}
    return planning.Options(
        **{name: of_plan[name] for name in _OF_DEMAND},
        settings={key: value for key, value in settings.items() if value is not None},
    )


def _given(flags: Mapping[str, object]) -> str:
    """Of these by their Python names, those that are given, as they are typed."""
    return ", ".join(f"--{name.replace('_', '-')}" for name, value in flags.items() if value is not None)


def _refuse_idle(flags: Mapping[str, object]) -> None:
    """Without a run nothing says what an instance serves or costs, so these would do nothing."""
    if idle := _given(flags):
        raise ConfigError(f"{idle}: without a RUN only the quota is planned; leave it out, or give a run")


@app.command(rich_help_panel=SHOW)
@also_of(plan, but=lambda name: name in _PLAN_ALONE)
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN [NEW]", help="A run folder or a sweep's; or two runs, or sets of them, to compare."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("report.html"),
    png: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each figure there too, as a picture.")] = None,
    fail_on: FailOn = None,
    test: TestName = WELCH,
    baselines: Baselines = BASELINES,
    **of_plan: Any,
) -> None:
    """Draw a run and its plan, or a comparison of two, as one HTML file that opens offline."""
    if len(folders) > 2:
        raise ConfigError(
            f"report takes one run, or two to compare: {len(folders)} were given; headroom plan takes several"
        )
    from headroom import comparing, planning  # noqa: PLC0415

    if len(folders) == 2:
        if idle := _given({**of_plan, "png": png}):
            raise ConfigError(f"{idle}: a comparison makes no use of it; leave it out, or give one run")
        terms = comparing.Terms.parse(fail_on, test, baselines)
        return comparing.report(folders[0], folders[1], out, terms)
    moved = {"test": test if test != WELCH else None, "dir": baselines if baselines != BASELINES else None}
    if idle := _given({"fail_on": fail_on, **moved}):
        raise ConfigError(f"{idle}: nothing is compared; leave it out, or give BASE and NEW")
    return planning.report(folders[0], out, _options_of(of_plan), png=png)
