"""Whether a service that is asked 200 times a second disturbs what is measured beside it.

    python benchmarks/service.py [--rate 200] [--duration 15s] [--rounds 3]

`headroom calibrate` says by how much the times of a load test are off, in turns without and with requests to a service
that runs a job meanwhile: its queue, the job and its progress, the runs, and the metrics. Server, service, load and
requests share this machine; the requests come with a low priority, as from a machine elsewhere. What calibrate doubts,
an error with a p99 above 5 ms, must not come with the requests. Whether it calls itself valid is told too: it does not
where service and requests together take more than the quarter of a core that it leaves to other programs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

import httpx

from planner.generator import DOUBTFUL_LAG_MS

LIGHT = '[load]\nrate = "1/s"\nduration = "55m"\nmax_tokens = 5\n[scenarios]\nchat = 1\n[output]\nreport = false\n'
CONNECTIONS = 10
FIGURES = ("ttft_error", "gap_error", "lag")


@dataclass
class Answers:
    """Of the service, in ms."""

    times_ms: list[float] = field(default_factory=list)
    refused: int = 0


@contextmanager
def service() -> Iterator[tuple[str, str]]:
    """The URL of one that runs a job, and the job's id."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "headroom", "serve", "--runs", folder, "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(base_url=url, trust_env=False) as client:
            job = client.post("/api/jobs", json={"config": LIGHT}).json()["job"]["id"]
            try:
                while client.get(f"/api/jobs/{job}").json()["progress"] is None:
                    time.sleep(0.2)
                yield url, job
            finally:
                client.delete(f"/api/jobs/{job}")
                while client.get(f"/api/jobs/{job}").json()["job"]["ended_utc"] is None:
                    time.sleep(0.2)
                process.terminate()
                process.wait()


@dataclass
class Asker:
    """So many requests a second, evenly, over CONNECTIONS."""

    url: str
    paths: list[str]
    rate_per_s: float
    answers: Answers = field(default_factory=Answers)
    ended: bool = False

    async def run(self) -> None:
        """Until standard input ends; says on standard output how they fared."""
        asyncio.get_running_loop().add_reader(0, self._end)
        await asyncio.gather(*map(self._lane, range(CONNECTIONS)))
        print(json.dumps(asdict(self.answers)))

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(0)
        self.ended = True

    async def _lane(self, number: int) -> None:
        place, start_s = urlsplit(self.url), time.monotonic()
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        while not self.ended:
            due_s = start_s + number / self.rate_per_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            path = self.paths[number % len(self.paths)]
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {place.netloc}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            self.answers.refused += not head.startswith(b"HTTP/1.1 200")
            self.answers.times_ms.append((time.monotonic() - due_s) * 1e3)
            number += CONNECTIONS


@contextmanager
def asked(url: str, job: str, rate_per_s: float) -> Iterator[Answers]:
    paths = ["/api/jobs", f"/api/jobs/{job}", "/metrics", "/api/runs", "/healthz"]
    command = ["nice", "-n", "10", sys.executable, __file__, "--ask", json.dumps([url, paths, rate_per_s])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    found = Answers()
    try:
        yield found
    finally:
        told, _ = process.communicate("")
        vars(found).update(json.loads(told))


def calibrated(duration: str) -> dict[str, object]:
    command = [sys.executable, "-m", "headroom", "calibrate", "--duration", duration, "--json"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def told(name: str, rounds: list[dict[str, object]]) -> bool:
    """The median of the rounds, which other programs disturb. Whether each is what calibrate takes."""
    columns, most_ms = [], 0.0
    for figure in FIGURES:
        for at in ("p50", "p99"):
            values = [each[figure][at]["value_ms"] for each in rounds]  # type: ignore[index]
            known = [value for value in values if value is not None]
            columns.append(f"{statistics.median(known):>9.3f}" if known else f"{'n too small':>9}")
            most_ms = max([most_ms, *([statistics.median(known)] if known else [])])
    valid = sum(bool(each["validity"]["valid"]) for each in rounds)  # type: ignore[index]
    print(f"{name:<34}{''.join(columns)}   {valid} of {len(rounds)} valid")
    return most_ms <= DOUBTFUL_LAG_MS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--duration", default="15s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask is not None:
        asyncio.run(Asker(*json.loads(given.ask)).run())
        return 0
    without, beside, times_ms, refused, seconds = [], [], [], 0, 0.0
    with service() as (url, job):
        for _ in range(given.rounds):
            without.append(calibrated(given.duration))
            began_s = time.monotonic()
            with asked(url, job, given.rate) as answers:
                beside.append(calibrated(given.duration))
            seconds += time.monotonic() - began_s
            times_ms += answers.times_ms
            refused += answers.refused
    heads = ("TTFT p50", "p99", "gap p50", "p99", "lag p50", "p99")
    print(f"{'error, ms; median of the rounds':<34}" + "".join(f"{head:>9}" for head in heads))
    told("a job runs", without)
    met = told(f"the same, {given.rate:g} API requests/s", beside)
    print(f"{'  must not be above':<34}" + f"{DOUBTFUL_LAG_MS:>18g}" * 3 + f"   {'met' if met else 'MISSED'}")
    ordered = sorted(times_ms)
    p50_ms, p99_ms = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    print(
        f"{len(ordered)} API requests, {len(ordered) / seconds:.0f}/s, {refused} refused; {p50_ms:.1f} (p50) and "
        f"{p99_ms:.1f} ms (p99) after they were due"
    )
    return 0 if met else 1


if __name__ == "__main__":
    os.environ.pop("HEADROOM_TOKEN", None)
    sys.exit(main())
