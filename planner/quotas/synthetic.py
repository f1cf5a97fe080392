"""A demand that nobody recorded: a rate, and distributions of the lengths."""

from __future__ import annotations

from random import Random
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from loadgen.errors import ConfigError
from loadgen.lengths import Lengths
from loadgen.schedule import instants_s
from loadgen.shapes import constant
from planner.demand import Demand
from planner.traffic import CUT_SHARE

MOST_REQUESTS = 5_000_000


def synthetic_demand(
    rate_per_s: float,
    prompt: Lengths,
    completion: Lengths,
    max_tokens: int,
    *,
    duration_s: float = 3_600.0,
    arrivals: Literal["constant", "poisson", "gamma"] = "poisson",
    seed: int = 1,
) -> Demand:
    """So many requests a second, with lengths drawn for each; an answer ends at `max_tokens`.

    `poisson` and `constant` arrivals vary less from minute to minute than any traffic that was ever recorded; `gamma`
    comes in bursts within seconds. A demand that was drawn says nothing of how the real one varies. Raises ConfigError
    for figures that make no demand.
    """
    if not (rate_per_s > 0 and duration_s > 0 and max_tokens >= 1):
        raise ConfigError(f"no demand: {rate_per_s:g} requests/s for {duration_s:g} s with max_tokens {max_tokens}")
    if rate_per_s * duration_s > MOST_REQUESTS:
        raise ConfigError(
            f"{rate_per_s:g} requests/s for {duration_s:g} s are more than {MOST_REQUESTS:,} requests; take less time"
        )
    at_s = np.fromiter(instants_s(arrivals, constant(rate_per_s, duration_s), Random(f"{seed}/arrivals")), np.float64)
    prompts = _drawn(prompt, len(at_s), Random(f"{seed}/prompt"))
    completions = _drawn(completion, len(at_s), Random(f"{seed}/completion"))
    frame = pl.DataFrame(
        {
            "at_s": at_s,
            "prompt_tokens": prompts,
            "max_tokens": np.full(len(at_s), max_tokens, np.int64),
            "completion_tokens": np.minimum(completions, max_tokens),
        }
    )
    return Demand(frame, duration_s, f"{rate_per_s:g} {arrivals} requests/s with drawn lengths")


def doubts_of(demand: Demand, max_tokens: int, *, given: bool) -> tuple[str, ...]:
    """What the limit does to a demand that was drawn; `given`: somebody chose it."""
    reached = float(np.mean(demand.arrivals["completion_tokens"].to_numpy() == max_tokens))
    if given and reached <= CUT_SHARE:
        return ()
    taken = f"max_tokens {'is' if given else 'is taken to be'} {max_tokens:,} in each request"
    ended = f", and {reached:.0%} of the answers end there" if reached > CUT_SHARE else ""
    return (f"{taken}{ended}{'' if given else ': give --max-tokens, which a quota may count'}",)


def _drawn(lengths: Lengths, count: int, random: Random) -> npt.NDArray[np.int64]:
    return np.fromiter((lengths.draw(random) for _ in range(count)), np.int64, count)
