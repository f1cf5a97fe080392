"""The search for the highest rate that meets the objectives: what was measured in, the next rate out. No clock.

Steps go up geometrically, then the gap between the highest rate that met and the lowest that did not is bisected. A
rate is judged by the share of its offered requests beyond the limit, with the 95 % interval after Wilson (1927): it
meets an objective if the interval's upper end is within the share that the statistic allows (5 % for a p95), misses it
if the lower end is not, and is unclear in between. Objectives get no easier as the rate grows, so a rate that met
stands for all below it, and an unclear one is measured again, longer, only where the answer depends on it. So is one
that the deployment did not keep up with although it did with a higher one; there the longest measurement decides.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from planner.quantiles import Z_95, wilson

MOST_TIMES = 3  # that a rate is measured until it is clear, each time twice as long as the last
MOST_SPOILED = 3  # measurements of a rate that the load generator spoiled
MOST_MEASUREMENTS = 60
MOST_FAILED_SHARE = 0.01  # beside a mean, which knows nothing of requests that failed
SAME_RATE = 1e-9
MOST_TIMES_MORE = 100  # beyond that no number of requests is named: what was measured is at its limit, but for rounding


class Verdict(StrEnum):
    MET = "met"
    MISSED = "missed"
    UNCLEAR = "unclear"
    SATURATED = "saturated"  # the deployment did not keep up: the rate is too high, whatever the latencies were so far
    INVALID = "invalid"  # the load generator was the limit: it says nothing of the deployment


class Stop(StrEnum):
    """Why a search ended."""

    FOUND = "found"  # between a rate that met and one that did not
    TOP = "top"  # the highest rate that was asked for met
    QUOTA = "quota"  # the highest rate within the quota met
    LOWEST = "lowest"  # not even the lowest rate met
    GENERATOR = "generator"
    BOUND = "bound"  # too many measurements


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One objective at one rate: of `n` offered requests, how many were beyond the limit or failed.

    For a mean `total` and `squares` are the sums of the values and of their squares, in units of the limit.
    """

    text: str
    allowed: float | None  # the share that may be beyond: 0.05 for a p95, 0 for max; None for a mean
    n: float  # independent ones: gaps of one stream are not, and count for less
    beyond: float  # for a mean: those that failed
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(
            text=self.text,
            allowed=self.allowed,
            n=self.n + other.n,
            beyond=self.beyond + other.beyond,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    @property
    def verdict(self) -> Verdict:
        if self.n <= 0:
            return Verdict.UNCLEAR
        if self.allowed is None:
            return self._of_mean()
        share = wilson(self.beyond, self.n)
        if share.low > self.allowed or (self.allowed == 0 and self.beyond > 0):
            return Verdict.MISSED
        return Verdict.MET if share.high <= self.allowed or self.allowed == self.beyond == 0 else Verdict.UNCLEAR

    @property
    def times_to_tell(self) -> float | None:
        """So many times as many requests would end the doubt, if the share or the mean stayed as it is.

        None where there is no doubt, and where a hundred times as many would not end it. Wilson's interval ends at the
        allowed share a where (share - a)^2 n = z^2 a (1 - a).
        """
        if self.n <= 0 or self.verdict is not Verdict.UNCLEAR:
            return None
        if self.allowed is not None:
            off = abs(self.beyond / self.n - self.allowed)
            half = Z_95 * math.sqrt(self.allowed * (1 - self.allowed) / self.n)
        else:
            mean, half = self._mean_and_half() or (1.0, 0.0)
            off = abs(mean - 1)
        times = math.inf if off == 0 else (half / off) ** 2
        return times if times <= MOST_TIMES_MORE else None

    def _of_mean(self) -> Verdict:
        if wilson(self.beyond, self.n).low > MOST_FAILED_SHARE:
            return Verdict.MISSED
        known = self._mean_and_half()
        if known is None:
            return Verdict.UNCLEAR
        mean, half = known
        return Verdict.MET if mean + half <= 1 else Verdict.MISSED if mean - half > 1 else Verdict.UNCLEAR

    def _mean_and_half(self) -> tuple[float, float] | None:
        """Of the answered, with half the width of its interval; None of fewer than two."""
        answered = self.n - self.beyond
        if answered < 2:
            return None
        mean = self.total / answered
        return mean, Z_95 * math.sqrt(max(0.0, self.squares / answered - mean**2) / (answered - 1))

    @property
    def leans_to_met(self) -> bool:
        """On which side of the limit the measured figure itself lies."""
        if self.allowed is None:
            return self.total <= max(0.0, self.n - self.beyond)
        return self.beyond <= self.allowed * self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One step as the search sees it."""

    rate_per_s: float
    counts: tuple[Count, ...]
    saturated: bool = False
    spoiled: bool = False  # by the load generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched: geometric steps between two rates, and how wide the answer may be."""

    from_per_s: float
    to_per_s: float
    steps: int
    tolerance: float  # the rate that did not meet is at most so much above the one that met: 0.05

    @property
    def ladder(self) -> list[float]:
        if self.steps == 1 or self.to_per_s <= self.from_per_s:
            return [self.from_per_s]
        ratio = self.to_per_s / self.from_per_s
        return [self.from_per_s * ratio ** (step / (self.steps - 1)) for step in range(self.steps)]


@dataclass(frozen=True, slots=True)
class Trial:
    """Measure this rate next, so many times as long as a step usually is."""

    rate_per_s: float
    times_as_long: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The end: the highest rate that met, the lowest that did not (missed, saturated or unclear for good), and why."""

    met_at_per_s: float | None
    missed_at_per_s: float | None
    missed_as: Verdict | None
    stop: Stop


def pooled_verdict(measured: Sequence[Measurement]) -> Verdict:
    """Of all measurements of one rate together."""
    good = [each for each in measured if not each.spoiled]
    if not good:
        return Verdict.INVALID
    if good[-1].saturated:  # the longest of them
        return Verdict.SATURATED
    verdicts = {count.verdict for count in pooled_counts(good)}
    return next((each for each in (Verdict.MISSED, Verdict.UNCLEAR) if each in verdicts), Verdict.MET)


def times_to_tell(measured: Sequence[Measurement]) -> float | None:
    """How many times as many requests would tell of a rate what all measurements of it leave unclear.

    None where they are clear, and where a hundred times as many would not tell.
    """
    if pooled_verdict(measured) is not Verdict.UNCLEAR:
        return None
    times = [count.times_to_tell for count in pooled_counts(measured) if count.verdict is Verdict.UNCLEAR]
    return None if None in times else max(each for each in times if each is not None)


def pooled_counts(measured: Sequence[Measurement]) -> list[Count]:
    """Of each objective over all measurements of one rate, but for the spoiled ones."""
    by_text: dict[str, Count] = {}
    for each in measured:
        for count in () if each.spoiled else each.counts:
            by_text[count.text] = by_text[count.text] + count if count.text in by_text else count
    return list(by_text.values())


def next_step(search: Search, measured: Sequence[Measurement], ceiling_per_s: float | None = None) -> Trial | Finding:
    """What to measure next, or the end.

    `ceiling_per_s` is the highest rate within the quota, as far as it is known by now; None where there is none. It is
    measured itself in place of the first step above it.
    """
    rates = _by_rate(measured)
    verdicts = {rate: pooled_verdict(each) for rate, each in rates.items()}
    met, missed = _bracket(rates, verdicts)
    found = partial(
        Finding,
        met_at_per_s=met,
        missed_at_per_s=missed,
        missed_as=None if missed is None else verdicts[missed],
    )
    spoiled = next((rate for rate, verdict in verdicts.items() if verdict is Verdict.INVALID), None)
    if spoiled is not None:
        often = len(rates[spoiled]) >= MOST_SPOILED
        return found(stop=Stop.GENERATOR) if often else Trial(spoiled)
    if len(measured) >= MOST_MEASUREMENTS:
        return found(stop=Stop.BOUND)
    doubted = _doubted(rates, verdicts)
    if doubted is not None:
        return _again(rates, doubted)
    if missed is None:
        return _upward(search, rates, verdicts, ceiling_per_s) or found(stop=_top(search, ceiling_per_s))
    return _between(search, rates, met, missed) or found(stop=Stop.LOWEST if met is None else Stop.FOUND)


def _by_rate(measured: Sequence[Measurement]) -> dict[float, list[Measurement]]:
    rates: defaultdict[float, list[Measurement]] = defaultdict(list)
    for each in measured:
        rates[each.rate_per_s].append(each)
    return rates


def _bracket(
    rates: Mapping[float, Sequence[Measurement]], verdicts: Mapping[float, Verdict]
) -> tuple[float | None, float | None]:
    """The highest rate that met below the lowest that did not, and that."""
    not_met = [
        rate
        for rate, verdict in verdicts.items()
        if verdict in (Verdict.MISSED, Verdict.SATURATED)
        or (verdict is Verdict.UNCLEAR and not _may_repeat(rates[rate]))
    ]
    missed = min(not_met, default=None)
    met = [rate for rate, verdict in verdicts.items() if verdict is Verdict.MET and (missed is None or rate < missed)]
    return max(met, default=None), missed


def _doubted(rates: Mapping[float, Sequence[Measurement]], verdicts: Mapping[float, Verdict]) -> float | None:
    """A rate that the deployment did not keep up with, though it did with a higher one: a queue by chance."""
    kept_up = [rate for rate, verdict in verdicts.items() if verdict not in (Verdict.SATURATED, Verdict.INVALID)]
    saturated = [rate for rate, verdict in verdicts.items() if verdict is Verdict.SATURATED]
    return next((rate for rate in saturated if rate < max(kept_up, default=0) and _may_repeat(rates[rate])), None)


def _may_repeat(measured: Sequence[Measurement]) -> bool:
    return sum(not each.spoiled for each in measured) < MOST_TIMES


def _again(rates: Mapping[float, Sequence[Measurement]], rate: float) -> Trial:
    return Trial(rate, 2 ** sum(not each.spoiled for each in rates[rate]))


def _upward(
    search: Search,
    rates: Mapping[float, Sequence[Measurement]],
    verdicts: Mapping[float, Verdict],
    ceiling_per_s: float | None,
) -> Trial | None:
    """The next step up; first an unclear one again if it leans to a miss, or is the last. None at the top."""
    highest = max(rates, default=None)
    if highest is None:
        return Trial(search.from_per_s)
    above = next((rate for rate in search.ladder if rate > highest * (1 + SAME_RATE)), None)
    if ceiling_per_s is not None and (above is None or above > ceiling_per_s):
        above = ceiling_per_s if above is not None and ceiling_per_s > highest * (1 + search.tolerance) else None
    unclear = verdicts[highest] is Verdict.UNCLEAR
    leans = all(count.leans_to_met for count in pooled_counts(rates[highest]))
    if unclear and (above is None or not leans):
        return _again(rates, highest)
    return None if above is None else Trial(above)


def _between(
    search: Search, rates: Mapping[float, Sequence[Measurement]], met: float | None, missed: float
) -> Trial | None:
    """What is unclear below the lowest rate that did not meet, else the middle. None where nothing is left to ask."""
    unclear = [rate for rate in rates if rate < missed and (met is None or rate > met)]
    if unclear:
        return _again(rates, max(unclear))
    if met is None:
        return Trial(search.from_per_s) if search.from_per_s < missed * (1 - SAME_RATE) else None
    return Trial(math.sqrt(met * missed)) if missed > met * (1 + search.tolerance) else None


def _top(search: Search, ceiling_per_s: float | None) -> Stop:
    return Stop.QUOTA if ceiling_per_s is not None and ceiling_per_s < search.ladder[-1] else Stop.TOP
