"""HTTP as uvicorn speaks it, with what it leaves out: who has left, and the connection itself."""

from __future__ import annotations

import socket
import struct
import uuid
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from loadgen.simulator.asgi import REQUEST_ID
from loadgen.simulator.refusals import plain

CONNECTION = "headroom.connection"  # the ASGI extension: a function `close` (FIN) and a function `reset` (RST)
MOST_HEADER_BYTES = 64 * 1024  # of one request: its target, its headers and its trailers
_DROP_UNSENT = struct.pack("ii", 1, 0)  # struct linger: on, for no time; close(2) then sends RST (socket(7))


class Connection(HttpToolsProtocol):
    """One client's connection.

    Of several requests that are sent before the first is answered, uvicorn (0.54) tells only the last that the client
    has left: the others would be generated to their end, and then fail to be sent.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._earlier: list[RequestResponseCycle] = []
        self._header_bytes = 0  # of the request that is being read
        self._unread_bytes = 0  # received in a row that began no request, ended no head and were no body
        self._declined: bytes | None = None  # the head of a request whose offer to upgrade is ignored, without it

    def data_received(self, data: bytes) -> None:
        """As uvicorn does it, but an offer to speak another protocol is ignored, as RFC 9110 (7.8) allows.

        The parser takes what follows the head of such a request for the other protocol. It is given the head once
        more without the offer, and then the rest.
        """
        self._unset_keepalive_if_required()
        self._unread_bytes += len(data)
        pieces = [memoryview(data)]
        try:
            while pieces:
                piece = pieces.pop()
                try:
                    self.parser.feed_data(piece)
                except httptools.HttpParserUpgrade as upgrade:
                    if self._declined is None:
                        return  # CONNECT
                    pieces += [piece[upgrade.args[0] :], memoryview(self._declined)]
                    self._declined = None
        except httptools.HttpParserError:
            if self._header_bytes <= MOST_HEADER_BYTES:
                self.send_400_response("Invalid HTTP request received.")
                return
        if max(self._header_bytes, self._unread_bytes) > MOST_HEADER_BYTES:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        self._unread_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._header_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises, which ends the parsing, where they are too many."""
        self._header_bytes += len(name) + len(value) + len(": \r\n")
        if self._header_bytes > MOST_HEADER_BYTES:
            raise ValueError("too many header bytes")
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    @property
    def answers(self) -> bool:
        """Whether a request of it is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_headers_complete(self) -> None:
        self._unread_bytes = 0
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._declined = self._head_without_upgrade()
            return
        earlier = self.cycle
        super().on_headers_complete()
        if self._earlier or (earlier is not None and not earlier.response_complete):
            self._earlier = [
                each for each in (*self._earlier, earlier) if each is not None and not each.response_complete
            ]

    def on_message_complete(self) -> None:
        if self._declined is None:
            super().on_message_complete()

    def _refuse_headers(self) -> None:
        """431, unless an answer is under way; and the end of the connection."""
        if self.cycle is None or self.cycle.response_complete:
            message = f"The headers are larger than {MOST_HEADER_BYTES} bytes."
            refusal = plain(431, "request_header_fields_too_large", message)
            headers = refusal.headers | {
                REQUEST_ID.decode(): str(uuid.uuid4()),
                "content-length": str(len(refusal.body)),
                "connection": "close",
            }
            lines = [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
            self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", refusal.body]))
        self.transport.close()

    def _head_without_upgrade(self) -> bytes:
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([line, *headers, b"", b""])

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in self._earlier:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)


class ExposedConnection(Connection):
    """Puts into each scope what can end its connection: some faults lie below HTTP."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {"close": self.transport.close, "reset": self.reset}}

    def reset(self) -> None:
        """End the connection with RST. uvloop writes what it holds before it closes, so that leaves first."""
        if not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_UNSENT)
        self.transport.abort()
