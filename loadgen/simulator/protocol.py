"""HTTP as uvicorn speaks it, with what it leaves out: who has left, and the connection itself."""

from __future__ import annotations

import socket
import struct
from typing import Any

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

    @property
    def answers(self) -> bool:
        """Whether a request of it is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_headers_complete(self) -> None:
        earlier = self.cycle
        super().on_headers_complete()
        if self._earlier or (earlier is not None and not earlier.response_complete):
            self._earlier = [
                each for each in (*self._earlier, earlier) if each is not None and not each.response_complete
            ]

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
