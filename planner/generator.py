"""Whether the load generator itself may be believed: how late it was, how long it stood still, how busy it was.

Bounds: MLPerf LoadGen and its peers ask for a client below 90 % of its core and an event loop within some 10 ms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import polars as pl

from loadgen.samples import Run, WorkerHealth
from planner.metrics import values
from planner.plan import LatencyRow
from planner.rows import STEADY

DOUBTFUL_LAG_MS = 5.0
INVALID_LAG_MS = 50.0
INVALID_LAG_SHARE = 0.10  # of the median ttft
STANDSTILL_MS = 100.0
INVALID_HUB_LATE_MS = 10.0
BUSY_SHARE = 0.9  # of a core
CROWDED_SHARE = 0.10  # of the time without a core; on two cores a quiet machine has some 5 %, a few us at a time
NOTED_SHARE = 0.02  # may be the cause, and may be a quiet machine
LONG_COLLECTION_MS = 10.0
CLOCK_STEP_MS = 50.0
OUT_OF_RESOURCES = ("connect_emfile", "connect_enfile", "connect_eaddrnotavail", "connect_enobufs", "connect_enomem")
TOLD_BY_FIGURES = ("hub_blocked", "cpu", "gc", "clock")  # notes of a moment each, which the figures sum up


def generator_reasons(run: Run, latency: Mapping[str, LatencyRow]) -> list[str]:
    """Why the run is invalid through the load generator's own fault, each with what to do about it."""
    return [*_late(latency), *_stood_still(run), *_busy(run), *_out_of_resources(run)]


def generator_doubts(run: Run, latency: Mapping[str, LatencyRow]) -> list[str]:
    """What to bear in mind although the run is valid; what a reason says is not said again."""
    late = [] if _late(latency) else _lag_doubt(latency) or _late_ones(run, latency)
    return [*late, *_health_doubts(run), *_sent_again(run), *_noted(run)]


def _workers(run: Run, holds: Callable[[WorkerHealth], bool]) -> Iterator[tuple[str, WorkerHealth]]:
    """The workers of whom that holds, by name: the only one is the load generator."""
    workers = run.manifest.workers
    for number, worker in enumerate(workers):
        if holds(worker):
            yield ("the load generator" if len(workers) == 1 else f"load worker {number}"), worker


def _remedy(worker: WorkerHealth) -> str:
    if (worker.without_core_share or 0.0) > CROWDED_SHARE:
        had = f"{worker.without_core_share:.0%}"
        return f"other programs had its core {had} of the time: close other programs and run again"
    others = ""
    if (worker.without_core_share or 0.0) > NOTED_SHARE:
        others = f", or stop other programs, which had its core {worker.without_core_share:.0%} of the time"
    return f"offer less, or make the scenario's own code quicker{others}"


def _lag(latency: Mapping[str, LatencyRow]) -> tuple[str, float] | None:
    """The highest percentile of the lag that the samples support, and its name."""
    row = latency["lag"]
    for name, quantile in (("p99", row.p99), ("p95", row.p95), ("p90", row.p90), ("p50", row.p50)):
        if quantile.value_ms is not None:
            return name, quantile.value_ms
    return None


def _late(latency: Mapping[str, LatencyRow]) -> list[str]:
    """Lag above 50 ms, or above a tenth of what was measured; 5 ms are never too much."""
    lag = _lag(latency)
    if lag is None or lag[1] <= DOUBTFUL_LAG_MS:
        return []
    name, lag_ms = lag
    ttft_ms = latency["ttft"].p50.value_ms
    if lag_ms > INVALID_LAG_MS:
        return [f"the load generator was late: {name} of its lag is {lag_ms:.3g} ms, above {INVALID_LAG_MS:g} ms"]
    if ttft_ms is not None and lag_ms > INVALID_LAG_SHARE * ttft_ms:
        return [
            f"the load generator was late: {name} of its lag is {lag_ms:.3g} ms, above a tenth of the median time to "
            f"the first token, {ttft_ms:.3g} ms"
        ]
    return []


def _lag_doubt(latency: Mapping[str, LatencyRow]) -> list[str]:
    lag = _lag(latency)
    if lag is None or lag[1] <= DOUBTFUL_LAG_MS:
        return []
    return [
        f"{lag[0]} of the load generator's lag is {lag[1]:.3g} ms, above {DOUBTFUL_LAG_MS:g} ms: stop what else runs "
        "here, or offer less"
    ]


