"""One latency of two sides: the figures of their runs, the verdict, and that verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, variance

from loadgen.errors import ConfigError
from planner.comparing.comparison import MetricComparison
from planner.comparing.run_facts import RunFacts
from planner.comparing.shifts import Shift
from planner.comparing.tolerance import Tolerance
from planner.comparing.verdict import ASSUMED_SPREAD, Figures, Verdict, detectable, judge, runs_needed, spread_of
from planner.quantiles import needed_samples

Sides = tuple[Sequence[RunFacts], Sequence[RunFacts]]


def figures_of(sides: Sides, tolerance: Tolerance) -> Figures | None:
    """None where some run has too few samples for the percentile. Raises ConfigError where one has none at all."""
    logs: list[tuple[float, ...]] = []
    errors: list[tuple[float | None, ...]] = []
    for side in sides:
        found = [run.quantile(tolerance.metric, tolerance.percentile) for run in side]
        if None in found:
            run = side[found.index(None)]
            kept = sorted({each.percentile for each in run.quantiles if each.metric == tolerance.metric})
            there = f"only {', '.join(f'p{each:g}' for each in kept)}" if kept else f"no {tolerance.metric} at all"
            raise ConfigError(f"--fail-on {tolerance.name}: the run {run.name} has {there}")
        known = [each for each in found if each is not None and each.value_ms]
        if len(known) < len(side):
            return None
        logs.append(tuple(math.log(each.value_ms or 1.0) for each in known))
        errors.append(tuple(each.log_error for each in known))
    return Figures(base=logs[0], new=logs[1], base_errors=errors[0], new_errors=errors[1])


def compare_metric(
    sides: Sides,
    tolerance: Tolerance,
    figures: Figures | None,
    shift: Shift | None,
    *,
    p_slower: float,
    p_faster: float,
    compared: int,
    pairs: bool,
) -> MetricComparison:
    samples = min(_n(run, tolerance) for side in sides for run in side)
    row = MetricComparison(
        name=tolerance.name,
        verdict=Verdict.INCONCLUSIVE,
        reason=_too_few(tolerance, samples),
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
    if figures is None or shift is None:
        return row
    spread = _variance_of_a_run(figures, pairs=pairs)
    runs = min(len(figures.base), len(figures.new))
    verdict = judge(shift, tolerance, p_slower=p_slower, p_faster=p_faster, one_run=figures.one_run)
    needed = None
    if verdict is Verdict.INCONCLUSIVE:
        needed = runs_needed(spread, shift.value, tolerance, compared, more_than=runs, pairs=pairs)
    row = replace(
        row,
        verdict=verdict,
        ratio=math.exp(shift.value),
        low=finite(shift.low),
        high=finite(shift.high),
        most=finite(shift.most),
        p_slower=p_slower,
        p_faster=p_faster,
        detectable_share=_as_share(_found(spread, figures, tolerance, compared, pairs=pairs)),
        runs_needed=needed,
    )
    return replace(row, reason=_why(row, one_run=figures.one_run))


def _n(run: RunFacts, tolerance: Tolerance) -> int:
    found = run.quantile(tolerance.metric, tolerance.percentile)
    return 0 if found is None else found.n


def _variance_of_a_run(figures: Figures, *, pairs: bool) -> float:
    """Of one run's figure, of pairs that of a difference; where runs do not show it, by what is assumed of them."""
    if figures.one_run:
        errors = [error**2 for error in (*figures.base_errors, *figures.new_errors) if error is not None]
        return max(ASSUMED_SPREAD, spread_of(figures) or 0.0) ** 2 + (fmean(errors) if errors else 0.0)
    if pairs:
        return variance([b - a for a, b in zip(figures.base, figures.new, strict=True)])
    return fmean([variance(figures.base), variance(figures.new)])


def _found(spread: float, figures: Figures, tolerance: Tolerance, compared: int, *, pairs: bool) -> float | None:
    """The least slowdown that such runs show; of one run a side it has to stand out by far."""
    if figures.one_run:
        error = math.sqrt(spread * (1 / len(figures.base) + 1 / len(figures.new)))
        return tolerance.log + 2 * 1.645 * error
    runs = 2 / (1 / len(figures.base) + 1 / len(figures.new))
    return detectable(spread, max(2.0, runs), tolerance, compared, pairs=pairs)


def finite(log: float) -> float | None:
    return math.exp(log) if math.isfinite(log) else None


def _as_share(log: float | None) -> float | None:
    return None if log is None or log > 50 else math.expm1(log)


def _too_few(tolerance: Tolerance, samples: int) -> str:
    needed = needed_samples(tolerance.percentile / 100)
    if samples >= needed:
        return f"{tolerance.name}: one run has too few samples to say how sure its figure is; make runs longer"
    return f"{tolerance.name}: a run has {samples:,} samples, and the percentile needs {needed}: make runs longer"


def _why(row: MetricComparison, *, one_run: bool) -> str:
    change = f"{row.name} {_change(row.ratio)}, between {_more(row.low)} and {_more(row.high)} at 95 %"
    match row.verdict:
        case Verdict.REGRESSED | Verdict.IMPROVED:
            return change
        case Verdict.EQUIVALENT:
            return f"{change}: at most {_more(row.most)}, within {_more(1 + row.tolerance_share)}"
    needed = f"{row.runs_needed} runs" if row.runs_needed is not None else "more than a thousand runs"
    if one_run:
        return f"{change}, with a spread of {ASSUMED_SPREAD * 100:g} % between runs assumed; {needed} a side would tell"
    within = _more(1 + row.tolerance_share)
    return f"{change}: neither a regression nor shown to be within {within}; {needed} a side would tell"


def _change(ratio: float | None) -> str:
    if ratio is None:
        return "cannot be told"
    return f"is {abs(ratio - 1) * 100:.1f} % {'slower' if ratio >= 1 else 'faster'}"


def _more(ratio: float | None) -> str:
    return "any" if ratio is None else f"{(ratio - 1) * 100:+.1f} %"
