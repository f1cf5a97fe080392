"""Hybrid: a base of managed instances that is always busy enough to pay for itself, and serverless for the rest."""

from __future__ import annotations

import math

import numpy as np

from planner.cost import S_PER_HOUR
from planner.demand_path import DemandPath, Floats

MOST_INSTANCES = 10_000


def serverless_usd_per_s(path: DemandPath, input_usd_per_1k: float, output_usd_per_1k: float) -> Floats:
    """What each bin's tokens cost where they are paid one by one."""
    return (path.prompt_tokens_per_s * input_usd_per_1k + path.completion_tokens_per_s * output_usd_per_1k) / 1_000


def beyond(path: DemandPath, capacity_per_s: float) -> Floats:
    """Of each bin's requests, the share beyond what is served at that rate."""
    rates = path.requests_per_s
    excess: Floats = np.divide(
        np.maximum(rates - capacity_per_s, 0.0), rates, out=np.zeros_like(rates), where=rates > 0
    )
    return excess


def excess_usd_per_hour(path: DemandPath, usd_per_s: Floats, capacity_per_s: float) -> float:
    """What serverless costs, on average over the month, for the requests beyond that rate."""
    return float(path.share @ (usd_per_s * beyond(path, capacity_per_s))) * S_PER_HOUR


def worth_of_instance(path: DemandPath, usd_per_s: Floats, capacity_per_s: float, instance: int) -> float:
    """Dollars an hour of serverless tokens that the k-th instance saves: on the load-duration curve, its slice."""
    below, with_it = ((instance - 1) * capacity_per_s, instance * capacity_per_s)
    return excess_usd_per_hour(path, usd_per_s, below) - excess_usd_per_hour(path, usd_per_s, with_it)


def base_instances(path: DemandPath, usd_per_s: Floats, capacity_per_s: float, usd_per_hour: float) -> int:
    """Keep the k-th instance iff the tokens that it serves would cost more, serverless, than its hour does.

    Each instance saves no more than the one before it, so the first that does not pay is the end: no other number of
    instances costs less.
    """
    most = min(MOST_INSTANCES, math.ceil(float(path.requests_per_s.max(initial=0.0)) / capacity_per_s))
    for instance in range(1, most + 1):
        if worth_of_instance(path, usd_per_s, capacity_per_s, instance) <= usd_per_hour:
            return instance - 1
    return most
