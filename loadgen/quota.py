"""Quotas and how they are enforced, with time as an argument.

Nothing here sleeps or reads a clock: callers pass `now_ns` and get back the instant at which a request fits. So the
client's throttle, the simulator and the planner share one set of rules, and the tests need no clock. All arithmetic is
on integers, so a limit is never off by a rounding.

A window answers two questions: `earliest_ns` (when would this amount fit, if nobody else took any?) and `take`.
Fitting is monotonic: what fits at an instant fits at every later one until something is taken.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Protocol

from loadgen.errors import ConfigError

NS_PER_S = 1_000_000_000
MINUTE_NS = 60 * NS_PER_S
NEVER_NS = 1 << 62
PACING_TOKENS_BURST_NS = 5 * NS_PER_S  # half of the shortest bucket that is seen
PACING_REQUESTS_BURST_NS = NS_PER_S  # requests may be checked in slices of a second
UNSET_MAX_TOKENS = 16  # what Microsoft's Azure OpenAI simulator found to be counted where a request names no max_tokens


class Admission(StrEnum):
    """What a request costs at the door, before its completion is known."""

    PROMPT_AND_MAX = "prompt+max_tokens"  # documented for Azure OpenAI
    MAX = "max_tokens"  # what Microsoft's Azure OpenAI simulator found by experiment
    USAGE = "usage"  # the tokens that are billed

    def cost(self, *, prompt_tokens: int, max_tokens: int | None, completion_tokens: int | None = None) -> int:
        """Tokens counted against the quota. Under `usage` an unknown completion counts as the limit."""
        ceiling = UNSET_MAX_TOKENS if max_tokens is None else max_tokens
        if self is Admission.MAX:
            return ceiling
        if self is Admission.USAGE and completion_tokens is not None:
            return prompt_tokens + completion_tokens
        return prompt_tokens + ceiling


class WindowKind(StrEnum):
    """How a limit per minute is enforced. What Azure's serverless endpoints use is not documented."""

    BUCKET = "bucket"  # refills continuously, holds at most `burst_s` seconds of quota
    MINUTE = "minute"  # a counter that is reset each minute
    SLIDING = "sliding"  # no 60 seconds may hold more than the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The limits of one deployment. The defaults are those documented for Phi-3 serverless deployments."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    tokens_per_minute: int = 200_000
    requests_per_minute: int = 1_000
    admission: Admission = Admission.PROMPT_AND_MAX
    window: WindowKind = WindowKind.BUCKET
    burst_s: float = 60.0  # of the bucket
    request_slice_s: int = 60  # requests are checked in slices: 1,000 a minute in slices of 6 s are 100 each 6 s
    concurrency: int | None = None  # requests in flight at once

    def __post_init__(self) -> None:
        for name in ("tokens_per_minute", "requests_per_minute", "burst_s", "request_slice_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above zero, not {getattr(self, name)}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency}")
        for name in ("tokens_per_minute", "requests_per_minute", "burst_s", "request_slice_s", "concurrency"):
            if (getattr(self, name) or 0) >= NEVER_NS:
                raise ValueError(f"{name} must be below {NEVER_NS:,}")
        if self.requests_per_minute * self.request_slice_s < 60:
            raise ValueError(
                f"{self.requests_per_minute} requests a minute in slices of {self.request_slice_s} s allow less than "
                "one request a slice; take a longer request_slice_s"
            )


class Window(Protocol):
    """One limit on one resource."""

    @property
    def largest(self) -> int:
        """The largest amount that can ever be taken at once."""
        ...

    def available(self, now_ns: int) -> int: ...
    def earliest_ns(self, now_ns: int, amount: int) -> int: ...
    def take(self, now_ns: int, amount: int) -> object: ...
    def correct(self, now_ns: int, receipt: object, delta: int) -> None:
        """Change an earlier `take` by `delta`; below zero gives back, but only what has not yet come back by itself."""
        ...


