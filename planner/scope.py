"""Scope: what a plan is for, once options and the run's own config are settled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from loadgen.config import Kind, RunConfig
from loadgen.samples import Run
from loadgen.slo import Slo
from planner.capacity import SweptCapacity
from planner.demand import Demand, busiest, repeated
from planner.prices import PriceBook

WATCHED_S = 600.0  # a quota is watched for ten minutes,
LEAST_WATCHED_S = 180.0  # or three of its own where ten hold too many arrivals to replay
MOST_ARRIVALS = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    run: Run
    config: RunConfig
    slos: Sequence[Slo]
    growth: float
    region: str
    book: PriceBook
    measured: Demand  # the run's steady phase
    planned: Demand  # what the plan is for, growth included
    of_own_mix: bool  # the planned demand is the run's own
    today: date | None  # None: prices have no age
    swept: SweptCapacity | None = None  # where the run is the best step of a sweep

    @property
    def managed(self) -> bool:
        """Whether a managed deployment was measured."""
        return self.config.target.kind is Kind.MANAGED

    @property
    def model(self) -> str:
        """The configured name, else what /info said, else "unknown"."""
        return self.config.target.model or str(self.run.manifest.deployment.get("model_name") or "unknown")


def watched_part(demand: Demand) -> Demand:
    """What is replayed against a quota: long enough to fill its windows repeatedly, short enough to replay often."""
    rate_per_s = demand.requests_per_s
    if rate_per_s == 0:
        return demand
    most = max(MOST_ARRIVALS, math.ceil(rate_per_s * LEAST_WATCHED_S))
    return busiest(repeated(demand, min(WATCHED_S, most / rate_per_s)), most)


def day_of(run: Run) -> date | None:
    """On which the run started (UTC); None where its manifest does not say it in a way that can be read."""
    try:
        return datetime.fromisoformat(run.manifest.started_utc).date()
    except ValueError:
        return None
