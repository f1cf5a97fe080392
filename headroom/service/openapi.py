"""The OpenAPI document, made of the endpoints themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from headroom import __version__
from headroom.service.api import Endpoint
from headroom.service.documents import ErrorAnswer

TEMPLATE = "#/components/schemas/{model}"
ERRORS = {
    "400": "what was sent cannot be read",
    "401": "the token is missing or wrong",
    "403": "a foreign host, origin or site",
    "404": "there is no such thing",
    "405": "the path has no such method; Allow names those that it has",
    "408": "what was sent did not come",
    "409": "it has ended already, or what its key made is no more",
    "413": "what was sent is too large",
    "415": "what was sent is neither JSON nor TOML",
    "422": "it was validated and refused, with the same message as on the command line",
    "429": "too many wait already",
    "500": "the service failed",
    "503": "too many ask at once",
    "507": "the disk is full",
}


def described(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Of OpenAPI 3.1."""
    models = {each for one in endpoints for each in (one.takes, one.gives) if isinstance(each, type)} | {ErrorAnswer}
    ordered = sorted(models, key=lambda model: model.__name__)
    modes: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in ordered]
    references, definitions = models_json_schema(modes, ref_template=TEMPLATE)
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(
            one, {m: references[m, "validation"] for m in ordered}
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headroom's batch service", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(one: Endpoint, schemas: dict[type[BaseModel], Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": one.summary}
    if isinstance(one.gives, type):
        answer["content"] = {"application/json": {"schema": schemas[one.gives]}}
    elif one.gives:
        answer["content"] = {one.gives: {}}
    error = {"application/json": {"schema": schemas[ErrorAnswer]}}
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": f"{one.method.lower()}{re.sub('[^a-z]+', '_', one.path)}".rstrip("_"),
        "responses": {str(one.status): answer}
        | {code: {"description": why, "content": error} for code, why in ERRORS.items()},
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", one.path)
    ]
    parameters += [
        {"name": name, "in": place, "required": False, "schema": {"type": "string"}}
        for place, names in (("query", one.query), ("header", one.headers))
        for name in names
    ]
    if parameters:
        operation["parameters"] = parameters
    if one.takes is not None:
        kinds = ("application/json", "application/toml")
        content = {kind: {"schema": schemas[one.takes]} for kind in kinds}
        operation["requestBody"] = {"required": True, "content": content}
    return operation
