"""Gates: a run's thresholds judged, told to whoever reads them in CI, and turned into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from dashboards import ci
from dashboards.readable import readable
from headroom import run_sets
from headroom.commands.app import INCONCLUSIVE, INVALID, MISSED
from loadgen.config import RunConfig
from loadgen.damage import naming_damage
from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, RunFolderError
from loadgen.samples import Run
from loadgen.slo import Threshold
from planner.assemble import plan_run
from planner.plan import Plan
from planner.rows import config_of
from planner.thresholds import FORMAT, Gate, Judgement, Ruling, headline_of, judge, not_judged, overall, settled

EXIT_CODES = {"pass": 0, "skipped": 0, "inconclusive": INCONCLUSIVE, "fail": MISSED, "invalid": INVALID}
WORST_FIRST = ("fail", "invalid", "inconclusive", "pass", "skipped")
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where a verdict goes, beside the terminal."""

    junit: Path | None = None
    markdown: Path | None = None
    github: bool = False
    json: str | None = None  # a file, or - for standard output

    @classmethod
    def of(cls, flags: Mapping[str, object]) -> Outputs:
        """From a command's parameters. Raises ConfigError for a file that cannot be written, before any load."""
        outputs = cls(
            junit=_path(flags.get("junit")),
            markdown=_path(flags.get("markdown")),
            github=bool(flags.get("github")),
            json=None if flags.get("json_") is None else str(flags["json_"]),
        )
        for flag, path in (("--junit", outputs.junit), ("--markdown", outputs.markdown), ("--json", outputs.json_file)):
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise ConfigError(f"{flag} {path}: cannot be written there: name a file in a folder that exists")
        return outputs

    @property
    def json_file(self) -> Path | None:
        return None if self.json in (None, "-") else Path(str(self.json))

    @property
    def to_stdout(self) -> bool:
        """Whether standard output belongs to the JSON alone."""
        return self.json == "-"


def _path(given: object) -> Path | None:
    return given if isinstance(given, Path) else None


def judgement_of(
    run: Run, plan: Plan, thresholds: Sequence[Threshold], *, ended: str | None = None, strict: bool = False
) -> Judgement:
    """A run's. `ended`: why it ended before its time. Validity comes first: an invalid run is not judged."""
    reasons = () if ended is None else (ended,)
    if not plan.validity.valid:
        checks = not_judged(thresholds, "the run is INVALID")
        reasons = tuple(dict.fromkeys((*reasons, *plan.validity.reasons)))
        verdict: Ruling = "invalid"
    else:
        checks = judge(run, thresholds, strict=strict)
        verdict = overall(checks)
    return Judgement(
        subject=str(run.folder),
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        headline=headline_of(plan, checks),
        reasons=reasons,
        checks=checks,
    )


def gate_of(judgements: Sequence[Judgement]) -> Gate:
    """The worst verdict of all, with its exit code. A miss beats what could not be judged, and that what is unclear."""
    worst = min(judgements, key=lambda each: WORST_FIRST.index(each.verdict))
    return Gate(format=FORMAT, verdict=worst.verdict, exit_code=worst.exit_code, judgements=tuple(judgements))


def say_not_judged(config: RunConfig) -> None:
    """Before runs that are compared: their thresholds are for another command."""
    if config.thresholds:
        texts = ", ".join(readable(threshold.text) for threshold in config.thresholds)
        sys.stderr.write(f"headroom: a comparison judges no thresholds ({texts}): `headroom check` does, of each arm\n")


def cut_short(folder: Path, reason: str, code: int) -> Judgement:
    """Of runs that were to be played alike, some of which were not. `code`: that of the early end."""
    return Judgement(
        subject=str(folder),
        verdict="fail" if code == MISSED else "inconclusive",
        exit_code=code,
        headline="not all of the runs were played",
        reasons=(reason,),
        checks=(),
    )


