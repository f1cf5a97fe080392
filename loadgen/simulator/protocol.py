"""The server's protocol with its connection in reach: some faults lie below HTTP."""

from __future__ import annotations

import socket
import struct

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTION = "headroom.connection"  # the ASGI extension: a function `close` (FIN) and a function `reset` (RST)
_DROP_UNSENT = struct.pack("ii", 1, 0)  # struct linger: on, for no time; close(2) then sends RST (socket(7))


class ExposedProtocol(HttpToolsProtocol):
    """Puts into each scope what can end its connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {"close": self.transport.close, "reset": self.reset}}

    def reset(self) -> None:
        """End the connection with RST. uvloop writes what it holds before it closes, so that leaves first."""
        if not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_UNSENT)
        self.transport.abort()
