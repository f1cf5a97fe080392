"""Parts of the record on their way: a worker elsewhere ships its files as they are, and its master publishes them.

They travel as the Parquet files that its recorder has made durable: compressed, and nobody encodes them anew. A worker
deletes a file when the master has it on disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns
from typing import Any

import polars as pl

from loadgen.durable import publish_bytes
from loadgen.errors import RunFolderError

AT_ONCE = 8  # files that are under way
AGAIN_NS = 5_000_000_000  # a file is sent again where nobody has said for so long that it came
PART_NAME = re.compile(r"(samples|chunks)-(\d{5})-\d{6}\.parquet")


class Shipper:
    """A worker's side. `send` takes a file with its name and digest; `arrived` says that the master has it."""

    def __init__(self, folder: Path, send: Callable[[dict[str, Any]], None]) -> None:
        self._parts, self._send = folder / "parts", send
        self._sent_ns: dict[str, int] = {}

    def ship(self) -> int:
        """Send what has been published since; returns how many files the master has not got yet."""
        waiting = sorted(self._parts.glob("*.parquet"))
        for path in waiting:
            under_way = [name for name, sent_ns in self._sent_ns.items() if monotonic_ns() - sent_ns < AGAIN_NS]
            if path.name in under_way or len(under_way) >= AT_ONCE:
                continue
            content = path.read_bytes()
            self._sent_ns[path.name] = monotonic_ns()
            self._send({"name": path.name, "content": content, "sha256": hashlib.sha256(content).hexdigest()})
        return len(waiting)

    def arrived(self, name: str) -> None:
        if self._sent_ns.pop(name, None) is not None:
            (self._parts / name).unlink(missing_ok=True)


def receive(folder: Path, worker: int, part: dict[str, Any]) -> str:
    """Publish a worker's file in the run folder; returns its name. It may come twice. Raises RunFolderError."""
    name, content = part["name"], part["content"]
    match = PART_NAME.fullmatch(name)
    if match is None or int(match[2]) != worker:
        raise RunFolderError(f"worker {worker} sent a file named {name!r}, which is none of its parts")
    if hashlib.sha256(content).hexdigest() != part["sha256"]:
        raise RunFolderError(f"worker {worker} sent {name} damaged")
    publish_bytes(folder / "parts" / name, content)
    return str(name)


def recorded_seqs(folder: Path, worker: int) -> set[int]:
    """The arrivals of which that worker's parts hold a row."""
    files = sorted((folder / "parts").glob(f"samples-{worker:05d}-*.parquet"))
    if not files:
        return set()
    return set(pl.scan_parquet(files, glob=False).select(pl.col("seq").unique()).collect().to_series().to_list())
