"""Hybrid: a base of managed instances that is always busy enough to pay for itself, and serverless for the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from planner.cost import S_PER_HOUR
from planner.costs.demand_path import DemandPath, Floats

MOST_INSTANCES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadDuration:
    """The load-duration curve: rates in ascending order, and what is worth how much above each place in that order.

    Arrays have the shapes (bins,), (bins + 1,) and (bins + 1,).
    """

    rates_per_s: Floats
    worth_above: Floats  # of all that the bins from here on ask for, a second on average over the month
    worth_per_rate_above: Floats  # the same, divided by the bins' rates

    def excess(self, capacity_per_s: Floats) -> Floats:
        """What the requests beyond each capacity are worth, a second on average: exact, of any shape."""
        place = np.searchsorted(self.rates_per_s, capacity_per_s, side="right")
        beyond: Floats = self.worth_above[place] - capacity_per_s * self.worth_per_rate_above[place]
        return np.maximum(beyond, 0.0)  # rounding leaves less than nothing


def load_duration(path: DemandPath, worth_per_s: Floats) -> LoadDuration:
    """Of what each bin's requests are worth: the dollars that they cost serverless, or their number."""
    order = np.argsort(path.requests_per_s, kind="stable")
    rates, worth = path.requests_per_s[order], (path.share * worth_per_s)[order]
    per_rate = np.divide(worth, rates, out=np.zeros_like(rates), where=rates > 0)
    return LoadDuration(rates_per_s=rates, worth_above=_from_here(worth), worth_per_rate_above=_from_here(per_rate))


def _from_here(values: Floats) -> Floats:
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)


def serverless_usd_per_s(path: DemandPath, input_usd_per_1k: float, output_usd_per_1k: float) -> Floats:
    """What each bin's tokens cost where they are paid one by one."""
    return (path.prompt_tokens_per_s * input_usd_per_1k + path.completion_tokens_per_s * output_usd_per_1k) / 1_000


def worth_of_instances(curve: LoadDuration, capacity_per_s: float) -> Floats:
    """Dollars an hour of serverless tokens that the 1st, 2nd, ... instance saves: each its slice under the curve.

    Up to the one that the highest rate takes, and one more; none is worth more than the one before it.
    """
    highest = float(curve.rates_per_s[-1]) if len(curve.rates_per_s) else 0.0
    most = min(MOST_INSTANCES, math.ceil(highest / capacity_per_s) + 1)
    beyond = curve.excess(np.arange(most + 1, dtype=np.float64) * np.float64(capacity_per_s))
    return -np.diff(beyond) * S_PER_HOUR


def base_instances(worth_usd_per_hour: Floats, usd_per_hour: float) -> int:
    """Keep the k-th instance iff the tokens that it serves would cost more, serverless, than its hour does.

    Each saves no more than the one before it, so that no other number of instances costs less.
    """
    return int((worth_usd_per_hour > usd_per_hour).sum())
