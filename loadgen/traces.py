"""Traces: arrivals and token counts that somebody recorded, in the formats in which such files are published.

A file's format is told by its content: the columns of a CSV, the keys of JSON lines, the first bytes of Parquet. A
folder is a run's, and its arrivals are those of its schedule.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from loadgen.cells import NS_PER_S, count_of, images_of, instant_ns, messages_of
from loadgen.config import LoadConfig, RunConfig
from loadgen.errors import ConfigError
from loadgen.samples import Run
from loadgen.schedule import TraceRow
from loadgen.schedule_file import FILE_NAME, ScheduleFile
from loadgen.tokens import prompt_tokens

NO_FORMAT = "{} is no trace: neither CSV, JSON lines nor Parquet, of which the first two are text in UTF-8"
BLANK = b"\xef\xbb\xbf \t\r\n"


@dataclass(frozen=True, slots=True)
class Format:
    """Where a format keeps an arrival's instant, its prompt's tokens and its completion's."""

    at: str
    prompt: str
    completion: str
    unit_ns: int = NS_PER_S  # of an instant that is a number


OWN = Format("at_s", "prompt_tokens", "completion_tokens")
AZURE = Format("TIMESTAMP", "ContextTokens", "GeneratedTokens")  # Azure/AzurePublicDataset, 2023 and 2024
BURST_GPT = Format("Timestamp", "Request tokens", "Response tokens")  # HPMLL/BurstGPT
MOONCAKE = Format("timestamp", "input_length", "output_length", unit_ns=1_000_000)  # kvcache-ai/Mooncake
FORMATS = (OWN, AZURE, BURST_GPT, MOONCAKE)

Line = tuple[str, Mapping[str, Any] | ValueError]  # its place in the file; its cells by column, or why there are none


@dataclass(frozen=True, slots=True)
class Trace:
    """Rows in order of time, and what was passed over."""

    rows: list[TraceRow]
    skipped: int = 0
    first_skipped: str = ""  # where it is, and what is wrong with it

    def note(self, path: Path) -> str | None:
        """In words that rows were passed over; None where none was."""
        if not self.skipped:
            return None
        rows = "1 bad row" if self.skipped == 1 else f"{self.skipped:,} bad rows"
        return f"{rows} of {path.name} passed over, {len(self.rows):,} good ones read; the first: {self.first_skipped}"


def read_trace(path: Path) -> list[TraceRow]:
    """All rows. Raises ConfigError naming the file and line of the first that cannot be used."""
    return open_trace(path).rows


