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
from loadgen.budget import Budget
from loadgen.quota import Grant, Limiter

BATCH_S = 0.005  # between two messages while something is asked for
SETTLE_S = 0.05  # what has come to its end may wait so long
LIFE_NS = 500_000_000  # of a grant that is not used: who was frozen for longer must ask again


@dataclass(slots=True, eq=False)
class Ticket:
    """One request on its way through the queue elsewhere."""

    number: int
    tokens: int
    estimate: tuple[int, float]  # tokens and US dollars of the budget
    asked_ahead: bool  # of the instant when it is wanted
    at_ns: int | None = None  # of CLOCK_MONOTONIC: from when on it may leave
    refused: bool = False  # the budget is used up
    greenlet: gevent.Greenlet | None = None  # who waits for that


class Letter:
    """What has gathered for the desk since the last message."""

    def __init__(self) -> None:
        self.ask: list[int] = []  # number, wanted when (ns since the run's start), tokens; and so on
        self.estimate: list[float] = []  # tokens and US dollars of the budget, for each of them, where there is one
        self.settle: list[int] = []  # number, tokens
        self.withdraw: list[int] = []
        self.cancel: list[int] = []
        self.release = 0
        self.pause_ms = 0
        self.left: list[int | None] | None = None  # tokens and requests, as a server says

    def content(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}


class DistantBudget(Budget):
    """A worker's end of the run's budget: what is reserved there comes with the admission, what changes goes back."""

    def __init__(self) -> None:
        super().__init__()
        self.admitted = True  # the request that was let through the gate last
        self._changes = [0, 0.0, 0]

    def reserve(self, tokens: int, usd: float) -> bool:  # noqa: ARG002 - as any budget is asked
        if not self.admitted:
            self.close("the budget is used up")
        return self.admitted

    def settle(self, tokens: int, usd: float, *, requests: int = 0) -> None:
        for place, change in enumerate((tokens, usd, requests)):
            self._changes[place] += change

    def take_changes(self) -> list[float] | None:
        """Since the last time: tokens, US dollars, requests."""
        changes, self._changes = self._changes, [0, 0.0, 0]
        return changes if any(changes) else None


class DistantThrottle:
    """A Gate whose limits are kept by the master. `send` takes what it is to be told; `answer` its answers."""

    def __init__(
        self,
        limiter: Limiter | None,
        alarm: Alarm,
        send: Callable[[dict[str, Any]], None],
        budget: DistantBudget | None = None,
    ) -> None:
        self.start_ns = 0  # the run's zero
        self.void = 0  # grants that came too late to be used
        self._limiter, self._alarm, self._send = limiter, alarm, send  # the limiter says what can never fit
        self._budget = budget
        self._withdrawn: dict[int, tuple[int, float]] = {}  # before an answer came, by number
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
            if self._budget is not None and (changes := self._budget.take_changes()) is not None:
                letter["budget"] = changes
            if letter:
                self._send(letter)
                gevent.sleep(BATCH_S)

    def answer(self, granted: list[int | None]) -> None:
        """Numbers, each with the instant from which on it may be sent, ns since the run's start; None for never."""
        for number, at_ns in zip(granted[::2], granted[1::2], strict=True):
            assert number is not None
            estimate = self._withdrawn.pop(number, None)
            if estimate is not None and at_ns is not None:  # the desk has been told
                self._return(estimate)
            ticket = self._tickets.get(number)
            if ticket is None:
                continue
            ticket.refused = at_ns is None
            ticket.at_ns = monotonic_ns() if at_ns is None else self.start_ns + at_ns
            if ticket.greenlet is not None:
                get_hub().loop.run_callback(ticket.greenlet.switch)
                ticket.greenlet = None

    def expect(self, wanted_ns: int, tokens: int, estimate: tuple[int, float]) -> None:
        """The calling greenlet will want to be admitted then."""
        if self._limiter is None or tokens <= self._limiter.largest:  # else `admit` says so, and no queue waits for it
            self._expected[gevent.getcurrent()] = self._ask(wanted_ns, tokens, estimate)

    def forget(self) -> None:
        """The calling greenlet will want nothing after all."""
        ticket = self._expected.pop(gevent.getcurrent(), None)
        if ticket is not None:
            self._withdraw(ticket)

    def admit(self, tokens: int) -> Grant:
        """Park the calling greenlet until the master admits the request. Raises ConfigError if it never can."""
        greenlet = gevent.getcurrent()
        ticket = self._expected.pop(greenlet, None)
        if ticket is None:
            if self._limiter is not None:
                self._limiter.check_fits(tokens)
            ticket = self._ask(monotonic_ns(), tokens, (tokens, 0.0))
        self._waiting[greenlet] = ticket
        try:
            while True:
                self._wait(ticket)
                now_ns = monotonic_ns()
                assert ticket.at_ns is not None
                if now_ns - ticket.at_ns <= LIFE_NS:
                    break
                self._give_up(ticket)
                ticket = self._waiting[greenlet] = self._ask(now_ns, tokens, ticket.estimate)
        except BaseException:  # the user was stopped while it waited
            self._withdraw(ticket)
            raise
        finally:
            del self._waiting[greenlet]
        del self._tickets[ticket.number]
        if self._budget is not None:
            self._budget.admitted = not ticket.refused
        # Who asked ahead had the instant in time: what delays it from there is our own lateness, not the quota.
        return Grant(tokens, ticket.at_ns if ticket.asked_ahead else now_ns, [ticket.number])

    def outlook(self, now_ns: int, tokens: int) -> tuple[int, int]:  # noqa: ARG002 - as any gate is asked
        """What this worker knows: how many of its own wait."""
        return self.waiting, now_ns

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

    def dismiss(self, *, but_granted: bool = False) -> None:
        """Stop all that wait, or those that have not been granted yet; none of them has sent anything."""
        for greenlet, ticket in list(self._waiting.items()):
            if ticket.at_ns is None or not but_granted:
                greenlet.kill(block=False)

    def _ask(self, wanted_ns: int, tokens: int, estimate: tuple[int, float]) -> Ticket:
        self._numbers += 1
        ticket = self._tickets[self._numbers] = Ticket(
            self._numbers, tokens, estimate, asked_ahead=wanted_ns > monotonic_ns()
        )
        self._letter.ask += (ticket.number, wanted_ns - self.start_ns, tokens)
        if self._budget is not None:
            self._letter.estimate += estimate
        self._asked.set()
        return ticket

    def _give_up(self, ticket: Ticket) -> None:
        """Too old to be used: its place is free, what it took of the quota stays taken."""
        self.void += 1
        self._letter.release += 1
        del self._tickets[ticket.number]
        self._return(ticket.estimate)

    def _withdraw(self, ticket: Ticket) -> None:
        if self._tickets.pop(ticket.number, None) is None:
            return
        self._letter.withdraw.append(ticket.number)
        if ticket.at_ns is not None:
            self._return(ticket.estimate if not ticket.refused else (0, 0.0))
        elif self._budget is not None:
            self._withdrawn[ticket.number] = ticket.estimate

    def _return(self, estimate: tuple[int, float]) -> None:
        if self._budget is not None and estimate != (0, 0.0):
            self._budget.settle(-estimate[0], -estimate[1], requests=-1)

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
