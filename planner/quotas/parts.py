"""Parts: which of many arrivals are replayed, so that they stand for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.quota import MINUTE_NS
from planner.quotas.asked import Asked, Counts, Whole, loads_by_minute
from planner.quotas.replay import Codes, Door

MOST_REPLAYED = 60_000  # arrivals; of more, those of some of the deployments are enough
MOST_OF_ONE = 200_000  # of one deployment; of more, some stretches of its time are
STRETCH_MINUTES = 10
LEAD_NS = 2 * MINUTE_NS  # replayed before each of them, and not counted: what is in the windows then


@dataclass(frozen=True, eq=False)
class Part:
    """A door as many of the deployments see it as hold MOST_REPLAYED arrivals, where all are too many to replay.

    Arrivals are dealt out in turn, so that each deployment sees the same load, and some of them stand for all. Where
    those of one alone are more than MOST_OF_ONE, so do stretches of its time: every s-th, from the fullest to the
    emptiest.
    """

    whole: Door
    door: Door
    deployments: int
    stands_for: Whole | None  # by minute of the whole, the minute that is replayed in its place; None: each for itself

    @classmethod
    def of_deployments(cls, whole: Door, deployments: int) -> Part:
        """Of some deployments, at all times."""
        count = len(whole.at_ns)
        some = max(1, deployments * MOST_REPLAYED // count) if count else deployments
        if some >= deployments:
            return cls(whole, whole, deployments, None)
        return cls(whole, _dealt_to(whole, np.arange(0, count, deployments), some), some, None)

    @classmethod
    def of(cls, whole: Door, deployments: int) -> Part:
        """Of some deployments and of some stretches of time, where it takes both."""
        skipped = -(-len(whole.at_ns) // (deployments * MOST_OF_ONE))
        stands_for = _stand_ins(whole, skipped) if skipped > 1 else None
        if stands_for is None:
            return cls.of_deployments(whole, deployments)
        rounds = _rounds_in(whole, np.unique(stands_for), deployments)
        return cls(whole, _dealt_to(whole, rounds, 1), 1, stands_for)

    def is_enough(self, target_share: float) -> bool:
        ((asked, lost),) = self.in_phases((self.whole.phase_ns,))
        return bool(lost.sum() <= target_share * asked.sum())

    def in_phases(self, phases_ns: Sequence[int]) -> Iterator[tuple[Counts, Counts]]:
        """Of each phase of the fixed minute: by minute of the whole, what was asked and what was refused of it.

        Those that never fit aside; counted in requests of the part, and in those of the whole where only some of its
        minutes are replayed.
        """
        asked = self.door.fitting.requests_by_minute
        before: Codes | None = None
        for codes in self.door.refusals_in(self.deployments, phases_ns):
            if codes is not before:
                refused = (codes != 0) & self.door.fits
                lost = np.bincount(self.door.asked.minutes[refused], minlength=len(asked)).astype(np.float64)
                found = (asked, lost) if self.stands_for is None else self._everywhere(asked, lost, self.stands_for)
            before = codes
            yield found

    def _everywhere(self, asked: Counts, lost: Counts, stands_for: Whole) -> tuple[Counts, Counts]:
        share = np.divide(lost, asked, out=np.zeros_like(lost), where=asked > 0)
        everywhere = self.whole.fitting.requests_by_minute
        return everywhere, everywhere * share[np.minimum(stands_for, len(share) - 1)]


def _stand_ins(door: Door, skipped: int) -> Whole | None:
    """By minute, that of every so many-th of the stretches in the order of their fullest minutes; None: too few."""
    fitting = door.fitting
    fullness = np.maximum(*loads_by_minute(fitting.tokens_by_minute, fitting.requests_by_minute, door.quota))
    stretches = len(fullness) // STRETCH_MINUTES
    if stretches < 2 * skipped:
        return None
    fullest = fullness[: stretches * STRETCH_MINUTES].reshape(stretches, STRETCH_MINUTES).max(axis=1)
    order = np.argsort(-fullest, kind="stable")
    chosen = order[skipped // 2 :: skipped]
    stand_in = np.empty(stretches, np.int64)
    stand_in[order] = chosen[np.minimum(np.arange(stretches) // skipped, len(chosen) - 1)]
    minutes = np.arange(len(fullness))
    stretch = np.minimum(minutes // STRETCH_MINUTES, stretches - 1)
    return stand_in[stretch] * STRETCH_MINUTES + minutes % STRETCH_MINUTES


def _rounds_in(door: Door, minutes: Whole, deployments: int) -> Whole:
    """The rounds of the deal that begin within those minutes, or just before them."""
    starts_ns, ends_ns = minutes * MINUTE_NS - LEAD_NS, (minutes + 1) * MINUTE_NS
    firsts = -(-np.searchsorted(door.at_ns, starts_ns) // deployments)
    ends = -(-np.searchsorted(door.at_ns, ends_ns) // deployments)
    firsts = np.maximum(firsts, np.concatenate(([0], np.maximum.accumulate(ends)[:-1])))
    turns = [np.arange(first, end) for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)]
    return np.concatenate(turns) * deployments


def _dealt_to(whole: Door, rounds: Whole, some: int) -> Door:
    """What the first deployments get in those rounds, given by their first places."""
    places = (rounds[:, np.newaxis] + np.arange(some)).ravel()
    places = places[places < len(whole.at_ns)]
    return Door(Asked(whole.at_ns[places], whole.tokens[places]), whole.quota, whole.phase_ns)
