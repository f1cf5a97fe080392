"""When a run is not worth going on with: the key is refused, or hardly anything but errors comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from loadgen.samples import Outcome

WINDOW_S = 60.0
SHORTEST_WINDOW_S = 10.0  # of a run that has not lasted longer yet
FEWEST_ATTEMPTS = 20
STOPPING_SHARE = 0.9
# Users that hold back make fewer: so long (s) and so many of them with no answer in between tell as much.
NOTHING_BUT_FAILURES = ((60.0, 5), (120.0, 3))
DENIED = (401, 403)
ERRORS = (
    Outcome.SERVER_ERROR,
    Outcome.TIMEOUT,
    Outcome.NETWORK,
    Outcome.BROKEN_STREAM,
    Outcome.REJECTED,
)
# A 429 is an answer: it counts as finished and is no error, and neither is what content safety stopped.
FINISHED = (*ERRORS, Outcome.OK, Outcome.THROTTLED, Outcome.FILTERED)


class ErrorWindow:
    """The share of errors among the attempts that finished in the last minute, and since when there is nothing else.

    It is shown counts that only grow, once a second: what an attempt costs is nothing.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)])  # when, finished, errors; oldest first
        self._answers = 0
        self._quiet = (0.0, 0)  # since when nothing but failures came, and the errors until then

    def look(self, at_s: float, outcomes: Mapping[str, int]) -> str | None:
        """The reason to stop, or None. `at_s` counts from the run's start, `outcomes` all attempts since then."""
        finished = sum(outcomes.get(outcome, 0) for outcome in FINISHED)
        errors = sum(outcomes.get(outcome, 0) for outcome in ERRORS)
        alone = self._nothing_but_failures(at_s, finished - errors, errors)
        self._looks.append((at_s, finished, errors))
        while self._looks[1][0] <= at_s - WINDOW_S:
            self._looks.popleft()
        then_s, finished_before, errors_before = self._looks[0]
        window_s, n, failed = at_s - then_s, finished - finished_before, errors - errors_before
        if window_s < SHORTEST_WINDOW_S or n < FEWEST_ATTEMPTS or failed < STOPPING_SHARE * n:
            return alone
        return f"auto-stop: {failed:,} of {n:,} attempts of the last {window_s:.0f} s failed"

    def _nothing_but_failures(self, at_s: float, answers: int, errors: int) -> str | None:
        """The reason to stop that few failures are: each since the first of them, and one just now."""
        if answers != self._answers or errors == self._quiet[1]:
            self._answers, self._quiet = answers, (at_s, errors)
        lasted_s, failed = at_s - self._quiet[0], errors - self._quiet[1]
        if errors == self._looks[-1][2] or not any(lasted_s >= s and failed >= n for s, n in NOTHING_BUT_FAILURES):
            return None
        return f"auto-stop: all {failed:,} attempts of the last {lasted_s:.0f} s failed"


def denial(target: str, status: int, key: str | None = None) -> str:
    """The reason to stop after the first answer that says so. `key` says which one was sent; None where none was."""
    if status == 401:
        why = "it wants a key, and none was given" if key is None else f"{key} is wrong"
    else:
        why = f"{key or 'who has no key'} may not do this"
    return f"auto-stop: {target} answered {status}: {why}"
