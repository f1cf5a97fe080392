"""Plans and reports from run folders and traces: printed, written as JSON, drawn as a page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from dashboards.readable import readable
from dashboards.report import write_report
from dashboards.sweep import print_sweep
from dashboards.sweep_report import write_sweep_report
from dashboards.terminal import print_plan
from dashboards.what_if import print_quota_plan
from loadgen.config import RunConfig
from loadgen.damage import naming_damage
from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, RunFolderError
from loadgen.quota import Quota
from loadgen.samples import Run
from loadgen.slo import Slo
from planner import swept
from planner.assemble import plan_run, to_json
from planner.demand import Demand, at_rate, demand_from_trace, demand_of_run, grown
from planner.plan import Plan
from planner.prices import read_prices
from planner.quota_plan import quota_plan


def plan_from_run(
    folder: Path,
    demand: str | None,
    *,
    slo: Sequence[str] | None,
    growth: str | None,
    region: str | None,
    prices: Path | None,
    as_json: bool,
) -> None:
    """Print the plan of a run, or of a sweep by its best step. Raises ConfigError and RunFolderError."""
    with naming_damage(folder):
        sweep, plan = _plan(folder, demand, slo=slo, growth=growth, region=region, prices=prices)
    if as_json:
        sys.stdout.buffer.write(to_json(plan))
        return
    console = Console()
    if sweep is not None:
        print_sweep(sweep, console)
        console.print()
    print_plan(plan, console)


def _plan(
    folder: Path,
    demand: str | None,
    *,
    slo: Sequence[str] | None,
    growth: str | None,
    region: str | None,
    prices: Path | None,
) -> tuple[swept.Sweep | None, Plan]:
    sweep = swept.read(folder) if swept.is_sweep(folder) else None
    run, capacity = (Run.open(folder), None) if sweep is None else swept.run_to_plan(folder, sweep)
    plan = plan_run(
        run,
        slos=None if slo is None else [Slo.parse(text) for text in slo],
        growth=None if growth is None else _factor(growth),
        region=region,
        price_book=None if prices is None else read_prices(prices),
        demand=None if demand is None else _demand(demand, run),
        swept=capacity,
    )
    return sweep, plan


def plan_from_trace(trace: str, quota: Quota, *, growth: str | None, as_json: bool) -> None:
    """Print how a trace would fare at the quota, without any run. Raises ConfigError."""
    demand = _demand(trace, None)
    plan = quota_plan(demand if growth is None else grown(demand, _factor(growth)), quota)
    if as_json:
        sys.stdout.buffer.write(to_json(plan))
    else:
        print_quota_plan(plan, Console())


def report(folder: Path, out: Path) -> None:
    """Write the report of a run or a sweep. Raises RunFolderError."""
    if swept.is_sweep(folder):
        _written(out, partial(write_sweep_report, swept.read(folder)))
    else:
        with naming_damage(folder):
            run = Run.open(folder)
            _write_report(run, plan_run(run), out)
    sys.stdout.write(f"{out}\n")


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
    plan = plan_run(run)
    publish_bytes(folder / "summary.json", to_json(plan))
    if config.output.report:
        _write_report(run, plan, folder / "report.html")
    return plan


def _write_report(run: Run, plan: Plan, path: Path) -> None:
    _written(path, partial(write_report, run, plan))


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
        raise ConfigError(f"--growth: {text!r} is no factor; write it like 3x")
    return factor


def _demand(text: str, run: Run | None) -> Demand:
    """A trace's, or so many requests a second of the run's own kind."""
    number, slash, unit = text.partition("/")
    if slash and number.replace(".", "", 1).isdecimal():
        seconds = {"s": 1, "min": 60, "h": 3600}.get(unit)
        if seconds is None or float(number) == 0:
            raise ConfigError(f"--demand: {text!r} is no rate; write it like 20/s, or name a trace")
        if run is None:
            raise ConfigError("--demand with a rate needs a RUN, whose requests it multiplies")
        return at_rate(demand_of_run(run), float(number) / seconds)
    with naming_damage(Path(text)):
        return demand_from_trace(Path(text))
