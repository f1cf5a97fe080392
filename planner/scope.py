"""Scope: what a plan is for, once options and the run's own config are settled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import polars as pl

from loadgen.config import Kind, PlanConfig, RunConfig, Split, TargetConfig
from loadgen.quota import Quota
from loadgen.samples import Run
from loadgen.slo import Slo
from planner.counts import Counts, counts_of
from planner.demand import (
    ARRIVALS,
    MINUTE_S,
    REQUESTS,
    Demand,
    attempts_with_tokens,
    busiest,
    demand_of_run,
    grown,
    peak_per_minute,
    repeated,
)
from planner.instances import SweptCapacity
from planner.prices import PriceBook, TokenPrice
from planner.quotas.admitted import TooLarge, too_large
from planner.rows import PartOfRun, Stretch, config_of
from planner.traffic import peaks

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
    stretch: Stretch  # the run's steady phase,
    measured: Demand  # and what came due in it
    planned: Demand  # what the plan is for, growth included
    counts: Counts  # of the whole run
    peaks: tuple[float, float]  # of `measured`: requests and tokens in its busiest minutes
    peak_per_s: float  # of `planned`, in its busiest minute
    of_own_mix: bool  # the planned demand is the run's own
    today: date | None  # None: prices have no age
    settings: PlanConfig
    swept: SweptCapacity | None = None  # where the run is the best step of a sweep
    steps: pl.DataFrame | None = None  # several loads of the deployment, see planner.serving.load_steps
    of_runs: tuple[str, ...] = ()  # ids of all, where several runs are planned from

    @property
    def managed(self) -> bool:
        """Whether only managed deployments were measured."""
        return all(target.kind is Kind.MANAGED for target in self.config.targets)

    @property
    def of_own_requests(self) -> bool:
        """Whether they are the run's own requests, at whatever rate."""
        tokens = list(ARRIVALS[1:])
        return self.of_own_mix or self.planned.arrivals[tokens].equals(self.measured.arrivals[tokens])

    @property
    def times_measured(self) -> float:
        """How many times the highest measured load is planned for, on average or in the busiest minute.

        Of another demand than the run's own, what may be chance is 1: two standard errors of a Poisson rate.
        """
        if self.of_own_mix:
            return self.planned.speed
        highest = 0.0 if self.steps is None else float(self.steps.select(pl.col("rate_per_s").max()).item() or 0.0)
        pairs = (
            (self.planned.requests_per_s, self.measured.requests_per_s),
            (self.peak_per_s, self.peaks[0] / MINUTE_S),
        )
        times = max((planned / max(measured, highest) for planned, measured in pairs if measured), default=1.0)
        return times if times > 1 + 2 / math.sqrt(max(1, self.measured.arrivals.height)) else 1.0

    @property
    def models(self) -> tuple[str, ...]:
        """Those that were measured: the configured name, else what /info said, else "unknown"."""
        return tuple(dict.fromkeys(self._model_of(target) for target in self.config.targets))

    @property
    def model(self) -> str:
        return ", ".join(self.models)

    def _model_of(self, target: TargetConfig) -> str:
        return target.model or str(self.run.manifest.deployment_of(target.name).get("model_name") or "unknown")

    @property
    def kind(self) -> str:
        return " and ".join(dict.fromkeys(target.kind.value for target in self.config.targets))

    @property
    def where(self) -> str:
        """The target's address, or the names of several."""
        targets = self.config.targets
        return self.config.target.url or "" if len(targets) == 1 else ", ".join(str(target.name) for target in targets)

    @property
    def quota(self) -> Quota:
        """What all targets admit together."""
        quotas = [self.config.quota_of(target) for target in self.config.targets]
        return replace(
            quotas[0],
            tokens_per_minute=sum(quota.tokens_per_minute for quota in quotas),
            requests_per_minute=sum(quota.requests_per_minute for quota in quotas),
        )

    @property
    def price(self) -> TokenPrice | None:
        """Of a token of the only target: its own, else the book's."""
        target = self.config.target
        prompt_usd, completion_usd = target.usd_per_1k_prompt, target.usd_per_1k_completion
        if prompt_usd is None or completion_usd is None:
            return self.book.token_price(self.model)
        return TokenPrice(
            model=self.model,
            input_usd_per_1k=prompt_usd,
            output_usd_per_1k=completion_usd,
            source="the target's configuration",
            dated=self.today or date.min,
        )

    @property
    def parts(self) -> tuple[Scope, ...]:
        """One for each of several targets: what came to it, and no other demand than that."""
        if len(self.config.targets) == 1:
            return ()
        return tuple(self._part(PartOfRun(self.run, target)) for target in self.config.targets)

    def _part(self, part: PartOfRun) -> Scope:
        rows = attempts_with_tokens(part)
        measured = demand_of_run(part, self.stretch, rows)
        planned, most = grown(measured, self.growth), peaks(part, measured)
        return replace(
            self,
            run=part,
            config=config_of(part),
            measured=measured,
            planned=planned,
            counts=counts_of(part, self.stretch, rows),
            peaks=most,
            peak_per_s=most[0] / MINUTE_S if planned is measured else peak_per_s(planned),
            of_own_mix=True,
        )

    @property
    def too_large(self) -> TooLarge | None:
        """The planned requests that no deployment ever admits, as they cost more than its tokens of a minute."""
        if self.managed or len(self.config.targets) > 1 or self.planned.arrivals.is_empty():
            return None
        return too_large(self.planned, self.config.quota)

    @property
    def unsaid(self) -> Mapping[str, str]:
        """Which figures cannot be given for several targets together, and why.

        By name: quota, what_if, serverless, instances (with managed).
        """
        targets = self.config.targets
        serverless = [self.config.quota_of(target) for target in targets if target.kind is Kind.SERVERLESS]
        if len(targets) == 1:
            return {}
        if 0 < len(serverless) < len(targets):
            why = "Serverless and managed targets have no quota, cost or instances in common: see each."
            return dict.fromkeys(("quota", "what_if", "serverless", "instances"), why)
        unsaid = {}
        if not self.of_own_mix:
            unsaid["serverless"] = "How the targets would share the demand is not known: each is planned as measured."
        if len({quota.admission for quota in serverless}) > 1:
            unsaid["quota"] = "The targets count tokens differently, so they have no quota in common: see each."
        if len(set(serverless)) > 1:
            unsaid["what_if"] = "The targets' quotas differ, so no number of deployments is replayed."
        if len(self.models) > 1:
            unsaid["instances"] = "The targets serve different models: instances are counted for each."
        if self.config.load.split is Split.EACH:
            why = "Every target was given the whole load, to compare them: what it needs and costs stands with each."
            unsaid |= dict.fromkeys(("what_if", "serverless", "instances"), why)
        return unsaid


def peak_per_s(demand: Demand) -> float:
    """Requests a second in the busiest minute."""
    return peak_per_minute(demand, REQUESTS) / MINUTE_S


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


def is_unservable(scope: Scope) -> bool:
    """Whether more of the requests are too large for the quota than may be refused."""
    found = scope.too_large
    return found is not None and found.beyond(scope.settings.refused_share)
