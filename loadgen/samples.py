"""The record of a run: what a row is, how it is written, how it is read.

A run folder holds `manifest.json`, `samples.parquet` (one row for each attempt, and for each arrival that was due and
never sent), `chunks.parquet` (the gaps between content chunks of each stream) and `notes.jsonl`. While a run lasts,
each worker publishes small complete Parquet files under `parts/`; `finish` makes the whole files out of them. A run
that was killed opens too: its parts are read, and its manifest says that it never finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from loadgen.durable import publish_bytes, publish_frame, publish_lazy
from loadgen.errors import RunFolderError

FORMAT = 1
SLICE = 100_000  # arrivals that are sorted at once when a record is closed


class Outcome(StrEnum):
    """How an attempt ended. `dropped` is the one that was never sent."""

    OK = "ok"
    THROTTLED = "throttled"  # 429
    FILTERED = "filtered"  # by content safety, before or within the answer
    REJECTED = "rejected"  # any other 4xx
    SERVER_ERROR = "server_error"  # 5xx
    TIMEOUT = "timeout"
    NETWORK = "network"
    BROKEN_STREAM = "broken_stream"  # 200, then cut, malformed or an error frame
    DROPPED = "dropped"
    CANCELLED = "cancelled"  # in flight when the run was stopped


OK = Outcome.OK  # for the hot path: Python 3.11 takes 0.1 us to look a member up


class Phase(StrEnum):
    WARMUP = "warmup"
    STEADY = "steady"
    COOLDOWN = "cooldown"


@dataclass(slots=True, kw_only=True)
class Sample:
    """One attempt. Instants are ns since the run's start, on one monotonic clock; None where it did not come so far."""

    seq: int
    attempt: int = 0
    worker: int = 0
    phase: str = Phase.STEADY.value
    scenario: str
    target: str
    outcome: str = Outcome.OK.value
    status: int | None = None
    error: str | None = None  # a short code or sentence, never a secret
    due_ns: int
    admitted_ns: int | None = None
    connect_ns: int | None = None  # when the connection began to be opened, by the attempt that used it first
    connected_ns: int | None = None  # through a proxy: when the tunnel stood
    secured_ns: int | None = None  # when the TLS session stood
    sent_ns: int | None = None
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    done_ns: int | None = None
    resent: int = 0  # times it was sent again, since the kept connection had been closed before a byte came back
    reserved_tokens: int = 0
    estimated_prompt_tokens: int | None = None  # by the manifest's estimator, before it was sent
    prompt_tokens: int | None = None  # the server's usage; None where it sent none
    completion_tokens: int | None = None
    usage_source: str = "estimated"  # server | estimated
    chunks: int = 0  # content-bearing ones
    bytes_in: int = 0
    bytes_out: int = 0
    retry_after_ms: int | None = None
    finish_reason: str | None = None
    session: int | None = None  # of a later turn: seq of the arrival that its session began with


COLUMNS = tuple(field.name for field in fields(Sample))
row_of = attrgetter(*COLUMNS)  # a Sample as a plain tuple: what travels to the recorder

SAMPLES_SCHEMA: dict[str, Any] = {
    "seq": pl.UInt64,
    "attempt": pl.UInt8,
    "worker": pl.UInt16,
    "phase": pl.Enum([phase.value for phase in Phase]),
    "scenario": pl.String,
    "target": pl.String,
    "outcome": pl.Enum([outcome.value for outcome in Outcome]),
    "status": pl.UInt16,
    "error": pl.String,
    **{
        f"{name}_ns": pl.Int64
        for name in (
            *("due", "admitted", "connect", "connected", "secured"),
            *("sent", "first_byte", "first_token", "last_token", "done"),
        )
    },
    "resent": pl.UInt8,
    "reserved_tokens": pl.UInt32,
    "estimated_prompt_tokens": pl.UInt32,
    "prompt_tokens": pl.UInt32,
    "completion_tokens": pl.UInt32,
    "usage_source": pl.Enum(["server", "estimated"]),
    "chunks": pl.UInt32,
    "bytes_in": pl.UInt32,
    "bytes_out": pl.UInt32,
    "retry_after_ms": pl.UInt32,
    "finish_reason": pl.String,
    "session": pl.UInt64,
}
CHUNKS_SCHEMA: dict[str, Any] = {"seq": pl.UInt64, "attempt": pl.UInt8, "gap_us": pl.UInt32}

