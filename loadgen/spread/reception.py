"""The master's desks, one a target, and their letters: what workers ask, and what they are answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any

import gevent
from gevent.event import Event

from loadgen.alarm import Alarm
from loadgen.budget import Budget
from loadgen.spread.desk import Desk


class Reception:
    """Serves the desks. `answer(worker, target, granted)` sends; instants on the wire count from the run's start.

    `used_up` is told when the budget has admitted its last request.
    """

    def __init__(
        self,
        desks: Sequence[Desk],
        alarm: Alarm,
        answer: Callable[[int, int, list[int | None]], None],
        budget: Budget | None = None,
        used_up: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.start_ns = 0
        self._desks, self._alarm, self._answer = desks, alarm, answer
        self._budget, self._used_up = budget, used_up
        self._due = Event()
        self._woken_ns: int | None = None

    def read(self, worker: int, target: int, letter: dict[str, Any]) -> None:
        """What a worker has sent. Raises ValueError, KeyError or TypeError for what is no letter."""
        desk, now_ns = self._desks[target], monotonic_ns()
        for number in letter.get("withdraw", ()):
            desk.withdraw(now_ns, worker, number)
        for number in letter.get("cancel", ()):
            desk.cancel(now_ns, worker, number)
        settled = letter.get("settle", ())
        for number, tokens in zip(settled[::2], settled[1::2], strict=True):
            desk.settle(now_ns, worker, number, tokens)
        desk.release(worker, letter.get("release", 0))
        if pause_ms := letter.get("pause_ms", 0):
            desk.pause(now_ns + pause_ms * 1_000_000)
        if (left := letter.get("left")) is not None:
            desk.observe_remaining(now_ns, tokens=left[0], requests=left[1])
        if (changes := letter.get("budget")) is not None and self._budget is not None:
            self._budget.settle(int(changes[0]), float(changes[1]), requests=int(changes[2]))
        asked = letter.get("ask", ())
        estimates = letter.get("estimate") or [0, 0.0] * (len(asked) // 3)
        for number, wanted_ns, tokens, *estimate in zip(
            asked[::3], asked[1::3], asked[2::3], estimates[::2], estimates[1::2], strict=True
        ):
            desk.ask(worker, number, self.start_ns + wanted_ns, tokens, (estimate[0], estimate[1]))
        self._due.set()

    def run(self) -> None:
        """Answer whenever there may be something to say."""
        while True:
            self._due.wait()
            self._due.clear()
            for target, desk in enumerate(self._desks):
                self._serve(target, desk)
            self._set_alarm()
            gevent.sleep(0)

    def lose(self, worker: int) -> None:
        for desk in self._desks:
            desk.lose(worker)
        self._due.set()

    def clear_places(self, worker: int) -> None:
        for desk in self._desks:
            desk.clear_places(worker)
        self._due.set()

    def _serve(self, target: int, desk: Desk) -> None:
        granted: defaultdict[int, list[int | None]] = defaultdict(list)
        for each in desk.admit(monotonic_ns()):
            granted[each.worker] += (each.number, None if each.at_ns is None else each.at_ns - self.start_ns)
            if each.at_ns is None and self._budget is not None and self._budget.used_up is not None:
                self._used_up(self._budget.used_up)
        for worker, numbers in granted.items():
            self._answer(worker, target, numbers)

    def _set_alarm(self) -> None:
        now_ns = monotonic_ns()
        due = [at_ns for desk in self._desks if (at_ns := desk.next_ns(now_ns)) is not None]
        if due and (self._woken_ns is None or min(due) < self._woken_ns):
            self._woken_ns = min(due)
            self._alarm.call_at(self._woken_ns, self._ring)

    def _ring(self) -> None:
        self._woken_ns = None
        self._due.set()
