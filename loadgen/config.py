"""What a run is asked to do, as validated, frozen values.

Secrets appear here only as references (`env:NAME`, `file:PATH`, `entra`), so a config can be printed and stored.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from loadgen.errors import ConfigError
from loadgen.fields import Real, Seconds, Section, Whole, one_or_many
from loadgen.lengths import MOST_TOKENS
from loadgen.load_shape import LoadShape
from loadgen.prompts_config import PromptsConfig
from loadgen.quota import Quota
from loadgen.requests import MADE_HERE
from loadgen.slo import COST, Slo, Threshold, check_once, check_thresholds
from loadgen.spread_config import SpreadConfig
from loadgen.target_config import (
    MOST_USD,
    SIMULATED,
    Dialect,
    Kind,
    QuotaTable,
    Split,
    TargetConfig,
    Targets,
    completed,
    named,
    one_or_several_tables,
)
from loadgen.telemetry_config import TelemetryConfig

__all__ = ["SIMULATED", "Dialect", "Kind", "Split", "TargetConfig"]  # which belong to a RunConfig as much

MOST_COUNTED = 10**15  # of requests or tokens: in a record they have 64 bits
DEFAULT_MIX = {"chat": 6.0, "streaming": 13.0, "vision": 1.0}


class ThrottleMode(StrEnum):
    PACE = "pace"  # wait so as not to be refused
    OFF = "off"  # send when due and let the endpoint refuse
    FEEDBACK = "feedback"  # pace, and learn from 429 and its headers


class LoadConfig(LoadShape, SpreadConfig):
    """How much, when and for how long."""

    drain: Seconds = Field(30.0, description="how long to wait for the last answers")
    max_in_flight: Whole = Field(
        2_000,
        ge=1,
        le=100_000,
        description="arrivals waiting or in flight at once; one more is dropped, and recorded so",
    )
    max_tokens: Whole = Field(
        128, ge=1, le=MOST_TOKENS, description="completion limit asked for, except where a trace says"
    )
    throttle: ThrottleMode = Field(
        ThrottleMode.PACE,
        description="`pace` waits so as not to be refused, `off` sends when due, `feedback` also learns from 429s",
    )
    retries: Whole = Field(
        0,
        ge=0,
        le=20,
        description="further attempts after 408, 429, 5xx, a timeout or a network failure; each is a row",
    )
    split: Split = Field(
        Split.WEIGHT,
        description="how several targets share the arrivals: `weight` (drawn), `round_robin`, `least_throttled` (where "
        "the throttle lets it go first), or `each` (every arrival to every target, to compare them)",
    )
    retry_elsewhere: bool = Field(
        True, description="a retry after 429 or 5xx goes to another target where there is one; never with `each`"
    )
    seed: Whole = Field(1, ge=0, lt=2**63, description="the same seed draws the same arrivals and the same requests")
    auto_stop: bool = Field(
        True, description="stop at the first 401 or 403, and where 90 % of a minute's attempts fail"
    )


class BudgetConfig(Section):
    """What the run may use up; it ends when the next request might use more."""

    requests: Whole | None = Field(
        None, ge=1, le=MOST_COUNTED, description="most requests that are sent, retries included"
    )
    tokens: Whole | None = Field(
        None, ge=1, le=MOST_COUNTED, description="most tokens of prompts and completions together"
    )
    usd: Real | None = Field(
        None, gt=0, le=MOST_USD, description="most US dollars, at the price book's serverless prices"
    )
    wall: Seconds | None = Field(None, gt=0, description="no request is sent so long after the start")

    @property
    def bounds_use(self) -> bool:
        """Whether it limits what is used, and not only for how long."""
        return any(limit is not None for limit in (self.requests, self.tokens, self.usd))


class TimeoutConfig(Section):
    """Each has an error code of its own in the record."""

    connect: Seconds = Field(10.0, gt=0, description="for the connection and TLS")
    first_byte: Seconds = Field(60.0, gt=0, description="from the request's last byte to the answer's first")
    idle: Seconds = Field(30.0, gt=0, description="between two pieces of an answer")
    total: Seconds = Field(300.0, gt=0, description="for the whole attempt")


class OutputConfig(Section):
    """What is left behind."""

    dir: Path | None = Field(None, description="the run folder; by default runs/DATE-TIME, and never one that exists")
    report: bool = Field(True, description="write report.html beside the record")


class PlanConfig(Section):
    """What the plan assumes."""

    region: str = Field("eastus", description="where managed instances would run, for their price")
    prices: Path | None = Field(None, description="a price book instead of the one that comes with Headroom")
    concurrency_per_instance: Whole | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="requests one managed instance serves at once within the objectives; by default what a managed run "
        "held, else an assumption that is printed",
    )
    growth: Real = Field(1.0, gt=0, le=1e6, description="plan for this many times the measured demand")
    growth_per_month: Real = Field(
        0.0, ge=0, lt=10, description="further growth a month, as a share: in which month each limit is reached"
    )
    refused_share: Real = Field(
        0.01, ge=0, lt=1, description="share of the requests that the recommended number of deployments may refuse"
    )
    sku: str | None = Field(None, description="the instance type to plan managed costs for; by default the cheapest")
    max_concurrency: Whole | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="requests that the server runs at once on an instance, for the serving model",
    )
    spare: Whole = Field(0, ge=0, le=50, description="managed instances beyond what the load needs: 1 is N + 1")
    min_instances: Whole = Field(1, ge=1, le=50, description="managed instances that always run")
    boot_minutes: Real = Field(15.0, ge=0, le=1_440, description="how long a managed instance takes to start")
    hours_on_per_week: Real = Field(
        168.0, gt=0, le=168, description="hours of the week in which the demand comes and managed instances run"
    )


class ThresholdConfig(Section):
    """A threshold that may end the run: a table of its own, `[[threshold]]`."""

    expr: str = Field(description="a threshold or objective, as in `slo`")
    abort_on_fail: bool = Field(
        False, description="end the run, with 99, as soon as its 99.9 % interval lies wholly beyond the limit"
    )
    delay: Seconds = Field(0.0, description="so long after the warm-up nothing is aborted")

    @model_validator(mode="after")
    def _parses(self) -> Self:
        self.threshold  # noqa: B018 - raises where it cannot be read
        if self.delay and not self.abort_on_fail:
            raise ValueError("delay: says nothing without abort_on_fail = true")
        return self

    @property
    def threshold(self) -> Threshold:
        try:
            return Threshold.parse(self.expr, abort_on_fail=self.abort_on_fail, delay_s=self.delay)
        except ConfigError as error:
            raise ValueError(str(error)) from None


class RunConfig(Section):
    """A whole loadtest.toml."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_alias=True, validate_by_name=True)

    targets: Targets = Field((TargetConfig(),), alias="target")
    load: LoadConfig = LoadConfig()
    scenarios: dict[str, Annotated[Real, Field(gt=0, le=1e6)]] = Field(
        DEFAULT_MIX, min_length=1, description="the mix: names and weights"
    )
    prompts: PromptsConfig = PromptsConfig()
    parameters: dict[str, Any] = Field(
        {}, description="further parameters of each request, like `temperature = 0.2`, where its route has them"
    )
    quota: QuotaTable = Quota()
    budget: BudgetConfig = BudgetConfig()
    timeouts: TimeoutConfig = TimeoutConfig()
    slo: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = Field(
        (), description="objectives, like `ttft.p95<1s`, and thresholds, like `failed<1%`; see Gates in CI"
    )
    threshold: Annotated[tuple[ThresholdConfig, ...], BeforeValidator(one_or_several_tables)] = Field(
        (),
        description="more of them, as tables that may end the run: `expr`, `abort_on_fail`, `delay`",
    )
    output: OutputConfig = OutputConfig()
    plan: PlanConfig = PlanConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @field_validator("slo")
    @classmethod
    def _slos_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                Threshold.parse(text)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("parameters")
    @classmethod
    def _are_not_made_here(cls, value: dict[str, Any]) -> dict[str, Any]:
        made = sorted(MADE_HERE & value.keys())
        if made:
            raise ValueError(
                f"{', '.join(made)}: set by Headroom itself; see load.max_tokens, target.model and the scenarios"
            )
        return value

    @model_validator(mode="after")
    def _prefix_has_a_whole(self) -> Self:
        if self.prompts.shared_prefix and self.prompts.tokens is None and self.load.trace is None:
            raise ValueError("prompts.shared_prefix is a share of stated lengths: give prompts.tokens or load.trace")
        return self

    @model_validator(mode="before")
    @classmethod
    def _quotas_are_completed(cls, values: Any) -> Any:
        """A target's quota says only what differs from the run's."""
        targets, quota = (values.get("target"), values.get("quota")) if isinstance(values, dict) else (None, None)
        if not isinstance(quota, dict) or targets is None:
            return values
        return {**values, "target": [completed(target, quota) for target in one_or_several_tables(targets)]}

    @field_validator("targets")
    @classmethod
    def _targets_are_named(cls, value: tuple[TargetConfig, ...]) -> tuple[TargetConfig, ...]:
        return named(value)

    @model_validator(mode="after")
    def _each_is_an_open_loop(self) -> Self:
        if self.load.split is Split.EACH and len(self.targets) > 1 and not self.load.open_loop:
            raise ValueError(
                'load.split = "each" gives every target the same arrivals, and a closed loop\'s depend on the answers: '
                "give a rate, or a run for each target"
            )
        return self

    @property
    def target(self) -> TargetConfig:
        """The first, and most often the only one."""
        return self.targets[0]

    def quota_of(self, target: TargetConfig) -> Quota:
        return self.quota if target.quota is None else target.quota

    @model_validator(mode="after")
    def _dollars_are_for_tokens(self) -> Self:
        if self.budget.usd is not None and any(target.kind is Kind.MANAGED for target in self.targets):
            raise ValueError(
                "budget.usd cannot be kept for a managed deployment, which is paid by the hour whatever is sent: give "
                "--budget-wall or --budget-requests instead"
            )
        return self

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """All that the run must keep, objectives included."""
        return (*(Threshold.parse(text) for text in self.slo), *(each.threshold for each in self.threshold))

    @property
    def slos(self) -> tuple[Slo, ...]:
        """Those that each request can keep or miss."""
        return tuple(threshold.slo for threshold in self.thresholds if threshold.slo is not None)

    @model_validator(mode="after")
    def _thresholds_are_of_this_run(self) -> Self:
        thresholds = self.thresholds
        try:
            check_once(thresholds)
            check_thresholds(thresholds, self.scenarios, [each.name for each in self.targets if each.name is not None])
        except ConfigError as error:
            raise ValueError(str(error)) from None
        priced = any(threshold.metric == COST for threshold in thresholds)
        if priced and any(target.kind is Kind.MANAGED for target in self.targets):
            raise ValueError(f"{COST} is of prices per token: a managed deployment is paid by the hour")
        return self
