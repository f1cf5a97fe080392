"""What a run is asked to do, as validated, frozen values.

Secrets appear here only as references (`env:NAME`, `file:PATH`, `entra`), so a config can be printed and stored.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from loadgen.errors import ConfigError
from loadgen.fields import Seconds, Section, one_or_many
from loadgen.load_shape import LoadShape
from loadgen.quota import Quota
from loadgen.slo import Slo

SIMULATED = "sim"
DEFAULT_MIX = {"chat": 6.0, "streaming": 13.0, "vision": 1.0}


class Dialect(StrEnum):
    AZURE = "azure"  # POST /chat/completions?api-version=...
    OPENAI = "openai"  # POST /v1/chat/completions


class Kind(StrEnum):
    SERVERLESS = "serverless"  # pay per token, with a quota
    MANAGED = "managed"  # pay per instance hour, without


class ThrottleMode(StrEnum):
    PACE = "pace"  # wait so as not to be refused
    OFF = "off"  # send when due and let the endpoint refuse
    FEEDBACK = "feedback"  # pace, and learn from 429 and its headers


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
    allow_hosts: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = Field(
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


class LoadConfig(LoadShape):
    """How much, when and for how long."""

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
    auto_stop: bool = Field(
        True, description="stop at the first 401 or 403, and where 90 % of a minute's attempts fail"
    )


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

    target: TargetConfig = TargetConfig()
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

    @model_validator(mode="after")
    def _dollars_are_for_tokens(self) -> Self:
        if self.budget.usd is not None and self.target.kind is Kind.MANAGED:
            raise ValueError(
                "budget.usd cannot be kept for a managed deployment, which is paid by the hour whatever is sent: give "
                "--budget-wall or --budget-requests instead"
            )
        return self

    @property
    def slos(self) -> tuple[Slo, ...]:
        return tuple(Slo.parse(text) for text in self.slo)
