"""Waking tasks at absolute instants, closer than an event loop's own timers.

The timers of asyncio and uvloop count whole milliseconds: a token would leave up to a millisecond early or late, which
is more than a good client's own error. So the kernel's timer (timerfd_create(2), Linux) wakes the loop, and one heap
holds every waiting task. Instants are of CLOCK_MONOTONIC, as time.monotonic_ns() reads it, unless the deployment's time
runs faster: then they are model time, which agrees with that clock at the pacemaker's birth.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from heapq import heapify, heappop, heappush

from loadgen.simulator.units import NEVER_NS, NS_PER_S

FEW = 64
TICK_NS = 200_000  # wakes are at least this far apart, so that thousands of streams share them: 5,000 a second at most
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME

_libc = ctypes.CDLL(None, use_errno=True)


class Flight:
    """One request between its admission and its end; whoever cuts it wakes it at once."""

    __slots__ = ("_waiting", "cut_off")

    def __init__(self) -> None:
        self.cut_off = False
        self._waiting: asyncio.Future[None] | None = None

    def cut(self) -> None:
        """The client is gone, or the server ends."""
        self.cut_off = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def until_cut(self) -> None:
        """Wait for whoever cuts it, and for nothing else."""
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def waits_for(self, wake: asyncio.Future[None]) -> None:
        self._waiting = wake


class Pacemaker:
    """Belongs to the event loop that runs when it is made. `close` it before the loop.

    `time_scale` seconds of model time pass in one second.
    """

    def __init__(self, time_scale: float = 1) -> None:
        self._time_scale, self._born_ns = time_scale, time.monotonic_ns()
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[int, int, asyncio.Future[None]]] = []  # heap of (instant, serial, who waits)
        self._serial = 0
        self._cut = 0  # at least so many of the heap wait for nothing any more
        self._armed_ns = NEVER_NS
        self._last_tick_ns = 0
        self._setting = (ctypes.c_long * 4)()  # struct itimerspec: interval s, ns; first expiry s, ns
        self._timer = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop.add_reader(self._timer, self._tick)

    def now_ns(self) -> int:
        """The instant in model time."""
        real_ns = time.monotonic_ns()
        if self._time_scale == 1:
            return real_ns
        return self._born_ns + int((real_ns - self._born_ns) * self._time_scale)

    async def until(self, due_ns: int, flight: Flight) -> bool:
        """Wait for the instant, never less; False as soon as the flight is cut."""
        if self._time_scale != 1:
            due_ns = self._born_ns - int((self._born_ns - due_ns) // self._time_scale)
        if due_ns > time.monotonic_ns() and not flight.cut_off:
            wake = self._loop.create_future()
            flight.waits_for(wake)
            self._serial += 1
            heappush(self._due, (due_ns, self._serial, wake))
            if due_ns < self._armed_ns:
                self._arm(due_ns)
            await wake
            if flight.cut_off:
                self._forget_cut()
        return not flight.cut_off

    def real_ns(self, model_ns: int) -> int:
        """How long a time of the model is for a client."""
        return model_ns if self._time_scale == 1 else round(model_ns / self._time_scale)

    def close(self) -> None:
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def _forget_cut(self) -> None:
        """A wait that was cut stays in the heap until it would have been due; not where they are most of it."""
        self._cut += 1
        if self._cut > FEW and 2 * self._cut > len(self._due):
            self._due = [entry for entry in self._due if not entry[2].done()]
            heapify(self._due)
            self._cut = 0

    def _tick(self) -> None:
        now_ns = self._last_tick_ns = time.monotonic_ns()
        due = self._due
        while due and due[0][0] <= now_ns:
            wake = heappop(due)[2]
            if wake.done():
                self._cut = max(0, self._cut - 1)
            else:
                wake.set_result(None)
        self._arm(due[0][0] if due else NEVER_NS)

    def _arm(self, due_ns: int) -> None:
        """Set the timer, which also makes it unreadable until it expires."""
        self._armed_ns = due_ns
        self._setting[2], self._setting[3] = divmod(max(due_ns, self._last_tick_ns + TICK_NS), NS_PER_S)
        if _libc.timerfd_settime(self._timer, _ABSOLUTE, ctypes.byref(self._setting), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
