"""The routes of a simulated deployment."""

from __future__ import annotations

import hmac

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from loadgen.simulator.asgi import read_body, send_refusal
from loadgen.simulator.chat import Dialect, parse_chat
from loadgen.simulator.deployment import Deployment
from loadgen.simulator.refusals import Refusal, bad_request, plain

COMPLETION_TOKENS = b"x-headroom-completion-tokens"
MOST_DIGITS = 9


def create_app(deployment: Deployment) -> Starlette:
    """The ASGI application; it has no lifespan of its own."""

    async def info(request: Request) -> Response:
        check_key(request.scope, deployment.settings.key)
        model = deployment.settings.model.name
        about = {
            "model_name": model,
            "model_type": "chat-completions",
            "model_provider_name": deployment.settings.model.provider,
        }
        return Response(orjson.dumps(about), media_type="application/json")

    async def models(request: Request) -> Response:
        check_key(request.scope, deployment.settings.key)
        model = {
            "id": deployment.settings.model.name,
            "object": "model",
            "owned_by": deployment.settings.model.provider,
        }
        return Response(orjson.dumps({"object": "list", "data": [model]}), media_type="application/json")

    routes = [
        Route("/info", info, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/chat/completions", Chat(deployment, Dialect.AZURE), methods=["POST"]),
        Route("/v1/chat/completions", Chat(deployment, Dialect.OPENAI), methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _unrouted, Refusal: _refused})
    app.router.redirect_slashes = False
    return app


class Chat:
    """A chat route, as raw ASGI: nothing stands between a token and its socket."""

    def __init__(self, deployment: Deployment, dialect: Dialect) -> None:
        self._deployment, self._dialect = deployment, dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_key(scope, self._deployment.settings.key)
            wanted_tokens = _wanted_tokens(scope)
            body = await read_body(scope, receive)
            if body is None:
                return
            asked = parse_chat(body, self._dialect, self._deployment.settings.model.name)
            await self._deployment.answer(asked, wanted_tokens, receive, send, body_bytes=len(body))
        except Refusal as refusal:
            await send_refusal(send, refusal)


def check_key(scope: Scope, key: str | None) -> None:
    """Raise Refusal (401) unless either header carries the key; the SDK sends both."""
    if key is None:
        return
    headers = dict(scope["headers"])
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    given = [headers.get(b"api-key", b""), token.strip() if scheme.lower() == b"bearer" else b""]
    if not any(hmac.compare_digest(one, key.encode()) for one in given):
        raise plain(401, "unauthorized", "The key is missing or wrong.", {"www-authenticate": "Bearer"})


def _wanted_tokens(scope: Scope) -> int | None:
    raw = dict(scope["headers"]).get(COMPLETION_TOKENS)
    if raw is None:
        return None
    if not (raw.isdigit() and len(raw) <= MOST_DIGITS and int(raw) > 0):
        raise bad_request(f"The header {COMPLETION_TOKENS.decode()} must be a whole number above zero.")
    return int(raw)


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return Response(refusal.body, refusal.status, refusal.headers)


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    if error.status_code == 405:
        refusal = plain(405, "method_not_allowed", f"{what}: the route has other methods.", error.headers)
    else:
        refusal = plain(404, "not_found", f"{what} is not a route of this deployment.")
    return await _refused(request, refusal)
