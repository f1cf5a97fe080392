"""How long a plan of ten million samples takes and how much memory, beside one reading of the same columns.

    python benchmarks/planner_scale.py [SAMPLES] [--gaps-per-stream N] [--keep FOLDER]

The record is a serverless run of three hours and more: chat and streaming at 800 arrivals a second, a few of them
refused and tried again. Every stream has N gaps in chunks.parquet. The limit is what polars needs, in a process of its
own, to add up every column the plan is made of, once. `headroom plan` must take at most 10 s and 2 GB for ten million.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from loadgen.config import RunConfig
from loadgen.quota import Quota
from loadgen.samples import CHUNKS_SCHEMA, SAMPLES_SCHEMA, Manifest, Outcome, Phase

RATE_PER_S = 800.0
WARMUP_S = 60.0
STREAMED_SHARE = 0.05
RETRIED_SHARE = 0.001
SLICE = 1_000_000
MOST_S, MOST_MB = 10.0, 2_000.0
CONSOLE = Console(width=120, soft_wrap=True)
LEAST = """
import sys, polars as pl
for name in ("samples", "chunks"):
    frame = pl.scan_parquet(f"{sys.argv[1]}/{name}.parquet")
    numbers = [c for c, kind in frame.collect_schema().items() if kind.is_numeric()]
    frame.select(pl.col(numbers).sum()).collect(engine="streaming")
"""
LAUNCHER = """
import os, subprocess, sys, time
began = time.perf_counter()
with open(sys.argv[1], "wb") as out:
    _, status, used = os.wait4(subprocess.Popen(sys.argv[2:], stdout=out).pid, 0)
print(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3)
sys.exit(os.waitstatus_to_exitcode(status))
"""  # a child's peak counts what its parent held when it was forked, so the parent must be small


def attempts(rng: np.random.Generator, first: int, count: int) -> pl.DataFrame:
    """The rows of the arrivals from `first` on, with the retries of those that were refused."""
    seq = np.arange(first, first + count)
    due_ns = ((seq + rng.random(count)) / RATE_PER_S * 1e9).astype(np.int64)
    streamed, again = rng.random(count) < STREAMED_SHARE, rng.random(count) < RETRIED_SHARE
    sent_ns = due_ns + rng.integers(20_000, 900_000, count)
    ttft_ns = (rng.lognormal(-1.6, 0.35, count) * 1e9).astype(np.int64)
    tokens = np.maximum(2, rng.lognormal(4.2, 0.5, count)).astype(np.int64)
    done_ns = sent_ns + ttft_ns + tokens * 12_000_000
    prompt = np.maximum(1, rng.lognormal(5.5, 0.8, count)).astype(np.int64)
    answer = pl.DataFrame(
        {
            "seq": seq,
            "attempt": again.astype(np.int64),
            "phase": np.where(due_ns < WARMUP_S * 1e9, Phase.WARMUP.value, Phase.STEADY.value),
            "scenario": np.where(streamed, "streaming", "chat"),
            "due_ns": due_ns,
            "admitted_ns": due_ns + 5_000,
            "sent_ns": np.where(again, sent_ns + 1_000_000_000, sent_ns),
            "first_byte_ns": sent_ns + ttft_ns,
            "first_token_ns": sent_ns + ttft_ns,
            "last_token_ns": done_ns,
            "done_ns": np.where(again, done_ns + 1_000_000_000, done_ns),
            "estimated_prompt_tokens": prompt + rng.integers(-3, 4, count).clip(1 - prompt),
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "chunks": np.where(streamed, tokens, 0),
        }
    ).with_columns(
        outcome=pl.lit(Outcome.OK.value), status=pl.lit(200), usage_source=pl.lit("server"),
        finish_reason=pl.lit("stop"), error=pl.lit(None, pl.String), retry_after_ms=pl.lit(None, pl.Int64),
    )  # fmt: skip
    plain = pl.col("scenario") == "chat"
    instants = ("first_token_ns", "last_token_ns")
    answer = answer.with_columns(pl.when(~plain).then(pl.col(name)).alias(name) for name in instants)
    unknown = ("prompt_tokens", "completion_tokens", "finish_reason", *instants)
    refusal = answer.filter(pl.col("attempt") == 1).with_columns(
        *(pl.lit(None, answer.schema[name]).alias(name) for name in unknown),
        attempt=pl.lit(0, pl.Int64), outcome=pl.lit(Outcome.THROTTLED.value), status=pl.lit(429),
        usage_source=pl.lit("estimated"), error=pl.lit("429"), retry_after_ms=pl.lit(1_000, pl.Int64),
        sent_ns=pl.col("sent_ns") - 1_000_000_000, done_ns=pl.col("sent_ns") - 995_000_000, chunks=pl.lit(0, pl.Int64),
    )  # fmt: skip
    known = {"worker": 0, "target": "sim", "resent": 0, "bytes_in": 900, "bytes_out": 1_400}
    whole = pl.concat([answer, refusal], how="vertical_relaxed").sort("seq", "attempt")
    return whole.with_columns(
        *(pl.lit(value).alias(name) for name, value in known.items()),
        reserved_tokens=pl.col("estimated_prompt_tokens") + 128,
        **{name: pl.lit(None) for name in ("connect_ns", "connected_ns", "secured_ns", "session")},
    ).select(pl.col(name).cast(kind) for name, kind in SAMPLES_SCHEMA.items())


def gaps_of(rng: np.random.Generator, rows: pl.DataFrame, each: int) -> pl.DataFrame:
    streams = rows.filter(pl.col("chunks") > 0).select("seq", "attempt")
    every = streams.select(pl.all().repeat_by(each).explode())
    gap_us = rng.lognormal(9.4, 0.3, every.height).astype(np.int64)
    return every.with_columns(gap_us=pl.Series(gap_us)).select(
        pl.col(name).cast(kind) for name, kind in CHUNKS_SCHEMA.items()
    )


def make(folder: Path, samples: int, gaps_per_stream: int) -> tuple[int, int]:
    """A run folder of so many arrivals; the rows of samples.parquet and of chunks.parquet."""
    rng, folders = np.random.default_rng(1), {}
    for name in ("samples", "chunks"):
        folders[name] = folder / f"{name}.parts"
        folders[name].mkdir(parents=True)
    for first in range(0, samples, SLICE):
        rows = attempts(rng, first, min(SLICE, samples - first))
        rows.write_parquet(folders["samples"] / f"{first:012d}.parquet")
        gaps_of(rng, rows, gaps_per_stream).write_parquet(folders["chunks"] / f"{first:012d}.parquet")
    counts = []
    for name, parts in folders.items():
        pl.scan_parquet(sorted(parts.glob("*.parquet"))).sink_parquet(folder / f"{name}.parquet")
        counts.append(pl.scan_parquet(folder / f"{name}.parquet").select(pl.len()).collect().item())
        for part in parts.iterdir():
            part.unlink()
        parts.rmdir()
    duration_s = samples / RATE_PER_S
    config = RunConfig.model_validate(
        {
            "load": {"rate": RATE_PER_S, "duration": duration_s, "warmup": WARMUP_S, "retries": 1, "throttle": "off"},
            "scenarios": {"chat": 1 - STREAMED_SHARE, "streaming": STREAMED_SHARE},
            "quota": Quota(tokens_per_minute=40_000_000, requests_per_minute=60_000),
            "slo": ("ttft.p95<1s", "itl.p95<40ms"),
        }
    )
    (folder / "notes.jsonl").touch()
    Manifest(
        run_id="scale-0001", state="complete", config=config.model_dump(mode="json"), seed=1, estimator="scale",
        deployment={"model_name": "Phi-3-mini-4k-Instruct"}, started_utc="2026-11-20T10:00:00Z",
    ).write(folder)  # fmt: skip
    return counts[0], counts[1]


def measured(command: list[str], output: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and the most megabytes of a command. Raises CalledProcessError where it fails."""
    launched = [sys.executable, "-c", LAUNCHER, str(output), *command]
    done = subprocess.run(launched, capture_output=True, text=True, check=True)
    wall_s, cpu_s, most_mb = map(float, done.stdout.split())
    return wall_s, cpu_s, most_mb


