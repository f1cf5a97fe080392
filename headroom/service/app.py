"""The service as an ASGI application: the API, the pages where there are some, and the guard before both."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from headroom.service import pages
from headroom.service.desk import Desk
from headroom.service.jobs import Job
from headroom.service.refusals import Refusal
from headroom.service.security import Guard, Locks, body_of, log_in, refused
from headroom.service.settings import Settings
from loadgen.errors import HeadroomError


def create_app(settings: Settings) -> Starlette:
    """`app.state.desk` answers, `app.state.locks` guards; pages are those of headroom.service.pages."""
    desk, locks = Desk(settings), Locks(settings)
    routes = [
        Route("/login", log_in, methods=["POST"]),
        Route("/healthz", healthy),
        Route("/api/jobs", list_jobs, methods=["GET"]),
        Route("/api/jobs", submit, methods=["POST"]),
        Route("/api/jobs/{id}", show_job, methods=["GET"]),
        Route("/api/jobs/{id}", cancel, methods=["DELETE"]),
        Route("/api/runs", list_runs),
        *(Route(f"/api/runs/{{id}}/{name}", show_file, name=name) for name in ("summary", "report", "samples")),
        *pages.routes(desk),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, locks=locks)],
        exception_handlers={Refusal: _refused, HeadroomError: _refused, 404: _not_found, 405: _not_found},
    )
    app.state.desk, app.state.locks = desk, locks
    return app


def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


async def _refused(request: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, Refusal) else Refusal(422, str(error))
    return pages.refusal_page(request, refusal) or refused(refusal)


async def _not_found(request: Request, error: Exception) -> Response:
    return await _refused(request, Refusal(getattr(error, "status_code", 404), "there is nothing here"))


def healthy(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


def list_jobs(request: Request) -> Response:
    return JSONResponse({"jobs": [told(job) for job in desk_of(request).jobs.all()]})


async def submit(request: Request) -> Response:
    job = _parsed(await body_of(request), request.headers["content-type"])
    made = await run_in_threadpool(desk_of(request).submit, job)
    return JSONResponse({"job": told(made)} if isinstance(made, Job) else {"schedule": dataclasses.asdict(made)}, 201)


def _parsed(body: bytes, content_type: str) -> dict[str, Any]:
    """Raises Refusal (400) for what is no table."""
    try:
        text = body.decode()
        read = tomllib.loads(text) if content_type.startswith("application/toml") else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the request cannot be read: {error}") from None
    if not isinstance(read, dict):
        raise Refusal(400, "the request must be a table")
    return read


def show_job(request: Request) -> Response:
    desk = desk_of(request)
    job = desk.jobs.get(request.path_params["id"])
    return JSONResponse({"job": told(job), "progress": desk.progress(job.id)})


def cancel(request: Request) -> Response:
    return JSONResponse({"job": told(desk_of(request).cancel(request.path_params["id"]))})


def list_runs(request: Request) -> Response:
    return JSONResponse({"runs": [dataclasses.asdict(entry) for entry in desk_of(request).runs()]})


def show_file(request: Request) -> Response:
    name = request.scope["route"].name
    path: Path = desk_of(request).file(request.path_params["id"], name)
    return FileResponse(path)


def told(job: Job) -> dict[str, Any]:
    return dataclasses.asdict(job) | {"meaning": job.meaning}