def _late_ones(run: Run, latency: Mapping[str, LatencyRow]) -> list[str]:
    """Of a percentile that is fine."""
    if (latency["lag"].max_ms or 0.0) <= DOUBTFUL_LAG_MS:
        return []
    bound_ns = DOUBTFUL_LAG_MS * 1e6
    may_be = pl.col("sent_ns") - pl.col("admitted_ns") > bound_ns  # the lag is that, or less
    late = values(run, "lag", STEADY & may_be).filter(pl.col("value_ns") > bound_ns)
    n, most_ns = late.select(pl.len(), pl.col("value_ns").max()).collect(engine="streaming").row(0)
    requests = "one request" if n == 1 else f"{n:,} requests"
    return [f"{requests} left more than {DOUBTFUL_LAG_MS:g} ms late, {most_ns / 1e6:.3g} ms at most"]


def _sent_again(run: Run) -> list[str]:
    n: int = run.samples.select(pl.col("resent").sum()).collect().item() or 0
    if not n:
        return []
    requests = "one request was" if n == 1 else f"{n:,} requests were"
    return [
        f"{requests} sent again, since the server closed the kept connection without a byte: if it did so after it had "
        "read them, it has seen them twice (column resent)"
    ]


def _stood_still(run: Run) -> list[str]:
    """What comes in while the hub stands still is stamped late, and what is due leaves late."""
    long, often = _workers(run, _stood), _workers(run, _was_late)
    return [
        f"{name} stood still for {worker.hub_late_max_ms:.0f} ms, and what came meanwhile is stamped late: "
        f"{_remedy(worker)}"
        for name, worker in long
    ] + [
        f"{name} was {worker.hub_late_p99_ms:.0f} ms late or more to one event in a hundred: {_remedy(worker)}"
        for name, worker in often
    ]


def _stood(worker: WorkerHealth) -> bool:
    return (worker.hub_late_max_ms or 0.0) >= STANDSTILL_MS


def _was_late(worker: WorkerHealth) -> bool:
    return (worker.hub_late_p99_ms or 0.0) > INVALID_HUB_LATE_MS


def _crowded(worker: WorkerHealth) -> bool:
    """And no reason says so."""
    crowded = (worker.without_core_share or 0.0) > CROWDED_SHARE
    return crowded and not _stood(worker) and not _was_late(worker)


def _busy(run: Run) -> list[str]:
    return [
        f"{name} used {worker.cpu_share:.0%} of its core, so its own limit is what was measured: offer less"
        for name, worker in _workers(run, lambda worker: (worker.cpu_share or 0.0) > BUSY_SHARE)
    ]


def _out_of_resources(run: Run) -> list[str]:
    failed = run.samples.filter(pl.col("error").is_in(OUT_OF_RESOURCES)).select(pl.col("error"), pl.len().over("error"))
    first = failed.collect().head(1).rows()
    return [
        f"{count:,} attempts failed with {error}: this machine ran out of open files or ports, which is not the "
        "deployment's fault; raise its limits (ulimit -n), or offer less"
        for error, count in first
    ]


def _health_doubts(run: Run) -> list[str]:
    crowded = _workers(run, _crowded)
    busy = _workers(run, lambda worker: (worker.busiest_cpu_share or 0.0) > BUSY_SHARE >= (worker.cpu_share or 0.0))
    collected = _workers(run, lambda worker: worker.longest_collection_ms > LONG_COLLECTION_MS)
    stepped = _workers(run, lambda worker: abs(worker.clock_step_ms) > CLOCK_STEP_MS)
    blocked = _workers(run, lambda worker: STANDSTILL_MS / 2 < (worker.hub_late_max_ms or 0.0) < STANDSTILL_MS)
    return [
        *(
            f"other programs had {name}'s core {worker.without_core_share:.0%} of the time: stop them"
            for name, worker in crowded
        ),
        *(
            f"{name} used {worker.busiest_cpu_share:.0%} of its core in its busiest second: offer less"
            for name, worker in busy
        ),
        *(
            f"{name} stood still for {worker.hub_late_max_ms:.0f} ms at most: what came meanwhile is stamped late by "
            "so much"
            for name, worker in blocked
        ),
        *(f"{name} collected garbage for {worker.longest_collection_ms:.0f} ms at once" for name, worker in collected),
        *(
            f"the time of day was set by {worker.clock_step_ms:+.0f} ms during the run: latencies do not depend on it, "
            "but servers' logs will not join by date"
            for _, worker in stepped
        ),
    ]


def _noted(run: Run) -> list[str]:
    """Each kind of note once, as first written, with how often it came; those that figures tell better left out."""
    told = TOLD_BY_FIGURES if run.manifest.workers else ()
    notes = [note for note in run.notes if isinstance(note, dict) and note.get("kind") not in told]
    kinds = Counter(str(note.get("kind")) for note in notes)
    doubts = []
    for note in notes:
        times = kinds.pop(str(note.get("kind")), 0)
        if times:
            text = str(note.get("text", note.get("kind")))
            doubts.append(text if times == 1 else f"{text} (noted {times:,} times)")
    return doubts
