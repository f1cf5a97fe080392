"""How long is waited after an attempt that failed, before the next."""

from __future__ import annotations

import random
from collections.abc import Hashable

FIRST_BACKOFF_S, LONGEST_BACKOFF_S, JITTER_SHARE = 0.5, 8.0, 0.25  # as the openai client's
LONGEST_ASKED_S = 60.0  # of a user: who asks for more is not obeyed


def backoff_s(seed: int, seq: int, times: int) -> float:
    """After `times` further failures: doubling, less up to a quarter that depends on the arrival's number alone."""
    jitter = random.Random(f"{seed} {seq} {times}").random()
    longest: float = min(FIRST_BACKOFF_S * 2 ** min(times, 10), LONGEST_BACKOFF_S)
    return longest * (1 - JITTER_SHARE * jitter)


class Patience:
    """How long the users of a closed loop hold back: nothing else keeps them from asking a deployment that fails at
    once thousands of times a second. What each waits grows with its failures in a row, and ends with an answer.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._failed: dict[Hashable, int] = {}  # in a row, of each user whose last answer was a failure

    def answer(self, user: Hashable) -> None:
        """It got one: its next request waits for nothing."""
        if self._failed:
            self._failed.pop(user, None)

    def failure_s(self, user: Hashable, seq: int, asked_s: float | None) -> float:
        """What it waits after a failure: as the server asked, up to a minute, else as a retry would.

        Who asks for no time, or for a moment that is past, has asked for nothing: there would be no end to the asking.
        """
        times = self._failed.get(user, 0)
        self._failed[user] = times + 1
        if asked_s is None or asked_s <= 0:
            return backoff_s(self._seed, seq, times)
        return min(asked_s, LONGEST_ASKED_S)
