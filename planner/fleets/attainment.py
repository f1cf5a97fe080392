"""Whether simulated requests kept the objectives: all together, and minute by minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadgen.slo import Slo
from planner.demand import MINUTE_S
from planner.fleets.sharing import Floats, Served, Work
from planner.quantiles import nearest_rank

SURE = 1e-9  # against the last digit of shares
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveKept:
    """One objective over simulated requests."""

    text: str
    share_within: float  # of the requests that have the metric, those whose own value keeps the limit
    measured_ms: float | None  # the statistic that the objective names; None where too many failed to have one
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Attainment:
    """Of simulated requests; one that was refused keeps no limit."""

    objectives: tuple[ObjectiveKept, ...]
    met: bool  # every objective
    good_share: float  # of the requests, those within every limit
    minutes: int  # in which requests arrived
    minutes_missed: int  # of these, those whose own requests miss an objective


class Outcomes:
    """The latencies of each request, in seconds: infinite where it was refused, NaN where it has no such metric.

    A simulated request has one mean gap, where a real one has many that differ. So any statistic of `itl` is judged by
    the mean over all gaps, times `gap_spread`: the measured statistic over the measured mean.
    """

    def __init__(self, work: Work, served: Served, *, gap_spread: float = 1.0) -> None:
        self.at_s = np.asarray(work.at_s)
        first_s, done_s = np.asarray(served.first_s), np.asarray(served.done_s)
        self.gaps = gaps = np.asarray(work.gaps)
        self.refused: Bools = np.isnan(done_s)
        done_s = np.maximum(done_s, first_s)
        with np.errstate(invalid="ignore", divide="ignore"):
            gap_s = np.where(gaps > 0, (done_s - first_s) / gaps, np.nan)
        self._values: dict[str, Floats] = {
            "ttft": first_s - self.at_s,
            "tpot": gap_s,
            "itl": gap_s * gap_spread,
            "service_time": done_s - self.at_s,
        }
        for name in ("ttft", "service_time"):
            self._values[name][self.refused] = np.inf
        for name in ("tpot", "itl"):
            self._values[name][self.refused & (gaps > 0)] = np.inf

    def after(self, rows: int) -> Outcomes:
        """Without the first so many requests."""
        rest = object.__new__(Outcomes)
        rest.at_s, rest.refused, rest.gaps = self.at_s[rows:], self.refused[rows:], self.gaps[rows:]
        rest._values = {name: values_s[rows:] for name, values_s in self._values.items()}
        return rest

    def values_s(self, metric: str) -> Floats:
        """The first byte comes with the first token, and nothing is sent late."""
        same = {"ttft_from_due": "ttft", "ttfb": "ttft", "response_time": "service_time"}
        values_s: Floats = self._values[same.get(metric, metric)]
        return values_s


def attainment(outcomes: Outcomes, slos: Sequence[Slo]) -> Attainment:
    """Of all requests, and of those that arrived in each minute."""
    kept, within = [], np.ones(len(outcomes.at_s), dtype=bool)
    present, row_of = np.unique((outcomes.at_s // MINUTE_S).astype(np.int64), return_inverse=True)
    missed = np.zeros(len(present), dtype=bool)
    for slo in slos:
        values_s = outcomes.values_s(slo.metric)
        has = ~np.isnan(values_s)
        weights = outcomes.gaps[has] if slo.metric == "itl" else np.ones(int(has.sum()))
        within &= _within(slo, values_s) | ~has
        kept.append(_kept(slo, values_s[has], weights))
        missed |= _missed_minutes(slo, values_s[has], weights, row_of[has], len(present))
    return Attainment(
        objectives=tuple(kept),
        met=all(each.met for each in kept),
        good_share=float(within.mean()) if len(within) else 1.0,
        minutes=len(present),
        minutes_missed=int(missed.sum()),
    )


def _kept(slo: Slo, values_s: Floats, weights: Floats) -> ObjectiveKept:
    n = len(values_s)
    if not n:
        return ObjectiveKept(text=slo.text, share_within=1.0, measured_ms=None, met=True)
    if _by_mean(slo):
        measured_s = float(np.average(values_s, weights=weights))
    elif slo.quantile is None:
        measured_s = float(values_s.max())
    else:
        rank = nearest_rank(n, slo.quantile)
        measured_s = float(np.partition(values_s, rank - 1)[rank - 1])
    return ObjectiveKept(
        text=slo.text,
        share_within=float(_within(slo, values_s).mean()),
        measured_ms=measured_s * 1e3 if np.isfinite(measured_s) else None,
        met=bool(_within(slo, np.asarray([measured_s]))[0]),
    )


def _missed_minutes(slo: Slo, values_s: Floats, weights: Floats, row_of: NDArray[np.int64], minutes: int) -> Bools:
    """A percentile is missed where more of the minute's requests than it allows are beyond; a mean by the mean."""
    if _by_mean(slo):
        sums = np.bincount(row_of, weights=values_s * weights, minlength=minutes)
        counts = np.bincount(row_of, weights=weights, minlength=minutes)
        return ~_within(slo, sums / np.maximum(counts, SURE))
    beyond = np.bincount(row_of[~_within(slo, values_s)], minlength=minutes)
    allowed = 0.0 if slo.quantile is None else 1 - slo.quantile
    missed: Bools = beyond > allowed * np.bincount(row_of, minlength=minutes) + SURE
    return missed


def _by_mean(slo: Slo) -> bool:
    return slo.statistic == "mean" or slo.metric == "itl"


def _within(slo: Slo, values_s: Floats) -> Bools:
    within: Bools = slo.keeps(values_s * 1e9)
    return within
