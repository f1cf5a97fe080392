"""Faults on purpose: what a faults file says, and which request is hit by which toxic.

A faults file is TOML with a `[[toxic]]` table for each toxic; KINDS lists their kinds and keys. Which requests a toxic
hits depends on the seed and on each request's number, never on time, on other requests or on other toxics; when it may
hit, its schedule says.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from loadgen.errors import ConfigError
from loadgen.simulator.serving import rng_of

ANSWERED_BY_MODELS = ("/completions", "/embeddings")  # how the paths of these routes end
# Marks the draws of faults, so that a fault says nothing about the length or the latency of the answer that it hits.
_OF_FAULTS = 1 << 63


class Kind(StrEnum):
    LATENCY = "latency"
    FREEZE = "freeze"
    SLOW_STREAM = "slow_stream"
    CUT = "cut"
    RESET = "reset"
    STATUS = "status"
    MALFORMED_SSE = "malformed_sse"
    MISSING_USAGE = "missing_usage"
    MISSING_DONE = "missing_done"
    WRONG_CONTENT_TYPE = "wrong_content_type"
    GZIP_BOMB = "gzip_bomb"
    GIANT_LINE = "giant_line"


class Rule(Protocol):
    """What a key allows; as text it completes "must be ..."."""

    def holds(self, value: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `least` to `most`, both allowed."""

    least: float
    most: float
    whole: bool = False

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.least} to {self.most}"

    def holds(self, value: Any) -> bool:
        wanted = int if self.whole else int | float
        return isinstance(value, wanted) and not isinstance(value, bool) and self.least <= value <= self.most


@dataclass(frozen=True, slots=True)
class Words:
    """One of a few words, or with none given any printable text that begins with `begins`."""

    allowed: tuple[str, ...] = ()
    begins: str = ""

    def __str__(self) -> str:
        if self.allowed:
            return f"one of {', '.join(self.allowed)}"
        return f"printable ASCII text{f' that begins with {self.begins}' if self.begins else ''}"

    def holds(self, value: Any) -> bool:
        if not isinstance(value, str) or (self.allowed and value not in self.allowed):
            return False
        return value != "" and value.isascii() and value.isprintable() and value.startswith(self.begins)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def __str__(self) -> str:
        return "true or false"

    def holds(self, value: Any) -> bool:
        return isinstance(value, bool)


