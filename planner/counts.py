"""Counts: a whole record added up once, by the kinds of its rows, for every figure that is a sum of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from loadgen.samples import Run, count_totals
from planner.demand import attempts_with_tokens
from planner.rows import STEADY, THROTTLED, Stretch

KIND = ("scenario", "outcome", "phase", "usage_source")
ENDED = pl.col("ended")  # within the stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of the whole run, and which of it ended within a stretch.

    `kinds` has the columns KIND and `ended`, by which it is sorted, and of the rows of each kind the sums `attempts`
    (dropped arrivals too), `sent`, `prompt_tokens` and `completion_tokens` (as attempts_with_tokens has them).
    """

    totals: Mapping[str, int]  # see count_totals
    stretch: Stretch
    kinds: pl.DataFrame

    def total(self, column: str, of: pl.Expr) -> int:
        """The sum of a column over the kinds of which that holds."""
        return int(self.kinds.select(pl.col(column).filter(of).sum()).item())

    def mean(self, column: str, of: pl.Expr) -> float | None:
        """Of an attempt of those kinds; None where there is none."""
        attempts = self.total("attempts", of)
        return self.total(column, of) / attempts if attempts else None

    @property
    def throttled_share(self) -> float:
        """Attempts answered 429 over attempts sent, in the steady phase; zero where none was sent."""
        sent = self.total("sent", STEADY)
        return self.total("sent", STEADY & THROTTLED) / sent if sent else 0.0


def counts_of(run: Run, stretch: Stretch, rows: pl.LazyFrame | None = None) -> Counts:
    """In one reading: a record may have ten million rows. `rows`: its attempts_with_tokens, where they are known."""
    rows = attempts_with_tokens(run) if rows is None else rows
    kinds = rows.group_by(*KIND, ended=ended_within(stretch)).agg(
        pl.col("prompt_tokens", "completion_tokens").sum(), attempts=pl.len(), sent=pl.col("sent_ns").count()
    )
    # By name, as Enum values sort by their place.
    in_order = kinds.collect(engine="streaming").sort(*(pl.col(name).cast(pl.String) for name in KIND), "ended")
    return Counts(totals=count_totals(run.samples), stretch=stretch, kinds=in_order)


def ended_within(stretch: Stretch) -> pl.Expr:
    """False where the end is unknown."""
    return pl.col("done_ns").is_between(stretch.start_ns, stretch.end_ns, closed="left").fill_null(value=False)
