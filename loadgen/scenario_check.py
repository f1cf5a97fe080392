"""`python -m loadgen.scenario_check NAME=PLACE...`: load scenarios and build their first requests, and send nothing.

The config comes as JSON on standard input. What the scenarios print goes to standard error; `loaded` on standard
output says that all went well, so that a file which ends the process itself does not pass for one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from locust.env import Environment  # first: it patches the process for gevent

from loadgen.config import RunConfig
from loadgen.errors import HeadroomError
from loadgen.player import Player
from loadgen.users import check_requests_fit, load_scenario, seat

NOWHERE = "http://127.0.0.1:9"  # no connection is opened


def check_scenarios(config: RunConfig, places: dict[str, str]) -> None:
    """Raises ConfigError for a class that is not there or no user, and for a request that fails or never fits."""
    classes = {name: load_scenario(name, place) for name, place in places.items()}
    harmless = {"url": NOWHERE, "key": None, "ca_file": None}
    targets = tuple(target.model_copy(update=harmless) for target in config.targets)
    player = Player(config.model_copy(update={"targets": targets}), environment=Environment(), variables={})
    seat(player)
    check_requests_fit(player, classes)


def main(arguments: Sequence[str]) -> int:
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        check_scenarios(
            RunConfig.model_validate_json(sys.stdin.read()), dict(argument.split("=", 1) for argument in arguments)
        )
    except HeadroomError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    answer.write("loaded")
    answer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
