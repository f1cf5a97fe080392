"""How the processes of a load find each other: the master's socket, the workers that it starts, and clocks."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment
from locust.exception import RPCError
from locust.runners import MasterRunner, Runner

from loadgen.errors import ConfigError

VERSIONS = {name: version(name) for name in ("headroom", "locust")}
DEFAULT_PORT = 5557  # Locust's own
LOST_END_S = 1.0  # for a worker that has been given up, to say that it only was slow


def place_of(text: str, *, least_port: int = 1) -> tuple[str, int]:
    """HOST[:PORT]; who listens may ask for port 0, any that is free. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, DEFAULT_PORT
    if not host or not port.isdecimal() or not least_port <= int(port) < 65_536:
        raise ConfigError(f"{text!r} is not HOST or HOST:PORT")
    return host.strip("[]"), int(port)


def digest_of(place: str) -> str | None:
    """SHA-256 of a scenario's own file; None where it belongs to a package."""
    module = place.rpartition(":")[0]
    return hashlib.sha256(Path(module).read_bytes()).hexdigest() if module.endswith(".py") else None


class Hub(MasterRunner):
    """Locust's master, which looks all its workers through after each message; after ours there is no need to."""

    def handle_message(self, client_id: str, msg: Any) -> None:
        listener, _ = self.custom_messages.get(msg.type, (None, False))
        if listener is None:
            super().handle_message(client_id, msg)
            return
        try:
            listener(msg=msg)
        except Exception as error:  # what is no message of ours must not end the run
            logging.getLogger(__name__).error("%s of %s: %r", msg.type, client_id, error)


def listening(environment: Environment, host: str, port: int) -> MasterRunner:
    """Locust's master, bound; port 0 is any that is free. Raises ConfigError where that is not possible."""
    try:
        environment.runner = Hub(environment, "*" if host == "0.0.0.0" else host, port)  # noqa: S104 - asked for
    except (RPCError, SystemExit, OSError) as error:  # Locust exits where another program listens there
        why = "another program listens there" if isinstance(error, SystemExit) else error
        raise ConfigError(f"load.bind {host}:{port} cannot be listened at: {why}") from None
    return environment.runner


def hear(runner: Runner, listeners: Mapping[str, Callable[[str, Any], None]]) -> None:
    """Call each listener with the sender's id and what it says, when a message of that name comes."""

    def adapted(listener: Callable[[str, Any], None]) -> Callable[..., None]:
        return lambda *, msg, **_: listener(msg.node_id, msg.data)

    for name, listener in listeners.items():
        runner.register_message(f"headroom.{name}", adapted(listener))


def boot_id() -> str | None:
    """Of the host: where two processes have the same, they share CLOCK_MONOTONIC. None where it is not told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


class Children:
    """The workers that a master starts beside itself, on its own host."""

    def __init__(self, run_id: str, number: int, port: int) -> None:
        self.keys = [f"{run_id[:8]}-{index}" for index in range(number)]
        self._port = port
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[gevent.Greenlet] = []

    def start(self, ended: Callable[[str, int, str], None]) -> None:
        """`ended` is told a child's key, exit code and last words, when its process has ended."""
        held_open = os.dup(1)  # whoever reads this process's output sees its end when all workers have ended, too
        for key in self.keys:
            command = [sys.executable, "-m", "loadgen.spread.worker"]
            command += ["--connect", f"127.0.0.1:{self._port}", "--child", key]
            process = self._processes[key] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True, text=True, errors="replace", pass_fds=(held_open,),
            )  # fmt: skip
            gevent.spawn(self._await, key, process, ended)
            self._readers.append(gevent.spawn(self._pass_on, process))
        os.close(held_open)

    def end(self, patience_s: float, lost: Collection[str | None]) -> None:
        """Wait until they and their recorders have ended: at the end of their pipes. Who is frozen is killed."""
        for key in lost:
            self._kill(key, LOST_END_S)
        for key in self._processes:
            self._kill(key, patience_s)
        gevent.joinall(self._readers, patience_s)

    def _kill(self, key: str | None, patience_s: float) -> None:
        process = self._processes.get(key or "")
        if process is not None:
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                process.kill()

    def _await(self, key: str, process: subprocess.Popen[str], ended: Callable[[str, int, str], None]) -> None:
        assert process.stderr is not None
        words: list[Any] = process.stderr.read().strip().splitlines()
        ended(key, process.wait(), words[-1] if words else "")

    def _pass_on(self, process: subprocess.Popen[str]) -> None:
        """What its scenarios print. The recorder holds the pipe open until its last file is on disk."""
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
