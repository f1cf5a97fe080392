"""What cannot be true of a run that was kept: a file in a repository is merged, edited and cut short."""

from __future__ import annotations

import math
from collections.abc import Iterator

from planner.comparing.blocks import RunQuantile
from planner.comparing.run_facts import RunFacts
from planner.comparing.sessions import instant_of
from planner.intervals import BLOCKS


def damage_of(run: RunFacts) -> str | None:
    """The first field that cannot be, and why not: `quantiles.3.value_ms is -5.0`."""
    return next(_damages(run), None)


def _damages(run: RunFacts) -> Iterator[str]:
    try:
        instant_of(run.started_utc)
    except ValueError:
        yield f"started_utc is {run.started_utc!r}, which is no time"
    if run.arrivals < 0:
        yield f"arrivals is {run.arrivals}"
    if not 0 <= run.unanswered <= max(0, run.arrivals):
        yield f"unanswered is {run.unanswered} of {run.arrivals} arrivals"
    if run.unanswered_blocks and (len(run.unanswered_blocks), sum(run.unanswered_blocks)) != (BLOCKS, run.unanswered):
        yield f"unanswered_blocks do not add up to {run.unanswered} in {BLOCKS} blocks"
    yield from (f"outcomes.{name} is {n}" for name, n in run.outcomes.items() if n < 0)
    for name in ("prompt_tokens", "completion_tokens"):
        mean = getattr(run, name)
        if mean is not None and not 0 <= mean < math.inf:
            yield f"{name} is {mean}"
    for number, each in enumerate(run.quantiles):
        yield from (f"quantiles.{number}.{damage}" for damage in _of_quantile(each))


def _of_quantile(each: RunQuantile) -> Iterator[str]:
    if not 0 < each.percentile < 100:
        yield f"percentile is {each.percentile}"
    if each.n < 0:
        yield f"n is {each.n}"
    low, value, high = each.low_ms, each.value_ms, each.high_ms
    for name, figure in (("value_ms", value), ("low_ms", low), ("high_ms", high)):
        if figure is not None and not 0 <= figure < math.inf:
            yield f"{name} is {figure}"
    if low is not None and high is not None and low > high:
        yield f"low_ms is {low}, above high_ms, {high}"
