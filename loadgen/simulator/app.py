"""The routes of a simulated deployment.

The Azure AI Model Inference API stands at the root and under /models; OpenAI's dialect under /v1, /openai/v1 and
/openai/deployments/NAME, where NAME must be the model that is served.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from loadgen.simulator.asgi import FILTER_RAN, Reply, read_body, send_refusal
from loadgen.simulator.asked import Asked
from loadgen.simulator.chat import parse_chat
from loadgen.simulator.completions import parse_completion
from loadgen.simulator.deployment import Deployment, Settings
from loadgen.simulator.embeddings import parse_embeddings, parse_image_embeddings
from loadgen.simulator.models import Modality
from loadgen.simulator.parameters import Dialect, Extras, Terms, extras_of
from loadgen.simulator.refusals import Refusal, bad_request, plain, unknown
from loadgen.simulator.safety import CODE as CONTENT_FILTER

SIMULATED = "x-headroom-simulated"  # on /info and /models, so that a load test can say what it measured
COMPLETION_TOKENS = b"x-headroom-completion-tokens"
MOST_DIGITS = 9
AZURE_ROOTS = ("", "/models")
OPENAI_ROOTS = ("/v1", "/openai/v1")
DEPLOYMENTS = "/openai/deployments/"
_VERSION = re.compile(rb"(?:^|&)api-version=([^&]*)")
_WELL_FORMED_VERSION = re.compile(rb"\d{4}-\d{2}-\d{2}(-preview)?")

Parse = Callable[[bytes, Terms, Extras], Asked]
INFERENCE: dict[str, tuple[Modality, Parse]] = {
    "/chat/completions": (Modality.CHAT, parse_chat),
    "/completions": (Modality.CHAT, parse_completion),
    "/embeddings": (Modality.EMBEDDINGS, parse_embeddings),
    "/images/embeddings": (Modality.EMBEDDINGS, parse_image_embeddings),
}
AZURE_ONLY = "/images/embeddings"


def create_app(deployment: Deployment, *more: Route) -> ASGIApp:
    """The ASGI application, with `more` routes beside the API's; it has no lifespan of its own."""
    return Api(deployment, more)


class Api:
    """Finds the routes that the model answers by their path, so that nothing stands between them and their socket."""

    def __init__(self, deployment: Deployment, more: Iterable[Route]) -> None:
        self._model = deployment.settings.model.name
        self._posts = _inferences(deployment, AZURE_ROOTS, Dialect.AZURE)
        self._posts |= _inferences(deployment, (*OPENAI_ROOTS, DEPLOYMENTS + self._model), Dialect.OPENAI)
        routes = [*_about(deployment.settings), *more]
        routes += [Route(path, inference, methods=["POST"]) for path, inference in self._posts.items()]
        routes.append(Route(DEPLOYMENTS + "{rest:path}", Elsewhere(deployment.settings, self._posts)))
        self._others = Starlette(routes=routes, exception_handlers={HTTPException: _unrouted, Refusal: _refused})
        self._others.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inference = None
        if scope["method"] == "POST":
            inference = self._posts.get(scope["path"]) or self._posts.get(as_named(scope["path"], self._model))
        if inference is not None:
            await inference(scope, receive, send)
        else:
            await self._others(scope, receive, Reply(send, dict(scope["headers"])))


class Inference:
    """One route that is answered by the model."""

    def __init__(self, deployment: Deployment, path: str, dialect: Dialect) -> None:
        self._deployment, self._path = deployment, path
        settings = deployment.settings
        self._key = settings.key
        self._terms = Terms(model=settings.model, dialect=dialect, safety=settings.safety)
        modality, self._parse = INFERENCE[path]
        self._offered = modality is settings.model.modality
        self._filters = settings.safety is not None and modality is Modality.CHAT

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        reply = Reply(send, headers)
        try:
            check_caller(scope, headers, self._key)
            if not self._offered:
                raise plain(404, "not_found", f"{self._terms.model.name} does not offer {self._path}.")
            extras, wanted_tokens = self._extras(headers), _wanted_tokens(headers)
            body = await read_body(headers, receive)
            if body is None:
                return
            asked = self._read(body, extras, reply)
            await self._deployment.answer(asked, wanted_tokens, receive, reply, body_bytes=len(body))
        except Refusal as refusal:
            await send_refusal(reply, refusal)

    def _read(self, body: bytes, extras: Extras, reply: Reply) -> Asked:
        """The request; the reply says where the content filter has seen it."""
        try:
            asked = self._parse(body, self._terms, extras)
        except Refusal as refusal:
            if refusal.headers["x-ms-error-code"] == CONTENT_FILTER:
                reply.headers.append(FILTER_RAN)
            raise
        if self._filters:
            reply.headers.append(FILTER_RAN)
        return asked

    def _extras(self, headers: Mapping[bytes, bytes]) -> Extras:
        azure = self._terms.dialect is Dialect.AZURE
        return extras_of(headers.get(b"extra-parameters")) if azure else Extras.FORWARD


