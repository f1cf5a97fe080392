"""When to send: arrival instants drawn from a seed, or those of a trace. Same seed, same schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Any

from loadgen.errors import ConfigError
from loadgen.shapes import Shape, constant

NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class Arrival:
    """One request that is due. All that is drawn for it comes from `random`, so it does not depend on who sends it."""

    seq: int
    due_ns: int  # since the run's start
    scenario: str
    seed: int = 0
    prompt_tokens: int | None = None  # stated by a trace, as is all that follows
    completion_tokens: int | None = None
    messages: list[dict[str, Any]] | None = None
    images: list[tuple[int, int]] | None = None  # width and height of each in pixels
    drawn_as: int | None = None  # the number it shares its draws by, where several targets get the same request
    session: int | None = None  # of a later turn: seq of the arrival that began it
    turn: int = 0

    @property
    def random(self) -> Random:
        """A fresh generator that depends on the run's seed and on seq alone; of a later turn on its session."""
        return Random(self._source)

    def random_for(self, what: str) -> Random:
        """Another one for each thing that is drawn, so that drawing one more changes none of the others."""
        return Random(f"{self._source}/{what}")

    @property
    def began(self) -> int:
        """The number of the arrival that its session began with; mostly its own."""
        return self.seq if self.session is None else self.session

    @property
    def _source(self) -> str:
        number = self.began if self.drawn_as is None else self.drawn_as
        return f"{self.seed}/{number}/{self.turn}" if self.turn else f"{self.seed}/{number}"


@dataclass(frozen=True, slots=True)
class TraceRow:
    """An arrival of a trace; None is what the trace does not say."""

    at_s: float  # since the trace's start
    prompt_tokens: int | None
    completion_tokens: int | None
    scenario: str | None = None
    messages: list[dict[str, Any]] | None = None
    images: list[tuple[int, int]] | None = None
    seq: int | None = None  # in the run that the trace is
    seed: int | None = None
    place: str = field(default="", compare=False)  # in the file: `line 7`


@dataclass(frozen=True)
class Mix:
    """Scenarios and their weights, drawn independently for each arrival."""

    weights: Mapping[str, float]

    @cached_property
    def _cumulative(self) -> list[float]:
        return list(accumulate(self.weights.values()))

    def draw(self, random: Random) -> str:
        return random.choices(list(self.weights), cum_weights=self._cumulative)[0]


def gaps_s(arrivals: str, rate_per_s: float, random: Random, *, gamma_shape: float = 0.5) -> Iterator[float]:
    """Endless gaps in seconds, of mean 1 / rate: `constant`, `poisson` (exponential) or `gamma`.

    A gamma shape below 1 is burstier than Poisson: the gaps' coefficient of variation is 1 / sqrt(shape).
    """
    while True:
        if arrivals == "constant":
            yield 1 / rate_per_s
        elif arrivals == "poisson":
            yield random.expovariate(rate_per_s)
        else:
            yield random.gammavariate(gamma_shape, 1 / (gamma_shape * rate_per_s))


def instants_s(arrivals: str, shape: Shape, random: Random, *, gamma_shape: float = 0.5) -> Iterator[float]:
    """When the arrivals of an open loop come, until the shape ends."""
    rate_per_s = shape.constant_per_s
    if rate_per_s is None:
        yield from shape.instants_of(accumulate(gaps_s(arrivals, 1.0, random, gamma_shape=gamma_shape)))
        return
    for at_s in accumulate(gaps_s(arrivals, rate_per_s, random, gamma_shape=gamma_shape)):
        if at_s >= shape.duration_s:
            return
        yield at_s


def shaped(
    arrivals: str, shape: Shape, mix: Mapping[str, float], seed: int, *, gamma_shape: float = 0.5
) -> Iterator[Arrival]:
    """The arrivals of an open loop whose rate follows `shape`; what is late does not delay what follows."""
    timing, scenarios = Random(f"{seed}/arrivals"), Random(f"{seed}/mix")
    draw = Mix(mix).draw
    for seq, at_s in enumerate(instants_s(arrivals, shape, timing, gamma_shape=gamma_shape)):
        yield Arrival(seq, round(at_s * NS_PER_S), draw(scenarios), seed)


def drawn(
    arrivals: str,
    rate_per_s: float,
    duration_s: float,
    mix: Mapping[str, float],
    seed: int,
    *,
    gamma_shape: float = 0.5,
) -> Iterator[Arrival]:
    """The arrivals of an open loop at one rate, until `duration_s`."""
    return shaped(arrivals, constant(rate_per_s, duration_s), mix, seed, gamma_shape=gamma_shape)


def replayed(
    rows: Sequence[TraceRow],
    speed: float,
    duration_s: float,
    mix: Mapping[str, float],
    seed: int,
    *,
    from_s: float = 0.0,
    scale: float = 1.0,
) -> Iterator[Arrival]:
    """The arrivals of a trace from its `from_s` on, `scale` times as many and `speed` times faster, until `duration_s`.

    Numbers and seeds of a run that is replayed stay, the numbers where each row is played once. Raises ConfigError for
    a scenario that the mix does not have.
    """
    scenarios = Random(f"{seed}/mix")
    draw = Mix(mix).draw
    end_s = from_s + duration_s * speed
    played = [row for row in rows if from_s <= row.at_s < end_s]
    keeps_numbers = scale == 1
    for number, (at_s, row) in enumerate(scaled(played, scale, Random(f"{seed}/scale"))):
        due_ns = round((at_s - from_s) / speed * NS_PER_S)
        scenario = draw(scenarios) if row.scenario is None else row.scenario
        if scenario not in mix:
            raise ConfigError(f"{row.place}: the scenario {scenario!r} is not in the mix, which has {', '.join(mix)}")
        yield Arrival(
            row.seq if keeps_numbers and row.seq is not None else number,
            due_ns,
            scenario,
            seed if row.seed is None else row.seed,
            row.prompt_tokens,
            None if row.completion_tokens is None else max(1, row.completion_tokens),
            row.messages,
            row.images,
        )


def scaled(rows: Sequence[TraceRow], scale: float, random: Random) -> Iterator[tuple[float, TraceRow]]:
    """`scale` times as many arrivals, in order of time, with the trace's own rate over time.

    Each row comes as often as the whole part of `scale` says, and once more with the probability that its fraction
    is: below 1 that thins them. A row's own instant is its first one's; a further one falls evenly within half of the
    shorter gap beside it, before or after, so that bursts stay bursts and pauses pauses.
    """
    whole, fraction = int(scale), scale - int(scale)
    for number, row in enumerate(rows):
        times = whole + (1 if fraction and random.random() < fraction else 0)
        reach_s = 0.0  # of the first and last: nothing is due before the start or after the end
        if 0 < number < len(rows) - 1:
            reach_s = min(row.at_s - rows[number - 1].at_s, rows[number + 1].at_s - row.at_s) / 2
        copies_s = [row.at_s + random.uniform(-reach_s, reach_s) for _ in range(times - 1)]
        for at_s in sorted([row.at_s, *copies_s]) if times else ():
            yield at_s, row
