"""How values are written in loadtest.toml and on the command line, and what all of its sections have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from loadgen.errors import ConfigError
from loadgen.shapes import parse_rate, parse_weights
from loadgen.slo import parse_duration_ns


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def seconds(value: Any) -> Any:
    try:
        return parse_duration_ns(value) / 1e9 if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


def per_second(value: Any) -> Any:
    try:
        return parse_rate(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


def times(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value.strip().removesuffix("x"))
    except ValueError:
        raise ValueError(f"{value!r} is no factor; write it like 2x") from None


def one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def between_commas(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def weights(value: Any) -> Any:
    try:
        return parse_weights(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False)]
PerSecond = Annotated[float, BeforeValidator(per_second), Field(gt=0, allow_inf_nan=False)]
