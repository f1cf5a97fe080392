"""The service's pages, for a browser that may have scripts or not: who answers which address.

What they do goes through the same functions as the API, so that limits and messages are the same. A page that is read
changes nothing; a form that changes something carries the token against forged requests.
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dashboards.service_pages import ASSETS, asset
from headroom.service import sign_in
from headroom.service.answers import TITLES, answer
from headroom.service.desk import Desk
from headroom.service.job_pages import JobPages
from headroom.service.refusals import Refusal
from headroom.service.run_pages import RunPages
from headroom.service.security import FORM_FIELD


def routes(desk: Desk) -> list[BaseRoute]:
    """All but the API's. Forms are read by security.form_of, and carry security.csrf_token(request)."""
    jobs, runs = JobPages(desk), RunPages(desk)

    async def again(request: Request, place: str, fields: dict[str, list[str]]) -> Response | None:
        if place == "/jobs/new":
            return await run_in_threadpool(jobs.again, request, fields)
        run = place.removeprefix("/runs/")
        return await run_in_threadpool(runs.again, request, run, fields) if run != place else None

    return [
        Route("/", jobs.queue),
        Route("/login", sign_in.show, methods=["GET"]),
        Route("/login", sign_in.taking(again), methods=["POST"]),
        Route("/logout", sign_in.sign_out, methods=["POST"]),
        Route("/jobs/new", jobs.new, methods=["GET"]),
        Route("/jobs/new", jobs.submit, methods=["POST"]),
        Route("/jobs/{id}", jobs.show),
        Route("/jobs/{id}/cancel", jobs.cancel, methods=["POST"]),
        Route("/schedules/{id}/end", jobs.end_schedule, methods=["POST"]),
        Route("/runs", runs.table),
        Route("/runs/{id}", runs.show),
        Route("/runs/{id}/tags", runs.tag, methods=["POST"]),
        Route("/compare", runs.compare),
        Route("/compare/report", runs.draw),
        Route("/plan", runs.plan),
        Route("/assets/{name}", send_asset),
    ]


async def refusal_page(request: Request, refusal: Refusal) -> Response | None:
    """What the service does not do, for a browser that opens a page; None where a program asks."""
    if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
        return None
    if refusal.status == 401 or request.url.path == sign_in.PLACE:
        return await sign_in.ask(request, refusal)
    place = f"{refusal.where}: " if refusal.where not in (None, "id", FORM_FIELD) else ""
    message, title = f"{place}{refusal.message}", TITLES.get(refusal.status, "It went wrong")
    found = answer(request, "error", refusal.status, title=title, here="", number=refusal.status, message=message)
    found.headers.update(refusal.headers or {})
    return found


def send_asset(request: Request) -> Response:
    """The pages' script and style; nothing else has a name here. Raises Refusal (404)."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise Refusal(404, "there is nothing here")
    return Response(asset(name), media_type=ASSETS[name])
