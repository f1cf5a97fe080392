"""The service's pages."""

from __future__ import annotations

from starlette.routing import BaseRoute

from headroom.service.desk import Desk


def routes(desk: Desk) -> list[BaseRoute]:
    """All but the API's. Forms are read by security.form_of, and carry security.csrf_token(request)."""
    del desk
    return []
