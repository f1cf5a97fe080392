"""Clients that try again: what becomes of the demand when a refusal is not the end of it.

A refused try costs nothing and takes nothing from the quota; it only comes again, to the same deployment. So retries
do not make room, they move the demand to where there is some, or crowd the next minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

import polars as pl

from loadgen.errors import ConfigError
from loadgen.quota import NS_PER_S, Limiter, Quota, WindowKind, enforcing
from planner.demand import Demand, busiest
from planner.quotas.doors import door_of, enforced, numbers_of, window_name
from planner.quotas.queues import at_rank_s
from planner.quotas.replay import Door

MOST_TRIES = 1_000
MOST_PLAYED = 20_000  # arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What a client does when it is refused: it waits, twice as long each time or as told, and tries again."""

    name: str
    tries: int  # in all, the first included
    honours_retry_after: bool = False  # waits as long as the server says, in whole seconds
    first_wait_s: float = 0.5
    growth: float = 2.0  # of each wait over the one before
    longest_wait_s: float = 30.0
    jitter_share: float = 0.0  # up to so much of each wait is left out, drawn anew each time

    def __post_init__(self) -> None:
        if not 1 <= self.tries <= MOST_TRIES:
            raise ConfigError(f"client {self.name}: tries must lie between 1 and {MOST_TRIES:,}, not {self.tries}")
        if not (self.first_wait_s > 0 and self.growth >= 1 and self.longest_wait_s > 0 and 0 <= self.jitter_share <= 1):
            raise ConfigError(f"client {self.name}: waits must be above zero, growth at least 1, jitter from 0 to 1")

    def wait_ns(self, tried: int, retry_after_ns: int, random: Random) -> int:
        """After so many tries, at least 1 ns."""
        if self.honours_retry_after:
            return -(-retry_after_ns // NS_PER_S) * NS_PER_S
        wait_s = min(self.longest_wait_s, self.first_wait_s * self.growth ** (tried - 1))
        return max(1, round(wait_s * (1 - self.jitter_share * random.random()) * NS_PER_S))


CLIENTS = (
    Client(name="gives up", tries=1),
    Client(name="honours Retry-After", tries=10, honours_retry_after=True),
    Client(name="backs off", tries=10, jitter_share=0.5),
    Client(name="hammers", tries=50, first_wait_s=0.1, growth=1.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOutcome:
    """How clients of one kind fared. Shares are of the requests that can fit at all."""

    client: str
    deployments: int
    window: str
    admission: str
    requests: int
    never_fit: int  # requests too large to be admitted at all; they are not tried
    attempts: int
    attempts_per_request: float  # the load on the door, over what was wanted; refused tries are not billed
    refused_share: float  # refused at every try
    refused_after_share: tuple[float, ...]  # still refused after 1, 2, ... tries
    delay_p50_s: float | None  # from the first try to that which was admitted; None: none was
    delay_p95_s: float | None
    delay_p99_s: float | None
    delay_max_s: float | None


def clients_table(demand: Demand, quota: Quota, deployments: Sequence[int], window: str) -> tuple[ClientOutcome, ...]:
    """How each kind of client fares in the demand's busiest stretch, at each number of deployments."""
    stretch = busiest(demand, MOST_PLAYED).arrivals
    return tuple(retried(stretch, quota, number, client, window=window) for number in deployments for client in CLIENTS)


def retried(
    arrivals: pl.DataFrame,
    quota: Quota,
    deployments: int,
    client: Client,
    *,
    window: WindowKind | str | None = None,
    seed: int = 1,
) -> ClientOutcome:
    """Play the arrivals, all of one kind of client, against so many deployments; arguments as of planner.quota.what_if.

    Some microseconds a try; tries are bounded by the client's. Raises ConfigError.
    """
    door = door_of(arrivals, enforced(quota, None, window))
    (number,) = numbers_of(deployments)
    crowd = Crowd(door, [enforcing(door.quota, origin_ns=0) for _ in range(number)], client, Random(seed))
    crowd.play()
    tries, delays_ns = crowd.tries, crowd.delays_ns
    requests, waited = len(tries), sorted(delay for delay in delays_ns if delay is not None)
    refused_after = [
        sum(tried > most or (tried == most and delay is None) for tried, delay in zip(tries, delays_ns, strict=True))
        for most in range(1, client.tries + 1)
    ]
    p50, p95, p99, longest = (at_rank_s(waited, q) for q in (0.5, 0.95, 0.99, 1.0))
    return ClientOutcome(
        client=client.name,
        deployments=number,
        window=window_name(door.quota),
        admission=door.quota.admission.value,
        requests=requests,
        never_fit=len(door.at_ns) - requests,
        attempts=sum(tries),
        attempts_per_request=sum(tries) / requests if requests else 0.0,
        refused_share=refused_after[-1] / requests if requests else 0.0,
        refused_after_share=tuple(refused / requests if requests else 0.0 for refused in refused_after),
        delay_p50_s=p50,
        delay_p95_s=p95,
        delay_p99_s=p99,
        delay_max_s=longest,
    )


@dataclass(slots=True)
class Crowd:
    """Clients of one kind at a door, in virtual time."""

    door: Door
    limiters: list[Limiter]  # of the deployments
    client: Client
    random: Random
    tries: list[int] = field(default_factory=list)  # of each request that was admitted or given up
    delays_ns: list[int | None] = field(default_factory=list)  # of each of these until it was admitted; None if never
    _again: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # a heap: due, place, tries, first, cost

    def play(self) -> None:
        """Those that come again at an instant come after those that come then for the first time."""
        door = self.door
        arrivals = zip(door.at_ns.tolist(), door.tokens.tolist(), door.fits.tolist(), strict=True)
        for place, (at_ns, cost, fits) in enumerate(arrivals):
            while self._again and self._again[0][0] < at_ns:
                self._try(*heappop(self._again))
            if fits:
                self._try(at_ns, place, 0, at_ns, cost)
        while self._again:
            self._try(*heappop(self._again))

    def _try(self, now_ns: int, place: int, before: int, first_ns: int, cost: int) -> None:
        limiter, tried = self.limiters[place % len(self.limiters)], before + 1
        free_ns = limiter.earliest_ns(now_ns, cost)
        if free_ns > now_ns and tried < self.client.tries:
            again_ns = now_ns + self.client.wait_ns(tried, free_ns - now_ns, self.random)
            heappush(self._again, (again_ns, place, tried, first_ns, cost))
            return
        self.tries.append(tried)
        self.delays_ns.append(now_ns - first_ns if free_ns <= now_ns else None)
        if free_ns <= now_ns:
            limiter.take(now_ns, cost)
