"""Latency versus load: what was measured at each rate, and what the serving model says between and beyond."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from loadgen.config import Kind, RunConfig
from loadgen.errors import CapacityError
from loadgen.samples import Run
from loadgen.slo import Slo
from planner import swept
from planner.capacity import Interval, Prediction, ServingModel, fit
from planner.costs.demand_path import Floats
from planner.rows import NS_PER_MS
from planner.swept import Sweep

MEASURED = {"rate_per_s": pl.Float64, "metric": pl.String, "statistic": pl.String, "value_ms": pl.Float64,
            "limited": pl.Boolean, "verdict": pl.String}  # fmt: skip
MODELLED = {"rate_per_s": pl.Float64, "metric": pl.String, "statistic": pl.String, "value_ms": pl.Float64,
            "low_ms": pl.Float64, "high_ms": pl.Float64, "grade": pl.String}  # fmt: skip
SHOWN = {  # metric and statistic: the column of a step
    ("ttft", "p50"): "ttft_p50_ms",
    ("ttft", "p95"): "ttft_p95_ms",
    ("itl", "mean"): "itl_mean_ms",
    ("itl", "p95"): "itl_p95_ms",
    ("service_time", "mean"): "e2e_mean_s",
    ("response_time", "p95"): "response_p95_ms",
}
RATES = 60
DEEPEST_STEP = 2  # folders down in its sweep's, as steps/01
BEYOND = 1.5  # times the highest measured rate: as far as anything is looked for
LEAST_SHARE = 0.5  # of the lowest measured rate: where the line starts


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCurve:
    """Rates are of all instances together, requests/s."""

    measured: pl.DataFrame  # columns MEASURED; `limited` by the quota or by the load generator
    modelled: pl.DataFrame  # columns MODELLED; the interval holds 90 %
    limits_ms: tuple[tuple[str, str, float], ...]  # metric, text and limit of each objective
    form: str | None  # of the model
    unknown: str | None  # why there is no model


def load_curve(
    steps: pl.DataFrame, slos: Sequence[Slo], *, instances: int | None, named: pl.DataFrame | None = None
) -> LoadCurve | None:
    """Of `load_steps.steps_of`, or of `swept.curve`. None of a single step without a model: that is no curve.

    `instances` that the steps were measured on; None: nobody knows, as of a serverless deployment, and none is fitted.
    `named`: what objectives name, as `swept.named_curve` has it, to be shown with the rest.
    """
    model, unknown = _fitted(steps, instances)
    measured = _measured(steps, pl.DataFrame(schema=MEASURED) if named is None else named)
    if model is None and measured["rate_per_s"].n_unique() < 2:
        return None
    return LoadCurve(
        measured=measured,
        modelled=pl.DataFrame(schema=MODELLED)
        if model is None
        else _modelled(model, measured["rate_per_s"].to_numpy()),
        limits_ms=tuple((slo.metric, slo.text, slo.limit_ns / NS_PER_MS) for slo in slos),
        form=None if model is None else model.form,
        unknown=unknown,
    )


def _fitted(steps: pl.DataFrame, instances: int | None) -> tuple[ServingModel | None, str | None]:
    """The model, or why there is none."""
    if instances is None:
        return None, "serverless deployments hide their machines"
    try:
        return fit(steps, instances=instances), None
    except CapacityError as error:
        return None, str(error)


def curve_of_sweep(sweep: Sweep) -> LoadCurve | None:
    """Of its steps, with their verdicts and its objectives."""
    slos = [Slo.parse(text) for text in sweep.objectives]
    instances = _instances(RunConfig.model_validate(sweep.config))
    return load_curve(swept.curve(sweep), slos, instances=instances, named=swept.named_curve(sweep))


def curve_of_step(run: Run) -> LoadCurve | None:
    """Of the sweep that a run is a step of; None where it is of none."""
    own = run.folder.resolve()
    for folder in list(own.parents)[:DEEPEST_STEP]:
        if swept.is_sweep(folder):
            sweep = swept.read(folder)
            return curve_of_sweep(sweep) if own in {folder / step.folder for step in sweep.steps} else None
    return None


def _instances(config: RunConfig) -> int | None:
    managed = all(target.kind is Kind.MANAGED for target in config.targets)
    return (config.target.instances or 1) if managed else None


def _measured(steps: pl.DataFrame, named: pl.DataFrame) -> pl.DataFrame:
    further = named.filter(~pl.concat_str("metric", "statistic").is_in([metric + each for metric, each in SHOWN]))
    verdict = pl.col("verdict") if "verdict" in steps.columns else pl.lit(None, pl.String)
    in_ms = steps.with_columns(pl.col("e2e_mean_s") * 1e3)
    limited = (pl.col("quota_limited") | pl.col("client_limited")).fill_null(value=False)
    frames = [
        in_ms.select(
            "rate_per_s",
            metric=pl.lit(metric),
            statistic=pl.lit(statistic),
            value_ms=column,
            limited=limited,
            verdict=verdict,
        ).drop_nulls(["rate_per_s", "value_ms"])
        for (metric, statistic), column in SHOWN.items()
    ]
    frames.append(further.drop_nulls("value_ms").select(*MEASURED))
    return pl.concat([pl.DataFrame(schema=MEASURED), *frames]).sort("metric", "statistic", "rate_per_s")


def _modelled(model: ServingModel, measured_per_s: Floats) -> pl.DataFrame:
    """The line from half the lowest measured rate to the last rate of which the model says anything."""
    rates = np.linspace(LEAST_SHARE * measured_per_s.min(), BEYOND * measured_per_s.max(), RATES)
    rows = [row for rate_per_s in rates for row in _predicted(model, float(rate_per_s))]
    return pl.DataFrame(rows, schema=MODELLED, orient="row").sort("metric", "statistic", "rate_per_s")


def _predicted(model: ServingModel, rate_per_s: float) -> Iterator[tuple[object, ...]]:
    """Nothing beyond the capacity, nor beyond what the steps can say, nor where an interval has no upper end."""
    try:
        said = model.predict(rate_per_s / model.instances)
    except CapacityError:
        return
    for (metric, statistic), each in _figures(said).items():
        if each is not None and math.isfinite(each.high):
            yield rate_per_s, metric, statistic, each.value, each.low, each.high, said.grade


def _figures(said: Prediction) -> dict[tuple[str, str], Interval | None]:
    return {
        ("ttft", "p50"): said.ttft_p50_ms,
        ("ttft", "p95"): said.ttft_p95_ms,
        ("itl", "mean"): said.itl_mean_ms,
        ("itl", "p95"): said.itl_p95_ms,
        ("service_time", "mean"): said.e2e_mean_s.divided(1e-3),
    }
