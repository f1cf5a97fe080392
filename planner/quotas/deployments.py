"""How many deployments a demand needs, how sure that is, which limit binds when, and what a lower max_tokens would win.

The demand that was seen is one of many that could have come. So whole stretches of its minutes are drawn again and
again with replacement (the circular block bootstrap of Politis and Romano, 1992), days where there is a week of them,
and what each number of deployments refused in those minutes is added up; a stretch of a short demand is made a little
fuller or emptier each time, as its largest burst is not the largest that could come. Nothing is taken to be Poisson:
demands vary far more from minute to minute than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl

from loadgen.quota import MINUTE_NS, NS_PER_S, Admission, Quota, WindowKind
from planner.demand import DAY_MINUTES, MINUTE_S, MOST_COPIES, Demand, admission_tokens, block_minutes, repeated
from planner.quantiles import nearest_rank
from planner.quota import REFUSED_SHARE
from planner.quotas.asked import Asked, Counts, Whole
from planner.quotas.binding import Binding, binding
from planner.quotas.doors import admission_cost, door_of, windows
from planner.quotas.parts import Part
from planner.quotas.replay import Door
from planner.quotas.search import smallest

PHASES = 20  # of the fixed minute against the demand,
FEWER_PHASES = 5  # where the quota would count otherwise than it is taken to
RESAMPLES = 1_000
TAIL = 0.025  # of a 95 % interval, on each side
LEAST_MINUTES = 10  # of which anything can be drawn again
WATCHED_S = LEAST_MINUTES * MINUTE_S  # to which a shorter demand is repeated
MOST_REPEATED = 2_000_000  # arrivals, where nothing is refused anyway
MOST_HELD = 4_000_000  # arrivals, where something is: 128 bytes each
SLICES_S = (60, 10, 1)  # in which requests may be checked
TRIMMED_TO = (0.99, 0.95)  # percentiles of the completions


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyNeed:
    """What one way of enforcing the quota asks for."""

    window: str  # "minute" | "bucket 60 s" | "bucket 10 s" | "sliding"
    admission: str
    request_slice_s: int
    deployments: int  # the smallest number that refuses at most the target of this demand, in each phase of the minute
    low: int | None  # 95 % interval of that number; None: the demand is too short to say
    high: int | None
    never_fit: int  # requests too large to be admitted at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """What a max_tokens at a percentile of the completions would win."""

    percentile: float  # from 0 to 1
    max_tokens: int
    cut_short_share: float  # of the requests: their answer would end before its time
    deployments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaNeed:
    """The smallest number of deployments, to which requests are dealt in turn, that refuses at most `target_share`.

    Over the ways in which the quota's own admission may be enforced: `deployments` is the most that any of them asks
    for, and `low` to `high` holds the 95 % interval of each. `by_policy` has those ways first, then the other
    admissions and slices of requests.
    """

    deployments: int
    low: int | None  # None: the demand is too short to say
    high: int | None
    target_share: float  # of the requests that can fit
    by_policy: tuple[PolicyNeed, ...]
    phases: int  # of the fixed minute that were tried; of other admissions and slices, at most FEWER_PHASES
    bootstrap_blocks: int | None  # stretches drawn for each resample; None: no interval
    block_minutes: int | None  # how long each is
    binds: str  # "tokens" | "requests": the limit that is nearer in most minutes
    binds_when: Binding
    max_tokens_trim: tuple[Trim, ...]  # empty where no request asks for more than it gets, or only usage counts


def quota_need(
    demand: Demand, quota: Quota, *, target_share: float = REFUSED_SHARE, phases: int = PHASES, seed: int = 1
) -> QuotaNeed | None:
    """How many deployments with that quota the demand needs. None without arrivals, or without duration.

    Shorter than ten minutes, it is repeated until then, and there is no interval. Of many arrivals those of some of the
    deployments are replayed, all of which see the same load. Raises ConfigError for arrivals that cannot be replayed.
    """
    if demand.arrivals.is_empty() or demand.span_s <= 0:
        return None
    blocks = Blocks.of(demand, seed)
    watched = _watched(demand, quota)
    offsets_ns = _offsets_ns(phases, seed)
    search = Search(watched, demand, target_share, offsets_ns, blocks)
    own = [search.need(way, window) for window, way in windows(quota).items()]
    fewer = replace(search, phases_ns=offsets_ns[:FEWER_PHASES])
    others = [fewer.need(way, window) for other in _others(watched, quota) for window, way in windows(other).items()]
    deployments = max(policy.deployments for policy in own)
    when = binding(search.door(quota), deployments)
    return QuotaNeed(
        deployments=deployments,
        low=min((policy.low for policy in own if policy.low is not None), default=None),
        high=max((policy.high for policy in own if policy.high is not None), default=None),
        target_share=target_share,
        by_policy=(*own, *others),
        phases=len(offsets_ns),
        bootstrap_blocks=None if blocks is None else blocks.count,
        block_minutes=None if blocks is None else blocks.minutes,
        binds="tokens" if when.tokens_nearer_share >= 0.5 else "requests",
        binds_when=when,
        max_tokens_trim=tuple(_trims(watched, quota, search)),
    )


def fewest_deployments(
    demand: Demand, quota: Quota, *, target_share: float, phases: int = PHASES, seed: int = 1
) -> int:
    """`quota_need`'s number of deployments, alone: of a dense demand by as many minutes as are quickly replayed.

    Where ten minutes repeat what came within one, each is about as full; buckets are replayed until ten have passed.
    """
    search = Search(_whole_minutes(demand, MOST_REPEATED), demand, target_share, _offsets_ns(phases, seed), None)
    return max(search.tried(way).deployments for way in windows(quota).values())


def _watched(demand: Demand, quota: Quota) -> Demand:
    """Ten minutes, or as many as can be held; one where ten hold many arrivals and nobody would be refused in any."""
    few = demand.requests_per_s * WATCHED_S <= MOST_REPEATED
    twice = repeated(demand, 2 * demand.span_s).arrivals
    admissions = (replace(quota, admission=admission) for admission in Admission)
    if few or demand.span_s >= MINUTE_S or not all(door_of(twice, way).is_never_full for way in admissions):
        return _whole_minutes(demand, MOST_HELD)
    return _cut_to(1, demand)


def _whole_minutes(demand: Demand, most: int) -> Demand:
    """Ten of it; as many as hold so many arrivals of a demand of less than one, which is repeated; at least one."""
    held = math.floor(most / MINUTE_S / demand.requests_per_s) if demand.span_s < MINUTE_S else LEAST_MINUTES
    return repeated(demand, WATCHED_S) if held >= LEAST_MINUTES else _cut_to(max(1, held), demand)


def _cut_to(minutes: int, demand: Demand) -> Demand:
    """So many whole minutes of it, repeated."""
    span_s = minutes * MINUTE_S
    again = repeated(demand, span_s)
    return replace(again, arrivals=again.arrivals.filter(pl.col("at_s") < span_s), span_s=span_s)


def _offsets_ns(phases: int, seed: int) -> tuple[int, ...]:
    """Of the fixed minute against the demand."""
    drawn = np.random.default_rng(seed).integers(0, MINUTE_NS, max(0, phases - 1))
    return (0, *(int(at) for at in drawn))


def _others(demand: Demand, quota: Quota) -> Iterator[Quota]:
    """The same quota with other slices, and with other admissions where those count this demand differently."""
    for slice_s in SLICES_S:
        if slice_s != quota.request_slice_s and quota.requests_per_minute * slice_s >= 60:
            yield replace(quota, request_slice_s=slice_s)
    seen = [demand.arrivals.select(cost=admission_tokens(quota.admission))]
    for admission in Admission:
        costs = demand.arrivals.select(cost=admission_tokens(admission))
        if not any(costs.equals(other) for other in seen):
            seen.append(costs)
            yield replace(quota, admission=admission)


def _trims(demand: Demand, quota: Quota, search: Search) -> Iterator[Trim]:
    arrivals = demand.arrivals
    wanted = arrivals["completion_tokens"].sort()
    if quota.admission is Admission.USAGE or not (arrivals["max_tokens"] > arrivals["completion_tokens"]).any():
        return
    tried: set[int] = set()
    for percentile in TRIMMED_TO:
        limit = max(1, int(wanted[nearest_rank(len(wanted), percentile) - 1]))
        trimmed = arrivals.with_columns(max_tokens=pl.min_horizontal("max_tokens", pl.lit(limit)))
        if trimmed.equals(arrivals) or limit in tried:
            continue
        tried.add(limit)
        of_trimmed = replace(search, demand=replace(demand, arrivals=trimmed), doors={})
        cut = (arrivals["completion_tokens"] > trimmed["max_tokens"]) & (arrivals["max_tokens"] > limit)
        yield Trim(
            percentile=percentile,
            max_tokens=limit,
            cut_short_share=float(cut.sum()) / len(cut),
            deployments=max(of_trimmed.tried(way).deployments for way in windows(quota).values()),
        )


# --- the search ---


@dataclass(frozen=True, slots=True)
class Blocks:
    """Stretches of consecutive minutes, drawn with replacement, the first minute following the last."""

    minutes: int  # of each
    of_minutes: int  # of which they are drawn
    starts: Whole  # resamples x stretches
    kernel: Counts  # likewise, standard normal

    @classmethod
    def of(cls, demand: Demand, seed: int) -> Blocks | None:
        """None where the demand is too short to be drawn from again."""
        number = math.floor(demand.span_s / MINUTE_S)
        if number < LEAST_MINUTES:
            return None
        minutes = block_minutes(number)
        draw, shape = np.random.default_rng(seed), (RESAMPLES, math.ceil(number / minutes))
        return cls(minutes, number, draw.integers(0, number, shape), draw.standard_normal(shape))

    def swollen(self, offered: Counts, fullness: Counts, deployments: int) -> tuple[Counts, Counts]:
        """What each resample offers and loses more, where each stretch is a little fuller or emptier than it was seen.

        A smoothed bootstrap (Silverman and Young, 1987), for bursts larger than the largest of a short demand: the
        logarithm of each stretch's load is spread by a normal kernel of Silverman's width. What that loses is told by
        the fluid screen, in which requests can be divided. Nothing more from a day on.
        """
        more_offered, more_lost = np.zeros(len(self.starts)), np.zeros(len(self.starts))
        busy = fullness[fullness > 0]
        if self.of_minutes > DAY_MINUTES or not len(busy):
            return more_offered, more_lost
        width = 1.06 * float(np.log(busy).std()) * len(busy) ** -0.2
        factors = np.exp(width * self.kernel)
        for minute in range(self.minutes):
            place = (self.starts + minute) % self.of_minutes
            room = deployments / np.maximum(fullness, 1e-9)[place]
            change = np.maximum(factors - room, 0) - np.maximum(1 - room, 0)
            more_offered += (offered[place] * (factors - 1)).sum(axis=1)
            more_lost += (offered[place] * change).sum(axis=1)
        return more_offered, more_lost

    @property
    def count(self) -> int:
        return int(self.starts.shape[1])

    def sums(self, by_minute: Counts) -> Counts:
        """Of each resample."""
        until = np.concatenate(([0.0], np.cumsum(np.concatenate((by_minute, by_minute[: self.minutes])))))
        drawn: Counts = (until[self.starts + self.minutes] - until[self.starts]).sum(axis=1)
        return drawn


@dataclass(frozen=True)
class Search:
    """For the smallest number of deployments that is enough."""

    demand: Demand
    once: Demand  # not repeated
    target_share: float
    phases_ns: tuple[int, ...]
    blocks: Blocks | None
    doors: dict[Admission, Door] = field(default_factory=dict)  # by what a request counts

    def need(self, way: Quota, window: str) -> PolicyNeed:
        tried = self.tried(way)
        low, high = (None, None) if self.blocks is None else (tried.at_least(TAIL), tried.at_least(1 - TAIL))
        return PolicyNeed(
            window=window,
            admission=way.admission.value,
            request_slice_s=way.request_slice_s,
            deployments=tried.deployments,
            low=low,
            high=high,
            never_fit=int((~tried.door.fits[: self.once.arrivals.height]).sum()),
        )

    def tried(self, way: Quota) -> Tried:
        door = self.door(way)
        shorter = self.demand.span_s < WATCHED_S and self.once.span_s * MOST_COPIES >= MINUTE_S
        if shorter and door.is_bucket and not door.is_never_full:
            return self._tried_again(door)
        phases_ns = self.phases_ns if way.window is WindowKind.MINUTE else (0,)
        return Tried(door, phases_ns, self.target_share, self.blocks, None, {})

    def _tried_again(self, door: Door) -> Tried:
        """For a bucket is full at the first of ten minutes alone: as many whole repetitions as are held, until then."""
        each, each_ns = self.once.arrivals.height, self.once.span_s * NS_PER_S
        copies = len(door.at_ns) // each
        again_ns = round(copies * each_ns), round(math.ceil(WATCHED_S / self.once.span_s) * each_ns)
        held = Asked(door.at_ns[: copies * each], door.tokens[: copies * each])
        return Tried(Door(held, door.quota), (0,), self.target_share, self.blocks, again_ns, {})

    def door(self, way: Quota) -> Door:
        """The arrivals are read once, and what they count once for each admission."""
        known = next(iter(self.doors.values()), None)
        if known is None:
            self.doors[way.admission] = door_of(self.demand.arrivals, way)
        elif way.admission not in self.doors:
            tokens = admission_cost(self.demand.arrivals, way.admission).to_numpy()
            self.doors[way.admission] = Door(known.asked.counting(tokens), way)
        return Door(self.doors[way.admission].asked, way)


@dataclass(frozen=True)
class Tried:
    """Numbers of deployments that were tried under one way of enforcing, and how they did."""

    door: Door
    phases_ns: tuple[int, ...]
    target_share: float
    blocks: Blocks | None
    again_ns: tuple[int, int] | None  # after how long it comes again, and until when; None: it comes once
    results: dict[int, tuple[bool, float]]  # by number: enough in each phase; in which share of the resamples

    @cached_property
    def deployments(self) -> int:
        return smallest(lambda number: self.result(number)[0], self.fluid, len(self.door.at_ns))

    def at_least(self, share: float) -> int:
        """The smallest number that is enough in at least that share of the resamples."""
        most = len(self.door.at_ns)
        return smallest(lambda number: self.result(number)[1] >= share, self.deployments, most)

    def result(self, number: int) -> tuple[bool, float]:
        if number not in self.results and self.blocks is None and (known := self._known(number)) is not None:
            self.results[number] = known, float(known)
        if number not in self.results:
            swollen = None if self.blocks is None else self.blocks.swollen(self.offered, self.fullness, number)
            each = [self._judged(offered, lost, swollen) for offered, lost in self._counted(number)]
            self.results[number] = all(enough for enough, _ in each), sum(share for _, share in each) / len(each)
        return self.results[number]

    def _counted(self, number: int) -> Iterable[tuple[Counts, Counts]]:
        """What was asked and refused, in each phase."""
        if self.again_ns is None:
            return Part.of(self.door, number).in_phases(self.phases_ns)
        span_ns, until_ns = self.again_ns
        part = Part.of_deployments(self.door, number, -(-until_ns // span_ns))
        return [part.again(span_ns, until_ns, self.target_share)]

    def _known(self, number: int) -> bool | None:
        """Whether it is enough, as far as that needs no replay."""
        if self.again_ns is None and self.door.is_never_full:
            return True
        too_few = self.door.least_refused(number) > self.target_share * int(self.door.fits.sum())
        return False if too_few else None

    def _judged(self, offered: Counts, lost: Counts, swollen: tuple[Counts, Counts] | None) -> tuple[bool, float]:
        enough = bool(lost.sum() <= self.target_share * offered.sum())
        if self.blocks is None or swollen is None:
            return enough, float(enough)
        more_offered, more_lost = (more * offered.sum() / max(1, self.offered.sum()) for more in swollen)
        losses = np.maximum(self.blocks.sums(self._whole(lost)) + more_lost, 0)
        allowed = self.target_share * (self.blocks.sums(self._whole(offered)) + more_offered)
        return enough, float((losses <= allowed).mean())

    def _whole(self, by_minute: Counts) -> Counts:
        """What came in the last, begun minute goes with the one before, so that all are whole."""
        count = len(by_minute) if self.blocks is None else self.blocks.of_minutes
        whole = np.zeros(count)
        whole[: len(by_minute)] = by_minute[:count]
        whole[-1] += by_minute[count:].sum()
        return whole

    @cached_property
    def offered(self) -> Counts:
        return self._whole(self.door.fitting.requests_by_minute)

    @cached_property
    def fullness(self) -> Counts:
        """Of each minute: how many deployments' quota it fills."""
        tokens, requests = (self._whole(each) for each in self.door.loads)
        return np.maximum(tokens, requests)

    @cached_property
    def fluid(self) -> int:
        """Where to begin: what a minute holds beyond all quotas is refused, as if requests could be divided."""
        fullness = self.fullness
        allowed = self.target_share * fullness.sum()
        most = max(1, math.ceil(fullness.max()))
        return smallest(lambda number: bool(np.maximum(fullness - number, 0).sum() <= allowed), most, most)
