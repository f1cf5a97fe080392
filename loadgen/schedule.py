"""When to send: arrival instants drawn from a seed or read from a trace. Same seed, same schedule."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from loadgen.errors import ConfigError

NS_PER_S = 1_000_000_000
LARGEST_TOKENS = 10_000_000  # of one row of a trace; more is a damaged file
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
OWN_COLUMNS = ("at_s", "prompt_tokens", "completion_tokens")


@dataclass(slots=True)
class Arrival:
    """One request that is due. All that is drawn for it comes from `random`, so it does not depend on who sends it."""

    seq: int
    due_ns: int  # since the run's start
    scenario: str
    seed: int = 0
    prompt_tokens: int | None = None  # stated by a trace
    completion_tokens: int | None = None
    messages: list[dict[str, Any]] | None = None  # a trace's own
    images: list[tuple[int, int]] | None = None  # (width, height) in pixels, likewise
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
    def _source(self) -> str:
        return f"{self.seed}/{self.seq}" if self.session is None else f"{self.seed}/{self.session}/{self.turn}"


@dataclass(frozen=True, slots=True)
class TraceRow:
    at_s: float  # since the first row
    prompt_tokens: int
    completion_tokens: int


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


def drawn(
    arrivals: str,
    rate_per_s: float,
    duration_s: float,
    mix: Mapping[str, float],
    seed: int,
    *,
    gamma_shape: float = 0.5,
) -> Iterator[Arrival]:
    """The arrivals of an open loop, until `duration_s`; what is late does not delay what follows."""
    timing, scenarios = Random(f"{seed}/arrivals"), Random(f"{seed}/mix")
    draw = Mix(mix).draw
    for seq, at_s in enumerate(accumulate(gaps_s(arrivals, rate_per_s, timing, gamma_shape=gamma_shape))):
        if at_s >= duration_s:
            return
        yield Arrival(seq, round(at_s * NS_PER_S), draw(scenarios), seed)


def replayed(
    rows: Iterable[TraceRow], speed: float, duration_s: float, mix: Mapping[str, float], seed: int
) -> Iterator[Arrival]:
    """The arrivals of a trace, `speed` times faster, until `duration_s`."""
    scenarios = Random(f"{seed}/mix")
    draw = Mix(mix).draw
    for seq, row in enumerate(rows):
        at_s = row.at_s / speed
        if at_s >= duration_s:
            return
        yield Arrival(
            seq, round(at_s * NS_PER_S), draw(scenarios), seed, row.prompt_tokens, max(1, row.completion_tokens)
        )


def read_trace(path: Path) -> list[TraceRow]:
    """An Azure LLM inference trace (TIMESTAMP, ContextTokens, GeneratedTokens) or at_s, prompt_tokens,
    completion_tokens.

    Raises ConfigError naming the file and line of the first row that cannot be used.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read_rows(path, csv.reader(file))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}") from None


def _read_rows(path: Path, lines: Iterator[list[str]]) -> list[TraceRow]:
    header = [name.strip() for name in next(lines, [])]
    columns = next((names for names in (AZURE_COLUMNS, OWN_COLUMNS) if names[0] in header), None)
    if columns is None:
        raise ConfigError(
            f"{path}, line 1: no column {AZURE_COLUMNS[0]} or {OWN_COLUMNS[0]}; a trace has the columns "
            f"{', '.join(AZURE_COLUMNS)} or {', '.join(OWN_COLUMNS)}, this file has {', '.join(header) or 'nothing'}"
        )
    missing = [name for name in columns if name not in header]
    if missing:
        raise ConfigError(f"{path}, line 1: the column {missing[0]} is missing; it has {', '.join(header)}")
    places = [header.index(name) for name in columns]
    rows: list[TraceRow] = []
    first_ns, last_ns = 0, 0
    for number, cells in enumerate(lines, start=2):
        if not cells:
            continue
        try:
            at_ns = _instant_ns(_cell(cells, places, 0, columns))
            prompt_tokens, completion_tokens = (_count(_cell(cells, places, i, columns), columns[i]) for i in (1, 2))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        if not rows:
            first_ns = at_ns
        elif at_ns < last_ns:
            raise ConfigError(f"{path}, line {number}: {columns[0]} goes back in time; sort the file by it")
        last_ns = at_ns
        rows.append(TraceRow((at_ns - first_ns) / NS_PER_S, prompt_tokens, completion_tokens))
    if not rows:
        raise ConfigError(f"{path} holds no rows below its header")
    return rows


def _cell(cells: Sequence[str], places: Sequence[int], column: int, names: Sequence[str]) -> str:
    if places[column] >= len(cells) or not cells[places[column]].strip():
        raise ValueError(f"{names[column]} is missing")
    return cells[places[column]].strip()


def _instant_ns(text: str) -> int:
    """Seconds, or a date and time; to the last digit, where a datetime would stop at microseconds."""
    whole, _, fraction = text.partition(".")
    try:
        if fraction and not fraction.isdecimal():
            raise ValueError
        since_epoch_s = int(whole) if whole.isdecimal() else int(datetime.fromisoformat(whole + "+00:00").timestamp())
    except ValueError:
        raise ValueError(f"{text!r} is not an instant; write 12.5 (seconds) or 2023-11-16 18:15:46.6805900") from None
    return since_epoch_s * NS_PER_S + int(fraction[:9].ljust(9, "0"))


def _count(text: str, name: str) -> int:
    try:
        count = int(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, not a whole number") from None
    if not 0 <= count <= LARGEST_TOKENS:
        raise ValueError(f"{name} is {count}; it must be between 0 and {LARGEST_TOKENS:,}")
    return count
