"""Runs over weeks: where a latency changed its level, and whether it has come to stay slower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import fmean

from loadgen.errors import ConfigError, InvalidRun, RunFolderError
from planner.compare import chosen
from planner.comparing.change_points import FEWEST, MOST_POINTS, changes
from planner.comparing.comparable import check_comparable, check_distinct
from planner.comparing.run_facts import RunFacts
from planner.comparing.sessions import instant_of
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
    slower_at_last: bool  # the latest change of some metric, since then, is a slowdown above half of its tolerance
    skipped: tuple[str, ...]  # points that are none of this history, and why


def history_of(
    points: Sequence[Point],
    tolerances: Sequence[Tolerance] = (),
    *,
    since: datetime | None = None,
    skipped: Sequence[str] = (),
) -> History:
    """By the start of their runs; what is unlike the latest, or lacks a figure, is passed over, beside what is so
    already. A slowdown before `since` is known and accepted.

    Raises ConfigError for too few.
    """
    in_time = sorted(points, key=lambda point: (instant_of(point[0].started_utc), point[0].name))
    alike, left = _alike(in_time)
    everything = [run for point in alike for run in point]
    named = tuple(tolerances) or _of_all(alike, chosen((everything, everything)) if everything else ())
    kept = [point for point in alike if _lacking(point, named) is None]
    left += [lacking for point in alike if (lacking := _lacking(point, named)) is not None]
    if not 2 * FEWEST <= len(kept) <= MOST_POINTS:
        why = f": {'; '.join([*skipped, *left][:3])}" if skipped or left else ""
        raise ConfigError(
            f"a history has between {2 * FEWEST} and {MOST_POINTS:,} runs, sets or baselines; there are {len(kept)}"
            + why
        )
    found = [change for tolerance in named for change in _changes(kept, tolerance, ALPHA / len(named))]
    floors = {tolerance.name: tolerance.log_floor for tolerance in named}
    return History(
        points=len(kept),
        metrics=tuple(floors),
        changes=tuple(found),
        slower_at_last=any(
            change.last
            and math.log(change.ratio) > floors[change.metric]
            and (since is None or instant_of(change.started_utc) >= since)
            for change in found
        ),
        skipped=(*skipped, *left),
    )


def _alike(in_time: Sequence[Point]) -> tuple[list[Point], list[str]]:
    """Those that can be compared with the latest that is valid, and why the others cannot."""
    kept: list[Point] = []
    left: list[str] = []
    for point in reversed(in_time):
        try:
            check_distinct(point, "a point")
            check_comparable(kept[0] if kept else point[:0], point)
            check_distinct([run for each in (*kept, point) for run in each], "the history")
            kept.append(point)
        except (RunFolderError, InvalidRun) as error:
            left.append(f"{point[0].name} ({point[0].started_utc}): {error}")
    return kept[::-1], left[::-1]


def _of_all(points: Sequence[Point], usual: Sequence[Tolerance]) -> tuple[Tolerance, ...]:
    """What every point has; where there is no such figure, all that is usual."""
    common = tuple(each for each in usual if all(_lacking(point, [each]) is None for point in points))
    return common or tuple(usual)


def _lacking(point: Point, tolerances: Sequence[Tolerance]) -> str | None:
    for run in point:
        for each in tolerances:
            found = run.quantile(each.metric, each.percentile, each.of)
            if found is None or not found.value_ms:
                return f"{run.name} ({run.started_utc}): no {each.name}, or too few samples for it"
    return None


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
    found = run.quantile(tolerance.metric, tolerance.percentile, tolerance.of)
    assert found is not None
    assert found.value_ms
    return math.log(found.value_ms)
