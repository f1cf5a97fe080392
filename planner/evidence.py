"""What a run is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from loadgen.config import RunConfig
from loadgen.samples import Run
from planner.counts import Counts
from planner.plan import LatencyRow, TargetFigures, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a run is judged by."""

    run: Run
    config: RunConfig
    counts: Counts
    traffic: Traffic
    latency: Mapping[str, LatencyRow]  # of all scenarios together, by metric
    targets: Sequence[TargetFigures]  # where there are several
    times_measured: float  # the load that is planned for, over the measured one
    prices_dated: Sequence[date]  # of those the plan uses
    today: date | None  # None: not known, so no price is too old
