"""A pytest fixture for those who gate inside pytest: `headroom_run` plays a load test and fails where its gate does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from planner.checks import Check

MOST_WORDS = 4_000  # of what the run says, in a failure
OWN = {  # flags that are not a test's to give
    "out": "each run has a folder of its own, the returned `folder`",
    "json": "what it would write is returned: `verdict`, `checks`",
    "quiet": "what a run prints is shown where it fails",
    "check": "nothing would be played; `headroom run --check` validates a file",
    "repeat": "the fixture plays one run; call it so many times, or use `headroom run --repeat`",
}
MOST_S = 6 * 3600.0  # no run that gates a test lasts as long


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a run ended."""

    exit_code: int
    verdict: str  # pass, fail, inconclusive, skipped (no thresholds) or invalid
    headline: str
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    summary: Mapping[str, Any]  # summary.json
    folder: Path


@pytest.fixture
def headroom_run(tmp_path: Path) -> Callable[..., Verdict]:
    """`headroom_run("loadtest.toml", rate="5/s", slo=["ttft.p95<1s"])`: flags of `headroom run` as keyword arguments.

    True is a switch, a list is a repeated flag. The run takes place in a process of its own. The test fails unless the
    exit code is 0; with `gate=False` only where there is no run to judge. Raises ValueError for flags in OWN.
    """
    played = 0

    def run(file: str | Path | None = None, *, gate: bool = True, **flags: Any) -> Verdict:
        nonlocal played
        _check(flags)
        played += 1
        folder, verdict = tmp_path / f"headroom-{played}", tmp_path / f"headroom-{played}.json"
        command = [sys.executable, "-m", "headroom", "run", *([] if file is None else [str(file)])]
        command += [*_arguments(flags), "--quiet", "--out", str(folder), "--json", str(verdict)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOST_S)
        if not verdict.exists():
            pytest.fail(
                f"headroom run ended with {done.returncode}: {done.stderr[-MOST_WORDS:].strip()}", pytrace=False
            )
        found = _read(folder, verdict)
        if gate and found.exit_code:
            pytest.fail(_told(found), pytrace=False)
        return found

    return run


def _check(flags: Mapping[str, Any]) -> None:
    for name in flags:
        if name.rstrip("_") in OWN:
            raise ValueError(f"headroom_run({name}=...): {OWN[name.rstrip('_')]}")


def _arguments(flags: Mapping[str, Any]) -> list[str]:
    arguments: list[str] = []
    for name, value in flags.items():
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            for each in several:
                arguments += [flag, str(each)]
    return arguments


def _read(folder: Path, verdict: Path) -> Verdict:
    gate = json.loads(verdict.read_bytes())
    (judgement,) = gate["judgements"]
    return Verdict(
        exit_code=gate["exit_code"],
        verdict=gate["verdict"],
        headline=judgement["headline"],
        reasons=tuple(judgement["reasons"]),
        checks=tuple(Check(**check) for check in judgement["checks"]),
        summary=json.loads((folder / "summary.json").read_bytes()),
        folder=folder,
    )


def _told(found: Verdict) -> str:
    lines = [f"headroom run: {found.verdict} (exit code {found.exit_code}): {found.headline}", *found.reasons]
    lines += [f"{check.verdict}  {check.name}: {check.message}" for check in found.checks if check.verdict != "pass"]
    return "\n".join([*lines, f"record: {found.folder}"])
