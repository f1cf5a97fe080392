"""The few steps of ASGI that the routes share: a body in, an answer out, and what every answer carries."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Mapping, MutableMapping
from typing import Any

from starlette.types import Receive, Send

from loadgen.simulator.pace import Flight
from loadgen.simulator.refusals import Refusal, plain

MOST_BODY_BYTES = 16 * 1024 * 1024  # several large photographs; what the real service takes is not documented
REQUEST_ID, CLIENT_REQUEST_ID = b"x-request-id", b"x-ms-client-request-id"
FILTER_RAN = (b"x-ms-rai-invoked", b"true")
_CLIENT_ID = re.compile(rb"[A-Za-z0-9_-]{1,40}")


class Reply:
    """Sends one answer, with a request id of its own and the client's beside it where that is well formed."""

    __slots__ = ("_send", "headers")

    def __init__(self, send: Send, asked: Mapping[bytes, bytes]) -> None:
        self._send = send
        self.headers = [(REQUEST_ID, str(uuid.uuid4()).encode())]
        client_id = asked.get(CLIENT_REQUEST_ID)
        if client_id is not None and _CLIENT_ID.fullmatch(client_id):
            self.headers.append((CLIENT_REQUEST_ID, client_id))

    def __call__(self, message: MutableMapping[str, Any]) -> Awaitable[None]:
        """No coroutine of its own: a stream comes through here once a token."""
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *self.headers]
        return self._send(message)


async def read_body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
    """The whole body; None if the client left before its end. Raises Refusal (413) without reading on."""
    if int(headers.get(b"content-length", 0)) > MOST_BODY_BYTES:
        raise _too_large()
    pieces, size = [], 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BODY_BYTES:
            raise _too_large()
        more = message.get("more_body", False)
    return b"".join(pieces)


async def cut_on_disconnect(receive: Receive, flight: Flight) -> None:
    """Cut the flight when its client leaves. Ends then, or when the answer is complete."""
    while (await receive())["type"] != "http.disconnect":
        pass
    flight.cut()


async def send_refusal(send: Send, refusal: Refusal) -> None:
    await send_whole(send, refusal.status, refusal.headers, refusal.body)


async def send_whole(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    await send(start(status, {"content-length": str(len(body))} | dict(headers)))
    await send({"type": "http.response.body", "body": body})


def start(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    """The message that begins an answer."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


def _too_large() -> Refusal:
    return plain(413, "request_too_large", f"The body is larger than {MOST_BODY_BYTES} bytes.")
