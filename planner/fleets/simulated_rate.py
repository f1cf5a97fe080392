"""The highest rate at which one simulated instance keeps the objectives under Poisson arrivals.

A model in the mean knows nothing of the chance that more come at once than an instance has places: at a time to first
token of the 95th percentile that chance decides. So the rate is found by bisection over simulated instances
(sharing.py), all rates with the same draws: each request keeps its length, and its arrival moves with the rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from loadgen.slo import Slo
from planner.fleets.attainment import Outcomes, attainment
from planner.fleets.sharing import Floats, ServiceCurve, Work, simulate

REQUESTS = 10_000  # a simulation
ROUNDS = 10
WARMUP_SHARE = 0.05  # of the requests, while the instance fills up


def simulated_rate(
    curve: ServiceCurve,
    slos: Sequence[Slo],
    lengths: Iterable[Floats],
    *,
    most_per_s: float,
    gap_spread: float = 1.0,
    seed: int = 1,
) -> float:
    """Requests a second, `most_per_s` at most; 0 where not even a fiftieth of that keeps the objectives.

    `lengths` are prompt and completion tokens of the mix, to draw from.
    """
    rng = np.random.default_rng(seed)
    at_s = np.cumsum(rng.exponential(1.0, REQUESTS))
    place = rng.uniform(0, 1, REQUESTS)
    prompt, completion = (tokens[(place * len(tokens)).astype(np.int64)] for tokens in lengths)

    def kept(rate_per_s: float) -> bool:
        work = Work.of(at_s / rate_per_s, prompt, completion, curve.prompt_tokens, seed=seed)
        fleet = simulate(work, curve, 1)
        outcomes = Outcomes(work, fleet.served, gap_spread=gap_spread).after(round(WARMUP_SHARE * REQUESTS))
        return attainment(outcomes, slos).met

    if kept(most_per_s):
        return most_per_s
    low, high = most_per_s / 50, most_per_s
    if not kept(low):
        return 0.0
    for _ in range(ROUNDS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low
