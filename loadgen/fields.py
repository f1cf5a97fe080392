"""What the sections of a config are made of: numbers, and durations and rates as users write them."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from loadgen.errors import ConfigError
from loadgen.shapes import MOST_PER_S, parse_rate
from loadgen.slo import LONGEST_S, parse_duration_ns

TOO_LARGE = 2**63


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


def _number(value: Any) -> Any:
    """TOML and JSON have true and texts of their own: as numbers they are slips, and would be taken for 1 and 10."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    if isinstance(value, str):
        raise ValueError(f"must be a number, not text{'; write it without quotes' if _is_number(value) else ''}")
    if isinstance(value, int | float) and TOO_LARGE <= abs(value) < inf:
        raise ValueError("must be a number below 2^63")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def numbers_in(*names: str) -> BeforeValidator:
    """The same of keys of a table whose type is none of pydantic's."""

    def check(table: Any) -> Any:
        for name in names if isinstance(table, dict) else ():
            try:
                _number(table.get(name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return table

    return BeforeValidator(check)


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Seconds = Annotated[Real, read_by(_seconds), Field(ge=0, le=LONGEST_S)]
PerSecond = Annotated[Real, read_by(parse_rate), Field(gt=0, le=MOST_PER_S)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
