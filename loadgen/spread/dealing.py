"""Who gets what of a load that several workers make: arrivals, users and slots.

All of it is a function of numbers alone, so any process can tell who was dealt an arrival, and the shares of all
workers together are the schedule, whatever their number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count, islice
from operator import attrgetter
from typing import Any

from loadgen.schedule import Arrival

FIELDS = tuple(field.name for field in fields(Arrival))


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of a load: the index-th of so many. Of a load in one process it is all."""

    index: int = 0
    of: int = 1
    first: int = 0  # arrivals that no schedule knows are numbered from here on

    def pick(self, all_of_them: Iterable[Any]) -> Iterator[Any]:
        """Every of-th."""
        return islice(all_of_them, self.index, None, self.of)

    def slots(self, most: int) -> int:
        """Of so many slots; where there are fewer than workers, each still has one."""
        return max(1, most // self.of + (self.index < most % self.of))

    def numbers(self) -> count[int]:
        """Of arrivals that no schedule knows, those that no other worker gives out."""
        return count(self.first + self.index, self.of)


class Deal:
    """Which worker is dealt which arrival: by its place in the schedule, among those that live when it is dealt.

    Of several targets, which arrivals may take in turn, each worker is dealt a whole turn: else a target would be one
    worker's alone, and what differs between workers would seem to differ between targets.
    """

    def __init__(self, workers: Iterable[int], targets: int = 1) -> None:
        self._targets = targets
        self._epochs: list[tuple[int, tuple[int, ...]]] = [(0, tuple(workers))]  # from which place on, who lives

    @property
    def live(self) -> tuple[int, ...]:
        return self._epochs[-1][1]

    def owner(self, place: int) -> int | None:
        """None where nobody lived."""
        live = next(live for first, live in reversed(self._epochs) if place >= first)
        return live[place // self._targets % len(live)] if live else None

    def lose(self, worker: int, next_place: int) -> None:
        """From `next_place` on, which is the first that has not been dealt, that worker gets none."""
        self._epochs.append((next_place, tuple(each for each in self.live if each != worker)))


def packed(arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Arrivals as they travel: a column a field, each a constant, 8 bytes a value, a code a value, or a list."""
    return {"n": len(arrivals), **{name: _column(list(map(attrgetter(name), arrivals))) for name in FIELDS}}


def unpacked(columns: Mapping[str, Any]) -> list[Arrival]:
    number = columns["n"]
    return [Arrival(*values) for values in zip(*(_values(columns[name], number) for name in FIELDS), strict=True)]


def _column(values: list[Any]) -> list[Any]:
    first = values[0] if values else None
    if all(value == first for value in values):
        return ["same", first]
    if all(type(value) is int for value in values):
        return ["int", struct.pack(f"<{len(values)}q", *values)]
    if all(type(value) is str for value in values) and len(words := list(dict.fromkeys(values))) < 1 << 16:
        codes = {word: code for code, word in enumerate(words)}
        return ["word", words, struct.pack(f"<{len(values)}H", *(codes[value] for value in values))]
    return ["list", values]


def _values(column: Sequence[Any], number: int) -> Sequence[Any]:
    match column[0]:
        case "same":
            return [column[1]] * number
        case "int":
            return struct.unpack(f"<{number}q", column[1])
        case "word":
            return [column[1][code] for code in struct.unpack(f"<{number}H", column[2])]
        case _:
            return list(column[1])
