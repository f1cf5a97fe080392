"""A deployment: where it is, who may send to it, with which key, and whether it answers.

Secrets are read here and nowhere else. They leave only in request headers; `repr`, errors and files never hold one.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from loadgen.config import BudgetConfig, Dialect, TargetConfig
from loadgen.errors import ConfigError, TargetError, TargetRefused
from loadgen.requests import Route

if TYPE_CHECKING:
    from loadgen.proxy import Proxy

KEY_VARIABLES = ("AZURE_INFERENCE_CREDENTIAL", "AZUREAI_ENDPOINT_KEY")
ENTRA_SCOPE = "https://ml.azure.com/.default"
ENTRA_EARLY_S = 300  # a token is renewed this long before it ends
PROBE_TIMEOUT_S = 10.0
INFO_LIMIT = 64 << 10
SIMULATED = "x-headroom-simulated"
SAID_SIMULATED = re.compile(r"(serverless|managed); time-scale=([0-9]{1,9}[.][0-9]{1,9})")
_TEXTS, _VECTORS = (Route.CHAT, Route.COMPLETIONS), (Route.EMBEDDINGS, Route.IMAGE_EMBEDDINGS)
ROUTES_OF_TYPE = {  # as the documents spell them, and with _ for -
    "chat-completions": _TEXTS,
    "chat-completion": _TEXTS,
    "completion": _TEXTS,
    "text-generation": _TEXTS,
    "embeddings": _VECTORS,
    "embedding": _VECTORS,
    "image-embeddings": _VECTORS,
    "image-embedding": _VECTORS,
}
LARGEST_KEY = 16 << 10


class Credential:
    """A key or a token, renewed when it is about to end. Its `repr` shows neither."""

    def __init__(self, read: Callable[[], tuple[str, float]], *, entra: bool = False) -> None:
        self._read, self.entra = read, entra
        self._value, self._ends_unix_s = read()

    def __repr__(self) -> str:
        return "Credential(***)"

    def value(self) -> str:
        if time.time() > self._ends_unix_s - ENTRA_EARLY_S:
            self._value, self._ends_unix_s = self._read()
        return self._value

    def redact(self, text: str) -> str:
        return text.replace(self._value, "***")

    def headers(self, dialect: Dialect) -> dict[str, str]:
        """As the service's own SDK sends them: a key both ways in the azure dialect, else as a bearer token."""
        headers = {"Authorization": f"Bearer {self.value()}"}
        if dialect is Dialect.AZURE and not self.entra:
            headers["api-key"] = self.value()
        return headers


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a target's URL."""

    scheme: str
    host: str
    port: int
    path: str  # without a slash at its end

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def path_of(self, route: Route, target: TargetConfig) -> str:
        """Path and query of a route in the target's dialect."""
        if target.dialect is Dialect.AZURE:
            return f"{self.path}{route.path}?api-version={target.api_version}"
        version = "" if self.path.endswith("/v1") else "/v1"
        return f"{self.path}{version}{route.path}"


def address_of(url: str) -> Address:
    """Raises ConfigError for what is no http(s) URL, or one that carries a secret; never repeats it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(
            "the target's URL is malformed; write it like https://NAME.REGION.inference.ai.azure.com"
        ) from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "the target's URL must hold no user, password or query; give the key as env:NAME or file:PATH"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the target {url!r} is no address; write sim, or https://NAME.REGION.inference.ai.azure.com")
    if any(character <= " " or character > "~" for character in parts.path):
        raise ConfigError("the target's URL holds a blank or a character that URLs cannot; check its path")
    if port == 0:
        raise ConfigError("the target's URL names port 0, where nothing can listen")
    return Address(
        parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme], parts.path.rstrip("/")
    )


def check_allowed(address: Address, allow_hosts: tuple[str, ...]) -> None:
    """Loopback is free; any other host must be named. Raises TargetRefused before anything is sent."""
    if not address.is_loopback and address.host not in {host.lower() for host in allow_hosts}:
        raise TargetRefused(
            f"{address.host} is not this machine, so load on it must be allowed by name: add "
            f'--yes-target {address.host}, or allow_hosts = ["{address.host}"] under [target]. Nothing was sent.'
        )


def check_budgeted(address: Address, budget: BudgetConfig) -> None:
    """Load on another machine costs somebody something, and must end. Raises TargetRefused before anything is sent."""
    if not address.is_loopback and not budget.bounds_use:
        raise TargetRefused(
            f"{address.host} is not this machine, so the load on it needs a budget: add --budget-requests N, "
            "--budget-tokens N or --budget-usd N. Nothing was sent."
        )


def check_encrypted(address: Address, credential: Credential | None) -> None:
    """A key goes to another machine by https only. Raises TargetRefused before anything is sent."""
    if credential is not None and address.scheme == "http" and not address.is_loopback:
        raise TargetRefused(f"the key would go to {address.host} unencrypted: use https://. Nothing was sent.")


def credential_of(target: TargetConfig, environment: Mapping[str, str], *, alone: bool = True) -> Credential | None:
    """The credential the config refers to, else the environment's; None where there is none.

    Of several targets each names its own: what the environment holds is one deployment's, and goes to no other.
    Raises ConfigError that names the reference and never the value.
    """
    reference = target.key
    if reference is None and alone:
        reference = next((f"env:{name}" for name in KEY_VARIABLES if environment.get(name)), None)
    if reference is None:
        return None
    if reference == "entra":
        return Credential(_entra_reader(), entra=True)
    kind, _, place = reference.partition(":")
    if kind == "env":
        key = environment.get(place, "").strip()
        if not key:
            raise ConfigError(f"the key is to come from the environment variable {place}, which is not set")
    else:
        try:
            key = Path(place).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
            raise ConfigError(f"the key is to come from the file {place}, which cannot be read: {reason}") from None
        if not key:
            raise ConfigError(f"the key is to come from the file {place}, which is empty")
    if len(key) > LARGEST_KEY or any(character <= " " or character > "~" for character in key):
        raise ConfigError(f"the key from {reference} holds blanks or characters that a header cannot carry")
    return Credential(lambda: (key, float("inf")))


def _entra_reader() -> Callable[[], tuple[str, float]]:
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError("key = \"entra\" needs azure-identity: pip install 'headroom[azure]'") from None
    credential = DefaultAzureCredential()

    def read() -> tuple[str, float]:
        try:
            token = credential.get_token(ENTRA_SCOPE)
        except Exception as error:  # its errors are many, and long
            raise ConfigError(f"Entra ID gave no token ({type(error).__name__}); try az login") from None
        return token.token, float(token.expires_on)

    return read


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
        where = "the key was refused" if credential is not None else "it wants a key, and none was given"
        raise TargetError(f"{address.origin} answered {response.status_code}: {where}; set --key env:NAME or file:PATH")
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


def tls_context(target: TargetConfig) -> Any:
    """What the target's certificate is checked against. Raises ConfigError for a ca_file that holds none."""
    import ssl  # noqa: PLC0415 - gevent must have patched it first, where it is at work

    try:
        return ssl.create_default_context(cafile=target.ca_file)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"target.ca_file: {target.ca_file} holds no certificates that can be read") from None


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


def routes_of(model_type: str) -> tuple[Route, ...] | None:
    """What a model of that type answers, by what /info says; None for a type that no scenario is for."""
    return ROUTES_OF_TYPE.get(model_type.lower().replace("_", "-"))


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
