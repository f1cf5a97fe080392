"""What a quota would do to a demand: replayed through the rules that the simulator enforces and the client keeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal, SupportsIndex

import numpy as np
import polars as pl

from loadgen.errors import ConfigError
from loadgen.quota import NS_PER_S, Admission, Quota, WindowKind
from planner.demand import MINUTE_S, Demand, admission_tokens
from planner.plan import QuotaUse, Traffic, WhatIf
from planner.quotas.asked import Flags, Whole
from planner.quotas.doors import door_of, enforced, frame_of, numbers_of, window_name, windows
from planner.quotas.parts import Part
from planner.quotas.queues import at_rank_s, waits
from planner.quotas.replay import NEVER, REQUESTS, TOKENS, Codes, Door
from planner.quotas.search import smallest

REFUSED_SHARE = 0.01  # of the requests: a number of deployments that refuses at most this much is enough
MOST_ROWS = 12  # numbers of deployments that are tried
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
Mode = Literal["reject", "queue"]


def what_if(
    arrivals: pl.DataFrame | pl.LazyFrame,
    quota: Quota,
    deployments: SupportsIndex | Iterable[SupportsIndex],
    *,
    admission: Admission | str | None = None,
    window: WindowKind | str | None = None,
    mode: Mode = "reject",
) -> pl.DataFrame:
    """What would become of the arrivals, dealt in turn to so many deployments with the whole quota each.

    `arrivals` has at_s (seconds, never falling), prompt_tokens, completion_tokens and max_tokens, of which only those
    that the admission counts must be there; a missing max_tokens is a null, and counts as loadgen.quota says.
    `admission` and `window` are the quota's own unless given; a window is a WindowKind or one of the names of
    `windows`, such as "bucket 10 s".

    `reject`: a request that does not fit when it comes is refused, and not tried again. `queue`: it waits behind all
    earlier ones of its deployment. A fixed minute counts from the first arrival; buckets start full; a request takes
    its tokens and its one request together, or neither; nothing is given back after the answer.

    One row for each number of deployments: `deployments`, `window`, `admission`, `mode`; `requests` and `tokens`, those
    that can fit at all, and `never_fit`, the requests that cannot; `refused_requests` and `refused_tokens` with their
    `_share` of those; `short_of_tokens` and `short_of_requests`, the requests refused or delayed by each limit (by both
    at once in both); `delayed_requests`, and of all that were admitted `delay_p50_s`, `delay_p95_s`, `delay_p99_s` and
    `delay_max_s`, by nearest rank, null where none was; `binds`, the limit that more are short of, null without any.

    Raises ConfigError for a column or an argument that cannot be used, naming it.
    """
    door = door_of(arrivals, enforced(quota, admission, window))
    name = window_name(door.quota)
    rows = [_summary(door, number, name, mode) for number in numbers_of(deployments)]
    return pl.DataFrame(rows, schema=_SUMMARY)


def replayed(
    arrivals: pl.DataFrame | pl.LazyFrame,
    quota: Quota,
    deployments: SupportsIndex,
    *,
    admission: Admission | str | None = None,
    window: WindowKind | str | None = None,
    mode: Mode = "reject",
) -> pl.DataFrame:
    """What would become of each arrival: the rows behind `what_if`, whose arguments these are.

    One row for each arrival, in their order: `seq` from 0, `at_s`, `deployment` from 0, `tokens` as the quota counts
    them, `fits` (whether it could be admitted ever), `admitted`, `delay_s` (null where it was not) and `short_of`
    ("tokens", "requests" or "both": what it was refused or delayed by; null where it was neither).
    """
    arrivals = frame_of(arrivals)
    door = door_of(arrivals, enforced(quota, admission, window))
    (number,) = numbers_of(deployments)
    delays_ns, codes, admitted = _outcomes(door, number, mode)
    short = pl.Series(codes).replace_strict(
        {TOKENS: "tokens", REQUESTS: "requests", TOKENS | REQUESTS: "both"}, default=None, return_dtype=pl.String
    )
    seq = np.arange(len(codes))
    return pl.DataFrame(
        {
            "seq": seq,
            "at_s": arrivals["at_s"].cast(pl.Float64),
            "deployment": seq % number,
            "tokens": door.tokens,
            "fits": door.fits,
            "admitted": admitted,
            "delay_s": delays_ns / NS_PER_S,
            "short_of": short,
        }
    ).with_columns(delay_s=pl.when("admitted").then("delay_s"))


_SUMMARY = {
    **dict.fromkeys(("deployments",), pl.Int64),
    **dict.fromkeys(("window", "admission", "mode"), pl.String),
    **dict.fromkeys(("requests", "tokens", "never_fit", "refused_requests"), pl.Int64),
    **{"refused_requests_share": pl.Float64, "refused_tokens": pl.Int64, "refused_tokens_share": pl.Float64},
    **dict.fromkeys(("short_of_tokens", "short_of_requests", "delayed_requests"), pl.Int64),
    **dict.fromkeys((f"delay_{name}_s" for name in QUANTILES), pl.Float64),
    "binds": pl.String,
}


def _outcomes(door: Door, deployments: int, mode: Mode) -> tuple[Whole, Codes, Flags]:
    """Of each arrival the delay, what it was short of, and whether it was admitted."""
    if mode == "queue":
        delays_ns, codes = waits(door, deployments)
        return delays_ns, codes, codes != NEVER
    if mode == "reject":
        codes = door.refusals(deployments)
        return np.zeros(len(codes), np.int64), codes, codes == 0
    raise ConfigError(f"mode must be 'reject' or 'queue', not {mode!r}")


def _summary(door: Door, deployments: int, window: str, mode: Mode) -> dict[str, Any]:
    delays_ns, codes, admitted = _outcomes(door, deployments, mode)
    delays_ns = np.sort(delays_ns[admitted])
    refused = door.fits & ~admitted
    requests, tokens = int(door.fits.sum()), int(door.counted_tokens.sum())
    refused_requests, refused_tokens = int(refused.sum()), int(door.counted_tokens[refused].sum())
    of_tokens, of_requests = (int(((codes & limit) != 0).sum()) for limit in (TOKENS, REQUESTS))
    return {
        "deployments": deployments,
        "window": window,
        "admission": door.quota.admission.value,
        "mode": mode,
        "requests": requests,
        "tokens": tokens,
        "never_fit": len(codes) - requests,
        "refused_requests": refused_requests,
        "refused_requests_share": refused_requests / requests if requests else 0.0,
        "refused_tokens": refused_tokens,
        "refused_tokens_share": refused_tokens / tokens if tokens else 0.0,
        "short_of_tokens": of_tokens,
        "short_of_requests": of_requests,
        "delayed_requests": int((delays_ns > 0).sum()),
        **{f"delay_{name}_s": at_rank_s(delays_ns, q) for name, q in QUANTILES.items()},
        "binds": ("tokens" if of_tokens >= of_requests else "requests") if of_tokens or of_requests else None,
    }


# --- the table of a plan ---


def what_if_table(demand: Demand, quota: Quota, target_share: float = REFUSED_SHARE) -> tuple[WhatIf, ...]:
    """For 1, 2, ... deployments and each way of enforcing, until every way refuses at most that share of the requests.

    Where the demand fills many deployments on average, the table starts near that number. Where MOST_ROWS numbers in
    turn are not enough, the last two are those between which the answer lies. Of many arrivals, those of some of the
    deployments are replayed. Empty for a demand that has no arrivals, or no duration.
    """
    if demand.arrivals.is_empty() or demand.span_s <= 0:
        return ()
    asked = door_of(demand.arrivals, quota).asked  # the same whatever the window
    doors = {name: Door(asked, way) for name, way in windows(quota).items()}
    filled = math.ceil(_mean_load(demand, quota))
    first = 1 if filled <= MOST_ROWS // 2 else filled - 1
    rows: list[list[WhatIf]] = []
    for number in range(first, first + MOST_ROWS):
        rows.append([_row(door, name, number) for name, door in doors.items()])
        if all(row.rejected_requests_share <= target_share for row in rows[-1]):
            return tuple(itertools.chain(*rows))

    def is_enough(number: int) -> bool:
        return all(Part.of(door, number).is_enough(target_share) for door in doors.values())

    enough = smallest(is_enough, first + MOST_ROWS, demand.arrivals.height)
    rows[-2:] = [[_row(door, name, number) for name, door in doors.items()] for number in (enough - 1, enough)]
    return tuple(itertools.chain(*rows))


def _mean_load(demand: Demand, quota: Quota) -> float:
    """The deployments' quota that the demand takes up on average, by the limit that it fills more."""
    minutes = demand.span_s / MINUTE_S
    tokens: int = demand.arrivals.select(admission_tokens(quota.admission).sum()).item()
    return max(tokens / quota.tokens_per_minute, demand.arrivals.height / quota.requests_per_minute) / minutes


