"""A socket that listens, or what keeps it from it, in words."""

from __future__ import annotations

import errno
import socket

from loadgen.errors import ConfigError


def listening(host: str, port: int, backlog: int) -> socket.socket:
    """`port` 0 is any that is free. Raises ConfigError."""
    where = f"port {port} of {host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f"{where} cannot be had ({error}); give another with --host and --port") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{where} is in use; give another with --port, or 0 for any") from None
        raise ConfigError(f"{where} cannot be had ({error}); give another with --host and --port") from None
    return listener
