"""What a deployment says of itself before it is loaded."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from loadgen.config import Dialect, TargetConfig
from loadgen.errors import TargetError
from loadgen.proxy import Proxy
from loadgen.target import Address, Credential, routes_of, tls_context

PROBE_TIMEOUT_S = 10.0
INFO_LIMIT = 64 << 10
SIMULATED = "x-headroom-simulated"
SAID_SIMULATED = re.compile(r"(serverless|managed); time-scale=([0-9]{1,9}[.][0-9]{1,9})")


def probe(
    target: TargetConfig, address: Address, credential: Credential | None, proxy: Proxy | None = None
) -> dict[str, Any]:
    """Ask the deployment what it is: GET /info, or GET /v1/models in the openai dialect.

    Returns model_name, model_type and model_provider_name as far as they are known, and of a simulated deployment
    simulated, simulated_kind and time_scale. Raises TargetError.
    """
    openai = target.dialect is Dialect.OPENAI
    version = "" if address.path.endswith("/v1") else "/v1"
    path = f"{address.path}{version}/models" if openai else f"{address.path}/info?api-version={target.api_version}"
    response = _get(target, address.origin + path, credential, proxy)
    if response.status_code in (401, 403):
        why = "it wants a key, and none was given" if credential is None else f"{credential.called} was refused"
        raise TargetError(f"{address.origin} answered {response.status_code}: {why}; set --key env:NAME or file:PATH")
    if response.status_code == 404:
        other = "azure" if openai else "openai"
        raise TargetError(
            f"{address.origin}{path.partition('?')[0]} is not there (404): check the URL's path, or try "
            f"--dialect {other}"
        )
    if response.status_code != 200:
        raise TargetError(
            f"{address.origin} answered {response.status_code} to {path.partition('?')[0]}; is it deployed and up?"
        )
    try:
        about = _openai_info(address, response) if openai else _azure_info(address, response)
    except TargetError as error:  # it quotes the answer, which may repeat the key
        raise TargetError(str(error) if credential is None else credential.redact(str(error))) from None
    return about | _as_simulated(response.headers.get(SIMULATED))


def _as_simulated(said: str | None) -> dict[str, Any]:
    """What Headroom's own simulated deployment says of itself: `KIND; time-scale=NUMBER`."""
    match = SAID_SIMULATED.fullmatch(said or "")
    return {"simulated": True, "simulated_kind": match[1], "time_scale": float(match[2])} if match else {}


def _get(target: TargetConfig, url: str, credential: Credential | None, proxy: Proxy | None) -> httpx.Response:
    headers = credential.headers(target.dialect) if credential is not None else {}
    try:
        # The environment is not trusted with the key: it may hold a .netrc, or a proxy that the load does not take.
        with httpx.Client(
            verify=tls_context(target),
            timeout=PROBE_TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
            proxy=None if proxy is None else httpx.Proxy(f"http://{proxy.origin}", headers=proxy.headers()),
        ) as client:
            return _whole(client, url, headers)
    except httpx.TimeoutException:
        raise TargetError(f"{_host(url)} did not answer within {PROBE_TIMEOUT_S:g} s") from None
    except httpx.ProxyError as error:
        raise TargetError(f"the proxy does not let us through to {_host(url)}: {error}") from None
    except httpx.ConnectError as error:
        raise TargetError(f"cannot reach {_host(url)}: {_cause(error)}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TargetError(f"{_host(url)} does not speak HTTP as expected: {type(error).__name__}") from None


def _whole(client: httpx.Client, url: str, headers: Mapping[str, str]) -> httpx.Response:
    """The answer with its body, read until it is too large or takes too long altogether."""
    ends_at = time.monotonic() + PROBE_TIMEOUT_S
    with client.stream("GET", url, headers=headers) as response:
        body = b""
        for piece in response.iter_bytes():
            body += piece
            if len(body) > INFO_LIMIT:
                break
            if time.monotonic() > ends_at:
                raise httpx.ReadTimeout("the answer never ends")
        return httpx.Response(response.status_code, content=body, headers=_kept(response.headers))


def _kept(headers: httpx.Headers) -> dict[str, str]:
    return {SIMULATED: headers[SIMULATED]} if SIMULATED in headers else {}


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _cause(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE" in text or "certificate" in text:
        return "its certificate is not trusted (see ca_file under [target])"
    known = {
        "Name or service": "there is no such host",
        "nodename": "there is no such host",
        "refused": "nothing listens there",
    }
    return next((sentence for sign, sentence in known.items() if sign in text), text)


def _json(address: Address, response: httpx.Response) -> Any:
    try:
        if len(response.content) > INFO_LIMIT:
            raise ValueError
        return response.json()
    except (ValueError, RecursionError):
        raise TargetError(f"{address.origin} is no model deployment: its answer to the probe is not JSON") from None


def _azure_info(address: Address, response: httpx.Response) -> dict[str, Any]:
    info = _json(address, response)
    kind = info.get("model_type") if isinstance(info, dict) else None
    if not isinstance(kind, str) or not isinstance(info.get("model_name"), str):
        raise TargetError(f"{address.origin} is no model deployment: /info does not name a model")
    if routes_of(kind) is None:
        raise TargetError(
            f"{address.origin} serves {info['model_name']}, a model of type {kind}: neither for chat nor for embeddings"
        )
    keys = ("model_name", "model_type", "model_provider_name")
    return {key: _shown(info[key]) for key in keys if info.get(key) is not None}


def _shown(value: Any) -> str:
    """What a server says of itself, short and without control characters."""
    return "".join(character for character in str(value)[:200] if character.isprintable())


def _openai_info(address: Address, response: httpx.Response) -> dict[str, Any]:
    models = _json(address, response)
    try:
        names = [_shown(model["id"]) for model in models["data"]]
    except (TypeError, KeyError):
        raise TargetError(f"{address.origin} is no model deployment: /v1/models lists no models") from None
    if not names:
        raise TargetError(f"{address.origin} serves no model")
    return {"model_name": names[0], "models": names[:50]}
