"""The process around a simulated deployment: its socket, its one line on stdout, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import orjson
import uvicorn
import uvloop

from loadgen.simulator.app import create_app
from loadgen.simulator.control import control_routes
from loadgen.simulator.deployment import Deployment, Settings
from loadgen.simulator.listening import listening
from loadgen.simulator.pace import Pacemaker
from loadgen.simulator.protocol import Connection, ExposedConnection
from loadgen.simulator.toxics import Poisoned

BACKLOG = 4096
KEEP_ALIVE_S = 240  # longer than a client leaves a connection idle between two requests of one run
GRACE_S = 1  # for what does not end although it was cut, such as a request whose body never comes


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to listen, and how to end. `port` 0 is any that is free."""

    host: str
    port: int
    drain_s: float  # how long answers may still run once the end was asked for
    until_eof: bool  # of stdin, which ends at once


class Server(uvicorn.Server):
    """Announces itself when it listens. Asked to end, it lets answers run for a while; asked again, it cuts them."""

    def __init__(self, config: uvicorn.Config, deployment: Deployment, poisoned: Poisoned | None, place: Place) -> None:
        super().__init__(config)
        self._deployment, self._poisoned, self._place = deployment, poisoned, place

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        sys.stdout.buffer.write(orjson.dumps({"url": url, "pid": os.getpid()}) + b"\n")
        sys.stdout.flush()
        if sys.stdout.isatty():
            sys.stderr.write(f"{self._deployment.settings} at {url}; Ctrl-C ends it\n")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._deployment.close()
        if running := sum(each.answers for each in self.server_state.connections if isinstance(each, Connection)):
            sys.stderr.write(f"ending: {running} running, for {self._place.drain_s:g} s at most; Ctrl-C cuts them\n")
        asyncio.get_running_loop().call_later(self._place.drain_s, self._stop)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Through the loop, and without raising them again at the end, so that the exit code is 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        if self._place.until_eof:
            cut = partial(loop.call_soon_threadsafe, self._cut)
            threading.Thread(target=_call_at_eof, args=(cut,), daemon=True).start()
        yield

    def _end(self) -> None:
        if self.should_exit:
            self._stop()
        self.should_exit = True

    def _cut(self) -> None:
        self._stop()
        self.should_exit = True

    def _stop(self) -> None:
        """Hold nothing back, and answer nothing more; who has not ended then is disconnected."""
        self._deployment.stop()
        if self._poisoned is not None:
            self._poisoned.stop()
        asyncio.get_running_loop().call_later(GRACE_S, self._disconnect)

    def _disconnect(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(settings: Settings, place: Place) -> None:
    """Serve until SIGTERM, SIGINT or, if asked, the end of stdin. Raises ConfigError if the port cannot be had."""
    listener = listening(place.host, place.port, BACKLOG)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, place))


async def _serve(settings: Settings, listener: socket.socket, place: Place) -> None:
    pacemaker = Pacemaker(settings.time_scale)
    deployment = Deployment(settings, pacemaker)
    app = create_app(deployment, *control_routes(deployment))
    poisoned = None if settings.faults is None else Poisoned(app, settings.faults, settings.seed, pacemaker)
    config = uvicorn.Config(
        app if poisoned is None else poisoned,
        http=Connection if poisoned is None else ExposedConnection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
    await Server(config, deployment, poisoned, place).serve(sockets=[listener])
    deployment.compute.close()
    pacemaker.close()


def _call_at_eof(end: Callable[[], None]) -> None:
    """Read unbuffered: a thread that holds the lock of sys.stdin would keep the interpreter from ending."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    end()
