"""The metrics that OpenTelemetry's GenAI conventions ask of a client, counted from a record as it grows.

Names, units and bucket bounds: OpenTelemetry semantic conventions 1.41.1, "Semantic conventions for generative AI
metrics" (status: development).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from loadgen.samples import Outcome
from planner.growing import Rows

COLUMNS = (
    *("seq", "attempt", "scenario", "target", "outcome", "status"),
    *("sent_ns", "first_token_ns", "done_ns", "prompt_tokens", "completion_tokens"),
)
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(float(4**power) for power in range(14))
_WHOSE = ("scenario", "target", "error")
_ERROR = (
    pl.when(pl.col("outcome") == Outcome.OK)
    .then(None)
    .when(pl.col("status") >= 400)
    .then(pl.col("status").cast(pl.String))
    .otherwise(pl.col("outcome").cast(pl.String))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """A histogram. The record counts in whole units, of which `per_unit` make one of `unit`."""

    name: str
    description: str
    per_unit: int
    unit: str = "s"
    bounds: tuple[float, ...] = SECONDS
    token_type: str | None = None  # the attribute gen_ai.token.type


DURATION = Instrument(
    name="gen_ai.client.operation.duration", description="GenAI operation duration.", per_unit=1_000_000_000
)
FIRST_CHUNK = Instrument(
    name="gen_ai.client.operation.time_to_first_chunk",
    description="Time to receive the first chunk with content, measured from when the request was sent.",
    per_unit=1_000_000_000,
)
OUTPUT_CHUNK = Instrument(
    name="gen_ai.client.operation.time_per_output_chunk",
    description="Time between neighbouring chunks with content.",
    per_unit=1_000_000,
)
INPUT_TOKENS, OUTPUT_TOKENS = (
    Instrument(
        name="gen_ai.client.token.usage",
        description="Number of input and output tokens used.",
        per_unit=1,
        unit="{token}",
        bounds=TOKENS,
        token_type=kind,
    )
    for kind in ("input", "output")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Whose values a histogram counts. `error` is the status from 400 on, else the outcome; None where it went well."""

    instrument: Instrument
    scenario: str
    target: str
    error: str | None


@dataclass(slots=True)
class Counted:
    """A histogram so far: values up to each bound and beyond the one before; the rest in whole units of the record."""

    buckets: list[int] = field(default_factory=list)
    n: int = 0
    total: int = 0
    least: int = 0
    most: int = 0


class ClientMetrics:
    """Of all attempts that were sent, warm-up included."""

    def __init__(self) -> None:
        self.histograms: dict[Series, Counted] = {}

    def take(self, rows: Rows) -> None:
        """Rows that it has not seen; of the samples it needs COLUMNS."""
        for instrument, values in _values(rows):
            self._count(instrument, values.drop_nulls("value"))

    def _count(self, instrument: Instrument, values: pl.DataFrame) -> None:
        if values.is_empty():
            return
        bounds = pl.Series([round(bound * instrument.per_unit) for bound in instrument.bounds], dtype=pl.Int64)
        place = bounds.search_sorted(values["value"], side="left")  # a bound belongs to the bucket below it
        value = pl.col("value")
        figures = (pl.len(), value.sum().alias("sum"), value.min().alias("min"), value.max().alias("max"))
        counted = values.with_columns(place.alias("place")).group_by(*_WHOSE, "place").agg(*figures)
        for scenario, target, error, place_, n, total, least, most in counted.iter_rows():
            series = Series(instrument=instrument, scenario=scenario, target=target, error=error)
            known = self.histograms.setdefault(
                series, Counted(buckets=[0] * (len(instrument.bounds) + 1), least=least, most=most)
            )
            known.buckets[place_] += n
            known.n, known.total = known.n + n, known.total + total
            known.least, known.most = min(known.least, least), max(known.most, most)


def _values(rows: Rows) -> Iterator[tuple[Instrument, pl.DataFrame]]:
    """Each instrument's values: scenario, target, error, value in whole units of the record or null."""
    sent = rows.samples.filter(pl.col("sent_ns").is_not_null()).with_columns(_ERROR.alias("error"))

    def of(value: pl.Expr) -> pl.DataFrame:
        return sent.select(*_WHOSE, value.cast(pl.Int64).alias("value"))

    yield DURATION, of(pl.col("done_ns") - pl.col("sent_ns"))
    yield FIRST_CHUNK, of(pl.col("first_token_ns") - pl.col("sent_ns"))
    yield INPUT_TOKENS, of(pl.col("prompt_tokens"))
    yield OUTPUT_TOKENS, of(pl.col("completion_tokens"))
    if not rows.chunks.is_empty():
        gaps = rows.chunks.join(sent.select("seq", "attempt", *_WHOSE), on=["seq", "attempt"], how="inner")
        yield OUTPUT_CHUNK, gaps.select(*_WHOSE, pl.col("gap_us").cast(pl.Int64).alias("value"))