Row = tuple[Any, ...]
Gaps = tuple[int, int, Sequence[int]]  # seq, attempt, the gaps of one stream in us


def samples_frame(rows: Sequence[Row]) -> pl.DataFrame:
    """Rows in the order of COLUMNS as a frame of the record's schema."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in COLUMNS)
    return pl.DataFrame(
        [
            pl.Series(name, values, dtype=dtype)
            for (name, dtype), values in zip(SAMPLES_SCHEMA.items(), columns, strict=True)
        ]
    )


def chunks_frame(gaps: Iterable[Gaps]) -> pl.DataFrame:
    """One row a gap, in order within each stream."""
    seqs: list[int] = []
    attempts: list[int] = []
    gap_us: list[int] = []
    for seq, attempt, stream in gaps:
        seqs += [seq] * len(stream)
        attempts += [attempt] * len(stream)
        gap_us += stream
    return pl.DataFrame({"seq": seqs, "attempt": attempts, "gap_us": gap_us}, schema=CHUNKS_SCHEMA)


@dataclass(slots=True)
class WorkerHealth:
    """What a load process measured of itself from the end of the warm-up until the last arrival.

    Only its longest standstill, garbage and what was in flight are looked at until the last answer.
    """

    seconds: float = 0.0
    cpu_share: float | None = None  # of one core
    busiest_cpu_share: float | None = None  # in any second
    without_core_share: float | None = None  # of the time: it had work, and other programs had its core
    hub_late_p99_ms: float | None = None  # how late the hub comes to events that come evenly over time
    hub_late_max_ms: float | None = None
    collections: int = 0  # of garbage
    longest_collection_ms: float = 0.0
    clock_step_ms: float = 0.0  # the largest jump of the time of day against the monotonic clock
    most_in_flight: int = 0
    host: str | None = None  # of a run of several workers: where it ran, as which process
    pid: int | None = None
    offset_ns: int | None = None  # what the master's clock showed more than its own, as it was corrected
    uncertainty_ns: int | None = None  # half the round trip by which that was measured; 0 on the master's own host


class Manifest(BaseModel):
    """What a run was asked to do, on what, and how it ended."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    run_id: str
    state: str = "running"  # running | complete | interrupted
    reason: str | None = None  # of an interruption
    config: dict[str, Any]
    seed: int
    estimator: str | None = None  # the rule that prompts were counted by before they were sent
    deployment: dict[str, Any] = {}  # what GET /info said, of several targets the first's
    deployments: dict[str, dict[str, Any]] = {}  # of each of several, by its name
    prices: dict[str, dict[str, float]] = {}  # by target, as Price: what the budget is kept at
    budget: dict[str, dict[str, float]] = {}  # by resource: used and limit
    versions: dict[str, str] = {}
    host: dict[str, Any] = {}
    workers: list[WorkerHealth] = []
    degraded: list[str] = []  # what the run went on without
    started_utc: str
    clock: str = "CLOCK_MONOTONIC"
    monotonic_start_ns: int | None = None
    totals: dict[str, int] = {}
    files: dict[str, dict[str, Any]] = {}

    def write(self, folder: Path) -> None:
        publish_bytes(folder / "manifest.json", self.model_dump_json(indent=2).encode())

    def deployment_of(self, target: str | None) -> dict[str, Any]:
        """What a target said of itself; the only one has no name."""
        return self.deployment if target is None else self.deployments.get(target, self.deployment)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises RunFolderError where there is none, or one of another format."""
        path = folder / "manifest.json"
        try:
            raw = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise RunFolderError(f"{folder} is not a run folder: it has no manifest.json") from None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path} cannot be read: {error}") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            found = raw.get("format") if isinstance(raw, dict) else None
            raise RunFolderError(f"{path} has format {found!r}; this version of Headroom reads format {FORMAT}")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise RunFolderError(f"{path} is damaged: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from None


class Recorder:
    """Writes one worker's part of the record: small complete files, each published by an atomic rename."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._parts, self._worker = folder / "parts", worker
        self._rows: list[Row] = []
        self._gaps: list[Gaps] = []
        self._published = 0

    def add(self, rows: Iterable[Row], gaps: Iterable[Gaps]) -> None:
        self._rows += rows
        self._gaps += gaps

    def publish(self) -> None:
        """Make all rows added so far durable."""
        if not self._rows:
            return
        self._published += 1
        stem = f"{self._worker:05d}-{self._published:06d}.parquet"
        if self._gaps:
            publish_frame(self._parts / f"chunks-{stem}", chunks_frame(self._gaps))
        publish_frame(self._parts / f"samples-{stem}", samples_frame(self._rows))
        self._rows, self._gaps = [], []


