"""The deployments of a run, as loadtest.toml has them: [target] for one, [[target]] for several."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from loadgen.fields import Real, Section, Whole, numbers_in, one_or_many
from loadgen.quota import Quota

SIMULATED = "sim"
MOST_USD = 1e9  # of a price or a budget: more is a slip
QuotaTable = Annotated[
    Quota, numbers_in("tokens_per_minute", "requests_per_minute", "burst_s", "request_slice_s", "concurrency")
]


class Dialect(StrEnum):
    AZURE = "azure"  # POST /chat/completions?api-version=...
    OPENAI = "openai"  # POST /v1/chat/completions


class ExtraParameters(StrEnum):
    """What the azure dialect does with parameters that its API does not define."""

    PASS_THROUGH = "pass-through"  # noqa: S105 - no password
    DROP = "drop"
    ERROR = "error"


class Kind(StrEnum):
    SERVERLESS = "serverless"  # pay per token, with a quota
    MANAGED = "managed"  # pay per instance hour, without


class Split(StrEnum):
    WEIGHT = "weight"  # drawn by the targets' weights
    ROUND_ROBIN = "round_robin"
    LEAST_THROTTLED = "least_throttled"  # where the throttle would let it go first
    EACH = "each"  # every arrival to every target


class TargetConfig(Section):
    """A deployment, and what may be sent to it."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="what the record, the tables and the messages call it; by default the URL's scheme, host and port, "
        "and of several simulated ones `sim-1`, `sim-2`",
    )
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
    instances: Whole | None = Field(None, ge=1, le=50, description="how many instances a managed deployment has")
    key: str | None = Field(
        None, description="where the key is: `env:NAME`, `file:PATH`, or `entra` for a token from azure-identity"
    )
    api_version: str = Field(
        "2024-05-01-preview", pattern=r"^[A-Za-z0-9.-]{1,40}$", description="api-version of the azure dialect"
    )
    extra_parameters: ExtraParameters | None = Field(
        None,
        description="the header `extra-parameters` of the azure dialect, for parameters that its API does not define: "
        "`pass-through`, `drop` or `error`",
    )
    allow_hosts: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = Field(
        (), description="hosts that may be loaded although they are not loopback"
    )
    ca_file: Path | None = Field(None, description="certificates to trust instead of the system's")
    weight: Real = Field(
        1.0, gt=0, le=1e6, description="its share of the arrivals, against the other targets' weights (split `weight`)"
    )
    quota: QuotaTable | None = Field(
        None, description="a table of its own with the keys of `[quota]`; keys left out are as in `[quota]`"
    )
    usd_per_1k_prompt: Real | None = Field(
        None,
        ge=0,
        le=MOST_USD,
        description="its price of 1,000 prompt tokens, with the next; by default the price book's, by model",
    )
    usd_per_1k_completion: Real | None = Field(
        None, ge=0, le=MOST_USD, description="its price of 1,000 completion tokens"
    )

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

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.usd_per_1k_prompt is None) is not (self.usd_per_1k_completion is None):
            raise ValueError("usd_per_1k_prompt and usd_per_1k_completion make a price together: give both")
        return self


def one_or_several_tables(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def named(targets: tuple[TargetConfig, ...]) -> tuple[TargetConfig, ...]:
    """Each of several targets has a name, a URL, and neither in common with another's name."""
    if not targets:
        raise ValueError("there is none: leave it out, or name one")
    if len(targets) == 1:
        return targets
    whole, simulated = [], 0
    for number, target in enumerate(targets, start=1):
        if target.url is None:
            raise ValueError(f"target {number} has no url: each of several needs one")
        simulated += target.url == SIMULATED
        default = f"{SIMULATED}-{simulated}" if target.url == SIMULATED else _origin(target.url)
        whole.append(target if target.name is not None else target.model_copy(update={"name": default}))
    names = [target.name for target in whole]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{names.count(name)} targets are called {name!r}: give each a name of its own")
    return tuple(whole)


def _origin(url: str) -> str:
    """Scheme, host and port; never a user or password. What is no URL is refused where it is used."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "malformed"
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


Targets = Annotated[
    tuple[TargetConfig, ...],
    BeforeValidator(one_or_several_tables),
    # As TOML has it: [target] for one, [[target]] for several.
    PlainSerializer(lambda targets: targets[0] if len(targets) == 1 else targets),
]


def completed(target: Any, quota: dict[str, Any]) -> Any:
    own = target.get("quota") if isinstance(target, dict) else None
    return {**target, "quota": {**quota, **own}} if isinstance(own, dict) else target
