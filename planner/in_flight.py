"""Requests in flight: sent and not yet done. An attempt whose end is unknown stays in flight."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import polars as pl

from loadgen.samples import Run
from planner.ascending import own_array
from planner.rows import NS_PER_S, SENT, Stretch

STEP = 16
_NEVER = np.iinfo(np.int64).max


def in_flight(run: Run) -> pl.LazyFrame:
    """From each instant on at which it changed. Columns at_ns, in_flight."""
    sent = run.samples.filter(SENT).select(at_ns="sent_ns", change=pl.lit(1, pl.Int64))
    done = run.samples.filter(SENT).select(at_ns="done_ns", change=pl.lit(-1, pl.Int64)).drop_nulls("at_ns")
    changes = pl.concat([sent, done]).group_by("at_ns").agg(pl.col("change").sum())
    return changes.sort("at_ns").select("at_ns", in_flight=pl.col("change").cum_sum())


def in_flight_within(run: Run, stretch: Stretch) -> tuple[float, int]:
    """The mean over the stretch's time, and the most: at its start, and then at each that is sent."""
    if stretch.seconds <= 0:
        return 0.0, 0
    sent = run.samples.filter(SENT & (pl.col("sent_ns") < stretch.end_ns))
    instants = sent.select("sent_ns", pl.col("done_ns").fill_null(_NEVER)).collect(engine="streaming")
    began, ended = (pl.col(name).clip(stretch.start_ns, stretch.end_ns) for name in ("sent_ns", "done_ns"))
    area_ns = instants.lazy().select((ended - began).sum()).collect(engine="streaming").item()
    return area_ns / (stretch.seconds * NS_PER_S), _most(instants, stretch.start_ns)


def _most(instants: pl.DataFrame, start_ns: int) -> int:
    """Found between what it is after every STEPth is sent, and the STEP - 1 more that there can be until the next."""
    began, ended = (own_array(instants[name]) for name in ("sent_ns", "done_ns"))
    began.sort()
    ended.sort()
    first = int(np.searchsorted(began, start_ns, side="right"))
    at_start = first - int(np.searchsorted(ended, start_ns, side="right"))
    some = np.arange(first, len(began), STEP)
    known = max(at_start, int((some + 1 - np.searchsorted(ended, began[some], side="right")).max(initial=0)))

    def more_than(n: int) -> bool:
        """Whether, once one within the stretch is sent, fewer have ended than all that came before it but n."""
        return bool((ended[max(first, n) - n : len(began) - n] > began[max(first, n) :]).any())

    return bisect_left(range(min(known + STEP, len(began))), True, lo=known, key=lambda n: not more_than(n))
