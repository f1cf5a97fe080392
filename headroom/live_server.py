"""The page of a run that lasts: one address of this machine, for reading only, in a thread beside the command."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboards.live_page import PARTS, page_of_run
from headroom.progress_feed import Feed
from loadgen.errors import ConfigError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # a page of another name that leads here is another site's
MOST_CONNECTIONS = 64
CLOSE_S = 2  # for who still reads at the end
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",  # the icon that is none
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@contextmanager
def live_page(port: int) -> Iterator[tuple[Feed, str]]:
    """A feed and the address of its page while it is open. Port 0 is any that is free.

    Raises ConfigError where the port cannot be had.
    """
    with _listening(port) as listener:
        feed = Feed()
        config = uvicorn.Config(
            live_app(feed), loop="asyncio", ws="none", lifespan="off", access_log=False,
            log_config=None, log_level="critical",  # standard error is the panel's
            server_header=False, limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=CLOSE_S,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="live page", daemon=True)
        thread.start()
        try:
            yield feed, f"http://{HOST}:{listener.getsockname()[1]}/"
        finally:
            feed.close()
            server.should_exit = True
            thread.join(2 * CLOSE_S)


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except (OSError, OverflowError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise ConfigError(
                f"--live-port {port} cannot be had: {reason}; choose another, or 0 for any that is free"
            ) from None
        yield listener


def live_app(feed: Feed) -> ASGIApp:
    """`/` is the page, `/events` the feed; what is not asked for from this machine's own page is 403."""

    async def page(_: Request) -> Response:
        return Response(page_of_run(), media_type="text/html", headers=HEADERS)

    async def part(request: Request) -> Response:
        content, kind = PARTS[request.url.path.lstrip("/")]
        return Response(content, media_type=kind, headers=HEADERS)

    async def events(request: Request) -> Response:
        if feed.crowded:
            return PlainTextResponse("too many readers", 503, headers=HEADERS)
        return stream_of(feed, request)

    routes = [Route("/", page), Route("/events", events), *(Route(f"/{name}", part) for name in PARTS)]
    return _OwnPageOnly(Starlette(routes=routes))


def stream_of(feed: Feed, request: Request) -> Response:
    """A feed as server-sent events."""
    frames = feed.events(request.headers.get("last-event-id"))
    return StreamingResponse(frames, media_type="text/event-stream", headers=HEADERS)


class _OwnPageOnly:
    """Refuses what another site sends: under its own name (`Origin`), or under one of its names that leads here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        ours = host.rpartition(":")[0] or host
        if ours not in NAMES or (origin is not None and origin != f"http://{host}"):
            refused = PlainTextResponse("this page is for its own machine", 403, headers=HEADERS)
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)
