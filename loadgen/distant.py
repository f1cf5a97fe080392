"""A worker's side of the quota that its master gives: asks ahead, waits for the answers, settles in batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event

from loadgen.alarm import Alarm
from loadgen.quota import Grant, Limiter

BATCH_S = 0.005  # between two messages while something is asked for
SETTLE_S = 0.05  # what has come to its end may wait so long
LIFE_NS = 500_000_000  # of a grant that is not used: who was frozen for longer must ask again


@dataclass(slots=True, eq=False)
class Ticket:
    """One request on its way through the queue elsewhere."""

    number: int
    tokens: int
    at_ns: int | None = None  # of CLOCK_MONOTONIC: from when on it may leave
    greenlet: gevent.Greenlet | None = None  # who waits for that


class Letter:
    """What has gathered for the desk since the last message."""

    def __init__(self) -> None:
        self.ask: list[int] = []  # number, wanted when (ns since the run's start), tokens; and so on
        self.settle: list[int] = []  # number, tokens
        self.withdraw: list[int] = []
        self.cancel: list[int] = []
        self.release = 0
        self.pause_ms = 0
        self.left: list[int | None] | None = None  # tokens and requests, as a server says

    def content(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}


class DistantThrottle:
    """A Gate whose limits are kept by the master. `send` takes what it is to be told; `answer` its answers."""

    def __init__(self, limiter: Limiter, alarm: Alarm, send: Callable[[dict[str, Any]], None]) -> None:
        self.start_ns = 0  # the run's zero
        self.void = 0  # grants that came too late to be used
        self._limiter, self._alarm, self._send = limiter, alarm, send  # the limiter says what can never fit
        self._numbers = 0
        self._tickets: dict[int, Ticket] = {}  # asked for and not yet used
        self._expected: dict[gevent.Greenlet, Ticket] = {}  # by who will want it
        self._waiting: dict[gevent.Greenlet, Ticket] = {}  # by who wants it now
        self._letter = Letter()
        self._asked = Event()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def run(self) -> None:
        """Send what gathers: asks at once, and then each BATCH_S; the rest each SETTLE_S."""
        while True:
            self._asked.wait(SETTLE_S)
            self._asked.clear()
            letter, self._letter = self._letter.content(), Letter()
            if letter:
                self._send(letter)
                gevent.sleep(BATCH_S)

    def answer(self, granted: list[int]) -> None:
        """Numbers, each with the instant from which on it may be sent, ns since the run's start."""
        for number, at_ns in zip(granted[::2], granted[1::2], strict=True):
            ticket = self._tickets.get(number)
            if ticket is None:
                continue  # withdrawn meanwhile: the desk has been told
            ticket.at_ns = self.start_ns + at_ns
            if ticket.greenlet is not None:
                get_hub().loop.run_callback(ticket.greenlet.switch)
                ticket.greenlet = None

    def expect(self, wanted_ns: int, tokens: int) -> None:
        """The calling greenlet will want to be admitted then."""
        if tokens <= self._limiter.largest:  # else `admit` will say so; the queue must not wait for it
            self._expected[gevent.getcurrent()] = self._ask(wanted_ns, tokens)

    def forget(self) -> None:
        """The calling greenlet will want nothing after all."""
        ticket = self._expected.pop(gevent.getcurrent(), None)
        if ticket is not None:
            self._withdraw(ticket)

    def admit(self, tokens: int) -> Grant:
        """Park the calling greenlet until the master admits the request. Raises ConfigError if it never can."""
        greenlet = gevent.getcurrent()
        ticket = self._expected.pop(greenlet, None)
        self._limiter.check_fits(tokens)
        if ticket is None:
            ticket = self._ask(monotonic_ns(), tokens)
        self._waiting[greenlet] = ticket
        try:
            while True:
                self._wait(ticket)
                now_ns = monotonic_ns()
                assert ticket.at_ns is not None
                if now_ns - ticket.at_ns <= LIFE_NS:
                    break
                self.void += 1
                self._letter.release += 1  # its place is free; what it cost stays taken
                del self._tickets[ticket.number]
                ticket = self._waiting[greenlet] = self._ask(now_ns, tokens)
        except BaseException:  # the user was stopped while it waited
            self._withdraw(ticket)
            raise
        finally:
            del self._waiting[greenlet]
        del self._tickets[ticket.number]
        return Grant(tokens, now_ns, [ticket.number])

    def release(self) -> None:
        self._letter.release += 1

    def settle(self, grant: Grant, tokens: int) -> None:
        self._letter.settle += (_number(grant), tokens)

    def cancel(self, grant: Grant) -> None:
        self._letter.cancel.append(_number(grant))

    def pause(self, wait_ms: int) -> None:
        self._letter.pause_ms = max(self._letter.pause_ms, wait_ms)

    def observe_remaining(self, *, tokens: int | None, requests: int | None) -> None:
        self._letter.left = [tokens, requests]

    def dismiss(self) -> None:
        """Stop all that wait; none of them has sent anything."""
        for greenlet in list(self._waiting):
            greenlet.kill(block=False)

    def _ask(self, wanted_ns: int, tokens: int) -> Ticket:
        self._numbers += 1
        ticket = self._tickets[self._numbers] = Ticket(self._numbers, tokens)
        self._letter.ask += (ticket.number, wanted_ns - self.start_ns, tokens)
        self._asked.set()
        return ticket

    def _withdraw(self, ticket: Ticket) -> None:
        if self._tickets.pop(ticket.number, None) is not None:
            self._letter.withdraw.append(ticket.number)

    def _wait(self, ticket: Ticket) -> None:
        """Until it is granted, and the instant of its grant has come."""
        if ticket.at_ns is None:
            ticket.greenlet = gevent.getcurrent()
            try:
                get_hub().switch()
            finally:
                ticket.greenlet = None
        assert ticket.at_ns is not None
        self._alarm.wait_until(ticket.at_ns)


def _number(grant: Grant) -> int:
    number = grant.receipts[0]
    assert isinstance(number, int)
    return number