class Elsewhere:
    """What is under /openai/deployments and no route: of another deployment, or of this one."""

    def __init__(self, settings: Settings, paths: Container[str]) -> None:
        self._settings, self._paths = settings, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - it answers nothing
        check_caller(scope, dict(scope["headers"]), self._settings.key)
        model, path = self._settings.model.name, as_named(scope["path"], self._settings.model.name)
        if not path.startswith(f"{DEPLOYMENTS}{model}/"):
            route = next((route for route in INFERENCE if path.endswith(route)), "")
            name = path.removeprefix(DEPLOYMENTS).removesuffix(route)
            name = name if route else name.partition("/")[0]
            raise unknown("DeploymentNotFound", f"There is no deployment {name[:100]}; this one is {model}.")
        if path in self._paths:  # it was not posted
            raise HTTPException(405, headers={"allow": "POST"})
        raise HTTPException(404)


def as_named(path: str, model: str) -> str:
    """The path with its deployment's name as the model's is written: its case does not matter, and it may hold a /."""
    if not path.startswith(DEPLOYMENTS):
        return path
    end = len(DEPLOYMENTS) + len(model)
    same = path[len(DEPLOYMENTS) : end].lower() == model.lower() and path[end : end + 1] == "/"
    return f"{DEPLOYMENTS}{model}{path[end:]}" if same else path


def check_caller(scope: Scope, headers: Mapping[bytes, bytes], key: str | None) -> None:
    """Raise Refusal: 401 unless a header carries the key (the SDK sends both), 400 for a malformed api-version."""
    if key is not None:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = [headers.get(b"api-key", b""), token.strip() if scheme.lower() == b"bearer" else b""]
        if not any(hmac.compare_digest(one, key.encode()) for one in given):
            raise plain(401, "unauthorized", "The key is missing or wrong.", {"www-authenticate": "Bearer"})
    if query := scope["query_string"]:
        version = _VERSION.search(query)
        if version is not None and not _WELL_FORMED_VERSION.fullmatch(version[1]):
            raise bad_request("The api-version must look like 2024-05-01-preview or 2025-04-01.", param="api-version")


def _inferences(deployment: Deployment, roots: tuple[str, ...], dialect: Dialect) -> dict[str, Inference]:
    paths = [path for path in INFERENCE if dialect is Dialect.AZURE or path != AZURE_ONLY]
    return {root + path: Inference(deployment, path, dialect) for root in roots for path in paths}


def _about(settings: Settings) -> list[Route]:
    """The routes that say what is served."""
    model = settings.model
    entry = {"id": model.name, "object": "model", "created": 0, "owned_by": model.provider}
    info = {"model_name": model.name, "model_type": model.modality, "model_provider_name": model.provider}

    async def one(request: Request) -> Response:
        check_caller(request.scope, dict(request.scope["headers"]), settings.key)
        name = request.path_params["name"]
        if name.lower() != model.name.lower():
            raise unknown("model_not_found", f"There is no model {name[:100]}; this deployment serves {model.name}.")
        return _json(entry)

    def said(about: Mapping[str, Any]) -> Callable[[Request], Any]:
        async def say(request: Request) -> Response:
            check_caller(request.scope, dict(request.scope["headers"]), settings.key)
            return _json(about, {SIMULATED: f"{settings.kind}; time-scale={settings.time_scale:.6f}"})

        return say

    routes = [Route(root + "/info", said(info), methods=["GET"]) for root in AZURE_ROOTS]
    for root in OPENAI_ROOTS:
        routes.append(Route(root + "/models", said({"object": "list", "data": [entry]}), methods=["GET"]))
        routes.append(Route(root + "/models/{name:path}", one, methods=["GET"]))
    return routes


def _json(about: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(about), headers=headers, media_type="application/json")


def _wanted_tokens(headers: Mapping[bytes, bytes]) -> int | None:
    raw = headers.get(COMPLETION_TOKENS)
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
