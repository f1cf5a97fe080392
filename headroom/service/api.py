"""The HTTP API: each endpoint with what it takes and gives, from which its route and its documentation are made."""

from __future__ import annotations

import dataclasses
import json
import time
import tomllib
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from headroom.service import documents as d
from headroom.service import events
from headroom.service.desk import Desk
from headroom.service.jobs import Job, State
from headroom.service.metrics import metrics_of
from headroom.service.once import HEADER as IDEMPOTENCY_KEY
from headroom.service.plan_request import CompareRequest, PlanRequest, validated
from headroom.service.refusals import Refusal
from headroom.service.security import REPORT_POLICY, body_of, kind_of

KINDS = {
    "summary": "application/json",
    "report": "text/html; charset=utf-8",
    "samples": "application/vnd.apache.parquet",
}
MOST_LISTED = 1_000
STANDS_AFTER_S = 30.0  # without one good look at the queue


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A method of a path. `gives` is a model, or the media type of what is no JSON of ours."""

    method: str
    path: str
    answers: Callable[[Request], Any]
    summary: str
    gives: type[BaseModel] | str
    takes: type[BaseModel] | None = None
    status: int = 200
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()

    @property
    def route(self) -> Route:
        return Route(self.path, self.answers, methods=[self.method])


def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


async def read(request: Request) -> dict[str, Any]:
    """The table that was sent. Raises Refusal: 400 for what is none, 413."""
    try:
        text = (await body_of(request)).decode()
        found = (
            tomllib.loads(text)
            if kind_of(request) == "application/toml"
            else json.loads(text, parse_constant=_no_number)
        )
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the request cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise Refusal(400, "the request must be a table, {...}")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON's")


def _only(request: Request, *known: str) -> None:
    unknown = sorted(set(request.query_params) - set(known))
    if unknown:
        raise Refusal(422, f"unknown; known are {', '.join(known)}", where=unknown[0][:100])


def list_jobs(request: Request) -> Response:
    _only(request, "state", "limit", "before")
    desk, states = desk_of(request), request.query_params.getlist("state")
    if any(state not in list(State) for state in states):
        raise Refusal(422, f"must be {', '.join(State)}", where="state")
    limit, before = _number(request, "limit", 200), _number(request, "before", 2**62)
    jobs = desk.jobs.all(states=[State(each) for each in states], limit=min(limit, MOST_LISTED), before=before)
    return JSONResponse({"jobs": [desk.told(job) for job in jobs]})


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or not 0 < int(text) <= 2**62:
        raise Refusal(422, "must be a whole number above 0", where=name)
    return int(text)


async def submit(request: Request) -> Response:
    desk, keys = desk_of(request), request.headers.getlist(IDEMPOTENCY_KEY)
    made = await run_in_threadpool(desk.submit, await read(request), keys)
    if isinstance(made, Job):
        return JSONResponse({"job": desk.told(made)}, 201, headers={"location": f"/api/jobs/{made.id}"})
    return JSONResponse({"schedule": dataclasses.asdict(made)}, 201)


def show_job(request: Request) -> Response:
    desk = desk_of(request)
    job = desk.jobs.get(request.path_params["id"])
    shown = {"about": desk.about(job.id), "progress": desk.progress(job.id), "log": desk.log(job.id)}
    return JSONResponse({"job": desk.told(job), **shown})


def cancel(request: Request) -> Response:
    desk = desk_of(request)
    return JSONResponse({"job": desk.told(desk.cancel(request.path_params["id"]))})


def show_plan(request: Request) -> Response:
    return Response(desk_of(request).result(request.path_params["id"]), media_type="application/json")


async def follow(request: Request) -> Response:
    return await events.of(request, desk_of(request))


def list_schedules(request: Request) -> Response:
    return JSONResponse({"schedules": [dataclasses.asdict(each) for each in desk_of(request).jobs.schedules()]})


def drop_schedule(request: Request) -> Response:
    desk_of(request).jobs.drop_schedule(request.path_params["id"])
    return Response(status_code=204)


def list_runs(request: Request) -> Response:
    _only(request, "tag", "limit", "before")
    wanted, limit = set(request.query_params.getlist("tag")), _number(request, "limit", MOST_LISTED)
    entries = desk_of(request).runs()
    before = request.query_params.get("before")
    if before is not None:
        at = next((n for n, entry in enumerate(entries) if entry.id == before), None)
        if at is None:
            raise Refusal(422, "must be the id of a run that is there", where="before")
        entries = entries[at + 1 :]
    found = [entry for entry in entries if wanted <= set(entry.tags)]
    return JSONResponse({"runs": [dataclasses.asdict(entry) for entry in found[: min(limit, MOST_LISTED)]]})


def show_run(request: Request) -> Response:
    return JSONResponse({"run": dataclasses.asdict(desk_of(request).run(request.path_params["id"]))})


async def tag_run(request: Request) -> Response:
    tags = validated(d.TagsRequest, await read(request)).tags
    entry = await run_in_threadpool(desk_of(request).tag, request.path_params["id"], tags)
    return JSONResponse({"run": dataclasses.asdict(entry)})


def file_of(name: str) -> Callable[[Request], Response]:
    """One of shelf.FILES. A report has scripts and others' data: it gets an origin of its own, without rights."""

    def show(request: Request) -> Response:
        path = desk_of(request).file(request.path_params["id"], name)
        headers = {"content-security-policy": REPORT_POLICY} if name == "report" else {}
        return FileResponse(path, media_type=KINDS[name], headers=headers)

    return show


