"""Instances that share themselves among the requests they run, exactly and in virtual time.

A request that is admitted as the n-th needs TTFT(n) for its first token, and a gap of ITL(n) for each token after it,
whoever else comes and goes: while n run, tokens come at 1 / ITL(n). So one virtual clock an instance does, which counts
tokens: dV/dt = 1 / ITL(n(t)). A request's work, TTFT(n) / ITL(n) + completion tokens - 1, is known when it is admitted,
and it leaves when the clock has gone on by so much; an instant changes only with n. An event costs O(log n). Beyond the
cap requests wait, first come first served. With a constant ITL this is M/G/infinity, with a cap M/G/c.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MOST_RUNNING = 10_000  # of an instance whose model knows no cap: it is long past any objective then
LEAST_GAP_S = 1e-9  # so that the clock goes on where a model knows no time between tokens
Z_95 = NormalDist().inv_cdf(0.95)
Floats = NDArray[np.float64]


class Timing(Protocol):
    """What is needed of a serving model: milliseconds at a concurrency, this request included."""

    @property
    def concurrency_cap(self) -> int | None: ...
    def itl_ms(
        self, concurrency: float, prompt_tokens: float | None = None, completion_tokens: float | None = None
    ) -> float: ...
    def ttft_ms(
        self,
        concurrency: float,
        prompt_tokens: float | None = None,
        completion_tokens: float | None = None,
        quantile: float = 0.5,
    ) -> float: ...


class Routing(StrEnum):
    """Which instance gets a request."""

    LEAST_LOADED = "least_loaded"  # the fewest running and waiting; of equals the oldest
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"


class ServiceCurve:
    """A model at the whole numbers of running requests, for one mix of requests; grown as far as it is asked.

    A model's concurrency is the mean in flight under Poisson arrivals, and these see time averages: a request has so
    many beside itself. So what n running requests take is the model at n - 1.
    `prompt_slope_s` is how much longer, by the model, the first token takes for each prompt token above the mix's mean.
    All times are `slower` times the model's. The time to first token is spread log-normally about its median, through
    the model's 95th percentile. Beyond `cap` running requests others wait.
    """

    def __init__(
        self,
        model: Timing,
        prompt_tokens: float,
        completion_tokens: float,
        *,
        cap: int | None = None,
        prompt_slope_s: float = 0.0,
        slower: float = 1.0,
    ) -> None:
        self.cap = MOST_RUNNING if cap is None else cap
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
        self.prompt_slope_s = prompt_slope_s * slower
        self.itl_s, self.ttft_s, self.spread = [math.inf], [0.0], [0.0]  # by the number running
        self._model, self._slower = model, slower

    def reach(self, running: int) -> None:
        """Have the curve at so many running requests."""
        shape = self.prompt_tokens, self.completion_tokens
        for n in range(len(self.itl_s), running + 1):
            median_ms = self._model.ttft_ms(n - 1, *shape, quantile=0.5)
            high_ms = self._model.ttft_ms(n - 1, *shape, quantile=0.95)
            self.itl_s.append(max(LEAST_GAP_S, self._model.itl_ms(n - 1, *shape) / 1e3 * self._slower))
            self.ttft_s.append(median_ms / 1e3 * self._slower)
            self.spread.append(math.log(high_ms / median_ms) / Z_95 if high_ms > median_ms > 0 else 0.0)

    def service_s(self, running: float) -> float:
        """Of a mean request, from its admission to its last token, with so many running all the while."""
        shape = self.prompt_tokens, self.completion_tokens
        gaps = max(0.0, self.completion_tokens - 1)
        service_ms = self._model.ttft_ms(running, *shape) + gaps * self._model.itl_ms(running, *shape)
        return service_ms / 1e3 * self._slower


@dataclass(frozen=True, slots=True)
class Work:
    """Requests, sorted by arrival, in columns of equal length; `luck` is each one's place in the spread of TTFT."""

    at_s: list[float]
    extra_prompt_tokens: list[float]  # above the mean of the mix
    gaps: list[int]  # between its tokens: completion tokens - 1, at least 0
    luck: list[float]  # standard normal

    @classmethod
    def of(
        cls, at_s: Floats, prompt_tokens: Floats, completion_tokens: Floats, mean_prompt_tokens: float, *, seed: int
    ) -> Work:
        gaps = np.maximum(completion_tokens.astype(np.int64) - 1, 0)
        luck = np.random.default_rng(seed).standard_normal(len(at_s))
        return cls(at_s.tolist(), (prompt_tokens - mean_prompt_tokens).tolist(), gaps.tolist(), luck.tolist())


class Served:
    """What became of each request of a Work, by its row; NaN for the instants of one that was refused."""

    __slots__ = ("admitted_s", "done_s", "first_s")

    def __init__(self, rows: int) -> None:
        self.admitted_s = [math.nan] * rows
        self.first_s = [math.nan] * rows
        self.done_s = [math.nan] * rows


