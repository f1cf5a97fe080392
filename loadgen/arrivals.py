"""Who sends what when: sources of arrivals for the users of one load process."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from time import monotonic_ns
from typing import Protocol

import gevent
from gevent import get_hub

from loadgen.alarm import Alarm
from loadgen.closed_loop import ThinkTime
from loadgen.schedule import Arrival

YIELD_EVERY = 128
LEAD_NS = 250_000_000  # users get an arrival so long before it is due, to build the request and open the connection


class Source(Protocol):
    open_loop: bool

    def next(self, scenario: str) -> Arrival | None:
        """The caller's next arrival; parks the calling greenlet until there is one. None when there will be no more."""
        ...

    def stop(self) -> None:
        """Hand out nothing more."""
        ...


class OpenLoop:
    """Plays a schedule: arrivals come when they are due, whatever became of those before.

    Each goes to an idle user of its scenario, or to a new one; where `most_busy` are at work it is dropped when it is
    due.
    """

    open_loop = True

    def __init__(
        self,
        schedule: Iterable[Arrival],
        *,
        alarm: Alarm,
        start_ns: int,
        most_busy: int,
        spawn: Callable[[str], None],
        drop: Callable[[Arrival, str], None],
    ) -> None:
        self._schedule, self._alarm, self._start_ns = schedule, alarm, start_ns
        self._most_busy, self._spawn, self._drop = most_busy, spawn, drop
        self._idle: defaultdict[str, list[gevent.Greenlet]] = defaultdict(list)  # the last to come is the next to go
        self._waiting: defaultdict[str, OrderedDict[int, Arrival]] = defaultdict(OrderedDict)  # by seq
        self._busy = 0
        self._stopped = False

    def next(self, scenario: str) -> Arrival | None:
        waiting = self._waiting[scenario]
        if waiting:
            return waiting.popitem(last=False)[1]
        greenlet = gevent.getcurrent()
        self._idle[scenario].append(greenlet)
        self._busy -= 1
        try:
            arrival: Arrival | None = get_hub().switch()
        except BaseException:
            if greenlet in self._idle[scenario]:
                self._idle[scenario].remove(greenlet)
            raise
        return arrival

    @property
    def idle(self) -> bool:
        """Nobody has an arrival that is not finished."""
        return self._busy == 0 and not any(self._waiting.values())

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Hand out the schedule; returns when its last arrival has come due, or soon after `stop`."""
        last_ns = self._start_ns
        for arrival in self._schedule:
            self._alarm.wait_until(self._start_ns + arrival.due_ns - LEAD_NS)
            if self._stopped:
                return
            self._hand_out(arrival)
            if arrival.seq % YIELD_EVERY == 0:
                gevent.sleep(0)  # when far behind, nothing else would ever run
            last_ns = self._start_ns + arrival.due_ns
        self._alarm.wait_until(last_ns)

    def _hand_out(self, arrival: Arrival) -> None:
        idle = self._idle[arrival.scenario]
        if idle:
            self._busy += 1
            get_hub().loop.run_callback(idle.pop().switch, arrival)
            return
        self._waiting[arrival.scenario][arrival.seq] = arrival
        if self._busy < self._most_busy:
            self._busy += 1
            self._spawn(arrival.scenario)
        else:
            self._alarm.call_at(self._start_ns + arrival.due_ns, partial(self._give_up, arrival))

    def _give_up(self, arrival: Arrival) -> None:
        if not self._stopped and self._waiting[arrival.scenario].pop(arrival.seq, None) is not None:
            self._drop(arrival, "max_in_flight")


class ClosedLoop:
    """Each user's next arrival is due as soon as it has thought about its last answer: the load waits for the answers.
    After a failure it is held back, as it may come at once and say nothing of how fast the deployment is.

    How long it thinks depends on the seed and on the number of the arrival that was answered alone.
    """

    open_loop = False

    def __init__(
        self, *, start_ns: int, end_ns: int, seed: int, numbers: Iterator[int], thinking: ThinkTime | None = None
    ) -> None:
        self._start_ns, self._end_ns, self._seed, self._numbers = start_ns, end_ns, seed, numbers
        self._thinking = thinking
        self._held_until_ns: dict[gevent.Greenlet, int] = {}  # by users whose last answer was a failure
        self._answered: dict[gevent.Greenlet, int] = {}  # the number of each user's last arrival, where users think
        self._stopped = False

    def next(self, scenario: str) -> Arrival | None:
        due_ns = monotonic_ns()
        if self._thinking is not None:
            last = self._answered.get(gevent.getcurrent())
            due_ns += 0 if last is None else self._thinking.draw_ns(self._seed, last)
        if self._held_until_ns:
            due_ns = max(due_ns, self._held_until_ns.pop(gevent.getcurrent(), 0))
        if self._stopped or due_ns >= self._end_ns:
            return None
        arrival = Arrival(next(self._numbers), due_ns - self._start_ns, scenario, self._seed)
        if self._thinking is not None:
            self._answered[gevent.getcurrent()] = arrival.seq
        return arrival

    def hold_back(self, wait_s: float) -> None:
        """The calling user's next arrival comes no sooner than after that."""
        self._held_until_ns[gevent.getcurrent()] = monotonic_ns() + round(wait_s * 1e9)

    def stop(self) -> None:
        self._stopped = True
