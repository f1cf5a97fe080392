"""What a load process says to the one that started it: lines of JSON on standard output."""

from __future__ import annotations

import json
import os
import select
import stat
import sys
from contextlib import suppress
from typing import Any, Protocol

import gevent.os


class Teller(Protocol):
    """Takes what a load says of itself: `started`, `progress` each second, `finished`."""

    def say(self, event: str, **values: Any) -> None: ...


class Voice:
    """Lines of JSON on standard output. Progress that nobody reads is dropped: to wait would stop the load."""

    def __init__(self) -> None:
        self._fd = 1
        if stat.S_ISFIFO(os.fstat(1).st_mode) and sys.platform == "linux":
            # An end of its own: non-blocking for this alone, and not for what scenarios print.
            with suppress(OSError):
                self._fd = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK)

    def say(self, event: str, **values: Any) -> None:
        sys.stdout.flush()  # what a scenario printed before
        unsent = memoryview((json.dumps({"event": event, **values}) + "\n").encode())
        if event == "progress" and len(unsent) <= select.PIPE_BUF:  # all of it or nothing
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._fd, unsent)
            return
        while unsent:
            unsent = unsent[gevent.os.nb_write(self._fd, unsent) :]
