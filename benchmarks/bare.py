"""The limit of simulator.py: the same bytes from the same server (uvicorn, uvloop, httptools), with nothing simulated.

`python benchmarks/bare.py FILE` answers every request at once with the bytes of FILE, an answer's body as the simulated
deployment sent it: JSON as a whole, server-sent events one message each. It says its URL in a line of JSON and ends
with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from pathlib import Path

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send


def app_of(body: bytes) -> ASGIApp:
    stream = body.startswith(b"data: ")
    pieces = [event + b"\n\n" for event in body.split(b"\n\n")[:-1]] if stream else [body]
    kind = b"text/event-stream" if stream else b"application/json"
    headers = [(b"content-type", kind)] + ([] if stream else [(b"content-length", b"%d" % len(body))])
    messages = [{"type": "http.response.body", "body": piece, "more_body": True} for piece in pieces]
    messages[-1]["more_body"] = False

    async def answer(_: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for message in messages:
            await send(message)

    return answer


async def serve(body: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        config = uvicorn.Config(
            app_of(body), http="httptools", ws="none", lifespan="off", access_log=False, log_config=None, backlog=4096
        )
        server = uvicorn.Server(config)

        def end_at_eof() -> None:
            while os.read(sys.stdin.fileno(), 4096):
                pass
            server.should_exit = True

        threading.Thread(target=end_at_eof, daemon=True).start()
        print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
        await server.serve(sockets=[listener])


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__)
        return 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(arguments[0]).read_bytes()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
