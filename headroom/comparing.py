"""Comparisons: runs, sets of runs and baselines found by what a user calls them, compared, and the verdict told."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from dashboards.comparison import print_baseline, print_baselines, print_comparison, print_history
from dashboards.comparison_report import write_comparison
from dashboards.readable import readable
from headroom import gating, run_sets
from headroom.commands.app import INCONCLUSIVE, REGRESSED
from headroom.gating import Outputs
from headroom.run_sets import RunSet
from loadgen.damage import naming_damage
from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, HeadroomError, RunFolderError
from loadgen.samples import Run
from planner.compare import FORMAT, checks_of, compare
from planner.comparing import baseline
from planner.comparing.comparison import Comparison
from planner.comparing.figures import Test
from planner.comparing.history import History, history_of
from planner.comparing.run_facts import RunFacts, facts_of
from planner.comparing.sessions import instant_of
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import Verdict
from planner.thresholds import Gate, Judgement, Ruling

RULINGS: dict[Verdict, Ruling] = {Verdict.REGRESSED: "fail", Verdict.INCONCLUSIVE: "inconclusive"}
JSON_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
EXIT_CODES = {Verdict.REGRESSED: REGRESSED, Verdict.INCONCLUSIVE: INCONCLUSIVE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is compared, and how."""

    tolerances: tuple[Tolerance, ...]  # empty: those that the runs allow
    test: Test
    baselines: Path  # the folder of named ones

    @classmethod
    def parse(cls, fail_on: Sequence[str] | None, test: str, baselines: Path) -> Terms:
        """From the flags. Raises ConfigError that names one."""
        if test not in list(Test):
            raise ConfigError(f"--test {test}: there are {' and '.join(Test)}")
        tolerances = tuple(Tolerance.parse(text) for text in fail_on or ())
        twice = {each.name for each in tolerances if [other.name for other in tolerances].count(each.name) > 1}
        if twice:
            raise ConfigError(f"--fail-on names {', '.join(sorted(twice))} twice")
        return cls(tolerances=tolerances, test=Test(test), baselines=baselines)

    @property
    def percentiles(self) -> tuple[float, ...]:
        return tuple(each.percentile for each in self.tolerances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A comparison, and the one that should have confirmed it, where there was one."""

    comparison: Comparison
    subject: str  # what was compared with what, by the names it was asked for
    first: Comparison | None = None

    @property
    def code(self) -> int:
        return EXIT_CODES.get(self.comparison.verdict, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What `--json` writes where there was nothing to compare."""

    format: int
    verdict: str  # invalid
    headline: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Side:
    runs: tuple[RunFacts, ...]
    set: RunSet | None = None


def compared(base: Path, new: Path, terms: Terms, *, confirming: Found | None = None) -> Found:
    """Compare what two paths name. Raises HeadroomError.

    `confirming` is a comparison that found a regression: where this one does not, there is no verdict.
    """
    left, right = _side(base, terms), _side(new, terms)
    pairs = run_sets.paired(left.set, right.set)
    found = compare(left.runs, right.runs, tolerances=terms.tolerances, test=terms.test, pairs=pairs)
    subject = f"{new} against {base}"
    if confirming is None or found.verdict is Verdict.REGRESSED:
        return Found(comparison=found, subject=subject, first=None if confirming is None else confirming.comparison)
    reason = f"{confirming.comparison.reason}; but fresh runs did not show it again: {found.reason}"
    unconfirmed = replace(
        found, verdict=Verdict.INCONCLUSIVE, reason=reason, headline=f"INCONCLUSIVE, not confirmed: {reason}"
    )
    return Found(comparison=unconfirmed, subject=subject, first=confirming.comparison)


def _check_fresh(runs: Sequence[RunFacts], seen: Sequence[RunFacts], where: Path) -> None:
    """Raises RunFolderError: what rang the alarm cannot confirm it."""
    known = {run.run_id for run in seen}
    again = next((run for run in runs if run.run_id in known), None)
    if again is not None:
        raise RunFolderError(f"--confirm takes fresh runs, and {again.name} is in {where} too: it would confirm itself")


def verdict(base: Path, new: Path, terms: Terms, *, confirm: Path | None, outputs: Outputs, quiet: bool) -> int:
    """Compare, tell, and return the exit code. A regression counts only if the runs of `confirm` show it too."""
    with refusing(f"{new} against {base}", outputs):
        found = compared(base, new, terms)
        if confirm is not None:
            _check_fresh(_side(confirm, terms).runs, _side(new, terms).runs, new)
            if found.code == REGRESSED:
                found = compared(base, confirm, terms, confirming=found)
    tell(found, outputs, quiet=quiet)
    return found.code


def report(base: Path, new: Path, out: Path, terms: Terms) -> None:
    """Write the page that shows two sides beside one another. Raises HeadroomError."""
    found = compared(base, new, terms)
    sides = {"base": _runs(base), "new": _runs(new)}
    try:
        write_comparison(found.comparison, sides, out, subject=found.subject)
    except OSError as error:
        raise RunFolderError(f"cannot write the report {out}: {error.strerror}") from None
    sys.stdout.write(f"{out}\n")


def _runs(path: Path) -> list[Run]:
    """Those with a record of their own, of which a baseline has none."""
    if (path / "manifest.json").is_file():
        return [Run.open(path)]
    if run_sets.is_set(path):
        return [Run.open(path / name) for name in run_sets.read(path).runs]
    return [Run.open(manifest.parent) for manifest in sorted(path.glob("*/manifest.json"))]


@contextmanager
def refusing(subject: str, outputs: Outputs) -> Iterator[None]:
    """What cannot be compared is told wherever a verdict is awaited: what was there before is of another comparison."""
    try:
        yield
    except HeadroomError as error:
        tell_invalid(subject, str(error), error.exit_code, outputs)
        raise


def tell_invalid(subject: str, reason: str, code: int, outputs: Outputs) -> None:
    """That there was nothing to compare, for the files and GitHub; the terminal has it from the error."""
    headline = f"INVALID: {reason}"
    document = _json_of(Refusal(format=FORMAT, verdict="invalid", headline=headline, reason=reason))
    if outputs.to_stdout:
        _print(document)
    judgement = Judgement(
        subject=subject, verdict="invalid", exit_code=code, headline=headline, reasons=(reason,), checks=()
    )
    gating.write(gating.gate_of([judgement]), outputs, document, log=sys.stderr)


def tell(found: Found, outputs: Outputs, *, quiet: bool) -> None:
    """Where standard output is JSON's, or nobody's, annotations go to standard error: a runner reads both."""
    document = _json_of(found.comparison)
    if outputs.to_stdout:
        _print(document)
    elif not quiet:
        print_comparison(found.comparison, Console(), subject=found.subject, first=found.first)
        sys.stdout.flush()
    gating.write(gate_of(found), outputs, document, log=sys.stderr if quiet or outputs.to_stdout else sys.stdout)


def _json_of(document: object) -> bytes:
    """With every text readable: names are other people's words."""
    return orjson.dumps(_inert(orjson.loads(orjson.dumps(document))), option=JSON_OPTIONS)


def _inert(value: Any) -> Any:
    match value:
        case str():
            return readable(value)
        case list():
            return [_inert(each) for each in value]
        case dict():
            return {readable(key): _inert(each) for key, each in value.items()}
    return value


def _print(document: bytes) -> None:
    sys.stdout.buffer.write(document)
    sys.stdout.flush()


def gate_of(found: Found) -> Gate:
    """For JUnit, Markdown and GitHub: one judgement, of the new runs against the base's."""
    comparison = found.comparison
    first = () if found.first is None else (f"the first comparison: {found.first.headline}",)
    return gating.gate_of(
        [
            Judgement(
                subject=found.subject,
                verdict=RULINGS.get(comparison.verdict, "pass"),
                exit_code=found.code,
                headline=comparison.headline,
                reasons=(*first, *comparison.doubts),
                checks=checks_of(comparison),
            )
        ]
    )


def _side(path: Path, terms: Terms) -> _Side:
    """The runs that a path names. Raises RunFolderError where it names none."""
    if path.is_file():
        return _Side(baseline.read(path).runs)
    if not path.exists():
        if len(path.parts) == 1 and baseline.is_name(path.name):
            named = baseline.place_of(path.name, terms.baselines)
            if named.is_file():
                return _Side(baseline.read(named).runs)
        raise RunFolderError(f"{path} is neither a run, nor a set of runs, nor a baseline in {terms.baselines}")
    if (path / "manifest.json").is_file():
        return _Side((_facts(path, terms),))
    if run_sets.is_set(path):
        return _of_set(path, terms)
    runs = sorted(each.parent for each in path.glob("*/manifest.json"))
    if not runs:
        raise RunFolderError(f"{path} holds no run")
    return _Side(tuple(_facts(run, terms) for run in runs))


def _of_set(path: Path, terms: Terms) -> _Side:
    found = run_sets.read(path)
    if found.state != "complete":
        why = f" ({found.reason})" if found.reason else ""
        raise RunFolderError(
            f"the set {path} is not complete: {len(found.runs)} of {found.asked} runs{why}; name its runs alone, or "
            "play it again"
        )
    return _Side(tuple(_facts(path / name, terms) for name in found.runs), found)


def _facts(folder: Path, terms: Terms) -> RunFacts:
    with naming_damage(folder):
        return facts_of(Run.open(folder), terms.percentiles)


def history(paths: Sequence[Path], terms: Terms, *, since: str | None, outputs: Outputs, quiet: bool) -> int:
    """Change points over what the paths name, each of them a point; the folders within one that is no set each too.

    A point that cannot be read is passed over and named; a slowdown before `since` ends no build.
    """
    points, skipped = [], []
    for path in _points(paths):
        try:
            points.append(_side(path, terms).runs)
        except HeadroomError as error:
            skipped.append(f"{path}: {error}")
    found: History = history_of(points, terms.tolerances, since=_instant(since), skipped=skipped)
    document = _json_of(found)
    if outputs.to_stdout:
        _print(document)
    elif not quiet:
        print_history(found, Console())
    if outputs.json_file is not None:
        publish_bytes(outputs.json_file, document)
    return REGRESSED if terms.tolerances and found.slower_at_last else 0


def _instant(text: str | None) -> datetime | None:
    try:
        return None if text is None else instant_of(text)
    except ValueError:
        raise ConfigError(f"--since {text!r} is no day or time: write it like 2026-11-20") from None


def _points(paths: Sequence[Path]) -> list[Path]:
    points: list[Path] = []
    for path in paths:
        if not path.is_dir() or (path / "manifest.json").is_file() or run_sets.is_set(path):
            points.append(path)
            continue
        inside = [each for each in sorted(path.iterdir()) if _is_point(each)]
        if not inside:
            raise RunFolderError(f"{path} holds neither runs, nor sets, nor baselines")
        points += inside
    return points


def _is_point(path: Path) -> bool:
    return path.suffix == ".json" if path.is_file() else (path / "manifest.json").is_file() or run_sets.is_set(path)


def save(paths: Sequence[Path], name: str, folder: Path) -> None:
    """Keep what later runs are to be compared with. Raises HeadroomError."""
    terms = Terms(tolerances=(), test=Test.WELCH, baselines=folder)
    runs = [run for path in paths for run in _side(path, terms).runs]
    path = baseline.write(baseline.baseline_of(name, runs), folder)
    sys.stdout.write(f"{path}\n")


def show(name: str, folder: Path, *, as_json: bool) -> None:
    found = baseline.read(baseline.place_of(name, folder))
    if as_json:
        _print(_json_of(orjson.loads(baseline.to_json(found))))
        return
    print_baseline(found, Console())


def show_all(folder: Path) -> None:
    print_baselines(baseline.all_in(folder), Console())
