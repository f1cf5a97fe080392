"""Several runs of one deployment, planned together: which of them is planned from, and what all of them say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl

from loadgen.errors import ConfigError, RunFolderError
from loadgen.samples import Run
from planner import swept
from planner.demand import demand_of_run
from planner.instances import SweptCapacity
from planner.prices import plain_name
from planner.rows import config_of
from planner.serving.load_steps import steps_of
from planner.swept import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    lead: Run  # whose figures and demand are planned with: the busiest run, or the best step of the only sweep
    capacity: SweptCapacity | None  # what the sweep says of an instance
    sweep: Sweep | None
    steps: pl.DataFrame | None  # None of a single run
    run_ids: tuple[str, ...]


def together(folders: Sequence[Path]) -> Together:
    """Raises ConfigError for runs of different deployments, naming what differs, and RunFolderError."""
    sweeps = [(folder, swept.read(folder)) for folder in folders if swept.is_sweep(folder)]
    found = [(*swept.run_to_plan(folder, sweep), sweep) for folder, sweep in sweeps]
    runs = [run for run, *_ in found] + [Run.open(folder) for folder in folders if not swept.is_sweep(folder)]
    for other in runs[1:]:
        _check_alike(runs[0], other)
    if len(runs) == 1:
        capacity, sweep = found[0][1:] if found else (None, None)
        return Together(
            lead=runs[0],
            capacity=capacity,
            sweep=sweep,
            steps=steps_of(folders) if sweep is not None else None,
            run_ids=(runs[0].manifest.run_id,),
        )
    lead = max(runs, key=lambda run: demand_of_run(run).requests_per_s)
    if demand_of_run(lead).arrivals.is_empty():
        raise RunFolderError("none of these runs holds an arrival of its steady phase: there is nothing to plan from")
    by_lead = next(((capacity, sweep) for run, capacity, sweep in found if run is lead), (None, None))
    ids = (lead.manifest.run_id, *(run.manifest.run_id for run in runs if run is not lead))
    return Together(lead=lead, capacity=by_lead[0], sweep=by_lead[1], steps=steps_of(folders), run_ids=ids)


def _check_alike(one: Run, other: Run) -> None:
    names = ("model", "kind", "deployment", "instances", "quota", "scenarios")
    for name, first, second in zip(names, _identity(one), _identity(other), strict=True):
        if first != second:
            raise ConfigError(
                f"{one.folder} and {other.folder} are not of one deployment: the {name} of the first is {first}, of "
                f"the second {second}; plan each alone"
            )


def _identity(run: Run) -> tuple[str, ...]:
    """What must be the same. A simulated deployment has another port each time."""
    config = config_of(run)
    models, kinds, places = [], [], []
    for target in config.targets:
        about = run.manifest.deployment_of(target.name)
        simulated = about.get("simulated") is True
        models.append(plain_name(target.model or str(about.get("model_name") or "unknown")))
        kinds.append(target.kind.value)
        places.append("simulated" if simulated else urlsplit(target.url or "").netloc or str(target.url))
    quotas = {config.quota_of(target) for target in config.targets if target.kind.value == "serverless"}
    limits = sorted(f"{quota.tokens_per_minute:,} tokens, {quota.requests_per_minute:,} requests" for quota in quotas)
    total = sum(config.scenarios.values())
    mix = ", ".join(f"{name} {weight / total:.0%}" for name, weight in sorted(config.scenarios.items()))
    instances = "/".join(str(target.instances or 1) for target in config.targets)
    return ", ".join(models), ", ".join(kinds), ", ".join(places), instances, "; ".join(limits) or "none", mix