class TokenBucket:
    """Refills continuously at `amount` per `period_ns`; holds at most `burst_ns` worth of it; starts full.

    With `may_owe`, an amount above the capacity may pass when the bucket is full, and is paid off before the next.
    """

    def __init__(self, amount: int, period_ns: int, burst_ns: int, *, may_owe: bool = False) -> None:
        self._amount, self._period_ns, self._may_owe = amount, period_ns, may_owe
        self._capacity = amount * burst_ns  # in units of amount x ns, so that every refill is a whole number
        self._level = self._capacity
        self._at_ns: int | None = None
        self._taken = 0  # how often
        self._peaks: list[tuple[int, int]] = []  # (taken before, level), the levels falling: see _highest_since

    @property
    def largest(self) -> int:
        return NEVER_NS if self._may_owe else self._capacity // self._period_ns

    def available(self, now_ns: int) -> int:
        return self._level_at(now_ns) // self._period_ns

    def earliest_ns(self, now_ns: int, amount: int) -> int:
        if amount > self.largest:
            return NEVER_NS
        short = min(amount * self._period_ns, self._capacity) - self._level_at(now_ns)
        return now_ns if short <= 0 else now_ns - (-short // self._amount)

    def take(self, now_ns: int, amount: int) -> int:
        self._refill(now_ns)
        self._note_peak()
        self._level -= amount * self._period_ns
        self._taken += 1
        return self._taken

    def correct(self, now_ns: int, receipt: object, delta: int) -> None:
        """Without the amount the bucket would have run over where it was full or nearly so: that is not given back."""
        assert isinstance(receipt, int)
        self._refill(now_ns)
        missed = self._capacity - self._highest_since(receipt)
        self._note_peak()
        self._level -= max(delta * self._period_ns, -missed)

    def _note_peak(self) -> None:
        while self._peaks and self._peaks[-1][1] <= self._level:
            self._peaks.pop()
        self._peaks.append((self._taken, self._level))

    def _highest_since(self, receipt: int) -> int:
        """The highest level since that amount was taken: a level rises only until the next amount is taken."""
        place = bisect_left(self._peaks, (receipt,))
        return max(self._level, self._peaks[place][1]) if place < len(self._peaks) else self._level

    def _level_at(self, now_ns: int) -> int:
        if self._at_ns is None or now_ns <= self._at_ns:  # time in a bucket never runs back
            return self._level
        return min(self._capacity, self._level + (now_ns - self._at_ns) * self._amount)

    def _refill(self, now_ns: int) -> None:
        self._level = self._level_at(now_ns)
        self._at_ns = now_ns if self._at_ns is None else max(self._at_ns, now_ns)


class FixedWindow:
    """A counter that is reset each `period_ns`, counted from `origin_ns` (from the first amount taken where None)."""

    def __init__(self, limit: int, period_ns: int, origin_ns: int | None = None) -> None:
        self._limit, self._period_ns, self._origin_ns = limit, period_ns, origin_ns
        self._index, self._used = 0, 0

    @property
    def largest(self) -> int:
        return self._limit

    def available(self, now_ns: int) -> int:
        return self._limit - (self._used if self._index_at(now_ns) <= self._index else 0)

    def earliest_ns(self, now_ns: int, amount: int) -> int:
        if amount > self._limit:
            return NEVER_NS
        if amount <= self.available(now_ns):
            return now_ns
        origin_ns = self._origin_ns if self._origin_ns is not None else now_ns
        return origin_ns + (max(self._index, self._index_at(now_ns)) + 1) * self._period_ns

    def take(self, now_ns: int, amount: int) -> int:
        if self._origin_ns is None:
            self._origin_ns = now_ns
        index = self._index_at(now_ns)
        if index > self._index:
            self._index, self._used = index, 0
        self._used += amount
        return self._index

    def correct(self, now_ns: int, receipt: object, delta: int) -> None:
        if receipt == self._index and self._index_at(now_ns) <= self._index:
            self._used += delta

    def _index_at(self, now_ns: int) -> int:
        return 0 if self._origin_ns is None else (now_ns - self._origin_ns) // self._period_ns


class SlidingWindow:
    """No stretch of `period_ns`, wherever it begins, holds more than `limit`."""

    def __init__(self, limit: int, period_ns: int) -> None:
        self._limit, self._period_ns = limit, period_ns
        self._taken: deque[list[int]] = deque()  # [instant, amount], oldest first
        self._sum = 0

    @property
    def largest(self) -> int:
        return self._limit

    def available(self, now_ns: int) -> int:
        self._expire(now_ns)
        return self._limit - self._sum

    def earliest_ns(self, now_ns: int, amount: int) -> int:
        if amount > self._limit:
            return NEVER_NS
        short = amount - self.available(now_ns)
        at_ns = now_ns
        for taken_ns, taken in self._taken:
            if short <= 0:
                break
            short -= taken
            at_ns = taken_ns + self._period_ns
        return at_ns

    def take(self, now_ns: int, amount: int) -> list[int]:
        entry = [now_ns, amount]
        self._taken.append(entry)
        self._sum += amount
        return entry

    def correct(self, now_ns: int, receipt: object, delta: int) -> None:
        assert isinstance(receipt, list)
        self._expire(now_ns)
        if receipt[0] > now_ns - self._period_ns:
            receipt[1] += delta
            self._sum += delta

    def _expire(self, now_ns: int) -> None:
        while self._taken and self._taken[0][0] <= now_ns - self._period_ns:
            self._sum -= self._taken.popleft()[1]


@dataclass(slots=True)
class Grant:
    """An admitted request, until its real cost is known."""

    tokens: int
    at_ns: int
    receipts: list[object] = field(repr=False)


class Limiter:
    """Both limits of a deployment at once: a request takes its tokens and its one request together, or neither."""

    def __init__(self, *, tokens: list[Window], requests: list[Window]) -> None:
        self._tokens, self._requests = tokens, requests
        self._not_before_ns = 0
        self._last_ns = 0
        self.largest = min(window.largest for window in tokens)  # in tokens, the largest request ever admitted

    def check_fits(self, tokens: int, what: str = "a request") -> None:
        """Raise ConfigError if `tokens` can never be admitted, however long it waits."""
        if tokens > self.largest:
            raise ConfigError(
                f"{what} counts {tokens:,} tokens against the quota, which can never admit more than {self.largest:,} "
                "at once; lower max_tokens, shorten the prompt, or raise --tpm or quota.burst_s"
            )

    def earliest_ns(self, now_ns: int, tokens: int) -> int:
        """The first instant from `now_ns` at which the request fits both limits; NEVER_NS if it is too large."""
        at_ns = max(now_ns, self._not_before_ns)
        for window in self._tokens:
            at_ns = max(at_ns, window.earliest_ns(now_ns, tokens))
        for window in self._requests:
            at_ns = max(at_ns, window.earliest_ns(now_ns, 1))
        return at_ns

    def take(self, now_ns: int, tokens: int) -> Grant:
        """Debit both limits. The caller has made sure that the request fits now."""
        self._last_ns = max(self._last_ns, now_ns)
        of_tokens = [window.take(now_ns, tokens) for window in self._tokens]
        return Grant(tokens, now_ns, of_tokens + [window.take(now_ns, 1) for window in self._requests])

    def try_take(self, now_ns: int, tokens: int) -> Grant | None:
        """Admit the request now or not at all: what a server does at its door."""
        return self.take(now_ns, tokens) if self.earliest_ns(now_ns, tokens) <= now_ns else None

    def reserve(self, now_ns: int, tokens: int) -> Grant:
        """Queue the request behind all earlier ones and return the grant it will get: FIFO, in virtual time.

        Raises ConfigError if it can never fit.
        """
        self.check_fits(tokens)
        return self.take(self.earliest_ns(max(now_ns, self._last_ns), tokens), tokens)

    def settle(self, now_ns: int, grant: Grant, tokens: int) -> None:
        """Correct a grant to what the request really cost."""
        delta = tokens - grant.tokens
        if delta:
            for window, receipt in zip(self._tokens, grant.receipts, strict=False):
                window.correct(now_ns, receipt, delta)
            grant.tokens = tokens

    def cancel(self, now_ns: int, grant: Grant) -> None:
        """Give back all of a grant whose request was never counted by the server."""
        self.settle(now_ns, grant, 0)
        for window, receipt in zip(self._requests, grant.receipts[len(self._tokens) :], strict=True):
            window.correct(now_ns, receipt, -1)

    def pause(self, until_ns: int) -> None:
        """Admit nothing before `until_ns`, as a server's Retry-After asks."""
        self._not_before_ns = max(self._not_before_ns, until_ns)

    def remaining(self, now_ns: int) -> tuple[int, int]:
        """Tokens and requests that would still be admitted now."""
        return (
            min(window.available(now_ns) for window in self._tokens),
            min(window.available(now_ns) for window in self._requests),
        )

    def observe_remaining(self, now_ns: int, *, tokens: int | None, requests: int | None) -> None:
        """Believe a server that says less is left than we counted (others may share the deployment)."""
        for windows, left in ((self._tokens, tokens), (self._requests, requests)):
            for window in windows if left is not None and left >= 0 else ():
                if isinstance(window, SlidingWindow):
                    continue  # it would hold that against us for a minute; a bucket refills as the server's does
                if (excess := window.available(now_ns) - (left or 0)) > 0:
                    window.take(now_ns, excess)


def enforcing(quota: Quota, origin_ns: int | None = None) -> Limiter:
    """The limiter a server with this quota is taken to run. `origin_ns` is where its fixed minutes begin."""
    slice_ns = quota.request_slice_s * NS_PER_S
    requests = quota.requests_per_minute * quota.request_slice_s // 60
    match quota.window:
        case WindowKind.BUCKET:
            burst_ns = round(quota.burst_s * NS_PER_S)
            return Limiter(
                tokens=[TokenBucket(quota.tokens_per_minute, MINUTE_NS, burst_ns)],
                requests=[TokenBucket(quota.requests_per_minute, MINUTE_NS, min(burst_ns, slice_ns), may_owe=True)],
            )
        case WindowKind.MINUTE:
            return Limiter(
                tokens=[FixedWindow(quota.tokens_per_minute, MINUTE_NS, origin_ns)],
                requests=[FixedWindow(requests, slice_ns, origin_ns)],
            )
        case WindowKind.SLIDING:
            return Limiter(
                tokens=[SlidingWindow(quota.tokens_per_minute, MINUTE_NS)],
                requests=[SlidingWindow(requests, slice_ns)],
            )


def admitting(quota: Quota, *, paced: bool) -> list[Limiter]:
    """All the limiters that a request passes: the server's, and the client's own where it paces."""
    return [enforcing(quota), *([pacing(quota)] if paced else [])]


def pacing(quota: Quota, slack_ns: int = 0) -> Limiter:
    """The limiter a polite client runs: smooth, and within the quota under every way a server may enforce it.

    Small buckets spread the load, half as large as the quota's own, so that what the network delays still fits; sliding
    windows of a minute and of a request slice are the hard limits, and whoever keeps those keeps fixed ones too. With
    `slack_ns` these are so much longer: what is sent up to that much before the instant that counts keeps them as well.
    """
    tokens, requests = quota.tokens_per_minute, quota.requests_per_minute
    half_burst_ns, slice_ns = round(quota.burst_s * NS_PER_S / 2), quota.request_slice_s * NS_PER_S
    tokens_burst_ns = min(PACING_TOKENS_BURST_NS, half_burst_ns)
    requests_burst_ns = min(PACING_REQUESTS_BURST_NS, half_burst_ns, slice_ns // 2)
    return Limiter(
        tokens=[
            SlidingWindow(tokens, MINUTE_NS + slack_ns),
            TokenBucket(tokens, MINUTE_NS, tokens_burst_ns, may_owe=True),
        ],
        requests=[
            SlidingWindow(requests, MINUTE_NS + slack_ns),
            SlidingWindow(max(1, requests * quota.request_slice_s // 60), slice_ns + slack_ns),
            TokenBucket(requests, MINUTE_NS, requests_burst_ns, may_owe=True),
        ],
    )