def compare(folder: Path, samples: int, rows: tuple[int, int]) -> bool:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{rows[0]:,} rows, {rows[1]:,} gaps", no_wrap=True)
    for column in ("wall s", "CPU s", "peak MB", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    output = folder.parent / f"{folder.name}.json"
    least = measured([sys.executable, "-c", LEAST, str(folder)], output)
    ours = measured([sys.executable, "-m", "headroom", "plan", str(folder), "--json"], output)
    if json.loads(output.read_bytes())["traffic"]["planned"] != samples:
        raise RuntimeError("the plan does not count every arrival")
    judged, met = samples >= 10_000_000, ours[0] <= MOST_S and ours[2] <= MOST_MB
    table.add_row("headroom plan --json", *(f"{value:,.1f}" for value in ours), "met" if met else "MISSED")
    table.add_row("  must take at most", f"{MOST_S:g}", "", f"{MOST_MB:,.0f}", "for ten million")
    table.add_row("  reading every column once (the limit)", *(f"{value:,.1f}" for value in least), "")
    CONSOLE.print(table)
    return met or not judged


def main(
    arguments: list[str],
    judge: Callable[[Path, int, tuple[int, int]], bool],
    *,
    about: str | None,
    samples: int,
) -> int:
    """Judges the record of so many samples, which is made where it is not kept."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("samples", type=int, nargs="?", default=samples)
    parser.add_argument("--gaps-per-stream", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="make the record here, or use the one that is here, and leave it")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.keep or Path(scratch)) / "run"
        if (folder / "manifest.json").exists():
            rows, gaps = (pl.scan_parquet(folder / f"{name}.parquet").select(pl.len()).collect().item()
                          for name in ("samples", "chunks"))  # fmt: skip
        else:
            rows, gaps = make(folder, given.samples, given.gaps_per_stream)
        return 0 if judge(folder, given.samples, (rows, gaps)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], compare, about=__doc__, samples=10_000_000))
