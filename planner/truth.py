"""How true the record is: joined to the log of a server that knows when it sent what (loadgen.ground_truth).

An error is our stamp minus the server's, which it takes right before it sends, both on CLOCK_MONOTONIC of one host. It
holds all that lies between: the way through the kernel, our waiting for a core, receiving and parsing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from loadgen.errors import RunFolderError
from loadgen.samples import Run
from planner.metrics import NS_PER_US
from planner.rows import OK, Stretch

ID_LENGTH = 8  # of the run's own, at the start of each x-ms-client-request-id


@dataclass(frozen=True, slots=True)
class Log:
    """What the server noted. `requests`: id, received_ns, sent_ns; `tokens`: id, sent_ns, in the order of sending."""

    requests: pl.LazyFrame
    tokens: pl.LazyFrame

    @classmethod
    def open(cls, folder: Path) -> Log:
        """Raises RunFolderError where the server has not written it."""
        paths = [folder / f"{name}.parquet" for name in ("requests", "tokens")]
        for path in paths:
            if not path.exists():
                raise RunFolderError(f"{path} is missing: the server ended before it wrote its log; try again")
        return cls(*(pl.scan_parquet(path, glob=False) for path in paths))


def ttft_errors(run: Run, log: Log, stretch: Stretch) -> pl.Series:
    """Of each answered stream that was sent in the stretch: our stamp of its first token minus the server's.

    In ns, ascending. Raises RunFolderError for a stream that the log does not have.
    """
    sent = _answered_streams(run).filter(_within(pl.col("sent_ns"), stretch)).select("id", "first_token_ns")
    known = log.requests.filter(pl.col("sent_ns") > 0).select("id", true_ns=_since_start(run, "sent_ns"))
    joined = sent.join(known, on="id", how="left").collect()
    missing = joined["true_ns"].null_count()
    if missing:
        raise RunFolderError(f"{missing:,} of {joined.height:,} streams of the record are not in the server's log")
    return (joined["first_token_ns"] - joined["true_ns"]).sort()


def token_errors(run: Run, log: Log) -> pl.DataFrame:
    """Of every token of the answered streams, in their order. Columns: id, at_ns (ours), error_ns.

    Raises RunFolderError for a token that only one of the record and the log has.
    """
    ours = _tokens_of(run)
    numbered = log.tokens.with_columns(number=pl.int_range(pl.len()).over("id"))
    known = numbered.select("id", "number", true_ns=_since_start(run, "sent_ns"))
    theirs = known.join(ours, on="id", how="semi")
    joined = ours.join(theirs, on=["id", "number"], how="full", coalesce=True).sort("id", "number").collect()
    unlogged, unrecorded = joined["true_ns"].null_count(), joined["at_ns"].null_count()
    if unlogged or unrecorded:
        raise RunFolderError(
            f"{unlogged:,} tokens of the record are not in the server's log, and {unrecorded:,} of its tokens are not "
            "in the record"
        )
    return joined.select("id", "at_ns", error_ns=pl.col("at_ns") - pl.col("true_ns"))


def gap_errors(tokens: pl.DataFrame, stretch: Stretch) -> pl.Series:
    """By how much each gap between two tokens of the stretch is off, whichever way. In ns, ascending.

    `tokens` is what `token_errors` gives. The record keeps gaps in whole microseconds.
    """
    measured = tokens.filter(_within(pl.col("at_ns"), stretch))
    return measured.select(pl.col("error_ns").diff().over("id").abs()).to_series().drop_nulls().sort()


def _answered_streams(run: Run) -> pl.LazyFrame:
    """The samples, with the id that the server logged."""
    prefix = run.manifest.run_id[:ID_LENGTH]
    answered = run.samples.filter(OK & (pl.col("chunks") > 0))
    return answered.with_columns(id=pl.format("{}-{}-{}", pl.lit(prefix), "seq", "attempt"))


def _tokens_of(run: Run) -> pl.LazyFrame:
    """When each token came, from the first tokens and the gaps. Columns: id, number (within the stream), at_ns."""
    streams = _answered_streams(run)
    first = streams.select("id", number=pl.lit(0, pl.Int64), at_ns="first_token_ns")
    since_first_ns = (pl.col("gap_us").cast(pl.Int64) * NS_PER_US).cum_sum().over("id")
    later = run.chunks.join(streams, on=["seq", "attempt"], maintain_order="left").select(
        "id", number=pl.int_range(1, pl.len() + 1).over("id"), at_ns=pl.col("first_token_ns") + since_first_ns
    )
    return pl.concat([first, later])


def _since_start(run: Run, instant_ns: str) -> pl.Expr:
    """A reading of the clock as the record has it. Raises RunFolderError for a run that never started."""
    start_ns = run.manifest.monotonic_start_ns
    if start_ns is None:
        raise RunFolderError(f"{run.folder} has no start on CLOCK_MONOTONIC: the load process never started")
    return pl.col(instant_ns) - start_ns


def _within(instant_ns: pl.Expr, stretch: Stretch) -> pl.Expr:
    return instant_ns.is_between(stretch.start_ns, stretch.end_ns)
