"""How many tokens a prompt or an answer has: a distribution, written in a word, drawn from with a seeded generator."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from loadgen.errors import ConfigError

MOST_TOKENS = 1_000_000  # of one draw; a log-normal's tail has no end
MOST_VALUES = 1_000_000  # of a file
WRITTEN = "fixed:200, uniform:50..400, normal:200,50 (mean, deviation), lognormal:200,0.5 (median, sigma) or file:FILE"


@dataclass(frozen=True, slots=True)
class Lengths:
    """`first` and `second` are what stands behind the colon; `values` those of a file, each drawn as often as it is
    there. What is drawn is a whole number from 1 to MOST_TOKENS."""

    kind: str  # fixed | uniform | normal | lognormal | file
    first: float = 0.0
    second: float = 0.0
    values: tuple[int, ...] = ()

    def draw(self, random: Random) -> int:
        match self.kind:
            case "fixed":
                drawn = self.first
            case "uniform":
                drawn = random.randint(int(self.first), int(self.second))
            case "normal":
                drawn = random.gauss(self.first, self.second)
            case "lognormal":
                drawn = self.first * math.exp(min(random.gauss(0.0, self.second), 100.0))
            case _:
                drawn = random.choice(self.values)
        return min(max(1, round(drawn)), MOST_TOKENS)


def parse_lengths(text: str) -> Lengths:
    """Without reading its file, where it names one. Raises ConfigError."""
    kind, _, rest = text.partition(":")
    if kind == "file" and rest:
        return Lengths("file")
    separators = {"fixed": None, "uniform": "..", "normal": ",", "lognormal": ","}
    try:
        separator = separators[kind]
        numbers = [float(part) for part in ([rest] if separator is None else rest.split(separator))]
        first, second = (numbers[0], 0.0) if separator is None else numbers
    except (KeyError, ValueError):
        raise ConfigError(f"{text!r} is no distribution of lengths; write it like {WRITTEN}") from None
    if not all(0 <= number <= MOST_TOKENS for number in (first, second)) or (kind != "normal" and first < 1):
        raise ConfigError(f"{text!r}: its numbers must lie between 1 and {MOST_TOKENS:,}")
    if kind == "uniform" and (first > second or first % 1 or second % 1):
        raise ConfigError(f"{text!r}: write uniform:LOW..HIGH with whole numbers, the lower first")
    return Lengths(kind, first, second)


def read_lengths(text: str) -> Lengths:
    """With its file read: a number a line, or `file:FILE,COLUMN` of a CSV file. Raises ConfigError naming the line."""
    lengths = parse_lengths(text)
    if lengths.kind != "file":
        return lengths
    name = text.partition(":")[2]
    path, column = (Path(name), None) if Path(name).exists() else (Path(name.rpartition(",")[0] or name), name)
    column = None if column is None or path == Path(name) else column.rpartition(",")[2]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            values = tuple(_values(path, csv.reader(file), column))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not values:
        raise ConfigError(f"{path} holds no lengths")
    return Lengths("file", values=values)


def _values(path: Path, lines: Iterator[list[str]], column: str | None) -> Iterator[int]:
    place, start = 0, 1
    if column is not None:
        header = [name.strip() for name in next(lines, [])]
        if column not in header:
            raise ConfigError(f"{path}, line 1: no column {column}; it has {', '.join(header) or 'nothing'}")
        place, start = header.index(column), 2
    for number, cells in enumerate(lines, start=start):
        if not cells:
            continue
        if number > MOST_VALUES:
            raise ConfigError(f"{path} has more than {MOST_VALUES:,} lines; give a sample of it")
        text = cells[place].strip() if place < len(cells) else ""
        if not text.isdecimal() or not 1 <= int(text) <= MOST_TOKENS or (column is None and len(cells) > 1):
            wanted = f"a whole number from 1 to {MOST_TOKENS:,}"
            raise ConfigError(f"{path}, line {number}: {','.join(cells)[:50]!r} is not {wanted}")
        yield int(text)
