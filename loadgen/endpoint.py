"""What all connections to one target share: its addresses, TLS, header bytes and timeouts."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import TYPE_CHECKING

from gevent import get_hub

from loadgen.config import TargetConfig, TimeoutConfig
from loadgen.errors import TargetError
from loadgen.requests import RequestSpec
from loadgen.samples import Outcome
from loadgen.target import Address, Credential, tls_context

if TYPE_CHECKING:
    from loadgen.connection import Connection

SWEEP_S = 0.05


@dataclass
class Endpoint:
    """What all connections to one target share: addresses, TLS, header bytes, timeouts, and the run's zero."""

    address: Address
    target: TargetConfig
    timeouts: TimeoutConfig
    credential: Credential | None
    start_ns: int
    name: str = ""
    active: set[Connection] = field(default_factory=set)

    def __post_init__(self) -> None:
        try:
            self.resolved = socket.getaddrinfo(self.address.host, self.address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise TargetError(f"{self.address.host} cannot be resolved: {error.strerror}") from None
        self.tls: ssl.SSLContext | None = tls_context(self.target) if self.address.scheme == "https" else None
        self._head = self._make_head()
        self._sweeper = get_hub().loop.timer(SWEEP_S, SWEEP_S)
        self._sweeper.start(self._sweep)

    def encode(self, spec: RequestSpec, request_id: str) -> bytes:
        """The bytes of one request."""
        pinned = (
            b"" if spec.completion_tokens is None else b"x-headroom-completion-tokens: %d\r\n" % spec.completion_tokens
        )
        accept = b"text/event-stream" if spec.stream else b"application/json"
        return b"%bAccept: %b\r\nx-ms-client-request-id: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
            self._head, accept, request_id.encode(), pinned, len(spec.body), spec.body,
        )  # fmt: skip

    def renew(self) -> None:
        """Take up a renewed token; called off the hot path."""
        self._head = self._make_head()

    def _make_head(self) -> bytes:
        default_port = {"http": 80, "https": 443}[self.address.scheme]
        host = self.address.origin.removeprefix(f"{self.address.scheme}://").removesuffix(f":{default_port}")
        headers = {
            "Host": host,
            "User-Agent": "headroom",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            **(self.credential.headers(self.target.dialect) if self.credential is not None else {}),
        }
        lines = [f"POST {self.address.chat_path(self.target)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode("ascii") + b"\r\n"

    def _sweep(self) -> None:
        """One timer for all timeouts: each attempt would otherwise start and stop several."""
        now_ns = monotonic_ns()
        for connection in [each for each in self.active if now_ns > each.deadline_ns()]:
            connection.interrupt(Outcome.TIMEOUT, connection.timeout_code)
