"""How fast a managed endpoint is replayed in virtual time, beside the least that an event-driven replay must do.

    python benchmarks/virtual.py [REQUESTS]

Poisson arrivals with lognormal lengths, 1,000 prompt and 200 completion tokens in the mean, at four instances of a
small model on one A100 each, as loadgen.simulator.hardware estimates them. The limit is measured in the same process: a
loop over the same arrivals that makes one object each, and pushes and pops a heap once for each of its three events.
One core, CPU time; ours must reach 1,000,000 requests in 60 s.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from rich.console import Console
from rich.table import Table

from loadgen.simulator.endpoint import EndpointSettings
from loadgen.simulator.hardware import batching_of
from loadgen.simulator.virtual import Arrival, Replay, replay

MODEL, SKU, INSTANCES = "Phi-3.5-mini-instruct", "NC24ads_A100_v4", 4
FLOOR_PER_S = 1_000_000 / 60
PASSES = 3
EVENTS = 3  # of a request: it begins, its prompt is through, it ends
BATCH = 30
CONSOLE = Console(width=170, soft_wrap=True)


def arrivals_of(count: int, per_s: float) -> Iterator[Arrival]:
    rng, now_ns = random.Random(1), 0
    for _ in range(count):
        now_ns += round(rng.expovariate(per_s) * 1e9)
        # exp(mu + sigma^2 / 2) is the mean: 1,000 and 200
        yield now_ns, max(1, round(rng.lognormvariate(6.503, 0.9))), max(1, round(rng.lognormvariate(4.978, 0.8)))


def cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def limit(arrivals: list[Arrival]) -> None:
    """One object a request, one push and pop for each of its events, on a heap of as many entries as a batch."""
    heap: list[tuple[int, int]] = [(number, number) for number in range(BATCH)]
    for at_ns, prompt_tokens, completion_tokens in arrivals:
        request = [at_ns, prompt_tokens, completion_tokens, 0, 0, 0]
        for event in range(EVENTS):
            heappush(heap, (at_ns + completion_tokens * 1_000_000, event))
            request[5] = heappop(heap)[1]


def play(count: int, per_s: float) -> tuple[str, float, float]:
    """The row of one load: what it was, and requests a second of ours and of the limit, the median of the passes."""
    model = batching_of(MODEL, SKU)
    settings = EndpointSettings(
        instances=INSTANCES, max_concurrent_per_instance=64, request_timeout_ms=180_000, bandwidth_bytes_per_s=10**9
    )
    arrivals = list(arrivals_of(count, per_s))
    done: list[Replay] = []
    ours, least = [], []
    for _ in range(PASSES if count <= 200_000 else 1):
        ours.append(count / cpu_s(lambda: done.append(replay(arrivals, model, settings))))
        least.append(count / cpu_s(lambda: limit(arrivals)))
    result = done[-1]
    sojourns_ns = sum(end - at for at, end in zip(result.at_ns, result.done_ns, strict=True))
    running = sojourns_ns / (result.end_ns - result.at_ns[0]) / INSTANCES
    statuses = ", ".join(f"{status} x {times:,}" for status, times in sorted(Counter(result.status).items()))
    CONSOLE.print(
        f"{per_s:g} requests/s: {result.end_ns / 3.6e12:.1f} h of traffic, {running:.1f} in flight an instance, "
        f"{statuses}",
        highlight=False,
    )
    return f"requests replayed per CPU-second, {running:.0f} in flight x {INSTANCES}", *map(
        statistics.median, (ours, least)
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("requests", type=int, nargs="?", default=1_000_000)
    given = parser.parse_args(arguments)
    if given.requests < 1:
        parser.error("REQUESTS must be at least 1")
    table = Table(box=None, pad_edge=False)
    for column in ("work", "ours", "must reach", "verdict, or times better than"):
        table.add_column(column, justify="right" if column in ("ours", "must reach") else "left", no_wrap=True)
    for per_s in (12.0, 20.0, 24.0):
        work, ours, least = play(given.requests, per_s)
        table.add_row(work, f"{ours:,.0f}", f">= {FLOOR_PER_S:,.0f}", "met" if ours >= FLOOR_PER_S else "MISSED")
        table.add_row("  bare heap and loop (the limit)", f"{least:,.0f}", "", f"{ours / least:.3g}")
    CONSOLE.print()
    CONSOLE.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
