"""The program's entry: it imports nothing heavy itself, so that Ctrl-C is taken from the very beginning."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> int:
    """As headroom.cli.main. Ctrl-C ends it with 105 wherever nothing else takes it, imports included."""
    signal.signal(signal.SIGINT, _end)
    from headroom.cli import main as command_line  # noqa: PLC0415 - takes a tenth of a second

    return command_line()


def _end(*_: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends: once more says nothing new
    os.write(2, b"headroom: interrupted\n")
    raise SystemExit(105)  # INTERRUPTED of headroom.commands.app, which may not be imported yet


if __name__ == "__main__":
    sys.exit(main())
