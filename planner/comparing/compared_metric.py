"""One latency of two sides: the figures of their runs, the verdict, and that verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count
from statistics import fmean

from loadgen.errors import ConfigError
from planner.comparing.comparison import MetricComparison
from planner.comparing.exact import least_chance
from planner.comparing.figures import (
    ASSUMED_SPREAD,
    Figures,
    Test,
    session_variance,
    shift_of,
    spread_of,
    variance_of_a_run,
)
from planner.comparing.run_facts import RunFacts, Sides
from planner.comparing.sessions import in_turns, sessions_of
from planner.comparing.shifts import Shift
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import ALPHA, Verdict, detectable, floor_of, judge, runs_needed
from planner.quantiles import needed_samples

SIDES = ("BASE", "NEW")
LENGTH_BOUND = ("service_time", "response_time")  # they grow with the answer, however fast it comes


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the runs of two sides show of one figure; None: they cannot say."""

    figures: Figures | None
    measured: Shift | None = None
    slower: Shift | None = None  # at least: without what longer answers may have made of it
    faster: Shift | None = None  # at most: without what shorter answers may have
    missing: str | None = None  # the run that lacks it, and what it lacks

    @property
    def chances(self) -> tuple[float, float]:
        """Of so much slower, and so much faster, if nothing changed."""
        if self.slower is None or self.faster is None:
            return 1.0, 1.0
        return self.slower.p_slower, self.faster.p_faster


def evidence_of(
    sides: Sides, tolerance: Tolerance, lengths: tuple[float, float], *, test: Test, pairs: bool, asked: bool
) -> Evidence:
    """`lengths` are the logarithms by which answers may have been shorter (0 or less) and longer (0 or more).

    Raises ConfigError where some run has none of what is `asked` for.
    """
    missing = _missing(sides, tolerance)
    if missing is not None and asked:
        raise ConfigError(f"--fail-on {tolerance.name}: {missing}")
    figures = None if missing is not None else figures_of(sides, tolerance, in_turns_of_play=pairs or in_turns(*sides))
    if figures is None:
        return Evidence(figures=None, missing=missing)
    shorter, longer = lengths if tolerance.metric in LENGTH_BOUND else (0.0, 0.0)
    measured, slower, faster = (shift_of(figures.less(log), test=test, pairs=pairs) for log in (0.0, longer, shorter))
    return Evidence(figures=figures, measured=measured, slower=slower, faster=faster)


def _missing(sides: Sides, tolerance: Tolerance) -> str | None:
    for side, name in zip(sides, SIDES, strict=True):
        for run in side:
            if run.quantile(tolerance.metric, tolerance.percentile, tolerance.of) is None:
                kept = sorted({each.percentile for each in run.quantiles if each.metric == tolerance.metric})
                has_metric = tolerance.percentile not in kept and kept
                what = f"only {', '.join(f'p{each:g}' for each in kept)}" if has_metric else "no "
                what += "" if has_metric else f"{tolerance.name.rpartition('.')[0]} at all"
                return f"{run.name} of {name} has {what}"
    return None


def figures_of(sides: Sides, tolerance: Tolerance, *, in_turns_of_play: bool) -> Figures | None:
    """None where some run has too few samples for the percentile."""
    logs: list[tuple[float, ...]] = []
    errors: list[tuple[float | None, ...]] = []
    for side in sides:
        found = [run.quantile(tolerance.metric, tolerance.percentile, tolerance.of) for run in side]
        known = [each for each in found if each is not None and each.value_ms]
        if len(known) < len(side):
            return None
        logs.append(tuple(math.log(each.value_ms or 1.0) for each in known))
        errors.append(tuple(each.log_error for each in known))
    sessions = ((), ()) if in_turns_of_play else tuple(sessions_of(side) for side in sides)
    return Figures(
        base=logs[0],
        new=logs[1],
        base_errors=errors[0],
        new_errors=errors[1],
        base_sessions=sessions[0],
        new_sessions=sessions[1],
    )


def compare_metric(
    sides: Sides,
    tolerance: Tolerance,
    evidence: Evidence,
    *,
    p_slower: float,
    p_faster: float,
    compared: int,
    test: Test,
    pairs: bool,
) -> MetricComparison:
    """By chances that are corrected for the number of figures compared."""
    figures = evidence.figures
    row = _unknown(sides, tolerance, evidence)
    if figures is None or evidence.measured is None or evidence.slower is None:
        return row
    verdict = judge(
        evidence.slower,
        tolerance,
        p_slower=p_slower,
        p_faster=p_faster,
        one_run=figures.one_run,
        at_most=evidence.faster,
    )
    row = replace(
        row,
        verdict=verdict,
        floor_share=math.expm1(floor_of(evidence.slower, tolerance, one_run=figures.one_run)),
        ratio=math.exp(evidence.measured.value),
        low=finite(evidence.measured.low),
        high=finite(evidence.measured.high),
        most=finite(evidence.measured.most),
        p_slower=p_slower,
        p_faster=p_faster,
        detectable_share=_as_share(_found(figures, tolerance, compared, test=test, pairs=pairs)),
    )
    if verdict is Verdict.INCONCLUSIVE:
        needed = _needed(figures, evidence.measured, tolerance, compared, test=test, pairs=pairs)
        row = replace(row, runs_needed=needed)
    return replace(row, reason=_why(row, figures))


