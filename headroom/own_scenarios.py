"""Scenarios of the user's own, loaded in a process of theirs: loading one patches the process for gevent."""

from __future__ import annotations

import subprocess
import sys
import tempfile
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
        code, answer, said = _loaded(config, own)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"scenario {names}: loading it took more than {LOADING_S:g} s, and was ended") from None
    if code == 0 and answer == "loaded":
        sys.stderr.write(said)
        return
    *printed, last = said.splitlines() or [""]
    if code != ConfigError.exit_code or not last:
        printed, last = [*printed, last], f"scenario {names}: loading it ended the process with {code}"
    sys.stderr.write("".join(f"{line}\n" for line in printed))
    raise ConfigError(last)


def _loaded(config: RunConfig, places: Mapping[str, str]) -> tuple[int, str, str]:
    """How that process ended, its answer, and what else it said. Raises TimeoutExpired.

    Through files: a pipe ends only with the last process that holds it, and a scenario may leave some behind.
    """
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [sys.executable, "-m", "loadgen.scenario_check", *(f"{name}={place}" for name, place in places.items())],
            input=config.model_dump_json().encode(),
            stdout=answer,
            stderr=said,
            check=False,
            timeout=LOADING_S,
        )
        answer.seek(0)
        said.seek(0)
        return done.returncode, answer.read().decode("utf-8", "replace"), said.read().decode("utf-8", "replace")
