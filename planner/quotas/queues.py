"""Arrivals that wait at the door of so many deployments, each behind all earlier ones of its own: for how long.

The rules are loadgen.quota's: a request goes in as soon as both limits hold what it takes, and takes from both then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from loadgen.quota import MINUTE_NS, NS_PER_S, WindowKind
from planner.quantiles import nearest_rank
from planner.quotas.asked import Whole
from planner.quotas.replay import ADMITTED, REQUESTS, TOKENS, Codes, Door

Waits = tuple[list[int], list[int]]  # when each goes in, and the limit that it waits for longest


def at_rank_s(ascending_ns: Sequence[int] | Whole, q: float) -> float | None:
    """A percentile of waits, by nearest rank; None of none."""
    return float(ascending_ns[nearest_rank(len(ascending_ns), q) - 1]) / NS_PER_S if len(ascending_ns) else None


def waits(door: Door, deployments: int) -> tuple[Whole, Codes]:
    """How long each arrival waits in ns, and for which limit; those that can never go in do not wait, and are NEVER.

    Where nobody would be refused nobody waits, so only the other deployments are replayed.
    """
    codes = door.refusals(deployments)
    delays_ns = np.zeros(len(codes), np.int64)
    short = (codes == TOKENS) | (codes == REQUESTS) | (codes == TOKENS | REQUESTS)
    queue: Callable[[Door, Sequence[int], Sequence[int]], Waits] = {
        WindowKind.BUCKET: _at_buckets,
        WindowKind.MINUTE: _at_minutes,
        WindowKind.SLIDING: _at_sliding_windows,
    }[door.quota.window]
    for turn in np.unique(np.flatnonzero(short) % deployments).tolist():
        places = np.arange(turn, len(codes), deployments)
        places = places[door.fits[places]]
        at_ns = door.at_ns[places]
        admitted_ns, limits = queue(door, at_ns.tolist(), door.tokens[places].tolist())
        delays_ns[places] = np.array(admitted_ns) - at_ns
        codes[places] = limits
    return delays_ns, codes


def _limit(at_ns: int, tokens_ns: int, requests_ns: int, before: int) -> int:
    """What a request that came at `at_ns` waits for; behind another only, for what that one waits for."""
    if max(tokens_ns, requests_ns) <= at_ns:
        return ADMITTED
    if tokens_ns == requests_ns:
        return before
    return TOKENS if tokens_ns > requests_ns else REQUESTS


def _at_buckets(door: Door, arrivals_ns: Sequence[int], costs: Sequence[int]) -> Waits:
    rate, unit, capacity = door.tokens_bucket.rate, door.tokens_bucket.unit, door.tokens_bucket.capacity
    of_requests = door.requests_bucket
    needed = min(of_requests.unit, of_requests.capacity)
    full_at = requests_full_at = now_ns = 0
    limit = ADMITTED
    admitted, limits = [], []
    for at_ns, cost in zip(arrivals_ns, costs, strict=True):
        start_ns = max(now_ns, at_ns)
        tokens_ns = max(start_ns, -((capacity - full_at - cost * unit) // rate))
        requests_ns = max(start_ns, -((of_requests.capacity - requests_full_at - needed) // of_requests.rate))
        now_ns = max(tokens_ns, requests_ns)
        full_at = max(full_at, now_ns * rate) + cost * unit
        requests_full_at = max(requests_full_at, now_ns * of_requests.rate) + of_requests.unit
        admitted.append(now_ns)
        limit = _limit(at_ns, tokens_ns, requests_ns, limit)
        limits.append(limit)
    return admitted, limits


def _at_minutes(door: Door, arrivals_ns: Sequence[int], costs: Sequence[int]) -> Waits:
    most_tokens, most_requests, slice_ns = door.quota.tokens_per_minute, door.requests_a_slice, door.slice_ns
    minute = part = used = requests = 0
    limit = ADMITTED
    now_ns = 0  # counted from where the first fixed minute began
    admitted, limits = [], []
    for arrived_ns, cost in zip(arrivals_ns, costs, strict=True):
        at_ns = arrived_ns + door.phase_ns
        now_ns = max(now_ns, at_ns)
        if now_ns // MINUTE_NS > minute:
            minute, used = now_ns // MINUTE_NS, 0
        if now_ns // slice_ns > part:
            part, requests = now_ns // slice_ns, 0
        tokens_ns = (minute + 1) * MINUTE_NS if used + cost > most_tokens else now_ns
        requests_ns = (part + 1) * slice_ns if requests + 1 > most_requests else now_ns
        now_ns = max(tokens_ns, requests_ns)
        if now_ns // MINUTE_NS > minute:
            minute, used = now_ns // MINUTE_NS, 0
        if now_ns // slice_ns > part:
            part, requests = now_ns // slice_ns, 0
        used += cost
        requests += 1
        admitted.append(now_ns - door.phase_ns)
        limit = _limit(at_ns, tokens_ns, requests_ns, limit)
        limits.append(limit)
    return admitted, limits


def _at_sliding_windows(door: Door, arrivals_ns: Sequence[int], costs: Sequence[int]) -> Waits:
    most_tokens, most_requests, slice_ns = door.quota.tokens_per_minute, door.requests_a_slice, door.slice_ns
    admitted: list[int] = []
    limits = []
    limit = ADMITTED
    now_ns = used = head = 0  # the first whose tokens still count
    for place, (at_ns, cost) in enumerate(zip(arrivals_ns, costs, strict=True)):
        now_ns = tokens_ns = requests_ns = max(now_ns, at_ns)
        while head < place and (admitted[head] <= now_ns - MINUTE_NS or used + cost > most_tokens):
            tokens_ns = max(tokens_ns, admitted[head] + MINUTE_NS)
            used -= costs[head]
            head += 1
        if place >= most_requests:
            requests_ns = max(requests_ns, admitted[place - most_requests] + slice_ns)
        now_ns = max(tokens_ns, requests_ns)
        used += cost
        admitted.append(now_ns)
        limit = _limit(at_ns, tokens_ns, requests_ns, limit)
        limits.append(limit)
    return admitted, limits
