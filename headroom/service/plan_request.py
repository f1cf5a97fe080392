"""What a plan and a comparison are asked for over HTTP, and the arguments of the command that answers."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from headroom.service.refusals import Refusal

Model = TypeVar("Model", bound=BaseModel)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be a text of one line, without control characters")
    return text


Line = Annotated[str, Field(max_length=200), AfterValidator(_printable)]


def _rate(text: str) -> str:
    if not re.fullmatch(r"[0-9.eE+]+/(s|min|h)", text):
        raise ValueError("write it like 20/s, 600/min or 5000/h")
    return text


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PlanRequest(Arguments):
    """As the flags of `headroom plan` of the same names have it; what is left out is as the run says."""

    runs: tuple[str, ...] = Field(min_length=1, max_length=20, description="names of runs of one deployment")
    demand: Annotated[Line, AfterValidator(_rate)] | None = Field(None, description="a rate, like 20/s")
    slo: tuple[Line, ...] | None = Field(None, max_length=20, description="objectives, like ttft.p95<1s")
    growth: Line | None = Field(None, max_length=40, description="so many times the demand, like 3x")
    region: Line | None = Field(None, max_length=40, description="where managed instances would run")
    tpm: int | None = Field(None, ge=1, le=10**12, description="quota: tokens a minute")
    rpm: int | None = Field(None, ge=1, le=10**9, description="quota: requests a minute")
    sku: Line | None = Field(None, max_length=100, description="the instance type to plan managed costs for")
    max_concurrency: int | None = Field(None, ge=1, description="requests an instance runs at once")
    concurrency_per_instance: int | None = Field(
        None, ge=1, description="requests an instance holds within the objectives"
    )
    spare: int | None = Field(None, ge=0, le=50, description="instances beyond what the load needs")
    min_instances: int | None = Field(None, ge=1, le=50, description="instances that always run")
    boot_minutes: float | None = Field(None, ge=0, le=1_440, description="how long an instance takes to start")
    on_hours_per_week: float | None = Field(None, gt=0, le=168, description="hours a week in which the demand comes")
    growth_per_month: float | None = Field(None, ge=0, lt=10, description="further growth a month, as a share")

    def arguments(self) -> list[str]:
        """Of `headroom`, among the runs."""
        return ["plan", "--json", *_flags(self.model_dump(exclude_none=True, exclude={"runs"})), "--", *self.runs]


class CompareRequest(Arguments):
    """As `headroom compare BASE NEW` has it."""

    base: str = Field(description="the name of a run")
    new: str = Field(description="the name of the run that is compared with it")
    fail_on: tuple[Line, ...] | None = Field(None, max_length=20, description="slowdowns, like ttft.p95:+10%")
    test: Line | None = Field(None, max_length=20, description="welch or ranks")

    @property
    def runs(self) -> tuple[str, ...]:
        return self.base, self.new

    def arguments(self) -> list[str]:
        """Of `headroom`, among the runs."""
        flags = _flags(self.model_dump(exclude_none=True, exclude={"base", "new"}))
        return ["compare", "--json", "-", *flags, "--", *self.runs]


def _flags(given: dict[str, Any]) -> list[str]:
    """Each in one word, so that no value is taken for a flag."""
    several = ((name, value if isinstance(value, tuple | list) else [value]) for name, value in given.items())
    return [f"--{name.replace('_', '-')}={each}" for name, values in several for each in values]


def plan_of(body: object) -> PlanRequest:
    """Raises Refusal (422) that names the field."""
    return validated(PlanRequest, body)


def comparison_of(body: object) -> CompareRequest:
    """Raises Refusal (422) that names the field."""
    return validated(CompareRequest, body)


def validated(kind: type[Model], body: object) -> Model:
    """Raises Refusal (422) that names the field."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        message = (
            "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
        )
        where = ".".join(str(part) for part in problem["loc"])[:100] or None
        raise Refusal(422, message[0].lower() + message[1:], where=where) from None
