"""Waits for the quota: first come, first served, both limits at once, reserved before sending and settled after."""

from __future__ import annotations

from collections import deque
from time import monotonic_ns
from typing import Protocol

import gevent
from gevent import get_hub

from loadgen.alarm import Alarm
from loadgen.quota import Grant, Limiter


class Gate(Protocol):
    """What a lane asks before it sends, and tells afterwards: the throttle of this process, or its master's."""

    @property
    def waiting(self) -> int: ...
    def admit(self, tokens: int) -> Grant: ...
    def settle(self, grant: Grant, tokens: int) -> None: ...
    def cancel(self, grant: Grant) -> None: ...
    def release(self) -> None: ...
    def pause(self, wait_ms: int) -> None: ...
    def observe_remaining(self, *, tokens: int | None, requests: int | None) -> None: ...
    def dismiss(self, *, but_granted: bool = False) -> None: ...
    def outlook(self, now_ns: int, tokens: int) -> tuple[int, int]: ...


class DistantGate(Gate, Protocol):
    """One that is asked ahead, since its answer takes a while."""

    def expect(self, wanted_ns: int, tokens: int, estimate: tuple[int, float]) -> None: ...
    def forget(self) -> None: ...


class Throttle:
    """A queue of greenlets before a Limiter. Only its first is tried, so a large request is never overtaken.

    With `concurrency`, no more than so many admitted requests are in flight at once; `release` says that one is not.
    """

    def __init__(self, limiter: Limiter, alarm: Alarm, concurrency: int | None = None) -> None:
        self.limiter = limiter
        self._free_places = concurrency
        self._alarm = alarm
        self._queue: deque[tuple[gevent.Greenlet, int]] = deque()
        self._woken_ns: int | None = None  # the instant for which the alarm is set

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def outlook(self, now_ns: int, tokens: int) -> tuple[int, int]:
        """How many wait, and when a request could go if none did."""
        full = self._free_places == 0
        return len(self._queue) + full, self.limiter.earliest_ns(now_ns, tokens)

    def admit(self, tokens: int) -> Grant:
        """Park the calling greenlet until both limits admit the request. Raises ConfigError if they never can."""
        now_ns = monotonic_ns()
        if not self._queue and (grant := self._try_take(now_ns, tokens)) is not None:
            return grant
        self.limiter.check_fits(tokens)
        entry = (gevent.getcurrent(), tokens)
        self._queue.append(entry)
        self._set_alarm(now_ns)
        try:
            granted: Grant = get_hub().switch()
        except BaseException:  # the user was stopped while it waited
            if entry in self._queue:
                self._queue.remove(entry)
                self._serve()
            raise
        return granted

    def release(self) -> None:
        """An admitted request is no longer in flight."""
        if self._free_places is not None:
            self._free_places += 1
            self._serve()

    def settle(self, grant: Grant, tokens: int) -> None:
        """Correct a grant to the real cost; what comes back may let the next one go at once."""
        self.limiter.settle(monotonic_ns(), grant, tokens)
        self._serve()

    def cancel(self, grant: Grant) -> None:
        """Give back a grant that the server never counted."""
        self.limiter.cancel(monotonic_ns(), grant)
        self._serve()

    def pause(self, wait_ms: int) -> None:
        """Admit nothing for so long: a server has asked for it."""
        self.limiter.pause(monotonic_ns() + wait_ms * 1_000_000)

    def observe_remaining(self, *, tokens: int | None, requests: int | None) -> None:
        """Believe a server that says how much is left."""
        self.limiter.observe_remaining(monotonic_ns(), tokens=tokens, requests=requests)

    def dismiss(self, *, but_granted: bool = False) -> None:  # noqa: ARG002 - who is granted here does not wait
        """Stop all that wait; none of them has sent anything."""
        for greenlet, _ in list(self._queue):
            greenlet.kill(block=False)

    def _serve(self) -> None:
        """Wake those at the head of the queue whose turn has come."""
        if not self._queue:
            return
        now_ns = monotonic_ns()
        loop = get_hub().loop
        while self._queue:
            greenlet, tokens = self._queue[0]
            grant = self._try_take(now_ns, tokens)
            if grant is None:
                self._set_alarm(now_ns)
                return
            self._queue.popleft()
            loop.run_callback(greenlet.switch, grant)

    def _try_take(self, now_ns: int, tokens: int) -> Grant | None:
        if self._free_places == 0:
            return None
        grant = self.limiter.try_take(now_ns, tokens)
        if grant is not None and self._free_places is not None:
            self._free_places -= 1
        return grant

    def _set_alarm(self, now_ns: int) -> None:
        if self._free_places == 0:
            return  # the next release serves the queue
        at_ns = self.limiter.earliest_ns(now_ns, self._queue[0][1])
        if self._woken_ns is None or at_ns < self._woken_ns:
            self._woken_ns = at_ns
            self._alarm.call_at(at_ns, self._ring)

    def _ring(self) -> None:
        self._woken_ns = None
        self._serve()
