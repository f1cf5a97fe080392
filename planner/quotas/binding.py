"""Binding: which of a quota's limits a demand comes to first, and when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.demand import MINUTE_S
from planner.quotas.replay import Door

HOUR_MINUTES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Minutes count from the first arrival. A load is how many quotas it fills, by the fuller limit."""

    tokens_nearer_share: float  # of the minutes with arrivals: the tokens are nearer their limit than the requests
    tokens_over_share: float  # of all minutes: their tokens are more than the needed deployments admit together
    requests_over_share: float
    mean_load: float
    busiest_minute_s: float  # since the first arrival
    busiest_minute_load: float
    busiest_hour_s: float | None  # None: the demand is shorter than two hours
    busiest_hour_load: float | None  # mean of its minutes


def binding(door: Door, deployments: int) -> Binding:
    """Of a demand that has arrivals, at the number of deployments that it needs."""
    tokens, requests = door.loads
    load = np.maximum(tokens, requests)
    busy = load > 0
    hour, hour_load = None, None
    if len(load) >= 2 * HOUR_MINUTES:
        until = np.concatenate(([0.0], np.cumsum(load)))
        means = (until[HOUR_MINUTES:] - until[:-HOUR_MINUTES]) / HOUR_MINUTES
        hour, hour_load = int(means.argmax()) * MINUTE_S, float(means.max())
    return Binding(
        tokens_nearer_share=float((tokens >= requests)[busy].mean()) if busy.any() else 1.0,
        tokens_over_share=float((tokens > deployments).mean()),
        requests_over_share=float((requests > deployments).mean()),
        mean_load=float(load.mean()),
        busiest_minute_s=int(load.argmax()) * MINUTE_S,
        busiest_minute_load=float(load.max()),
        busiest_hour_s=hour,
        busiest_hour_load=hour_load,
    )
