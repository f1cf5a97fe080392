"""Who may ask, and from where: host names, origins, the token, forms, and the headers of every answer.

A page of somebody else's that is open in a browser here can send requests to this service, and must start nothing:
the Host header keeps out names that were rebound to this address, Origin and Sec-Fetch-Site keep out other sites, a
write is JSON or TOML (which a form of another site cannot send without asking first) or a form with our own token.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headroom.service.refusals import Refusal
from headroom.service.settings import Settings

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SESSION, FORM_FIELD = "headroom_session", "csrf"
READING = ("GET", "HEAD")
WRITTEN_AS = ("application/json", "application/toml", "application/x-www-form-urlencoded")
FORM = WRITTEN_AS[2]
LARGEST_BODY = 256 << 10
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

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = None if settings.token is None else settings.token.encode()
        self.csrf = secrets.token_urlsafe(32)  # another site cannot read a page of ours, and so does not know it

    def session(self) -> str | None:
        """What a browser holds instead of the token; None where there is none."""
        return None if self._token is None else hmac.new(self._token, b"headroom session", "sha256").hexdigest()

    def opens(self, token: str) -> bool:
        return self._token is not None and hmac.compare_digest(token.encode(), self._token)

    def let_in(self, headers: Headers, cookies: Mapping[str, str]) -> bool:
        """Whether the request carries the token, or the session of who has given it."""
        session = self.session()
        if session is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.opens(token.strip())
        return hmac.compare_digest(cookies.get(SESSION, "").encode(), session.encode())

    def check(self, request: Request) -> None:
        """Raises Refusal: 403 for a foreign host or site, 415 for a write of another kind, 401 without the token."""
        headers = request.headers
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_ours(host, request.scope):
            raise Refusal(403, "this service is not called by that host name; see --allow-host", where="host")
        _check_site(request, host)
        if request.method not in READING and request.method != "DELETE":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind not in WRITTEN_AS or (kind == FORM and request.url.path.startswith("/api/")):
                raise Refusal(415, f"send {WRITTEN_AS[0]}, or a job also as {WRITTEN_AS[1]}", where="content-type")
        if request.url.path not in OPEN_PATHS and not self.let_in(headers, request.cookies):
            raise Refusal(401, "this service needs its token: authorization: Bearer ...", where="authorization")

    def _is_ours(self, host: str, scope: Scope) -> bool:
        name = _name_of(host)
        if name in self._settings.hosts or (name == self._settings.host and name != ""):
            return True
        if name == "localhost" or _is_loopback(name):
            return True
        server = scope.get("server") or ("",)
        return name != "" and name == server[0]  # an address literal: the one that the connection came to


def _name_of(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "") if not set(host) & set("/?#@\\ ") else ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


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


async def body_of(request: Request) -> bytes:
    """Raises Refusal (413) for more than LARGEST_BODY."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            raise Refusal(413, f"a request holds at most {LARGEST_BODY >> 10} KiB")
        parts.append(part)
    return b"".join(parts)


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a form of ours. Raises Refusal: 403 without its token, 413, 415 and 422."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Refusal(415, f"send {FORM}", where="content-type")
    try:
        pairs = parse_qsl((await body_of(request)).decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Refusal(422, "the form cannot be read") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    given = fields.pop(FORM_FIELD, [""])
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(), csrf_token(request).encode()):
        raise Refusal(403, "this form is of another session of the service: load its page again", where=FORM_FIELD)
    return fields


async def log_in(request: Request) -> Response:
    """POST /login, a form with the token: the browser gets a session instead of it, for its own site only."""
    fields = await form_of(request)
    locks: Locks = request.app.state.locks
    if not locks.opens(fields.get("token", [""])[0].strip()):
        raise Refusal(401, "that is not this service's token", where="token")
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        SESSION,
        locks.session() or "",
        httponly=True,
        samesite="strict",
        secure=request.headers.get("origin", "").startswith("https:"),
    )
    return answer


class Guard:
    """Checks each request before anything reads it, and puts the headers on each answer."""

    def __init__(self, app: ASGIApp, locks: Locks) -> None:
        self._app, self._locks = app, locks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_locked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (HEADERS | {"content-security-policy": POLICY}).items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        try:
            self._locks.check(request)
        except Refusal as refusal:
            answer = _to_login(request, refusal) or refused(refusal)
            await answer(scope, receive, send_locked)
        else:
            await self._app(scope, receive, send_locked)


def _to_login(request: Request, refusal: Refusal) -> Response | None:
    """A browser that opens a page is asked for the token."""
    opens_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    return RedirectResponse("/login", status_code=303) if refusal.status == 401 and opens_page else None


def refused(refusal: Refusal) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else None
    return JSONResponse({"error": {"message": refusal.message, "where": refusal.where}}, refusal.status, headers)
