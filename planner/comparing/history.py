"""Runs over weeks: where a latency changed its level, and whether it has come to stay slower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from loadgen.errors import ConfigError
from planner.compare import chosen
from planner.comparing.change_points import FEWEST, MOST_POINTS, changes
from planner.comparing.comparable import check_comparable
from planner.comparing.run_facts import RunFacts
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import ALPHA

SEED = 1  # of the permutations: the same series has the same changes
Point = Sequence[RunFacts]  # a run, or those of a set


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChange:
    metric: str  # ttft.p95
    at: str  # the name of the first run of the new level
    started_utc: str
    ratio: float  # of the new level to the one before
    before_ms: float  # geometric means of the two levels
    after_ms: float
    p: float  # how often chance changes a steady series as much
    last: bool  # whether it is the latest of its metric


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    points: int
    metrics: tuple[str, ...]
    changes: tuple[LevelChange, ...]
    slower_at_last: bool  # the latest change of some metric is a slowdown above half of its tolerance


def history_of(points: Sequence[Point], tolerances: Sequence[Tolerance] = ()) -> History:
    """By the start of their runs. Raises ConfigError for too few, RunFolderError for what cannot be compared."""
    if not 2 * FEWEST <= len(points) <= MOST_POINTS:
        raise ConfigError(
            f"a history has between {2 * FEWEST} and {MOST_POINTS:,} runs, sets or baselines; there are {len(points)}"
        )
    in_time = sorted(points, key=lambda point: (point[0].started_utc, point[0].name))
    everything = [run for point in in_time for run in point]
    check_comparable(everything[:1], everything[1:])
    named = tuple(tolerances) or chosen((everything, everything))
    found = [change for tolerance in named for change in _changes(in_time, tolerance, ALPHA / len(named))]
    slower = any(
        change.last and math.log(change.ratio) > tolerance.log_floor
        for tolerance in named
        for change in found
        if change.metric == tolerance.name
    )
    return History(
        points=len(points),
        metrics=tuple(tolerance.name for tolerance in named),
        changes=tuple(found),
        slower_at_last=slower,
    )


def _changes(points: Sequence[Point], tolerance: Tolerance, alpha: float) -> list[LevelChange]:
    series = [fmean(_log(run, tolerance) for run in point) for point in points]
    found = changes(series, alpha=alpha, seed=SEED)
    edges = [0, *(change.at for change in found), len(series)]
    levels = [fmean(series[start:end]) for start, end in pairwise(edges)]
    return [
        LevelChange(
            metric=tolerance.name,
            at=points[change.at][0].name,
            started_utc=points[change.at][0].started_utc,
            ratio=math.exp(after - before),
            before_ms=math.exp(before),
            after_ms=math.exp(after),
            p=change.p,
            last=change is found[-1],
        )
        for change, (before, after) in zip(found, pairwise(levels), strict=True)
    ]


def _log(run: RunFacts, tolerance: Tolerance) -> float:
    found = run.quantile(tolerance.metric, tolerance.percentile)
    if found is None or not found.value_ms:
        raise ConfigError(f"{tolerance.name}: the run {run.name} has none, or too few samples for it")
    return math.log(found.value_ms)
