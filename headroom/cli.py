"""The command line, whole."""

from __future__ import annotations

import sys

from headroom.commands import (  # noqa: F401 - each adds its commands to the app
    export,
    gate,
    load,
    plans,
    prices,
    recovery,
    service,
    sweep,
    tools,
    verdicts,
)
from headroom.commands.app import app
from loadgen.errors import HeadroomError


def main() -> int:
    """Exit codes: 0 fine; 1 our fault; 2 usage or config; 3 inconclusive; 4 run invalid; 98 regression; 99 threshold
    missed; 105 interrupted; 108 stopped by the auto-stop; 111 budget used up; 112 target refused.
    """
    try:
        app(prog_name="headroom")  # also as python -m headroom
    except HeadroomError as error:
        from dashboards.readable import readable  # noqa: PLC0415 - it takes a while, and names may be hostile

        sys.stderr.write("\n".join(map(readable, f"headroom: {error}".splitlines())) + "\n")
        return error.exit_code
    return 0
