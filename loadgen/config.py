"""What a run is asked to do, as validated, frozen values.

Secrets appear here only as references (`env:NAME`, `file:PATH`, `entra`), so a config can be printed and stored.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from loadgen.errors import ConfigError
from loadgen.quota import Quota
from loadgen.slo import Slo, parse_duration_ns

SIMULATED = "sim"
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


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)]
PerSecond = Annotated[float, BeforeValidator(_per_second), Field(gt=0, allow_inf_nan=False)]


class Dialect(StrEnum):
    AZURE = "azure"  # POST /chat/completions?api-version=...
    OPENAI = "openai"  # POST /v1/chat/completions


class Kind(StrEnum):
    SERVERLESS = "serverless"  # pay per token, with a quota
    MANAGED = "managed"  # pay per instance hour, without


class Arrivals(StrEnum):
    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"


class ThrottleMode(StrEnum):
    PACE = "pace"  # wait so as not to be refused
    OFF = "off"  # send when due and let the endpoint refuse
    FEEDBACK = "feedback"  # pace, and learn from 429 and its headers


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TargetConfig(Section):
    """A deployment, and what may be sent to it."""

    url: str | None = Field(
        None, description="`sim`, or the endpoint's https:// address; by default the environment's, else `sim`"
    )
    dialect: Dialect = Field(
        Dialect.AZURE, description="`azure`: /chat/completions?api-version=...; `openai`: /v1/chat/completions"
    )
    kind: Kind = Field(
        Kind.SERVERLESS, description="`serverless` (pay per token, quota) or `managed` (pay per instance hour)"
    )
    model: str | None = Field(
        None, description="the model's name, for prices and the body of the openai dialect; by default what /info says"
    )
    key: str | None = Field(
        None, description="where the key is: `env:NAME`, `file:PATH`, or `entra` for a token from azure-identity"
    )
    api_version: str = Field("2024-05-01-preview", description="api-version of the azure dialect")
    allow_hosts: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = Field(
        (), description="hosts that may be loaded although they are not loopback"
    )
    ca_file: Path | None = Field(None, description="certificates to trust instead of the system's")

    @field_validator("key")
    @classmethod
    def _is_a_reference(cls, value: str | None) -> str | None:
        if value is not None and value != "entra" and not value.startswith(("env:", "file:")):
            raise ValueError("must say where the key is, not be the key: env:NAME, file:PATH or entra")
        return value

    @model_validator(mode="after")
    def _entra_is_for_managed(self) -> Self:
        if self.key == "entra" and self.kind is Kind.SERVERLESS:
            raise ValueError('serverless endpoints do not accept Entra ID; give key = "env:NAME", or kind = "managed"')
        return self


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
    seed: int = Field(1, ge=0, lt=2**63, description="the same seed draws the same arrivals and the same requests")
    processes: int = Field(
        1, ge=-1, le=1_000, description="load processes on this machine that share the load; -1: one a core"
    )
    master: bool = Field(False, description="wait for `headroom worker` on other machines, and let them make the load")
    bind: str = Field(
        "127.0.0.1:5557", description="HOST:PORT where a master listens for workers; the channel has no key of its own"
    )
    workers: int = Field(1, ge=1, le=1_000, description="so many workers a master waits for before it starts")

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

    @model_validator(mode="after")
    def _one_way_to_spread(self) -> Self:
        if self.processes == 0:
            raise ValueError("processes must be 1 or more, or -1 for one a core")
        if self.master and self.processes != 1:
            raise ValueError("a master starts no processes of its own: start workers beside it, or leave --master away")
        return self

    @field_validator("bind")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise ValueError(f"{value!r} is not HOST:PORT; write 0.0.0.0:5557 for all of this machine's addresses")
        return value

    @property
    def distributed(self) -> bool:
        """Several processes make the load, or others than this one."""
        return self.master or self.processes != 1

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

    target: TargetConfig = TargetConfig()
    load: LoadConfig = LoadConfig()
    scenarios: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        DEFAULT_MIX, min_length=1, description="the mix: names and weights"
    )
    quota: Quota = Quota()
    timeouts: TimeoutConfig = TimeoutConfig()
    slo: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = Field(
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

    @property
    def slos(self) -> tuple[Slo, ...]:
        return tuple(Slo.parse(text) for text in self.slo)
