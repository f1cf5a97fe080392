"""Runs of several processes as tests watch them: which processes they are, and what reached the server when."""

import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from loadgen.quota import Quota, WindowKind, enforcing
from tests.commands import environment
from tests.servers import Server, always, response

NS_PER_S = 1_000_000_000


class LoggingServer(Server):
    """Answers at once, and keeps when each request came (ns of CLOCK_MONOTONIC) and its id."""

    def __init__(self):
        self.log = []
        answer = always(response())

        async def script(call, writer):
            self.log.append((time.monotonic_ns(), call.header("x-ms-client-request-id")))
            await answer(call, writer)

        super().__init__(script)

    def seqs(self):
        return [int(request_id.split("-")[1]) for _, request_id in self.log]

    def between(self, first_ns, last_ns):
        return sum(first_ns <= at_ns < last_ns for at_ns, _ in self.log)


def refusals(log, requests_per_minute, tokens):
    """How many of the logged requests a deployment of that quota refuses, by how it enforces it."""
    counts = {}
    for window in WindowKind:
        quota = Quota(requests_per_minute=requests_per_minute, tokens_per_minute=100_000_000, window=window)
        limiter = enforcing(quota)
        counts[window.value] = sum(limiter.try_take(at_ns, tokens) is None for at_ns, _ in sorted(log))
    return {window: count for window, count in counts.items() if count}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_worker(cwd, port, *arguments, **extra):
    command = [sys.executable, "-m", "headroom", "worker", "--connect", f"127.0.0.1:{port}", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes_of(pid, module):
    """The descendants of a process that run `python -m MODULE`, by pid."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue  # it has ended meanwhile
        children[parent].append((int(path.name), words))
    found, looked_at = [], [pid]
    while looked_at:
        for child, words in children[looked_at.pop()]:
            looked_at.append(child)
            if words[1:3] == [b"-m", module.encode()]:
                found.append(child)
    return sorted(found)
