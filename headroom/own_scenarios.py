"""Scenarios of the user's own, loaded in a process of theirs: loading one patches the process for gevent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from loadgen.config import RunConfig
from loadgen.errors import ConfigError

LOADING_S = 60.0  # a model or a data set that a scenario reads may be large


def check_own(config: RunConfig, places: Mapping[str, str]) -> None:
    """Load those scenarios of a run that do not come with Headroom, and build their first requests; nothing is sent.

    Raises ConfigError naming the scenario, and the file and line that failed.
    """
    from scenarios import PLACES  # noqa: PLC0415

    own = {name: place for name, place in places.items() if name not in PLACES}
    if not own:
        return
    names = ", ".join(own)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "loadgen.scenario_check", *(f"{name}={place}" for name, place in own.items())],
            input=config.model_dump_json(),
            capture_output=True,
            text=True,
            check=False,
            timeout=LOADING_S,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"scenario {names}: loading it took more than {LOADING_S:g} s, and was ended") from None
    if done.returncode == 0 and done.stdout == "loaded":
        sys.stderr.write(done.stderr)
        return
    *printed, last = done.stderr.splitlines() or [""]
    if done.returncode != ConfigError.exit_code or not last:
        printed, last = [*printed, last], f"scenario {names}: loading it ended the process with {done.returncode}"
    sys.stderr.write("".join(f"{line}\n" for line in printed))
    raise ConfigError(last)
