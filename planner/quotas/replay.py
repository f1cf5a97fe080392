"""Arrivals at the door of so many deployments, replayed exactly: who is refused there, and by which limit.

The rules are loadgen.quota's, on integers. Most requests need no replay one by one: whoever would be admitted if nobody
had been refused is admitted, for a refusal only leaves more. So what fits even then is found for all arrivals at once,
and only the others, which near the number of deployments that is enough are few, are looked at in turn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from loadgen.quota import MINUTE_NS, NS_PER_S, Quota, WindowKind
from planner.quotas.asked import Asked, Counts, Fitting, Flags, Whole

ADMITTED, TOKENS, REQUESTS, NEVER = 0, 1, 2, 4  # what refused a request, both: TOKENS | REQUESTS; NEVER: too large
EXACT = 1 << 62  # sums up to here are whole numbers of a vector

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Bucket:
    """`rate` units come back each ns, an amount takes `unit` of them for each, and `capacity` is the most there is.

    The units are as large as they can be with every refill a whole number. A bucket is kept by the instant, in units,
    at which it is full again: the generic cell rate algorithm of ITU-T I.371.
    """

    rate: int
    unit: int
    capacity: int

    @classmethod
    def refilling(cls, per_minute: int, burst_ns: int) -> Bucket:
        common = math.gcd(per_minute, MINUTE_NS)
        return cls(per_minute // common, MINUTE_NS // common, per_minute // common * burst_ns)

    @property
    def largest(self) -> int:
        return self.capacity // self.unit


@dataclass(slots=True)
class Full:
    """When the buckets of each deployment are full again, in units of theirs; before now: they are."""

    tokens: list[int]
    requests: list[int]

    def pass_by(self, units: int, units_of_requests: int) -> None:
        self.tokens = [max(0, each - units) for each in self.tokens]
        self.requests = [max(0, each - units_of_requests) for each in self.requests]


@dataclass(frozen=True)
class Door:
    """Arrivals that deployments with one quota let in or not, whatever the number to which they are dealt in turn.

    A fixed minute began `phase_ns` before the first arrival.
    """

    asked: Asked
    quota: Quota
    phase_ns: int = 0

    @property
    def at_ns(self) -> Whole:
        return self.asked.at_ns

    @property
    def tokens(self) -> Whole:
        return self.asked.tokens

    @property
    def is_bucket(self) -> bool:
        return self.quota.window is WindowKind.BUCKET

    @cached_property
    def slice_ns(self) -> int:
        return self.quota.request_slice_s * NS_PER_S

    @cached_property
    def requests_a_slice(self) -> int:
        return self.quota.requests_per_minute * self.quota.request_slice_s // 60

    @cached_property
    def tokens_bucket(self) -> Bucket:
        return Bucket.refilling(self.quota.tokens_per_minute, round(self.quota.burst_s * NS_PER_S))

    @cached_property
    def requests_bucket(self) -> Bucket:
        burst_ns = min(round(self.quota.burst_s * NS_PER_S), self.slice_ns)
        return Bucket.refilling(self.quota.requests_per_minute, burst_ns)

    @cached_property
    def fitting(self) -> Fitting:
        largest = self.tokens_bucket.largest if self.is_bucket else self.quota.tokens_per_minute
        return self.asked.up_to(largest)

    @property
    def fits(self) -> Flags:
        """Which requests are small enough to be admitted ever."""
        return self.fitting.fits

    @property
    def counted_tokens(self) -> Whole:
        return self.fitting.tokens

    @cached_property
    def loads(self) -> tuple[Counts, Counts]:
        """How many deployments' quota each minute's tokens fill, and its requests; minutes from the first arrival."""
        tokens = self.fitting.tokens_by_minute / self.quota.tokens_per_minute
        return tokens, self.fitting.requests_by_minute / self.quota.requests_per_minute

    @property
    def is_never_full(self) -> bool:
        """No second asks for more than a second's worth of one deployment: then no window ever does, nor any bucket."""
        tokens, requests = self.asked.busiest_second
        a_second = self.quota.tokens_per_minute // 60, self.quota.requests_per_minute // 60
        return tokens <= a_second[0] and requests <= a_second[1] and self.quota.burst_s >= 1

    def least_refused(self, deployments: int) -> int:
        """Of those that fit, at least so many are refused: what is beyond all that the windows can hold.

        Fewest are where they are the largest. Far below the number that is enough this says so without a replay.
        """
        if not len(self.at_ns):
            return 0
        quota, together = self.quota, self.fitting.largest_together
        most_tokens = deployments * quota.tokens_per_minute * self._windows(MINUTE_NS, quota.burst_s * NS_PER_S)
        a_slice = quota.requests_per_minute * quota.request_slice_s / 60
        burst_ns = min(quota.burst_s * NS_PER_S, self.slice_ns)
        most_requests = deployments * (a_slice * self._windows(self.slice_ns, burst_ns) + 1)
        over = float(together[-1]) - most_tokens
        of_tokens = int(np.searchsorted(together, over)) + 1 if over > 0 else 0
        return max(0, of_tokens, math.ceil(int(self.fits.sum()) - most_requests))

    def _windows(self, period_ns: int, burst_ns: float) -> float:
        """How many windows' worth there can be, from the first arrival to the last; a bucket begins full."""
        first_ns, last_ns = int(self.at_ns[0]), int(self.at_ns[-1])
        if self.is_bucket:
            return (last_ns - first_ns + burst_ns) / period_ns
        before_ns = self.phase_ns if self.quota.window is WindowKind.MINUTE else -first_ns
        return (last_ns + before_ns) // period_ns - (first_ns + before_ns) // period_ns + 1

    def refusals(self, deployments: int) -> Codes:
        """What refused each arrival; a refused one takes nothing, and is not tried again."""
        (codes,) = self.refusals_in(deployments, (self.phase_ns,))
        return codes

    def refusals_in(self, deployments: int, phases_ns: Sequence[int]) -> Iterator[Codes]:
        """The same for each phase of the fixed minute; where there is no such minute, all are alike."""
        if not self.is_bucket and len(self.at_ns):
            yield from _refusals_at_windows(self, deployments, phases_ns)
            return
        (codes,) = self.refusals_again(deployments, 1, 0)
        yield from itertools.repeat(codes, len(phases_ns))

    def refusals_again(self, deployments: int, times: int, span_ns: int) -> Iterator[Codes]:
        """At buckets, the same for each time that the arrivals come, `span_ns` after the last one.

        What is left in the buckets is there the next time: they are full at the first alone.
        """
        full_at = Full([0] * deployments, [0] * deployments)
        for _ in range(times):
            codes = np.zeros(len(self.at_ns), np.uint8)
            if len(codes):
                _refuse_at_buckets(self, deployments, full_at, codes)
                codes[~self.fits] = NEVER
            full_at.pass_by(span_ns * self.tokens_bucket.rate, span_ns * self.requests_bucket.rate)
            yield codes


