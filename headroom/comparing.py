"""Comparisons: runs, sets of runs and baselines found by what a user calls them, compared, and the verdict told."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
from rich.console import Console

from dashboards.comparison import print_baseline, print_baselines, print_comparison, print_history
from headroom import gating, run_sets
from headroom.commands.app import INCONCLUSIVE, REGRESSED
from headroom.gating import Outputs
from headroom.run_sets import RunSet
from loadgen.damage import naming_damage
from loadgen.errors import ConfigError, RunFolderError
from loadgen.samples import Run
from planner.compare import checks_of, compare
from planner.comparing import baseline
from planner.comparing.comparison import Comparison
from planner.comparing.history import History, history_of
from planner.comparing.run_facts import RunFacts, facts_of
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import Test, Verdict
from planner.thresholds import Gate, Judgement, Ruling

RULINGS: dict[Verdict, Ruling] = {Verdict.REGRESSED: "fail", Verdict.INCONCLUSIVE: "inconclusive"}
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
    first: Comparison | None = None

    @property
    def code(self) -> int:
        return EXIT_CODES.get(self.comparison.verdict, 0)


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
    if confirming is None or found.verdict is Verdict.REGRESSED:
        return Found(comparison=found, first=None if confirming is None else confirming.comparison)
    reason = f"{confirming.comparison.reason}; but fresh runs did not show it again: {found.reason}"
    unconfirmed = replace(
        found, verdict=Verdict.INCONCLUSIVE, reason=reason, headline=f"INCONCLUSIVE, not confirmed: {reason}"
    )
    return Found(comparison=unconfirmed, first=confirming.comparison)


def verdict(
    base: Path, new: Path, terms: Terms, *, confirm: Path | None, outputs: Outputs, as_json: bool, quiet: bool
) -> int:
    """Compare, tell, and return the exit code. A regression counts only if the runs of `confirm` show it too."""
    found = compared(base, new, terms)
    if confirm is not None and found.code == REGRESSED:
        found = compared(base, confirm, terms, confirming=found)
    tell(found, outputs, as_json=as_json, quiet=quiet)
    return found.code


def tell(found: Found, outputs: Outputs, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        sys.stdout.buffer.write(orjson.dumps(found.comparison, option=options))
        sys.stdout.flush()
    elif not quiet:
        print_comparison(found.comparison, Console())
    gating.tell(gate_of(found), outputs, quiet=True)


def gate_of(found: Found) -> Gate:
    """For JUnit, Markdown and GitHub: one judgement, of the new runs against the base's."""
    comparison = found.comparison
    subject = f"{', '.join(comparison.runs.new)} against {', '.join(comparison.runs.base)}"
    return gating.gate_of(
        [
            Judgement(
                subject=subject,
                verdict=RULINGS.get(comparison.verdict, "pass"),
                exit_code=found.code,
                headline=comparison.headline,
                reasons=(),
                checks=checks_of(comparison),
            )
        ]
    )


def _side(path: Path, terms: Terms) -> _Side:
    """The runs that a path names. Raises RunFolderError where it names none."""
    if path.is_file():
        return _Side(baseline.read(path).runs)
    if not path.exists():
        named = baseline.place_of(path.name, terms.baselines)
        if len(path.parts) == 1 and named.is_file():
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


def history(paths: Sequence[Path], terms: Terms, *, as_json: bool) -> int:
    """Change points over what the paths name, each of them a point; the folders within one that is no set each too."""
    points = [_side(path, terms).runs for path in _points(paths)]
    found: History = history_of(points, terms.tolerances)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        sys.stdout.flush()
    else:
        print_history(found, Console())
    return REGRESSED if terms.tolerances and found.slower_at_last else 0


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
        sys.stdout.buffer.write(baseline.to_json(found))
        return
    print_baseline(found, Console())


def show_all(folder: Path) -> None:
    print_baselines(baseline.all_in(folder), Console())