def open_trace(path: Path, *, skip_bad_rows: bool = False, until_s: float = math.inf) -> Trace:
    """A trace file or a run folder; of a file the rows up to the first at or after `until_s`.

    Raises ConfigError where it is none, holds no rows, or a bad one.
    """
    if path.is_dir():
        return Trace(_rows_of_run(path))
    try:
        with path.open("rb") as file:
            head = file.read(4_096)
        if head.startswith(b"PAR1"):
            return _collected(path, _parquet_lines(path), until_s, skip_bad_rows=skip_bad_rows)
        if b"\0" in head:
            raise ConfigError(NO_FORMAT.format(path))
        json_lines = head.lstrip(BLANK).startswith(b"{")
        with path.open(newline="", encoding="utf-8-sig") as text:
            lines = _json_lines(text) if json_lines else _csv_lines(path, csv.reader(text))
            return _collected(path, lines, until_s, skip_bad_rows=skip_bad_rows)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise ConfigError(NO_FORMAT.format(path)) from None
    except (OSError, csv.Error, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{path} cannot be read as a trace: {str(error).splitlines()[0]}") from None


def trace_of(load: LoadConfig) -> Trace:
    """A load's trace, as far as it is played. Raises ConfigError."""
    assert load.trace is not None
    until_s = load.from_ + load.duration * load.speed
    return open_trace(load.trace, skip_bad_rows=load.skip_bad_rows, until_s=until_s)


def played_rows(trace: Trace, load: LoadConfig, mix: Mapping[str, float]) -> list[TraceRow]:
    """The rows that a load plays of its trace. Raises ConfigError for what it cannot play."""
    end_s = load.from_ + load.duration * load.speed
    played = [row for row in trace.rows if load.from_ <= row.at_s < end_s]
    _check_reaches_past_warmup(played, trace, load)
    for row in played:
        if row.scenario is not None and row.scenario not in mix:
            raise ConfigError(
                f"{load.trace}, {row.place}: the scenario {row.scenario!r} is not in the mix, which has "
                f"{', '.join(mix)}: add --scenario {row.scenario}"
            )
    return played


def _check_reaches_past_warmup(played: Sequence[TraceRow], trace: Trace, load: LoadConfig) -> None:
    if not played:
        raise ConfigError(
            f"{load.trace} has no arrival from {load.from_:g} s on: its last comes at {trace.rows[-1].at_s:g} s; "
            "give a smaller --from"
        )
    last_s = (played[-1].at_s - load.from_) / load.speed
    if last_s < load.warmup:
        raise ConfigError(
            f"{load.trace}: its last arrival within the run (of {len(played):,}) comes {last_s:g} s after the start, "
            f"and the warm-up ends after {load.warmup:g} s, so nothing would be measured: give a shorter --warmup"
        )


def _collected(path: Path, lines: Iterator[Line], until_s: float, *, skip_bad_rows: bool) -> Trace:
    rows: list[TraceRow] = []
    skipped, first_skipped = 0, ""
    form: Format | None = None
    first_ns = last_ns = 0
    for place, cells in lines:
        try:
            if isinstance(cells, ValueError):
                raise cells
            if form is None:
                form = _format_of(cells, f"{path}, {place}")
            at_ns = instant_ns(cells.get(form.at), form.at, form.unit_ns)
            if rows and at_ns < last_ns:
                raise ValueError(f"{form.at} goes back in time; sort the file by it")
            first_ns = at_ns if not rows else first_ns
            rows.append(_row(cells, form, (at_ns - first_ns) / NS_PER_S, place))
            last_ns = at_ns
            if rows[-1].at_s >= until_s:
                break
        except ValueError as error:
            if not skip_bad_rows:
                raise ConfigError(f"{path}, {place}: {error}") from None
            first_skipped = first_skipped or f"{place}: {error}"
            skipped += 1
    if not rows:
        raise ConfigError(f"{path} holds no rows" + (f" that can be used; {first_skipped}" if skipped else ""))
    return Trace(rows, skipped, first_skipped)


def _format_of(columns: Mapping[str, Any] | Sequence[str], where: str) -> Format:
    """Raises ConfigError naming the columns that there are."""
    found = ", ".join(columns) or "nothing"
    form = next((form for form in FORMATS if form.at in columns), None)
    if form is None:
        known = "; or ".join(f"{form.at}, {form.prompt}, {form.completion}" for form in FORMATS)
        raise ConfigError(
            f"{where}: no column {', '.join(form.at for form in FORMATS[:-1])} or {FORMATS[-1].at}; a trace has the "
            f"columns {known}; this file has {found}"
        )
    missing = [name for name in (form.prompt, form.completion) if name not in columns]
    if missing and not (form is OWN and "messages" in columns and missing == [form.prompt]):
        raise ConfigError(f"{where}: the column {missing[0]} is missing; it has {found}")
    return form


def _row(cells: Mapping[str, Any], form: Format, at_s: float, place: str) -> TraceRow:
    """Raises ValueError that names the column. Where messages are given, their tokens need not be."""
    completion_tokens = count_of(cells.get(form.completion), form.completion)
    if form is not OWN:
        return TraceRow(at_s, count_of(cells.get(form.prompt), form.prompt), completion_tokens, place=place)
    messages, images = messages_of(cells.get("messages")), images_of(cells.get("images"))
    stated = cells.get(form.prompt)
    if messages is not None and (stated is None or stated == ""):
        stated = prompt_tokens(messages, images or [])
    scenario = cells.get("scenario") or None
    if scenario is not None and not isinstance(scenario, str):
        raise ValueError(f"scenario is {scenario!r}, not a name")
    return TraceRow(at_s, count_of(stated, form.prompt), completion_tokens, scenario, messages, images, place=place)


def _csv_lines(path: Path, reader: Any) -> Iterator[Line]:
    names = [name.strip() for name in next(reader, [])]
    _format_of(names, f"{path}, line 1")
    for cells in reader:
        if cells:
            yield f"line {reader.line_num}", {name: cell.strip() for name, cell in zip(names, cells, strict=False)}


def _json_lines(text: Iterator[str]) -> Iterator[Line]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            yield f"line {number}", ValueError(f"is not JSON: {error}")
            continue
        yield f"line {number}", cells if isinstance(cells, dict) else ValueError("is not an object")


def _parquet_lines(path: Path) -> Iterator[Line]:
    frame = pl.read_parquet(path)
    _format_of(frame.columns, f"{path}")
    for number, cells in enumerate(frame.iter_rows(named=True), start=1):
        yield f"row {number}", cells


def _rows_of_run(folder: Path) -> list[TraceRow]:
    """The schedule of a run; where it has none, as a closed loop, the instants at which its requests were due."""
    run = Run.open(folder)
    if (folder / FILE_NAME).exists():
        arrivals = ScheduleFile(folder)
        rows = [
            TraceRow(
                each.due_ns / NS_PER_S, each.prompt_tokens, each.completion_tokens, each.scenario, each.messages,
                each.images, each.seq, each.seed, f"arrival {each.seq}",
            )
            for each in arrivals
        ]  # fmt: skip
    else:
        tokens = ("prompt_tokens", "completion_tokens")
        if RunConfig.model_validate(run.manifest.config).load.trace is None:
            stated = [pl.lit(None).alias(name) for name in tokens]  # its scenarios drew them, and will again
        else:
            stated = [pl.col(name) for name in tokens]
        began = (pl.col("attempt") == 0) & pl.col("session").is_null()  # the later turns follow from these
        sent = run.samples.filter(began).sort("due_ns", "seq")
        rows = [
            TraceRow(
                due_ns / NS_PER_S, prompt, completion, scenario,
                seq=seq, seed=run.manifest.seed, place=f"arrival {seq}",
            )
            for due_ns, scenario, seq, prompt, completion in sent.select("due_ns", "scenario", "seq", *stated)
            .collect()
            .rows()
        ]  # fmt: skip
    if not rows:
        raise ConfigError(f"{folder} holds no arrival to replay")
    return rows
