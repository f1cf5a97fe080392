"""The few steps of ASGI that the routes share: a body in, an answer out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from loadgen.simulator.pace import Flight
from loadgen.simulator.refusals import Refusal, plain

MOST_BODY_BYTES = 16 * 1024 * 1024  # several large photographs; what the real service takes is not documented


async def read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None if the client left before its end. Raises Refusal (413) without reading on."""
    if int(dict(scope["headers"]).get(b"content-length", 0)) > MOST_BODY_BYTES:
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
