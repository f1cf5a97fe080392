"""What a comparison needs to know of a run: small enough to be kept in a repository, and all there is to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, get_args

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from loadgen.config import Kind, RunConfig, ThrottleMode
from loadgen.samples import Outcome, Run
from planner.comparing.blocks import RunQuantile, run_quantile
from planner.comparing.tolerance import NO_STREAM
from planner.counts import counts_of
from planner.demand import demand_of_run
from planner.evidence import Evidence
from planner.intervals import BLOCKS
from planner.metrics import ALL, METRICS, latency_rows, values
from planner.rows import NS_PER_MS, OK, STEADY, config_of, steady_stretch
from planner.traffic import traffic
from planner.validity import validity

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
KEPT = ("ttft", "ttft_from_due", "ttfb", "itl", "tpot", "service_time", "response_time")
# Of [load]: how long a run was and who made it is no part of what was asked of the deployment.
NOTED_OF_LOAD = ("duration", "warmup", "cooldown", "seed", "processes")
UNSAID_OF_LOAD = ("drain", "auto_stop", "master", "bind", "workers")
SECTIONS = ("scenarios", "prompts", "parameters", "timeouts")
SCHEDULE = "schedule.parquet"
TRACED = ["due_ns", "prompt_tokens", "completion_tokens"]
OF_PLAIN = ("service_time", "response_time")
_PLAIN = pl.col("first_token_ns").is_null()


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
    unanswered_blocks: tuple[int, ...] = ()  # of BLOCKS stretches, each of as many arrivals; empty: not kept

    def quantile(self, metric: str, percentile: float, of: str = "") -> RunQuantile | None:
        """None where it was not kept."""
        of = "" if self._is_all(of) else of
        wanted = (metric, percentile, of)
        return next((each for each in self.quantiles if (each.metric, each.percentile, each.of) == wanted), None)

    def _is_all(self, of: str) -> bool:
        """What is one and the same with all requests is kept once."""
        if of == NO_STREAM:
            return not self.count("ttft")
        return [key for key in self.settings if key.startswith("scenarios.")] == [f"scenarios.{of.partition('=')[2]}"]

    def count(self, metric: str, of: str = "") -> int:
        """Answers that have the latency."""
        return next((each.n for each in self.quantiles if (each.metric, each.of) == (metric, of)), 0)

    @property
    def plain_share(self) -> float:
        """Of the answers: that did not stream."""
        return 1 - self.count("ttft") / max(1, self.count("response_time"))


Sides = tuple[Sequence[RunFacts], Sequence[RunFacts]]  # the base, and what is new


def facts_of(run: Run, percentiles: Iterable[float] = ()) -> RunFacts:
    """Raises RunFolderError for a record that cannot be read. `percentiles` are wanted beside PERCENTILES."""
    config = config_of(run)
    wanted = sorted({*PERCENTILES, *percentiles})
    steady = run.samples.filter(STEADY)
    answers = steady.filter(OK & (pl.col("usage_source") == "server"))
    prompt_tokens, completion_tokens = (
        answers.select(pl.col("prompt_tokens", "completion_tokens").mean()).collect().row(0)
    )
    unanswered = _unanswered(steady)
    return RunFacts(
        run_id=run.manifest.run_id,
        name=run.folder.name,
        started_utc=run.manifest.started_utc,
        reasons=_reasons(run, config),
        settings=settings_of(config) | _trace(run, config),
        circumstances=_circumstances(run, config),
        arrivals=len(unanswered),
        unanswered=int(unanswered.sum()),
        outcomes=_outcomes(steady),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        quantiles=tuple(each for metric in KEPT for each in _quantiles(run, metric, wanted)),
        unanswered_blocks=tuple(int(block.sum()) for block in np.array_split(unanswered, BLOCKS)),
    )


def _unanswered(steady: pl.LazyFrame) -> NDArray[np.bool_]:
    """Of each arrival, in time, whether no attempt answered it; without those cut short when the run was stopped."""
    kept = steady.filter(pl.col("outcome") != Outcome.CANCELLED)
    of_arrivals = kept.group_by("seq", "target").agg(OK.any().alias("answered"), pl.col("due_ns").min())
    in_time = of_arrivals.sort("due_ns", "seq", "target").select("answered").collect()["answered"]
    return ~in_time.to_numpy().astype(np.bool_)


def _outcomes(steady: pl.LazyFrame) -> dict[str, int]:
    counts = dict(steady.group_by("outcome").agg(pl.len()).collect().iter_rows())
    return {outcome.value: counts[outcome] for outcome in Outcome if counts.get(outcome)}


def _quantiles(run: Run, metric: str, percentiles: Sequence[float]) -> Iterator[RunQuantile]:
    """Of all requests, of each scenario where there are several, and of what does not stream where some does.

    None of a metric that the run has no values of.
    """
    assert metric in METRICS
    found = _in_time(values(run, metric))
    parts: list[tuple[str, pl.DataFrame]] = [("", found)]
    scenarios = sorted(found["scenario"].unique())
    if len(scenarios) > 1:
        parts += [(f"scenario={name}", found.filter(pl.col("scenario") == name)) for name in scenarios]
    if metric in OF_PLAIN:
        plain = _in_time(values(run, metric, STEADY & _PLAIN))
        parts += [(NO_STREAM, plain)] if 0 < len(plain) < len(found) else []
    for of, part in parts:
        values_ms = part["value_ns"].cast(pl.Float64).to_numpy() / NS_PER_MS
        if len(values_ms):
            yield from (run_quantile(metric, percentile, values_ms, of) for percentile in percentiles)


def _in_time(found: pl.LazyFrame) -> pl.DataFrame:
    in_order = found.sort("due_ns", "seq", maintain_order=True)
    return in_order.select(pl.col("scenario").cast(pl.String), "value_ns").collect()


def _reasons(run: Run, config: RunConfig) -> tuple[str, ...]:
    """Why the run is INVALID, by the rules of its plan."""
    stretch = steady_stretch(run)
    counts = counts_of(run, stretch)
    evidence = Evidence(
        run=run,
        config=config,
        counts=counts,
        traffic=traffic(run, demand_of_run(run, stretch), counts),
        latency={row.metric: row for row in latency_rows(run) if row.scenario == ALL},
        targets=(),
        times_measured=1.0,
        prices_dated=(),
        today=None,
    )
    return validity(evidence).reasons


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What was asked of the deployment. The quotas are part of it where our own throttle kept to them."""
    dumped = config.model_dump(mode="json")
    load = {key: value for key, value in dumped["load"].items() if key not in (*NOTED_OF_LOAD, *UNSAID_OF_LOAD)}
    kept: dict[str, Any] = {"loop": "open" if config.load.open_loop else "closed", "load": load}
    kept |= {section: dumped[section] for section in SECTIONS}
    kept["targets"] = len(config.targets)
    if config.load.throttle is not ThrottleMode.OFF:
        kept |= _quotas(config)
    return dict(_flattened(kept))


