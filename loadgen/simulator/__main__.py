"""`python -m loadgen.simulator`: one simulated deployment on loopback.

It prints one line of JSON, `{"url": ..., "pid": ...}`, when it listens. On SIGTERM or SIGINT it takes no more
requests, lets those that run be answered (a second signal cuts them), and ends with 0; with --until-eof it ends at
once with its stdin. Exit code 2: a flag that cannot be used, or a port that cannot be had.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from loadgen.errors import ConfigError
from loadgen.simulator.flags import parser, place_of, settings_of
from loadgen.simulator.server import serve


def main(argv: Sequence[str]) -> int:
    """Serve until asked to end; the exit code. Complaints go to stderr, one sentence each."""
    arguments = parser().parse_args(argv)
    try:
        serve(settings_of(arguments), place_of(arguments))
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the complaint is the output
        return ConfigError.exit_code
    except KeyboardInterrupt:  # before it listened
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
