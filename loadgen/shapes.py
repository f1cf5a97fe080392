"""The rate of an open loop over time, in linear pieces, with its integral and the inverse of that in closed form.

Arrivals follow a shape by a change of time: gaps of mean one add up to areas under the rate, and an arrival is due when
the integral of the rate has grown to its area. Poisson gaps so become an inhomogeneous Poisson process of just that
rate (Cinlar, Introduction to Stochastic Processes, 1975, section 4.7); constant ones come once per unit of area.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from loadgen.errors import ConfigError
from loadgen.slo import parse_duration_ns

NS_PER_S = 1_000_000_000
HOURS = 24
MOST_WEIGHT = 1_000_000  # of an hour
MOST_PER_S = 10_000_000  # of any rate: a hundred times what a machine sends
MOST_DAYS = 10_000  # of one run: more would be a mistake in `day`
SECONDS_OF = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
_SPIKE = re.compile(r"\s*(?P<rate>[^:@]+):(?P<duration>[^:@]+)@(?P<start>[^:@]+)", re.ASCII)


def parse_rate(text: str) -> float:
    """Per second: `5/s`, `300/min`, `100/h` or `5`. Raises ConfigError."""
    number, _, unit = text.partition("/")
    try:
        rate_per_s = float(number) / SECONDS_OF[unit.strip()]
    except (ValueError, KeyError):
        rate_per_s = math.nan
    if not math.isfinite(rate_per_s):
        raise ConfigError(f"{text!r} is not a rate; write it like 5/s, 300/min or 5")
    if rate_per_s > MOST_PER_S:
        raise ConfigError(f"{text!r} is more than {MOST_PER_S:,} a second, which nothing sends")
    return rate_per_s


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of time in which the rate changes evenly from `first_per_s` to `last_per_s`."""

    duration_s: float
    first_per_s: float
    last_per_s: float

    @property
    def area(self) -> float:
        """Arrivals that are to be expected in it."""
        return (self.first_per_s + self.last_per_s) / 2 * self.duration_s

    def area_until(self, at_s: float) -> float:
        slope = (self.last_per_s - self.first_per_s) / self.duration_s
        return self.first_per_s * at_s + slope * at_s * at_s / 2

    def instant_of(self, area: float) -> float:
        """The inverse of `area_until`, written so that nothing cancels where the slope is nearly zero."""
        if area <= 0:
            return 0.0
        slope = (self.last_per_s - self.first_per_s) / self.duration_s
        root = math.sqrt(max(0.0, self.first_per_s * self.first_per_s + 2 * slope * area))
        return min(self.duration_s, 2 * area / (self.first_per_s + root))


@dataclass(frozen=True)
class Shape:
    """Pieces one after the other, from the run's start to its end."""

    pieces: tuple[Piece, ...]

    @cached_property
    def duration_s(self) -> float:
        return math.fsum(piece.duration_s for piece in self.pieces)

    @property
    def area(self) -> float:
        """Arrivals that are to be expected in all."""
        return self._areas[-1]

    @property
    def constant_per_s(self) -> float | None:
        """The rate where it is the same throughout."""
        rates = {rate for piece in self.pieces for rate in (piece.first_per_s, piece.last_per_s)}
        return rates.pop() if len(rates) == 1 else None

    @cached_property
    def _areas(self) -> list[float]:
        """Up to the end of each piece."""
        return list(accumulate(piece.area for piece in self.pieces))

    @cached_property
    def _ends_s(self) -> list[float]:
        return list(accumulate(piece.duration_s for piece in self.pieces))

    def area_until(self, at_s: float) -> float:
        """Arrivals that are to be expected before `at_s`."""
        if at_s <= 0:
            return 0.0
        number = bisect_left(self._ends_s, at_s)
        if number == len(self.pieces):
            return self.area
        piece = self.pieces[number]
        return self._areas[number] - piece.area + piece.area_until(at_s - self._ends_s[number] + piece.duration_s)

    def instants_of(self, areas: Iterable[float]) -> Iterator[float]:
        """When the integral of the rate has grown to each of `areas`, which rise; ends with the shape."""
        number = 0
        for area in areas:
            while self._areas[number] <= area:
                number += 1
                if number == len(self.pieces):
                    return
            piece = self.pieces[number]
            start_s = self._ends_s[number] - piece.duration_s
            yield start_s + piece.instant_of(area - self._areas[number] + piece.area)


def constant(rate_per_s: float, duration_s: float) -> Shape:
    return Shape((Piece(duration_s, rate_per_s, rate_per_s),))


