"""Plans and reports from run folders and traces: printed, written as JSON, drawn as a page."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from dashboards import sweep_report
from dashboards.drawings import Drawing, draw
from dashboards.quota_told import print_quota_plan
from dashboards.readable import readable
from dashboards.report import write_report
from dashboards.sweep import print_sweep
from dashboards.sweep_report import write_sweep_report
from dashboards.terminal import print_plan
from headroom.picturing import write_pngs
from loadgen.config import Kind, LoadConfig, PlanConfig, RunConfig
from loadgen.damage import naming_damage
from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, RunFolderError
from loadgen.lengths import read_lengths
from loadgen.quota import Quota
from loadgen.samples import Run
from loadgen.slo import Slo
from planner import swept
from planner.advice import impossible
from planner.assemble import scoped_plan, to_json
from planner.demand import Demand, at_rate, demand_from_trace, demand_of_run, grown
from planner.levers import levers_of
from planner.plan import Plan
from planner.prices import PriceBook, read_prices
from planner.quotas.admitted import too_large
from planner.quotas.quota_plan import OF_A_RUN, OF_A_TRACE, UNMEASURED, quota_plan
from planner.quotas.synthetic import doubts_of, synthetic_demand
from planner.rows import config_of
from planner.scope import Scope
from planner.together import Together, together

INVALID = 4
FLAGS = {"hours_on_per_week": "on_hours_per_week"}  # of keys of [plan] whose flag has another name


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a plan is asked for, as the command line has it; None: as the run says."""

    demand: str | None = None
    slo: Sequence[str] | None = None
    growth: str | None = None
    region: str | None = None
    prices: Path | None = None
    tpm: int | None = None
    rpm: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # keys of [plan] and their values


def plan_from_runs(folders: Sequence[Path], options: Options, *, as_json: bool, details: bool = False) -> int:
    """Print the plan of a run, of a sweep by its best step, or of several of one deployment together.

    The exit code: 0; 4 where the run is invalid; 2 where an objective that was asked for is impossible, or requests
    never fit the quota. Raises ConfigError and RunFolderError.
    """
    with naming_damage(folders[0]):
        found = together(folders)
        _, plan = _planned(found, options)
    if as_json:
        sys.stdout.buffer.write(to_json(plan))
    else:
        console = Console()
        if found.sweep is not None:
            print_sweep(found.sweep, console)
            console.print()
        print_plan(plan, console, details=details)
    if not plan.validity.valid:
        return INVALID
    hopeless = impossible(found.lead, [Slo.parse(text) for text in options.slo or ()])
    for reason in hopeless:
        sys.stderr.write(f"headroom: --slo: {readable(reason)}\n")
    if plan.ahead is not None and plan.ahead.too_large is not None:
        sys.stderr.write(f"headroom: {plan.ahead.too_large}\n")
        return ConfigError.exit_code
    return ConfigError.exit_code if hopeless else 0


def _planned(found: Together, options: Options) -> tuple[Scope, Plan]:
    run, config = found.lead, config_of(found.lead)
    book = read_prices(config.plan.prices if options.prices is None else options.prices)
    if options.region is not None:
        _check_region(options.region, book)
    return scoped_plan(
        run,
        slos=None if options.slo is None else [Slo.parse(text) for text in options.slo],
        growth=None if options.growth is None else _factor(options.growth),
        region=options.region,
        price_book=book,
        demand=None if options.demand is None else _demand(options.demand, run),
        swept=found.capacity,
        settings=_settings(config.plan, options.settings),
        quota=_quota(config, options),
        steps=found.steps,
        of_runs=found.run_ids,
    )


def _settings(own: PlanConfig, given: Mapping[str, Any]) -> PlanConfig:
    try:
        return PlanConfig.model_validate({**own.model_dump(), **given})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        key = str(problem["loc"][0])
        flag = f"--{FLAGS.get(key, key).replace('_', '-')}"
        where = f"{flag} {given[key]}" if key in given else f"plan.{key}"
        raise ConfigError(f"{where}: {problem['msg']}") from None


def _quota(config: RunConfig, options: Options) -> Quota | None:
    """What the plan is asked to assume instead of the quota that the run was made under."""
    if options.tpm is None and options.rpm is None:
        return None
    if all(target.kind is Kind.MANAGED for target in config.targets):
        raise ConfigError("--tpm and --rpm: managed deployments have no quota; leave them out")
    try:
        return replace(
            config.quota,
            tokens_per_minute=config.quota.tokens_per_minute if options.tpm is None else options.tpm,
            requests_per_minute=config.quota.requests_per_minute if options.rpm is None else options.rpm,
        )
    except ValueError as error:
        raise ConfigError(f"--tpm, --rpm: {error}") from None


def _check_region(region: str, book: PriceBook) -> None:
    known = sorted({place for sku in book.skus.values() for place in sku.usd_per_hour})
    if region not in known:
        raise ConfigError(f"--region: the price book knows no price in {region!r}; it knows {', '.join(known)}")


