"""Deals a schedule to the workers of a run while it comes due, and knows what nobody can account for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from time import monotonic_ns
from typing import Any

import gevent

from loadgen.schedule import Arrival
from loadgen.spread.dealing import Deal, packed

HORIZON_NS = 2_000_000_000  # arrivals are dealt so long before they are due
DEAL_S = 0.5
DEALT_AT_ONCE = 5_000


class Dealer:
    """`send` takes a worker's index and its next arrivals, packed; None is the end of the schedule."""

    def __init__(
        self, schedule: Iterable[Arrival], workers: int, send: Callable[[int, Any], None], *, targets: int = 1
    ) -> None:
        self.done = False
        self._schedule, self._send = schedule, send
        self._deal = Deal(range(workers), targets)
        self._dealt = 0  # so many of the schedule, from its beginning

    def run(self, start_ns: int, ended: Callable[[], bool]) -> None:
        """Deal all of it, always the next two seconds; returns early when the run has `ended`."""
        due_soon: list[Arrival] = []
        for arrival in self._schedule:
            while start_ns + arrival.due_ns - monotonic_ns() > HORIZON_NS:
                self._hand_out(due_soon)
                due_soon = []
                gevent.sleep(DEAL_S)
                if ended():
                    return
            due_soon.append(arrival)
            if len(due_soon) == DEALT_AT_ONCE:
                self._hand_out(due_soon)
                due_soon = []
        self._hand_out(due_soon)
        self.done = True
        for worker in self._deal.live:
            self._send(worker, None)

    def lose(self, worker: int) -> None:
        """It gets no more of what has not been dealt yet."""
        self._deal.lose(worker, self._dealt)

    def unaccounted(self, worker: int, seqs: Collection[int], end_ns: int | None) -> Iterator[Arrival]:
        """What that worker was dealt and came due before the end, but for those `seqs`."""
        for place, arrival in enumerate(islice(self._schedule, self._dealt)):
            if end_ns is not None and arrival.due_ns > end_ns:
                return
            if arrival.seq not in seqs and self._deal.owner(place) == worker:
                yield arrival

    def _hand_out(self, arrivals: list[Arrival]) -> None:
        shares: defaultdict[int, list[Arrival]] = defaultdict(list)
        for arrival in arrivals:
            owner = self._deal.owner(self._dealt)
            if owner is not None:
                shares[owner].append(arrival)
            self._dealt += 1
        for owner, share in shares.items():
            self._send(owner, packed(share))
        gevent.sleep(0)