@dataclass(frozen=True, slots=True)
class Stage:
    """A rate, and how long the ramp to it takes from the stage before."""

    rate_per_s: float
    duration_s: float

    @classmethod
    def parse(cls, text: str) -> Stage:
        """`20/s:120s`. Raises ConfigError."""
        rate, colon, duration = text.partition(":")
        if not colon:
            raise ConfigError(f"{text.strip()!r} is not a stage; write it like 20/s:120s (a rate, and how long)")
        rate_per_s = parse_rate(rate)
        if rate_per_s < 0:
            raise ConfigError(f"{text.strip()!r}: a rate is not below zero")
        return cls(rate_per_s, parse_duration_ns(duration) / NS_PER_S)


def staged(stages: Sequence[Stage]) -> Shape:
    """From each stage's rate to the next one's over the next one's duration; the first holds its own.

    A stage of no duration jumps to its rate. Raises ConfigError where nothing is ever due.
    """
    pieces = []
    for before, stage in pairwise([*stages[:1], *stages]):
        if stage.duration_s > 0:
            pieces.append(Piece(stage.duration_s, before.rate_per_s, stage.rate_per_s))
    if not any(piece.area > 0 for piece in pieces):
        raise ConfigError("the stages ask for no arrival: give one a rate and a duration")
    return Shape(tuple(pieces))


@dataclass(frozen=True, slots=True)
class Spike:
    """Another rate for a while."""

    rate_per_s: float
    duration_s: float
    start_s: float

    @classmethod
    def parse(cls, text: str) -> Spike:
        """`50/s:10s@30s`. Raises ConfigError."""
        found = _SPIKE.fullmatch(text)
        if found is None:
            raise ConfigError(f"{text!r} is not a spike; write it like 50/s:10s@30s (a rate, how long, and from when)")
        spike = cls(
            parse_rate(found["rate"]),
            parse_duration_ns(found["duration"]) / NS_PER_S,
            parse_duration_ns(found["start"]) / NS_PER_S,
        )
        if spike.rate_per_s < 0 or spike.duration_s <= 0:
            raise ConfigError(f"{text!r}: a spike's rate is not below zero, and it lasts for some time")
        return spike


def spiked(rate_per_s: float, duration_s: float, spike: Spike) -> Shape:
    """`rate_per_s` but for the spike. Raises ConfigError for a spike that the run ends before or within."""
    end_s = spike.start_s + spike.duration_s
    if end_s > duration_s:
        raise ConfigError(f"the spike ends {end_s:g} s after the start, and the run after {duration_s:g} s")
    levels = (
        (spike.start_s, rate_per_s),
        (spike.duration_s, spike.rate_per_s),
        (duration_s - end_s, rate_per_s),
    )
    return Shape(tuple(Piece(length_s, level, level) for length_s, level in levels if length_s > 0))


def diurnal(mean_per_s: float, duration_s: float, weights: Sequence[float], day_s: float) -> Shape:
    """Days of 24 hours that each hold their weight; `mean_per_s` is the mean of a whole day."""
    if duration_s > MOST_DAYS * day_s:
        raise ConfigError(f"{duration_s:g} s are more than {MOST_DAYS:,} days of {day_s:g} s: make the day longer")
    mean_weight = math.fsum(weights) / HOURS
    rates = [mean_per_s * weight / mean_weight for weight in weights]
    pieces = []
    for hour in range(math.ceil(duration_s / day_s * HOURS)):
        starts_s, ends_s = hour * day_s / HOURS, min(duration_s, (hour + 1) * day_s / HOURS)
        if ends_s > starts_s:
            pieces.append(Piece(ends_s - starts_s, rates[hour % HOURS], rates[hour % HOURS]))
    return Shape(tuple(pieces))


def parse_weights(text: str) -> list[float]:
    """`1,1,2,...`: numbers between commas. Raises ConfigError."""
    try:
        return [float(weight) for weight in text.split(",")]
    except ValueError:
        raise ConfigError(f"{text!r} are no weights; write 24 numbers with commas between them") from None


def check_weights(weights: Sequence[float]) -> None:
    """One for each hour of a day, not all zero. Raises ConfigError."""
    if len(weights) != HOURS:
        raise ConfigError(f"a day has {HOURS} hours, and {len(weights)} weights are given")
    if not all(0 <= weight <= MOST_WEIGHT for weight in weights) or not any(weights):
        raise ConfigError(f"the weight of an hour is a number from 0 to {MOST_WEIGHT:,}, and some are above 0")
