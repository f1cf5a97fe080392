"""When the runs of two sides were made: in turns, or each side in a time of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby, pairwise

from planner.comparing.run_facts import RunFacts

APART_S = 3_600.0  # from one start to the next: another session


def in_turns(base: Sequence[RunFacts], new: Sequence[RunFacts]) -> bool:
    """Whether what drifts meets both sides alike: their starts change sides more often than the fewer have runs.

    Starts that are the same tell nothing, and stand as if the base had been first.
    """
    starts = sorted((_instant_s(run), side) for side, runs in enumerate((base, new)) for run in runs)
    turns = sum(1 for _ in groupby(side for _, side in starts))
    return turns > max(2, min(len(base), len(new)))


def sessions_of(runs: Sequence[RunFacts]) -> tuple[int, ...]:
    """Which session each run is of, from 0."""
    starts = sorted(_instant_s(run) for run in runs)
    began = [start for before, start in pairwise(starts) if start - before > APART_S]
    return tuple(sum(_instant_s(run) >= start for start in began) for run in runs)


def instant_of(text: str) -> datetime:
    """An instant as runs write it; without a zone it is UTC. Raises ValueError."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _instant_s(run: RunFacts) -> float:
    return instant_of(run.started_utc).timestamp()
