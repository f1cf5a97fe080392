"""The program's entry: it imports nothing heavy itself, so that Ctrl-C is taken from the very beginning."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from headroom.cli import main as command_line  # noqa: PLC0415 - takes a tenth of a second

        return command_line()
    except KeyboardInterrupt:
        sys.stderr.write("headroom: interrupted\n")
        return 105


if __name__ == "__main__":
    sys.exit(main())
