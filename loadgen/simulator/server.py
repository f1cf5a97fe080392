"""The process around a simulated deployment: its socket, its one line on stdout, and its end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

import orjson
import uvicorn
import uvloop

from loadgen.errors import ConfigError
from loadgen.simulator.app import create_app
from loadgen.simulator.deployment import Deployment, Settings
from loadgen.simulator.pace import Pacemaker

HOST = "127.0.0.1"
BACKLOG = 4096
KEEP_ALIVE_S = 240  # longer than a client leaves a connection idle between two requests of one run
GRACE_S = 2


class Server(uvicorn.Server):
    """Announces itself when it listens, and ends without waiting for the streams to be read to their end."""

    def __init__(self, config: uvicorn.Config, deployment: Deployment) -> None:
        super().__init__(config)
        self._deployment = deployment

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        url = f"http://{HOST}:{sockets[0].getsockname()[1]}"
        sys.stdout.buffer.write(orjson.dumps({"url": url, "pid": os.getpid()}) + b"\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._deployment.stop()
        await super().shutdown(sockets)


def serve(settings: Settings, *, port: int, until_eof: bool) -> None:
    """Serve until SIGTERM, SIGINT or, if asked, the end of stdin. Raises ConfigError if the port cannot be had."""
    listener = _listen(port)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, until_eof=until_eof))


async def _serve(settings: Settings, listener: socket.socket, *, until_eof: bool) -> None:
    pacemaker = Pacemaker(settings.time_scale)
    deployment = Deployment(settings, pacemaker)
    config = uvicorn.Config(
        create_app(deployment),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    server = Server(config, deployment)
    _end_on_request(server, until_eof=until_eof)
    await server.serve(sockets=[listener])
    pacemaker.close()


def _end_on_request(server: Server, *, until_eof: bool) -> None:
    def end(*_: object) -> None:
        server.should_exit = True

    # Once ended, uvicorn raises the signal again for whoever handled it before: for us, so that the exit code stays 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    if until_eof:
        threading.Thread(target=_call_at_eof, args=(end,), daemon=True).start()


def _call_at_eof(end: Callable[[], None]) -> None:
    """Read unbuffered: a thread that holds the lock of sys.stdin would keep the interpreter from ending."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    end()


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {HOST} is in use; give another with --port, or 0 for any") from None
        raise ConfigError(f"port {port} of {HOST} cannot be had ({error}); give another with --port") from None
    return listener
