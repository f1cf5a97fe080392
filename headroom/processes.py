"""The processes that a command starts beside itself: a server while it is needed, and what a process used of a core."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns

from loadgen.errors import HeadroomError

SERVER_END_S = 20.0


@contextmanager
def serving(name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The URL of a server that says it in a line of JSON and ends with its standard input.

    A process that inherits what may be inherited (`close_fds=False`) holds that open too: so a load whose parent is
    killed still has its server, and does not record the server's end as answers.

    Raises HeadroomError if it does not start.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    os.set_inheritable(process.stdin.fileno(), True)
    try:
        line = process.stdout.readline()
        if not line:
            raise HeadroomError(f"{name} did not start (exit {process.wait()})")
        yield json.loads(line)["url"]
    finally:
        process.stdin.close()
        try:
            process.wait(SERVER_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def core_seconds(pid: int) -> tuple[float, float] | None:
    """For how long a process and its threads have run, and for how long they were ready and had no core.

    Of Linux, in seconds. None where the kernel does not count, or the process has ended.
    """
    try:
        threads = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    except OSError:  # a thread has ended between the listing and the reading
        return None
    ran_ns, waited_ns = (sum(int(each[column]) for each in threads) for column in (0, 1))
    return (ran_ns / 1e9, waited_ns / 1e9) if ran_ns else None


class OthersMeter:
    """How much of this machine's cores goes to all that is neither this process nor a descendant of it."""

    def __init__(self) -> None:
        self._readings: list[
            tuple[int, float]
        ] = []  # when, and core seconds of which only the difference says anything

    def read(self) -> None:
        others_s = _others_s()
        if others_s is not None:
            self._readings.append((monotonic_ns(), others_s))

    def cores_between(self, start_ns: int, end_ns: int) -> float | None:
        """From the first to the last reading of that time, interrupts included; None where there are no two."""
        within = [reading for reading in self._readings if start_ns <= reading[0] <= end_ns]
        if len(within) < 2:
            return None
        (first_ns, first_s), (last_ns, last_s) = within[0], within[-1]
        return max(0.0, last_s - first_s) / ((last_ns - first_ns) / 1e9)


def _others_s() -> float | None:
    """By how idle the cores were, which is exact: their counts of work go by ticks, and miss what wakes shortly."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        idle_s = sum(map(int, lines[0].split()[4:6])) / os.sysconf("SC_CLK_TCK")  # the second while disks work
        cores = sum(line.startswith("cpu") for line in lines) - 1
        elapsed_s = cores * monotonic_ns() / 1e9
        ours = [core_seconds(pid) for pid in _with_descendants(os.getpid())]
    except OSError:  # none such, or a process has ended between the listing and the reading
        return None
    return elapsed_s - idle_s - sum(used[0] for used in ours if used is not None)


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            yield from _with_descendants(int(child))


def cpu_model() -> str:
    """As the kernel names it; the architecture where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, names), platform.processor() or platform.machine())
