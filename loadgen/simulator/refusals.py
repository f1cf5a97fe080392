"""Answers that are not 200, in the layouts of the Azure AI Model Inference API.

Its reference shows three: `error` as a string (401, 404), everything inside `error` (400, 429), and a flat one with
`detail` (422). Each answer carries its code in the header `x-ms-error-code` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

ECHOED_CHARACTERS = 100


class Refusal(Exception):  # noqa: N818 - an answer that the API defines, not a failure
    """A request that is answered with an error."""

    def __init__(
        self, status: int, code: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.body = orjson.dumps(body)
        self.headers = {"content-type": "application/json", "x-ms-error-code": code} | dict(headers or {})


def plain(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """401, 404, 405, 413, 431 and 503: `error` is a string."""
    return Refusal(status, error, {"error": error, "message": message, "status": status}, headers)


def unknown(code: str, message: str) -> Refusal:
    """404 in OpenAI's dialect: a deployment or a model that is not there."""
    return Refusal(404, code, {"error": {"message": message, "type": None, "param": None, "code": code}})


def bad_request(message: str, *, code: str = "bad_request", param: str | None = None) -> Refusal:
    """400: well-formed HTTP that asks for what cannot be."""
    return Refusal(
        400, code, {"error": {"message": message, "type": None, "param": param, "code": code, "status": 400}}
    )


def invalid(loc: Sequence[str | int], given: Any, *, code: str = "invalid_parameter") -> Refusal:
    """422: the value at `loc` of the body has the wrong type, is out of range or is not supported by the model."""
    body = {
        "status": 422,
        "code": code,
        "detail": {"loc": ["body", *loc], "input": _echo(given)},
        "message": "One of the parameters contain invalid values.",  # documented wording
    }
    return Refusal(422, code, body)


def rate_limited(wait_s: int, headers: Mapping[str, str]) -> Refusal:
    """429: the quota admits it in `wait_s` seconds at the earliest."""
    message = f"Rate limit is exceeded. Try again in {wait_s} seconds."
    return Refusal(429, "429", {"error": {"code": "429", "message": message}}, headers)


def _echo(given: Any) -> Any:
    """What was given, unless it is long: then its type."""
    if isinstance(given, str):
        return given[:ECHOED_CHARACTERS]
    return given if given is None or isinstance(given, bool | int | float) else type(given).__name__
