"""What a load process measures of itself while it measures others: its hub, its core, its collector, its clock."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from time import monotonic_ns, process_time, time_ns
from typing import Any

from loadgen.samples import WorkerHealth

LOOK_S = 0.005  # between two looks at the hub
BLOCKED_MS = 50.0  # above it a standstill is noted
BUSY_SHARE = 0.9  # of a core; above it the generator may be what is measured
LONG_COLLECTION_MS = 10.0
CLOCK_STEP_MS = 50.0
SHORTEST_TICK_NS = 500_000_000
_SCHEDSTAT = Path("/proc/self/schedstat")  # Linux: ns run, ns ready and without a core, time slices


class Health:
    """`look` is called each LOOK_S in the hub, `tick` each second; both come late when the hub does.

    Events come at any moment of a standstill, so one of L ms makes some wait L ms and others nothing: the p99 is of
    events spread evenly over time, not of looks.
    """

    def __init__(self, note: Callable[[str, str], None]) -> None:
        self._note = note
        self._figures = WorkerHealth()
        self._gaps_ms = array("f")  # between looks
        self._looked_ns: int | None = None
        self._collecting_ns = 0
        self._begin_ns: int | None = None
        self._loaded = False  # while arrivals come: the share of a core is of that time
        self._begin_cpu_s = self._tick_cpu_s = 0.0
        self._tick_ns = 0
        self._waited_ns = self._offset_ns = 0
        gc.callbacks.append(self._collected)

    def begin(self) -> None:
        """The measured stretch begins."""
        self._begin_ns = self._tick_ns = self._looked_ns = monotonic_ns()
        self._begin_cpu_s = self._tick_cpu_s = process_time()
        self._waited_ns, self._offset_ns = _waited_ns(), time_ns() - self._begin_ns
        self._loaded = True

    def look(self, in_flight: int) -> None:
        if self._looked_ns is None:
            return
        now_ns = monotonic_ns()
        gap_ms = (now_ns - self._looked_ns) / 1e6
        self._looked_ns = now_ns
        self._figures.hub_late_max_ms = max(self._figures.hub_late_max_ms or 0.0, gap_ms - LOOK_S * 1e3)
        self._figures.most_in_flight = max(self._figures.most_in_flight, in_flight)
        if self._loaded:
            self._gaps_ms.append(gap_ms)
        if gap_ms - LOOK_S * 1e3 > BLOCKED_MS:
            self._note("hub_blocked", f"the load generator stood still for {gap_ms - LOOK_S * 1e3:.0f} ms")

    def tick(self) -> None:
        now_ns = monotonic_ns()
        if not self._loaded or now_ns - self._tick_ns < SHORTEST_TICK_NS:
            return
        cpu_s = process_time()
        share = (cpu_s - self._tick_cpu_s) / ((now_ns - self._tick_ns) / 1e9)
        self._figures.busiest_cpu_share = max(self._figures.busiest_cpu_share or 0.0, share)
        if share > BUSY_SHARE:
            self._note("cpu", f"the load generator used {share:.0%} of a core: its own limit may be what is measured")
        self._tick_cpu_s, self._tick_ns = cpu_s, now_ns
        self._check_clock()

    def rest(self) -> None:
        """No more arrivals come: waiting for the last answers takes no core, and would hide that the load did."""
        if self._begin_ns is None or not self._loaded:
            return
        figures = self._figures
        elapsed_ns = max(1, monotonic_ns() - self._begin_ns)
        figures.seconds = elapsed_ns / 1e9
        figures.cpu_share = (process_time() - self._begin_cpu_s) / figures.seconds
        figures.without_core_share = (_waited_ns() - self._waited_ns) / elapsed_ns if _SCHEDSTAT.exists() else None
        self._loaded = False

    def end(self) -> dict[str, Any]:
        """The measured stretch has ended; its figures. Where it never began, they say nothing."""
        gc.callbacks.remove(self._collected)
        if self._begin_ns is None:
            return asdict(self._figures)
        self.look(0)
        self.rest()
        self._figures.hub_late_p99_ms = _late_ms(self._gaps_ms, 0.99)
        self._looked_ns = self._begin_ns = None
        return asdict(self._figures)

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


def _late_ms(gaps_ms: Sequence[float], share: float) -> float:
    """By how much the hub is late to that share of events that come evenly over time.

    In a gap that is L longer than asked for, an event waits for what is left of it: above x ms are L - x of its ms.
    """
    late_ms = sorted((max(0.0, gap_ms - LOOK_S * 1e3) for gap_ms in gaps_ms), reverse=True)
    allowed_ms, above_ms = (1 - share) * sum(gaps_ms), 0.0
    for longer, (late, next_late) in enumerate(pairwise([*late_ms, 0.0]), start=1):
        step_ms = longer * (late - next_late)
        if above_ms + step_ms >= allowed_ms:
            return late - (allowed_ms - above_ms) / longer
        above_ms += step_ms
    return 0.0
