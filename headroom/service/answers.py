"""How a page answers: a template, the place to go on to, or what was refused and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from dashboards.service_pages import page
from headroom.service.refusals import Refusal
from headroom.service.security import FORM_FIELD, Locks

TITLES = {
    400: "The request was not understood",
    401: "This is not the token",
    403: "Not allowed",
    404: "Not found",
    409: "Too late",
    405: "Not here",
    408: "Too slow",
    413: "Too large",
    415: "The request was not understood",
    422: "This was not accepted",
    429: "Too much at once",
    503: "Busy",
    507: "No room",
}
SIGNED_IN = {
    "title": "You are signed in",
    "message": "The form is as it was filled in: look at it, and send it again.",
    "tone": "good",
}


def answer(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """With what every page needs: the token of its forms, and whether there is a session to be ended."""
    locks: Locks = request.app.state.locks
    always = {"csrf": locks.csrf, "signed_in": locks.signed_in(request.cookies)}
    return HTMLResponse(page(template, **always, **values), status)


def go_on(place: str) -> Response:
    """After a form: what is there now is read by GET, so that loading it again changes nothing."""
    return RedirectResponse(place, status_code=303)


def told(refusal: Refusal | None) -> dict[str, str] | None:
    """For the form that it is about. Its message names the place in a configuration itself."""
    if refusal is None:
        return None
    place = f"{refusal.where}: " if refusal.where not in (None, "config", "id", FORM_FIELD) else ""
    return {"title": TITLES.get(refusal.status, "It went wrong"), "message": f"{place}{refusal.message}"}


def status_of(refusal: Refusal | None) -> int:
    return 200 if refusal is None else refusal.status


def first_of(fields: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The fields of a form that each come once."""
    return {name: values[0] for name, values in fields.items()}
