"""What a load process measures of itself while it measures others: its hub, its core, its collector, its clock."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic_ns, process_time, time_ns
from typing import Any

from loadgen.samples import WorkerHealth

LOOK_S = 0.02  # between two looks at the hub
BLOCKED_MS = 50.0  # above it a standstill is noted
BUSY_SHARE = 0.9  # of a core; above it the generator may be what is measured
LONG_COLLECTION_MS = 10.0
CLOCK_STEP_MS = 50.0
_SCHEDSTAT = Path("/proc/self/schedstat")  # Linux: ns run, ns ready and without a core, time slices


class Health:
    """`look` is called each LOOK_S in the hub, `tick` each second; both come late when the hub does."""

    def __init__(self, note: Callable[[str, str], None]) -> None:
        self._note = note
        self._figures = WorkerHealth()
        self._late_ms = array("f")
        self._looked_ns: int | None = None
        self._collecting_ns = 0
        self._begin_ns: int | None = None
        self._begin_cpu_s = self._tick_cpu_s = 0.0
        self._tick_ns = 0
        self._waited_ns = self._offset_ns = 0
        gc.callbacks.append(self._collected)

    def begin(self) -> None:
        """The measured stretch begins."""
        self._begin_ns = self._tick_ns = self._looked_ns = monotonic_ns()
        self._begin_cpu_s = self._tick_cpu_s = process_time()
        self._waited_ns, self._offset_ns = _waited_ns(), time_ns() - self._begin_ns

    def look(self) -> None:
        if self._looked_ns is None:
            return
        now_ns = monotonic_ns()
        late_ms = max(0.0, (now_ns - self._looked_ns) / 1e6 - LOOK_S * 1e3)
        self._looked_ns = now_ns
        self._late_ms.append(late_ms)
        if late_ms > BLOCKED_MS:
            self._note("hub_blocked", f"the load generator stood still for {late_ms:.0f} ms")

    def tick(self, in_flight: int) -> None:
        if self._begin_ns is None:
            return
        figures, now_ns, cpu_s = self._figures, monotonic_ns(), process_time()
        share = (cpu_s - self._tick_cpu_s) / max(1e-9, (now_ns - self._tick_ns) / 1e9)
        figures.busiest_cpu_share = max(figures.busiest_cpu_share or 0.0, share)
        figures.most_in_flight = max(figures.most_in_flight, in_flight)
        if share > BUSY_SHARE:
            self._note("cpu", f"the load generator used {share:.0%} of a core: its own limit may be what is measured")
        self._tick_cpu_s, self._tick_ns = cpu_s, now_ns
        self._check_clock()

    def end(self) -> dict[str, Any]:
        """The measured stretch has ended; its figures. Where it never began, they say nothing."""
        gc.callbacks.remove(self._collected)
        figures = self._figures
        if self._begin_ns is None:
            return asdict(figures)
        self.look()
        elapsed_ns = max(1, monotonic_ns() - self._begin_ns)
        figures.seconds = elapsed_ns / 1e9
        figures.cpu_share = (process_time() - self._begin_cpu_s) / figures.seconds
        figures.without_core_share = (_waited_ns() - self._waited_ns) / elapsed_ns if _SCHEDSTAT.exists() else None
        late_ms = sorted(self._late_ms)
        figures.hub_late_p99_ms, figures.hub_late_max_ms = late_ms[-(-len(late_ms) * 99 // 100) - 1], late_ms[-1]
        self._looked_ns = self._begin_ns = None
        return asdict(figures)

    def _check_clock(self) -> None:
        offset_ns = time_ns() - monotonic_ns()
        step_ms = (offset_ns - self._offset_ns) / 1e6
        self._offset_ns = offset_ns
        if abs(step_ms) > abs(self._figures.clock_step_ms):
            self._figures.clock_step_ms = step_ms
        if abs(step_ms) > CLOCK_STEP_MS:
            self._note("clock", f"the time of day was set by {step_ms:+.0f} ms: dates of servers' logs will not join")

    def _collected(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_ns = monotonic_ns()
        elif self._begin_ns is not None:
            pause_ms = (monotonic_ns() - self._collecting_ns) / 1e6
            self._figures.collections += 1
            self._figures.longest_collection_ms = max(self._figures.longest_collection_ms, pause_ms)
            if pause_ms > LONG_COLLECTION_MS:
                self._note("gc", f"the load generator collected garbage for {pause_ms:.0f} ms")


def _waited_ns() -> int:
    """How long this thread, which runs the hub, has been ready and without a core; 0 where that is not told."""
    try:
        return int(_SCHEDSTAT.read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
