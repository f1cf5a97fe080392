"""Parts: which of many arrivals are replayed, so that they stand for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.quota import MINUTE_NS
from planner.quotas.asked import Asked, Counts, Whole
from planner.quotas.replay import Codes, Door

MOST_REPLAYED = 60_000  # arrivals; of more, those of some of the deployments are enough
MOST_OF_ONE = 200_000  # of one deployment; of more, some stretches of its time are
STRETCH_MINUTES = 10
FEWEST_STRETCHES = 20
LEAD_NS = 2 * MINUTE_NS  # replayed before each of them, and not counted: what is in the windows then
ALIKE = 10  # minutes that are as full as one another, whose share refused is one


@dataclass(frozen=True, eq=False)
class Part:
    """A door as many of the deployments see it as hold MOST_REPLAYED arrivals, where all are too many to replay.

    Arrivals are dealt out in turn, so that each deployment sees the same load, and some of them stand for all. Where
    those of one alone are more than MOST_OF_ONE, so do stretches of its time: the fullest, and every so many-th of the
    others. In the other minutes the share that is refused is what the fluid screen says, in which requests can be
    divided, and as much more as it was in minutes that were replayed and about as full.
    """

    whole: Door
    door: Door
    deployments: int  # of the part
    deployments_in_all: int
    replayed: Whole | None  # minutes of the whole, in ascending order; None: all

    @classmethod
    def of_deployments(cls, whole: Door, deployments: int, times: int = 1) -> Part:
        """Of some deployments, at all times, of which there are so many."""
        count = len(whole.at_ns) * times
        some = max(1, deployments * MOST_REPLAYED // count) if count else deployments
        if some >= deployments:
            return cls(whole, whole, deployments, deployments, None)
        return cls(whole, _dealt_to(whole, np.arange(0, len(whole.at_ns), deployments), some), some, deployments, None)

    @classmethod
    def of(cls, whole: Door, deployments: int) -> Part:
        """Of some deployments and of some stretches of time, where it takes both."""
        skipped = -(-len(whole.at_ns) // (deployments * MOST_OF_ONE))
        replayed = _every(skipped, whole) if skipped > 1 else None
        if replayed is None:
            return cls.of_deployments(whole, deployments)
        return cls(whole, _dealt_to(whole, _rounds_in(whole, replayed, deployments), 1), 1, deployments, replayed)

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
                found = (asked, lost) if self.replayed is None else self._everywhere(asked, lost, self.replayed)
            before = codes
            yield found

    def again(self, span_ns: int, until_ns: int, target_share: float) -> tuple[Counts, Counts]:
        """At buckets, where all comes again each `span_ns` until then: what was asked and refused; shape (1,).

        As soon as that is more than the target of all that is asked, no further.
        """
        times, fits = -(-until_ns // span_ns), self.door.fits
        in_last = fits & (self.door.at_ns < until_ns - (times - 1) * span_ns)
        asked, lost = (times - 1) * int(fits.sum()) + int(in_last.sum()), 0
        for time, codes in enumerate(self.door.refusals_again(self.deployments, times, span_ns), 1):
            lost += int((codes[in_last if time == times else fits] != 0).sum())
            if lost > target_share * asked:
                break
        return np.array([float(asked)]), np.array([float(lost)])

    def _everywhere(self, asked: Counts, lost: Counts, replayed: Whole) -> tuple[Counts, Counts]:
        everywhere, fullness = self.whole.fitting.requests_by_minute, np.maximum(*self.whole.loads)
        fluid = np.maximum(1 - self.deployments_in_all / np.maximum(fullness, 1e-9), 0)
        share = np.divide(lost, asked, out=np.zeros_like(lost), where=asked > 0)
        known = np.zeros(len(everywhere))
        known[: len(share)] = share[: len(everywhere)]
        alike = replayed[np.argsort(fullness[replayed], kind="stable")]
        starts = np.arange(0, len(alike), ALIKE)
        counts = np.diff(starts, append=len(alike))
        more, at = (np.add.reduceat(each[alike], starts) / counts for each in (known - fluid, fullness))
        shares = np.clip(fluid + np.interp(fullness, at, more), 0, 1)
        shares[replayed] = known[replayed]
        return everywhere, everywhere * shares


def _every(skipped: int, door: Door) -> Whole | None:
    """The minutes of the fullest stretches, by their fullest minute, and of every so many-th of the others.

    None where there are too few to choose from.
    """
    fullness = np.maximum(*door.loads)
    stretches = len(fullness) // STRETCH_MINUTES
    wanted = max(FEWEST_STRETCHES, stretches // skipped)
    if wanted >= stretches:
        return None
    fullest = fullness[: stretches * STRETCH_MINUTES].reshape(stretches, STRETCH_MINUTES).max(axis=1)
    order = np.argsort(-fullest, kind="stable")
    top = wanted // 4
    others = np.linspace(top, stretches - 1, wanted - top).astype(np.int64)
    chosen = np.sort(order[np.concatenate((np.arange(top), others))])
    return (chosen[:, np.newaxis] * STRETCH_MINUTES + np.arange(STRETCH_MINUTES)).ravel()


def _rounds_in(door: Door, minutes: Whole, deployments: int) -> Whole:
    """The rounds of the deal that begin within those minutes, or just before them, by their first places."""
    starts_ns, ends_ns = minutes * MINUTE_NS - LEAD_NS, (minutes + 1) * MINUTE_NS
    firsts = -(-np.searchsorted(door.at_ns, starts_ns) // deployments)
    ends = -(-np.searchsorted(door.at_ns, ends_ns) // deployments)
    firsts = np.maximum(firsts, np.concatenate(([0], ends[:-1])))
    turns = [np.arange(first, end) for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)]
    return np.concatenate(turns) * deployments


def _dealt_to(whole: Door, rounds: Whole, some: int) -> Door:
    """What the first deployments get in those rounds."""
    places = (rounds[:, np.newaxis] + np.arange(some)).ravel()
    places = places[places < len(whole.at_ns)]
    return Door(Asked(whole.at_ns[places], whole.tokens[places]), whole.quota, whole.phase_ns)
