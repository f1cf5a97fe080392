"""The service's pages, for a browser that may have scripts or not: who answers which address.

What they do goes through the same functions as the API, so that limits and messages are the same. A page that is read
changes nothing; a form that changes something carries the token against forged requests.
"""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dashboards.service_pages import ASSETS, asset
from headroom.service.answers import TITLES, answer, status_of
from headroom.service.desk import Desk
from headroom.service.job_pages import JobPages
from headroom.service.refusals import Refusal
from headroom.service.run_pages import RunPages
from headroom.service.security import FORM_FIELD, csrf_token, next_of


def routes(desk: Desk) -> list[BaseRoute]:
    """All but the API's. Forms are read by security.form_of, and carry security.csrf_token(request)."""
    jobs, runs = JobPages(desk), RunPages(desk)
    return [
        Route("/", jobs.queue),
        Route("/login", sign_in, methods=["GET"]),
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


def refusal_page(request: Request, refusal: Refusal) -> Response | None:
    """What the service does not do, for a browser that opens a page; None where a program asks."""
    if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
        return None
    title = TITLES.get(refusal.status, "It went wrong")
    if refusal.status == 401 or request.url.path == "/login":
        return _sign_in(request, refusal)
    place = f"{refusal.where}: " if refusal.where not in (None, "id", FORM_FIELD) else ""
    found = answer(
        "error", refusal.status, title=title, here="", number=refusal.status, message=f"{place}{refusal.message}"
    )
    found.headers.update(refusal.headers or {})
    return found


def sign_in(request: Request) -> Response:
    return _sign_in(request, None)


def _sign_in(request: Request, error: Refusal | None) -> Response:
    title = "" if error is None else TITLES.get(error.status, "It went wrong")
    shown = None if error is None else {"title": title, "message": error.message}
    place = urlencode({"next": next_of(request)})
    values = {"title": "Sign in", "here": "", "csrf": csrf_token(request), "next": place, "error": shown}
    return answer("sign_in", status_of(error), **values)


def send_asset(request: Request) -> Response:
    """The pages' script and style; nothing else has a name here. Raises Refusal (404)."""
    name = request.path_params["name"]
    if name not in ASSETS:
        raise Refusal(404, "there is nothing here")
    return Response(asset(name), media_type=ASSETS[name])