def tell(gate: Gate, outputs: Outputs, *, quiet: bool, told: Sequence[str] = ()) -> None:
    """The verdict on the terminal, and wherever else it is wanted. Raises RunFolderError.

    `told` are reasons that stand on the terminal already.
    """
    if outputs.to_stdout:
        sys.stdout.buffer.write(ci.to_json(gate))
        sys.stdout.flush()
    elif not quiet and any(judgement.checks for judgement in gate.judgements):
        sys.stdout.write("\n".join(["", *ci.plain(_without(gate, told))]) + "\n")
    write(gate, outputs, ci.to_json(gate), log=sys.stderr if outputs.to_stdout else sys.stdout)


def _without(gate: Gate, reasons: Sequence[str]) -> Gate:
    kept = (
        replace(each, reasons=tuple(reason for reason in each.reasons if reason not in reasons))
        for each in gate.judgements
    )
    return replace(gate, judgements=tuple(kept))


def write(gate: Gate, outputs: Outputs, document: bytes, *, log: TextIO) -> None:
    """The verdict wherever it is wanted beside the terminal; `document` is it as JSON.

    What cannot be written is told, and takes no verdict's place: it raises RunFolderError where that is 0.
    """
    written = (
        (outputs.junit, ci.junit(gate)),
        (outputs.markdown, ci.markdown(gate, ci.MOST_COMMENT_BYTES).encode()),
        (outputs.json_file, document),
    )
    failures = []
    for path, content in written:
        if path is not None:
            try:
                publish_bytes(path, content)
            except OSError as error:
                failures.append(f"cannot write {path}: {error.strerror}")
    if outputs.github:
        failures += _tell_github(gate, log)
    if failures and not gate.exit_code:
        raise RunFolderError("\n".join(failures))
    sys.stderr.write("".join(f"headroom: {readable(failure)}\n" for failure in failures))


def _tell_github(gate: Gate, log: TextIO) -> list[str]:
    """Annotations into the job's log, and the summary where the runner says that it wants it. Returns what failed."""
    log.write("".join(f"{line}\n" for line in ci.commands(gate)))
    summary = os.environ.get(STEP_SUMMARY)
    if not summary:
        return []
    try:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(ci.markdown(gate, ci.MOST_SUMMARY_BYTES - Path(summary).stat().st_size))
    except OSError as error:
        return [f"cannot write {summary} ({STEP_SUMMARY}): {error.strerror}"]
    return []


def check(folders: Sequence[Path], texts: Sequence[str] | None, outputs: Outputs, *, strict: bool, quiet: bool) -> int:
    """Judge runs that have ended. Returns the exit code. Raises ConfigError and RunFolderError."""
    judgements = []
    for folder in (run for each in folders for run in _runs_of(each)):
        with naming_damage(folder):
            run = Run.open(folder)
            thresholds = settled(run, texts)
            if not thresholds:
                raise ConfigError(f"{folder} was made without thresholds: give --slo, like --slo 'ttft.p95<1s'")
            plan = plan_run(run, slos=[each.slo for each in thresholds if each.slo is not None])
            judgements.append(judgement_of(run, plan, thresholds, ended=run.manifest.reason, strict=strict))
    gate = gate_of(judgements)
    tell(gate, outputs, quiet=quiet)
    return gate.exit_code


def _runs_of(folder: Path) -> list[Path]:
    """Itself, or the runs of a set. Raises RunFolderError for a set that has none."""
    if not run_sets.is_set(folder):
        return [folder]
    names = run_sets.read(folder).runs
    if not names:
        raise RunFolderError(f"{folder} is a set of runs, and none of them has ended")
    return [folder / name for name in names]


def conclude(folder: Path, plan: Plan, outputs: Outputs, *, ended: str | None, code: int | None, quiet: bool) -> int:
    """Judge a run that has just ended. `code`: that of its early end, which stands. Returns the exit code."""
    run = Run.open(folder)
    judgement = judgement_of(run, plan, config_of(run).thresholds, ended=ended)
    if code is not None:
        judgement = replace(judgement, verdict="fail" if code == MISSED else judgement.verdict, exit_code=code)
    tell(gate_of([judgement]), outputs, quiet=quiet, told=plan.validity.reasons)
    return judgement.exit_code
