"""Whether runs may be compared at all, and what differs between them although they may."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from loadgen.errors import InvalidRun, RunFolderError
from planner.comparing.run_facts import RunFacts

MOST_NAMED = 6
_NONE = object()


def check_comparable(base: Sequence[RunFacts], new: Sequence[RunFacts]) -> None:
    """Raises InvalidRun where a run is no measure of anything, RunFolderError where runs were asked other things."""
    sides = ((base, "BASE"), (new, "NEW"))
    invalid = [(f"{run.name} of {side}", run.reasons[0]) for runs, side in sides for run in runs if run.reasons]
    if invalid:
        names = ", ".join(name for name, _ in invalid)
        raise InvalidRun(f"INVALID, and not compared: {names}: {invalid[0][1]}")
    for runs, side in sides:
        check_distinct(runs, side)
    twice = {run.run_id for run in base} & {run.run_id for run in new}
    if twice:
        named = next(run.name for run in new if run.run_id in twice)
        raise RunFolderError(f"the run {named} is on both sides: it would be compared with itself")
    for runs, side in sides:
        check_alike(runs, f"the runs of {side} cannot be taken together")
    check_alike((*base, *new), "these runs cannot be compared")


def check_distinct(runs: Sequence[RunFacts], side: str) -> None:
    """Raises RunFolderError where a run is there twice: it would count as two."""
    ids = [run.run_id for run in runs]
    twice = next((run for run in runs if ids.count(run.run_id) > 1), None)
    if twice is not None:
        raise RunFolderError(f"the run {twice.name} is in {side} more than once: it would count as several")


def check_alike(runs: Sequence[RunFacts], what_not: str) -> None:
    """Raises RunFolderError where runs were not asked for the same."""
    differing = _differing(run.settings for run in runs)
    if differing:
        told = "; ".join(f"{key} is {_values(values)}" for key, values in list(differing.items())[:MOST_NAMED])
        more = f"; and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
        raise RunFolderError(f"{what_not}, since they were not asked for the same: {told}{more}")


def circumstances(base: Sequence[RunFacts], new: Sequence[RunFacts]) -> tuple[str, ...]:
    """What was not the same and may matter, each as a sentence."""
    differing = _differing(run.circumstances for run in (*base, *new))
    return tuple(f"{key} was not the same: {_values(values)}" for key, values in differing.items())


def _differing(each: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Keys that do not have one value in all, with the values in the order in which they come."""
    runs = list(each)
    keys = dict.fromkeys(key for run in runs for key in run)
    values = {key: [run.get(key, _NONE) for run in runs] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _values(values: Sequence[Any]) -> str:
    """`5.0 and 6.0`, the base's first."""
    distinct = dict.fromkeys("not set" if value is _NONE else str(value) for value in values)
    return " and ".join(list(distinct)[:3])
