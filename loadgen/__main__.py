"""One load process: `python -m loadgen RUN NAME=PLACE...` plays the config in RUN's manifest with the named scenarios.

Standard output carries lines of JSON: `started`, a `progress` each second, `finished`. Standard input is held open by
the process that started this one: when it ends, so does the load, whatever became of its parent. SIGINT or SIGTERM
stops the arrivals and waits shortly for the answers; a second one, or a file STOP in RUN, waits for nothing.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import gevent
from locust.env import Environment  # first: it patches the process for gevent

from loadgen.config import RunConfig
from loadgen.errors import HeadroomError
from loadgen.load import Load, raise_limits
from loadgen.samples import Manifest
from loadgen.spread.conductor import Conductor
from loadgen.voice import Voice


def load_of(folder: Path, places: dict[str, str]) -> Load | Conductor:
    """The load itself, or where several processes make it, what conducts them."""
    manifest = Manifest.read(folder)
    environment = Environment()
    if RunConfig.model_validate(manifest.config).load.distributed:
        return Conductor(folder, manifest, places, environment=environment, voice=Voice())
    runner = environment.create_local_runner()
    return Load(folder, manifest, places, runner=runner, voice=Voice())


def main(arguments: Sequence[str]) -> int:
    folder, *named = arguments
    raise_limits()
    places = dict(argument.split("=", 1) for argument in named)
    try:
        load = load_of(Path(folder), places)
        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, partial(load.stop, "stopped by hand"))
        load.run()
    except HeadroomError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
