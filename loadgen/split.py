"""Which of several targets an arrival goes to, and which one tries it again. Targets are named by their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from loadgen.schedule import Arrival

Outlook = tuple[int, int]  # of a target: how many wait for its quota, and the instant (ns) at which one more could go


@dataclass(frozen=True, slots=True)
class Router:
    """What it decides by weight or in turn depends on the run's seed and the arrival's number alone, so that any
    process decides alike."""

    split: str  # weight | round_robin | least_throttled | each
    weights: Sequence[float]

    @property
    def decides_late(self) -> bool:
        """Only when an arrival is due is it known which target has room for it."""
        return self.split == "least_throttled"

    def first(self, arrival: Arrival, outlooks: Callable[[], Sequence[Outlook]]) -> int:
        """Where an arrival goes."""
        places = range(len(self.weights))
        if self.split == "weight":
            return Random(f"{arrival.seed}/{arrival.began}/target").choices(places, self.weights)[0]
        return self._least(places, arrival, outlooks()) if self.decides_late else arrival.began % len(places)

    def elsewhere(self, arrival: Arrival, tried: Sequence[int], outlooks: Callable[[], Sequence[Outlook]]) -> int:
        """Where an arrival is tried again that `tried` have refused: at one that has not yet, else at another than the
        last. By weight and in turn alike it goes to what the split would give it among those."""
        places = range(len(self.weights))
        left = [place for place in places if place not in tried] or [place for place in places if place != tried[-1]]
        if self.decides_late:
            return self._least(left, arrival, outlooks())
        if self.split == "weight":
            random = Random(f"{arrival.seed}/{arrival.seq}/target/{len(tried)}")
            return random.choices(left, [self.weights[place] for place in left])[0]
        return min(left, key=lambda place: (place - tried[-1]) % len(places))

    def _least(self, places: Sequence[int], arrival: Arrival, outlooks: Sequence[Outlook]) -> int:
        """Fewest waiting, then the soonest to admit one more; those alike take turns."""
        return min(places, key=lambda place: (*outlooks[place], (place - arrival.seq) % len(self.weights)))


@dataclass(frozen=True, slots=True)
class Copied:
    """Each arrival once for every target: number n becomes n x targets + place, and what is drawn for it stays.

    It is read as often as the arrivals are: what a lost worker had been dealt is looked up in it again.
    """

    arrivals: Iterable[Arrival]
    targets: int

    def __iter__(self) -> Iterator[Arrival]:
        for arrival in self.arrivals:
            for place in range(self.targets):
                yield replace(arrival, seq=arrival.seq * self.targets + place, drawn_as=arrival.seq)