def _row(door: Door, window: str, deployments: int) -> WhatIf:
    part = Part.of_deployments(door, deployments)
    refusing, queueing = (_summary(part.door, part.deployments, window, mode) for mode in ("reject", "queue"))
    return WhatIf(
        deployments=deployments,
        window=window,
        admission=door.quota.admission.value,
        rejected_requests_share=refusing["refused_requests_share"],
        rejected_tokens_share=refusing["refused_tokens_share"],
        delay_p50_s=queueing["delay_p50_s"],
        delay_p99_s=queueing["delay_p99_s"],
        never_fit=int((~door.fits).sum()),
    )


def deployments_needed(table: tuple[WhatIf, ...], target_share: float = REFUSED_SHARE) -> int | None:
    """The smallest number that refuses at most that share of the requests, however the quota is enforced.

    None where the table holds no such number.
    """
    refused = {row.deployments: 0.0 for row in table}
    for row in table:
        refused[row.deployments] = max(refused[row.deployments], row.rejected_requests_share)
    return min((number for number, share in refused.items() if share <= target_share), default=None)


def quota_use(traffic: Traffic, quota: Quota, throttled_share: float, mean_wait_ms: float | None) -> QuotaUse | None:
    """How much of one deployment's quota the measured load takes in its busiest minute. None without load."""
    tokens_share = traffic.peak_tokens_per_minute / quota.tokens_per_minute
    requests_share = traffic.peak_requests_per_minute / quota.requests_per_minute
    fullest = max(tokens_share, requests_share)
    if fullest == 0:
        return None
    return QuotaUse(
        tokens_per_minute=quota.tokens_per_minute,
        requests_per_minute=quota.requests_per_minute,
        tokens_share=tokens_share,
        requests_share=requests_share,
        binds="tokens" if tokens_share >= requests_share else "requests",
        headroom=1 / fullest,
        throttled_share=throttled_share,
        mean_throttle_wait_ms=mean_wait_ms,
    )