class SharingInstance:
    """One instance. Instants must not decrease; call `depart` for each `next_s` before a later arrival."""

    __slots__ = (
        "_area_s",
        "_clock",
        "_curve",
        "_now_s",
        "_queue",
        "_served",
        "_tags",
        "_work",
        "held",
        "next_s",
        "running",
    )

    def __init__(self, curve: ServiceCurve, work: Work, served: Served, now_s: float = 0.0) -> None:
        self.held = self.running = 0  # running or waiting; running
        self.next_s = math.inf  # when the next one leaves
        self._curve, self._work, self._served = curve, work, served
        self._clock, self._now_s = 0.0, now_s  # tokens a request has got since the instance was last empty
        self._tags: list[tuple[float, int]] = []  # heap of (clock when it leaves, row)
        self._queue: deque[int] = deque()
        self._area_s = 0.0

    @property
    def changed_s(self) -> float:
        """When somebody was last admitted or left."""
        return self._now_s

    def running_s(self, now_s: float) -> float:
        """The integral of `running` over time until now."""
        return self._area_s + self.running * (now_s - self._now_s)

    def arrive(self, now_s: float, row: int) -> None:
        self.held += 1
        running = self.running
        if running >= self._curve.cap:
            self._queue.append(row)
            return
        past_s = now_s - self._now_s
        self._area_s += running * past_s
        self._now_s = now_s
        self._clock = self._clock + past_s / self._curve.itl_s[running] if running else 0.0
        self._admit(now_s, row)
        self.next_s = now_s + (self._tags[0][0] - self._clock) * self._curve.itl_s[self.running]

    def depart(self) -> int:
        """Take the instance to `next_s`; the row that leaves."""
        now_s = self.next_s
        self._area_s += self.running * (now_s - self._now_s)
        self._now_s = now_s
        self._clock, row = heappop(self._tags)
        self._served.done_s[row] = now_s
        self.held -= 1
        self.running -= 1
        if self._queue:
            self._admit(now_s, self._queue.popleft())
        tags = self._tags
        self.next_s = now_s + (tags[0][0] - self._clock) * self._curve.itl_s[self.running] if tags else math.inf
        return row

    def _admit(self, now_s: float, row: int) -> None:
        curve, work = self._curve, self._work
        self.running = n = self.running + 1
        if n >= len(curve.itl_s):
            curve.reach(round(min(2 * n, curve.cap)))
        ttft_s = curve.ttft_s[n] + curve.prompt_slope_s * work.extra_prompt_tokens[row]
        if spread := curve.spread[n]:
            ttft_s *= math.exp(spread * work.luck[row])
        ttft_s = max(ttft_s, 0.0)
        heappush(self._tags, (self._clock + ttft_s / curve.itl_s[n] + work.gaps[row], row))
        self._served.admitted_s[row] = now_s
        self._served.first_s[row] = now_s + ttft_s


class SharingFleet:
    """Instances and who gets a request. `serving` are all that have or take requests, `ready` those that take them."""

    def __init__(self, curve: ServiceCurve, work: Work, *, routing: Routing, seed: int) -> None:
        self.served = Served(len(work.at_s))
        self.ready: list[SharingInstance] = []
        self.serving: list[SharingInstance] = []
        self.in_flight = 0
        self.ended: Callable[[int], None] | None = None  # told of each row that leaves
        self._curve, self._work, self._routing = curve, work, routing
        self._dice = random.Random(seed)
        self._next_s: list[float] = []  # of `serving`
        self._turn = 0

    def add(self, count: int, now_s: float) -> list[SharingInstance]:
        added = [SharingInstance(self._curve, self._work, self.served, now_s) for _ in range(count)]
        self.use([*self.ready, *added], [*self.serving, *added])
        return added

    def use(self, ready: Sequence[SharingInstance], serving: Sequence[SharingInstance]) -> None:
        self.ready, self.serving = list(ready), list(serving)
        self._next_s = [instance.next_s for instance in self.serving]

    def offer(self, now_s: float, row: int) -> None:
        """Give the request to one of the ready instances, of which there is at least one."""
        instance = self._choose()
        instance.arrive(now_s, row)
        self.in_flight += 1
        self._next_s[self.serving.index(instance)] = instance.next_s

    def run(self, until_s: float) -> None:
        """Let all requests leave that do so until then."""
        next_s, ended = self._next_s, self.ended
        while next_s and (soonest_s := min(next_s)) <= until_s and soonest_s < math.inf:
            place = next_s.index(soonest_s)
            row = self.serving[place].depart()
            self.in_flight -= 1
            next_s[place] = self.serving[place].next_s
            if ended is not None:
                ended(row)

    def _choose(self) -> SharingInstance:
        ready = self.ready
        if len(ready) == 1:
            return ready[0]
        match self._routing:
            case Routing.LEAST_LOADED:
                return min(ready, key=_held)
            case Routing.ROUND_ROBIN:
                self._turn += 1
                return ready[(self._turn - 1) % len(ready)]
            case Routing.RANDOM:
                return ready[self._dice.randrange(len(ready))]


def _held(instance: SharingInstance) -> int:
    return instance.held


def simulate(
    work: Work, curve: ServiceCurve, instances: int, *, routing: Routing = Routing.LEAST_LOADED, seed: int = 1
) -> SharingFleet:
    """All requests at so many instances, empty at first, until the last has left."""
    fleet = SharingFleet(curve, work, routing=routing, seed=seed)
    fleet.add(instances, 0.0)
    run, offer = fleet.run, fleet.offer
    for row, at_s in enumerate(work.at_s):
        run(at_s)
        offer(at_s, row)
    run(math.inf)
    return fleet
