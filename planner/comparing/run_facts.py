"""What a comparison needs to know of a run: small enough to be kept in a repository, and all there is to compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from loadgen.config import Kind, RunConfig, ThrottleMode
from loadgen.samples import Outcome, Run
from planner.comparing.blocks import RunQuantile, run_quantile
from planner.demand import demand_of_run
from planner.metrics import ALL, METRICS, latency_rows, values
from planner.rows import NS_PER_MS, OK, STEADY, config_of, steady_stretch
from planner.traffic import traffic
from planner.validity import Evidence, validity

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
KEPT = ("ttft", "ttft_from_due", "ttfb", "itl", "tpot", "service_time", "response_time")
# Of [load]: how long a run was and who made it is no part of what was asked of the deployment.
NOTED_OF_LOAD = ("duration", "warmup", "cooldown", "seed", "processes")
UNSAID_OF_LOAD = ("drain", "auto_stop", "max_in_flight", "master", "bind", "workers")
SECTIONS = ("scenarios", "prompts", "parameters", "timeouts")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Of the steady phase. Settings are the config's dotted keys and their values as JSON would have them."""

    run_id: str
    name: str  # of its folder
    started_utc: str
    reasons: tuple[str, ...]  # why it is INVALID; empty where it is not
    settings: dict[str, Any]  # what must be the same in runs that are compared
    circumstances: dict[str, Any]  # what may differ, and is said where it does
    arrivals: int
    unanswered: int  # of them: failed, refused, filtered or never sent, after all their attempts
    outcomes: dict[str, int]  # of attempts, and of arrivals dropped
    prompt_tokens: float | None  # mean of the answered, None where the server counts none
    completion_tokens: float | None
    quantiles: tuple[RunQuantile, ...]

    def quantile(self, metric: str, percentile: float) -> RunQuantile | None:
        """None where it was not kept."""
        found = (each for each in self.quantiles if (each.metric, each.percentile) == (metric, percentile))
        return next(found, None)


def facts_of(run: Run, percentiles: Iterable[float] = ()) -> RunFacts:
    """Raises RunFolderError for a record that cannot be read. `percentiles` are wanted beside PERCENTILES."""
    config = config_of(run)
    wanted = sorted({*PERCENTILES, *percentiles})
    steady = run.samples.filter(STEADY)
    answers = steady.filter(OK & (pl.col("usage_source") == "server"))
    prompt_tokens, completion_tokens = (
        answers.select(pl.col("prompt_tokens", "completion_tokens").mean()).collect().row(0)
    )
    arrivals, unanswered = _answered(steady)
    return RunFacts(
        run_id=run.manifest.run_id,
        name=run.folder.name,
        started_utc=run.manifest.started_utc,
        reasons=_reasons(run, config),
        settings=settings_of(config),
        circumstances=_circumstances(run, config),
        arrivals=arrivals,
        unanswered=unanswered,
        outcomes=_outcomes(steady),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        quantiles=tuple(each for metric in KEPT for each in _quantiles(run, metric, wanted)),
    )


def _answered(steady: pl.LazyFrame) -> tuple[int, int]:
    """Arrivals, and those of them that no attempt answered; without those cut short when the run was stopped."""
    kept = steady.filter(pl.col("outcome") != Outcome.CANCELLED)
    of_arrivals = kept.group_by("seq", "target").agg(answered=OK.any())
    n, answered = of_arrivals.select(pl.len(), pl.col("answered").sum()).collect().row(0)
    return n, n - (answered or 0)


def _outcomes(steady: pl.LazyFrame) -> dict[str, int]:
    counts = dict(steady.group_by("outcome").agg(pl.len()).collect().iter_rows())
    return {outcome.value: counts[outcome] for outcome in Outcome if counts.get(outcome)}


def _quantiles(run: Run, metric: str, percentiles: Iterable[float]) -> list[RunQuantile]:
    """None of a metric that the run has no values of."""
    assert metric in METRICS
    in_time = values(run, metric).sort("due_ns", "seq", maintain_order=True).select("value_ns").collect()
    values_ms = in_time["value_ns"].cast(pl.Float64).to_numpy() / NS_PER_MS
    return [run_quantile(metric, percentile, values_ms) for percentile in percentiles] if len(values_ms) else []


def _reasons(run: Run, config: RunConfig) -> tuple[str, ...]:
    """Why the run is INVALID, by the rules of its plan."""
    evidence = Evidence(
        run=run,
        config=config,
        traffic=traffic(run, demand_of_run(run), steady_stretch(run)),
        latency={row.metric: row for row in latency_rows(run) if row.scenario == ALL},
        targets=(),
        growth=1.0,
        prices_dated=(),
        today=None,
    )
    return validity(evidence).reasons


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What was asked of the deployment. The quota is part of it where our own throttle kept to it."""
    dumped = config.model_dump(mode="json")
    load = {key: value for key, value in dumped["load"].items() if key not in (*NOTED_OF_LOAD, *UNSAID_OF_LOAD)}
    kept: dict[str, Any] = {"loop": "open" if config.load.open_loop else "closed", "load": load}
    kept |= {section: dumped[section] for section in SECTIONS}
    kept["targets"] = len(config.targets)
    limited = any(target.kind is Kind.SERVERLESS for target in config.targets)
    if limited and config.load.throttle is not ThrottleMode.OFF:
        kept["quota"] = dumped["quota"]
    return dict(_flattened(kept))


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys, without those that say nothing."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _circumstances(run: Run, config: RunConfig) -> dict[str, Any]:
    manifest, target = run.manifest, config.target
    load = config.load.model_dump(mode="json")
    simulated = any(manifest.deployment_of(each.name).get("simulated") is True for each in config.targets)
    said: dict[str, Any] = {
        "model": target.model or manifest.deployment.get("model_name"),
        "kind": target.kind.value,
        "dialect": target.dialect.value,
        "simulated": simulated,
        "time scale": manifest.deployment.get("time_scale"),
        "headroom": manifest.versions.get("headroom"),
        "cpu": manifest.host.get("cpu"),
        "cores": manifest.host.get("cores"),
    } | {f"load.{key}": load[key] for key in NOTED_OF_LOAD}
    return {key: value for key, value in said.items() if value is not None}