def _unknown(sides: Sides, tolerance: Tolerance, evidence: Evidence) -> MetricComparison:
    """What can be said before any judgement."""
    samples, figures = min(_n(run, tolerance) for side in sides for run in side), evidence.figures
    missing = evidence.missing and f"{tolerance.name}: {evidence.missing}"
    return MetricComparison(
        name=tolerance.name,
        verdict=Verdict.INCONCLUSIVE,
        reason=missing or _too_few(tolerance, samples),
        tolerance_share=tolerance.share,
        floor_share=tolerance.share / 2,
        base_ms=None if figures is None else math.exp(fmean(figures.base)),
        new_ms=None if figures is None else math.exp(fmean(figures.new)),
        ratio=None,
        low=None,
        high=None,
        most=None,
        p_slower=None,
        p_faster=None,
        spread_share=None if figures is None else _as_share(spread_of(figures)),
        detectable_share=None,
        runs_needed=None,
        fewest_samples=samples,
    )


def _n(run: RunFacts, tolerance: Tolerance) -> int:
    found = run.quantile(tolerance.metric, tolerance.percentile, tolerance.of)
    return 0 if found is None else found.n


def _found(figures: Figures, tolerance: Tolerance, compared: int, *, test: Test, pairs: bool) -> float | None:
    """The least slowdown that such runs show; of one run a side it has to stand out by far. None: none whatever."""
    spread = variance_of_a_run(figures, pairs=pairs)
    if figures.one_run:
        error = math.sqrt(spread * (1 / len(figures.base) + 1 / len(figures.new)))
        return tolerance.log + 2 * 1.645 * error
    if test is Test.RANKS and least_chance(len(figures.base), len(figures.new), pairs=pairs) * compared >= ALPHA:
        return None
    runs = 2 / (1 / len(figures.base) + 1 / len(figures.new))
    sessions, _ = (0.0, 0.0) if pairs else session_variance(figures)
    return detectable(spread, max(2.0, runs), tolerance, compared, pairs=pairs, sessions=sessions)


def _needed(
    figures: Figures, shift: Shift, tolerance: Tolerance, compared: int, *, test: Test, pairs: bool
) -> int | None:
    runs, spread = min(len(figures.base), len(figures.new)), variance_of_a_run(figures, pairs=pairs)
    needed = runs_needed(spread, shift.value, tolerance, compared, more_than=runs, pairs=pairs)
    if test is Test.WELCH or needed is None:
        return needed
    return max(needed, runs_for_ranks(compared, pairs=pairs))


def runs_for_ranks(compared: int, *, pairs: bool) -> int:
    """The fewest runs a side that could ring an alarm at all."""
    return next(runs for runs in count(2) if least_chance(runs, runs, pairs=pairs) * compared < ALPHA)


def finite(log: float) -> float | None:
    return math.exp(log) if math.isfinite(log) else None


def _as_share(log: float | None) -> float | None:
    return None if log is None or log > 50 else math.expm1(log)


def _too_few(tolerance: Tolerance, samples: int) -> str:
    needed = needed_samples(tolerance.percentile / 100)
    if samples >= needed:
        return f"{tolerance.name}: one run has too few samples to say how sure its figure is; make runs longer"
    return f"{tolerance.name}: a run has {samples:,} samples, and the percentile needs {needed}: make runs longer"


def _why(row: MetricComparison, figures: Figures) -> str:
    change = f"{row.name} {_change(row.ratio)}, between {_more(row.low)} and {_more(row.high)} at 95 %"
    match row.verdict:
        case Verdict.REGRESSED | Verdict.IMPROVED:
            return change
        case Verdict.EQUIVALENT:
            return f"{change}: at most {_more(row.most)}, within {_more(1 + row.tolerance_share)}"
    runs = "more than a thousand" if row.runs_needed is None else str(row.runs_needed)
    needed = f"{runs} runs a side{' in turns (headroom ab)' if figures.base_sessions else ''} would tell"
    if figures.one_run:
        return f"{change}, with a spread of {ASSUMED_SPREAD * 100:g} % between runs assumed; {needed}"
    within = _more(1 + row.tolerance_share)
    return f"{change}: neither a regression nor shown to be within {within}; {needed}"


def _change(ratio: float | None) -> str:
    if ratio is None:
        return "cannot be told"
    return f"is {abs(ratio - 1) * 100:.1f} % {'slower' if ratio >= 1 else 'faster'}"


def _more(ratio: float | None) -> str:
    return "any" if ratio is None else f"{(ratio - 1) * 100:+.1f} %"
