"""Signing in and out. Who has to sign in on the way to a page comes to that page, and with a form to the form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from headroom.service.answers import TITLES, answer, go_on
from headroom.service.refusals import Refusal
from headroom.service.security import FORM, SESSION, Locks, LostForm, StaleForm, fields_of, form_of, kind_of
from headroom.service.sessions import SESSION_S

PLACE = "/login"
LONGEST_PLACE = 2_000  # characters
Fields = dict[str, list[str]]
Again = Callable[[Request, str, Fields], Awaitable[Response | None]]  # a page's form as it was filled in, if it has one


def page_of(request: Request) -> str:
    """That was asked for, or that has the form which was sent."""
    path = request.url.path
    if request.method == "POST":
        head, _, last = path.rpartition("/")
        return path if last == "new" else head if last in ("tags", "cancel") else "/"
    return f"{path}?{request.url.query}"[:LONGEST_PLACE] if request.url.query else path[:LONGEST_PLACE]


def next_of(request: Request) -> str:
    """The page of ours that was asked for before the token was, as /login?next= has it; else the first."""
    place = request.query_params.get("next", "")
    ours = place.startswith("/") and not place.startswith("//") and "\\" not in place and place.isprintable()
    return place if ours and len(place) <= LONGEST_PLACE else "/"


async def ask(request: Request, refusal: Refusal) -> Response:
    """Of a browser that has no session: for the token, and with it goes what was typed into a form."""
    if request.method == "GET" and request.url.path != PLACE:
        return go_on(f"{PLACE}?{urlencode({'next': page_of(request)})}")
    place = next_of(request) if request.url.path == PLACE else page_of(request)
    return _page(request, place, await _typed(request, refusal), refusal)


async def _typed(request: Request, refusal: Refusal) -> Fields:
    fields: Fields = {}
    if isinstance(refusal, LostForm):
        fields = refusal.fields
    elif request.url.path != PLACE and kind_of(request) == FORM:  # there it was read, and was no form
        with suppress(Refusal, ClientDisconnect):
            fields = await fields_of(request)
    return {name: values for name, values in fields.items() if name not in ("token", "csrf")}


def show(request: Request) -> Response:
    """GET /login."""
    return _page(request, next_of(request), {}, None)


def _page(request: Request, place: str, typed: Fields, refusal: Refusal | None) -> Response:
    return answer(
        request,
        "sign_in",
        200 if refusal is None else refusal.status,
        title="Sign in",
        here="",
        next=urlencode({"next": place}),
        typed=[(name, value) for name, values in typed.items() for value in values],
        error=_said(request, typed, refusal),
    )


def _said(request: Request, typed: Fields, refusal: Refusal | None) -> dict[str, str] | None:
    if refusal is None:
        return None
    kept = "What you filled in comes back once you are signed in." if typed else ""
    if request.url.path != PLACE:
        return {"title": "You are not signed in", "message": kept or "Your session has ended.", "tone": "care"}
    title = TITLES.get(refusal.status, "It went wrong")
    return {"title": title, "message": f"{refusal.message}. {kept}" if kept else refusal.message}


def taking(again: Again) -> Callable[[Request], Awaitable[Response]]:
    """POST /login, a form with the token: the browser gets a session instead of it, for its own site only."""

    async def sign_in(request: Request) -> Response:
        fields, locks = await form_of(request), locks_of(request)
        token = fields.pop("token", [""])[0].strip()
        if locks.sessions is None or not locks.opens(token):
            raise LostForm(401, "that is not this service's token", fields, where="token")
        place = next_of(request)
        found, session = None, locks.sessions.fresh()
        request.cookies[SESSION] = session  # what is shown now is shown to who has it
        with suppress(Refusal):  # of a page that is no more, which is told there
            found = await again(request, place, fields) if fields else None
        found = go_on(place) if found is None else found
        secure = request.headers.get("origin", "").startswith("https:")
        found.set_cookie(SESSION, session, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
        return found

    return sign_in


async def sign_out(request: Request) -> Response:
    """POST /logout: the session ends here, and not only in the browser. A page of before a restart ends it too."""
    try:
        await form_of(request)
    except StaleForm:
        if "origin" not in request.headers:  # where a browser says it, Locks.check has let in our own pages only
            raise
    locks = locks_of(request)
    if locks.sessions is not None:
        await run_in_threadpool(locks.sessions.end, request.cookies.get(SESSION, ""))
    found: RedirectResponse = RedirectResponse(PLACE, status_code=303)
    found.delete_cookie(SESSION, httponly=True, samesite="strict")
    return found


def locks_of(request: Request) -> Locks:
    locks: Locks = request.app.state.locks
    return locks