class Run:
    """A run folder, opened for reading."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Raises RunFolderError for a folder that holds no run or one of another format version."""
        return cls(folder, Manifest.read(folder))

    @property
    def samples(self) -> pl.LazyFrame:
        """Columns: SAMPLES_SCHEMA; sorted by seq and attempt once the run has finished."""
        return self._scan("samples", SAMPLES_SCHEMA)

    @property
    def chunks(self) -> pl.LazyFrame:
        """Columns: CHUNKS_SCHEMA; the gaps of a stream stand in order."""
        return self._scan("chunks", CHUNKS_SCHEMA)

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What the generator noticed while it ran; a last line torn by a crash is passed over."""
        notes = []
        path = self.folder / "notes.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                notes.append(json.loads(line))
            except ValueError:
                break
        return notes

    def _scan(self, name: str, schema: Mapping[str, Any]) -> pl.LazyFrame:
        whole = self.folder / f"{name}.parquet"
        files = [whole] if whole.exists() else sorted((self.folder / "parts").glob(f"{name}-*.parquet"))
        if not files and whole.name in self.manifest.files:
            raise RunFolderError(f"{whole} is not there, which the run ended with: copy the folder whole")
        if not files:
            return pl.LazyFrame(schema=schema)
        # A record of an earlier version lacks the columns that have come since: they are null.
        return pl.scan_parquet(files, glob=False, schema=schema, missing_columns="insert")


def create(folder: Path, manifest: Manifest) -> None:
    """Make the run folder. Raises RunFolderError if it exists already or cannot be written: nothing is overwritten."""
    try:
        folder.mkdir(parents=True)
        (folder / "parts").mkdir()
        (folder / "notes.jsonl").touch()
        manifest.write(folder)
    except FileExistsError:
        raise RunFolderError(f"{folder} exists already; a run never overwrites another: choose a new --out") from None
    except OSError as error:
        raise RunFolderError(f"cannot write the run folder {folder}: {error.strerror}; choose another --out") from None


def finish(
    folder: Path,
    *,
    state: str,
    reason: str | None = None,
    planned: int | None = None,
    workers: Sequence[WorkerHealth] = (),
    degraded: Sequence[str] = (),
    budget: Mapping[str, Mapping[str, float]] | None = None,
) -> Manifest:
    """Turn the parts into whole files, count them, and say in the manifest how the run ended.

    Each step leaves either the old files or the new ones, so a crash here loses nothing and `finish` can run again.
    """
    run = Run.open(folder)
    _publish_sorted(folder / "samples.parquet", run.samples)
    _publish_sorted(folder / "chunks.parquet", run.chunks)
    totals = count_totals(run.samples)
    if planned is not None:
        totals["planned"] = planned  # the generator's own count, for every later reader to hold the rows against
    files = {}
    written = (folder / f"{name}.parquet" for name in ("samples", "chunks", "schedule"))
    for path in filter(Path.exists, written):  # a closed loop has no schedule
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
        files[path.name] = {"rows": rows, "sha256": digest}
    ended: dict[str, Any] = {"state": state, "reason": reason, "totals": totals, "files": files}
    ended |= {"workers": list(workers), "degraded": list(degraded)}
    ended |= {"budget": {name: dict(use) for name, use in (budget or {}).items()}}
    manifest = run.manifest.model_copy(update=ended)
    manifest.write(folder)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    return manifest


def _publish_sorted(path: Path, rows: pl.LazyFrame) -> None:
    """By seq and attempt, else in the order they have; slice by slice, so that memory does not grow with the record."""
    slices = path.parent / "parts" / path.stem
    slices.mkdir(exist_ok=True, parents=True)
    last: int = rows.select(pl.col("seq").max()).collect().item() or 0
    sorted_slices = []
    for first in range(0, last + 1, SLICE):
        part = rows.filter(pl.col("seq").is_between(first, first + SLICE - 1))
        sorted_slices.append(slices / f"{first:012d}.parquet")
        publish_lazy(sorted_slices[-1], part.sort("seq", "attempt", maintain_order=True))
    publish_lazy(path, pl.scan_parquet(sorted_slices, glob=False))


def count_totals(samples: pl.LazyFrame) -> dict[str, int]:
    """Arrivals (planned, sent, dropped), attempts, and outcomes, counted from the rows."""
    counts = dict(samples.group_by("outcome").agg(pl.len()).collect(engine="streaming").iter_rows())
    dropped, (seq, attempt) = pl.col("outcome") == Outcome.DROPPED, map(pl.col, ("seq", "attempt"))
    rows = samples.select(
        planned=seq.ne_missing(seq.shift(1)).sum(),
        sent=((attempt == 0) & ~dropped).sum(),
        attempts=(~dropped).sum(),
        distinct=pl.len(),
        in_order=((seq > seq.shift(1)) | ((seq == seq.shift(1)) & (attempt > attempt.shift(1)))).all(),
    )
    totals = rows.collect(engine="streaming").row(0, named=True)
    if not totals.pop("in_order"):  # the parts of a run that has not ended
        unique = samples.select(planned=seq.n_unique(), distinct=pl.struct("seq", "attempt").n_unique()).collect()
        totals |= unique.row(0, named=True)
    return {**totals, **{outcome.value: counts.get(outcome, 0) for outcome in Outcome}}


def last_done_ns(samples: pl.LazyFrame) -> int | None:
    """When the last attempt that is in the record ended; None where none has."""
    return samples.select(pl.col("done_ns").max()).collect().item()  # type: ignore[no-any-return]


def check_ledger(totals: Mapping[str, int], planned: int | None = None) -> None:
    """planned = sent + dropped, attempts = the sum of their outcomes, and no row is lost or doubled.

    `planned` is the load generator's own count of the arrivals that came due. Raises RunFolderError.
    """
    outcomes = sum(totals[outcome] for outcome in Outcome if outcome is not Outcome.DROPPED)
    rows = totals["attempts"] + totals["dropped"]
    if (
        totals["planned"] != totals["sent"] + totals["dropped"]
        or totals["attempts"] != outcomes
        or totals["distinct"] != rows
        or (planned is not None and planned != totals["planned"])
    ):
        raise RunFolderError(
            f"the ledger does not add up: {planned if planned is not None else totals['planned']} arrivals came due, "
            f"the record holds {totals['planned']} ({totals['sent']} sent, {totals['dropped']} dropped) in {rows} "
            f"rows, {totals['distinct']} of them distinct, with {outcomes} outcomes"
        )
