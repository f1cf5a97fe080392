"""What the sections of a config are made of: durations and rates as users write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from loadgen.errors import ConfigError
from loadgen.shapes import parse_rate
from loadgen.slo import parse_duration_ns


def read_by(parse: Callable[[str], Any]) -> BeforeValidator:
    """Text is read by `parse`, and its ConfigError is pydantic's; what is no text passes."""

    def read(value: Any) -> Any:
        try:
            return parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


def one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _seconds(text: str) -> float:
    return parse_duration_ns(text) / 1e9


Seconds = Annotated[float, read_by(_seconds), Field(ge=0, allow_inf_nan=False)]
PerSecond = Annotated[float, read_by(parse_rate), Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