def dealt(amounts: Whole, deployments: int) -> Whole:
    """One row for each round of the deal, one column for each deployment; zeros where the last round is not full."""
    rounds = -(-len(amounts) // deployments)
    table = np.zeros(rounds * deployments, np.int64)
    table[: len(amounts)] = amounts
    return table.reshape(rounds, deployments)


# --- fixed and sliding windows ---


def _refusals_at_windows(door: Door, deployments: int, phases_ns: Sequence[int]) -> Iterator[Codes]:
    """Only who is late in the sliding window may be so in a fixed one of any phase, which lies within it."""
    taken = _Taken.by(door, deployments)
    everyone = np.arange(len(door.at_ns))
    sliding = door.quota.window is WindowKind.SLIDING
    if len(phases_ns) == 1 and not sliding:
        firsts = (_first_of_runs(door.at_ns, phases_ns[0], period) for period in taken.periods_ns)
        yield taken.refused(everyone, *firsts)
        return
    since, since_of_requests = (_first_within(door.at_ns, period) for period in taken.periods_ns)
    if sliding:
        yield from itertools.repeat(taken.refused(everyone, since, since_of_requests), len(phases_ns))
        return
    suspects = everyone[taken.is_late(everyone, since, since_of_requests)]
    at_ns = door.at_ns[suspects]
    for phase_ns in phases_ns:
        starts_ns = (at_ns - (at_ns + phase_ns) % period for period in taken.periods_ns)
        yield taken.refused(suspects, *(np.searchsorted(door.at_ns, start_ns) for start_ns in starts_ns))


def _first_within(at_ns: Whole, period_ns: int) -> Whole:
    """For each arrival the first that counts with it in a sliding window."""
    return np.searchsorted(at_ns, at_ns - period_ns, side="right")


def _first_of_runs(at_ns: Whole, phase_ns: int, period_ns: int) -> Whole:
    """For each arrival the first in its fixed window."""
    window = (at_ns + phase_ns) // period_ns
    starts = np.flatnonzero(np.diff(window, prepend=-1))
    return np.repeat(starts, np.diff(starts, append=len(at_ns)))


@dataclass(frozen=True, eq=False)
class _Taken:
    """What each deployment would have let in up to each of its arrivals, had nobody been refused."""

    door: Door
    deployments: int
    tokens: Whole  # shape (arrivals + 2 x deployments,) at most: by round of the deal, the first of zeros
    requests: Whole

    @classmethod
    def by(cls, door: Door, deployments: int) -> _Taken:
        sums = (_until(each, deployments) for each in (door.counted_tokens, door.fits.astype(np.int64)))
        return cls(door, deployments, *sums)

    @property
    def periods_ns(self) -> tuple[int, int]:
        return MINUTE_NS, self.door.slice_ns

    def _with_earlier(self, until: Whole, places: Whole, since: Whole) -> Whole:
        """With each arrival what came to its deployment since the first that counts with it."""
        turn = places % self.deployments
        first = (since - turn + self.deployments - 1) // self.deployments * self.deployments + turn
        return np.asarray(until[places + self.deployments] - until[first])

    def is_late(self, places: Whole, since: Whole, since_of_requests: Whole) -> Flags:
        over = self._with_earlier(self.tokens, places, since) > self.door.quota.tokens_per_minute
        over |= self._with_earlier(self.requests, places, since_of_requests) > self.door.requests_a_slice
        return np.asarray(over & self.door.fits[places])

    def refused(self, places: Whole, since: Whole, since_of_requests: Whole) -> Codes:
        """Of these places alone anyone may be refused."""
        codes = np.zeros(len(self.door.at_ns), np.uint8)
        late = np.flatnonzero(self.is_late(places, since, since_of_requests))
        late = late[np.argsort(places[late] % self.deployments, kind="stable")]
        places, since, since_of_requests = places[late], since[late], since_of_requests[late]
        tokens = self._with_earlier(self.tokens, places, since)
        requests = self._with_earlier(self.requests, places, since_of_requests)
        turns, costs = places % self.deployments, self.door.tokens[places]
        counts = (turns, places, since, since_of_requests, tokens, requests, costs)
        each = zip(*(count.tolist() for count in counts), strict=True)
        codes[places] = list(_refused_in_turn(each, self.door.quota.tokens_per_minute, self.door.requests_a_slice))
        codes[~self.door.fits] = NEVER
        return codes


def _until(amounts: Whole, deployments: int) -> Whole:
    until = np.zeros(((-(-len(amounts) // deployments)) + 1) * deployments, np.int64)
    until[deployments:] = np.cumsum(dealt(amounts, deployments), axis=0).ravel()
    return until


def _refused_in_turn(
    late: Iterator[tuple[int, int, int, int, int, int, int]], most_tokens: int, most_requests: int
) -> Iterator[int]:
    """Take from what came in a window what was refused of it."""
    at_turn = -1
    refused: list[int] = []
    costs: list[int] = []
    head = head_of_requests = cost_sum = 0
    for turn, place, since, since_of_requests, tokens, requests, cost in late:
        if turn != at_turn:
            at_turn, head, head_of_requests, cost_sum = turn, 0, 0, 0
            refused, costs = [], []
        while head < len(refused) and refused[head] < since:
            cost_sum -= costs[head]
            head += 1
        while head_of_requests < len(refused) and refused[head_of_requests] < since_of_requests:
            head_of_requests += 1
        code = TOKENS if tokens - cost_sum > most_tokens else ADMITTED
        if requests - (len(refused) - head_of_requests) > most_requests:
            code |= REQUESTS
        if code:
            refused.append(place)
            costs.append(cost)
            cost_sum += cost
        yield code


# --- buckets ---


def _refuse_at_buckets(door: Door, deployments: int, full_at: Full, codes: Codes) -> None:
    """From where the buckets are full again at those instants; they are left where the last arrival puts them."""
    if not _is_exact(door):
        for turn in range(deployments):
            _refuse_stretch(door, np.arange(turn, len(codes), deployments), turn, full_at, codes)
        return
    of_tokens, of_requests = door.tokens_bucket, door.requests_bucket
    taken, taken_requests = door.counted_tokens * of_tokens.unit, door.fits * of_requests.unit
    before_tokens = _full_again(door.at_ns * of_tokens.rate, taken, full_at.tokens)
    before_requests = _full_again(door.at_ns * of_requests.rate, taken_requests, full_at.requests)
    for last in range(max(0, len(codes) - deployments), len(codes)):
        full_at.tokens[last % deployments] = int(before_tokens[last] + taken[last])
        full_at.requests[last % deployments] = int(before_requests[last] + taken_requests[last])
    owed = before_tokens - door.at_ns * of_tokens.rate
    owed_requests = before_requests - door.at_ns * of_requests.rate
    over = owed + taken > of_tokens.capacity
    over |= owed_requests + min(of_requests.unit, of_requests.capacity) > of_requests.capacity
    over &= door.fits
    full = (owed == 0) & (owed_requests == 0)
    for turn in np.unique(np.flatnonzero(over) % deployments).tolist():
        places = np.arange(turn, len(codes), deployments)
        left = full_at.tokens[turn], full_at.requests[turn]
        for first, end in _stretches(np.flatnonzero(over[places]), np.flatnonzero(full[places]), len(places)):
            start = places[first]
            full_at.tokens[turn], full_at.requests[turn] = int(before_tokens[start]), int(before_requests[start])
            _refuse_stretch(door, places[first:end], turn, full_at, codes)
        if end < len(places):  # full in between, so that nothing is left of what was refused
            full_at.tokens[turn], full_at.requests[turn] = left


def _is_exact(door: Door) -> bool:
    last_ns = int(door.at_ns[-1])
    spent = (int(door.counted_tokens.sum()), door.tokens_bucket), (len(door.at_ns), door.requests_bucket)
    return all(last_ns * each.rate + amount * each.unit + each.capacity < EXACT for amount, each in spent)


def _full_again(now: Whole, taken: Whole, full_at: list[int]) -> Whole:
    """When the bucket of each arrival's deployment would be full again, just before it takes and never before now.

    `full_at`: the same of each deployment before all.

    Lindley's recursion, F = max(F, now) + taken, as a running maximum, for the case that nothing is refused.
    """
    times, amounts = dealt(now, len(full_at)), dealt(taken, len(full_at))
    before = np.cumsum(amounts, axis=0) - amounts
    latest = np.maximum(np.maximum.accumulate(times - before, axis=0), np.array(full_at))
    return np.asarray((before + latest).ravel()[: len(now)])


def _stretches(over: Whole, full: Whole, count: int) -> Iterator[tuple[int, int]]:
    """From each first that does not fit, to where both buckets would be full again even if nothing were refused."""
    end = 0
    for first in over.tolist():
        if first >= end:
            after = int(np.searchsorted(full, first, side="right"))
            end = int(full[after]) if after < len(full) else count
            yield first, end


def _refuse_stretch(door: Door, places: Whole, turn: int, full: Full, codes: Codes) -> None:
    """Arrivals of the deployment whose turn it is, one by one."""
    places = places[door.fits[places]]
    full_at, requests_full_at = full.tokens[turn], full.requests[turn]
    rate, unit, capacity = door.tokens_bucket.rate, door.tokens_bucket.unit, door.tokens_bucket.capacity
    of_requests = door.requests_bucket
    requests_rate, requests_unit, requests_capacity = of_requests.rate, of_requests.unit, of_requests.capacity
    needed = min(requests_unit, requests_capacity)
    found = []
    for at_ns, cost in zip(door.at_ns[places].tolist(), door.tokens[places].tolist(), strict=True):
        now, now_of_requests = at_ns * rate, at_ns * requests_rate
        if full_at < now:  # noqa: PLR1730 - a call of max takes longer than all the rest
            full_at = now
        if requests_full_at < now_of_requests:  # noqa: PLR1730
            requests_full_at = now_of_requests
        after = full_at + cost * unit
        if after > now + capacity:
            short = requests_full_at + needed > now_of_requests + requests_capacity
            found.append(TOKENS | REQUESTS if short else TOKENS)
        elif requests_full_at + needed > now_of_requests + requests_capacity:
            found.append(REQUESTS)
        else:
            found.append(ADMITTED)
            full_at = after
            requests_full_at += requests_unit
    codes[places] = found
    full.tokens[turn], full.requests[turn] = full_at, requests_full_at
