"""What the API takes and gives: the OpenAPI document is made of these models, and tests hold answers to them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from headroom.service.jobs import Kind, State
from headroom.service.shelf import RunEntry


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobRequest(Document):
    kind: Kind = Field(Kind.LOADTEST, description="loadtest or plan")
    config: dict[str, Any] | str = Field(
        default_factory=dict,
        description="of a loadtest: what loadtest.toml has, as values or as TOML text; of a plan: a PlanRequest",
    )
    name: str = Field("", max_length=100, description="what people call it")
    tags: list[str] = Field(default_factory=list, max_length=20, description="by which runs are found again")
    schedule: str | None = Field(None, description="five cron fields, in UTC: it is queued then, and again")


class JobDocument(Document):
    number: int = Field(description="its place in the order of submission")
    id: str
    kind: Kind
    name: str
    what: str = Field(description="what it does, in a few words")
    tags: list[str]
    state: State
    created_utc: str
    started_utc: str | None
    ended_utc: str | None
    exit_code: int | None = Field(description="as of headroom run")
    meaning: str | None = Field(description="what the exit code says")
    error: str | None = Field(description="its last words, where it failed")
    launch: int = Field(description="how often a start was written down; all but the last are proven not to have been")
    cancel_asked: bool
    schedule_id: str | None
    run: str | None = Field(description="the name of its run, once there is one")


class ScheduleDocument(Document):
    id: str
    cron: str
    kind: Kind
    name: str
    tags: list[str]
    created_utc: str
    next_utc: str


class JobAnswer(Document):
    job: JobDocument


class Submitted(Document):
    job: JobDocument | None = None
    schedule: ScheduleDocument | None = None


class JobShown(Document):
    job: JobDocument
    about: dict[str, Any] | None = Field(description="the run's folder, title and limits, once it has begun")
    progress: dict[str, Any] | None = Field(description="the newest second of a load test")
    log: str = Field(description="the last lines that its process said")


class JobList(Document):
    jobs: list[JobDocument]


class ScheduleList(Document):
    schedules: list[ScheduleDocument]


class RunList(Document):
    runs: list[RunEntry]


class RunAnswer(Document):
    run: RunEntry


class TagsRequest(Document):
    tags: list[str]


class PlanAnswer(Document):
    plan: dict[str, Any] = Field(description="as headroom plan --json has it")
    exit_code: int
    meaning: str
    messages: list[str]


class CompareAnswer(Document):
    comparison: dict[str, Any] = Field(description="as headroom compare --json has it")
    exit_code: int
    meaning: str
    messages: list[str]


class Health(Document):
    status: str
    running: int = Field(description="jobs")
    queued: int = Field(description="jobs")


class ErrorText(Document):
    message: str
    where: str | None = Field(description="the field or header that it is about")


class ErrorAnswer(Document):
    error: ErrorText
