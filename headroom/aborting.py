"""The thresholds that may end a run, looked at while it lasts."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from loadgen.config import RunConfig
from loadgen.damage import naming_damage
from loadgen.errors import ConfigError, RunFolderError
from loadgen.samples import Run
from planner.thresholds import SURE_OF_MISS, check_of, ends_run, measured

LOOK_S = 1.0
COST_SHARE = 0.05  # of a core: a look at a large record takes a while, and the load is made on the same machine


def check_delays(config: RunConfig) -> None:
    """Raises ConfigError for a threshold that would be looked at when the load is over."""
    steady_s = config.load.duration - config.load.warmup
    for threshold in config.thresholds:
        if threshold.abort_on_fail and threshold.delay_s >= steady_s:
            raise ConfigError(
                f"{threshold.text!r} waits {threshold.delay_s:g} s after the warm-up, and the load is over after "
                f"{steady_s:g} s: make its delay shorter"
            )


class Watch:
    """Judges, from what the record holds so far, the thresholds with abort_on_fail."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self._folder, self._config = folder, config
        self._thresholds = [threshold for threshold in config.thresholds if threshold.abort_on_fail]
        self._began_s: float | None = None
        self._next_s = 0.0

    def look(self) -> str | None:
        """Called each second from the load's first on. Returns why the run is to end, or None."""
        if not self._thresholds:
            return None
        now_s = monotonic()
        if self._began_s is None:
            self._began_s = now_s
        if now_s < self._next_s:
            return None
        steady_s = now_s - self._began_s - self._config.load.warmup
        found = self._missed(steady_s)
        took_s = monotonic() - now_s
        self._next_s = now_s + max(LOOK_S, took_s / COST_SHARE)
        return found

    def _missed(self, steady_s: float) -> str | None:
        due = [threshold for threshold in self._thresholds if steady_s >= threshold.delay_s]
        if not due:
            return None
        try:
            with naming_damage(self._folder):
                run = Run.open(self._folder)
                for threshold in due:
                    figure = measured(run, threshold, self._config.slos, SURE_OF_MISS)
                    if ends_run(threshold, figure):
                        check = check_of(threshold, figure)
                        return f"threshold missed: {check.name}: {check.message}"
        except RunFolderError:  # parts are being published; there is a next look
            return None
        return None
