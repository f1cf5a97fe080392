"""Sweep: the record of a search for the highest rate, as sweep.json and steps.parquet beside the steps' run folders.

These dataclasses are the layout of sweep.json. Both files are written anew after each step, so an interrupted sweep
holds all that it had finished.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from loadgen.durable import publish_bytes, publish_frame
from loadgen.errors import RunFolderError
from loadgen.samples import Run
from loadgen.slo import Slo
from planner.documents import read_document
from planner.instances import SweptCapacity
from planner.rows import NS_PER_MS, config_of
from planner.steps import Step, too_few
from planner.sweep import Finding, Search, Stop, Verdict

FORMAT = 1
FILE, STEPS = "sweep.json", "steps.parquet"
_TYPES = {"str": pl.String, "int": pl.Int64, "bool": pl.Boolean, "Verdict": pl.String}
COLUMNS = {
    each.name: _TYPES.get(str(each.type), pl.Float64)
    for each in fields(Step)
    if each.name not in ("admission_tokens", "reasons", "counts", "named")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRate:
    """The rate at which the quota is used up by requests such as the sweep's."""

    rate_per_s: float
    binds: str  # "tokens" | "requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    format: int
    state: str  # running | complete | interrupted
    reason: str | None  # of an interruption
    started_utc: str
    target: str
    model: str
    kind: str
    search: Search
    step_s: float
    past_quota: bool
    objectives: tuple[str, ...]
    assumptions: tuple[str, ...]
    config: dict[str, Any]  # of each step, but for rate, duration and seed
    steps: tuple[Step, ...] = ()
    quota: QuotaRate | None = None  # None where there is none, or nothing was measured
    result: Finding | None = None  # None until the search has ended
    sentence: str = ""  # the result in words


def write(folder: Path, sweep: Sweep) -> None:
    """Replace both files, each at once. Raises RunFolderError where they cannot be written."""
    try:
        publish_frame(folder / STEPS, steps_frame(sweep))
        publish_bytes(folder / FILE, to_json(sweep))
    except OSError as error:
        raise RunFolderError(f"cannot write to {folder}: {error.strerror}") from None


