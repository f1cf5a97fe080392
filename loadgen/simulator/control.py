"""Routes that no real deployment has: what runs inside this one, and the death of an instance."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadgen.errors import ConfigError
from loadgen.simulator.app import MOST_DIGITS, check_caller
from loadgen.simulator.deployment import Deployment
from loadgen.simulator.refusals import plain
from loadgen.simulator.units import NS_PER_S


def control_routes(deployment: Deployment) -> list[Route]:
    """GET /simulator, and POST /simulator/instances/{number}/kill for managed compute."""

    async def state(request: Request) -> Response:
        _check(request, deployment)
        return _json(deployment)

    async def kill(request: Request) -> Response:
        _check(request, deployment)
        number = request.path_params["number"]  # a string: starlette would read one of 5,000 digits, and fail
        if not (number.isascii() and number.isdecimal() and len(number) <= MOST_DIGITS):
            raise plain(404, "not_found", f"There is no instance {number[:100]}; give the number of one.")
        try:
            deployment.compute.kill(int(number))
        except ConfigError as error:
            raise plain(404, "not_found", str(error)) from None
        return _json(deployment)

    return [
        Route("/simulator", state, methods=["GET"]),
        Route("/simulator/instances/{number}/kill", kill, methods=["POST"]),
    ]


def _check(request: Request, deployment: Deployment) -> None:
    check_caller(request.scope, dict(request.scope["headers"]), deployment.settings.key)


def _json(deployment: Deployment) -> Response:
    """Seconds are of the deployment's time, from its start."""
    instances = [
        {"number": each.number, "state": each.state, "running": each.running, "queued": each.queued}
        | {"billed_s": each.billed_ns / NS_PER_S}
        for each in deployment.compute.instances()
    ]
    scaled = [
        {"at_s": (each.at_ns - deployment.started_ns) / NS_PER_S}
        | {"before": each.before, "after": each.after, "why": each.why}
        for each in deployment.compute.scaled()
    ]
    state = {
        "started_as": str(deployment.settings),
        "age_s": deployment.age_s,
        "running": deployment.running,
        "instances": instances,
        "scaled": scaled,
    }
    return Response(orjson.dumps(state), media_type="application/json")
