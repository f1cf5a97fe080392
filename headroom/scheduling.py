"""The schedule of an open loop: made from the config, stored in the run folder, and played from there."""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from pathlib import Path

from loadgen.config import LoadConfig, RunConfig
from loadgen.schedule import TraceRow, replayed, shaped
from loadgen.schedule_file import write_schedule
from loadgen.traces import Trace, played_rows, trace_of


@lru_cache(maxsize=1)
def _trace_of(load: LoadConfig) -> Trace:
    """Read once: it is looked at before the run, and again when its schedule is made."""
    return trace_of(load)


def forget_trace() -> None:
    """Read it anew when it is asked for next: the file may be another by then."""
    _trace_of.cache_clear()


def stated_rows(config: RunConfig) -> list[TraceRow]:
    """Those of the config's trace that are played. Raises ConfigError for a trace that cannot be."""
    load = config.load
    return [] if load.trace is None else played_rows(_trace_of(load), load, config.scenarios)


def store_schedule(folder: Path, config: RunConfig) -> None:
    """Write `schedule.parquet`, and say on the console and in the run's notes what was passed over of a trace.

    A closed loop has no schedule. Raises ConfigError, RunFolderError where it cannot be written, and Interrupted.
    """
    load, mix = config.load, config.scenarios
    if not load.open_loop:
        return
    if load.trace is None:
        write_schedule(folder, shaped(load.arrivals, load.shape, mix, load.seed, gamma_shape=load.gamma_shape))
        return
    trace = _trace_of(load)
    forget_trace()  # a million rows are not kept while the load lasts
    rows = played_rows(trace, load, mix)
    limits = {"from_s": load.from_, "scale": load.scale}
    write_schedule(folder, replayed(rows, load.speed, load.duration, mix, load.seed, **limits))
    note = trace.note(load.trace)
    if note is not None:
        sys.stderr.write(f"{note}\n")
        with (folder / "notes.jsonl").open("a") as notes:
            notes.write(json.dumps({"at_s": 0.0, "kind": "trace", "text": note}) + "\n")
