"""Who may ask, and from where: host names, origins, the token, forms, and the headers of every answer.

A page of somebody else's that is open in a browser here can send requests to this service, and must start nothing:
the Host header keeps out names that were rebound to this address, Origin and Sec-Fetch-Site keep out other sites, a
write is JSON or TOML (which a form of another site cannot send without asking first) or a form with our own token.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headroom.service.database import Database
from headroom.service.refusals import Refusal
from headroom.service.sessions import Sessions
from headroom.service.settings import Settings
from loadgen.target import is_loopback

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# A report allows its own scripts by their hashes and nothing else. Whatever a run folder holds in its place has an
# origin of its own here: it can read nothing of this service, and ask nobody for anything. What no policy keeps a page
# that stands alone from is to leave for another address, with what that page itself holds in it.
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads allow-modals; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SESSION, FORM_FIELD = "headroom_session", "csrf"
READING, WRITING = ("GET", "HEAD"), ("POST", "PUT", "PATCH")
WRITTEN_AS = ("application/json", "application/toml", "application/x-www-form-urlencoded")
FORM = WRITTEN_AS[2]
LARGEST_BODY, LONGEST_BODY_S = 256 << 10, 30.0
MOST_FIELDS = 100
OPEN_PATHS = (  # which say nothing, and are for who has no token yet
    "/healthz",
    "/login",
    "/assets/service.css",
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # no other site learns of a page; with no-referrer our forms came from "null"
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Locks:
    """What the service tells its own pages and users by."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._token = None if settings.token is None else settings.token.encode()
        self.sessions = None if self._token is None else Sessions(self._token, database)
        self.csrf = secrets.token_urlsafe(32)  # another site cannot read a page of ours, and so does not know it

    def opens(self, token: str) -> bool:
        return self._token is not None and hmac.compare_digest(token.encode(), self._token)

    def let_in(self, headers: Headers, cookies: Mapping[str, str]) -> bool:
        """Whether the request carries the token, or the session of who has given it."""
        if self.sessions is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.opens(token.strip())
        return self.signed_in(cookies)

    def signed_in(self, cookies: Mapping[str, str]) -> bool:
        """Whether a browser holds a session that it can end."""
        return self.sessions is not None and self.sessions.hold(cookies.get(SESSION, ""))

    def check(self, request: Request) -> None:
        """Raises Refusal: 403 for a foreign host or site, 415 for a write of another kind, 401 without the token."""
        headers = request.headers
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_ours(host, request.scope):
            raise Refusal(403, "this service is not called by that host name; see --allow-host", where="host")
        _check_site(request, host)
        if request.method in WRITING:
            kind = kind_of(request)
            if kind not in WRITTEN_AS or (kind == FORM and request.url.path.startswith("/api/")):
                raise Refusal(415, f"send {WRITTEN_AS[0]}, or a job also as {WRITTEN_AS[1]}", where="content-type")
        if request.url.path not in OPEN_PATHS and not self.let_in(headers, request.cookies):
            given = "authorization" in headers
            needed = "this service needs its token: authorization: Bearer ..."
            raise Refusal(401, "that is not this service's token" if given else needed, where="authorization")

    def _is_ours(self, host: str, scope: Scope) -> bool:
        name = _name_of(host)
        if name in self._settings.hosts or (name == self._settings.host and name != ""):
            return True
        if is_loopback(name):
            return True
        server = scope.get("server") or ("",)
        return name != "" and name == server[0]  # an address literal: the one that the connection came to


def _name_of(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "") if not set(host) & set("/?#@\\ ") else ""
    except ValueError:
        return ""


def _check_site(request: Request, host: str) -> None:
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        raise Refusal(403, "a page of another origin may not ask this service", where="origin")
    if site not in (None, "same-origin", "none"):
        opened = (
            request.headers.get("sec-fetch-mode") == "navigate" and request.headers.get("sec-fetch-dest") == "document"
        )
        if not (opened and request.method in READING):  # a link to a page of ours may be followed
            raise Refusal(403, "a page of another site may not ask this service", where="sec-fetch-site")


def csrf_token(request: Request) -> str:
    """What a form of ours carries in its field `csrf`."""
    locks: Locks = request.app.state.locks
    return locks.csrf


def kind_of(request: Request) -> str:
    """The media type of what is sent, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def body_of(request: Request) -> bytes:
    """Raises Refusal: 413 for more than LARGEST_BODY, 408 for what does not come."""
    try:
        async with asyncio.timeout(LONGEST_BODY_S):
            return await _whole(request)
    except TimeoutError:
        raise Refusal(408, f"the request did not come within {LONGEST_BODY_S:g} s") from None


async def _whole(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            raise Refusal(413, f"a request holds at most {LARGEST_BODY >> 10} KiB")
        parts.append(part)
    return b"".join(parts)


class LostForm(Refusal):
    """A form that was not taken, with what was typed into it: a page gives it back as it was filled in."""

    def __init__(self, status: int, message: str, fields: dict[str, list[str]], *, where: str) -> None:
        super().__init__(status, message, where=where)
        self.fields = fields


class StaleForm(LostForm):
    """A form without our token, as one of before a restart."""


async def fields_of(request: Request) -> dict[str, list[str]]:
    """What a form has, whoever sent it. Raises Refusal: 408, 413, 415 and 422."""
    if kind_of(request) != FORM:
        raise Refusal(415, f"send {FORM}", where="content-type")
    try:
        pairs = parse_qsl((await body_of(request)).decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Refusal(422, "the form cannot be read") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a form of ours. Raises StaleForm without its token, and Refusal as `fields_of` does."""
    fields = await fields_of(request)
    given = fields.pop(FORM_FIELD, [""])
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(), csrf_token(request).encode()):
        why = "the service was restarted since this form was loaded: look at it, and send it again"
        raise StaleForm(403, why, fields, where=FORM_FIELD)
    return fields


class Guard:
    """Checks each request before anything reads it, puts the headers on each answer, and answers where we fail."""

    def __init__(self, app: ASGIApp, locks: Locks, tell: Callable[[Request, Refusal], Awaitable[Response]]) -> None:
        self._app, self._locks, self._tell = app, locks, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        begun = False

        async def send_locked(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in (HEADERS | {"content-security-policy": POLICY}).items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        try:
            self._locks.check(request)
            await self._app(scope, receive, send_locked)
        except Refusal as refusal:
            answer = await self._tell(request, refusal) if refusal.status == 401 else refused(refusal)
            await answer(scope, receive, send_locked)
        except ClientDisconnect:  # nobody is left to be answered, and nothing of ours has failed
            return
        except Exception as error:
            sys.stderr.write(f"headroom: {request.method} {request.url.path!r} failed: {_words(error)}\n")
            if not begun:
                await (await self._tell(request, _failure(error)))(scope, receive, send_locked)


def _words(error: Exception) -> str:
    return ascii(f"{type(error).__name__}: {error}"[:500])


def _failure(error: Exception) -> Refusal:
    if getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in str(error):  # the second is SQLite's
        return Refusal(507, "the disk of the service is full: make room")
    return Refusal(500, "the service failed at this; its standard error says how")


def refused(refusal: Refusal) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else refusal.headers
    return JSONResponse({"error": {"message": refusal.message, "where": refusal.where}}, refusal.status, headers)