def plan_from_trace(trace: str, quota: Quota, *, growth: str | None, as_json: bool) -> None:
    """Print how a trace would fare at the quota, without any run. Raises ConfigError."""
    demand = _demand(trace, None)
    doubts = (OF_A_RUN,) if Path(trace).is_dir() else (UNMEASURED, OF_A_TRACE)
    _print_quota_plan(demand, quota, doubts, growth=growth, as_json=as_json)


def plan_from_lengths(
    rate: str, lengths: tuple[str, str], max_tokens: int | None, quota: Quota, *, growth: str | None, as_json: bool
) -> None:
    """The same of a demand that nobody recorded: so many requests a second, with lengths drawn for each.

    `max_tokens` None: as many as a run asks for unless told otherwise.
    """
    prompt, completion = (read_lengths(text) for text in lengths)
    per_s = _rate(rate)
    if per_s is None:
        raise ConfigError(f"--demand: {rate!r} is no rate, which --prompt-tokens goes with; write it like 20/s")
    limit = LoadConfig.model_fields["max_tokens"].default if max_tokens is None else max_tokens
    demand = synthetic_demand(per_s, prompt, completion, limit)
    doubts = (UNMEASURED, *doubts_of(demand, limit, given=max_tokens is not None))
    _print_quota_plan(demand, quota, doubts, growth=growth, as_json=as_json)


def _print_quota_plan(
    demand: Demand, quota: Quota, doubts: tuple[str, ...], *, growth: str | None, as_json: bool
) -> None:
    unfit = too_large(demand, quota)
    if unfit is not None and unfit.beyond():
        raise ConfigError(str(unfit))
    plan = quota_plan(demand if growth is None else grown(demand, _factor(growth)), quota, doubts)
    if as_json:
        sys.stdout.buffer.write(to_json(plan))
    else:
        print_quota_plan(plan, Console())


def report(folder: Path, out: Path, options: Options | None = None, *, png: Path | None = None) -> None:
    """Write the report of a run, or of a sweep: of its steps, or where anything is asked for, of the plan from it.

    `png`: a folder that each figure is written to as a picture. Prints the names of the files. Raises ConfigError and
    RunFolderError.
    """
    drawings: Mapping[str, Sequence[Drawing]]
    if swept.is_sweep(folder) and options in (None, Options()):
        sweep = swept.read(folder)
        _written(out, partial(write_sweep_report, sweep))
        drawings = {} if png is None else {"load": sweep_report.draw(sweep)}
    else:
        with naming_damage(folder):
            found = together([folder])
            scope, plan = _planned(found, options or Options())
            _write_report(found.lead, scope, plan, out)
            drawings = {} if png is None else draw(found.lead, plan)
    sys.stdout.write(f"{out}\n")
    if png is not None:
        sys.stdout.writelines(f"{path}\n" for path in write_pngs(drawings, png))


def conclude(folder: Path, config: RunConfig, *, quiet: bool) -> Plan:
    """Plan from a run that has just ended: summary.json, report.html and the terminal."""
    plan = write(folder, config)
    if quiet:
        sys.stdout.write(f"{folder}\n")
        if not plan.validity.valid or any(slo.met is not True for slo in plan.slos):
            sys.stderr.write(f"{readable(plan.headline)}\n")
        return plan
    console = Console()
    print_plan(plan, console)
    console.print()
    where = {"record": folder, "summary": folder / "summary.json"}
    if config.output.report:
        where["report"] = folder / "report.html"
    for name, path in where.items():
        console.print(f"{name:<9}{path}", markup=False, highlight=False, soft_wrap=True)
    return plan


def write(folder: Path, config: RunConfig) -> Plan:
    """summary.json and, where it is wanted, report.html of a run that has ended."""
    run = Run.open(folder)
    scope, plan = scoped_plan(run)
    publish_bytes(folder / "summary.json", to_json(plan))
    if config.output.report:
        _write_report(run, scope, plan, folder / "report.html")
    return plan


def _write_report(run: Run, scope: Scope, plan: Plan, path: Path) -> None:
    _written(path, partial(write_report, run, plan, levers=levers_of(scope, plan)))


def _written(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except OSError as error:
        raise RunFolderError(f"cannot write the report {path}: {error.strerror}") from None


def _factor(text: str) -> float:
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1e6:
        raise ConfigError(f"--growth: {text!r} is no factor above 0; write it like 3x")
    return factor


def _demand(text: str, run: Run | None) -> Demand:
    """A trace's, or so many requests a second of the run's own kind."""
    per_s = _rate(text)
    if per_s is not None:
        if run is None:
            raise ConfigError(
                "--demand with a rate needs a RUN, whose requests it multiplies, or --prompt-tokens and "
                "--completion-tokens"
            )
        return at_rate(demand_of_run(run), per_s)
    with naming_damage(Path(text)):
        return demand_from_trace(Path(text))


def _rate(text: str) -> float | None:
    """Requests a second; None of what is no rate, like a trace's name."""
    number, slash, unit = text.partition("/")
    try:
        amount = float(number) if slash else None
    except ValueError:
        amount = None
    if amount is None:
        return None
    seconds = {"s": 1, "min": 60, "h": 3600}.get(unit)
    if seconds is None or not 0 < amount < math.inf:
        raise ConfigError(f"--demand: {text!r} is no rate above 0; write it like 20/s, or name a trace")
    return amount / seconds
