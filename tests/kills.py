"""Runs that are killed: which processes they have, what the server had answered, and what of it is in the record."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from loadgen.samples import Run
from tests.servers import Server, response

ANSWER_S = 0.05


class LoggingServer(Server):
    """Answers each request after ANSWER_S, and keeps when (CLOCK_MONOTONIC, ns) it had answered which."""

    def __init__(self):
        super().__init__(self._answer)
        self.answered_ns = {}

    async def _answer(self, call, writer):
        await asyncio.sleep(ANSWER_S)
        writer.write(response())
        await writer.drain()
        self.answered_ns[call.header("x-ms-client-request-id")] = time.monotonic_ns()


def descendants(pid):
    """pid -> command line, of all that the process has started and what those have started."""
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:  # ended since
            continue
        for child in map(int, children):
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found |= descendants(child)
    return found


def victims(pid, who):
    """The processes of a run by role: load, parent, recorder, or all of them."""
    roles = {pid: "parent"}
    for child, line in descendants(pid).items():
        if " -m loadgen.recorder " in line:
            roles[child] = "recorder"
        elif " -m loadgen " in line:
            roles[child] = "load"
    return [each for each, role in roles.items() if who in (role, "all")]


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until_gone(pids, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(is_alive(pid) for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError(f"{pids} live on")


def is_alive(pid):
    """Any thread of it: the first may be a zombie while the others still hold its files."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread has just ended
        return True
    return any(stat.rpartition(")")[2].split()[0] not in "ZX" for stat in stats)


def lost_s(folder, answered_ns, killed_ns):
    """For how long before the kill the oldest answer was in that the record does not hold; 0 where none is missing."""
    run = Run.open(folder)
    prefix = run.manifest.run_id[:8]
    rows = {f"{prefix}-{seq}-{attempt}" for seq, attempt in run.samples.select("seq", "attempt").collect().iter_rows()}
    missing = [at for name, at in dict(answered_ns).items() if name.startswith(prefix) and name not in rows]
    return max([0, *(killed_ns - at for at in missing)]) / 1e9
