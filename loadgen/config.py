"""What a run is asked to do, as validated, frozen values.

Secrets appear here only as references (`env:NAME`, `file:PATH`, `entra`), so a config can be printed and stored.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from loadgen.errors import ConfigError
from loadgen.quota import Quota
from loadgen.slo import Slo, parse_duration_ns
from loadgen.target_config import (
    SIMULATED,
    Dialect,
    Kind,
    Section,
    TargetConfig,
    Targets,
    completed,
    named,
    one_or_many,
    one_or_several_tables,
)

__all__ = ["SIMULATED", "Dialect", "Kind", "TargetConfig"]  # which belong to a RunConfig as much

DEFAULT_MIX = {"chat": 6.0, "streaming": 13.0, "vision": 1.0}
DEFAULT_RATE_PER_S = 6.0  # with the default mix, about three quarters of the default quota


def _seconds(value: Any) -> Any:
    try:
        return parse_duration_ns(value) / 1e9 if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _per_second(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    number, _, unit = value.partition("/")
    try:
        return float(number) / {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}[unit.strip()]
    except (ValueError, KeyError):
        raise ValueError(f"{value!r} is not a rate; write it like 5/s, 300/min or 5") from None


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


class Split(StrEnum):
    WEIGHT = "weight"  # drawn by the targets' weights
    ROUND_ROBIN = "round_robin"
    LEAST_THROTTLED = "least_throttled"  # where the throttle would let it go first
    EACH = "each"  # every arrival to every target


class LoadConfig(Section):
    """How much, when and for how long."""

    users: int | None = Field(
        None, ge=1, le=100_000, description="closed loop: this many users, each sending when its last answer is in"
    )
    rate: PerSecond | None = Field(
        None,
        description="open loop: arrivals a second, whatever the answers do; 6/s where neither users nor trace is given",
    )
    arrivals: Arrivals = Field(
        Arrivals.POISSON, description="how the gaps of an open loop are drawn: constant, poisson or gamma"
    )
    gamma_shape: float = Field(
        0.5, gt=0, allow_inf_nan=False, description="of gamma arrivals; below 1 is burstier than Poisson"
    )
    trace: Path | None = Field(None, description="open loop: arrivals and token counts from a file")
    speed: float = Field(1.0, gt=0, allow_inf_nan=False, description="play a trace this many times faster")
    duration: Seconds = Field(60.0, gt=0, description="how long arrivals come, warm-up included")
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

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        given = [name for name in ("users", "rate", "trace") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one")
        if self.warmup + self.cooldown >= self.duration:
            raise ValueError(
                f"warmup {self.warmup:g} s and cooldown {self.cooldown:g} s leave nothing of {self.duration:g} s: "
                "make them shorter, or the duration longer"
            )
        return self

    @property
    def open_loop(self) -> bool:
        return self.users is None

    @property
    def rate_per_s(self) -> float:
        """Of an open loop without a trace."""
        return DEFAULT_RATE_PER_S if self.rate is None else self.rate


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

    @property
    def slos(self) -> tuple[Slo, ...]:
        return tuple(Slo.parse(text) for text in self.slo)
