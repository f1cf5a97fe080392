"""A deployment: where it is, who may send to it, and with which key.

Secrets are read here and nowhere else. They leave only in request headers; `repr`, errors and files never hold one.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadgen.config import BudgetConfig, Dialect, TargetConfig
from loadgen.errors import ConfigError, TargetRefused
from loadgen.requests import Route

KEY_VARIABLES = ("AZURE_INFERENCE_CREDENTIAL", "AZUREAI_ENDPOINT_KEY")
ENTRA_SCOPE = "https://ml.azure.com/.default"
ENTRA_EARLY_S = 300  # a token is renewed this long before it ends
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
TUNNEL_PORT = 8000  # on this machine, in the example of a tunnel
LARGEST_KEY = 16 << 10


class Credential:
    """A key or a token, renewed when it is about to end. Its `repr` shows neither."""

    def __init__(self, read: Callable[[], tuple[str, float]], *, entra: bool = False, source: str = "") -> None:
        """`source` says in words where it is read from."""
        self._read, self.entra, self.source = read, entra, source
        self._value, self._ends_unix_s = read()

    def __repr__(self) -> str:
        return "Credential(***)"

    @property
    def called(self) -> str:
        """For a message: which key it is, and never the key."""
        return f"the key from {self.source}" if self.source else "the key"

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
        return is_loopback(self.host)

    def path_of(self, route: Route, target: TargetConfig) -> str:
        """Path and query of a route in the target's dialect."""
        if target.dialect is Dialect.AZURE:
            return f"{self.path}{route.path}?api-version={target.api_version}"
        version = "" if self.path.endswith("/v1") else "/v1"
        return f"{self.path}{version}{route.path}"


def is_loopback(host: str) -> bool:
    """Whether the name or address of a host is always this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
    if credential is None or address.scheme != "http" or address.is_loopback:
        return
    there = address.origin.removeprefix("http://")
    raise TargetRefused(
        f"{credential.called} would go to {address.host} unencrypted: use https:// (ca_file under [target] trusts a "
        f"certificate of your own), or a tunnel, `ssh -N -L {TUNNEL_PORT}:{there} {address.host}`, and load "
        f"http://127.0.0.1:{TUNNEL_PORT}{address.path}; where no key is wanted, give none. Nothing was sent."
    )


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
        return Credential(_entra_reader(), entra=True, source="Entra ID")
    kind, _, place = reference.partition(":")
    source = f"the {'environment variable' if kind == 'env' else 'file'} {place}"
    if kind == "env":
        key = environment.get(place, "").strip()
        if not key:
            raise ConfigError(f"the key is to come from {source}, which is not set")
    else:
        try:
            key = Path(place).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
            raise ConfigError(f"the key is to come from {source}, which cannot be read: {reason}") from None
        if not key:
            raise ConfigError(f"the key is to come from {source}, which is empty")
    if len(key) > LARGEST_KEY or any(character <= " " or character > "~" for character in key):
        raise ConfigError(f"the key from {reference} holds blanks or characters that a header cannot carry")
    return Credential(lambda: (key, float("inf")), source=source)


def _entra_reader() -> Callable[[], tuple[str, float]]:
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError('key = "entra" needs azure-identity: pip install azure-identity, beside Headroom') from None
    credential = DefaultAzureCredential()

    def read() -> tuple[str, float]:
        try:
            token = credential.get_token(ENTRA_SCOPE)
        except Exception as error:  # its errors are many, and long
            raise ConfigError(f"Entra ID gave no token ({type(error).__name__}); try az login") from None
        return token.token, float(token.expires_on)

    return read


def tls_context(target: TargetConfig) -> Any:
    """What the target's certificate is checked against. Raises ConfigError for a ca_file that holds none."""
    import ssl  # noqa: PLC0415 - gevent must have patched it first, where it is at work

    try:
        return ssl.create_default_context(cafile=target.ca_file)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"target.ca_file: {target.ca_file} holds no certificates that can be read") from None


def routes_of(model_type: str) -> tuple[Route, ...] | None:
    """What a model of that type answers, by what /info says; None for a type that no scenario is for."""
    return ROUTES_OF_TYPE.get(model_type.lower().replace("_", "-"))
