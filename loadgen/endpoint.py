"""What all connections to one target share: its addresses, TLS, header bytes and timeouts."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from gevent import Timeout, get_hub

from loadgen.config import Dialect, TargetConfig, TimeoutConfig
from loadgen.errors import TargetError
from loadgen.proxy import Proxy
from loadgen.requests import RequestSpec, Route, opening_of
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
    model: str | None = None  # as the openai dialect names it
    parameters: Mapping[str, Any] = field(default_factory=dict)  # further fields of each body
    active: set[Connection] = field(default_factory=set)
    send_until_ns: int = 1 << 62  # of CLOCK_MONOTONIC: a worker's lease of its master; no request leaves after it

    def __post_init__(self) -> None:
        self.resolved = self._resolve()
        https = self.address.scheme == "https"
        self.tls: ssl.SSLContext | None = tls_context(self.target) if https else None
        self.tunnel = self.proxy.connect_request(self.address) if https and self.proxy is not None else None
        self.renew()
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
        head, opening = self._heads[spec.stream][spec.route]
        body = spec.body if opening is None else opening + spec.body[1:]
        return b"%b%b\r\n%bContent-Length: %d\r\n\r\n%b" % (head, request_id.encode(), pinned, len(body), body)

    def redact(self, text: str) -> str:
        """What a server sent, without the key."""
        return text if self.credential is None else self.credential.redact(text)

    def renew(self) -> None:
        """Take up a renewed token; called off the hot path."""
        self._heads = [{route: self._made_for(route, stream=stream) for route in Route} for stream in (False, True)]

    def _made_for(self, route: Route, *, stream: bool) -> tuple[bytes, bytes | None]:
        """The head up to the request's id, and what the body begins with instead of its brace."""
        openai = self.target.dialect is Dialect.OPENAI
        model = (self.model or "default") if openai else None
        opening = opening_of(route, self.parameters, model=model, usage_in_stream=openai and stream)
        return self._head_of(route, stream=stream), opening

    def _head_of(self, route: Route, *, stream: bool) -> bytes:
        default_port = {"http": 80, "https": 443}[self.address.scheme]
        host = self.address.origin.removeprefix(f"{self.address.scheme}://").removesuffix(f":{default_port}")
        headers = {
            "Host": host,
            "User-Agent": "headroom",
            "Accept": "text/event-stream" if stream else "application/json",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            **(self.credential.headers(self.target.dialect) if self.credential is not None else {}),
        }
        if self.target.extra_parameters is not None and self.target.dialect is Dialect.AZURE:
            headers["extra-parameters"] = self.target.extra_parameters
        path = self.address.path_of(route, self.target)
        if self.proxy is not None and self.tunnel is None:  # it reads the request, and passes it on
            path = f"{self.address.scheme}://{host}{path}"
            headers |= self.proxy.headers()
        lines = [f"POST {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "x-ms-client-request-id: "]).encode("ascii")

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
