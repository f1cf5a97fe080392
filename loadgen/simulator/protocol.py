"""HTTP as uvicorn speaks it, with what it leaves out: who has left, and the connection itself."""

from __future__ import annotations

import socket
import struct
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

CONNECTION = "headroom.connection"  # the ASGI extension: a function `close` (FIN) and a function `reset` (RST)
_DROP_UNSENT = struct.pack("ii", 1, 0)  # struct linger: on, for no time; close(2) then sends RST (socket(7))


class Connection(HttpToolsProtocol):
    """One client's connection.

    Of several requests that are sent before the first is answered, uvicorn (0.54) tells only the last that the client
    has left: the others would be generated to their end, and then fail to be sent.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._earlier: list[RequestResponseCycle] = []
        self._declined: bytes | None = None  # the head of a request whose offer to upgrade is ignored, without it

    def data_received(self, data: bytes) -> None:
        """As uvicorn does it, but an offer to speak another protocol is ignored, as RFC 9110 (7.8) allows.

        The parser takes what follows the head of such a request for the other protocol. It is given the head once
        more without the offer, and then the rest.
        """
        self._unset_keepalive_if_required()
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
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
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