def _quotas(config: RunConfig) -> dict[str, Any]:
    """Each target's; the only one's has no name."""
    limited = [target for target in config.targets if target.kind is Kind.SERVERLESS]
    quotas = {target.name: orjson.loads(orjson.dumps(config.quota_of(target))) for target in limited}
    return {"quota": next(iter(quotas.values())) if limited and len(config.targets) == 1 else quotas}


def settings_that_were_not_yet() -> dict[str, Any]:
    """Keys that every run has, and those of an older version have not, by what that version did: their defaults."""
    config = RunConfig()
    usual = settings_of(config)
    sections = {"load": config.load, "prompts": config.prompts, "timeouts": config.timeouts}
    found = {}
    for section, values_ in sections.items():
        for name, field in type(values_).model_fields.items():
            key = f"{section}.{name}"
            if key in usual and type(None) not in get_args(field.annotation):
                found[key] = usual[key]
    return found


def _trace(run: Run, config: RunConfig) -> dict[str, Any]:
    """What a trace asked for, and not where the file lay: of the arrivals that the run stored before it began."""
    path = run.folder / SCHEDULE
    if config.load.trace is None or not path.is_file():
        return {}
    asked = pl.read_parquet(path, columns=TRACED)
    digest = sha256()
    for name in TRACED:
        digest.update(asked[name].fill_null(0).to_numpy().tobytes())
    return {"load.trace": f"sha256 {digest.hexdigest()[:16]}"}


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
