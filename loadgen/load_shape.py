"""When a load's requests are due: the keys of `[load]` that say so, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from loadgen.closed_loop import ThinkTime
from loadgen.errors import ConfigError
from loadgen.fields import PerSecond, Real, Seconds, Section, Whole, read_by
from loadgen.shapes import Shape, Spike, Stage, check_weights, constant, diurnal, parse_weights, spiked, staged

DEFAULT_RATE_PER_S = 6.0  # with the default mix, about three quarters of the default quota


class Arrivals(StrEnum):
    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"


def _times(text: str) -> float:
    try:
        return float(text.strip().removesuffix("x"))
    except ValueError:
        raise ConfigError(f"{text!r} is no factor; write it like 2x") from None


def _between_commas(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _staged(stages: Sequence[str]) -> Shape:
    return staged([Stage.parse(text) for text in stages])


PARSED: dict[str, Callable[[Any], object]] = {  # keys that are texts of a form of their own
    "stages": _staged,
    "spike": Spike.parse,
    "diurnal": check_weights,
    "think_time": ThinkTime.parse,
}


class LoadShape(Section):
    """One of users, rate, stages and trace, and how long it lasts."""

    model_config = ConfigDict(serialize_by_alias=True)

    users: Whole | None = Field(
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
    diurnal: Annotated[tuple[Real, ...] | None, read_by(parse_weights)] = Field(
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
    gamma_shape: Real = Field(0.5, ge=1e-3, le=1e6, description="of gamma arrivals; below 1 is burstier than Poisson")
    trace: Path | None = Field(
        None, description="open loop: arrivals and token counts from a file, or those of a run folder"
    )
    speed: Real = Field(1.0, gt=0, le=1e6, description="play a trace this many times faster")
    from_: Seconds = Field(0.0, alias="from", description="skip so much of the trace's beginning, in its own time")
    scale: Annotated[Real, read_by(_times)] = Field(
        1.0,
        gt=0,
        le=10_000,
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
                "give a shorter --warmup (5 s unless it is said), or a longer --duration"
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
