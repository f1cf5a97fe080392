"""The proxy that the environment names for a target: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, less NO_PROXY."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from loadgen.errors import ConfigError
from loadgen.target import Address

DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where requests to a target go instead. Its user and password are sent, and shown nowhere."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def headers(self) -> dict[str, str]:
        return {} if self.authorization is None else {"Proxy-Authorization": self.authorization}

    def connect_request(self, address: Address) -> bytes:
        """Asks for a tunnel to the target, for TLS to pass through."""
        authority = address.origin.partition("://")[2]
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", "User-Agent: headroom"]
        lines += [f"{name}: {value}" for name, value in self.headers().items()]
        return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"


def proxy_of(address: Address, variables: Mapping[str, str]) -> Proxy | None:
    """The proxy for the target, or None. This machine itself is always reached directly.

    Raises ConfigError for a proxy of a kind that cannot be used; never repeats its password.
    """
    if address.is_loopback:
        return None
    excepted = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
    if any(_covers(entry.strip().lower(), address) for entry in excepted.split(",")):
        return None
    for name in (f"{address.scheme}_proxy", "all_proxy"):
        for spelling in (name, name.upper()):
            if value := variables.get(spelling, "").strip():
                return _parsed(spelling, value)
    return None


def _covers(entry: str, address: Address) -> bool:
    """Whether an entry of NO_PROXY means the address: `*`, a host or a domain above it, HOST:PORT, or a network."""
    if entry == "*":
        return True
    with suppress(ValueError):  # where one of them is a name
        return ipaddress.ip_address(address.host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    host, colon, port = entry.rpartition(":")
    if colon and port.isdigit():
        return int(port) == address.port and _covers(host, address)
    domain = entry.strip(".")
    return bool(domain) and (address.host == domain or address.host.endswith(f".{domain}"))


def _parsed(name: str, value: str) -> Proxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or parts.scheme != "http" or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(
            f"{name} names no proxy that can be used here: write http://HOST:PORT, or name the target in NO_PROXY"
        )
    authorization = None
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Basic {base64.b64encode(secret).decode('ascii')}"
    return Proxy(host, port or DEFAULT_PORT, authorization)
