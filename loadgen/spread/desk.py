"""The one place that admits requests to a target, for all workers of a run; time is an argument.

Workers ask for what they will want to send and when; the desk serves the asks in the order of those instants, as the
throttle of one process would, and says from when on each request may leave. It looks ahead: an ask is decided
`ahead_ns` before it is wanted, at the instants that lie then in the future, so that the answer is there in time. What
is granted counts as sent from that instant on, whatever becomes of the worker.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from loadgen.budget import Budget
from loadgen.quota import Grant, Limiter

FORGOTTEN_NS = 3_600 * 1_000_000_000  # after so long no correction of a grant changes anything

Key = tuple[int, int]  # a worker's index, and the number that it gave the request


@dataclass(frozen=True, slots=True)
class Admitted:
    worker: int
    number: int
    at_ns: int | None  # from when on it may be sent; None: never, since the budget is used up


@dataclass(slots=True)
class _Ask:
    wanted_ns: int
    tokens: int
    estimate: tuple[int, float]  # tokens and US dollars of the budget
    after_ns: int  # the last grant when it was asked


class Desk:
    """Both limits of one target, the places in flight, and the queue of all workers before them.

    Without a limiter whatever is wanted is admitted. What is admitted is reserved in the budget of the run, where it
    has one; to correct that is the asking worker's.
    """

    def __init__(
        self,
        limiter: Limiter | None,
        *,
        concurrency: int | None = None,
        ahead_ns: int = 0,
        budget: Budget | None = None,
    ) -> None:
        self._limiter, self._free_places, self._ahead_ns, self._budget = limiter, concurrency, ahead_ns, budget
        self._queue: list[tuple[int, int, Key]] = []  # a heap: wanted when, in which order asked, by whom
        self._order = count()
        self._asks: dict[Key, _Ask] = {}
        self._grants: OrderedDict[Key, Grant] = OrderedDict()
        self._placed: dict[int, int] = {}  # by worker, how many of its requests hold a place
        self._last_ns = 0  # the instant of the last grant: none is earlier than one before it

    def ask(
        self, worker: int, number: int, wanted_ns: int, tokens: int, estimate: tuple[int, float] = (0, 0.0)
    ) -> None:
        key = (worker, number)
        self._asks[key] = _Ask(wanted_ns, tokens, estimate, self._last_ns)
        heappush(self._queue, (wanted_ns, next(self._order), key))

    def withdraw(self, now_ns: int, worker: int, number: int) -> None:
        """It will never be sent: out of the queue, or, where it has been granted, given back."""
        if self._asks.pop((worker, number), None) is None and self.cancel(now_ns, worker, number):
            self._free_place(worker)

    def admit(self, now_ns: int) -> list[Admitted]:
        """Serve the head of the queue as far as both limits allow."""
        admitted = []
        while (head := self._head()) is not None and self._free_places != 0:
            key, ask = head
            counted_ns, at_ns = self._instants_ns(now_ns, ask)
            if counted_ns > now_ns + self._ahead_ns:
                break
            heappop(self._queue)
            del self._asks[key]
            if self._budget is not None and not self._budget.reserve(*ask.estimate):
                admitted.append(Admitted(*key, None))
                continue
            if self._limiter is not None:
                self._grants[key] = self._limiter.take(counted_ns, ask.tokens)
            self._last_ns = counted_ns
            self._take_place(key[0])
            admitted.append(Admitted(*key, at_ns))
        self._forget(now_ns)
        return admitted

    def next_ns(self, now_ns: int) -> int | None:
        """When `admit` has more to say, if nothing else happens. None: not before something does."""
        head = self._head()
        if head is None or self._free_places == 0:
            return None
        return self._instants_ns(now_ns, head[1])[0] - self._ahead_ns

    def settle(self, now_ns: int, worker: int, number: int, tokens: int) -> None:
        """Correct a grant to what the request really cost."""
        grant = self._grants.pop((worker, number), None)
        if grant is not None and self._limiter is not None:
            self._limiter.settle(now_ns + self._ahead_ns, grant, tokens)

    def cancel(self, now_ns: int, worker: int, number: int) -> bool:
        """Give back a grant that the server never counted; whether there was one."""
        grant = self._grants.pop((worker, number), None)
        if grant is not None and self._limiter is not None:
            self._limiter.cancel(now_ns + self._ahead_ns, grant)
        return grant is not None

    def release(self, worker: int, places: int) -> None:
        for _ in range(places):
            self._free_place(worker)

    def pause(self, until_ns: int) -> None:
        """Admit nothing before: a server has asked for it."""
        if self._limiter is not None:
            self._limiter.pause(until_ns)

    def observe_remaining(self, now_ns: int, *, tokens: int | None, requests: int | None) -> None:
        if self._limiter is not None:
            self._limiter.observe_remaining(now_ns + self._ahead_ns, tokens=tokens, requests=requests)

    def lose(self, worker: int) -> None:
        """That worker asks for nothing any more. What it was granted counts as sent: nobody knows."""
        self._asks = {key: ask for key, ask in self._asks.items() if key[0] != worker}

    def clear_places(self, worker: int) -> None:
        """Its connections are gone, and what was in flight on them."""
        self.release(worker, self._placed.get(worker, 0))

    @property
    def waiting(self) -> int:
        return len(self._asks)

    def _head(self) -> tuple[Key, _Ask] | None:
        while self._queue:
            ask = self._asks.get(self._queue[0][2])
            if ask is not None and ask.wanted_ns == self._queue[0][0]:
                return self._queue[0][2], ask
            heappop(self._queue)  # withdrawn, or its worker was lost
        return None

    def _instants_ns(self, now_ns: int, ask: _Ask) -> tuple[int, int]:
        """As of when it counts, and from when on it may be sent: the same, but for an ask that comes late.

        Others may have been granted instants up to `ahead_ns` later already, and the limits' time never runs back; who
        has room there has room now, where the limits forget nothing within that time (see `pacing`).
        """
        wanted_ns = max(now_ns, ask.wanted_ns)
        in_turn_ns = max(wanted_ns, self._last_ns)
        if self._limiter is None:
            return in_turn_ns, wanted_ns
        counted_ns = self._limiter.earliest_ns(in_turn_ns, ask.tokens)
        if counted_ns > in_turn_ns or self._last_ns > ask.after_ns:  # it has waited for its turn
            return counted_ns, counted_ns
        return counted_ns, self._limiter.earliest_ns(wanted_ns, ask.tokens)

    def _take_place(self, worker: int) -> None:
        if self._free_places is not None:
            self._free_places -= 1
            self._placed[worker] = self._placed.get(worker, 0) + 1

    def _free_place(self, worker: int) -> None:
        if self._free_places is not None and self._placed.get(worker, 0) > 0:
            self._free_places += 1
            self._placed[worker] -= 1

    def _forget(self, now_ns: int) -> None:
        while self._grants and next(iter(self._grants.values())).at_ns < now_ns - FORGOTTEN_NS:
            self._grants.popitem(last=False)