SECONDS = Range(0, 86_400)
MILLISECONDS = Range(0, 3_600_000)
RULES: Mapping[str, Rule] = {
    "probability": Range(0, 1),
    "path": Words(begins="/"),
    "from_s": SECONDS,
    "until_s": SECONDS,
    "every_s": SECONDS,
    "after_events": Range(0, 1_000_000, whole=True),
    "ms": MILLISECONDS,
    "jitter_ms": MILLISECONDS,
    "bytes_per_second": Range(0, 1_000_000_000),
    "terminated": Flag(),
    "status": Range(400, 599, whole=True),
    "retry_after_s": SECONDS,
    "html": Flag(),
    "form": Words(("json", "line")),
    "content_type": Words(),
    "megabytes": Range(0.001, 256),
}
COMMON: Mapping[str, Any] = {"probability": 1, "path": None, "from_s": 0, "until_s": None, "every_s": None}
KINDS: Mapping[Kind, Mapping[str, Any]] = {  # the keys that a kind has beside the common ones, and their defaults
    Kind.LATENCY: {"ms": 500, "jitter_ms": 0},
    Kind.FREEZE: {},
    Kind.SLOW_STREAM: {"ms": 0, "jitter_ms": 0, "bytes_per_second": 0},
    Kind.CUT: {"after_events": 1, "terminated": False},
    Kind.RESET: {"after_events": 1},
    Kind.STATUS: {"status": 503, "retry_after_s": None, "html": False},
    Kind.MALFORMED_SSE: {"after_events": 1, "form": "json"},
    Kind.MISSING_USAGE: {},
    Kind.MISSING_DONE: {},
    Kind.WRONG_CONTENT_TYPE: {"content_type": "text/html"},
    Kind.GZIP_BOMB: {"megabytes": 10},
    Kind.GIANT_LINE: {"after_events": 1, "megabytes": 2},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """One way to misbehave. A field that its kind does not have stays as it is here and means nothing.

    `path` None stands for the routes that a model answers; `until_s` None for ever; `every_s` None for once.
    """

    kind: Kind
    probability: float = 1
    path: str | None = None
    from_s: float = 0
    until_s: float | None = None
    every_s: float | None = None
    after_events: int = 0
    ms: float = 0
    jitter_ms: float = 0
    bytes_per_second: float = 0
    terminated: bool = False
    status: int = 503
    retry_after_s: float | None = None
    html: bool = False
    form: str = "json"
    content_type: str = "text/html"
    megabytes: float = 1

    def covers(self, target: str) -> bool:
        """Whether it may hit requests to `target`, a path with its query if it has one."""
        if self.path is None:
            return target.partition("?")[0].endswith(ANSWERED_BY_MODELS)
        return target.startswith(self.path)

    def open_until_s(self, now_s: float) -> float | None:
        """When the window that is open at `now_s` ends (inf: never); None where none is open. Seconds as `from_s`."""
        since_s = now_s - self.from_s
        if since_s < 0:
            return None
        if self.until_s is None:
            return math.inf
        began_s = self.from_s + (0 if self.every_s is None else since_s // self.every_s * self.every_s)
        ends_s = began_s + self.until_s - self.from_s
        return ends_s if now_s < ends_s else None


@dataclass(frozen=True, slots=True)
class Faults:
    """The toxics of one file, in its order."""

    toxics: tuple[Toxic, ...]

    def of(self, number: int, seed: int, now_s: float, target: str = "/chat/completions") -> tuple[Toxic, ...]:
        """The toxics that hit request `number` (from 0) to `target`, which arrives at `now_s`.

        `now_s` counts from when the server listened. A freeze is drawn here as the others are, but its schedule is
        asked whenever something is to be sent.
        """
        rng = rng_of(seed, _OF_FAULTS | number)
        drawn = [(toxic, rng.random() < toxic.probability) for toxic in self.toxics]
        return tuple(
            toxic
            for toxic, hit in drawn
            if hit and toxic.covers(target) and (toxic.kind is Kind.FREEZE or toxic.open_until_s(now_s) is not None)
        )


def read_faults(path: Path) -> Faults:
    """The toxics of a faults file. Raises ConfigError, naming the file, the toxic (from 1), its key and the remedy."""
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise ConfigError(f"the faults file {path} cannot be read ({reason}); give one with --faults") from None
    except (ValueError, RecursionError) as error:  # of TOML, and of bytes that are no UTF-8
        raise ConfigError(f"the faults file {path} is not valid TOML: {error}; put that right") from None
    for key in tables:
        if key != "toxic":
            raise ConfigError(f"{path}: unknown key {key!r}; a faults file has [[toxic]] tables and nothing else")
    toxics = tables.get("toxic")
    if not isinstance(toxics, list) or not toxics or not all(isinstance(toxic, dict) for toxic in toxics):
        raise ConfigError(f"{path}: there is no [[toxic]] table; write one for each fault, with its kind")
    return Faults(tuple(_toxic(table, f"{path}: toxic {number}") for number, table in enumerate(toxics, start=1)))


def _toxic(table: Mapping[str, Any], where: str) -> Toxic:
    kinds = ", ".join(Kind)
    if "kind" not in table:
        raise ConfigError(f"{where}: kind is missing; there are {kinds}")
    if table["kind"] not in list(Kind):
        raise ConfigError(f"{where}: kind {table['kind']!r} is not known; there are {kinds}")
    kind = Kind(table["kind"])
    where = f"{where} ({kind})"
    defaults = {**COMMON, **KINDS[kind]}
    given = {key: value for key, value in table.items() if key != "kind"}
    for key, value in given.items():
        if key not in defaults:
            raise ConfigError(f"{where}: unknown key {key!r}; a {kind} toxic has kind, {', '.join(defaults)}")
        if not RULES[key].holds(value):
            raise ConfigError(f"{where}: {key} must be {RULES[key]}, not {value!r}")
    toxic = Toxic(kind=kind, **{key: value for key, value in (defaults | given).items() if value is not None})
    for complaint in _contradictions(toxic):
        raise ConfigError(f"{where}: {complaint}")
    return toxic


def _contradictions(toxic: Toxic) -> Iterator[str]:
    """What is wrong with keys that are right each by itself."""
    if toxic.until_s is not None and toxic.until_s <= toxic.from_s:
        yield f"until_s must be above from_s, which is {toxic.from_s:g}, not {toxic.until_s:g}"
    if toxic.every_s is not None and toxic.until_s is None:
        yield "every_s repeats what ends; give until_s too, or leave out every_s"
    if toxic.every_s is not None and toxic.until_s is not None and toxic.every_s < toxic.until_s - toxic.from_s:
        yield f"every_s must be at least until_s - from_s, not {toxic.every_s:g}"
    if toxic.kind is Kind.FREEZE and toxic.until_s is None:
        yield "until_s is missing; a freeze stops everything from from_s to until_s"
    if toxic.kind is Kind.SLOW_STREAM and not (toxic.ms or toxic.bytes_per_second):
        yield "nothing is slowed; give ms or bytes_per_second above zero"
    if toxic.jitter_ms > toxic.ms:
        yield f"jitter_ms must be at most ms, which is {toxic.ms:g}, not {toxic.jitter_ms:g}"
