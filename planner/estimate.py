"""How far the estimator's counts of prompt tokens, by which the load was paced, are from the server's own."""

from __future__ import annotations

import math

import polars as pl

from loadgen.samples import Run
from planner.plan import Estimate

MOST_SHARE = 0.95  # of the attempts, that the printed error holds for


def estimate(run: Run) -> Estimate | None:
    """Of all attempts whose usage the server told; None where it told none, or the record does not say the estimate."""
    estimated, counted = (pl.col(name).cast(pl.Int64) for name in ("estimated_prompt_tokens", "prompt_tokens"))
    told = run.samples.filter(estimated.is_not_null() & (counted > 0))
    row = told.select(pl.len(), estimated.sum().alias("estimated"), counted.sum().alias("counted")).collect().row(0)
    n, estimated_tokens, counted_tokens = row
    if not n:
        return None
    errors = told.select(((estimated - counted).abs() / counted).alias("error")).sort("error").collect()["error"]
    return Estimate(
        estimator=run.manifest.estimator or "unknown",
        n=n,
        error_share=estimated_tokens / counted_tokens - 1,
        p95_error_share=errors[math.ceil(MOST_SHARE * n) - 1],
    )