def to_json(sweep: Sweep) -> bytes:
    return orjson.dumps(sweep, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def steps_frame(sweep: Sweep) -> pl.DataFrame:
    """A row a measurement. Columns COLUMNS."""
    rows = [{name: getattr(step, name) for name in COLUMNS} for step in sweep.steps]
    return pl.DataFrame(rows, schema=COLUMNS)


def curve(sweep: Sweep) -> pl.DataFrame:
    """What each rate came to, by rate: the last measurement that the generator did not spoil. Columns COLUMNS."""
    sound = steps_frame(sweep).filter(~pl.col("client_limited"))
    return sound.sort("number").unique("rate_per_s", keep="last").sort("rate_per_s")


def named_curve(sweep: Sweep) -> pl.DataFrame:
    """What objectives name, at the steps of `curve`; a row for each rate and each statistic of a metric.

    Columns rate_per_s, verdict, limited, metric, statistic, value_ms.
    """
    steps = {step.number: step for step in sweep.steps}
    rows = [
        (step.rate_per_s, step.verdict, step.quota_limited, each.metric, each.statistic, each.value_ms)
        for number in curve(sweep)["number"]
        for step in (steps[number],)
        for each in step.named
    ]
    schema = {"rate_per_s": pl.Float64, "verdict": pl.String, "limited": pl.Boolean, "metric": pl.String}
    return pl.DataFrame(rows, {**schema, "statistic": pl.String, "value_ms": pl.Float64}, orient="row").unique(
        maintain_order=True
    )


def limits_ms(sweep: Sweep) -> list[tuple[str, str, float]]:
    """Metric, text and limit of each objective."""
    return [(slo.metric, slo.text, slo.limit_ns / NS_PER_MS) for slo in map(Slo.parse, sweep.objectives)]


def is_sweep(folder: Path) -> bool:
    return (folder / FILE).is_file()


def read(folder: Path) -> Sweep:
    """Raises RunFolderError for a sweep.json that cannot be read, or is of another format."""
    return read_document(folder / FILE, Sweep, FORMAT)


def best_step(sweep: Sweep) -> Step | None:
    """The longest step at the highest rate that met; None where none did."""
    met_at = None if sweep.result is None else sweep.result.met_at_per_s
    if met_at is None:
        met_at = max((step.rate_per_s for step in sweep.steps if step.verdict is Verdict.MET), default=None)
    sound = (step for step in sweep.steps if step.rate_per_s == met_at and not step.client_limited)
    return max(sound, key=lambda step: step.steady_s, default=None)


def run_to_plan(folder: Path, sweep: Sweep) -> tuple[Run, SweptCapacity | None]:
    """The run that a plan of the sweep is made from, and what it says of an instance, if it met the objectives.

    Without a step that met it is the first one, the lightest load. Raises RunFolderError where there is no step at all.
    """
    if not sweep.steps:
        raise RunFolderError(f"{folder} holds no finished step: there is nothing to plan from")
    best = best_step(sweep)
    run = Run.open(folder / (best or sweep.steps[0]).folder)
    if best is None:
        return run, None
    instances = config_of(run).target.instances
    return run, SweptCapacity(
        rate_per_s=best.rate_per_s,
        concurrency=best.concurrency,
        instances=instances or 1,
        stated=instances is not None,
        missed_per_s=None if sweep.result is None else sweep.result.missed_at_per_s,
    )


def sentence(sweep: Sweep) -> str:
    """The result in words: the highest rate, what is known on either side of it, and what ended the search."""
    result = sweep.result
    if result is None:
        return f"The sweep did not end{f' ({sweep.reason})' if sweep.reason else ''}: {_so_far(sweep)}."
    met, missed = result.met_at_per_s, result.missed_at_per_s
    objectives = _listed(sweep.objectives)
    if met is None:
        if result.stop is Stop.GENERATOR:
            spoiled = max(step.rate_per_s for step in sweep.steps if step.client_limited)
            return (
                f"The load generator was the limit at {_rate(spoiled)}, before any rate was shown to meet {objectives}."
            )
        lowest = min((step.rate_per_s for step in sweep.steps), default=sweep.search.from_per_s)
        how = {
            Verdict.SATURATED: "the deployment does not keep up",
            Verdict.UNCLEAR: f"it is not shown to meet {objectives}{_too_few(sweep, lowest)}",
        }
        reason = how.get(result.missed_as or Verdict.MISSED, f"it misses {objectives}")
        return f"Not even {_rate(lowest)} meets the objectives: {reason}."
    against = "" if missed is None else f", {_as_words(result.missed_as)} at {_rate(missed)}{_too_few(sweep, missed)}"
    known = f"{objectives} {'is' if len(sweep.objectives) == 1 else 'are'} met at {_rate(met)}{against}"
    return f"{known}{_ending(sweep, result)}."


def _ending(sweep: Sweep, result: Finding) -> str:
    quota = sweep.quota
    match result.stop:
        case Stop.QUOTA if quota is not None:
            return (
                f"; the quota binds, not the objectives: its {quota.binds} per minute are used up at "
                f"{_rate(quota.rate_per_s)}"
            )
        case Stop.TOP:
            return ", the highest rate that was asked for: the limit lies above it"
        case Stop.GENERATOR:
            return "; above that the load generator was the limit, not the deployment"
        case Stop.BOUND:
            return "; the search was ended after too many measurements"
    return ""


def _so_far(sweep: Sweep) -> str:
    met = [step.rate_per_s for step in sweep.steps if step.verdict is Verdict.MET]
    return f"{_rate(max(met))} met until then" if met else "no rate was shown to meet until then"


def _as_words(verdict: Verdict | None) -> str:
    words = {Verdict.SATURATED: "the deployment no longer keeps up", Verdict.UNCLEAR: "no longer clearly so"}
    return words.get(verdict or Verdict.MISSED, "missed")


def _too_few(sweep: Sweep, per_s: float) -> str:
    """What would tell of a rate that stayed unclear; nothing of another."""
    said = too_few([step for step in sweep.steps if step.rate_per_s == per_s])
    return f" ({said}: give a longer --step-duration)" if said else ""


def _listed(objectives: tuple[str, ...]) -> str:
    return " and ".join(objectives) if len(objectives) < 3 else f"{', '.join(objectives[:-1])} and {objectives[-1]}"


def _rate(per_s: float) -> str:
    return f"{per_s:.3g} requests/s"
