"""The run folders that the service shows: listed, found by name, and nothing outside them."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from headroom.service.refusals import Refusal
from headroom.targets import SIMULATED_KEY
from loadgen.errors import HeadroomError
from loadgen.samples import Manifest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # a run's, as a path has it: no slash, no dot in front
DAMAGED = (AttributeError, IndexError, KeyError, TypeError)  # of what is another shape than we write
FILES = {"summary": "summary.json", "report": "report.html", "samples": "samples.parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """A run folder in a line of a table. What the summary says is None before there is one."""

    id: str  # the folder's name
    state: str  # running | complete | interrupted
    started_utc: str
    target: str
    model: str
    scenarios: tuple[str, ...]
    valid: bool | None
    headline: str | None
    requests_per_s: float | None  # offered, of the steady phase
    ok_share: float | None  # of the attempts
    ttft_p95_ms: float | None
    itl_p95_ms: float | None
    response_time_p95_ms: float | None
    headroom: float | None  # how many times this load fits the quota
    monthly_usd: float | None  # serverless
    has_report: bool
    tags: tuple[str, ...]


class Shelf:
    """The run folders right below a folder, each read anew only where it has changed."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._known: dict[str, tuple[tuple[int, ...], RunEntry]] = {}

    def entries(self, tags: Mapping[str, Sequence[str]]) -> list[RunEntry]:
        """All runs, the newest first; `tags`: of each run's name. What is no run, or is damaged, is passed over."""
        found = [self._entry(path) for path in self.runs.iterdir() if NAME.fullmatch(path.name)]
        tagged = [replace(each, tags=tuple(tags.get(each.id, ()))) for each in found if each is not None]
        return sorted(tagged, key=lambda each: (each.started_utc, each.id), reverse=True)

    def entry(self, run_id: str, tags: Mapping[str, Sequence[str]]) -> RunEntry:
        """Raises Refusal (404)."""
        entry = self._entry(self.folder(run_id))
        if entry is None:
            raise Refusal(404, "this run cannot be read", where="id")
        return replace(entry, tags=tuple(tags.get(run_id, ())))

    def folder(self, run_id: str) -> Path:
        """Of a run: right below the runs, and no link out of them. Raises Refusal (404)."""
        path = self.runs / run_id
        if not NAME.fullmatch(run_id) or path.is_symlink() or not _is_regular(path / "manifest.json"):
            raise Refusal(404, f"there is no run {run_id[:100]!r}", where="id")
        return path

    def file(self, run_id: str, name: str) -> Path:
        """One of FILES of a run. Raises Refusal (404) where it is not there yet, or is a link."""
        path = self.folder(run_id) / FILES[name]
        if not _is_regular(path):
            raise Refusal(404, f"this run has no {name}: it has not ended, or was made without", where="id")
        return path

    def summary(self, run_id: str) -> dict[str, Any]:
        """summary.json, a planner.plan.Plan. Raises Refusal (404)."""
        try:
            summary = orjson.loads(self.file(run_id, "summary").read_bytes())
            _figures_of(summary)
        except (ValueError, *DAMAGED):
            raise Refusal(404, "this run's summary is damaged", where="id") from None
        return dict(summary)

    def _entry(self, folder: Path) -> RunEntry | None:
        marks = tuple(_changed_ns(folder / name) for name in ("manifest.json", "summary.json", "report.html"))
        if folder.is_symlink() or not _is_regular(folder / "manifest.json"):
            return None
        known = self._known.get(folder.name)
        if known is None or known[0] != marks:
            try:
                known = marks, self._read(folder)
            except (HeadroomError, OSError, ValueError, *DAMAGED):
                return None
            self._known[folder.name] = known
        return known[1]

    def _read(self, folder: Path) -> RunEntry:
        manifest = Manifest.read(folder)
        try:
            summary = self.summary(folder.name)
        except Refusal:
            summary = {}
        return RunEntry(
            id=folder.name,
            state=manifest.state,
            started_utc=manifest.started_utc,
            target=_target_of(manifest),
            scenarios=tuple(map(str, manifest.config.get("scenarios", ()))),
            has_report=_is_regular(folder / FILES["report"]),
            tags=(),
            **_figures_of(summary)
            | {"model": summary.get("model") or str(manifest.deployment.get("model_name") or "")},
        )


def _figures_of(summary: dict[str, Any]) -> dict[str, Any]:
    """What a table shows of a summary; of none, None. Raises one of DAMAGED for what no run of ours has written."""
    traffic, quota = summary.get("traffic") or {}, summary.get("quota") or {}
    p95_ms = {row["metric"]: row["p95"]["value_ms"] for row in summary.get("latency", ()) if row["scenario"] == "all"}
    sent = traffic.get("attempts")
    numbers = {
        "requests_per_s": traffic.get("requests_per_s"),
        "ok_share": traffic["outcomes"]["ok"] / sent if sent else None,
        "ttft_p95_ms": p95_ms.get("ttft"),
        "itl_p95_ms": p95_ms.get("itl"),
        "response_time_p95_ms": p95_ms.get("response_time"),
        "headroom": quota.get("headroom"),
        "monthly_usd": (summary.get("serverless") or {}).get("per_month_usd"),
    }
    texts = {"model": summary.get("model"), "headline": summary.get("headline")}
    valid = summary["validity"]["valid"] if summary else None
    right = all(each is None or isinstance(each, int | float) for each in (*numbers.values(), valid))
    if not right or not all(each is None or isinstance(each, str) for each in texts.values()):
        raise TypeError("a figure is none")
    return numbers | texts | {"valid": valid}


def _target_of(manifest: Manifest) -> str:
    targets = manifest.config.get("target") or {}
    several = targets if isinstance(targets, list) else [targets]
    return ", ".join(str(each.get("name") or _place_of(each)) for each in several)


def _place_of(target: Mapping[str, Any]) -> str:
    """Of the simulated deployment no port of this machine, which the run before it had too, perhaps."""
    return "simulated" if target.get("key") == f"env:{SIMULATED_KEY}" else target.get("url") or "simulated"


def _is_regular(path: Path) -> bool:
    """A file, and neither a link nor a pipe, which would be waited for."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
