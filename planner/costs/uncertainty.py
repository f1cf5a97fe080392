"""How sure a figure is: draws of what it rests on, and each of these alone at its low and its high end.

A world is one way in which what is uncertain may have turned out, as factors on the planned figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from statistics import NormalDist

import numpy as np

from planner.cost import HOURS_PER_MONTH
from planner.costs.demand_path import DemandPath, Floats
from planner.demand import HOUR_S, MINUTE_S, block_minutes

LOW_PERCENT, HIGH_PERCENT = 5.0, 95.0
Z_90 = NormalDist().inv_cdf(HIGH_PERCENT / 100)  # of a standard normal 90 % lie within
FEWEST_BLOCKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Worlds:
    """Factors of shape (draws,); 1 is as planned."""

    demand: Floats
    capacity: Floats
    token_price: Floats
    instance_price: Floats


AS_PLANNED = Worlds(**{name: np.ones(1) for name in ("demand", "capacity", "token_price", "instance_price")})
Figure = Callable[[Worlds], Floats]  # of each world, in its order


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Of 100 draws 90 lie within."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A figure with one thing alone moved from the low to the high end of its 90 % range."""

    name: str  # demand, capacity, token price or instance price
    low_factor: float
    high_factor: float
    at_low_usd: float
    at_high_usd: float

    @property
    def swing_usd(self) -> float:
        return abs(self.at_high_usd - self.at_low_usd)


def draw_worlds(
    path: DemandPath,
    usd_per_s: Floats,
    *,
    capacity: tuple[float, float, float] | None,
    price_range_share: float,
    draws: int,
    rng: np.random.Generator,
) -> Worlds:
    """The demand by bootstrap, the capacity log-normal through its 90 % ends, prices uniform within +- their range.

    `usd_per_s` is what the bins of the path are worth: the bootstrap is of its mean. `capacity` is low, value, high.
    Raises ValueError where these are not in order.
    """
    low, high = 1 - price_range_share, 1 + price_range_share
    return Worlds(
        demand=bootstrapped_mean(usd_per_s[: path.measured], path, draws, rng),
        capacity=np.ones(draws) if capacity is None else log_normal(capacity, draws, rng),
        token_price=rng.uniform(low, high, draws),
        instance_price=rng.uniform(low, high, draws),
    )


def log_normal(ends: tuple[float, float, float], draws: int, rng: np.random.Generator) -> Floats:
    """Factors on the value: half of them below 1, and 5 % beyond either end of the 90 % interval low, value, high."""
    low, value, high = ends
    if not 0 < low <= value <= high < math.inf:
        raise ValueError(f"a capacity of {value:g} requests/s cannot lie between {low:g} and {high:g}")
    z = rng.standard_normal(draws) / Z_90
    factors: Floats = np.exp(z * np.where(z < 0, math.log(value / low), math.log(high / value)))
    return factors


def bootstrapped_mean(worth: Floats, path: DemandPath, draws: int, rng: np.random.Generator) -> Floats:
    """A month's mean over the mean that was measured: of resampled blocks, as what was
    measured might have been another stretch, and the month itself of as many more as it has. 1 where there is nothing.

    Where a demand makes fewer than three blocks, what is known is how few arrivals were counted: then the mean is
    normal, as sure as a Poisson count of them.
    """
    mean, bins = float(worth.mean()), len(worth)
    if mean <= 0:
        return np.ones(draws)
    block = _block_bins(path)
    blocks = bins // block
    if blocks < FEWEST_BLOCKS:
        return np.maximum(1 + rng.standard_normal(draws) / math.sqrt(max(path.arrivals, 1)), 0.0)
    of_blocks = worth[: blocks * block].reshape(blocks, block).mean(axis=1)
    off = (of_blocks / of_blocks.mean() - 1) * math.sqrt(blocks / (blocks - 1))  # resampling n varies by n - 1 of them
    of_month = float(off.std()) / math.sqrt(max(1.0, HOURS_PER_MONTH * HOUR_S / (block * path.bin_s)))
    picked = rng.integers(0, blocks, (draws, blocks))
    means: Floats = 1 + off[picked].mean(axis=1) + of_month * rng.standard_normal(draws)
    return np.maximum(means, 0.0)


def _block_bins(path: DemandPath) -> int:
    minutes = block_minutes(round(path.span_s / MINUTE_S))
    return max(1, round(minutes * MINUTE_S / path.bin_s))


def range_90(values: Floats) -> Range:
    low, high = np.percentile(values, (LOW_PERCENT, HIGH_PERCENT))
    return Range(low=float(low), high=float(high))


def tornado(figure: Figure, worlds: Worlds) -> tuple[Driver, ...]:
    """Each driver alone, the one that moves the figure most first; those that move nothing are left out."""
    drivers = []
    for field in fields(Worlds):
        ends = range_90(getattr(worlds, field.name))
        moved = replace(AS_PLANNED, **{field.name: np.array([ends.low, ends.high])})
        alone = Worlds(**{each.name: np.broadcast_to(getattr(moved, each.name), 2) for each in fields(Worlds)})
        at_low_usd, at_high_usd = (float(value) for value in figure(alone))
        drivers.append(
            Driver(
                name=field.name.replace("_", " "),
                low_factor=ends.low,
                high_factor=ends.high,
                at_low_usd=at_low_usd,
                at_high_usd=at_high_usd,
            )
        )
    return tuple(sorted((each for each in drivers if each.swing_usd), key=lambda each: -each.swing_usd))