async def plan(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(desk_of(request).plan, await read(request)))


async def compare(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(desk_of(request).compare, await read(request)))


def show_metrics(request: Request) -> Response:
    return PlainTextResponse(metrics_of(desk_of(request)), media_type="text/plain; version=0.0.4; charset=utf-8")


def health(request: Request) -> Response:
    desk = desk_of(request)
    counts, looked_s = desk.jobs.counts(), desk.runner.looked_s
    stands = looked_s is not None and time.monotonic() - looked_s > STANDS_AFTER_S
    status = "the queue stands still" if stands else "ok"
    told = {"status": status, "running": counts[State.RUNNING], "queued": counts[State.QUEUED]}
    return JSONResponse(told, 503 if stands else 200)


async def describe(_: Request) -> Response:
    from headroom.service.openapi import described  # noqa: PLC0415 - which knows all of this

    return JSONResponse(described(ENDPOINTS))


ENDPOINTS = (
    Endpoint(
        method="POST", path="/api/jobs", answers=submit, takes=d.JobRequest, gives=d.Submitted, status=201,
        headers=(IDEMPOTENCY_KEY,),
        summary="Queue a load test or a plan, or have it queued by a schedule; it is validated at once. Asked again "
        "with the same Idempotency-Key and body within 30 days it makes no other, and answers with the first",
    ),
    Endpoint(
        method="GET", path="/api/jobs", answers=list_jobs, gives=d.JobList, query=("state", "limit", "before"),
        summary="Jobs, the newest first; those older than the number `before`",
    ),
    Endpoint(method="GET", path="/api/jobs/{id}", answers=show_job, gives=d.JobShown, summary="A job"),
    Endpoint(
        method="DELETE", path="/api/jobs/{id}", answers=cancel, gives=d.JobAnswer,
        summary="Cancel a job: at once where it waits, within ten seconds where it runs",
    ),
    Endpoint(
        method="GET", path="/api/jobs/{id}/events", answers=follow, gives="text/event-stream",
        summary="Server-sent events: `job` when its state changes, `about`, `progress` each second, `end`",
    ),
    Endpoint(
        method="GET", path="/api/jobs/{id}/plan", answers=show_plan, gives="application/json",
        summary="What a plan has come to, as headroom plan --json has it",
    ),
    Endpoint(
        method="GET", path="/api/schedules", answers=list_schedules, gives=d.ScheduleList,
        summary="Schedules, by when they are due next",
    ),
    Endpoint(
        method="DELETE", path="/api/schedules/{id}", answers=drop_schedule, gives="", status=204,
        summary="Delete a schedule; what it has queued stays",
    ),
    Endpoint(
        method="GET", path="/api/runs", answers=list_runs, gives=d.RunList, query=("tag", "limit", "before"),
        summary="Runs, the newest first; those that have every `tag`; those after the run `before`",
    ),
    Endpoint(method="GET", path="/api/runs/{id}", answers=show_run, gives=d.RunAnswer, summary="A run"),
    Endpoint(
        method="PUT", path="/api/runs/{id}/tags", answers=tag_run, takes=d.TagsRequest, gives=d.RunAnswer,
        summary="Replace a run's tags",
    ),
    *(
        Endpoint(
            method="GET", path=f"/api/runs/{{id}}/{name}", answers=file_of(name), gives=KINDS[name].partition(";")[0],
            summary=summary,
        )
        for name, summary in (
            ("summary", "The run's plan and figures, summary.json"),
            ("report", "The run's report, an HTML file that opens offline"),
            ("samples", "The record: one row an attempt, samples.parquet"),
        )
    ),
    Endpoint(
        method="POST", path="/api/compare", answers=compare, takes=CompareRequest, gives=d.CompareAnswer,
        summary="Compare two runs, as headroom compare does",
    ),
    Endpoint(
        method="POST", path="/api/plan", answers=plan, takes=PlanRequest, gives=d.PlanAnswer,
        summary="Plan from runs, as headroom plan does",
    ),
    Endpoint(method="GET", path="/metrics", answers=show_metrics, gives="text/plain", summary="For Prometheus"),
    Endpoint(
        method="GET", path="/healthz", answers=health, gives=d.Health,
        summary="Whether it answers, and the queue moves; else 503",
    ),
    Endpoint(method="GET", path="/openapi.json", answers=describe, gives="application/json", summary="This document"),
)  # fmt: skip
