"""What all connections to one target share: its addresses, TLS, header bytes and timeouts."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from gevent import Timeout, get_hub

from loadgen.config import TargetConfig, TimeoutConfig
from loadgen.errors import TargetError
from loadgen.proxy import Proxy
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
    proxy: Proxy | None = None
    active: set[Connection] = field(default_factory=set)
    send_until_ns: int = 1 << 62  # of CLOCK_MONOTONIC: a worker's lease of its master; no request leaves after it

    def __post_init__(self) -> None:
        self.resolved = self._resolve()
        https = self.address.scheme == "https"
        self.tls: ssl.SSLContext | None = tls_context(self.target) if https else None
        self.tunnel = self.proxy.connect_request(self.address) if https and self.proxy is not None else None
        self._head = self._make_head()
        timeouts = self.timeouts
        connect_s = timeouts.connect / len(self.resolved)  # for each address
        self._shortest_ns = round(min(connect_s, timeouts.first_byte, timeouts.idle, timeouts.total) * 1e9)
        self._look_at_ns = 0  # before then no deadline can pass
        self._sweeper = get_hub().loop.timer(SWEEP_S, SWEEP_S)
        self._sweeper.start(self._sweep)

    def _resolve(self) -> list[Any]:
        """Once a run, and in the order of the answer: every connection goes to the same place."""
        host, port = (
            (self.address.host, self.address.port) if self.proxy is None else (self.proxy.host, self.proxy.port)
        )
        patience_s = self.timeouts.connect
        patience = Timeout(patience_s)
        try:
            with patience:
                return list(get_hub().resolver.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Timeout as rung:
            if rung is not patience:
                raise
            raise TargetError(f"{host} was not resolved within {patience_s:g} s; check the name server") from None
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TargetError(f"{host} cannot be resolved: {reason}") from None

    def close(self) -> None:
        """No connection of its is in use any more."""
        self._sweeper.stop()
        self._sweeper.close()

    def encode(self, spec: RequestSpec, request_id: str) -> bytes:
        """The bytes of one request."""
        pinned = (
            b"" if spec.completion_tokens is None else b"x-headroom-completion-tokens: %d\r\n" % spec.completion_tokens
        )
        accept = b"text/event-stream" if spec.stream else b"application/json"
        return b"%bAccept: %b\r\nx-ms-client-request-id: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
            self._head, accept, request_id.encode(), pinned, len(spec.body), spec.body,
        )  # fmt: skip

    def redact(self, text: str) -> str:
        """What a server sent, without the key."""
        return text if self.credential is None else self.credential.redact(text)

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
        path = self.address.chat_path(self.target)
        if self.proxy is not None and self.tunnel is None:  # it reads the request, and passes it on
            path = f"{self.address.scheme}://{host}{path}"
            headers |= self.proxy.headers()
        lines = [f"POST {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode("ascii") + b"\r\n"

    def _sweep(self) -> None:
        """One timer for all timeouts: each attempt would otherwise start and stop several.

        No stage that begins after a look can end within the shortest timeout, so most turns need no look.
        """
        now_ns = monotonic_ns()
        if now_ns < self._look_at_ns:
            return
        deadlines = [(each.deadline_ns(), each) for each in self.active]
        self._look_at_ns = min([now_ns + self._shortest_ns, *(deadline_ns for deadline_ns, _ in deadlines)])
        for deadline_ns, connection in deadlines:
            if now_ns > deadline_ns:
                connection.interrupt(Outcome.TIMEOUT, connection.timeout_code)
