"""Which rows of a run, and which stretch of it, a figure is made of."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from loadgen.config import RunConfig, TargetConfig
from loadgen.errors import RunFolderError
from loadgen.samples import Outcome, Phase, Run

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

WARMUP = pl.col("phase") == Phase.WARMUP
STEADY = pl.col("phase") == Phase.STEADY
OK = pl.col("outcome") == Outcome.OK
THROTTLED = pl.col("outcome") == Outcome.THROTTLED
SENT = pl.col("sent_ns").is_not_null()
# With the budget the run had ended: what came due then was no part of the load, though the ledger counts it.
PAST_BUDGET = (pl.col("outcome") == Outcome.DROPPED) & pl.col("error").eq_missing("budget")


# Polars divides by multiplying with the reciprocal, which is off in the last digit now and then: 59 s would become
# 59.00000000000001. Rounding to the nanosecond puts that right.
def in_seconds(instant_ns: pl.Expr) -> pl.Expr:
    return (instant_ns / NS_PER_S).round(9)


def in_ms(duration_ns: pl.Expr) -> pl.Expr:
    return (duration_ns / NS_PER_MS).round(6)


class PartOfRun(Run):
    """A run as one of its targets saw it: the rows of what was sent there, or due there and dropped."""

    def __init__(self, whole: Run, target: TargetConfig) -> None:
        config = config_of(whole).model_copy(update={"targets": (target,)})
        about = whole.manifest.deployment_of(target.name)
        changes = {"config": config.model_dump(mode="json"), "deployment": about, "deployments": {}}
        super().__init__(whole.folder, whole.manifest.model_copy(update=changes))
        self.whole, self._target = whole, target.name

    @property
    def samples(self) -> pl.LazyFrame:
        return self.whole.samples.filter(pl.col("target") == self._target)


def config_of(run: Run) -> RunConfig:
    """The configuration the run was made with, each target's quota in it; the run's own quota is the first target's.

    Raises RunFolderError if the manifest's cannot be understood.
    """
    try:
        config = RunConfig.model_validate(run.manifest.config)
        targets = [target.model_copy(update={"quota": config.quota_of(target)}) for target in config.targets]
        return config.model_copy(update={"targets": tuple(targets), "quota": targets[0].quota})
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"{run.folder / 'manifest.json'}: its config cannot be understood: {reason}") from None


def count_arrivals(rows: pl.LazyFrame, *of: pl.Expr) -> tuple[int, ...]:
    """Of how many arrivals the rows are, for each `of`, for which that holds.

    Quickly where they stand in order, as those of an ended run do.
    """
    seq = pl.col("seq")
    each = [seq.filter(holds) for holds in of]
    changes = [own.ne_missing(own.shift(1)).sum().alias(f"n{i}") for i, own in enumerate(each)]
    counted = rows.select(*changes, in_order=(seq >= seq.shift(1)).all()).collect(engine="streaming")
    *n, in_order = counted.row(0)
    if not in_order:
        n = list(rows.select(own.n_unique().alias(f"n{i}") for i, own in enumerate(each)).collect().row(0))
    return tuple(n)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a run, in seconds since its start."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    @property
    def start_ns(self) -> int:
        return round(self.start_s * NS_PER_S)

    @property
    def end_ns(self) -> int:
        return round(self.end_s * NS_PER_S)


def steady_stretch(run: Run) -> Stretch:
    """From the end of the warm-up to the start of the cool-down.

    A run that did not complete ended with the last arrival that came due, and so did a trace that was shorter than the
    duration; what came due after the budget was used up is no arrival. None of the steady phase lies outside. Zero
    seconds if there was none. It is the same for each target.
    """
    run = run.whole if isinstance(run, PartOfRun) else run
    load = config_of(run).load
    due_ns = pl.col("due_ns")
    steady_ns = due_ns.filter(STEADY)
    last_s, first_steady_s, last_steady_s = (
        run.samples.filter(~PAST_BUDGET)
        .select(last=due_ns.max(), first_steady=steady_ns.min(), last_steady=steady_ns.max())
        .select(in_seconds(pl.all()))
        .collect(engine="streaming")
        .row(0)
    )
    if first_steady_s is None:
        return Stretch(load.warmup, load.warmup)
    end_s = load.duration - load.cooldown
    if run.manifest.state != "complete" or load.trace is not None:
        end_s = min(end_s, last_s)
    return Stretch(min(load.warmup, first_steady_s), max(end_s, last_steady_s))
