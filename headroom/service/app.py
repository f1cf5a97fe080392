"""The service as an ASGI application: the API, the pages, and the guard before both."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from headroom.service import pages
from headroom.service.api import ENDPOINTS
from headroom.service.desk import Desk
from headroom.service.refusals import Refusal
from headroom.service.security import Guard, Locks, refused
from headroom.service.settings import Settings


def create_app(settings: Settings) -> Starlette:
    """`app.state.desk` answers, `app.state.locks` guards, `app.state.stopping()` says that it ends.

    Jobs are started by `app.state.desk.runner.start()`, and without it only queued.
    """
    desk = Desk(settings)
    locks = Locks(settings, desk.jobs.database)
    routes = [*(each.route for each in ENDPOINTS), *pages.routes(desk)]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, locks=locks, tell=_told)],
        exception_handlers={Refusal: _refused, 404: _nothing_here, 405: _nothing_here},
    )
    app.router.redirect_slashes = False
    app.state.desk, app.state.locks = desk, locks
    app.state.readers, app.state.stopping = 0, lambda: False
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return await _told(request, error)


async def _told(request: Request, refusal: Refusal) -> Response:
    return await pages.refusal_page(request, refusal) or refused(refusal)


async def _nothing_here(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    refusal = Refusal(status, "there is nothing here" if status == 404 else "this cannot be done here")
    refusal.headers = getattr(error, "headers", None)  # which methods there are
    return await _told(request, refusal)
