"""What a run is asked to do, as validated, frozen values.

Secrets appear here only as references (`env:NAME`, `file:PATH`, `entra`), so a config can be printed and stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from loadgen.closed_loop import ThinkTime
from loadgen.errors import ConfigError
from loadgen.quota import Quota
from loadgen.shapes import (
    Shape,
    Spike,
    Stage,
    check_weights,
    constant,
    diurnal,
    parse_rate,
    parse_weights,
    spiked,
    staged,
)
from loadgen.slo import Slo, parse_duration_ns
from loadgen.spread_config import SpreadConfig
from loadgen.target_config import (
    SIMULATED,
    Dialect,
    Kind,
    Section,
    Split,
    TargetConfig,
    Targets,
    completed,
    named,
    one_or_many,
    one_or_several_tables,
)

__all__ = ["SIMULATED", "Dialect", "Kind", "Split", "TargetConfig"]  # which belong to a RunConfig as much

DEFAULT_MIX = {"chat": 6.0, "streaming": 13.0, "vision": 1.0}
DEFAULT_RATE_PER_S = 6.0  # with the default mix, about three quarters of the default quota


def _seconds(value: Any) -> Any:
    try:
        return parse_duration_ns(value) / 1e9 if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _per_second(value: Any) -> Any:
    try:
        return parse_rate(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _times(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value.strip().removesuffix("x"))
    except ValueError:
        raise ValueError(f"{value!r} is no factor; write it like 2x") from None


def _between_commas(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _weights(value: Any) -> Any:
    try:
        return parse_weights(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
PerSecond = Annotated[float, BeforeValidator(_per_second), Field(gt=0, allow_inf_nan=False)]


class Arrivals(StrEnum):
    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"


class ThrottleMode(StrEnum):
    PACE = "pace"  # wait so as not to be refused
    OFF = "off"  # send when due and let the endpoint refuse
    FEEDBACK = "feedback"  # pace, and learn from 429 and its headers


def _staged(stages: Sequence[str]) -> Shape:
    return staged([Stage.parse(text) for text in stages])


PARSED: dict[str, Callable[[Any], object]] = {  # keys that are texts of a form of their own
    "stages": _staged,
    "spike": Spike.parse,
    "diurnal": check_weights,
    "think_time": ThinkTime.parse,
}


class LoadConfig(SpreadConfig):
    """How much, when and for how long."""

    model_config = ConfigDict(serialize_by_alias=True)

    users: int | None = Field(
        None, ge=1, le=100_000, description="closed loop: this many users, each sending when its last answer is in"
    )
    spawn_rate: PerSecond | None = Field(
        None, description="users that come a second, like 10/s; by default all come at once"
    )
    think_time: str | None = Field(
        None,
        description="how long a user waits after an answer: `2s`, `1s..3s` (drawn evenly), `exp:2s` (drawn "
        "exponentially, of that mean)",
    )
    rate: PerSecond | None = Field(
        None,
        description="open loop: arrivals a second, whatever the answers do; 6/s where no other load is given",
    )
    spike: str | None = Field(
        None, description="another rate for a while, like `50/s:10s@30s`: 50/s for 10 s, from 30 s after the start on"
    )
    diurnal: Annotated[tuple[float, ...] | None, BeforeValidator(_weights)] = Field(
        None, description="24 weights, of the hours of a day, whose mean has the rate `rate`; each holds for its hour"
    )
    day: Seconds | None = Field(
        None, gt=0, description="how long a day of `diurnal` lasts in the run; by default as long as the run"
    )
    stages: Annotated[tuple[str, ...] | None, BeforeValidator(_between_commas)] = Field(
        None,
        description="open loop: rates and how long each lasts, like `5/s:60s,20/s:120s`; from one to the next the rate "
        "changes evenly over the next one's time, the first holds, and a stage of `0s` jumps",
    )
    arrivals: Arrivals = Field(
        Arrivals.POISSON, description="how the gaps of an open loop are drawn: constant, poisson or gamma"
    )
    gamma_shape: float = Field(
        0.5, gt=0, allow_inf_nan=False, description="of gamma arrivals; below 1 is burstier than Poisson"
    )
    trace: Path | None = Field(
        None, description="open loop: arrivals and token counts from a file, or those of a run folder"
    )
    speed: float = Field(1.0, gt=0, allow_inf_nan=False, description="play a trace this many times faster")
    from_: Seconds = Field(0.0, alias="from", description="skip so much of the trace's beginning, in its own time")
    scale: Annotated[float, BeforeValidator(_times)] = Field(
        1.0,
        gt=0,
        le=10_000,
        allow_inf_nan=False,
        description="play so many times the trace's arrivals, like `2x`: each as often, or below 1 with that chance",
    )
    skip_bad_rows: bool = Field(
        False, description="pass over rows of a trace that cannot be used, and count them, instead of ending"
    )
    duration: Seconds = Field(
        60.0, gt=0, description="how long arrivals come, warm-up included; stages say it themselves"
    )
    warmup: Seconds = Field(5.0, description="the first part of it, which no figure counts")
    cooldown: Seconds = Field(0.0, description="the last part of it, which no figure counts")
    drain: Seconds = Field(30.0, description="how long to wait for the last answers")
    max_in_flight: int = Field(
        2_000,
        ge=1,
        le=100_000,
        description="arrivals waiting or in flight at once; one more is dropped, and recorded so",
    )
    max_tokens: int = Field(128, ge=1, description="completion limit asked for, except where a trace says")
    throttle: ThrottleMode = Field(
        ThrottleMode.PACE,
        description="`pace` waits so as not to be refused, `off` sends when due, `feedback` also learns from 429s",
    )
    retries: int = Field(
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
    seed: int = Field(1, ge=0, lt=2**63, description="the same seed draws the same arrivals and the same requests")
    auto_stop: bool = Field(
        True, description="stop at the first 401 or 403, and where 90 % of a minute's attempts fail"
    )

    @field_validator("stages", "spike", "diurnal", "think_time")
    @classmethod
    def _parses(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            try:
                PARSED[info.field_name or ""](value)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _stages_say_how_long(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("stages") is None or values.get("duration") is not None:
            return values
        try:
            return {**values, "duration": _staged(_between_commas(values["stages"])).duration_s}
        except (ConfigError, TypeError, AttributeError):
            return values  # what is wrong with them is said where they are read

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        given = [name for name in ("users", "rate", "stages", "trace") if getattr(self, name) is not None]
        given += [name for name in ("spike", "diurnal") if getattr(self, name) is not None and given != ["rate"]]
        if self.spike is not None and self.diurnal is not None:
            given = ["spike", "diurnal"]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one")
        if self.warmup + self.cooldown >= self.duration:
            raise ValueError(
                f"warmup {self.warmup:g} s and cooldown {self.cooldown:g} s leave nothing of {self.duration:g} s: "
                "make them shorter, or the duration longer"
            )
        return self

    @model_validator(mode="after")
    def _fits_the_duration(self) -> Self:
        if self.spawn_rate is not None and (self.users or 1) - 1 >= self.spawn_rate * self.duration:
            raise ValueError(
                f"{self.users} users at {self.spawn_rate:g} a second take longer to come than the "
                f"{self.duration:g} s that the load lasts: raise spawn_rate"
            )
        if self.users is not None or self.trace is not None:
            return self
        try:
            stages_s = self.shape.duration_s
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if abs(stages_s - self.duration) > 1e-6:
            raise ValueError(f"the stages take {stages_s:g} s, and the duration is {self.duration:g} s: leave it out")
        return self

    @property
    def open_loop(self) -> bool:
        return self.users is None

    @property
    def rate_per_s(self) -> float:
        """Of an open loop without stages or a trace."""
        return DEFAULT_RATE_PER_S if self.rate is None else self.rate

    @property
    def shape(self) -> Shape:
        """The rate of an open loop without a trace, over time. Raises ConfigError for a spike that the run cuts."""
        if self.stages is not None:
            return _staged(self.stages)
        if self.spike is not None:
            return spiked(self.rate_per_s, self.duration, Spike.parse(self.spike))
        if self.diurnal is not None:
            return diurnal(self.rate_per_s, self.duration, self.diurnal, self.day or self.duration)
        return constant(self.rate_per_s, self.duration)

    @property
    def thinking(self) -> ThinkTime | None:
        return None if self.think_time is None else ThinkTime.parse(self.think_time)


class BudgetConfig(Section):
    """What the run may use up; it ends when the next request might use more."""

    requests: int | None = Field(None, ge=1, description="most requests that are sent, retries included")
    tokens: int | None = Field(None, ge=1, description="most tokens of prompts and completions together")
    usd: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="most US dollars, at the price book's serverless prices"
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
    concurrency_per_instance: int | None = Field(
        None,
        ge=1,
        description="requests one managed instance serves at once within the objectives; by default what a managed run "
        "held, else an assumption that is printed",
    )
    growth: float = Field(1.0, gt=0, allow_inf_nan=False, description="plan for this many times the measured demand")


class RunConfig(Section):
    """A whole loadtest.toml."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_alias=True, validate_by_name=True)

    targets: Targets = Field((TargetConfig(),), alias="target")
    load: LoadConfig = LoadConfig()
    scenarios: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        DEFAULT_MIX, min_length=1, description="the mix: names and weights"
    )
    quota: Quota = Quota()
    budget: BudgetConfig = BudgetConfig()
    timeouts: TimeoutConfig = TimeoutConfig()
    slo: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = Field(
        (), description="objectives, like `ttft.p95<1s`"
    )
    output: OutputConfig = OutputConfig()
    plan: PlanConfig = PlanConfig()

    @field_validator("slo")
    @classmethod
    def _slos_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                Slo.parse(text)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

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
    def slos(self) -> tuple[Slo, ...]:
        return tuple(Slo.parse(text) for text in self.slo)
