"""How far the estimator's counts of prompt tokens, by which the load was paced, are from the server's own."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from loadgen.samples import Run
from planner.plan import Estimate

MOST_SHARE = 0.95  # of the attempts, that the printed error holds for


def estimate(run: Run) -> Estimate | None:
    """Of all attempts whose usage the server told; None where it told none, or the record does not say the estimate."""
    estimated, counted = (pl.col(name).cast(pl.Int64) for name in ("estimated_prompt_tokens", "prompt_tokens"))
    told = run.samples.filter(estimated.is_not_null() & (counted > 0)).select(
        estimated=estimated, counted=counted, error=(estimated - counted).abs() / counted
    )
    rows = told.collect(engine="streaming")
    if rows.is_empty():
        return None
    rank = math.ceil(MOST_SHARE * rows.height)
    return Estimate(
        estimator=run.manifest.estimator or "unknown",
        n=rows.height,
        error_share=float(rows["estimated"].sum()) / float(rows["counted"].sum()) - 1,
        p95_error_share=float(np.partition(rows["error"].to_numpy(), rank - 1)[rank - 1]),
    )
